//! Limits on pages: what is set, how much of a quota is used, and the form that sets them.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use keymeter_config::keys::parse_scope_limits;
use keymeter_core::{
    limit::{Quota, QuotaError, QuotaSpan, QuotaUnit, Quotas, Zone},
    money::Usd,
};
use maud::{Markup, html};
use serde_json::json;

use super::{
    form::{Form, FormField},
    layout,
    request::{FormFields, SignedIn},
    words::{money, number, time},
};
use crate::{
    Plane,
    api::usage::{ask, visible_to},
    error::ApiError,
    store::{
        limits::{LimitValue, QuotaLimit, ScopeLimits},
        usage::{UsageFilter, UsageRow},
    },
};

/// Said where limits were set.
pub const LIMITS: &str = "limits";

const QUOTAS: &str = "limits.quotas";

/// The limits of a minute and at once: their fields and what people call them.
const MINUTE: [(&str, &str); 3] = [
    ("limits.requests_per_minute", "Requests a minute"),
    ("limits.tokens_per_minute", "Tokens a minute"),
    ("limits.concurrent_requests", "Requests at once"),
];

/// Whose limits they are.
#[derive(Clone, Copy)]
pub enum Holder<'id> {
    /// A key's.
    Key(&'id str),
    /// A team's, of all its keys.
    Team(&'id str),
    /// A user's, of all their own keys.
    User(&'id str),
}

impl Holder<'_> {
    /// What a limit is that is not set.
    fn unset(self) -> &'static str {
        match self {
            Self::Key(_) => "as for all keys",
            Self::Team(_) | Self::User(_) => "unlimited",
        }
    }

    /// Their usage from a time on, as far as the caller may see it.
    fn filter(self, from: Timestamp, signed: &SignedIn) -> UsageFilter {
        let visible_to = visible_to(&signed.caller);
        let filter = UsageFilter { from: Some(from), visible_to, ..UsageFilter::default() };
        match self {
            Self::Key(id) => UsageFilter { key: Some(id.to_owned()), ..filter },
            Self::Team(id) => UsageFilter { team: Some(id.to_owned()), ..filter },
            Self::User(id) => UsageFilter { visible_to: Some((id.to_owned(), None)), ..filter },
        }
    }
}

/// A quota, and what was used of it, if that could be added up.
pub struct Spent {
    quota: Quota,
    since: Timestamp,
    used: Option<u64>,
}

/// What was used of each quota by the records that gateways sent, from the hour on in which it began to count.
pub async fn spent(
    plane: &Arc<Plane>,
    signed: &SignedIn,
    whose: Holder<'_>,
    limits: &ScopeLimits,
    now: Timestamp,
) -> Vec<Spent> {
    let mut spent: Vec<Spent> = Vec::new();
    for quota in quotas(limits).iter() {
        let since = hour(quota.counts_since(now));
        let rows = ask(plane, Some(&signed.caller), BTreeSet::new(), whose.filter(since, signed)).await;
        let used = rows.ok().map(|rows| rows.iter().map(|row| counted(quota.name.unit, row)).sum::<u64>());
        let used = used.map(|used| used.saturating_add(quota.carried(now)));
        spent.push(Spent { quota: quota.clone(), since, used });
    }
    spent
}

/// What the limits' quotas mean. Those that are kept were checked.
fn quotas(limits: &ScopeLimits) -> Quotas {
    parse_scope_limits(json!(limits)).map(|limits| limits.quotas).unwrap_or_default()
}

fn hour(time: Timestamp) -> Timestamp {
    const SECONDS: i64 = 3600;
    Timestamp::from_second(time.as_second().div_euclid(SECONDS) * SECONDS).unwrap_or(time)
}

fn counted(unit: QuotaUnit, row: &UsageRow) -> u64 {
    let counted = match unit {
        QuotaUnit::Requests => row.requests,
        QuotaUnit::OutputTokens => row.output_tokens,
        QuotaUnit::Usd => row.cost_usd.nanos(),
        QuotaUnit::Tokens => [row.input_tokens, row.cached_input_tokens, row.cache_write_tokens, row.output_tokens]
            .into_iter()
            .fold(0_i64, i64::saturating_add),
    };
    u64::try_from(counted).unwrap_or_default()
}

/// What is set, as entries of a list of facts.
pub fn facts(limits: &ScopeLimits, whose: Holder<'_>) -> Markup {
    let values = [&limits.requests_per_minute, &limits.tokens_per_minute, &limits.concurrent_requests];
    html! {
        @for ((_, label), value) in MINUTE.iter().zip(values) {
            div { dt { (label) } dd { @match value {
                None => { (whose.unset()) }
                Some(LimitValue::Number(count)) => { (number(i64::try_from(*count).unwrap_or(i64::MAX))) }
                Some(LimitValue::Word(word)) => { (word) }
            } } }
        }
    }
}

