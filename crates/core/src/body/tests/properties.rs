//! What holds of any body of any API.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::*;
use super::{
    chat,
    generate::{any_request, any_text, at, escape_beyond_ascii, layout},
    scan_text,
};

fn expected_choices(value: &Value, shape: Shape) -> u64 {
    let layout = layout(shape);
    let stated = layout.choices.iter().filter_map(|path| at(value, path).as_u64()).max();
    let prompts = layout.prompts.iter().chain(layout.media).map(|name| items(&value[*name])).sum::<u64>();
    let prompts = if shape == Shape::Completions { prompts.max(1) } else { 1 };
    stated.unwrap_or(1).max(1).saturating_mul(prompts)
}

fn items(value: &Value) -> u64 {
    match value {
        Value::Null => 0,
        Value::Array(items) => items.iter().filter(|item| !item.is_number()).count() as u64,
        _ => 1,
    }
}

fn expected_maximum(value: &Value, shape: Shape) -> Option<u64> {
    let layout = layout(shape);
    let own: Vec<_> = layout.own.iter().map(|path| at(value, path)).collect();
    let foreign: Vec<_> = layout.foreign.iter().map(|name| &value[*name]).collect();
    let is_none = |value: &&Value| value.as_i64().is_some_and(|number| number < 0);
    let is_zero = |value: &&Value| value.as_u64() == Some(0) && shape != Shape::Completions;
    if own.iter().any(is_zero) || own.iter().chain(&foreign).any(is_none) {
        return None;
    }
    let own = own.iter().filter_map(|value| value.as_u64()).max();
    let foreign = foreign.iter().filter_map(|value| value.as_u64()).max();
    own.map(|own| own.max(foreign.unwrap_or(0)))
}

/// How text is written in a body that is `text` as a whole: without its quotes.
fn written(string: &str, text: &str) -> String {
    let quoted = serde_json::to_string(string).unwrap();
    let quoted = if text.is_ascii() { escape_beyond_ascii(&quoted) } else { quoted };
    quoted[1..quoted.len() - 1].to_owned()
}

/// What a value weighs, by a walk over a tree.
struct Scale<'a> {
    shape: Shape,
    /// The whole body as it is written.
    text: &'a str,
    bytes: u64,
    media: u64,
    numbers: u64,
    in_images: bool,
}

