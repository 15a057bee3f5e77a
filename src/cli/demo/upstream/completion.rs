//! The demo upstream's completions: canned text chosen by the prompt, cut at the request's maximum, and
//! put into the forms of OpenAI's chat and text completions, whole or as a stream of events.

use serde::Deserialize;
use serde_json::{Value, json};

use super::failure::Failure;

/// Which of the two APIs is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `POST /v1/chat/completions`
    Chat,
    /// `POST /v1/completions`
    Text,
}

/// What makes one completion different from all others.
pub struct Stamp {
    /// Becomes the end of the completion's id.
    pub id: String,
    /// In seconds since 1970.
    pub created: u64,
}

/// A completion, ready to be sent.
#[derive(Debug)]
pub struct Completion {
    api: Api,
    id: String,
    created: u64,
    model: String,
    stream: bool,
    include_usage: bool,
    answer: Answer,
    prompt_tokens: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    pieces: Vec<String>,
    tokens: u64,
    finish_reason: &'static str,
}

#[derive(Deserialize)]
struct Request {
    model: String,
    messages: Option<Vec<Message>>,
    prompt: Option<Prompt>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    n: Option<u64>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<Content>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    text: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Prompt {
    One(String),
    Many(Vec<String>),
}

/// What `/v1/completions` generates where the request states no maximum, in tokens (OpenAI's API reference).
const TEXT_DEFAULT_MAXIMUM: u64 = 16;

const PARAGRAPHS: [&str; 5] = [
    "A token bucket is a fine picture and a poor promise: it lets a full bucket and a minute's refill go out \
     within the same minute. A sliding window remembers when each request came, and so can say with certainty \
     that no sixty seconds ever held more than was agreed.",
    "Tides come twice a day because the Moon pulls harder on the near side of the Earth than on its centre, and \
     harder on the centre than on the far side. The oceans bulge on both sides, and the shores turn beneath \
     them; the Sun, further away, adds or takes about half as much again.",
    "To make a simple bread, stir 500 g of flour, 350 g of water, 10 g of salt and a little yeast until no dry \
     flour is left. Fold the dough four times in two hours, let it rest overnight in the cold, and bake it in a \
     covered pot: 30 minutes with the lid on, 15 without.",
    "Das Wort „Gateway“ meint ein Tor, durch das alle müssen – naïve callers included. Who keeps the gate knows \
     who went through, how often, and what it cost; 数えることは、知ることである (to count is to know).",
    "Sorting by merging works in two steps: split the list until every part has one element, then join the parts \
     in order.\n\n1. Take the smaller head of the two lists.\n2. Append it to the result.\n3. Stop when both lists \
     are empty.\n\nEach level touches every element once, so the whole takes n log n steps.",
];

impl Completion {
    /// The answer to this body. The prompt is counted as one text: what the messages say, a line each.
    pub fn answer(api: Api, body: &[u8], stamp: &Stamp, count_tokens: fn(&str) -> u64) -> Result<Self, Failure> {
        let request: Request = serde_json::from_slice(body)?;
        let maximum = maximum(api, &request)?;
        check_stream_options(&request)?;
        let prompt = prompt(api, &request)?;
        let prefix = if api == Api::Chat { "chatcmpl" } else { "cmpl" };
        Ok(Self {
            api,
            id: format!("{prefix}-{}", stamp.id),
            created: stamp.created,
            stream: request.stream.unwrap_or_default(),
            include_usage: request.stream_options.and_then(|options| options.include_usage).unwrap_or_default(),
            answer: answer(&canned(&prompt), maximum, count_tokens),
            prompt_tokens: count_tokens(&prompt),
            model: request.model,
        })
    }

    /// Whether the request asks for events.
    pub fn is_stream(&self) -> bool {
        self.stream
    }

    /// Of how many pieces the text is.
    pub fn pieces(&self) -> u32 {
        u32::try_from(self.answer.pieces.len()).unwrap_or(u32::MAX)
    }

    /// The completion as one JSON object.
    pub fn whole(&self) -> Value {
        let text = self.answer.pieces.concat();
        let content = match self.api {
            Api::Chat => ("message", json!({"role": "assistant", "content": text, "refusal": null})),
            Api::Text => ("text", json!(text)),
        };
        let object = if self.api == Api::Chat { "chat.completion" } else { "text_completion" };
        let mut whole = self.object(object, &json!([choice(content, Some(self.answer.finish_reason))]));
        if let Some(fields) = whole.as_object_mut() {
            fields.insert("usage".to_owned(), self.usage());
        }
        whole
    }

    /// The completion as server-sent events, the last of which is `[DONE]`: each to be written as it is.
    pub fn events(&self) -> impl Iterator<Item = String> {
        let role = (self.api == Api::Chat)
            .then(|| self.chunk(&json!([choice(("delta", json!({"role": "assistant", "content": ""})), None)])));
        let pieces = self.answer.pieces.iter().map(|piece| self.chunk(&json!([choice(self.delta(piece), None)])));
        let end = match self.api {
            Api::Chat => ("delta", json!({})),
            Api::Text => ("text", json!("")),
        };
        let finish = self.chunk(&json!([choice(end, Some(self.answer.finish_reason))]));
        let usage = self.include_usage.then(|| self.usage_chunk());
        let chunks = role.into_iter().chain(pieces).chain([finish]).chain(usage);
        chunks.map(|chunk| format!("data: {chunk}\n\n")).chain(["data: [DONE]\n\n".to_owned()])
    }

