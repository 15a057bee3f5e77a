//! The prices of models and the largest answer of each.

use std::collections::HashMap;

use keymeter_core::{glob::Glob, money::Price};

use super::{raw, report::Place, scalar::Scalar};

/// What holds for the models of a name; the first entry that matches counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// A name or a pattern.
    pub name: Glob,
    /// In US dollars, for one million tokens, a minute of audio, or a request.
    pub price: Price,
    /// The most that a response may hold, in tokens, at least 1; `None`: not known.
    pub max_output_tokens: Option<u64>,
}

impl Model {
    pub(super) fn check_all(raw: raw::List<raw::Model>, place: &Place<'_>) -> Vec<Self> {
        let mut lines = HashMap::new();
        let mut models = Vec::with_capacity(raw.len());
        for (place, raw) in place.elements(raw) {
            let Some(model) = Self::check(raw, &place) else { continue };
            let of_name = place.field("name");
            if let Some(line) = lines.insert(model.name.clone(), of_name.line()) {
                let name = model.name.as_str();
                of_name.error(format!("`{name}` is already given on line {line}, and the first that matches counts"));
            }
            models.push(model);
        }
        models
    }

    fn check(raw: raw::Model, place: &Place<'_>) -> Option<Self> {
        let Scalar(name) = place.required("name", raw.name, "the model's name or a pattern, such as llama-3*")?;
        let price = Price {
            input: raw.input.map(|Scalar(rate)| rate),
            cached_input: raw.cached_input.map(|Scalar(rate)| rate),
            cache_write: raw.cache_write.map(|Scalar(rate)| rate),
            cache_write_1h: raw.cache_write_1h.map(|Scalar(rate)| rate),
            output: raw.output.map(|Scalar(rate)| rate),
            audio_minute: raw.audio_minute.map(|Scalar(rate)| rate),
            request: raw.request.map(|Scalar(rate)| rate),
        };
        Some(Self { name, price, max_output_tokens: raw.max_output_tokens.map(|Scalar(tokens)| tokens.get()) })
    }
}
