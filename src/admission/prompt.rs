//! How large a prompt is, before an upstream counts it and where none does.

use keymeter_core::{
    api::Endpoint,
    body::{Sample, Scanned},
    limit::Learned,
    usage::{around_prompt, count_sample},
};

/// Tokens that an image or a recording in a prompt is taken for, until the upstream counts it.
const MEDIA_TOKENS: u64 = 1000;

/// The prompt's size as far as it is known without its upstream.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// The text that the model reads, and some of it.
    text: Sample,
    /// Tokens of the tags around the text.
    around_text: u64,
    /// Tokens that are neither: media, and tokens that were given as numbers.
    beside_text: u64,
    has_schemas: bool,
    estimate: u64,
    /// How many prompts it really is.
    count: u64,
}

impl Prompt {
    /// The prompt of a request whose body was read, for a model of which this was `learned`.
    #[must_use]
    pub fn new(scanned: &Scanned, endpoint: Endpoint, learned: &Learned) -> Self {
        let text = scanned.outline.text.clone();
        let around_text = around_prompt(endpoint, &scanned.outline);
        let media = scanned.media.saturating_mul(MEDIA_TOKENS);
        let beside_text = media.saturating_add(scanned.prompt_tokens_given);
        let known = around_text.saturating_add(beside_text);
        let estimate = learned.estimate_prompt(text.bytes()).saturating_add(known);
        let (has_schemas, count) = (scanned.outline.has_schemas, scanned.prompts);
        Self { text, around_text, beside_text, has_schemas, estimate, count }
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

    /// Tokens that it has as far as a tokenizer can tell, and what was `learned` of the model: for a charge, where the
    /// upstream states none.
    #[must_use]
    pub fn counted(&self, learned: &Learned) -> u64 {
        let text = learned.own_tokens(count_sample(&self.text));
        text.saturating_add(self.around_text).saturating_add(self.beside_text)
    }

    /// Teaches what it took, by its upstream's count. One with media teaches nothing.
    pub fn teach(&self, learned: &Learned, tokens: u64, output: Option<u64>) {
        let text_tokens = tokens.saturating_sub(self.around_text);
        let prompt = (self.beside_text == 0).then_some((self.text.bytes(), text_tokens));
        learned.record(prompt, output);
        // What else a prompt has by way of tools and schemas, nobody can tell exactly.
        if prompt.is_some() && !self.has_schemas && learned.wants_count() {
            learned.record_vocabulary(count_sample(&self.text), text_tokens);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keymeter_core::{body::scan, usage::count_tokens};

    fn prompt(endpoint: Endpoint, body: &str, learned: &Learned) -> Prompt {
        let scanned = scan(&bytes::Bytes::copy_from_slice(body.as_bytes()), endpoint.shape()).unwrap();
        Prompt::new(&scanned, endpoint, learned)
    }

    fn said(text: &str) -> String {
        serde_json::json!({"messages": [{"role": "user", "content": text}]}).to_string()
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
        let learned = Learned::default();
        let expected = 3 + texts.iter().map(|text| 3 + 1 + count_tokens(text)).sum::<u64>();
        assert_eq!(prompt(Endpoint::ChatCompletions, &body, &learned).counted(&learned), expected);
    }

    #[test]
    fn an_estimate_knows_the_length_and_a_count_the_text() {
        let learned = Learned::default();
        let text = "indistinguishable ".repeat(20);
        let prompt = prompt(Endpoint::ChatCompletions, &said(&text), &learned);
        assert_eq!(prompt.estimate(), text.len() as u64 / 4 + 3 + 4);
        assert_eq!(prompt.counted(&learned), count_tokens(&text) + 3 + 4);
    }

    #[test]
    fn media_and_tokens_that_are_given_stand_beside_the_text() {
        let learned = Learned::default();
        let body =
            r#"{"messages":[{"role":"user","content":[{"image_url":{"url":"data:,A"}},{"text":"hello world"}]}]}"#;
        let image = prompt(Endpoint::ChatCompletions, body, &learned);
        assert_eq!(image.counted(&learned), 7 + 2 + 1000);
        let given = prompt(Endpoint::Completions, r#"{"prompt":[1,2,3]}"#, &learned);
        assert_eq!((given.estimate(), given.counted(&learned)), (3, 3));
        image.teach(&learned, 5000, None);
        assert_eq!(learned.estimate_prompt(4000), 1000, "teaches nothing");
    }

    #[test]
    fn prompts_of_text_teach_length_and_vocabulary() {
        let learned = Learned::default();
        let text = "A prompt that says the same thing over and over again. ".repeat(20);
        let found = count_tokens(&text);
        for _ in 0..40 {
            prompt(Endpoint::Messages, &said(&text), &learned).teach(&learned, found * 6 / 5 + 7, Some(9));
        }
        let prompt = prompt(Endpoint::Messages, &said(&text), &learned);
        let expected = found * 6 / 5 + 7;
        assert!(prompt.counted(&learned).abs_diff(expected) * 25 <= expected, "{}", prompt.counted(&learned));
        assert!(prompt.estimate().abs_diff(expected) * 25 <= expected, "{}", prompt.estimate());
        assert!(prompt.counted(&Learned::default()) == found + 7);
    }

    #[test]
    fn what_tools_take_is_not_taken_for_vocabulary() {
        let learned = Learned::default();
        let tool = serde_json::json!({"name": "look", "input_schema": {"description": "Looks. ".repeat(200)}});
        let body = serde_json::json!({"messages": [], "tools": [tool]}).to_string();
        for _ in 0..40 {
            prompt(Endpoint::Messages, &body, &learned).teach(&learned, 2000, None);
        }
        assert_eq!(learned.own_tokens(1000), 1000);
    }
}
