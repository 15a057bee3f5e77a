//! What a prompt is made of, as far as its size in tokens depends on it: the text that the model reads, without what is
//! for the API's own use, and how often the chat template puts its tags around some of it.

use super::{
    json::{Kind, Text},
    sample::Sample,
};

/// A prompt without its media. The model reads two kinds of text, which differ in what a byte of them takes.
#[derive(Clone, Debug, Default)]
pub struct Outline {
    /// What is said: messages, instructions, names of tools that are called.
    pub prose: Sample,
    /// What the chat template writes as JSON, without its punctuation: tools and schemas; what tools are called with, and
    /// what Gemini's answer.
    pub json: Sample,
    /// Names and values in it, each of which has punctuation around it.
    pub json_parts: u64,
    /// Messages, instructions and tools' answers.
    pub messages: u64,
    /// Those of them that are a system's or a developer's.
    pub instructions: u64,
    /// Calls of tools that were made in earlier turns.
    pub calls: u64,
    /// Tools that may be called, as far as they have parameters.
    pub tools: u64,
    /// Whether there are tools that may be called.
    pub has_tools: bool,
    /// Whether the answer is to follow a schema.
    pub has_format: bool,
}

/// What the model makes of a field's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Matter {
    /// It is told: messages. Names are the API's own, but within what a tool is called with or answers.
    Said,
    /// It is told above all messages.
    Instructed,
    /// It is shown: tools, names and all.
    Declared,
    /// It is shown the form of the answer, names and all.
    Formed,
    /// It is held to it and does not read it.
    Imposed,
}

/// Follows a walk over a field's value.
pub(super) struct Notes<'outline> {
    matter: Matter,
    /// The depth within the object that a tool is called with or answers, or 0.
    written: u32,
    /// The depth within what the model thought, or 0.
    thought: u32,
    outline: &'outline mut Outline,
}

impl<'outline> Notes<'outline> {
    pub fn new(matter: Matter, outline: &'outline mut Outline) -> Self {
        Self { matter, written: 0, thought: 0, outline }
    }

    /// Notes what goes by `name`, after which `depth` levels are open. Texts come to [`text`](Self::text), unless they
    /// are media.
    pub fn take(&mut self, kind: Kind<'_>, name: &str, depth: u32) {
        match kind {
            Kind::Name(name) => self.name(name),
            Kind::Number(raw) if !self.is_said() => self.json(Text { raw, length: raw.len() as u64 }),
            Kind::String(_) if self.is_said() => self.outline.calls += u64::from(name == "arguments"),
            Kind::ObjectStart if self.is_said() && is_written(name) => {
                self.written = depth;
                self.outline.calls += u64::from(name != "response");
            }
            Kind::ArrayStart if self.is_said() && is_thought(name) => self.thought = depth,
            Kind::ObjectEnd if depth < self.written => self.written = 0,
            Kind::ArrayEnd if depth < self.thought => self.thought = 0,
            _ => {}
        }
    }

    /// A text that goes by `name`.
    pub fn text(&mut self, name: &str, text: Text<'_>) {
        match name {
            _ if !self.is_said() => self.json(text),
            "arguments" => self.json(text),
            "role" => self.outline.instructions += u64::from(matches!(text.raw, "system" | "developer")),
            _ if self.thought > 0 || is_thought(name) || is_bookkeeping(name) => {}
            _ => self.outline.prose.add(text.raw, text.length, decode),
        }
    }

    fn name(&mut self, name: Text<'_>) {
        if self.is_said() {
            self.outline.messages += u64::from(matches!(name.raw, "role" | "output"));
        } else {
            match self.matter {
                Matter::Declared => self.outline.tools += u64::from(is_parameters(name.raw)),
                Matter::Formed => self.outline.has_format |= is_schema(name.raw),
                _ => {}
            }
            self.json(name);
        }
    }

    /// Whether names are the API's own here.
    fn is_said(&self) -> bool {
        matches!(self.matter, Matter::Said | Matter::Instructed) && self.written == 0
    }

    fn json(&mut self, text: Text<'_>) {
        // Of the form of the answer, what is not of its schema is for the API's own use.
        let is_read = match self.matter {
            Matter::Imposed => false,
            Matter::Formed => self.outline.has_format,
            _ => true,
        };
        if is_read {
            self.outline.json.add(text.raw, text.length, decode);
            self.outline.json_parts += 1;
            self.outline.has_tools |= self.matter == Matter::Declared;
        }
    }
}

