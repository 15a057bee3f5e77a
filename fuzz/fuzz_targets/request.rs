//! A request's JSON, of every shape: what is read other parsers read as well, and what is spliced into it changes
//! nothing else.

#![no_main]

use std::fmt;

use bytes::Bytes;
use keymeter_core::body::{BodyError, Change, MaximumName, Outline, Scanned, Shape, scan};
use keymeter_fuzz::Input;
use libfuzzer_sys::fuzz_target;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Map, Value, json};

const SHAPES: [Shape; 21] = [
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

fuzz_target!(|data: &[u8]| {
    let input = Input::of(data);
    let body = Bytes::copy_from_slice(input.sent);
    let maximum = u64::MAX >> (input.planned(1) % 64);
    for shape in input.chosen(&SHAPES) {
        match scan(&body, *shape) {
            Ok(scanned) => {
                assert_eq!(scanned.model, model_of(&body), "{shape:?}");
                let plan = input.planned(2);
                let name = if plan & 2 == 0 { MaximumName::MaxTokens } else { MaximumName::MaxCompletionTokens };
                let change = Change { include_usage: plan & 1 == 0, maximum: Some(maximum), name, ..Change::default() };
                check_splice(&scanned, *shape, change);
            }
            Err(error) => assert!(is_for_other_reasons(&error, &body), "{shape:?}: {error}"),
        }
    }
});

/// The model that another parser finds.
fn model_of(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).expect("what is read is UTF-8");
    let Models(mut models) = serde_json::from_str(text).expect("what is read is JSON");
    assert!(models.len() < 2, "{models:?}");
    models.pop()
}

/// Each member of an object that is named `model`.
struct Models(Vec<String>);

impl<'de> Deserialize<'de> for Models {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ModelsVisitor)
    }
}

struct ModelsVisitor;

impl<'de> Visitor<'de> for ModelsVisitor {
    type Value = Models;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Models, A::Error> {
        let mut models = Vec::new();
        while let Some(Name(name)) = members.next_key()? {
            if name == b"model" {
                models.push(members.next_value()?);
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Models(models))
    }
}

/// A name as bytes: half a surrogate pair is no text, and allowed in a name that is none of ours.
struct Name(Vec<u8>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(NameVisitor)
    }
}

struct NameVisitor;

impl Visitor<'_> for NameVisitor {
    type Value = Name;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Name, E> {
        Ok(Name(bytes.to_vec()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Name, E> {
        Ok(Name(text.into()))
    }
}

/// Whether a body is refused for what it says, and not for what another parser would have taken for no JSON.
fn is_for_other_reasons(error: &BodyError, body: &[u8]) -> bool {
    let is_syntax = match error {
        BodyError::NotUtf8 { .. }
        | BodyError::ByteOrderMark
        | BodyError::NotAnObject
        | BodyError::Syntax { .. }
        | BodyError::TrailingBytes { .. } => true,
        BodyError::TooDeep { .. }
        | BodyError::DuplicateField { .. }
        | BodyError::MiscasedField { .. }
        | BodyError::WrongType { .. }
        | BodyError::LoneSurrogate { .. } => false,
        BodyError::ModelName
        | BodyError::ContentCoding
        | BodyError::OtherModel
        | BodyError::Background { .. }
        | BodyError::ContentType { .. }
        | BodyError::Form { .. }
        | BodyError::FileField { .. } => {
            return false;
        }
    };
    !is_syntax || !is_object(body)
}

fn is_object(body: &[u8]) -> bool {
    let is_json = std::str::from_utf8(body).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    is_json && body.trim_ascii_start().starts_with(b"{")
}

fn check_splice(scanned: &Scanned, shape: Shape, change: Change) {
    let spliced = scanned.splice(&change);
    let again = scan(&spliced, shape).expect("what is spliced is as good as it was");
    assert_eq!(again.splice(&change), spliced, "doing it again changes nothing");
    let asks = change.include_usage && matches!(shape, Shape::Chat | Shape::Completions);
    assert_eq!(again.client_wants_usage, asks || scanned.client_wants_usage);
    assert!(again.maximum <= change.maximum, "{again:?}");
    assert!(scanned.maximum.is_none_or(|before| again.maximum == Some(before.min(change.maximum.unwrap_or(before)))));
    let unchanged = |of: &Scanned| {
        let Scanned { stream, choices, prompts, prompt_text_bytes, media, prompt_tokens_given, .. } = *of;
        let Outline { prose, json, .. } = &of.outline;
        let outline = (format!("{:?}", of.outline), [prose, json].map(|text| text.pieces().collect::<String>()));
        (of.model.clone(), outline, stream, choices, prompts, prompt_text_bytes, media, prompt_tokens_given)
    };
    assert_eq!(unchanged(&again), unchanged(scanned));
    let trees = [scanned.body(), &spliced].map(|body| serde_json::from_slice(body));
    if let [Ok(Value::Object(before)), Ok(Value::Object(after))] = trees {
        assert_eq!(rest(after), rest(before), "{shape:?}");
    }
}

/// What of a request no splice changes.
fn rest(mut members: Map<String, Value>) -> Map<String, Value> {
    for (object, name) in [
        ("stream_options", "include_usage"),
        ("options", "num_predict"),
        ("generationConfig", "maxOutputTokens"),
        ("generationConfig", "max_output_tokens"),
        ("generation_config", "maxOutputTokens"),
        ("generation_config", "max_output_tokens"),
    ] {
        let within = members.entry(object).or_insert_with(|| json!({}));
        if within.is_null() {
            *within = json!({});
        }
        within.as_object_mut().map(|within| within.remove(name));
    }
    for name in ["max_tokens", "max_completion_tokens", "n_predict", "max_output_tokens"] {
        members.remove(name);
    }
    members
}
