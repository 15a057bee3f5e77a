//! What may be a token of an issuer. The issuer that is read of it, before anything is checked, is the one that a plain reader
//! finds, and of what is no token none is read.

#![no_main]

use keymeter::keys::jwt::{LONGEST_TOKEN, has_three_parts, stated_issuer};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let parts: Vec<&str> = text.split('.').collect();
    assert_eq!(has_three_parts(text), parts.len() == 3 && text.len() <= LONGEST_TOKEN);
    let Some(issuer) = stated_issuer(text) else { return };
    assert!(has_three_parts(text));
    let claims = decoded(parts[1]).expect("the part that an issuer was read of");
    let claims: Value = serde_json::from_slice(&claims).expect("JSON");
    assert_eq!(claims["iss"], Value::from(issuer));
});

/// Bytes in base64 for URLs, without padding (RFC 4648, section 5).
fn decoded(text: &str) -> Option<Vec<u8>> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for character in text.bytes() {
        let value = ALPHABET.iter().position(|known| *known == character)?;
        bits = (bits << 6 | value as u32) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}
