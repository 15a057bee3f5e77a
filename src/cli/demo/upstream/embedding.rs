//! The demo upstream's embeddings: eight numbers that depend on the text alone, of length 1 together.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{completion::hash, failure::Failure};

/// How many numbers an embedding has.
const DIMENSIONS: usize = 8;

#[derive(Deserialize)]
struct Request {
    model: String,
    input: Input,
    encoding_format: Option<Encoding>,
    dimensions: Option<usize>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    One(String),
    Many(Vec<String>),
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Float,
    /// Little-endian 32-bit floats, in base64: what OpenAI's own clients ask for.
    Base64,
}

/// The answer to `POST /v1/embeddings` with this body.
pub fn answer(body: &[u8], count_tokens: fn(&str) -> u64) -> Result<Value, Failure> {
    let request: Request = serde_json::from_slice(body)?;
    let texts = match request.input {
        Input::One(text) => vec![text],
        Input::Many(texts) if texts.is_empty() => {
            return Err(Failure::invalid("input", "is empty; give one text or more"));
        }
        Input::Many(texts) => texts,
    };
    if request.dimensions.is_some_and(|dimensions| dimensions != DIMENSIONS) {
        return Err(Failure::invalid("dimensions", format!("must be {DIMENSIONS}, which is all that this model has")));
    }
    let encoding = request.encoding_format.unwrap_or_default();
    let data = texts.iter().enumerate().map(|(index, text)| {
        json!({"object": "embedding", "index": index, "embedding": encoded(&embedding(text), encoding)})
    });
    let data: Vec<Value> = data.collect();
    let tokens: u64 = texts.iter().map(|text| count_tokens(text)).sum();
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    Ok(json!({"object": "list", "data": data, "model": request.model, "usage": usage}))
}

fn embedding(text: &str) -> [f32; DIMENSIONS] {
    let mut state = hash(text);
    let raw = [(); DIMENSIONS].map(|()| {
        state = hash(&state.to_string());
        let [high, low, ..] = state.to_be_bytes();
        // The half keeps every number from zero, so that there is a length to divide by.
        f32::from(i16::from_be_bytes([high, low])) + 0.5
    });
    let length = raw.iter().map(|number| number * number).sum::<f32>().sqrt();
    raw.map(|number| number / length)
}

fn encoded(embedding: &[f32], encoding: Encoding) -> Value {
    match encoding {
        Encoding::Float => json!(embedding),
        Encoding::Base64 => {
            json!(base64(&embedding.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>()))
        }
    }
}

/// Base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    bytes.chunks(3).flat_map(base64_group).collect()
}

fn base64_group(group: &[u8]) -> [char; 4] {
    let byte = |place: usize| u32::from(group.get(place).copied().unwrap_or_default());
    let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
    let digits = [18, 12, 6, 0].map(|shift| base64_digit(bits >> shift & 0x3f));
    match (digits, group.len()) {
        ([first, second, ..], 1) => [first, second, '=', '='],
        ([first, second, third, _], 2) => [first, second, third, '='],
        (all, _) => all,
    }
}

fn base64_digit(six_bits: u32) -> char {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let place = usize::try_from(six_bits).unwrap_or(usize::MAX);
    ALPHABET.get(place).copied().map_or('=', char::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> u64 {
        text.split_whitespace().count() as u64
    }

    fn answered(body: &Value) -> Value {
        answer(body.to_string().as_bytes(), words).unwrap()
    }

    #[test]
    fn each_input_has_its_own_unit_vector_that_never_changes() {
        let one = answered(&json!({"model": "e", "input": "a b"}));
        let many = answered(&json!({"model": "e", "input": ["c", "a b"]}));
        assert_eq!(one["data"][0]["embedding"], many["data"][1]["embedding"]);
        assert_ne!(many["data"][0]["embedding"], many["data"][1]["embedding"]);
        assert_eq!((&many["data"][1]["index"], &many["model"]), (&json!(1), &json!("e")));
        assert_eq!(many["usage"], json!({"prompt_tokens": 3, "total_tokens": 3}));
        let numbers: Vec<f64> = serde_json::from_value(one["data"][0]["embedding"].clone()).unwrap();
        let length: f64 = numbers.iter().map(|number| number * number).sum();
        assert!(numbers.len() == 8 && (length - 1.0).abs() < 1e-5, "{numbers:?}");
    }

    #[test]
    fn base64_is_the_same_numbers_in_32_bits() {
        let body = json!({"model": "e", "input": "a", "encoding_format": "base64"});
        let text = answered(&body)["data"][0]["embedding"].as_str().unwrap().to_owned();
        assert_eq!(text.len(), 44);
        let first_bytes = embedding("a")[0].to_le_bytes();
        assert!(text.starts_with(&base64(&first_bytes[..3])));
    }

    /// The test vectors of RFC 4648, section 10.
    #[test]
    fn base64_is_as_the_standard_has_it() {
        let vectors =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("\u{3ff}", "z78=")];
        for (text, expected) in vectors {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }

    #[test]
    fn what_cannot_be_embedded_is_refused_by_name() {
        for (body, param) in [
            (json!({"model": "e", "input": []}), "input"),
            (json!({"model": "e", "input": "a", "dimensions": 3}), "dimensions"),
        ] {
            let failure = answer(body.to_string().as_bytes(), words).unwrap_err();
            assert_eq!(failure.body()["error"]["param"], param);
        }
        assert!(answer(br#"{"input": "a"}"#, words).unwrap_err().to_string().contains("model"));
    }
}
