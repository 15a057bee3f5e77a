//! Tokens that stand around the text: the tags of a chat template, which no request says and no response shows. They are
//! estimated where nobody states a count, and weigh most where texts are short.
//!
//! Sources: `OpenAI`'s cookbook ("How to count tokens with tiktoken": 3 tokens and a role for each message, 3 that begin
//! the answer); Anthropic's pricing (the system prompt of tool use has 346 tokens); the templates of Llama 3 and Qwen, as
//! Ollama applies them. What a tool, and a call of one, takes beyond its text is told by nobody: it is what recordings
//! have in the median (`make estimates`, docs/estimates.md).

use crate::{api::Endpoint, body::Outline};

/// What is around a prompt's text.
struct PromptFrame {
    all: u64,
    message: u64,
    /// Where there are tools.
    tools: u64,
    tool: u64,
    call: u64,
}

/// What is around an answer's text.
struct AnswerFrame {
    /// The end of a turn.
    turn: u64,
    call: u64,
    /// Where several tools are called at once.
    several: u64,
}

const NO_PROMPT_FRAME: PromptFrame = PromptFrame { all: 0, message: 0, tools: 0, tool: 0, call: 0 };
const NO_ANSWER_FRAME: AnswerFrame = AnswerFrame { turn: 0, call: 0, several: 0 };

/// The tokens around the text of a prompt.
#[must_use]
pub fn around_prompt(endpoint: Endpoint, outline: &Outline) -> u64 {
    let Outline { messages, calls, tools, .. } = *outline;
    let frame = prompt_frame(endpoint);
    let if_tools = if tools > 0 { frame.tools } else { 0 };
    let each = |count: u64, tokens: u64| count.saturating_mul(tokens);
    [if_tools, each(messages, frame.message), each(tools, frame.tool), each(calls, frame.call)]
        .into_iter()
        .fold(frame.all, u64::saturating_add)
}

/// The tokens around the text of an answer that is complete, in which tools are called so many times.
pub(super) fn around_answer(endpoint: Endpoint, calls: u64) -> u64 {
    let frame = answer_frame(endpoint);
    let if_several = if calls > 1 { frame.several } else { 0 };
    calls.saturating_mul(frame.call).saturating_add(frame.turn + if_several)
}

fn prompt_frame(endpoint: Endpoint) -> PromptFrame {
    match endpoint {
        Endpoint::ChatCompletions => PromptFrame { all: 3, message: 4, tools: 16, tool: 0, call: 8 },
        Endpoint::Responses => PromptFrame { all: 3, message: 4, tools: 16, tool: 0, call: 14 },
        Endpoint::Messages => PromptFrame { all: 4, message: 3, tools: 346, tool: 45, call: 45 },
        Endpoint::OllamaChat => PromptFrame { all: 4, message: 5, tools: 16, tool: 0, call: 8 },
        Endpoint::OllamaGenerate => PromptFrame { all: 9, ..NO_PROMPT_FRAME },
        Endpoint::GenerateContent | Endpoint::StreamGenerateContent => {
            PromptFrame { all: 1, message: 0, tools: 16, tool: 0, call: 12 }
        }
        _ => NO_PROMPT_FRAME,
    }
}

fn answer_frame(endpoint: Endpoint) -> AnswerFrame {
    match endpoint {
        Endpoint::ChatCompletions => AnswerFrame { turn: 0, call: 7, several: 14 },
        Endpoint::Responses => AnswerFrame { turn: 1, call: 7, several: 15 },
        Endpoint::Messages => AnswerFrame { turn: 3, call: 30, several: 0 },
        Endpoint::OllamaChat | Endpoint::OllamaGenerate => AnswerFrame { turn: 1, call: 7, several: 0 },
        Endpoint::GenerateContent | Endpoint::StreamGenerateContent => AnswerFrame { turn: 0, call: 6, several: 0 },
        _ => NO_ANSWER_FRAME,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(endpoint: Endpoint, messages: u64, calls: u64, tools: u64) -> u64 {
        around_prompt(endpoint, &Outline { messages, calls, tools, ..Outline::default() })
    }

    #[test]
    fn a_chats_messages_are_framed_as_openai_says() {
        assert_eq!(around(Endpoint::ChatCompletions, 1, 0, 0), 7);
        assert_eq!(around(Endpoint::ChatCompletions, 5, 0, 0), 23);
        assert_eq!(around(Endpoint::Responses, 2, 0, 0), 11);
    }

    #[test]
    fn tools_are_framed_once_and_each() {
        assert_eq!(around(Endpoint::Messages, 1, 0, 0), 7);
        assert_eq!(around(Endpoint::Messages, 1, 0, 2), 7 + 346 + 2 * 45);
        assert_eq!(around(Endpoint::ChatCompletions, 1, 2, 3), 7 + 16 + 2 * 8);
    }

    #[test]
    fn what_is_no_conversation_has_no_frame() {
        for endpoint in [Endpoint::Completions, Endpoint::Embeddings, Endpoint::Rerank, Endpoint::Transcriptions] {
            assert_eq!((around(endpoint, 9, 9, 9), around_answer(endpoint, 9)), (0, 0), "{endpoint:?}");
        }
    }

    #[test]
    fn calls_of_several_tools_are_framed_together_too() {
        assert_eq!([0, 1, 2, 3].map(|calls| around_answer(Endpoint::ChatCompletions, calls)), [0, 7, 28, 35]);
        assert_eq!([0, 1, 2].map(|calls| around_answer(Endpoint::Responses, calls)), [1, 8, 30]);
        assert_eq!([0, 1, 2].map(|calls| around_answer(Endpoint::Messages, calls)), [3, 33, 63]);
    }

    #[test]
    fn nothing_overflows() {
        let most = u64::MAX;
        assert_eq!(around(Endpoint::Messages, most, most, most), most);
        assert_eq!(around_answer(Endpoint::Responses, most), most);
    }
}
