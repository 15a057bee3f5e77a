//! What one model's traffic teaches. Each key has a voice: factors fitted to its own requests. A key with a voice of some
//! length is estimated by that, and everybody else by the median over the voices and the table, each of which counts once,
//! however many requests it makes: no one key can move what holds for another.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{
    DEFAULT_OUTPUT,
    figures::{Figures, Fitted, Priors, by_length},
    fit::Fit,
    key_tag::KeyTag,
    makeup::{ANSWER, Answer, PROMPT, Prompt, real, whole},
    outputs::{Crowd, Outputs},
    template::Family,
};
use crate::api::Endpoint;

/// What one model's traffic teaches. Reading takes no lock.
#[derive(Debug)]
pub struct Learned {
    family: &'static Family,
    /// What holds for keys that have no voice.
    shared: Published,
    /// What holds for those that have one, at the places of their voices.
    own: Box<[Own]>,
    voices: Mutex<Voices>,
}

/// What a request that ended teaches, by counts that its upstream stated.
#[derive(Clone, Copy, Debug)]
pub struct Lesson {
    /// Whose request it was.
    pub key: KeyTag,
    /// Its prompt, the bytes of its prose and its JSON, and its tokens, cached ones included.
    pub prompt: Option<(Prompt, [u64; 2], u64)>,
    /// The tokens of one answer.
    pub output: Option<u64>,
}

/// Keys that have a voice.
const MOST_VOICES: usize = 16;
/// A voice that was not heard for so many lessons of others may be replaced,
const SILENT: u64 = 1024;
/// and one that taught little sooner: for so many times its own lessons.
const SILENT_FOR_EACH: u64 = 128;
/// The first outputs of a voice go to the crowd, and later one in so many.
const CROWDED: u32 = 8;
const CROWDED_LATER: u32 = 16;
/// So many lessons make a voice that its key is estimated by.
const ENOUGH: u32 = 8;
/// The first lessons are all learned, and later one in so many.
const FIRST: u32 = 64;
const LATER: u32 = 8;
/// So many texts are tokenized to learn from, and then ever fewer.
const COUNTED: u32 = 12;
/// From here on a model is known, and only a change is to be noticed: of so many texts one is tokenized.
const KNOWN: u32 = 1024;
const COUNTED_OF_KNOWN: u32 = 256;
/// What most voices say is found anew with each of so many lessons, and later with one in so many: to compare them takes as long
/// as reading an answer.
const COMPARED: u64 = 256;
const COMPARED_LATER: u64 = 16;
/// Larger counts are no prompt's and no answer's.
const MOST_TOKENS: u64 = 1 << 24;

#[derive(Debug, Default)]
struct Voices {
    all: Vec<Voice>,
    /// What the keys say together, those without a voice among them.
    crowd: Crowd,
    /// How many lessons there were.
    lessons: u64,
    /// Whether a voice says something that the others were not compared with yet.
    has_news: bool,
}

#[derive(Debug)]
struct Voice {
    key: KeyTag,
    /// When it was heard last.
    heard: u64,
    lessons: u32,
    by_length: Fit<PROMPT>,
    lengths: u32,
    by_tokens: Fit<PROMPT>,
    prompts: u32,
    answer: Fit<ANSWER>,
    answers: u32,
    outputs: Outputs,
}

impl Learned {
    /// Nothing beyond what the table says of a model.
    #[must_use]
    pub fn new(model: &str) -> Self {
        let family = Family::of(model);
        let own = std::iter::repeat_with(|| Own::new(family)).take(MOST_VOICES).collect();
        Self { family, shared: Published::new(family), own, voices: Mutex::default() }
    }

    /// What holds for requests of a key.
    #[must_use]
    pub fn figures(&self, key: KeyTag) -> Figures {
        let mut figures = self.shared.read(self.family);
        if let Some(own) = self.own.iter().find(|own| own.key.load(Ordering::Relaxed) == key.number()) {
            own.published.add_to(&mut figures, own.known.load(Ordering::Relaxed));
        }
        figures
    }

