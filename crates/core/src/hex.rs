//! Bytes in hexadecimal digits: hashes, names of requests, signatures.

/// Two lower-case digits for each byte.
#[must_use]
pub fn written(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or('0');
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
    text
}

/// The bytes of such digits, in either case; `None`: it is not only those, or a half byte is left.
#[must_use]
pub fn read(text: &str) -> Option<Vec<u8>> {
    let digits = text.bytes().map(|digit| char::from(digit).to_digit(16)).collect::<Option<Vec<_>>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| u8::try_from(high * 16 + low).ok()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes: Vec<u8>) {
            let text = written(&bytes);
            for (at, byte) in bytes.iter().enumerate() {
                prop_assert_eq!(&text[2 * at..2 * at + 2], format!("{byte:02x}"));
            }
            prop_assert_eq!(read(&text.to_uppercase()), Some(bytes.clone()));
            prop_assert_eq!(read(&text), Some(bytes));
        }
    }

    #[test]
    fn what_is_no_hexadecimal_is_not_read() {
        for text in ["0", "0g", "+1", "é0", " 00"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
