//! What a response delivered, read apart from the library: by a tree of each document.

use std::collections::BTreeMap;

use keymeter_core::{api::Endpoint, usage::count_tokens};
use serde_json::Value;

/// Texts that were delivered, each piece put to what it belongs to.
pub struct Told {
    endpoint: Endpoint,
    texts: BTreeMap<String, String>,
    pub reasoning: String,
    /// There was something that is no text, or that the upstream did on its own.
    pub has_other: bool,
}

impl Told {
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, texts: BTreeMap::new(), reasoning: String::new(), has_other: false }
    }

    /// The tokens of all of it.
    pub fn tokens(&self) -> u64 {
        self.texts.values().map(|text| count_tokens(text)).sum::<u64>() + count_tokens(&self.reasoning)
    }

    pub fn is_empty(&self) -> bool {
        self.texts.values().all(String::is_empty) && self.reasoning.is_empty()
    }

    /// Reads the next document.
    pub fn read(&mut self, event: &Value) {
        match self.endpoint {
            Endpoint::ChatCompletions | Endpoint::Completions => self.choices(event),
            Endpoint::Responses => self.responses(event),
            Endpoint::Messages => self.messages(event),
            Endpoint::GenerateContent | Endpoint::StreamGenerateContent => self.candidates(event),
            Endpoint::OllamaChat | Endpoint::OllamaGenerate => self.ollama(event),
            _ => {}
        }
    }

    fn choices(&mut self, event: &Value) {
        for (place, choice) in elements(&event["choices"]).enumerate() {
            let index = choice["index"].as_u64().unwrap_or(place as u64);
            let message = if choice["delta"].is_object() { &choice["delta"] } else { &choice["message"] };
            self.add(&format!("{index} text"), &choice["text"]);
            self.add(&format!("{index} text"), &message["content"]);
            self.add(&format!("{index} refusal"), &message["refusal"]);
            for part in elements(&message["content"]) {
                self.add(&format!("{index} text"), &part["text"]);
                elements(&part["thinking"]).for_each(|thought| self.think(&thought["text"]));
            }
            let reasoning = if message["reasoning"].is_string() { "reasoning" } else { "reasoning_content" };
            self.think(&message[reasoning]);
            self.call(&format!("{index} call"), &message["function_call"]);
            for (place, call) in elements(&message["tool_calls"]).enumerate() {
                let which = call["index"].as_u64().unwrap_or(place as u64);
                self.call(&format!("{index} call {which}"), &call["function"]);
                self.call(&format!("{index} call {which}"), &call["custom"]);
            }
            let others = ["audio", "images", "executed_tools"];
            self.has_other |= others.iter().any(|name| !message[*name].is_null());
            self.has_other |= message["annotations"].as_array().is_some_and(|notes| !notes.is_empty());
        }
    }

    fn call(&mut self, which: &str, function: &Value) {
        self.add(&format!("{which} name"), &function["name"]);
        self.add(&format!("{which} arguments"), &function["arguments"]);
        self.add(&format!("{which} arguments"), &function["input"]);
    }

    fn responses(&mut self, event: &Value) {
        let item = &event["item"];
        let which = event["output_index"].to_string();
        match event["type"].as_str().unwrap_or_default() {
            "response.output_item.added" => {
                self.has_other |= is_other_item(item);
                self.add(&format!("{which} name"), &item["name"]);
            }
            kind if is_delta(kind) && kind.starts_with("response.reasoning") => self.think(&event["delta"]),
            kind if is_delta(kind) => {
                self.add(&format!("{which} {}", event["content_index"]), &event["delta"]);
            }
            _ => elements(&event["output"]).enumerate().for_each(|(place, item)| self.item(place, item)),
        }
    }

    fn item(&mut self, place: usize, item: &Value) {
        self.has_other |= is_other_item(item);
        let is_reasoning = item["type"] == "reasoning";
        for part in elements(&item["content"]).chain(elements(&item["summary"])) {
            if is_reasoning {
                self.think(&part["text"]);
            } else {
                self.add(&format!("{place} text"), &part["text"]);
                self.add(&format!("{place} text"), &part["refusal"]);
            }
        }
        self.call(&place.to_string(), item);
    }

    fn messages(&mut self, event: &Value) {
        let (which, delta) = (event["index"].to_string(), &event["delta"]);
        elements(&event["content"]).enumerate().for_each(|(place, block)| self.block(&place.to_string(), block));
        self.block(&which, &event["content_block"]);
        self.add(&which, &delta["text"]);
        self.add(&format!("{which} input"), &delta["partial_json"]);
        self.think(&delta["thinking"]);
    }

    fn block(&mut self, which: &str, block: &Value) {
        let kind = block["type"].as_str().unwrap_or_default();
        self.has_other |= !matches!(kind, "" | "text" | "tool_use" | "thinking");
        self.add(which, &block["text"]);
        self.add(&format!("{which} name"), &block["name"]);
        self.think(&block["thinking"]);
        if block["input"].as_object().is_some_and(|input| !input.is_empty()) {
            self.add(&format!("{which} input"), &block["input"]);
        }
    }

    fn candidates(&mut self, event: &Value) {
        for (place, candidate) in elements(&event["candidates"]).enumerate() {
            let index = candidate["index"].as_u64().unwrap_or(place as u64);
            for part in elements(&candidate["content"]["parts"]) {
                let call = &part["functionCall"];
                if part["thought"] == true {
                    self.think(&part["text"]);
                } else {
                    self.add(&format!("{index} text"), &part["text"]);
                }
                if call.is_object() {
                    let which = format!("{index} call {}", self.texts.len());
                    self.add(&format!("{which} name"), &call["name"]);
                    self.add(&format!("{which} args"), &call["args"]);
                }
                let known = ["text", "thought", "thoughtSignature", "functionCall"];
                let mut names = part.as_object().into_iter().flat_map(|part| part.keys());
                self.has_other |= names.any(|name| !known.contains(&name.as_str()));
            }
        }
    }

    fn ollama(&mut self, event: &Value) {
        let message = &event["message"];
        self.add("text", &event["response"]);
        self.add("text", &message["content"]);
        self.think(&event["thinking"]);
        self.think(&message["thinking"]);
        for call in elements(&message["tool_calls"]) {
            let which = format!("call {}", self.texts.len());
            self.call(&which, &call["function"]);
        }
    }

    /// Text as it is; what is an object, as JSON.
    fn add(&mut self, which: &str, value: &Value) {
        let text = self.texts.entry(which.to_owned()).or_default();
        match value {
            Value::String(piece) => text.push_str(piece),
            Value::Object(_) => text.push_str(&value.to_string()),
            _ => {}
        }
    }

    fn think(&mut self, value: &Value) {
        self.reasoning.push_str(value.as_str().unwrap_or_default());
    }
}

fn is_delta(kind: &str) -> bool {
    kind.rsplit('.').next() == Some("delta")
}

fn is_other_item(item: &Value) -> bool {
    let kind = item["type"].as_str().unwrap_or_default();
    !matches!(kind, "message" | "function_call" | "custom_tool_call" | "reasoning")
}

fn elements(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
