//! What is known of an exchange to hold an estimate against, and what nobody outside its upstream can know.

use keymeter_core::{api::Endpoint, usage::Usage};
use serde_json::Value;

use super::exchange::Exchange;

/// The output that is stated for what was delivered, or why it cannot be told.
pub fn output(exchange: &Exchange, stated: &Usage) -> Result<u64, &'static str> {
    let told = exchange.told();
    let thought = !told.reasoning.is_empty();
    if told.has_other {
        return Err("the output has pictures, sound, or what tools of the upstream's own wrote and read");
    }
    if thought && exchange.model.summarises_reasoning() {
        return Err("the reasoning is delivered as a summary, which is not what is counted");
    }
    let hidden = if thought { 0 } else { stated.reasoning };
    let output = stated.output.saturating_sub(hidden);
    if output == 0 || told.is_empty() { Err("there is no output, or none that is delivered") } else { Ok(output) }
}

/// The output that an event with text states, up to itself.
pub fn output_by_now(endpoint: Endpoint, event: &Value) -> Option<u64> {
    let has_text = event["choices"].as_array().is_some_and(|choices| !choices.is_empty());
    let usage = &event["usage"];
    match endpoint {
        Endpoint::ChatCompletions | Endpoint::Completions if has_text => {
            let reasoning = usage["completion_tokens_details"]["reasoning_tokens"].as_u64();
            Some(usage["completion_tokens"].as_u64()?.saturating_sub(reasoning.unwrap_or(0)))
        }
        Endpoint::StreamGenerateContent => event["usageMetadata"]["candidatesTokenCount"].as_u64(),
        _ => None,
    }
    .filter(|output| *output > 0)
}

/// The tokens that are stated for the prompt, or why they cannot be told from the request.
pub fn prompt(exchange: &Exchange, stated: &Usage) -> Result<u64, &'static str> {
    let prompt = stated.total().saturating_sub(stated.output);
    if exchange.scanned.media + exchange.scanned.prompt_tokens_given > 0 {
        return Err("the prompt has media, or is in tokens");
    }
    if refers_elsewhere(&exchange.request) || messages(&exchange.request).any(has_files) {
        return Err("the prompt refers to what is not in the request");
    }
    if exchange.told().has_other || exchange.model.searches() {
        return Err("the upstream added to the prompt what its own tools found");
    }
    if prompt == 0 { Err("no prompt is stated") } else { Ok(prompt) }
}

/// Whether the model is given something that is not in the request: an earlier conversation, or what a tool of the
/// upstream's own finds.
fn refers_elsewhere(request: &Value) -> bool {
    let names =
        ["previous_response_id", "conversation", "mcp_servers", "context_management", "web_search_options", "plugins"];
    let tools = request["tools"].as_array().into_iter().flatten();
    names.iter().any(|name| !request[name].is_null())
        || !request["cachedContent"].is_null()
        || request["prompt"].is_object()
        || { tools }.any(|tool| !is_given(tool))
}

fn messages(request: &Value) -> impl Iterator<Item = &Value> {
    ["messages", "input", "contents", "system", "systemInstruction"].into_iter().map(|name| &request[name])
}

/// Whether there are files in messages that the upstream fetches.
fn has_files(message: &Value) -> bool {
    const FILES: [&str; 9] = [
        "image_url",
        "video_url",
        "audio_url",
        "file_url",
        "file_id",
        "fileData",
        "file_data",
        "input_audio",
        "document_url",
    ];
    match message {
        Value::Array(parts) => parts.iter().any(has_files),
        Value::Object(members) => members.iter().any(|(name, value)| {
            let is_fetched = name == "source" && matches!(value["type"].as_str(), Some("url" | "file"));
            is_fetched || FILES.contains(&name.as_str()) || has_files(value)
        }),
        _ => false,
    }
}

/// Whether a tool is the client's own.
fn is_given(tool: &Value) -> bool {
    let declares = ["functionDeclarations", "function_declarations"].iter().any(|name| tool[name].is_array());
    let is_kind = |kind: &Value| kind.as_str().is_none_or(|kind| matches!(kind, "function" | "custom"));
    let has_name = tool["name"].is_string() || tool["function"].is_object();
    declares || has_name && (is_kind(&tool["type"]) || tool["input_schema"].is_object())
}
