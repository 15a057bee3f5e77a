//! Gemini's stream in one JSON array: the same documents as server-sent events count the same.

#![no_main]

use keymeter_core::{api::Endpoint, usage::Form};
use keymeter_fuzz::{Case, every_endpoint, objects};
use libfuzzer_sys::fuzz_target;

/// Between the documents.
const SEPARATOR: &[u8] = b",\r\n";

fuzz_target!(|data: &[u8]| {
    every_endpoint(data, Form::Json, |endpoint, input, outcome| {
        if endpoint != Endpoint::StreamGenerateContent {
            return;
        }
        let Some(documents) = objects(input.response) else { return };
        let array = [b"[", documents.join(SEPARATOR).as_slice(), b"]\n"].concat();
        let events: Vec<u8> = documents.iter().flat_map(|document| [b"data: ", *document, b"\n\n"].concat()).collect();
        let [array, events] = [(Form::Json, array), (Form::Sse, events)]
            .map(|(form, stream)| Case::complete(endpoint, form).meter(&[&stream]));
        assert_eq!((array.metered, array.text_delivered), (events.metered, events.text_delivered), "{outcome:?}");
        assert!(array.ended, "{array:?}");
    });
});
