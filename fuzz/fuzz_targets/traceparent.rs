//! The trace of a caller. Lines of the input are `traceparent` and `tracestate` headers in turn. What is understood is passed on
//! so that it is understood as the same, by a reader that goes by the letter, too.

#![no_main]

use http::{HeaderMap, HeaderValue};
use keymeter::observe::traces::{parent, written};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut headers = HeaderMap::new();
    for (number, line) in data.split(|byte| *byte == b'\n').enumerate() {
        let name = if number % 2 == 0 { "traceparent" } else { "tracestate" };
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name, value);
        }
    }
    let Some(first) = parent(&headers) else { return };
    assert!(first.is_valid() && first.is_remote());
    let mut passed_on = HeaderMap::new();
    for (name, value) in written(&first) {
        if let Some(value) = value {
            passed_on.insert(name, value);
        }
    }
    assert!(is_by_the_letter(passed_on["traceparent"].as_bytes()));
    assert_eq!(parent(&passed_on), Some(first), "{passed_on:?}");
});

/// <https://www.w3.org/TR/trace-context/#traceparent-header-field-values>, version 00.
fn is_by_the_letter(text: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    let hyphens = [2, 35, 52];
    text.len() == 55
        && text
            .iter()
            .enumerate()
            .all(|(place, byte)| if hyphens.contains(&place) { *byte == b'-' } else { is_digit(byte) })
}
