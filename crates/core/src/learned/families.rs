//! The table of families: what their chat templates write and how their tokenizers differ, by globs over models' names. The
//! first row that fits counts, so that a model comes before its family.
//!
//! Each row has its sources. "Measured" is the median of recordings (`make estimates`, docs/estimates.md), of which a fifth
//! was held back; a template is the one that the model is published with.

use super::template::{AnswerTemplate, Family, PromptTemplate, Template};
use crate::{api::Endpoint, glob};

impl Family {
    /// The family of the model that goes by this name.
    #[must_use]
    pub fn of(model: &str) -> &'static Self {
        let name = model.to_ascii_lowercase();
        let fits = |family: &&Self| family.globs.iter().any(|pattern| glob::fits(pattern, &name));
        FAMILIES.iter().find(fits).unwrap_or(&UNKNOWN)
    }

    /// Whether anything is known of it.
    pub(super) fn is_known(&self) -> bool {
        !self.globs.is_empty()
    }

    /// What is true of it at this endpoint.
    pub(super) fn template(&self, endpoint: Endpoint) -> &Template {
        match (&self.responses, endpoint) {
            (Some(template), Endpoint::Responses) => template,
            _ if self.is_known() => &self.template,
            _ => unknown(endpoint),
        }
    }
}

/// `OpenAI`'s cookbook ("How to count tokens with tiktoken"): 3 tokens and a role for each message, 3 that begin the
/// answer; tools are declared to the model in TypeScript. Calls and tools: measured.
const OPENAI: Template = Template {
    prompt: PromptTemplate {
        all: 3.0,
        message: 4.0,
        instructions: 0.0,
        call: 10.0,
        tools: 16.0,
        tool: 0.0,
        format: 22.0,
        prose: 1.0,
        json: 0.95,
        part: 0.0,
    },
    answer: AnswerTemplate { turn: 0.0, call: 7.0, several: 14.0, prose: 1.0, json: 1.0 },
};

/// The same as `OPENAI` but for tools and calls; an answer ends with a tag. Measured.
const OPENAI_RESPONSES: Template = Template {
    prompt: PromptTemplate { json: 1.0, format: 17.0, tools: 9.0, call: 11.0, ..OPENAI.prompt },
    answer: AnswerTemplate { turn: 1.0, several: 15.0, ..OPENAI.answer },
};

/// From gpt-5 on the tags of an answer's channel are counted, as the format "harmony" has them. Measured.
const GPT_5: Template =
    Template { answer: AnswerTemplate { turn: 3.0, call: 12.0, several: 0.0, ..OPENAI.answer }, ..OPENAI };

/// The same. Measured.
const GPT_5_RESPONSES: Template =
    Template { answer: AnswerTemplate { turn: 4.0, several: 12.0, ..OPENAI.answer }, ..OPENAI_RESPONSES };

/// The format "harmony", as its guide and the template of gpt-oss have it: a system message of some 60 tokens that names the
/// model, its knowledge's end, the date and the channels; around each message `<|start|>`, a role, `<|message|>` and
/// `<|end|>`. Tools are declared in TypeScript, in a developer message.
const HARMONY: Template = Template {
    prompt: PromptTemplate { part: 0.4, json: 1.02, all: 62.0, message: 5.0, tools: 22.0, call: 12.0, ..OPENAI.prompt },
    answer: AnswerTemplate { turn: 9.0, call: 12.0, several: 0.0, prose: 1.0, json: 1.0 },
};

/// Anthropic's page on tool use names the tokens of the system prompt with which tools come: 346, or 313 where a tool must be
/// called. What is around messages, tools and calls, and the tokenizer: measured.
const CLAUDE: Template = Template {
    prompt: PromptTemplate {
        all: 4.0,
        message: 3.0,
        instructions: 0.0,
        call: 55.0,
        tools: 325.0,
        tool: 0.0,
        format: 80.0,
        prose: 1.16,
        json: 1.3,
        part: 1.2,
    },
    answer: AnswerTemplate { turn: 3.25, call: 27.0, several: 0.0, prose: 1.11, json: 1.35 },
};