    fn delta(&self, piece: &str) -> (&'static str, Value) {
        match self.api {
            Api::Chat => ("delta", json!({"content": piece})),
            Api::Text => ("text", json!(piece)),
        }
    }

    /// One event. Where usage is asked for, the others say that they have none (OpenAI's API reference).
    fn chunk(&self, choices: &Value) -> Value {
        let object = if self.api == Api::Chat { "chat.completion.chunk" } else { "text_completion" };
        let mut chunk = self.object(object, choices);
        if self.include_usage
            && let Some(fields) = chunk.as_object_mut()
        {
            fields.insert("usage".to_owned(), Value::Null);
        }
        chunk
    }

    fn usage_chunk(&self) -> Value {
        let mut chunk = self.chunk(&json!([]));
        if let Some(fields) = chunk.as_object_mut() {
            fields.insert("usage".to_owned(), self.usage());
        }
        chunk
    }

    fn object(&self, object: &str, choices: &Value) -> Value {
        json!({"id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices})
    }

    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.answer.tokens,
            "total_tokens": self.prompt_tokens + self.answer.tokens,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        })
    }
}

/// A number for a text, the same in every process (FNV-1a, 64 bits).
pub fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

fn choice((name, content): (&str, Value), finish_reason: Option<&str>) -> Value {
    json!({"index": 0, name: content, "logprobs": null, "finish_reason": finish_reason})
}

fn maximum(api: Api, request: &Request) -> Result<Option<u64>, Failure> {
    if request.n.is_some_and(|choices| choices != 1) {
        return Err(Failure::invalid("n", "must be 1: this server gives one choice"));
    }
    let (param, stated) = match (api, request.max_completion_tokens) {
        (Api::Chat, Some(maximum)) => ("max_completion_tokens", Some(maximum)),
        _ => ("max_tokens", request.max_tokens),
    };
    match (api, stated) {
        (_, Some(0)) => Err(Failure::invalid(param, "must be at least 1")),
        (Api::Text, None) => Ok(Some(TEXT_DEFAULT_MAXIMUM)),
        (_, stated) => Ok(stated),
    }
}

fn check_stream_options(request: &Request) -> Result<(), Failure> {
    match (&request.stream_options, request.stream) {
        (Some(_), None | Some(false)) => {
            Err(Failure::invalid("stream_options", "is allowed only where `stream` is true"))
        }
        _ => Ok(()),
    }
}

fn prompt(api: Api, request: &Request) -> Result<String, Failure> {
    match (api, &request.messages, &request.prompt) {
        (Api::Chat, None, _) => Err(Failure::invalid("messages", "is missing; give a list of messages")),
        (Api::Chat, Some(messages), _) if messages.is_empty() => {
            Err(Failure::invalid("messages", "is empty; give at least one message"))
        }
        (Api::Chat, Some(messages), _) => Ok(messages.iter().map(said).collect::<Vec<_>>().join("\n")),
        (Api::Text, _, Some(Prompt::One(prompt))) => Ok(prompt.clone()),
        (Api::Text, _, Some(Prompt::Many(prompts))) => match prompts.as_slice() {
            [prompt] => Ok(prompt.clone()),
            _ => Err(Failure::invalid("prompt", "must be one text: this server gives one choice")),
        },
        (Api::Text, _, None) => Err(Failure::invalid("prompt", "is missing; give a text")),
    }
}

fn said(message: &Message) -> String {
    match &message.content {
        None => String::new(),
        Some(Content::Text(text)) => text.clone(),
        Some(Content::Parts(parts)) => parts.iter().filter_map(|part| part.text.as_deref()).collect(),
    }
}

/// Two different paragraphs, chosen by the prompt.
fn canned(prompt: &str) -> String {
    let count = PARAGRAPHS.len() as u64;
    let first = hash(prompt) % count;
    let second = (first + 1 + hash(prompt) / count % (count - 1)) % count;
    let paragraph = |place| PARAGRAPHS.iter().zip(0..).find(|(_, number)| *number == place).map(|(text, _)| *text);
    [first, second].into_iter().filter_map(paragraph).collect::<Vec<_>>().join("\n\n")
}

/// The text in pieces, as far as the maximum allows.
fn answer(text: &str, maximum: Option<u64>, count_tokens: fn(&str) -> u64) -> Answer {
    let allowed = |text: &str| maximum.is_none_or(|maximum| count_tokens(text) <= maximum);
    let (delivered, finish_reason) = if allowed(text) { (text, "stop") } else { (cut(text, allowed), "length") };
    let pieces = pieces(delivered).map(str::to_owned).collect();
    Answer { pieces, tokens: count_tokens(delivered), finish_reason }
}

/// The start of a text that is just allowed: whole pieces, and of the next one as many characters as go.
fn cut(text: &str, allowed: impl Fn(&str) -> bool) -> &str {
    let mut end = 0;
    for piece in pieces(text) {
        let next = end + piece.len();
        if !text.get(..next).is_some_and(&allowed) {
            let mut starts = piece.char_indices().rev().filter_map(|(place, _)| text.get(..end + place));
            return starts.find(|start| allowed(start)).unwrap_or_default();
        }
        end = next;
    }
    text
}

/// Words, each with the space before it: what a model's tokens look like. Joined, they are the whole text.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let word = rest.find(|character: char| !character.is_whitespace()).unwrap_or(rest.len());
        let after = rest.get(word..)?.find(char::is_whitespace).map_or(rest.len(), |length| word + length);
        let (piece, remaining) = rest.split_at_checked(after)?;
        rest = remaining;
        Some(piece)
    })
}