    /// Learns from a request that ended. Says whether its texts should be tokenized, to learn from them too: that takes
    /// time, so the first are, and some of the later ones.
    #[must_use]
    pub fn learn(&self, lesson: &Lesson) -> bool {
        let mut voices = self.voices.lock();
        let heard = voices.hear(lesson.key, self.family);
        let is_crowd_news = voices.tell_crowd(lesson, heard);
        if is_crowd_news || (voices.has_news && voices.are_compared()) {
            self.publish_shared(&mut voices);
        }
        let Some(at) = heard else { return false };
        let Some(voice) = voices.all.get_mut(at) else { return false };
        let is_due = voice.lessons <= FIRST || voice.lessons.is_multiple_of(LATER);
        let mut is_news = lesson.output.is_some_and(|output| voice.outputs.push(output));
        if let Some((prompt, [prose, json], tokens)) = lesson.prompt.filter(|_| is_due).filter(is_plausible) {
            let parts = prompt.parts(self.family, by_length(prose), by_length(json));
            voice.by_length.learn(&Priors::of(self.family).by_length, &parts, real(tokens));
            voice.lengths = voice.lengths.saturating_add(1);
            is_news = true;
        }
        let wants_tokens = voice.wants_tokens();
        if is_news {
            self.publish(&mut voices, at);
        }
        wants_tokens
    }

    /// Learns from a prompt in whose prose and JSON `o200k_base` finds so many tokens, and its stated ones.
    pub fn learn_prompt(&self, key: KeyTag, prompt: &Prompt, [prose, json]: [u64; 2], tokens: u64) {
        if tokens == 0 || tokens > MOST_TOKENS || prose.max(json) > MOST_TOKENS {
            return;
        }
        let parts = prompt.parts(self.family, real(prose), real(json));
        self.update(key, |voice| {
            voice.by_tokens.learn(&Priors::of(self.family).by_tokens, &parts, real(tokens));
            voice.prompts = voice.prompts.saturating_add(1);
        });
    }

    /// Learns from an answer that was delivered whole, and its stated tokens.
    pub fn learn_answer(&self, key: KeyTag, answer: &Answer, endpoint: Endpoint, tokens: u64) {
        if tokens == 0 || tokens > MOST_TOKENS || answer.prose.max(answer.json) > MOST_TOKENS || !answer.is_whole {
            return;
        }
        let parts = answer.parts(self.family, endpoint);
        self.update(key, |voice| {
            voice.answer.learn(&Priors::of(self.family).answer, &parts, real(tokens));
            voice.answers = voice.answers.saturating_add(1);
        });
    }

    fn update(&self, key: KeyTag, learn: impl FnOnce(&mut Voice)) {
        let mut voices = self.voices.lock();
        let Some(at) = voices.all.iter().position(|voice| voice.key == key) else { return };
        if let Some(voice) = voices.all.get_mut(at) {
            learn(voice);
        }
        self.publish(&mut voices, at);
    }

    /// Makes known what a voice says, and what most do.
    fn publish(&self, voices: &mut Voices, at: usize) {
        let Some((voice, own)) = voices.all.get(at).zip(self.own.get(at)) else { return };
        own.key.store(voice.key.number(), Ordering::Relaxed);
        own.published.write(&voice.fitted(), voice.outputs.expected().map_or(DEFAULT_OUTPUT, u64::from));
        own.known.store(voice.known(), Ordering::Relaxed);
        voices.has_news = true;
        if voices.are_compared() {
            self.publish_shared(voices);
        }
    }

    fn publish_shared(&self, voices: &mut Voices) {
        voices.has_news = false;
        self.shared.write(&voices.median(Priors::of(self.family)), voices.expected_output());
    }
}

impl Voices {
    /// Where the voice of a key is, which is a new one if there is room.
    fn hear(&mut self, key: KeyTag, family: &Family) -> Option<usize> {
        self.lessons += 1;
        let at = match self.all.iter().position(|voice| voice.key == key) {
            Some(at) => at,
            None if self.all.len() < MOST_VOICES => {
                self.all.push(Voice::new(key, family));
                self.all.len() - 1
            }
            None => {
                let lessons = self.lessons;
                let silent = self.all.iter_mut().enumerate().filter(|(_, voice)| voice.is_silent(lessons));
                let (at, voice) = silent.min_by_key(|(_, voice)| voice.heard)?;
                *voice = Voice::new(key, family);
                at
            }
        };
        let voice = self.all.get_mut(at)?;
        voice.heard = self.lessons;
        voice.lessons = voice.lessons.saturating_add(1);
        Some(at)
    }

