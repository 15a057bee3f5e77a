//! What a model's recent traffic teaches about its next request: how many tokens a byte of
//! prompt takes, and how long its answers are, so that no tokenizer runs before a request does; and
//! how its tokens compare with those of the one tokenizer that is here, where that has to stand in.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};

/// What one model's recent traffic teaches. Reading takes no lock.
#[derive(Debug)]
pub struct Learned {
    expected_output: AtomicU64,
    /// Tokens for a byte of prompt, in units of 1 / `ONE`.
    ratio: AtomicU64,
    /// The model's tokens for one of `o200k_base`, in units of 1 / `ONE`.
    vocabulary: AtomicU64,
    /// How many prompts there were to learn the vocabulary from.
    prompts: AtomicU64,
    outputs: Mutex<Outputs>,
}

/// The output expected of a model before 20 of its answers are known, in tokens.
pub const DEFAULT_OUTPUT: u64 = 1024;

const ONE: u64 = 1 << 20;
/// English takes a token for about 4 bytes.
const FIRST_RATIO: u64 = ONE / 4;
/// No text takes more than a token for a byte; less than one for 64 is no text, and says little
/// of the next prompt.
const RATIOS: (u64, u64) = (ONE / 64, ONE);
/// How much of the difference one request corrects: a sixteenth.
const CORRECTION_SHIFT: u32 = 4;

/// A prompt moves the vocabulary's ratio by so much, towards its own if that is further away than
/// twice as much: the ratio comes to be the median, which one odd prompt does not move far.
const VOCABULARY_STEP: u64 = ONE / 64;
/// The ratios of vocabularies in use. A prompt beyond had something added to it, or left out.
const VOCABULARIES: (u64, u64) = (ONE / 2, 3 * ONE);
/// In shorter texts a token more or less says too little.
const LONG_ENOUGH: u64 = 64;
/// So many prompts are counted to learn from, and one in so many after them.
const COUNTED: u64 = 64;
const COUNTED_LATER: u64 = 16;
/// From here on a model is known, and only a change is to be noticed.
const KNOWN: u64 = 1024;
const COUNTED_OF_KNOWN: u64 = 256;

impl Learned {
    /// The 95th percentile of the last 256 outputs, in tokens; 1024 before there are 20.
    #[must_use]
    pub fn expected_output(&self) -> u64 {
        self.expected_output.load(Ordering::Relaxed)
    }

    /// The tokens that a prompt of `bytes` bytes takes, rounded up, by what the model's prompts
    /// lately took for a byte: at first 1 for 4 bytes, never more than 1 or less than 1 for 64.
    #[must_use]
    pub fn estimate_prompt(&self, bytes: u64) -> u64 {
        let tokens = (u128::from(bytes) * u128::from(self.ratio.load(Ordering::Relaxed))).div_ceil(u128::from(ONE));
        u64::try_from(tokens).unwrap_or(u64::MAX)
    }

    /// Tokens of this model for so many that `o200k_base` finds in a text, rounded down: at first
    /// as many.
    #[must_use]
    pub fn own_tokens(&self, found: u64) -> u64 {
        let vocabulary = self.vocabulary.load(Ordering::Relaxed);
        let own = u128::from(found) * u128::from(vocabulary) / u128::from(ONE);
        u64::try_from(own).unwrap_or(u64::MAX)
    }

    /// Whether the text of the next prompt should be counted, to learn from. Counting takes time:
    /// the first prompts are, and some of the later ones.
    #[must_use]
    pub fn wants_count(&self) -> bool {
        let prompts = self.prompts.fetch_add(1, Ordering::Relaxed);
        let every = if prompts < KNOWN { COUNTED_LATER } else { COUNTED_OF_KNOWN };
        prompts < COUNTED || prompts.is_multiple_of(every)
    }