impl Scale<'_> {
    fn weigh(&mut self, name: &str, value: &Value) {
        match value {
            Value::Number(_) => self.numbers += 1,
            Value::String(string) if self.is_media(name, string) => self.media += 1,
            Value::String(string) => self.bytes += string.len() as u64,
            Value::Array(items) if name == "images" && self.is_ollama() && !self.in_images => {
                self.in_images = true;
                self.media += items.iter().filter(|item| item.is_string()).count() as u64;
                items.iter().filter(|item| !item.is_string()).for_each(|item| self.weigh("", item));
                self.in_images = false;
            }
            Value::Array(items) => items.iter().for_each(|item| self.weigh("", item)),
            Value::Object(members) => self.members(self.is_holder(name), members),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn members(&mut self, is_holder: bool, members: &Map<String, Value>) {
        let holds_media = is_holder && self.holds_media(members);
        for (name, value) in members {
            self.bytes += name.len() as u64;
            if holds_media && name == "data" && value.is_string() {
                self.media += 1;
            } else {
                self.weigh(name, value);
            }
        }
    }

    /// Whether nothing in an object is a holder of its own.
    fn is_plain(&self, members: &Map<String, Value>) -> bool {
        members.iter().all(|(name, value)| match value {
            Value::Object(within) => !self.is_holder(name) && self.is_plain(within),
            Value::Array(items) => {
                items.iter().all(|item| self.is_plain(&Map::from_iter([(String::new(), item.clone())])))
            }
            _ => true,
        })
    }

    fn holds_media(&self, members: &Map<String, Value>) -> bool {
        let strings = || members.iter().filter_map(|(name, value)| Some((name, value.as_str()?)));
        let kinds = |names: &[&str]| {
            strings()
                .filter(|(name, _)| names.contains(&name.as_str()))
                .map(|(_, kind)| written(kind, self.text))
                .collect::<Vec<_>>()
        };
        let says_media = match self.shape {
            Shape::Messages | Shape::CountTokens => kinds(&["type"]) == ["base64"],
            Shape::GenerateContent | Shape::EmbedContent | Shape::GeminiCountTokens => {
                let kinds = kinds(&["mimeType", "mime_type"]);
                !kinds.is_empty()
                    && kinds.iter().all(|kind| !kind.to_lowercase().starts_with("text/") && !kind.contains(['\\', ' ']))
            }
            _ => true,
        };
        says_media && self.is_plain(members) && strings().all(|(name, _)| !written(name, self.text).contains('\\'))
    }

    fn is_holder(&self, name: &str) -> bool {
        match self.shape {
            Shape::Messages | Shape::CountTokens => name == "source",
            Shape::GenerateContent | Shape::EmbedContent | Shape::GeminiCountTokens => {
                ["inlineData", "inline_data"].contains(&name)
            }
            _ => name == "input_audio" && !self.is_ollama(),
        }
    }

    fn is_media(&self, name: &str, string: &str) -> bool {
        match self.shape {
            Shape::Messages
            | Shape::CountTokens
            | Shape::GenerateContent
            | Shape::EmbedContent
            | Shape::GeminiCountTokens => false,
            _ if self.is_ollama() => false,
            Shape::Responses if name == "result" => true,
            _ => ["url", "image"].contains(&name) && string.starts_with("data:"),
        }
    }

    fn is_ollama(&self) -> bool {
        matches!(self.shape, Shape::OllamaChat | Shape::OllamaGenerate | Shape::OllamaEmbed)
    }
}

proptest! {
    #[test]
    fn agrees_with_a_parser_that_builds_a_tree((shape, value, text) in any_request()) {
        let scanned = scan_text(&text, shape).unwrap();
        let layout = layout(shape);
        let by_default = matches!(shape, Shape::OllamaChat | Shape::OllamaGenerate);
        prop_assert_eq!(scanned.model.as_deref(), value["model"].as_str());
        prop_assert_eq!(scanned.stream, value["stream"].as_bool().unwrap_or(by_default));
        prop_assert_eq!(scanned.client_wants_usage, value["stream_options"]["include_usage"] == json!(true));
        prop_assert_eq!(scanned.maximum, expected_maximum(&value, shape));
        prop_assert_eq!(scanned.choices, expected_choices(&value, shape));
        let mut scale = Scale { shape, text: &text, bytes: 0, media: 0, numbers: 0, in_images: false };
        layout.texts.iter().for_each(|name| scale.weigh("", at(&value, &[name])));
        scale.numbers = 0;
        layout.prompts.iter().for_each(|name| scale.weigh("", &value[*name]));
        let media = scale.media + layout.media.iter().map(|name| items(&value[*name])).sum::<u64>();
        prop_assert_eq!((scanned.prompt_text_bytes, scanned.media), (scale.bytes, media));
        prop_assert_eq!(scanned.prompt_tokens_given, scale.numbers);
    }

    #[test]
    fn weighs_the_decoded_text(text in any_text(), name in any_text()) {
        let value = Value::Object(Map::from_iter([(name.clone(), Value::from(text.clone()))]));
        let body = escape_beyond_ascii(&json!({"messages": [value]}).to_string());
        prop_assert_eq!(chat(&body).prompt_text_bytes, (text.len() + name.len()) as u64);
    }

    /// Whatever a stranger sends is read or refused, and what is read other parsers read as well.
    #[test]
    fn nothing_is_accepted_that_is_not_json(
        (shape, _, text) in any_request(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), edit()), 1..4),
    ) {
        let mut bytes = text.into_bytes();
        for (place, edit) in edits {
            let place = place.index(bytes.len() + 1);
            match edit {
                Edit::Cut => bytes.truncate(place),
                Edit::Drop => drop(bytes.splice(place..bytes.len().min(place + 1), [])),
                Edit::Put(byte) => bytes.insert(place, byte),
            }
        }
        let accepted = scan(&Bytes::from(bytes.clone()), shape).is_ok();
        let other = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok() && std::str::from_utf8(&bytes).is_ok();
        prop_assert!(!accepted || other);
    }
}

#[derive(Debug, Clone)]
enum Edit {
    Cut,
    Drop,
    Put(u8),
}

fn edit() -> impl Strategy<Value = Edit> {
    let structural = prop::sample::select(&b"\"\\{}[],: 0-.e\n\x00tu\xef"[..]);
    prop_oneof![
        1 => Just(Edit::Cut),
        2 => Just(Edit::Drop),
        2 => structural.prop_map(Edit::Put),
        1 => any::<u8>().prop_map(Edit::Put),
    ]
}
