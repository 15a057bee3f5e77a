//! JSON documents, one a line, of any API. Ollama's are the same without line ends between them.

#![no_main]

use keymeter_core::{api::Endpoint, usage::Form};
use keymeter_fuzz::{Case, every_endpoint, objects};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|data: &[u8]| {
    every_endpoint(data, Form::Ndjson, |endpoint, input, outcome| {
        if endpoint != Endpoint::OllamaChat {
            return;
        }
        let Some(documents) = objects(input.response) else { return };
        let [lines, joined] = [
            Case::complete(endpoint, Form::Ndjson).meter(&[input.response]),
            Case::complete(endpoint, Form::Json).meter(&[&documents.concat()]),
        ];
        assert_eq!((lines.metered, lines.ended), (joined.metered, joined.ended), "{outcome:?}");
        let is_last =
            |document: &&[u8]| matches!(serde_json::from_slice::<Value>(document), Ok(it) if it["done"] == json!(true));
        assert!(lines.ended || !documents.iter().any(is_last), "{outcome:?}");
    });
});