    /// Learns from a prompt of text alone: the tokens that `o200k_base` finds in it, and those that
    /// its upstream states for it.
    pub fn record_vocabulary(&self, found: u64, stated: u64) {
        let sample = u128::from(stated) * u128::from(ONE) / u128::from(found.max(1));
        let sample = u64::try_from(sample).unwrap_or(u64::MAX);
        let (least, most) = VOCABULARIES;
        if found < LONG_ENOUGH || !(least..=most).contains(&sample) {
            return;
        }
        let towards = |vocabulary: u64| match sample {
            _ if sample > vocabulary + 2 * VOCABULARY_STEP => Some(vocabulary + VOCABULARY_STEP),
            _ if sample < vocabulary - 2 * VOCABULARY_STEP => Some(vocabulary - VOCABULARY_STEP),
            _ => None,
        };
        let _ = self.vocabulary.fetch_update(Ordering::Relaxed, Ordering::Relaxed, towards);
    }

    /// Learns from a request that ended: the bytes of its prompt and the tokens they took, cached
    /// ones included, and the tokens of one answer; each where it is known.
    pub fn record(&self, prompt: Option<(u64, u64)>, output: Option<u64>) {
        // The lock also keeps two corrections of the ratio from undoing each other.
        let mut outputs = self.outputs.lock();
        if let Some(percentile) = output.and_then(|tokens| outputs.push(tokens)) {
            self.expected_output.store(percentile, Ordering::Relaxed);
        }
        if let Some(sample) = prompt.and_then(|(bytes, tokens)| ratio(bytes, tokens)) {
            let ratio = self.ratio.load(Ordering::Relaxed);
            let corrected = ratio - (ratio >> CORRECTION_SHIFT) + (sample >> CORRECTION_SHIFT);
            self.ratio.store(corrected, Ordering::Relaxed);
        }
    }
}

impl Default for Learned {
    fn default() -> Self {
        Self {
            expected_output: AtomicU64::new(DEFAULT_OUTPUT),
            ratio: AtomicU64::new(FIRST_RATIO),
            vocabulary: AtomicU64::new(ONE),
            prompts: AtomicU64::new(0),
            outputs: Mutex::default(),
        }
    }
}

/// Tokens for a byte, within bounds, so that no odd request spoils the average. A prompt of
/// nothing teaches nothing.
fn ratio(bytes: u64, tokens: u64) -> Option<u64> {
    let ratio = (u128::from(tokens) * u128::from(ONE)).checked_div(u128::from(bytes))?;
    let (least, most) = RATIOS;
    (tokens > 0).then(|| u64::try_from(ratio).unwrap_or(most).clamp(least, most))
}

/// The last outputs, of which every 16th makes the percentile be found anew.
#[derive(Debug, Default)]
struct Outputs {
    ring: Vec<u32>,
    next: usize,
    unseen: usize,
}

const RING: usize = 256;
const ENOUGH: usize = 20;
const EVERY: usize = 16;

impl Outputs {
    /// Takes in one output, and returns the percentile if it was found anew.
    fn push(&mut self, output: u64) -> Option<u64> {
        let output = u32::try_from(output).unwrap_or(u32::MAX);
        match self.ring.get_mut(self.next) {
            Some(oldest) => *oldest = output,
            None => self.ring.push(output),
        }
        self.next = (self.next + 1) % RING;
        self.unseen += 1;
        (self.unseen >= EVERY && self.ring.len() >= ENOUGH).then(|| self.percentile())
    }

    /// The 95th percentile by nearest rank.
    fn percentile(&mut self) -> u64 {
        self.unseen = 0;
        let mut outputs = self.ring.clone();
        let rank = (outputs.len() * 95).div_ceil(100).saturating_sub(1);
        // The rank is below the length: there are at least `ENOUGH` outputs.
        let (_, percentile, _) = outputs.select_nth_unstable(rank);
        u64::from(*percentile)
    }
}

/// The fewest tokens that a text of `bytes` bytes can take: the longest tokens of `o200k_base`
/// have 128 bytes.
#[must_use]
pub const fn certain_prompt(bytes: u64) -> u64 {
    bytes.div_ceil(128)
}

/// What is learned of each model, by its name. Names come from requests: so there are at most
/// 1024 of at most 128 bytes each, and all others share one entry.
#[derive(Debug, Default)]
pub struct LearnedModels {
    named: RwLock<HashMap<Box<str>, Arc<Learned>>>,
    others: Arc<Learned>,
}

const MOST_NAMES: usize = 1024;
const LONGEST_NAME: usize = 128;

impl LearnedModels {
    /// What is learned of `model`, to be read: a name that is new is not remembered for it.
    #[must_use]
    pub fn known(&self, model: &str) -> Arc<Learned> {
        self.named.read().get(model).map_or_else(|| Arc::clone(&self.others), Arc::clone)
    }

