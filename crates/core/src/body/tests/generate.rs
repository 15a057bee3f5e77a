//! Any request of any API, and what a reader that builds a tree makes of it.

use proptest::prelude::*;
use serde_json::{Map, Value};

use super::super::Shape;

/// What a request of a shape may have, as its API's reference says.
pub struct Layout {
    pub streams: bool,
    /// The API's own maximum as paths, in the first of which one is set, and others' that are lowered.
    pub own: &'static [&'static [&'static str]],
    pub foreign: &'static [&'static str],
    pub choices: &'static [&'static [&'static str]],
    /// Text, and text that may be tokens.
    pub texts: &'static [&'static str],
    pub prompts: &'static [&'static str],
    /// Lists of media.
    pub media: &'static [&'static str],
    /// The object that holds what `own` and `choices` have below.
    pub object: Option<&'static str>,
}

const NOTHING: Layout =
    Layout { streams: false, own: &[], foreign: &[], choices: &[], texts: &[], prompts: &[], media: &[], object: None };

const TEXT: Layout = Layout {
    streams: true,
    foreign: &["max_tokens", "max_completion_tokens", "n_predict"],
    choices: &[&["n"], &["n_cmpl"], &["best_of"]],
    texts: &["messages", "system", "suffix", "tools", "functions", "response_format", "documents", "chat_template"],
    prompts: &["prompt", "input"],
    media: &["prompt_embeds"],
    ..NOTHING
};

const MESSAGES: Layout = Layout {
    streams: true,
    texts: &["system", "messages", "tools", "output_config", "output_format", "chat_template_kwargs"],
    ..NOTHING
};

const OLLAMA: Layout =
    Layout { streams: true, own: &[&["options", "num_predict"]], object: Some("options"), ..NOTHING };

pub fn layout(shape: Shape) -> Layout {
    match shape {
        Shape::Chat => Layout { own: &[&["max_tokens"], &["max_completion_tokens"]], ..TEXT },
        Shape::Completions => Layout { own: &[&["max_tokens"]], ..TEXT },
        Shape::Embeddings => TEXT,
        Shape::Responses => Layout {
            own: &[&["max_output_tokens"]],
            choices: &[&["n"], &["n_cmpl"]],
            texts: &["input", "instructions", "prompt", "tools", "text", "response_format", "chat_template"],
            prompts: &[],
            media: &[],
            ..TEXT
        },
        Shape::Moderations | Shape::OllamaEmbed => Layout { texts: &["input"], ..NOTHING },
        Shape::Rerank => Layout { texts: &["query", "documents", "texts"], ..NOTHING },
        Shape::Score => Layout { prompts: &["text_1", "text_2", "data_1", "queries", "documents", "items"], ..NOTHING },
        Shape::Pooling => Layout {
            texts: &["messages", "data", "chat_template"],
            prompts: &["input"],
            media: &["prompt_embeds"],
            ..NOTHING
        },
        Shape::Tokenize => {
            Layout { texts: &["messages", "tools"], prompts: &["prompt", "content", "tokens"], ..NOTHING }
        }
        Shape::Images => Layout { streams: true, choices: &[&["n"]], texts: &["prompt"], ..NOTHING },
        Shape::Speech => Layout { streams: true, texts: &["input", "instructions"], ..NOTHING },
        Shape::Messages => Layout { own: &[&["max_tokens"]], ..MESSAGES },
        Shape::CountTokens => MESSAGES,
        Shape::OllamaChat => Layout { texts: &["messages", "tools"], ..OLLAMA },
        Shape::OllamaGenerate => Layout {
            texts: &["prompt", "suffix", "system", "template"],
            prompts: &["context"],
            media: &["images"],
            ..OLLAMA
        },
        Shape::GenerateContent => Layout {
            own: &[&["generationConfig", "maxOutputTokens"]],
            choices: &[&["generationConfig", "candidateCount"]],
            texts: &["contents", "systemInstruction", "tools"],
            object: Some("generationConfig"),
            ..NOTHING
        },
        Shape::EmbedContent => Layout { texts: &["content", "title"], ..NOTHING },
        Shape::GeminiCountTokens => Layout { texts: &["contents"], ..NOTHING },
        // Its texts lie deeper.
        Shape::Form | Shape::BatchEmbedContents | Shape::OllamaShow => NOTHING,
    }
}

