//! An answer in one JSON document, of any API. However the same document is written, it counts the same.

#![no_main]

use keymeter_core::{api::Endpoint, usage::Form};
use keymeter_fuzz::{every_endpoint, rewritten};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    every_endpoint(data, Form::Json, |endpoint, input, outcome| {
        let Some(same) = rewritten(input.response) else { return };
        let is_document = input.response.trim_ascii().starts_with(b"{");
        // A string or a number alone is none of an API's answers: its bytes are text.
        if !is_document && !input.response.trim_ascii().starts_with(b"[") {
            return;
        }
        // Ollama's document may be one of several, of which only the last is the end.
        assert!(outcome.ended || !is_document || endpoint == Endpoint::OllamaChat, "{endpoint:?}: {outcome:?}");
        let case = input.case(endpoint, Form::Json);
        for text in same {
            let otherwise = case.meter(&[&text]);
            assert_eq!(
                (otherwise.metered, otherwise.ended, otherwise.text_delivered),
                (outcome.metered, outcome.ended, outcome.text_delivered),
                "{endpoint:?}: {}",
                String::from_utf8_lossy(&text)
            );
        }
    });
});