/// From Claude 4.5 on tools come with a longer system prompt. Measured.
const CLAUDE_4_5: Template = Template {
    prompt: PromptTemplate { tools: 492.0, call: 45.0, format: 105.0, json: 1.0, part: 3.0, ..CLAUDE.prompt },
    ..CLAUDE
};

/// Opus 4.7 came with a tokenizer of which Anthropic's page on models says that it takes up to 1.35 times as many tokens;
/// models since then have it. Measured: 1.41 times what `o200k_base` finds.
const CLAUDE_4_7: Template = Template {
    prompt: PromptTemplate { prose: 1.41, tools: 300.0, call: 80.0, json: 1.25, part: 3.75, ..CLAUDE_4_5.prompt },
    answer: AnswerTemplate { prose: 1.41, json: 1.7, ..CLAUDE.answer },
};

/// Gemini counts text alone, and for the schema of an answer nothing. The tokenizer: measured.
const GEMINI: Template = Template {
    prompt: PromptTemplate {
        all: 0.0,
        message: 1.0,
        instructions: -1.0,
        call: 9.0,
        tools: 0.0,
        tool: 0.0,
        format: 0.0,
        prose: 1.03,
        json: 1.3,
        part: 0.3,
    },
    answer: AnswerTemplate { turn: 0.0, call: 4.5, several: 0.0, prose: 1.03, json: 1.2 },
};

/// The template of Gemma: `<start_of_turn>`, a role, a line, `<end_of_turn>` and a line around each message, and the
/// beginning of the answer.
const GEMMA: Template = Template {
    prompt: PromptTemplate { all: 4.0, message: 5.0, ..GEMINI.prompt },
    answer: AnswerTemplate { turn: 1.0, ..GEMINI.answer },
};

/// The template of Llama 3: `<|begin_of_text|>`; a header of four tokens and `<|eot_id|>` around each message, and the
/// answer's header.
const LLAMA_3: Template = Template {
    prompt: PromptTemplate { all: 5.0, message: 5.0, tools: 80.0, tool: 0.0, json: 1.1, part: 1.5, ..OPENAI.prompt },
    answer: AnswerTemplate { turn: 1.0, several: 0.0, ..OPENAI.answer },
};

/// From Llama 3.1 on the template has a system message of 25 tokens, with the end of the model's knowledge and the date, in
/// which instructions are put.
const LLAMA_3_1: Template =
    Template { prompt: PromptTemplate { all: 30.0, instructions: -5.0, ..LLAMA_3.prompt }, ..LLAMA_3 };

/// The template of Llama 4 has no system message of its own; with tools come instructions to call them. Measured.
const LLAMA_4: Template = Template { prompt: PromptTemplate { tools: 640.0, ..LLAMA_3.prompt }, ..LLAMA_3 };

/// The templates of Mistral: `<s>`; `[INST]` and `[/INST]` around what a user says, `</s>` after an answer;
/// `[AVAILABLE_TOOLS]` with the tools as JSON, a model that thinks is told to in a system prompt. Measured.
const MISTRAL: Template = Template {
    prompt: PromptTemplate {
        all: 2.6,
        message: 1.0,
        instructions: 0.0,
        call: 9.0,
        tools: 7.0,
        tool: 0.0,
        format: 0.0,
        prose: 1.13,
        json: 1.3,
        part: 1.85,
    },
    answer: AnswerTemplate { turn: 1.0, call: 0.0, several: 0.0, prose: 1.04, json: 1.6 },
};

/// The template of `DeepSeek` V3 and R1: a token that begins the text, one before each message, one after each answer.
const DEEPSEEK: Template = Template {
    prompt: PromptTemplate {
        all: 2.0,
        message: 1.0,
        instructions: 0.0,
        call: 25.0,
        tools: 130.0,
        json: 1.2,
        part: 1.0,
        ..OPENAI.prompt
    },
    answer: AnswerTemplate { turn: 1.0, call: 20.0, several: 0.0, ..OPENAI.answer },
};