/// Every shape that is JSON.
pub const SHAPES: [Shape; 21] = [
    Shape::Chat,
    Shape::Completions,
    Shape::Responses,
    Shape::Embeddings,
    Shape::Moderations,
    Shape::Rerank,
    Shape::Score,
    Shape::Pooling,
    Shape::Tokenize,
    Shape::Images,
    Shape::Speech,
    Shape::Messages,
    Shape::CountTokens,
    Shape::OllamaChat,
    Shape::OllamaGenerate,
    Shape::OllamaEmbed,
    Shape::OllamaShow,
    Shape::GenerateContent,
    Shape::EmbedContent,
    Shape::BatchEmbedContents,
    Shape::GeminiCountTokens,
];

/// Text with what JSON escapes, what it may, and what lies outside the basic plane.
pub fn any_text() -> impl Strategy<Value = String> {
    let pieces = ["a", "data:", "\"", "\\", "/", "\n", "\u{0}", "\u{1f}", "é", "€", "😀", "\u{7f}", "{", "]", ","];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..6).prop_map(|pieces| pieces.concat())
}

/// The same, as a model may be called.
fn any_model() -> impl Strategy<Value = String> {
    any_text().prop_map(|text| format!("m{}", text.replace(char::is_control, "")))
}

fn any_value() -> impl Strategy<Value = Value> {
    let names = [
        "model",
        "include_usage",
        "url",
        "data",
        "input_audio",
        "content",
        "x",
        "é",
        "source",
        "type",
        "inlineData",
        "inline_data",
        "mimeType",
        "mime_type",
        "images",
        "result",
        "image",
    ];
    let words = ["base64", "image/png", "text/plain", "TEXT/x"];
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<i16>().prop_map(|quarters| Value::from(f64::from(quarters) / 4.0)),
        4 => any_text().prop_map(Value::from),
        2 => prop::sample::select(words.to_vec()).prop_map(Value::from),
    ];
    let media = holder(leaf.clone());
    leaf.prop_recursive(4, 24, 4, move |inner| {
        let member = (prop::sample::select(names.to_vec()).prop_map(str::to_owned), inner.clone());
        prop_oneof![
            2 => prop::collection::vec(inner, 0..4).prop_map(Value::from),
            3 => prop::collection::vec(member, 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
            2 => media.clone(),
        ]
    })
}

/// An object of those that hold media, and what may be in it.
fn holder(leaf: impl Strategy<Value = Value> + Clone + 'static) -> impl Strategy<Value = Value> + Clone {
    let holders = ["source", "inlineData", "inline_data", "input_audio", "images"];
    let names = ["data", "type", "mimeType", "mime_type", "é", "url"];
    let member = (prop::sample::select(names.to_vec()).prop_map(str::to_owned), leaf);
    let within = prop::collection::vec(member, 0..5).prop_map(|members| members.into_iter().collect::<Map<_, _>>());
    (prop::sample::select(holders.to_vec()), within)
        .prop_map(|(holder, within)| Value::Object(Map::from_iter([(holder.to_owned(), Value::Object(within))])))
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![Just(Value::Null), (0..9_u64).prop_map(Value::from), any::<u64>().prop_map(Value::from)]
}

/// A maximum: below zero it means none.
fn signed() -> impl Strategy<Value = Value> {
    prop_oneof![number(), (-2..2_i64).prop_map(Value::from), any::<i64>().prop_map(Value::from)]
}

fn boolean() -> impl Strategy<Value = Value> {
    prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from)]
}

