//! How large a prompt is, before an upstream counts it and where none does.

use std::mem::take;

use keymeter_core::{
    api::Endpoint,
    body::{Sample, Scanned},
    learned::{self, Figures, KeyTag, Learned, Lesson},
    usage::count_sample,
};

/// Tokens that an image or a recording in a prompt is taken for, until the upstream counts it.
const MEDIA_TOKENS: u64 = 1000;

/// The prompt's size as far as it is known without its upstream.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// What its text is made of.
    makeup: learned::Prompt,
    /// What is said in it, and some of that.
    prose: Sample,
    /// What is written in it as JSON, and some of that.
    json: Sample,
    /// Tokens that are neither: media, and tokens that were given as numbers.
    beside_text: u64,
    estimate: u64,
    /// How many prompts it really is.
    count: u64,
    /// The longest answer that the request allows, if it says so.
    maximum: Option<u64>,
}

impl Prompt {
    /// The prompt of a request whose body was read, for a model of which these `figures` are known.
    #[must_use]
    pub fn new(scanned: &mut Scanned, endpoint: Endpoint, figures: &Figures) -> Self {
        let makeup = learned::Prompt::new(endpoint, &scanned.outline);
        // Nobody else asks for the text.
        let (prose, json) = (take(&mut scanned.outline.prose), take(&mut scanned.outline.json));
        let media = scanned.media.saturating_mul(MEDIA_TOKENS);
        let beside_text = media.saturating_add(scanned.prompt_tokens_given);
        let estimate = figures.prompt_by_length(&makeup, prose.bytes(), json.bytes()).saturating_add(beside_text);
        Self { makeup, prose, json, beside_text, estimate, count: scanned.prompts, maximum: scanned.maximum }
    }

    /// How many prompts it really is: several only for completions.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Tokens that it probably has, by its length: for a reservation.
    #[must_use]
    pub fn estimate(&self) -> u64 {
        self.estimate
    }

    /// Tokens that it has as far as a tokenizer can tell, for a model of which these `figures` are known: for a charge,
    /// where the upstream states none.
    #[must_use]
    pub fn counted(&self, figures: &Figures) -> u64 {
        let [prose, json] = self.found();
        figures.prompt(&self.makeup, prose, json).saturating_add(self.beside_text)
    }

    /// Teaches what it took, by its upstream's count, and how long its answer was. One with media teaches nothing of prompts;
    /// an answer that was cut at its own maximum does not say that answers are short. Says whether texts should be tokenized,
    /// to teach [`by_tokens`](Self::teach_by_tokens) too.
    #[must_use]
    pub fn teach(&self, learned: &Learned, key: KeyTag, tokens: u64, output: Option<u64>) -> bool {
        let is_text = self.beside_text == 0;
        let prompt = is_text.then(|| (self.makeup, [self.prose.bytes(), self.json.bytes()], tokens));
        let was_cut = |output: u64| {
            self.maximum.is_some_and(|maximum| output >= maximum) && output < learned.figures(key).expected_output()
        };
        learned.learn(&Lesson { key, prompt, output: output.filter(|output| !was_cut(*output)) })
    }

    /// Teaches what its text took, by its upstream's count. Tokenizes some of it.
    pub fn teach_by_tokens(&self, learned: &Learned, key: KeyTag, tokens: u64) {
        if self.beside_text == 0 {
            learned.learn_prompt(key, &self.makeup, self.found(), tokens);
        }
    }