/// The same with `<think>` and a line after the answer's tag.
const DEEPSEEK_REASONER: Template = Template { prompt: PromptTemplate { all: 4.0, ..DEEPSEEK.prompt }, ..DEEPSEEK };

/// `DeepSeek` V4 with tools has instructions to call them. Measured.
const DEEPSEEK_4: Template = Template {
    prompt: PromptTemplate { call: 55.0, part: 1.7, json: 1.0, tools: 227.0, prose: 1.05, ..DEEPSEEK.prompt },
    ..DEEPSEEK
};

/// By responses it thinks, and is told how hard in a system prompt of 79 tokens. Measured.
const DEEPSEEK_4_RESPONSES: Template =
    Template { prompt: PromptTemplate { all: 82.0, ..DEEPSEEK_4.prompt }, ..DEEPSEEK_4 };

/// The template of Qwen (`ChatML`): `<|im_start|>`, a role, a line, `<|im_end|>` and a line around each message, and the
/// beginning of the answer; with tools come instructions to call them.
const QWEN: Template = Template {
    prompt: PromptTemplate { all: 3.0, message: 5.0, tools: 85.0, tool: 0.0, json: 1.07, part: 1.9, ..OPENAI.prompt },
    answer: AnswerTemplate { turn: 1.0, call: 12.0, several: 0.0, prose: 1.0, json: 1.0 },
};

/// The template of GLM: `[gMASK]<sop>`, a role's token before each message. The service adds more. Measured.
const GLM: Template = Template {
    prompt: PromptTemplate { all: 3.0, message: 2.0, tools: 150.0, part: 1.0, ..OPENAI.prompt },
    answer: AnswerTemplate { turn: 3.0, call: 12.0, several: 0.0, prose: 1.0, json: 1.0 },
};

/// GLM 5 is told how hard to think. Measured.
const GLM_5: Template = Template { prompt: PromptTemplate { all: 10.0, ..GLM.prompt }, ..GLM };

/// Each of Grok's prompts begins with a system prompt of its own: 4 had some 680 tokens. Measured.
const GROK_4: Template = Template { prompt: PromptTemplate { all: 680.0, ..OPENAI.prompt }, ..OPENAI };

/// Measured, of Grok 2.
const GROK: Template = Template { prompt: PromptTemplate { all: 2.0, tools: 90.0, ..OPENAI.prompt }, ..OPENAI };

/// OpenAI's models before gpt-4o have `cl100k_base`, which takes as much for English. Measured.
const OPENAI_OLD: Template = Template { prompt: PromptTemplate { json: 1.0, tools: 19.0, ..OPENAI.prompt }, ..OPENAI };

/// Nothing but text.
const PLAIN: Template = Template {
    prompt: PromptTemplate {
        all: 0.0,
        message: 0.0,
        instructions: 0.0,
        call: 0.0,
        tools: 0.0,
        tool: 0.0,
        format: 0.0,
        prose: 1.0,
        json: 1.0,
        part: 0.0,
    },
    answer: AnswerTemplate { turn: 0.0, call: 0.0, several: 0.0, prose: 1.0, json: 1.0 },
};

/// An unknown model's that is asked by an API: as the models whose API it is, in the tokens of `o200k_base`.
const BY_CHAT: Template = Template {
    prompt: PromptTemplate { all: 3.0, message: 4.0, tools: 16.0, call: 8.0, ..PLAIN.prompt },
    answer: AnswerTemplate { call: 7.0, several: 14.0, ..PLAIN.answer },
};
const BY_RESPONSES: Template = Template {
    prompt: PromptTemplate { call: 14.0, ..BY_CHAT.prompt },
    answer: AnswerTemplate { turn: 1.0, several: 15.0, ..BY_CHAT.answer },
};
const BY_MESSAGES: Template = Template {
    prompt: PromptTemplate { all: 4.0, message: 3.0, tools: 346.0, tool: 45.0, call: 45.0, ..PLAIN.prompt },
    answer: AnswerTemplate { turn: 3.0, call: 30.0, ..PLAIN.answer },
};
const BY_OLLAMA: Template = Template {
    prompt: PromptTemplate { all: 4.0, message: 5.0, tools: 16.0, call: 8.0, ..PLAIN.prompt },
    answer: AnswerTemplate { turn: 1.0, call: 7.0, ..PLAIN.answer },
};
const BY_GEMINI: Template = Template {
    prompt: PromptTemplate { all: 1.0, tools: 16.0, call: 12.0, ..PLAIN.prompt },
    answer: AnswerTemplate { call: 6.0, ..PLAIN.answer },
};

