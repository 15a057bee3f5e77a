//! What a prompt weighs: its text, its media and its tokens, whatever the objects it is put in.

use super::{
    BodyError,
    json::{Kind, Reader, Text},
    outline::{Matter, Notes, Outline},
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
    /// Whether it is a string and no more.
    pub is_string: bool,
    /// How many prompts it is: of an array the elements that are not numbers, else 1 unless null.
    pub items: u64,
}

/// Where an API puts media into a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    /// `data:` URLs where a name says that a URL follows, `file_data`, and the `data` of an
    /// `input_audio`.
    OpenAi,
    /// The same, and `data:` URLs in base64 outside objects: OpenAI's embeddings as vLLM reads them.
    BareUrls,
    /// As [`OpenAi`](Self::OpenAi), and the `result` of an image that was generated before.
    Responses,
    /// The `data` of a `source` whose `type` is `base64`.
    Anthropic,
    /// The elements of `images`.
    Ollama,
    /// The `data` of an `inlineData` whose `mimeType` is not text's.
    Gemini,
}

/// Walks over the next value of `reader`, in which media is where `media` says. What the model is to read of it
/// is added to `outline`.
pub(super) fn walk(
    reader: &mut Reader<'_>,
    media: Media,
    matter: Matter,
    outline: &mut Outline,
) -> Result<Walked, BodyError> {
    let outside = reader.depth();
    let first = reader.token()?.kind;
    let walked = Walked::default();
    let notes = Notes::new(matter, outline);
    let mut walk = Walk { walked, name: "", media, images: 0, holder: Holder::default(), notes };
    walk.take(first, reader.depth());
    let list = first == Kind::ArrayStart;
    walk.walked.is_string = matches!(first, Kind::String(_));
    walk.walked.items = u64::from(!list && first != Kind::Null);
    while reader.depth() > outside {
        let element = reader.depth() == outside + 1;
        let kind = reader.token()?.kind;
        walk.take(kind, reader.depth());
        walk.walked.items += u64::from(list && element && !matches!(kind, Kind::Number(_) | Kind::ArrayEnd));
    }
    Ok(walk.walked)
}

struct Walk<'a, 'outline> {
    walked: Walked,
    /// The name whose value comes next, empty for an element.
    name: &'a str,
    media: Media,
    /// The depth within the `images` that are open, or 0.
    images: u32,
    holder: Holder<'a>,
    notes: Notes<'outline>,
}

/// An object whose `data` may be media, which is known at its end.
#[derive(Debug, Default)]
struct Holder<'a> {
    /// The depth within it; 0: none is open.
    depth: u32,
    is_media: bool,
    /// Something in it says that it is text, or could say so to somebody.
    is_text: bool,
    data: Option<Text<'a>>,
}

impl<'a> Walk<'a, '_> {
    /// Counts a token after which `depth` levels are open.
    fn take(&mut self, kind: Kind<'a>, depth: u32) {
        self.notes.take(kind, self.name, depth);
        match kind {
            Kind::Name(text) => {
                self.walked.text_bytes += text.length;
                self.name = text.raw;
                return;
            }
            Kind::String(text) if depth == self.holder.depth && depth > 0 => self.held(text, depth),
            Kind::String(text) => self.string(text, depth),
            Kind::Number(_) => self.walked.numbers += 1,
            Kind::ObjectStart if self.media.is_held_by(self.name) => self.open(depth),
            Kind::ObjectEnd if depth < self.holder.depth => self.close(),
            Kind::ArrayStart if self.media == Media::Ollama && self.name == "images" && self.images == 0 => {
                self.images = depth;
            }
            Kind::ArrayEnd if depth < self.images => self.images = 0,
            _ => {}
        }
        self.name = "";
    }

    fn open(&mut self, depth: u32) {
        // What lies around it is not looked at any more, and counts as text.
        self.holder.is_text = true;
        self.close();
        self.holder.depth = depth;
        self.holder.is_media = self.media.is_sure();
    }

    fn close(&mut self) {
        match std::mem::take(&mut self.holder) {
            Holder { data: Some(_), is_media: true, is_text: false, .. } => self.walked.media += 1,
            Holder { data: Some(data), .. } => self.text(data),
            Holder { data: None, .. } => {}
        }
    }

    /// A string of the open holder. Names and values are compared as written: what is oddly
    /// escaped counts as text, which reserves more and never less.
    fn held(&mut self, text: Text<'a>, depth: u32) {
        let holder = &mut self.holder;
        holder.is_text |= memchr::memchr(b'\\', self.name.as_bytes()).is_some();
        let says_media = match (self.media, self.name) {
            (_, "data") => {
                if let Some(earlier) = holder.data.replace(text) {
                    self.text(earlier);
                }
                return;
            }
            (Media::Anthropic, "type") => text.raw == "base64",
            (Media::Gemini, "mimeType" | "mime_type") => is_no_text(text.raw),
            _ => return self.string(text, depth),
        };
        holder.is_media |= says_media;
        holder.is_text |= !says_media;
        self.text(text);
    }

    fn string(&mut self, text: Text<'a>, depth: u32) {
        if self.is_media(text, depth) {
            self.walked.media += 1;
        } else {
            self.text(text);
        }
    }

    fn text(&mut self, text: Text<'a>) {
        self.walked.text_bytes += text.length;
        self.notes.text(self.name, text);
    }

    /// Whether a string is media by its name or place alone.
    fn is_media(&self, text: Text<'a>, depth: u32) -> bool {
        match (self.media, self.name) {
            (Media::Ollama, "") => depth == self.images,
            (Media::Ollama | Media::Anthropic | Media::Gemini, _) => false,
            (Media::Responses, "result") | (_, "file_data") => true,
            (_, "url" | "image_url" | "video_url" | "audio_url" | "file_url" | "image") => is_data_url(text.raw),
            (Media::BareUrls, "") => is_data_url(text.raw) && is_base64(text.raw),
            _ => false,
        }
    }
}

impl Media {
    /// Whether an object that goes by `name` is one whose `data` may be media.
    fn is_held_by(self, name: &str) -> bool {
        match self {
            Self::OpenAi | Self::BareUrls | Self::Responses => name == "input_audio",
            Self::Anthropic => name == "source",
            Self::Ollama => false,
            Self::Gemini => matches!(name, "inlineData" | "inline_data"),
        }
    }

    /// Whether the `data` of such an object is media whatever else stands in it.
    fn is_sure(self) -> bool {
        matches!(self, Self::OpenAi | Self::BareUrls | Self::Responses)
    }
}

/// Whether a media type (RFC 6838) is plainly none of `text`.
fn is_no_text(kind: &str) -> bool {
    let is_text = kind.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("text/"));
    !is_text && !kind.contains(['\\', ' '])
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
mod tests;