    /// Whether it is time to find what most voices say.
    fn are_compared(&self) -> bool {
        self.lessons <= COMPARED || self.lessons.is_multiple_of(COMPARED_LATER)
    }

    /// Tells the crowd what a key's answer took, which has its voice `at` that place or none. Says whether that changes what
    /// the crowd says.
    fn tell_crowd(&mut self, lesson: &Lesson, at: Option<usize>) -> bool {
        let lessons = at.and_then(|at| self.all.get(at)).map_or(0, |voice| voice.lessons);
        // Keys without a voice are as many as there are: of a crowd that is full, some are heard.
        let is_due = match lessons {
            0 => !self.crowd.is_full() || self.lessons.is_multiple_of(CROWDED_LATER.into()),
            lessons => lessons <= CROWDED || lessons.is_multiple_of(CROWDED_LATER),
        };
        lesson.output.filter(|_| is_due).is_some_and(|output| self.crowd.push(lesson.key, output))
    }

    /// What most voices say, the table's among them.
    fn median(&self, priors: &Priors) -> Fitted {
        let taught = |is_taught: fn(&&Voice) -> bool| self.all.iter().filter(is_taught);
        Fitted {
            by_tokens: medians(
                priors.by_tokens.values,
                &taught(|voice| voice.prompts > 0).map(|voice| &voice.by_tokens),
            ),
            by_length: medians(
                priors.by_length.values,
                &taught(|voice| voice.lengths > 0).map(|voice| &voice.by_length),
            ),
            answer: medians(priors.answer.values, &taught(|voice| voice.answers > 0).map(|voice| &voice.answer)),
        }
    }

    fn expected_output(&self) -> u64 {
        let percentiles = self.all.iter().filter_map(|voice| voice.outputs.percentile());
        let of_crowd = self.crowd.expected().map_or(DEFAULT_OUTPUT, u64::from);
        // Both are below 2^53.
        whole(median(real(of_crowd), percentiles.map(f64::from)))
    }
}

/// The medians of each factor.
fn medians<'a, const N: usize>(table: [f64; N], fits: &(impl Iterator<Item = &'a Fit<N>> + Clone)) -> [f64; N] {
    let mut at = 0;
    table.map(|table| {
        let values = fits.clone().filter_map(|fit| fit.values().get(at).copied());
        let median = median(table, values);
        at += 1;
        median
    })
}

/// The median of what the table says and what others do; of two in the middle, the one that is nearer to the table's. So it
/// is the table's where there is one other.
fn median(table: f64, others: impl Iterator<Item = f64>) -> f64 {
    let mut values = [table; MOST_VOICES + 1];
    let mut count = 1;
    for (place, other) in values.iter_mut().skip(1).zip(others) {
        *place = other;
        count += 1;
    }
    let values = values.get_mut(..count).unwrap_or_default();
    values.sort_unstable_by(f64::total_cmp);
    let middle = |at: usize| values.get(at).copied().unwrap_or(table);
    let (lower, upper) = (middle((count - 1) / 2), middle(count / 2));
    if (lower - table).abs() <= (upper - table).abs() { lower } else { upper }
}

impl Voice {
    fn new(key: KeyTag, family: &Family) -> Self {
        let priors = Priors::of(family);
        Self {
            key,
            heard: 0,
            lessons: 0,
            by_length: Fit::new(&priors.by_length),
            lengths: 0,
            by_tokens: Fit::new(&priors.by_tokens),
            prompts: 0,
            answer: Fit::new(&priors.answer),
            answers: 0,
            outputs: Outputs::default(),
        }
    }

    /// Whether another may have its place when there were so many lessons.
    fn is_silent(&self, lessons: u64) -> bool {
        let patience = SILENT.min(SILENT_FOR_EACH * u64::from(self.lessons));
        lessons - self.heard > patience
    }

    /// Whether the next text should be tokenized: it costs as much as the rest of a request, and a model with many keys has
    /// many voices that begin. Each says less than the one before.
    fn wants_tokens(&self) -> bool {
        let lessons = self.lessons;
        let is_spaced = lessons.is_power_of_two() || lessons.is_multiple_of(3) && (lessons / 3).is_power_of_two();
        lessons <= COUNTED || (if lessons <= KNOWN { is_spaced } else { lessons.is_multiple_of(COUNTED_OF_KNOWN) })
    }