/// Null, or an object with some of `members` and another.
fn object(members: Vec<(String, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    let stated: Vec<_> = members.into_iter().map(|(name, value)| prop::option::of((Just(name), value))).collect();
    let other = prop::option::of((Just("other".to_owned()), any_value()));
    let object = (stated, other).prop_map(|(stated, other)| stated.into_iter().flatten().chain(other).collect());
    prop_oneof![1 => Just(Value::Null), 4 => object.prop_map(Value::Object)].boxed()
}

fn member(shape: Shape) -> BoxedStrategy<(String, Value)> {
    let layout = layout(shape);
    let named = |name: &str, value: BoxedStrategy<Value>| (Just(name.to_owned()), value).boxed();
    let mut members = vec![named("model", any_model().prop_map(Value::from).boxed())];
    for name in [layout.texts, layout.prompts, layout.media, &["a", "é\n", "temperature"]].concat() {
        members.push(named(name, any_value().boxed()));
    }
    if layout.streams {
        members.push(named("stream", boolean().boxed()));
    }
    if layout.streams && layout.media == ["prompt_embeds"] {
        let options = object(vec![("include_usage".to_owned(), boolean().boxed())]);
        members.extend(std::iter::repeat_n(named("stream_options", options), 4));
    }
    let mut within = Vec::new();
    let maximums = layout.own.iter().map(|path| (path, signed().boxed()));
    for (path, integer) in maximums.chain(layout.choices.iter().map(|path| (path, number().boxed()))) {
        match path {
            [name] => members.extend(std::iter::repeat_n(named(name, integer), 3)),
            [.., name] => within.push(((*name).to_owned(), integer)),
            [] => {}
        }
    }
    for name in layout.foreign {
        members.push(named(name, signed().boxed()));
    }
    if let Some(name) = layout.object {
        members.extend(std::iter::repeat_n(named(name, object(within)), 5));
    }
    prop::strategy::Union::new(members).boxed()
}

/// A request's shape, what its body means and how it may be written.
pub fn any_request() -> impl Strategy<Value = (Shape, Value, String)> {
    prop::sample::select(&SHAPES[..])
        .prop_flat_map(|shape| any_body(shape).prop_map(move |(value, text)| (shape, value, text)))
}

pub fn any_body(shape: Shape) -> impl Strategy<Value = (Value, String)> {
    let object = prop::collection::vec(member(shape), 0..9);
    let object = object.prop_map(|members| Value::Object(members.into_iter().collect()));
    (object, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(move |(value, pretty, escaped, snake)| {
        let value = if snake && shape == Shape::GenerateContent { in_snake_case(&value) } else { value };
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        let text = text.unwrap();
        let text = if escaped { escape_beyond_ascii(&text) } else { text };
        (value, text)
    })
}

const SNAKES: [(&str, &str); 4] = [
    ("generationConfig", "generation_config"),
    ("maxOutputTokens", "max_output_tokens"),
    ("candidateCount", "candidate_count"),
    ("systemInstruction", "system_instruction"),
];

/// The same with the fields named as protobuf's schema does.
fn in_snake_case(value: &Value) -> Value {
    let snake = |name: &String| SNAKES.iter().find(|(camel, _)| camel == name).map(|(_, snake)| (*snake).to_owned());
    match value {
        Value::Object(members) => Value::Object(
            members.iter().map(|(name, value)| (snake(name).unwrap_or(name.clone()), in_snake_case(value))).collect(),
        ),
        other => other.clone(),
    }
}

/// The name that `value` has for `name`, in whichever case.
pub fn name_in(value: &Value, name: &'static str) -> &'static str {
    let snake = SNAKES.iter().find(|(camel, _)| *camel == name).map(|(_, snake)| *snake);
    snake.filter(|snake| value.get(snake).is_some()).unwrap_or(name)
}

/// What stands at `path`, in whichever case.
pub fn at<'a>(value: &'a Value, path: &[&'static str]) -> &'a Value {
    path.iter().fold(value, |value, name| &value[name_in(value, name)])
}

pub fn escape_beyond_ascii(text: &str) -> String {
    let mut units = [0; 2];
    let escape = |character: char| match character {
        ascii if ascii.is_ascii() => ascii.to_string(),
        other => other.encode_utf16(&mut units).iter().fold(String::new(), |text, unit| format!("{text}\\u{unit:04x}")),
    };
    text.chars().map(escape).collect()
}
