//! What a response is, by its first bytes: a Content-Type may be wrong or missing, and what it says is then no reason to
//! answer for nothing.

use bytes::{Bytes, BytesMut};

const BYTE_ORDER_MARK: &[u8] = &[0xef, 0xbb, 0xbf];
/// How an event stream may begin (WHATWG HTML, section 9.2.6): a field's name with its colon, or a comment.
const FIELDS: [&[u8]; 5] = [b"data:", b"event:", b"id:", b"retry:", b":"];
const DATA: &[u8] = b"data:";
/// How far it is looked for proof.
const PROOF: usize = 256;

/// What the first bytes are, white space and a byte order mark aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// A JSON object.
    Object,
    /// A JSON array.
    Array,
    /// An event stream.
    Events,
    /// Nothing that an API sends but where text or sound is asked for.
    Other,
}

/// How much it takes to be taken for JSON or for events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// A bracket, or a field's name.
    First,
    /// Text or sound may begin so by chance: a bracket and a quote, or an event whose data is JSON.
    Proof,
}

/// The first bytes of a response, until they say what it is.
pub(super) struct Opening {
    evidence: Evidence,
    /// What may still be the beginning of either. It has not been forwarded.
    held: Vec<u8>,
}

/// What an opening says of its bytes.
pub(super) struct Opened {
    /// The bytes that are dealt with: white space, which means nothing in any form.
    pub(super) blank: Bytes,
    /// What the response is, and the bytes from there on. None: that is still to be seen.
    pub(super) response: Option<(Beginning, Bytes)>,
}

impl Opening {
    pub(super) fn new(evidence: Evidence) -> Self {
        Self { evidence, held: Vec::new() }
    }

    /// Looks at the next bytes, and at those that are held.
    pub(super) fn look(&mut self, chunk: Bytes) -> Opened {
        let mut bytes = self.after_held(chunk);
        let blank = bytes.split_to(blank_length(&bytes));
        let beginning = match self.evidence {
            Evidence::First => first(&bytes),
            Evidence::Proof => proof(&bytes),
        };
        if beginning.is_none() {
            self.held.extend_from_slice(&bytes);
        }
        Opened { blank, response: beginning.map(|beginning| (beginning, bytes)) }
    }

    /// What is held, and never became anything, at the response's end.
    pub(super) fn take_held(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.held))
    }

    /// The bytes that are kept, as they are allocated.
    pub(super) fn held_bytes(&self) -> usize {
        self.held.capacity()
    }

    fn after_held(&mut self, chunk: Bytes) -> Bytes {
        if self.held.is_empty() {
            return chunk;
        }
        let mut bytes = BytesMut::from(self.take_held());
        bytes.extend_from_slice(&chunk);
        bytes.freeze()
    }
}

/// How many bytes at the beginning are white space or a byte order mark.
fn blank_length(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    loop {
        rest = rest.trim_ascii_start();
        match rest.strip_prefix(BYTE_ORDER_MARK) {
            Some(after) => rest = after,
            None => return bytes.len() - rest.len(),
        }
    }
}

/// What a bracket or a field's name says; none where there are too few bytes to tell.
fn first(bytes: &[u8]) -> Option<Beginning> {
    match bytes.first()? {
        b'{' => Some(Beginning::Object),
        b'[' => Some(Beginning::Array),
        _ if FIELDS.iter().any(|field| bytes.starts_with(field)) => Some(Beginning::Events),
        _ if FIELDS.iter().any(|field| field.starts_with(bytes)) || BYTE_ORDER_MARK.starts_with(bytes) => None,
        _ => Some(Beginning::Other),
    }
}

/// The same where more is asked for.
fn proof(bytes: &[u8]) -> Option<Beginning> {
    let bytes = bytes.get(..PROOF).unwrap_or(bytes);
    let beginning = first(bytes)?;
    let is_proven = match beginning {
        Beginning::Object => has_member(bytes),
        Beginning::Array => has_object(bytes),
        Beginning::Events => has_event(bytes),
        Beginning::Other => return Some(Beginning::Other),
    };
    match is_proven {
        Some(true) => Some(beginning),
        None if bytes.len() < PROOF => None,
        Some(false) | None => Some(Beginning::Other),
    }
}

/// Whether an object's bracket is followed by a member's name, or by the closing bracket.
fn has_member(bytes: &[u8]) -> Option<bool> {
    let after = bytes.get(1..).unwrap_or_default().trim_ascii_start();
    after.first().map(|byte| matches!(byte, b'"' | b'}'))
}

/// Whether an array's first element is an object.
fn has_object(bytes: &[u8]) -> Option<bool> {
    let after = bytes.get(1..).unwrap_or_default().trim_ascii_start();
    if *after.first()? == b'{' { has_member(after) } else { Some(false) }
}

/// Whether the first data of what may be events is JSON, or `[DONE]`.
fn has_event(bytes: &[u8]) -> Option<bool> {
    let mut rest = bytes;
    loop {
        rest = rest.trim_ascii_start();
        if let Some(data) = rest.strip_prefix(DATA) {
            return data.trim_ascii_start().first().map(|byte| matches!(byte, b'{' | b'['));
        }
        if first(rest)? != Beginning::Events {
            return Some(false);
        }
        let end = memchr::memchr2(b'\n', b'\r', rest)?;
        rest = rest.get(end..).unwrap_or_default();
    }
}

/// Whether the bytes of something that has no name are text: UTF-8, and no control characters beside those of lines.
#[derive(Default)]
pub(super) struct TextCheck {
    /// How many bytes the character that is being read still has.
    awaited: u8,
}

