//! How a prompt begins, as a number: requests that begin alike find at one replica what that has cached of the beginning.

use super::json::{Kind, Reader, Text};
use crate::pool::AffinityHash;

/// So much text counts, in bytes as it is written.
const MOST: usize = 64 * 1024;

/// Fields in which a prompt is, in the APIs' own words; those of conversations are lists of messages.
const PROMPTS: [&str; 8] =
    ["messages", "input", "contents", "prompt", "system", "instructions", "systemInstruction", "system_instruction"];

/// The number for a model and the prompt in `body`, which was read before as JSON. Another body has the model's alone.
pub(super) fn hash(model: &str, body: &[u8]) -> u64 {
    let mut beginning = Beginning { hash: AffinityHash::new().add_part(model.as_bytes()), left: MOST };
    if let Ok(text) = std::str::from_utf8(body) {
        beginning.read(text);
    }
    beginning.hash.finish()
}

struct Beginning {
    hash: AffinityHash,
    left: usize,
}

impl Beginning {
    /// Reads as far as it takes. What is no JSON was refused before, or is a form.
    fn read(&mut self, text: &str) {
        let mut reader = Reader::new(text);
        let Ok(_) = reader.token() else { return };
        while self.left > 0 {
            let Ok(token) = reader.token() else { return };
            let Kind::Name(name) = token.kind else { return };
            let read = if PROMPTS.contains(&name.raw) { self.prompt(&mut reader) } else { skip(&mut reader) };
            if read.is_none() {
                return;
            }
        }
    }

    /// Adds the texts of a value: of a list through the first element that is a user's.
    fn prompt(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let outside = reader.depth();
        let (mut name, mut is_user, mut is_over) = ("", false, false);
        loop {
            let kind = reader.token().ok()?.kind;
            match kind {
                Kind::Name(text) => {
                    name = text.raw;
                    continue;
                }
                Kind::String(text) if !is_over => {
                    is_user |= name == "role" && text.raw == "user";
                    self.add(text);
                }
                _ => {}
            }
            name = "";
            if reader.depth() <= outside {
                return Some(());
            }
            // An element of the list is complete.
            is_over |= is_user && reader.depth() == outside + 1;
        }
    }

    fn add(&mut self, text: Text<'_>) {
        let bytes = text.raw.as_bytes();
        let bytes = bytes.get(..self.left).unwrap_or(bytes);
        self.left -= bytes.len();
        self.hash = std::mem::take(&mut self.hash).add_part(bytes);
    }
}

fn skip(reader: &mut Reader<'_>) -> Option<()> {
    let depth = reader.depth();
    reader.token().ok()?;
    reader.skip_to(depth).ok()
}

#[cfg(test)]
mod tests {
    use super::hash;

    fn chat(messages: &str) -> u64 {
        hash("m", format!(r#"{{"model":"m","temperature":0.5,"messages":[{messages}],"stream":true}}"#).as_bytes())
    }

    const SYSTEM: &str = r#"{"role":"system","content":"Be brief."}"#;
    const FIRST: &str = r#"{"role":"user","content":[{"type":"text","text":"Hi!"}]}"#;

    #[test]
    fn a_conversation_is_known_by_its_beginning() {
        let first = chat(&format!("{SYSTEM},{FIRST}"));
        let second = chat(&format!("{SYSTEM},{FIRST},{{\"role\":\"assistant\",\"content\":\"Yes?\"}},{FIRST}"));
        assert_eq!(first, second);
        assert_ne!(first, chat(&format!("{SYSTEM},{}", FIRST.replace("Hi!", "Ho!"))));
        assert_ne!(first, chat(FIRST));
        assert_ne!(chat("1"), hash("other", br#"{"messages":[1]}"#));
    }

    #[test]
    fn of_other_apis_too_and_of_text_that_is_no_conversation() {
        let of = |body: &str| hash("m", body.as_bytes());
        let anthropic = |rest: &str| of(&format!(r#"{{"system":"Be brief.","messages":[{FIRST}{rest}]}}"#));
        assert_eq!(anthropic(""), anthropic(r#",{"role":"assistant","content":"Yes?"}"#));
        let gemini = |text: &str| of(&format!(r#"{{"contents":[{{"role":"user","parts":[{{"text":"{text}"}}]}}]}}"#));
        assert_ne!(gemini("a"), gemini("b"));
        assert_ne!(of(r#"{"prompt":"a"}"#), of(r#"{"prompt":"b"}"#));
        assert_ne!(of(r#"{"input":"a"}"#), of(r#"{"input":["b"]}"#));
        let long = "x".repeat(70_000);
        assert_eq!(of(&format!(r#"{{"prompt":"{long}a"}}"#)), of(&format!(r#"{{"prompt":"{long}b"}}"#)));
        assert_eq!(of("--X"), of(""));
    }
}