/// Adds a part of a string with escapes to `decoded`. Half of a pair of surrogates, cut here or never whole, is a character
/// of some kind.
fn decode(raw: &str, decoded: &mut String) {
    let characters = Text { raw, length: 0 }.characters();
    decoded.extend(characters.map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER)));
}

/// Whether an object that goes by `name` is what a tool is called with (OpenAI's and Ollama's name, Anthropic's,
/// Gemini's) or what it answers (Gemini's).
fn is_written(name: &str) -> bool {
    matches!(name, "arguments" | "input" | "args" | "response")
}

/// Whether `name` stands for the schema of an answer.
fn is_schema(name: &str) -> bool {
    matches!(name, "schema" | "json_schema" | "jsonSchema")
}

/// Whether `name` stands for the parameters of a tool.
fn is_parameters(name: &str) -> bool {
    matches!(name, "parameters" | "input_schema" | "parametersJsonSchema" | "parameters_json_schema")
}

/// Whether what goes by `name` is what the model thought in an earlier turn, which it is not given again (Anthropic's
/// "Extended thinking", OpenAI's "Reasoning models", the chat templates of `DeepSeek` and Qwen).
fn is_thought(name: &str) -> bool {
    matches!(name, "thinking" | "reasoning_content" | "reasoning" | "reasoning_details" | "summary")
}

/// Whether what goes by `name` is for the API's own use, and no model reads it. A role is one of the tags around its
/// message.
fn is_bookkeeping(name: &str) -> bool {
    matches!(
        name,
        "id" | "type"
            | "role"
            | "status"
            | "object"
            | "format"
            | "detail"
            | "ttl"
            | "data"
            | "signature"
            | "tool_call_id"
            | "tool_use_id"
            | "call_id"
            | "item_id"
            | "encrypted_content"
            | "mimeType"
            | "mime_type"
            | "media_type"
            | "thoughtSignature"
            | "thought_signature"
    )
}

#[cfg(test)]
mod tests {
    use super::super::{Shape, tests::scan_text};
    use super::*;

    fn outline(shape: Shape, body: &str) -> Outline {
        scan_text(body, shape).unwrap().outline
    }

    fn prose(outline: &Outline) -> Vec<&str> {
        outline.prose.pieces().collect()
    }

    fn json(outline: &Outline) -> Vec<&str> {
        assert_eq!(outline.json_parts, outline.json.pieces().count() as u64);
        outline.json.pieces().collect()
    }

    /// Messages, instructions, calls and tools.
    fn counts(outline: &Outline) -> [u64; 4] {
        [outline.messages, outline.instructions, outline.calls, outline.tools]
    }

