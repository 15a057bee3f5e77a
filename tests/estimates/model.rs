//! Which vocabulary a model has, as far as its name tells.

/// A model, by its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Model(pub String);

/// `OpenAI`'s models since gpt-4o, as the registry of its tokenizer library lists them.
const O200K: [&str; 13] = [
    "gpt-4o",
    "chatgpt-4o",
    "gpt-4.1",
    "gpt-4.5",
    "gpt-5",
    "gpt-6",
    "gpt-oss",
    "gpt-audio",
    "o1",
    "o3",
    "o4",
    "codex",
    "computer-use",
];

/// What other models' names have in them.
const FAMILIES: [(&str, &str); 12] = [
    ("claude", "Claude"),
    ("gemini", "Gemini"),
    ("gemma", "Gemma"),
    ("llama", "Llama"),
    ("stral", "Mistral"),
    ("mixtral", "Mistral"),
    ("deepseek", "DeepSeek"),
    ("qwen", "Qwen"),
    ("grok", "Grok"),
    ("gpt-", "older OpenAI"),
    ("davinci", "older OpenAI"),
    ("text-embedding", "older OpenAI"),
];

impl Model {
    /// Whether it has `o200k_base`.
    pub fn uses_o200k(&self) -> bool {
        let name = self.0.rsplit('/').next().unwrap_or_default();
        O200K.iter().any(|prefix| name.starts_with(prefix))
    }

    /// Models with the same vocabulary, or nearly so.
    pub fn family(&self) -> &'static str {
        if self.uses_o200k() {
            return "o200k_base";
        }
        let name = self.0.to_lowercase();
        FAMILIES.iter().find(|(part, _)| name.contains(part)).map_or("other", |(_, family)| family)
    }

    /// Whether it looks things up by itself, and counts what it found as its prompt.
    pub fn searches(&self) -> bool {
        ["compound", "search", "sonar", ":online"].iter().any(|part| self.0.contains(part))
    }

    /// Whether what it delivers of its reasoning is not what it counts.
    pub fn summarises_reasoning(&self) -> bool {
        let writes_it_out = self.0.contains("gpt-oss") || self.0.contains("claude-3-7");
        matches!(self.family(), "o200k_base" | "Claude" | "Gemini") && !writes_it_out
    }
}
