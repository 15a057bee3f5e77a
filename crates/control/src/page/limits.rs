//! Limits on pages: what is set, and the fields of the forms that set them.

use keymeter_config::keys::parse_scope_limits;
use keymeter_core::limit::{Quota, QuotaError, Quotas};
use maud::{Markup, html};
use serde_json::json;

use super::{
    form::{Form, FormField},
    request::FormFields,
    words::number,
};
use crate::{
    error::ApiError,
    store::limits::{LimitValue, QuotaLimit, ScopeLimits},
};

const QUOTAS: &str = "limits.quotas";

/// What a key's limit is that is not set.
pub const AS_FOR_ALL_KEYS: &str = "as the operator has set it for all keys";

/// What a team's or a user's limit is that is not set.
pub const UNLIMITED: &str = "unlimited";

/// The limits of a minute and at once: their fields and what people call them.
pub const MINUTE: [(&str, &str); 3] = [
    ("limits.requests_per_minute", "Requests a minute"),
    ("limits.tokens_per_minute", "Tokens a minute"),
    ("limits.concurrent_requests", "Requests at once"),
];

/// What the limits' quotas mean. Those that are kept were checked.
pub fn quotas(limits: &ScopeLimits) -> Quotas {
    parse_scope_limits(json!(limits)).map(|limits| limits.quotas).unwrap_or_default()
}

/// What is set, as entries of a list of facts.
pub fn facts(limits: &ScopeLimits, unset: &str) -> Markup {
    let values = [&limits.requests_per_minute, &limits.tokens_per_minute, &limits.concurrent_requests];
    html! {
        @for ((_, label), value) in MINUTE.iter().zip(values) {
            div { dt { (label) } dd { @match value {
                None => { span.faint { (unset) } }
                Some(LimitValue::Number(count)) => { (number(i64::try_from(*count).unwrap_or(i64::MAX))) }
                Some(LimitValue::Word(word)) => { (word) }
            } } }
        }
    }
}

/// The fields of a form as if the limits had been filled in.
pub fn filled(limits: &ScopeLimits) -> [(&'static str, String); 4] {
    let text = |value: &Option<LimitValue>| match value {
        None => String::new(),
        Some(LimitValue::Number(count)) => count.to_string(),
        Some(LimitValue::Word(word)) => word.clone(),
    };
    let lines: Vec<_> = quotas(limits).iter().map(Quota::to_string).collect();
    let [(requests, _), (tokens, _), (concurrent, _)] = MINUTE;
    [
        (requests, text(&limits.requests_per_minute)),
        (tokens, text(&limits.tokens_per_minute)),
        (concurrent, text(&limits.concurrent_requests)),
        (QUOTAS, lines.join("\n")),
    ]
}

/// The fields in which limits are set.
pub fn lines(form: &Form<'_>, unset: &str) -> Markup {
    html! {
        fieldset {
            legend { "Limits" span.optional { " (optional)" } }
            p.hint { "Each a number, or " code { "unlimited" } ". Left empty: " (unset) "." }
            div.row { @for (name, label) in MINUTE { (form.line(FormField { name, label, ..FormField::default() })) } }
            (form.lines(FormField {
                name: QUOTAS,
                label: "Quotas",
                hint: "One on a line, such as usd=100/month@Europe/Berlin, tokens=50000000/day or requests=1000/5h. Behind it \
                       may stand what was used elsewhere before: ,carried=12.50,until=2027-01-01. A line without that keeps \
                       what was said of it; carried=0 takes it away.",
                ..FormField::default()
            }))
        }
    }
}

/// What a form asks for. Of a quota that there `is` already, what was used elsewhere stays, unless the form says something of that.
///
/// # Errors
/// When a line is no quota, or there are two of one kind.
pub fn asked(fields: &FormFields, is: &ScopeLimits) -> Result<ScopeLimits, ApiError> {
    let [requests_per_minute, tokens_per_minute, concurrent_requests] = MINUTE.map(|(name, _)| {
        let text = fields.given(name)?;
        let number = text.parse().map(LimitValue::Number);
        Some(number.unwrap_or_else(|_| LimitValue::Word(text.to_owned())))
    });
    let before = quotas(is);
    let mut asked: Vec<Quota> = Vec::new();
    for (index, line) in fields.text(QUOTAS).lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |error: QuotaError| ApiError::invalid(QUOTAS, format!("line {}: {error}", index + 1));
        let quota: Quota = line.trim().parse().map_err(wrong)?;
        asked.push(with_carried(quota, &before));
    }
    let quotas = Quotas::new(asked).map_err(|error| ApiError::invalid(QUOTAS, error.to_string()))?;
    let quotas = quotas.iter().map(QuotaLimit::from).collect();
    Ok(ScopeLimits { requests_per_minute, tokens_per_minute, concurrent_requests, quotas })
}

/// A quota with what was used elsewhere of the one of its name, unless it says something of that.
pub fn with_carried(quota: Quota, before: &Quotas) -> Quota {
    let other = before.iter().find(|other| other.name == quota.name);
    Quota { carried: quota.carried.or_else(|| other?.carried), ..quota }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::limits::Amount;

    #[test]
    fn what_a_form_is_filled_with_is_what_it_asks_for() {
        let limits: ScopeLimits = serde_json::from_value(json!({
            "requests_per_minute": 60, "concurrent_requests": "unlimited",
            "quotas": [
                {"usd": "100", "per": "month", "zone": "Europe/Berlin", "carried": "12.5", "until": "2027-01-01T00:00:00Z"},
                {"tokens": 50_000_000, "per": "day"}, {"requests": 1000, "per": "5h"},
            ],
        }))
        .unwrap();
        let fields = FormFields::from(filled(&limits));
        assert_eq!(
            fields.text(QUOTAS),
            "usd=100/month@Europe/Berlin,carried=12.5,until=2027-01-01T00:00:00Z\ntokens=50000000/day\nrequests=1000/5h"
        );
        assert_eq!(asked(&fields, &limits).unwrap(), limits);
        let raised = FormFields::from([(QUOTAS, "\n usd=200/month@Europe/Berlin \r\n".to_owned())]);
        let raised = asked(&raised, &limits).unwrap();
        assert_eq!((&raised.quotas[0].carried, raised.quotas.len()), (&limits.quotas[0].carried, 1), "it stays");
        let taken_away = FormFields::from([(QUOTAS, "usd=200/month,carried=0,until=2027-01-01".to_owned())]);
        assert_eq!(asked(&taken_away, &limits).unwrap().quotas[0].carried, Some(Amount::Text("0".to_owned())));
        for (text, told) in [
            ("usd=1/month\nusd=x/day", "line 2: "),
            ("usd=1/day\nusd=2/day", "two quotas"),
            ("usd=1/day,carried=1", "line 1: `carried` without `until`"),
        ] {
            let fields = FormFields::from([(QUOTAS, text.to_owned())]);
            let refused = asked(&fields, &limits).unwrap_err();
            assert!(refused.message().contains(told), "{refused:?}");
        }
    }
}