    fn fitted(&self) -> Fitted {
        Fitted { by_tokens: self.by_tokens.values(), by_length: self.by_length.values(), answer: self.answer.values() }
    }

    /// What of it is known well enough for its key.
    fn known(&self) -> u32 {
        let well = |bit: u32, is_known: bool| if is_known { bit } else { 0 };
        well(BY_TOKENS, self.prompts >= ENOUGH)
            | well(BY_LENGTH, self.lengths >= ENOUGH)
            | well(ANSWERS, self.answers >= ENOUGH)
            | well(OUTPUT, self.outputs.expected().is_some())
    }
}

/// What of the published figures holds.
const BY_TOKENS: u32 = 1;
const BY_LENGTH: u32 = 2;
const ANSWERS: u32 = 4;
const OUTPUT: u32 = 8;
const ALL: u32 = BY_TOKENS | BY_LENGTH | ANSWERS | OUTPUT;

/// The figures of one voice.
#[derive(Debug)]
struct Own {
    /// 0: of none.
    key: AtomicU64,
    known: AtomicU32,
    published: Published,
}

impl Own {
    fn new(family: &Family) -> Self {
        Self { key: AtomicU64::new(0), known: AtomicU32::new(0), published: Published::new(family) }
    }
}

/// Figures that are read while they are written: each factor by itself is one that was fitted, and those of two moments
/// differ by little.
#[derive(Debug)]
struct Published {
    by_tokens: [AtomicU64; PROMPT],
    by_length: [AtomicU64; PROMPT],
    answer: [AtomicU64; ANSWER],
    expected_output: AtomicU64,
}

impl Published {
    fn new(family: &Family) -> Self {
        let Fitted { by_tokens, by_length, answer } = Priors::of(family).fitted();
        Self {
            by_tokens: by_tokens.map(|value| AtomicU64::new(value.to_bits())),
            by_length: by_length.map(|value| AtomicU64::new(value.to_bits())),
            answer: answer.map(|value| AtomicU64::new(value.to_bits())),
            expected_output: AtomicU64::new(DEFAULT_OUTPUT),
        }
    }

    fn write(&self, fitted: &Fitted, expected_output: u64) {
        write(&self.by_tokens, &fitted.by_tokens);
        write(&self.by_length, &fitted.by_length);
        write(&self.answer, &fitted.answer);
        self.expected_output.store(expected_output, Ordering::Relaxed);
    }

    fn read(&self, family: &'static Family) -> Figures {
        let mut figures = Figures::of_family(family);
        self.add_to(&mut figures, ALL);
        figures
    }

    /// Puts in what is known.
    fn add_to(&self, figures: &mut Figures, known: u32) {
        if known & BY_TOKENS != 0 {
            read(&self.by_tokens, &mut figures.fitted.by_tokens);
        }
        if known & BY_LENGTH != 0 {
            read(&self.by_length, &mut figures.fitted.by_length);
        }
        if known & ANSWERS != 0 {
            read(&self.answer, &mut figures.fitted.answer);
        }
        if known & OUTPUT != 0 {
            figures.expected_output = self.expected_output.load(Ordering::Relaxed);
        }
    }
}

fn write(places: &[AtomicU64], values: &[f64]) {
    places.iter().zip(values).for_each(|(place, value)| place.store(value.to_bits(), Ordering::Relaxed));
}

fn read(places: &[AtomicU64], values: &mut [f64]) {
    places.iter().zip(values).for_each(|(place, value)| *value = f64::from_bits(place.load(Ordering::Relaxed)));
}