impl TextCheck {
    /// Reads on; says whether all of it is text.
    pub(super) fn is_text(&mut self, bytes: &[u8]) -> bool {
        bytes.iter().all(|&byte| self.is_of_text(byte))
    }

    fn is_of_text(&mut self, byte: u8) -> bool {
        if self.awaited > 0 {
            self.awaited -= 1;
            return matches!(byte, 0x80..=0xbf);
        }
        self.awaited = match byte {
            b'\t'..=b'\r' | 0x1b | 0x20..=0x7e => 0,
            0xc2..=0xdf => 1,
            0xe0..=0xef => 2,
            0xf0..=0xf4 => 3,
            _ => return false,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was passed over, what the response is, and its bytes, in whatever pieces they come.
    fn opened(evidence: Evidence, parts: &[&[u8]]) -> (Vec<u8>, Option<Beginning>, Vec<u8>) {
        let (mut opening, mut found) = (Opening::new(evidence), None);
        let (mut blank, mut rest) = (Vec::new(), Vec::new());
        for part in parts {
            if found.is_some() {
                rest.extend_from_slice(part);
                continue;
            }
            let opened = opening.look(Bytes::copy_from_slice(part));
            blank.extend_from_slice(&opened.blank);
            if let Some((beginning, bytes)) = opened.response {
                found = Some(beginning);
                rest.extend_from_slice(&bytes);
            }
            assert!(opening.held_bytes() <= 4 * PROOF, "{} bytes held", opening.held_bytes());
        }
        rest.extend_from_slice(&opening.take_held());
        (blank, found, rest)
    }

    fn in_every_cut(evidence: Evidence, bytes: &[u8]) -> Option<Beginning> {
        let (blank, found, rest) = opened(evidence, &[bytes]);
        assert_eq!([blank.as_slice(), &rest].concat(), bytes, "nothing is lost");
        for at in 0..=bytes.len() {
            let (one, other) = bytes.split_at(at);
            assert_eq!(opened(evidence, &[one, other]), (blank.clone(), found, rest.clone()), "cut at {at}");
        }
        assert_eq!(opened(evidence, &bytes.chunks(1).collect::<Vec<_>>()), (blank, found, rest), "byte by byte");
        found
    }

    #[test]
    fn a_bracket_or_a_fields_name_says_what_it_is() {
        for (bytes, expected) in [
            ("{", Some(Beginning::Object)),
            ("[", Some(Beginning::Array)),
            ("data:", Some(Beginning::Events)),
            ("event: x", Some(Beginning::Events)),
            ("id:1", Some(Beginning::Events)),
            ("retry: 5\n", Some(Beginning::Events)),
            (": ping", Some(Beginning::Events)),
            ("Data:", Some(Beginning::Other)),
            ("database: x", Some(Beginning::Other)),
            ("<html>", Some(Beginning::Other)),
            ("\"text\"", Some(Beginning::Other)),
            ("da", None),
            ("retry", None),
            ("", None),
        ] {
            for before in ["", "\n\n", " \t\r\n", "\u{feff}", "\r\n\u{feff} \n"] {
                let found = in_every_cut(Evidence::First, format!("{before}{bytes}").as_bytes());
                assert_eq!(found, expected, "{before:?}{bytes:?}");
            }
        }
        assert_eq!(in_every_cut(Evidence::First, b"\xef\xbb"), None, "the mark is half there");
        assert_eq!(in_every_cut(Evidence::First, b"\xef\xbbdata: x"), Some(Beginning::Other));
    }

    #[test]
    fn text_and_sound_that_begin_alike_are_neither() {
        for (bytes, expected) in [
            ("{\"text\"", Beginning::Object),
            ("{ \n\t\"text\"", Beginning::Object),
            ("{}", Beginning::Object),
            ("{laughs}", Beginning::Other),
            ("[{\"index\"", Beginning::Array),
            ("[ {} ]", Beginning::Array),
            ("[{laughs}]", Beginning::Other),
            ("[Music]", Beginning::Other),
            ("data: {\"type\"", Beginning::Events),
            ("data: [DONE]", Beginning::Events),
            ("data: the word", Beginning::Other),
            (": ping\n\nevent: x\r\nid: 1\ndata:{", Beginning::Events),
            (": a smile\nand more", Beginning::Other),
            ("event: x\ndata: y", Beginning::Other),
            ("Hello", Beginning::Other),
        ] {
            assert_eq!(in_every_cut(Evidence::Proof, bytes.as_bytes()), Some(expected), "{bytes:?}");
        }
        assert_eq!(in_every_cut(Evidence::Proof, b"{ "), None);
        assert_eq!(in_every_cut(Evidence::Proof, b"id: 1\n"), None);
        let comment = format!(": {}", "x".repeat(PROOF));
        assert_eq!(opened(Evidence::Proof, &[comment.as_bytes()]).1, Some(Beginning::Other), "proof has to come soon");
    }

    #[test]
    fn text_is_told_from_what_is_none() {
        for (bytes, expected) in [
            (&b"Hello, w\xc3\xb6rld \xf0\x9f\x98\x80\r\n\tand more"[..], true),
            (b"", true),
            (b"\xc3", true),
            (b"RIFF\x24\x08\x00\x00WAVE", false),
            (b"\x89PNG", false),
            (b"caf\xe9 au lait", false),
            (b"\x1f\x8b\x08", false),
        ] {
            for size in [1, 2, 100] {
                let mut check = TextCheck::default();
                let is_text = bytes.chunks(size).all(|piece| check.is_text(piece));
                assert_eq!(is_text, expected, "{bytes:?} in pieces of {size}");
            }
        }
    }
}
