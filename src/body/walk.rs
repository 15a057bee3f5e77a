//! What a prompt weighs: its text, its media and its tokens, whatever the objects it is put in.

use super::{
    BodyFault,
    json::{Kind, Reader, Text},
};

/// What was found in one value.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Walked {
    /// Decoded bytes of names and strings, media excepted.
    pub text_bytes: u64,
    /// Strings that are media.
    pub media: u64,
    /// Numbers, at any depth.
    pub numbers: u64,
    /// How many prompts it is: of an array the elements that are not numbers, else 1 unless null.
    pub items: u64,
}

/// Walks over the next value of `reader`. `data:` URLs are media where a name says that a URL
/// follows, and with `bare_urls`, if in base64, outside objects too.
/// The beginning of the text is added to `sample`.
pub(super) fn walk(reader: &mut Reader<'_>, bare_urls: bool, sample: &mut String) -> Result<Walked, BodyFault> {
    let outside = reader.depth();
    let first = reader.token()?.kind;
    let mut walk = Walk { walked: Walked::default(), name: "", audio: 0, bare_urls, sample };
    walk.take(first, reader.depth());
    let list = first == Kind::ArrayStart;
    walk.walked.items = u64::from(!list && first != Kind::Null);
    while reader.depth() > outside {
        let element = reader.depth() == outside + 1;
        let kind = reader.token()?.kind;
        walk.take(kind, reader.depth());
        walk.walked.items += u64::from(list && element && !matches!(kind, Kind::Number(_) | Kind::ArrayEnd));
    }
    Ok(walk.walked)
}

/// The longest sample of a body's text, in bytes: enough to tell prose from code and one script from
/// another, and little enough to be kept while a request runs.
const SAMPLE: usize = 4096;

struct Walk<'a, 'sample> {
    walked: Walked,
    /// The name whose value comes next, empty for an element.
    name: &'a str,
    /// The depth within the `input_audio` that is open, or 0.
    audio: u32,
    bare_urls: bool,
    sample: &'sample mut String,
}

impl<'a> Walk<'a, '_> {
    /// Counts a token after which `depth` levels are open.
    fn take(&mut self, kind: Kind<'a>, depth: u32) {
        match kind {
            Kind::Name(text) => {
                self.walked.text_bytes += text.length;
                self.name = text.raw;
                return;
            }
            Kind::String(text) if self.is_media(text, depth) => self.walked.media += 1,
            Kind::String(text) => {
                self.walked.text_bytes += text.length;
                self.keep(text);
            }
            Kind::Number(_) => self.walked.numbers += 1,
            Kind::ObjectStart if self.name == "input_audio" => self.audio = depth,
            Kind::ObjectEnd if depth < self.audio => self.audio = 0,
            _ => {}
        }
        self.name = "";
    }

    /// Keeps the beginning of the text.
    fn keep(&mut self, text: Text<'_>) {
        let room = SAMPLE.saturating_sub(self.sample.len());
        if room == 0 {
            return;
        }
        let end = (0..=room.min(text.raw.len())).rev().find(|end| text.raw.is_char_boundary(*end)).unwrap_or(0);
        match text.raw.get(..end).unwrap_or_default() {
            plain if memchr::memchr(b'\\', plain.as_bytes()).is_none() => self.sample.push_str(plain),
            // A pair of surrogates that is cut here, or was never one, is a character of some kind.
            raw => {
                let characters = Text { raw, length: 0 }.characters();
                self.sample.extend(characters.map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER)));
            }
        }
        self.sample.push('\n');
    }

    /// Names and prefixes are compared as written: media that is oddly escaped counts as text,
    /// which reserves more and never less.
    fn is_media(&self, text: Text<'a>, depth: u32) -> bool {
        match self.name {
            "file_data" => true,
            "data" => depth == self.audio,
            "url" | "image_url" | "video_url" | "audio_url" | "file_url" | "image" => is_data_url(text.raw),
            "" => self.bare_urls && is_data_url(text.raw) && is_base64(text.raw),
            _ => false,
        }
    }
}

