//! Limits of models within a key on pages: the field that sets them, a line each, and what is told of them.

use std::collections::BTreeMap;

use keymeter_core::limit::{Limit, ModelLimit, ModelLimitError, Quota, QuotaError, Quotas, ScopeLimit};
use maud::{Markup, html};

use super::{
    form::{Form, FormField},
    limits::{MINUTE, quotas, with_carried},
    request::FormFields,
};
use crate::{
    error::ApiError,
    store::limits::{LimitValue, QuotaLimit, ScopeLimits},
};

/// The field.
pub const MODEL_LIMITS: &str = "limits.models";

/// What a key may use of the models that each pattern fits.
type ModelsLimits = BTreeMap<String, ScopeLimits>;

/// The field in which they are set.
pub fn lines(form: &Form<'_>) -> Markup {
    form.lines(FormField {
        name: MODEL_LIMITS,
        label: "Limits of models",
        hint: "One on a line, for the models that a pattern fits, such as text-embedding-*: requests_per_minute=3000 or \
               gpt-4o*: usd=5/day. They count beside the key’s own limits.",
        ..FormField::default()
    })
}

/// What is in the field of a key that has them.
pub fn filled(models: &ModelsLimits) -> String {
    let lines =
        models.iter().flat_map(|(glob, limits)| words(limits).into_iter().map(move |limit| format!("{glob}: {limit}")));
    lines.collect::<Vec<_>>().join("\n")
}

/// What is set, as entries of a list of facts.
pub fn facts(models: &ModelsLimits) -> Markup {
    html! {
        @for (glob, limits) in models {
            div { dt { "Of " code { (glob) } } dd { ul.models { @for limit in words(limits) { li { code { (limit) } } } } } }
        }
    }
}

/// What a form asks for. What is filled in as it `is` stays, whatever a line cannot say of it, and so it does where a form has no
/// such field. Of a quota, what was used elsewhere stays as that of a key's own does.
///
/// # Errors
/// When a line is no limit of models, or says what another has said.
pub fn asked(fields: &FormFields, is: &ModelsLimits) -> Result<ModelsLimits, ApiError> {
    let text = fields.text(MODEL_LIMITS).replace("\r\n", "\n");
    if !fields.has(MODEL_LIMITS) || text == filled(is).trim() {
        return Ok(is.clone());
    }
    let mut asked = BTreeMap::<String, Asked>::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |error: String| ApiError::invalid(MODEL_LIMITS, format!("line {}: {error}", index + 1));
        let ModelLimit { models, limit } =
            line.parse::<ModelLimit>().map_err(|error: ModelLimitError| wrong(error.to_string()))?;
        let before = is.get(models.as_str()).map(quotas).unwrap_or_default();
        let of_models = asked.entry(models.as_str().to_owned()).or_default();
        of_models.add(limit, &before).map_err(|error| wrong(format!("`{}`: {error}", models.as_str())))?;
    }
    Ok(asked.into_iter().map(|(glob, asked)| (glob, asked.limits())).collect())
}

/// What the lines of one pattern ask for.
#[derive(Default)]
struct Asked {
    minute: ScopeLimits,
    quotas: Quotas,
}

impl Asked {
    /// Adds what a further line says.
    fn add(&mut self, limit: ScopeLimit, before: &Quotas) -> Result<(), String> {
        let name = limit.name();
        let (field, number) = match limit {
            ScopeLimit::RequestsPerMinute(number) => (&mut self.minute.requests_per_minute, number),
            ScopeLimit::TokensPerMinute(number) => (&mut self.minute.tokens_per_minute, number),
            ScopeLimit::ConcurrentRequests(number) => (&mut self.minute.concurrent_requests, number),
            ScopeLimit::Quota(quota) => return self.add_quota(quota, before).map_err(|error| error.to_string()),
        };
        match field.replace(value(number)) {
            None => Ok(()),
            Some(_) => Err(format!("`{name}` is set on a line above too: leave one of the two out")),
        }
    }

    fn add_quota(&mut self, quota: Quota, before: &Quotas) -> Result<(), QuotaError> {
        let quotas = self.quotas.iter().cloned().chain([with_carried(quota, before)]);
        self.quotas = Quotas::new(quotas.collect())?;
        Ok(())
    }