    /// The tokens of its prose and its JSON.
    fn found(&self) -> [u64; 2] {
        [&self.prose, &self.json].map(count_sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keymeter_core::{body::scan, usage::count_tokens};

    const MODEL: &str = "a-model";

    fn prompt(endpoint: Endpoint, body: &str, figures: &Figures) -> Prompt {
        let mut scanned = scan(&bytes::Bytes::copy_from_slice(body.as_bytes()), endpoint.shape()).unwrap();
        Prompt::new(&mut scanned, endpoint, figures)
    }

    fn key() -> KeyTag {
        KeyTag::of(&"key_a".parse().unwrap())
    }

    fn said(text: &str) -> String {
        serde_json::json!({"messages": [{"role": "user", "content": text}]}).to_string()
    }

    /// Teaches as a request does that has ended.
    fn teach(prompt: &Prompt, learned: &Learned, tokens: u64, output: Option<u64>) {
        if prompt.teach(learned, key(), tokens, output) {
            prompt.teach_by_tokens(learned, key(), tokens);
        }
    }

    #[test]
    fn a_chat_is_counted_as_openai_counts_it() {
        // 3 tokens and the role for each message, and 3 that begin the answer ("How to count tokens with tiktoken").
        let texts = ["You know trains.", "When does the last one leave?", "At midnight, from platform 2.", "Thanks!"];
        let roles = ["system", "user", "assistant", "user"];
        let messages: Vec<_> = roles
            .iter()
            .zip(texts)
            .map(|(role, text)| serde_json::json!({"role": role, "content": [{"type": "text", "text": text}]}))
            .collect();
        let body = serde_json::json!({"model": "gpt-4o", "messages": messages, "user": "nobody"}).to_string();
        let figures = Figures::of("gpt-4o");
        let expected = 3 + texts.iter().map(|text| 3 + 1 + count_tokens(text)).sum::<u64>();
        assert_eq!(prompt(Endpoint::ChatCompletions, &body, &figures).counted(&figures), expected);
    }

    #[test]
    fn an_estimate_knows_the_length_and_a_count_the_text() {
        let figures = Figures::of(MODEL);
        let text = "indistinguishable ".repeat(20);
        let prompt = prompt(Endpoint::ChatCompletions, &said(&text), &figures);
        assert_eq!(prompt.estimate(), text.len() as u64 / 4 + 3 + 4);
        assert_eq!(prompt.counted(&figures), count_tokens(&text) + 3 + 4);
    }

    #[test]
    fn media_and_tokens_that_are_given_stand_beside_the_text() {
        let (learned, figures) = (Learned::new(MODEL), Figures::of(MODEL));
        let body =
            r#"{"messages":[{"role":"user","content":[{"image_url":{"url":"data:,A"}},{"text":"hello world"}]}]}"#;
        let image = prompt(Endpoint::ChatCompletions, body, &figures);
        assert_eq!(image.counted(&figures), 7 + 2 + 1000);
        let given = prompt(Endpoint::Completions, r#"{"prompt":[1,2,3]}"#, &figures);
        assert_eq!((given.estimate(), given.counted(&figures)), (3, 3));
        (0..30).for_each(|_| teach(&image, &learned, 5000, None));
        assert_eq!(learned.figures(key()), figures, "teaches nothing");
    }

    #[test]
    fn prompts_of_text_teach_length_and_vocabulary() {
        let learned = Learned::new(MODEL);
        let text = "A prompt that says the same thing over and over again. ".repeat(20);
        let found = count_tokens(&text);
        let expected = found * 6 / 5 + 7;
        let asked = prompt(Endpoint::Messages, &said(&text), &Figures::of(MODEL));
        (0..20).for_each(|_| teach(&asked, &learned, expected, Some(9)));
        let figures = learned.figures(key());
        let asked = prompt(Endpoint::Messages, &said(&text), &figures);
        assert!(asked.counted(&figures).abs_diff(expected) * 25 <= expected, "{}", asked.counted(&figures));
        assert!(asked.estimate().abs_diff(expected) * 25 <= expected, "{}", asked.estimate());
        assert_eq!(asked.counted(&Figures::of(MODEL)), found + 7);
    }

    #[test]
    fn what_tools_take_is_not_taken_for_vocabulary() {
        let learned = Learned::new(MODEL);
        let tool = serde_json::json!({"name": "look", "input_schema": {"description": "Looks. ".repeat(200)}});
        let body = serde_json::json!({"messages": [], "tools": [tool]}).to_string();
        let asked = prompt(Endpoint::Messages, &body, &Figures::of(MODEL));
        (0..40).for_each(|_| teach(&asked, &learned, 2000, None));
        let figures = learned.figures(key());
        assert!(asked.counted(&figures).abs_diff(2000) < 100, "{}", asked.counted(&figures));
        let text = prompt(Endpoint::Messages, &said(&"A word. ".repeat(300)), &figures);
        let first = text.counted(&Figures::of(MODEL));
        assert!(text.counted(&figures).abs_diff(first) * 10 <= first, "{} and {first}", text.counted(&figures));
    }

    #[test]
    fn an_answer_that_was_cut_at_its_own_maximum_does_not_say_that_answers_are_short() {
        let learned = Learned::new(MODEL);
        let body = r#"{"max_tokens":1,"messages":[{"role":"user","content":"Hi"}]}"#;
        let short = prompt(Endpoint::ChatCompletions, body, &Figures::of(MODEL));
        (0..300).for_each(|_| teach(&short, &learned, 8, Some(1)));
        assert_eq!(learned.figures(key()).expected_output(), 1024);
        let open = prompt(Endpoint::ChatCompletions, &said("Hi"), &Figures::of(MODEL));
        (0..20).for_each(|_| teach(&open, &learned, 8, Some(1)));
        assert_eq!(learned.figures(key()).expected_output(), 1);
    }
}