    /// What is learned of `model`, to be added to: it is remembered if it is new and there is room.
    #[must_use]
    pub fn of(&self, model: &str) -> Arc<Learned> {
        let (known, full) = {
            let named = self.named.read();
            (named.get(model).cloned(), named.len() >= MOST_NAMES)
        };
        match known {
            Some(learned) => learned,
            None if full || model.len() > LONGEST_NAME => Arc::clone(&self.others),
            None => self.remember(model),
        }
    }

    fn remember(&self, model: &str) -> Arc<Learned> {
        let mut named = self.named.write();
        // Another thread may have been here between the two locks.
        match named.get(model) {
            Some(learned) => Arc::clone(learned),
            None if named.len() >= MOST_NAMES => Arc::clone(&self.others),
            None => Arc::clone(named.entry(model.into()).or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_model_is_guessed_at() {
        let learned = Learned::default();
        assert_eq!(learned.expected_output(), 1024);
        assert_eq!(learned.estimate_prompt(0), 0);
        assert_eq!(learned.estimate_prompt(1), 1);
        assert_eq!(learned.estimate_prompt(4000), 1000);
        assert_eq!(learned.estimate_prompt(4001), 1001, "rounded up");
        assert_eq!(learned.estimate_prompt(u64::MAX), 1 << 62);
    }

    #[test]
    fn the_95th_percentile_of_recent_outputs_is_expected() {
        let learned = Learned::default();
        for output in 1..20 {
            learned.record(None, Some(output));
            assert_eq!(learned.expected_output(), DEFAULT_OUTPUT, "{output} outputs are too few");
        }
        learned.record(None, Some(20));
        assert_eq!(learned.expected_output(), 19, "the 19th of 20");
        for output in 1..=256 {
            learned.record(None, Some(output));
        }
        let expected = learned.expected_output();
        assert!((243..=244).contains(&expected), "the 244th of 256, or as it was 12 outputs ago: {expected}");
    }

    #[test]
    fn old_outputs_are_forgotten() {
        let learned = Learned::default();
        (0..500).for_each(|_| learned.record(None, Some(9000)));
        (0..256 + EVERY).for_each(|_| learned.record(None, Some(10)));
        assert_eq!(learned.expected_output(), 10);
        assert_eq!(learned.outputs.lock().ring.len(), RING);
    }

    #[test]
    fn the_percentile_is_found_anew_every_16_outputs() {
        let learned = Learned::default();
        (0..ENOUGH).for_each(|_| learned.record(None, Some(1)));
        (0..EVERY - 1).for_each(|_| learned.record(None, Some(50)));
        assert_eq!(learned.expected_output(), 1);
        learned.record(None, Some(50));
        assert_eq!(learned.expected_output(), 50);
    }

    #[test]
    fn one_odd_output_changes_nothing() {
        let learned = Learned::default();
        learned.record(None, Some(u64::MAX));
        (0..40).for_each(|_| learned.record(None, Some(100)));
        assert_eq!(learned.expected_output(), 100);
    }

    #[test]
    fn prompts_are_estimated_by_what_they_lately_took() {
        for (tokens, per_thousand) in [(500, 480..=520), (100, 95..=130), (1000, 950..=1000)] {
            let learned = Learned::default();
            (0..100).for_each(|_| learned.record(Some((1000, tokens)), None));
            let estimate = learned.estimate_prompt(1000);
            assert!(per_thousand.contains(&estimate), "{tokens}: {estimate}");
        }
    }

    #[test]
    fn odd_prompts_spoil_nothing() {
        let learned = Learned::default();
        learned.record(Some((1, u64::MAX)), None);
        assert!((250..=300).contains(&learned.estimate_prompt(1000)), "{}", learned.estimate_prompt(1000));
        let learned = Learned::default();
        for prompt in [Some((0, 5)), Some((5, 0)), Some((0, 0)), None] {
            learned.record(prompt, None);
        }
        assert_eq!(learned.estimate_prompt(4000), 1000, "what says nothing teaches nothing");
        (0..1000).for_each(|_| learned.record(Some((u64::MAX, 1)), None));
        assert!((15..=17).contains(&learned.estimate_prompt(1000)), "{}", learned.estimate_prompt(1000));
        (0..1000).for_each(|_| learned.record(Some((1, u64::MAX)), None));
        assert!((990..=1000).contains(&learned.estimate_prompt(1000)), "{}", learned.estimate_prompt(1000));
    }

    #[test]
    fn a_vocabulary_is_learned_and_a_like_one_left_alone() {
        for (stated, own) in [(1160, 1125..=1165), (1020, 1000..=1000), (980, 1000..=1000), (850, 845..=885)] {
            let learned = Learned::default();
            assert_eq!(learned.own_tokens(1000), 1000, "at first");
            (0..40).for_each(|_| learned.record_vocabulary(1000, stated));
            assert!(own.contains(&learned.own_tokens(1000)), "{stated}: {}", learned.own_tokens(1000));
        }
    }

    #[test]
    fn odd_prompts_do_not_change_a_vocabulary() {
        let learned = Learned::default();
        for (found, stated) in [(63, 126), (1000, 3001), (1000, 499), (0, 0), (0, 9), (u64::MAX, 1), (64, u64::MAX)] {
            (0..20).for_each(|_| learned.record_vocabulary(found, stated));
        }
        assert_eq!(learned.own_tokens(1000), 1000);
        for round in 0..60 {
            learned.record_vocabulary(1000, if round % 3 == 0 { 1900 } else { 1160 });
        }
        assert!((1120..=1200).contains(&learned.own_tokens(1000)), "{}", learned.own_tokens(1000));
        assert_eq!([0, 1, u64::MAX].map(|found| learned.own_tokens(found)), [0, 1, u64::MAX]);
    }

    #[test]
    fn a_vocabulary_stays_within_those_in_use() {
        for (stated, own) in [(500, 500..=535), (3000, 2965..=3000)] {
            let learned = Learned::default();
            (0..1000).for_each(|_| learned.record_vocabulary(1000, stated));
            assert!(own.contains(&learned.own_tokens(1000)), "{}", learned.own_tokens(1000));
        }
    }

    #[test]
    fn few_prompts_are_counted_to_learn_from() {
        let learned = Learned::default();
        let counted = (0..1024).filter(|_| learned.wants_count()).count();
        assert_eq!(counted, 64 + 60);
        assert_eq!((0..2560).filter(|_| learned.wants_count()).count(), 10, "of a model that is known");
    }

    #[test]
    fn a_prompt_certainly_takes_a_token_for_128_bytes() {
        assert_eq!([0, 1, 128, 129, u64::MAX].map(certain_prompt), [0, 1, 1, 2, 1 << 57]);
    }

    #[test]
    fn models_learn_apart() {
        let models = LearnedModels::default();
        (0..20).for_each(|_| models.of("llama").record(None, Some(7)));
        assert_eq!(models.of("llama").expected_output(), 7);
        assert_eq!(models.known("llama").expected_output(), 7);
        assert_eq!(models.known("qwen").expected_output(), DEFAULT_OUTPUT);
        assert_eq!(models.named.read().len(), 1, "asking remembers no name");
        assert_eq!(models.of("qwen").expected_output(), DEFAULT_OUTPUT);
    }

    #[test]
    fn names_beyond_the_bound_share_one_entry() {
        let models = LearnedModels::default();
        assert!(Arc::ptr_eq(&models.of(&"a".repeat(129)), &models.others));
        let first = models.of("0");
        for name in 0..5000 {
            let _ = models.of(&name.to_string());
        }
        assert_eq!(models.named.read().len(), 1024);
        assert!(Arc::ptr_eq(&models.of("4999"), &models.of("4998")));
        assert!(Arc::ptr_eq(&models.of("0"), &first), "those that came first stay");
        assert!(Arc::ptr_eq(&models.remember("0"), &first), "nor does a thread that comes late replace one");
        assert!(Arc::ptr_eq(&models.remember("new"), &models.others), "or go beyond the bound");
    }

    #[test]
    fn threads_that_meet_a_new_model_learn_together() {
        let models = LearnedModels::default();
        let entries: Vec<Arc<Learned>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| models.of("new"))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(entries.windows(2).all(|pair| Arc::ptr_eq(&pair[0], &pair[1])));
    }
}