/// Whether a URL is of the `data` scheme (RFC 2397); schemes have no case.
fn is_data_url(url: &str) -> bool {
    url.as_bytes().first_chunk::<5>().is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"data:"))
}

/// Whether the head of a `data:` URL says that base64 follows. Media types are short.
fn is_base64(url: &str) -> bool {
    let head = url.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default();
    head.len() < 128 && head.ends_with(b";base64")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walked(value: &str, bare_urls: bool) -> Walked {
        walk(&mut Reader::new(value), bare_urls, &mut String::new()).unwrap()
    }

    fn weight(value: &str) -> (u64, u64) {
        let walked = walked(value, false);
        (walked.text_bytes, walked.media)
    }

    #[test]
    fn counts_names_and_strings_at_any_depth_once_decoded() {
        assert_eq!(weight(r#"[{"role":"user","content":"h\u00e9\n\ud83d\ude00"}]"#), (4 + 4 + 7 + 8, 0));
        assert_eq!(weight(r#"{"a":[["b",{"c":null,"d":true}]]}"#), (4, 0));
        assert_eq!(weight("null"), (0, 0));
    }

    #[test]
    fn media_is_counted_and_not_weighed() {
        assert_eq!(weight(r#"{"url":"data:image/png;base64,AAAA"}"#), (3, 1));
        assert_eq!(weight(r#"{"image_url":{"url":"DATA:image/png,AAAA"}}"#), (12, 1));
        assert_eq!(weight(r#"{"file":{"file_data":"AAAA"}}"#), (13, 1));
        assert_eq!(weight(r#"{"input_audio":{"format":"wav","data":"AAAA"}}"#), (11 + 6 + 3 + 4, 1));
    }

    #[test]
    fn text_that_looks_like_media_is_text() {
        assert_eq!(weight(r#"{"content":"data:AAAA"}"#), (16, 0));
        assert_eq!(weight(r#"{"url":"http://a"}"#), (11, 0));
        assert_eq!(weight(r#"{"url":["data:,A"]}"#), (10, 0));
        assert_eq!(weight(r#"{"data":"AAAA"}"#), (8, 0));
        assert_eq!(weight(r#"[{"input_audio":{}},{"x":{"data":"AAAA"}}]"#), (11 + 1 + 8, 0));
        assert_eq!(weight(r#"{"input_audio":{"x":{"data":"AAAA"}}}"#), (11 + 1 + 8, 0));
    }

    #[test]
    fn a_sample_is_the_beginning_of_the_text_without_names_and_media() {
        let sample = |value: &str| {
            let mut sample = String::new();
            walk(&mut Reader::new(value), false, &mut sample).unwrap();
            sample
        };
        let value = r#"[{"role":"user","content":[{"url":"data:,A"},{"text":"h\u00e9"}]}]"#;
        assert_eq!(sample(value), "user\nhé\n");
        let long = sample(&format!("[\"{}\",\"more\"]", "é".repeat(4000)));
        assert_eq!(long.len(), SAMPLE + 1, "{}", long.len());
    }

    #[test]
    fn bare_urls_are_media_only_where_they_may_be() {
        let url = r#"["data:image/png;base64,AAAA","data: 1, 2"]"#;
        assert_eq!(walked(url, true), Walked { text_bytes: 10, media: 1, numbers: 0, items: 2 });
        assert_eq!(walked(url, false).media, 0);
        assert_eq!(walked(r#"{"content":"data:image/png;base64,AAAA"}"#, true).media, 0);
    }

    #[test]
    fn an_array_has_as_many_prompts_as_elements_that_are_no_numbers() {
        let cases = [
            ("null", 0, 0),
            (r#""a""#, 1, 0),
            ("[]", 0, 0),
            ("[1,2,3]", 0, 3),
            ("[[1,2],[3]]", 2, 3),
            (r#"["a","b","c"]"#, 3, 0),
            (r#"["a",1,[2],{"b":["c","d"]}]"#, 3, 2),
            (r#"{"prompt_string":["a","b"]}"#, 1, 0),
        ];
        for (value, items, numbers) in cases {
            let walked = walked(value, false);
            assert_eq!((walked.items, walked.numbers), (items, numbers), "{value}");
        }
    }
}