    fn limits(self) -> ScopeLimits {
        ScopeLimits { quotas: self.quotas.iter().map(QuotaLimit::from).collect(), ..self.minute }
    }
}

fn value(limit: Limit) -> LimitValue {
    limit.number().map_or_else(|| LimitValue::Word(limit.to_string()), LimitValue::Number)
}

/// Each limit as a line has it, `unlimited` where that is said.
fn words(limits: &ScopeLimits) -> Vec<String> {
    let minute = [&limits.requests_per_minute, &limits.tokens_per_minute, &limits.concurrent_requests];
    let minute = MINUTE.iter().zip(minute).filter_map(|((field, _), value)| {
        let name = field.trim_start_matches("limits.");
        Some(match value.as_ref()? {
            LimitValue::Number(number) => format!("{name}={number}"),
            LimitValue::Word(word) => format!("{name}={word}"),
        })
    });
    minute.chain(quotas(limits).iter().map(Quota::to_string)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn some() -> ModelsLimits {
        serde_json::from_value(json!({
            "gpt-4o*": {
                "concurrent_requests": "unlimited",
                "quotas": [{"usd": "5", "per": "day", "carried": "0.5", "until": "2027-01-01T00:00:00Z"}],
            },
            "llama3:8b": {"requests_per_minute": 60},
        }))
        .unwrap()
    }

    fn ask(text: &str, is: &ModelsLimits) -> Result<ModelsLimits, String> {
        let fields = FormFields::from([(MODEL_LIMITS, text.to_owned())]);
        asked(&fields, is).map_err(|refusal| refusal.message().to_owned())
    }

    #[test]
    fn what_is_filled_in_is_what_it_asks_for() {
        let lines = "gpt-4o*: concurrent_requests=unlimited\n\
                     gpt-4o*: usd=5/day,carried=0.5,until=2027-01-01T00:00:00Z\n\
                     llama3:8b: requests_per_minute=60";
        assert_eq!(filled(&some()), lines);
        assert_eq!(ask(lines, &BTreeMap::new()), Ok(some()));
        assert_eq!(ask("", &some()), Ok(BTreeMap::new()));
        let raised = ask("gpt-4o*:usd=6/day\r\n\r\n qwen3 : tokens_per_minute=5 ", &some()).unwrap();
        let expected = json!({
            "gpt-4o*": {"quotas": [{"usd": "6", "per": "day", "carried": "0.5", "until": "2027-01-01T00:00:00Z"}]},
            "qwen3": {"tokens_per_minute": 5},
        });
        assert_eq!(json!(raised), expected, "what was used elsewhere stays");
    }

    #[test]
    fn what_no_line_can_say_stays_with_what_is_not_touched() {
        let strange: ModelsLimits = serde_json::from_value(
            json!({"a=b": {"requests_per_minute": 5}, "c": {}, " d ": {"tokens_per_minute": 5}}),
        )
        .unwrap();
        assert_eq!(ask(&filled(&strange).replace('\n', "\r\n"), &strange), Ok(strange.clone()));
        assert_eq!(asked(&FormFields::from([]), &strange).unwrap(), strange, "a form without the field");
    }

    #[test]
    fn a_line_that_is_wrong_is_told_by_its_number() {
        let many = (1..=17).map(|hours| format!("m: requests=1/{hours}h")).collect::<Vec<_>>().join("\n");
        for (text, told) in [
            ("m: usd=1/day\nm: usd=x/day", "line 2: a quota of money"),
            ("\nrequests_per_minute=5", "line 1: a limit of models is written as GLOB:LIMIT"),
            ("m: coins=5/day", "line 1: there is no limit `coins` of models"),
            ("m: usd=1/day\n\nm: usd=2/day", "line 3: `m`: there are two quotas `usd_per_day`"),
            (
                "m: tokens_per_minute=1\nm: tokens_per_minute=2",
                "line 2: `m`: `tokens_per_minute` is set on a line above too",
            ),
            (&many, "line 17: `m`: there are more than 16 quotas"),
        ] {
            let refused = ask(text, &BTreeMap::new()).unwrap_err();
            assert!(refused.starts_with(told), "{text}: {refused}");
        }
    }
}