/// A bar for each quota, with what was used of it.
pub fn bars(spent: &[Spent]) -> Markup {
    html! {
        @if !spent.is_empty() {
            section aria-labelledby="quotas" {
                h2 id="quotas" { "Quotas" }
                ul.list.quotas { @for Spent { quota, since, used } in spent { li { (bar(quota, *since, *used)) } } }
            }
        }
    }
}

fn bar(quota: &Quota, since: Timestamp, used: Option<u64>) -> Markup {
    let (unit, amount) = (quota.name.unit, quota.amount.get());
    let words = match unit {
        QuotaUnit::Requests => "requests",
        QuotaUnit::Tokens => "tokens",
        QuotaUnit::OutputTokens => "tokens out",
        QuotaUnit::Usd => "",
    };
    let of = format!("{} {words}", shown(unit, amount));
    // In thousandths, since browsers compute with floating-point numbers.
    let part = used.map(|used| u128::from(used.min(amount)) * 1000 / u128::from(amount));
    html! {
        p { strong { (of.trim()) } (if matches!(quota.name.span, QuotaSpan::Length(_)) { " in any " } else { " a " })
            (quota.name.span.to_string())
            @if quota.zone != Zone::UTC { span.faint { " of " (quota.zone.name()) } } }
        @match (used, part) {
            (Some(used), Some(part)) => {
                meter min="0" max="1000" low="800" high="999" optimum="0" value=(part)
                    aria-label=(format!("{} of {} used", shown(unit, used), of.trim())) {}
                p.hint { (shown(unit, used)) " used since " (time(since)) ", by the records of requests that ended" }
            }
            _ => { p.hint { "What was used since " (time(since)) " is too much to add up here" } }
        }
    }
}

fn shown(unit: QuotaUnit, amount: u64) -> String {
    let amount = i64::try_from(amount).unwrap_or(i64::MAX);
    if unit == QuotaUnit::Usd { money(Usd::from_nanos(amount)) } else { number(amount) }
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
pub fn lines(form: &Form<'_>, whose: Holder<'_>) -> Markup {
    html! {
        fieldset {
            legend { "Limits" span.optional { " (optional)" } }
            p.hint { "Each a number, or " code { "unlimited" } ". Left empty: " (empty(whose)) "." }
            div.row { @for (name, label) in MINUTE { (form.line(FormField { name, label, ..FormField::default() })) } }
            (form.lines(FormField {
                name: QUOTAS,
                label: "Quotas",
                hint: "One on a line, such as usd=100/month@Europe/Berlin, tokens=50000000/day or requests=1000/5h.",
                ..FormField::default()
            }))
        }
    }
}

fn empty(whose: Holder<'_>) -> &'static str {
    match whose {
        Holder::Key(_) => "as the operator has set it for all keys",
        Holder::Team(_) | Holder::User(_) => "unlimited",
    }
}

/// The form that sets the limits of somebody whose page is at `path`.
pub fn setter(signed: &SignedIn, path: &str, form: &Form<'_>, whose: Holder<'_>) -> Markup {
    html! {
        details open[form.error.and_then(ApiError::field).is_some_and(|field| field.starts_with(LIMITS))] {
            summary { "Set the limits" }
            form method="post" action=(format!("{path}/limits")) aria-label="Limits" {
                (layout::form_token(signed))
                (lines(form, whose))
                button type="submit" { "Set the limits" }
            }
        }
    }
}

/// What a form asks for. Of a quota that there `is` already, what was used elsewhere stays.
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
        let carried = before.iter().find(|other| other.name == quota.name).and_then(|other| other.carried);
        asked.push(Quota { carried, ..quota });
    }
    let quotas = Quotas::new(asked).map_err(|error| ApiError::invalid(QUOTAS, error.to_string()))?;
    let quotas = quotas.iter().map(QuotaLimit::from).collect();
    Ok(ScopeLimits { requests_per_minute, tokens_per_minute, concurrent_requests, quotas })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(fields.text(QUOTAS), "usd=100/month@Europe/Berlin\ntokens=50000000/day\nrequests=1000/5h");
        assert_eq!(asked(&fields, &limits).unwrap(), limits, "what was used elsewhere stays");
        let raised = FormFields::from([(QUOTAS, "\n usd=200/month@Europe/Berlin \r\n".to_owned())]);
        let raised = asked(&raised, &limits).unwrap();
        assert_eq!((&raised.quotas[0].carried, raised.quotas.len()), (&limits.quotas[0].carried, 1));
        for (text, told) in [("usd=1/month\nusd=x/day", "line 2: "), ("usd=1/day\nusd=2/day", "two quotas")] {
            let fields = FormFields::from([(QUOTAS, text.to_owned())]);
            let refused = asked(&fields, &limits).unwrap_err();
            assert!(refused.message().contains(told), "{refused:?}");
        }
    }
}