/// A prompt of nothing, or larger than any, teaches nothing.
fn is_plausible((_, [prose, json], tokens): &(Prompt, [u64; 2], u64)) -> bool {
    (1..=MOST_TOKENS).contains(tokens) && *prose.max(json) <= 16 * MOST_TOKENS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::body::Outline;

    const ADA: KeyTag = tag(1);
    const BOB: KeyTag = tag(2);
    const EVE: KeyTag = tag(3);

    const fn tag(number: u64) -> KeyTag {
        KeyTag::from_number(number)
    }

    /// A chat of one message.
    fn chat() -> Prompt {
        Prompt::new(Endpoint::ChatCompletions, &Outline { messages: 1, ..Outline::default() })
    }

    /// A request of `key` whose prompt of `bytes` bytes took so many tokens, and its answer so many.
    fn ends(learned: &Learned, key: KeyTag, bytes: u64, tokens: u64, output: u64) {
        let lesson = Lesson { key, prompt: Some((chat(), [bytes, 0], tokens)), output: Some(output) };
        if learned.learn(&lesson) {
            learned.learn_prompt(key, &chat(), [bytes / 4, 0], tokens);
            let answer = Answer { prose: output, is_whole: true, ..Answer::default() };
            learned.learn_answer(key, &answer, Endpoint::ChatCompletions, output);
        }
    }

    /// What is reserved for a request of `key` with a prompt of 4,000 bytes, what such a prompt is charged, and what an answer
    /// of 100 tokens is.
    fn estimates(learned: &Learned, key: KeyTag) -> [u64; 4] {
        let figures = learned.figures(key);
        let answer = Answer { prose: 100, is_whole: true, ..Answer::default() };
        [
            figures.prompt_by_length(&chat(), 4000, 0),
            figures.expected_output(),
            figures.prompt(&chat(), 1000, 0),
            figures.answer(&answer, Endpoint::ChatCompletions),
        ]
    }

    #[test]
    fn a_new_model_is_as_the_table_says() {
        let learned = Learned::new("m");
        assert_eq!(estimates(&learned, ADA), [1007, 1024, 1007, 100]);
    }

    #[test]
    fn twenty_answers_teach_a_keys_own_figures() {
        let learned = Learned::new("m");
        (0..20).for_each(|round| ends(&learned, ADA, 800 + 40 * round, 300 + 15 * round, 50));
        let [by_length, output, by_tokens, _] = estimates(&learned, ADA);
        assert!((1400..1600).contains(&by_length) && (1400..1600).contains(&by_tokens), "{by_length}, {by_tokens}");
        assert_eq!(output, 50);
    }

    #[test]
    fn no_keys_odd_requests_change_what_holds_for_another() {
        let learned = Learned::new("m");
        let first = estimates(&learned, BOB);
        for (bytes, tokens, output) in [(4000, 4000, 100_000), (4000, 63, 1), (1, 1 << 23, 1), (1 << 23, 1, 1 << 40)] {
            (0..10_000).for_each(|_| ends(&learned, EVE, bytes, tokens, output));
            assert_eq!(estimates(&learned, BOB), first, "{bytes} bytes, {tokens} tokens");
        }
        (0..30).for_each(|_| ends(&learned, BOB, 4000, 1200, 70));
        let taught = estimates(&learned, BOB);
        (0..10_000).for_each(|_| ends(&learned, EVE, 4000, 4000, 1 << 40));
        assert_eq!(estimates(&learned, BOB), taught, "nor what it has taught itself");
    }

    #[test]
    fn most_keys_teach_those_that_are_new_and_one_odd_one_among_them_nothing() {
        let learned = Learned::new("m");
        for key in 10..15 {
            (0..30).for_each(|_| ends(&learned, tag(key), 4000, 1500, 70));
        }
        let [by_length, output, by_tokens, _] = estimates(&learned, ADA);
        assert!((1400..=1600).contains(&by_length) && (1400..=1600).contains(&by_tokens), "{by_length}, {by_tokens}");
        assert_eq!(output, 70);
        (0..10_000).for_each(|_| ends(&learned, EVE, 4000, 4000, 1 << 30));
        assert!(estimates(&learned, ADA)[0].abs_diff(by_length) * 20 < by_length);
        assert_eq!(estimates(&learned, ADA)[1], output);
    }

    #[test]
    fn voices_are_few_and_a_silent_one_makes_room() {
        let learned = Learned::new("m");
        for round in 0..30 {
            (0..100).for_each(|key| ends(&learned, tag(1 + key), 4000, 1500, 70 + round));
        }
        assert_eq!(learned.voices.lock().all.len(), MOST_VOICES);
        assert_eq!(estimates(&learned, tag(1))[1], 88, "those that came first have stayed: the 19th of 20");
        assert_eq!(estimates(&learned, tag(100))[1], 88, "and speak for the others");
        (0..1100).for_each(|_| ends(&learned, tag(5), 4000, 1500, 70));
        (0..20).for_each(|_| ends(&learned, tag(99), 4000, 1500, 700));
        assert_eq!(estimates(&learned, tag(99))[1], 700);
        assert_eq!(learned.voices.lock().all.len(), MOST_VOICES);
    }

    #[test]
    fn keys_that_come_once_hold_no_voice_for_long() {
        let learned = Learned::new("m");
        (10..26).for_each(|key| ends(&learned, tag(key), 4000, 1500, 40));
        assert_eq!(learned.voices.lock().all.len(), MOST_VOICES);
        (0..150).for_each(|_| ends(&learned, ADA, 4000, 1500, 3000));
        assert_eq!(estimates(&learned, ADA)[1], 3000);
    }

    #[test]
    fn many_keys_with_one_answer_each_say_what_is_to_be_expected() {
        let learned = Learned::new("m");
        (10..35).for_each(|key| ends(&learned, tag(key), 4000, 1500, 40));
        assert_eq!(estimates(&learned, ADA)[1], 40);
        (0..1000).for_each(|_| ends(&learned, EVE, 4000, 1500, 100_000));
        assert_eq!(estimates(&learned, ADA)[1], 40, "and one key changes nothing");
        (0..30).for_each(|_| ends(&learned, BOB, 4000, 1500, 500));
        assert_eq!(estimates(&learned, BOB)[1], 500);
    }

    #[test]
    fn few_texts_are_tokenized_to_learn_from() {
        let learned = Learned::new("m");
        let lesson = Lesson { key: ADA, prompt: None, output: Some(1) };
        let counted: Vec<_> = (1..=1024).filter(|_| learned.learn(&lesson)).collect();
        assert_eq!(counted[..12], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(counted[12..], [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]);
        assert_eq!((0..2560).filter(|_| learned.learn(&lesson)).count(), 10, "of a model that is known");
    }

    #[test]
    fn of_two_in_the_middle_the_tables_neighbour_is_the_median() {
        let of = |others: &[f64]| median(1.0, others.iter().copied()).to_bits();
        for (others, expected) in
            [(&[][..], 1.0), (&[9.0], 1.0), (&[0.5], 1.0), (&[9.0, 3.0], 3.0), (&[9.0, 3.0, 2.0], 2.0)]
        {
            assert_eq!(of(others), f64::to_bits(expected), "{others:?}");
        }
    }

    fn any_request() -> impl Strategy<Value = (u64, u64, u64, u64)> {
        (1_u64..24, prop_oneof![0_u64..10_000, any::<u64>()], prop_oneof![0_u64..10_000, any::<u64>()], any::<u64>())
    }

    proptest! {
        #[test]
        fn whatever_one_key_sends_the_others_are_estimated_alike(
            ordinary in prop::collection::vec(1_u64..8, 0..120), odd in prop::collection::vec(any_request(), 0..60),
        ) {
            let (with, without) = (Learned::new("gpt-4o"), Learned::new("gpt-4o"));
            let mut odd = odd.into_iter();
            for key in ordinary {
                ends(&with, tag(key), 4000, 1000 + key, 50 + key);
                ends(&without, tag(key), 4000, 1000 + key, 50 + key);
                if let Some((_, bytes, tokens, output)) = odd.next() {
                    ends(&with, tag(100), bytes, tokens, output);
                }
            }
            for key in 1..10 {
                for (one, other) in estimates(&with, tag(key)).into_iter().zip(estimates(&without, tag(key))) {
                    // The median of what others say may be another's, who says nearly the same; or still the table's.
                    let bound = one.max(other) <= 1024 || one.abs_diff(other) * 20 <= one.max(other);
                    prop_assert!(bound, "{one} instead of {other}");
                }
            }
        }

        #[test]
        fn the_same_requests_teach_the_same(requests in prop::collection::vec(any_request(), 0..200)) {
            let (one, other) = (Learned::new("claude-sonnet-4-5"), Learned::new("claude-sonnet-4-5"));
            for (key, bytes, tokens, output) in requests {
                ends(&one, tag(key), bytes, tokens, output);
                ends(&other, tag(key), bytes, tokens, output);
            }
            for key in 1..24 {
                prop_assert_eq!(one.figures(tag(key)), other.figures(tag(key)));
            }
            prop_assert!(one.voices.lock().all.len() <= MOST_VOICES);
        }
    }
}