const fn family(globs: &'static [&'static str], template: Template) -> Family {
    Family { globs, template, responses: None }
}

/// The rows, of which the first that fits counts.
static FAMILIES: [Family; 23] = [
    family(&["*gpt-oss*"], HARMONY),
    family(&["*deepseek-r1-distill-llama*"], LLAMA_3),
    family(&["*deepseek-r1-distill-qwen*"], QWEN),
    Family { responses: Some(DEEPSEEK_4_RESPONSES), ..family(&["*deepseek-v4*"], DEEPSEEK_4) },
    family(&["*deepseek-reasoner*", "*deepseek-r1*"], DEEPSEEK_REASONER),
    family(&["*deepseek*"], DEEPSEEK),
    family(
        &[
            "*claude-1*",
            "*claude-2*",
            "*claude-3*",
            "*claude-instant*",
            "*claude-sonnet-4-0*",
            "*claude-sonnet-4-2*",
            "*claude-sonnet-4",
            "*claude-opus-4-0*",
            "*claude-opus-4-1*",
            "*claude-opus-4-2*",
            "*claude-opus-4",
            "*claude-opus-4.1*",
        ],
        CLAUDE,
    ),
    family(
        &[
            "*claude-opus-4-7*",
            "*claude-opus-4-8*",
            "*claude-opus-4.7*",
            "*claude-opus-4.8*",
            "*claude-4.7*",
            "*claude-4.8*",
            "*claude-sonnet-5*",
            "*claude-opus-5*",
            "*claude-haiku-5*",
            "*claude-fable*",
        ],
        CLAUDE_4_7,
    ),
    family(&["*claude*"], CLAUDE_4_5),
    family(&["*gemini*"], GEMINI),
    family(&["*gemma*"], GEMMA),
    family(&["*llama-4*", "*llama4*"], LLAMA_4),
    family(
        &[
            "*llama-3.1*",
            "*llama-3.2*",
            "*llama-3.3*",
            "*llama3.1*",
            "*llama3.2*",
            "*llama3.3*",
            "*llama-3-1*",
            "*llama-3-2*",
            "*llama-3-3*",
        ],
        LLAMA_3_1,
    ),
    family(&["*llama*"], LLAMA_3),
    family(
        &["*mistral*", "*mixtral*", "*ministral*", "*magistral*", "*codestral*", "*devstral*", "*pixtral*"],
        MISTRAL,
    ),
    family(&["*qwen*", "*qwq*"], QWEN),
    family(&["*glm-5*"], GLM_5),
    family(&["*glm-*", "*chatglm*"], GLM),
    family(&["*grok-4*"], GROK_4),
    family(&["*grok*"], GROK),
    family(
        &["*gpt-3*", "gpt-4", "gpt-4-*", "*/gpt-4", "*/gpt-4-*", "*davinci*", "*babbage*", "*text-embedding*"],
        OPENAI_OLD,
    ),
    Family { responses: Some(GPT_5_RESPONSES), ..family(&["*gpt-5*", "*gpt-6*"], GPT_5) },
    Family {
        responses: Some(OPENAI_RESPONSES),
        ..family(&["*gpt-*", "o1*", "o3*", "o4*", "*/o1*", "*/o3*", "*/o4*", "*codex*", "*computer-use*"], OPENAI)
    },
];

/// Models of which no row knows.
static UNKNOWN: Family = family(&[], PLAIN);

