//! What a family of models is: its chat template and its tokenizer.

/// Models whose chat templates and tokenizers are alike.
#[derive(Debug, PartialEq)]
pub struct Family {
    /// What is in their names, in lower case.
    pub(super) globs: &'static [&'static str],
    pub(super) template: Template,
    /// The same where they are asked by responses, if that differs.
    pub(super) responses: Option<Template>,
}

/// What a chat template writes around a text, and how a tokenizer differs from `o200k_base`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Template {
    pub prompt: PromptTemplate,
    pub answer: AnswerTemplate,
}

/// Of a prompt. What is not said to be a factor is in tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PromptTemplate {
    /// Around all messages: what begins the prompt, a system prompt of the model's own, and what begins the answer.
    pub all: f64,
    /// Around each message.
    pub message: f64,
    /// Where there are instructions, beside what is around them as a message; less than nothing where they take the place of
    /// something that would be there without them.
    pub instructions: f64,
    /// Around each call of a tool.
    pub call: f64,
    /// Where tools may be called.
    pub tools: f64,
    /// For each tool that may be.
    pub tool: f64,
    /// Where the answer is to follow a schema.
    pub format: f64,
    /// The model's own tokens for one that is found in prose: a factor.
    pub prose: f64,
    /// The same for names and values of JSON.
    pub json: f64,
    /// For the punctuation around each of these.
    pub part: f64,
}

/// Of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct AnswerTemplate {
    /// For the end of the turn.
    pub turn: f64,
    /// Around each call.
    pub call: f64,
    /// Where several tools are called at once.
    pub several: f64,
    /// The model's own tokens for one that is found in prose: a factor.
    pub prose: f64,
    /// The same for what tools are called with.
    pub json: f64,
}