    #[test]
    fn of_a_chat_the_texts_are_read_and_messages_calls_and_tools_counted() {
        let outline = outline(
            Shape::Chat,
            r#"{"messages":[{"role":"system","content":"Be br\u0069ef."},
                {"role":"user","content":[{"type":"text","text":"Hi!"},{"type":"image_url","image_url":{"url":"data:,A"}}]},
                {"role":"assistant","content":null,"reasoning_content":"hm","tool_calls":[{"id":"call_1","type":"function",
                    "function":{"name":"look","arguments":"{\"at\": 1}"}}]},
                {"role":"tool","tool_call_id":"call_1","content":"sun"}],
                "tools":[{"type":"function","function":{"name":"look","parameters":{"type":"object","maximum":5}}}],
                "user":"u","chat_template":"t"}"#,
        );
        let tool = ["type", "function", "function", "name", "look", "parameters", "type", "object", "maximum", "5"];
        assert_eq!(prose(&outline), ["Be brief.", "Hi!", "look", "sun"]);
        assert_eq!(json(&outline), [&["{\"at\": 1}"][..], &tool].concat());
        assert_eq!((counts(&outline), outline.has_tools, outline.has_format), ([4, 1, 1, 1], true, false));
        let bytes = (outline.prose.bytes(), outline.json.bytes());
        assert_eq!(bytes, (19, 9 + tool.concat().len() as u64));
    }

    #[test]
    fn of_responses_every_item_that_is_put_to_the_model_is_read() {
        let outline = outline(
            Shape::Responses,
            r#"{"instructions":"Be brief.","input":[{"role":"user","content":[{"type":"input_text","text":"Hi!"}]},
                {"type":"reasoning","id":"rs_1","summary":[{"type":"summary_text","text":"hm"}],"encrypted_content":"gAAA"},
                {"type":"function_call","id":"fc_1","call_id":"call_1","name":"look","arguments":"{}","status":"completed"},
                {"type":"function_call_output","call_id":"call_1","output":"sun"}],"text":{"format":{"name":"n","schema":{}}}}"#,
        );
        assert_eq!(prose(&outline), ["Be brief.", "Hi!", "look", "sun"]);
        assert_eq!(json(&outline), ["{}", "schema"]);
        assert_eq!((counts(&outline), outline.has_tools, outline.has_format), ([3, 1, 1, 0], false, true));
        let asked = super::super::tests::scan_text(r#"{"input":"Hi!","text":{"verbosity":"low"}}"#, Shape::Responses);
        let asked = asked.unwrap().outline;
        assert_eq!((prose(&asked), counts(&asked), asked.has_format), (vec!["Hi!"], [1, 0, 0, 0], false));
    }

    #[test]
    fn of_anthropics_messages_what_tools_are_given_is_read_with_its_names() {
        let outline = outline(
            Shape::Messages,
            r#"{"system":[{"type":"text","text":"Be brief.","cache_control":{"type":"ephemeral","ttl":"5m"}}],"messages":[
                {"role":"user","content":"Hi!"},
                {"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"S"},
                    {"type":"tool_use","id":"toolu_1","name":"look","input":{"id":"a","at":[1,true]}}]},
                {"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_1","content":"sun"},
                    {"type":"document","source":{"type":"text","media_type":"text/plain","data":"page"}}]}],
                "tools":[{"name":"look","input_schema":{"type":"object"}}]}"#,
        );
        assert_eq!(prose(&outline), ["Be brief.", "Hi!", "look", "sun", "page"]);
        let given = ["id", "a", "at", "1"];
        assert_eq!(json(&outline), [&given[..], &["name", "look", "input_schema", "type", "object"]].concat());
        assert_eq!((counts(&outline), outline.has_tools), ([3, 1, 1, 1], true));
    }

    #[test]
    fn of_gemini_the_schema_of_the_answer_is_not_read() {
        let outline = outline(
            Shape::GenerateContent,
            r#"{"systemInstruction":{"parts":[{"text":"Be brief."}]},"contents":[{"role":"user","parts":[{"text":"Hi!"}]},
                {"role":"model","parts":[{"functionCall":{"name":"look","args":{"at":2}},"thoughtSignature":"S"}]},
                {"role":"user","parts":[{"functionResponse":{"name":"look","response":{"role":"sun"}}}]}],
                "generationConfig":{"responseSchema":{"type":"object"}}}"#,
        );
        assert_eq!(prose(&outline), ["Be brief.", "Hi!", "look", "look"]);
        assert_eq!(json(&outline), ["at", "2", "role", "sun"]);
        assert_eq!((counts(&outline), outline.has_tools, outline.has_format), ([3, 1, 1, 0], false, false));
    }

    #[test]
    fn what_is_no_conversation_is_text_alone() {
        for (shape, body, expected) in [
            (Shape::Completions, r#"{"prompt":["ab","c"],"suffix":"d"}"#, &["ab", "c", "d"][..]),
            (Shape::Embeddings, r#"{"input":[[1,2],[3]]}"#, &[]),
            (Shape::Rerank, r#"{"query":"a","documents":["b",{"text":"c"}]}"#, &["a", "b", "c"]),
            (Shape::OllamaGenerate, r#"{"prompt":"a","system":"b","template":"t","context":[1]}"#, &["a", "b"]),
        ] {
            let outline = outline(shape, body);
            let others = (outline.messages, outline.calls, outline.tools, outline.json_parts);
            assert_eq!((prose(&outline), others), (expected.to_vec(), (0, 0, 0, 0)), "{body}");
        }
    }

    #[test]
    fn a_string_is_decoded_wherever_its_sample_is_cut() {
        let written = "\\ud83d\\ude00\\n\\u00e9".repeat(3000);
        let outline = outline(Shape::Chat, &format!(r#"{{"messages":[{{"content":"{written}"}}]}}"#));
        assert_eq!(outline.prose.bytes(), 7 * 3000);
        let decoded: usize = outline.prose.pieces().map(|piece| piece.matches("😀\né").count()).sum();
        assert!(decoded > 30, "{decoded}");
    }
}