/// What is taken for granted of those: that they answer at an endpoint says a little.
fn unknown(endpoint: Endpoint) -> &'static Template {
    match endpoint {
        Endpoint::ChatCompletions => &BY_CHAT,
        Endpoint::Responses => &BY_RESPONSES,
        Endpoint::Messages | Endpoint::CountTokens => &BY_MESSAGES,
        Endpoint::GenerateContent | Endpoint::StreamGenerateContent => &BY_GEMINI,
        Endpoint::OllamaChat | Endpoint::OllamaGenerate => &BY_OLLAMA,
        _ => &PLAIN,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            figures::Figures,
            makeup::{Answer, Prompt},
        },
        *,
    };
    use crate::{body, usage::count_sample};

    fn prompt_of(model: &str, endpoint: Endpoint, body: &serde_json::Value) -> u64 {
        let scanned = body::scan(&body.to_string().into(), endpoint.shape()).unwrap();
        let [prose, json] = [&scanned.outline.prose, &scanned.outline.json].map(count_sample);
        Figures::of(model).prompt(&Prompt::new(endpoint, &scanned.outline), prose, json)
    }

    /// What a question of a single token takes.
    fn hi(model: &str) -> u64 {
        let endpoint = if model.starts_with("gemini") { Endpoint::GenerateContent } else { Endpoint::ChatCompletions };
        let body = match endpoint {
            Endpoint::GenerateContent => serde_json::json!({"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}),
            _ => serde_json::json!({"messages": [{"role": "user", "content": "Hi"}]}),
        };
        prompt_of(model, endpoint, &body)
    }

    #[test]
    fn a_short_prompt_takes_what_its_familys_template_adds() {
        for (model, expected) in [
            ("gpt-4o-2024-08-06", 8),
            ("openai/gpt-5-mini", 8),
            ("o3-mini", 8),
            ("gpt-3.5-turbo", 8),
            ("openai/gpt-oss-120b", 68),
            ("claude-3-5-haiku-latest", 8),
            ("anthropic/claude-sonnet-4.5", 8),
            ("us.anthropic.claude-opus-4-8-v1:0", 8),
            ("gemini-2.5-flash", 2),
            ("gemma3:4b", 10),
            ("llama3:8b", 11),
            ("meta-llama/Llama-3.3-70B-Instruct", 36),
            ("llama3.2:3b-instruct-fp16", 36),
            ("meta-llama/llama-4-scout-17b-16e-instruct", 11),
            ("mistral-large-latest", 5),
            ("deepseek-chat", 4),
            ("deepseek-reasoner", 6),
            ("deepseek-r1-distill-llama-70b", 11),
            ("Qwen/Qwen3-32B", 9),
            ("zai-glm-4.7", 6),
            ("glm-5.2", 13),
            ("grok-4", 685),
            ("some-model-of-ones-own", 8),
        ] {
            assert_eq!(hi(model), expected, "{model}");
        }
    }

    #[test]
    fn deepseek_4_is_told_how_hard_to_think_where_it_is_asked_by_responses() {
        let body = serde_json::json!({"input": "Name a colour."});
        assert_eq!(prompt_of("deepseek-v4-flash", Endpoint::Responses, &body), 87);
    }

    #[test]
    fn instructions_take_the_place_of_llamas_own() {
        let body = |roles: &[&str]| {
            let messages: Vec<_> =
                roles.iter().map(|role| serde_json::json!({"role": role, "content": "Hi"})).collect();
            serde_json::json!({ "messages": messages })
        };
        let of = |roles: &[&str]| prompt_of("llama-3.3-70b-versatile", Endpoint::ChatCompletions, &body(roles));
        assert_eq!((of(&["user"]), of(&["system", "user"]), of(&["user", "assistant", "user"])), (36, 37, 48));
    }

    #[test]
    fn tools_and_schemas_are_declared_as_each_family_does() {
        let schema =
            serde_json::json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
        let function =
            serde_json::json!({"name": "weather", "description": "The weather of a city.", "parameters": schema});
        let messages = serde_json::json!([{"role": "user", "content": "Is it raining in Oslo?"}]);
        let tools = serde_json::json!({"messages": messages, "tools": [{"type": "function", "function": function}]});
        let format = serde_json::json!({"type": "json_schema", "json_schema": {"name": "weather", "schema": schema}});
        let format = serde_json::json!({"messages": messages, "response_format": format});
        let of = |model, body| prompt_of(model, Endpoint::ChatCompletions, body);
        let plain = serde_json::json!({ "messages": messages });
        for (model, with_tools, with_format) in [
            ("gpt-4o", 35..=50, 30..=45),
            ("claude-sonnet-4-20250514", 360..=420, 90..=140),
            ("claude-sonnet-4-5", 540..=600, 130..=180),
            ("deepseek-v4-flash", 270..=320, 10..=70),
            ("mistral-small-latest", 60..=90, 20..=70),
            ("llama-4-scout", 680..=730, 20..=70),
        ] {
            let added = [&tools, &format].map(|body| of(model, body) - of(model, &plain));
            assert!(with_tools.contains(&added[0]), "{model}: {} for a tool", added[0]);
            assert!(with_format.contains(&added[1]), "{model}: {} for a schema", added[1]);
        }
    }

    #[test]
    fn what_is_no_conversation_has_no_template() {
        for endpoint in [Endpoint::Completions, Endpoint::Embeddings, Endpoint::Rerank] {
            for model in ["llama-3.3-70b", "gpt-4o", "unknown"] {
                let body = serde_json::json!({"input": "Hi", "query": "Hi", "prompt": "Hi"});
                let texts = if endpoint == Endpoint::Rerank { 1 } else { 2 };
                assert_eq!(prompt_of(model, endpoint, &body), texts, "{model} at {endpoint:?}");
            }
        }
    }

    #[test]
    fn an_answer_is_counted_in_its_familys_tokens() {
        let found = |calls| Answer { prose: 100, json: 20 * calls, calls, is_whole: true, ..Answer::default() };
        for (model, endpoint, expected) in [
            ("gpt-4o", Endpoint::ChatCompletions, [100, 127, 168]),
            ("gpt-4o", Endpoint::Responses, [101, 128, 170]),
            ("gpt-5", Endpoint::Responses, [104, 131, 170]),
            ("claude-haiku-4-5", Endpoint::Messages, [114, 168, 222]),
            ("claude-opus-4-8", Endpoint::Messages, [144, 205, 266]),
            ("gemini-2.5-pro", Endpoint::GenerateContent, [103, 132, 160]),
            ("unknown", Endpoint::ChatCompletions, [100, 127, 168]),
            ("unknown", Endpoint::Messages, [103, 153, 203]),
            ("unknown", Endpoint::Completions, [100, 120, 140]),
        ] {
            let figures = Figures::of(model);
            assert_eq!([0, 1, 2].map(|calls| figures.answer(&found(calls), endpoint)), expected, "{model}");
            let cut = Answer { is_whole: false, ..found(1) };
            assert!(figures.answer(&cut, endpoint) <= figures.answer(&found(1), endpoint), "{model}");
        }
    }

    #[test]
    fn nothing_overflows() {
        let answer = Answer { prose: u64::MAX, json: u64::MAX, calls: u64::MAX, is_whole: true, ..Answer::default() };
        for model in ["claude-3-opus", "llama-3.1-8b", "unknown"] {
            let figures = Figures::of(model);
            assert_eq!(figures.answer(&answer, Endpoint::Messages), u64::MAX);
            let outline =
                body::Outline { messages: u64::MAX, calls: u64::MAX, has_tools: true, ..body::Outline::default() };
            let prompt = Prompt::new(Endpoint::Messages, &outline);
            assert_eq!(figures.prompt_by_length(&prompt, u64::MAX, u64::MAX), u64::MAX);
        }
    }

    #[test]
    fn every_row_is_reached() {
        for (at, family) in FAMILIES.iter().enumerate() {
            let reached = |glob: &&str| std::ptr::eq(Family::of(&glob.replace('*', "")), family);
            assert!(family.globs.iter().any(reached), "row {at}: {:?}", family.globs);
            assert!(family.globs.iter().all(|glob| glob.to_lowercase() == *glob && !glob.contains('?')));
        }
    }
}
