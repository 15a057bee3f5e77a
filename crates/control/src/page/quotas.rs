//! What was used of quotas: a bar for each, and of a key the one that is used up first.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use jiff::Timestamp;
use keymeter_core::{
    limit::{Quota, QuotaSpan, QuotaUnit, Zone},
    money::Usd,
};
use maud::{Markup, html};

use super::{
    limits::{MINUTE, quotas},
    request::SignedIn,
    words::{cents, number, time},
};
use crate::{
    Plane,
    api::usage::{ask, visible_to},
    store::{
        keys::Key,
        limits::{LimitValue, ScopeLimits},
        usage::{UsageFilter, UsageRow},
    },
};

/// Whose limits they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder<'id> {
    /// A key's.
    Key(&'id str),
    /// A team's, of all its keys.
    Team(&'id str),
    /// A user's, of all their own keys.
    User(&'id str),
}

impl Holder<'_> {
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
#[derive(Clone)]
pub struct Spent {
    quota: Quota,
    since: Timestamp,
    used: Option<u64>,
    /// Whose it is, where that is not whose page it is on.
    whose: Option<String>,
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
        spent.push(Spent { quota: quota.clone(), since, used, whose: None });
    }
    spent
}

/// What was used of all the quotas that a key is held to: its own, and those of its team or its owner, which are looked up
/// once for all keys of a list.
#[derive(Default)]
pub struct SpentByKeys(HashMap<String, Vec<Spent>>);

impl SpentByKeys {
    /// Of a key.
    pub async fn of(&mut self, plane: &Arc<Plane>, signed: &SignedIn, key: &Key, now: Timestamp) -> Vec<Spent> {
        let mut all = spent(plane, signed, Holder::Key(&key.id), &key.limits.shared(), now).await;
        let shared = match (&key.team, &key.owner) {
            (Some(team), _) => Some((Holder::Team(team), &key.team_limits, team, format!("team {team}"))),
            (None, Some(owner)) => {
                Some((Holder::User(owner), &key.owner_limits, owner, format!("all keys of {owner}")))
            }
            (None, None) => None,
        };
        let Some((holder, limits, id, words)) = shared else { return all };
        if !self.0.contains_key(id) {
            let of_holder = spent(plane, signed, holder, limits, now).await;
            let of_holder = of_holder.into_iter().map(|spent| Spent { whose: Some(words.clone()), ..spent });
            self.0.insert(id.clone(), of_holder.collect());
        }
        all.extend(self.0.get(id).into_iter().flatten().cloned());
        all
    }
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

impl Spent {
    /// In thousandths, since browsers compute with floating-point numbers.
    fn part(&self) -> Option<u128> {
        let amount = self.quota.amount.get();
        self.used.map(|used| u128::from(used.min(amount)) * 1000 / u128::from(amount))
    }

    fn amount(&self) -> String {
        let words = match self.quota.name.unit {
            QuotaUnit::Requests => " requests",
            QuotaUnit::Tokens => " tokens",
            QuotaUnit::OutputTokens => " tokens out",
            QuotaUnit::Usd => "",
        };
        format!("{}{words}", self.shown(self.quota.amount.get()))
    }

    /// Such as ` a month`.
    fn span(&self) -> String {
        let before = if matches!(self.quota.name.span, QuotaSpan::Length(_)) { " in any " } else { " a " };
        format!("{before}{}", self.quota.name.span)
    }

    fn shown(&self, amount: u64) -> String {
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        if self.quota.name.unit == QuotaUnit::Usd { cents(Usd::from_nanos(amount)) } else { number(amount) }
    }

    fn meter(&self) -> Markup {
        html! {
            @if let (Some(used), Some(part)) = (self.used, self.part()) {
                meter min="0" max="1000" low="800" high="999" optimum="0" value=(part)
                    aria-label=(format!("{} of {} used", self.shown(used), self.amount())) {}
            }
        }
    }
}

/// A bar for each quota, with what was used of it.
pub fn bars(spent: &[Spent]) -> Markup {
    html! {
        @if !spent.is_empty() {
            section aria-labelledby="quotas" {
                h2 id="quotas" { "Quotas" }
                ul.list.quotas { @for spent in spent { li { (bar(spent)) } } }
            }
        }
    }
}

fn bar(spent: &Spent) -> Markup {
    html! {
        p {
            strong { (spent.amount()) } (spent.span())
            @if spent.quota.zone != Zone::UTC { span.faint { " of " (spent.quota.zone.name()) } }
            @if let Some(whose) = &spent.whose { span.faint { ", " (whose) } }
        }
        (spent.meter())
        p.hint { @match spent.used {
            Some(used) => {
                (spent.shown(used)) " used since " (time(spent.since)) ", by the records of requests that ended"
            }
            None => { "What was used since " (time(spent.since)) " is too much to add up here" }
        } }
    }
}

/// A small bar of the quota of which the greatest part is used; without one, the limit of a minute.
pub fn tightest(spent: &[Spent], limits: &ScopeLimits) -> Markup {
    let Some(tightest) = spent.iter().max_by_key(|spent| spent.part()) else { return minute(limits) };
    html! {
        div.tightest {
            (tightest.meter())
            span { (percent(tightest.part())) " of " (tightest.amount()) (tightest.span()) }
            @if let Some(whose) = &tightest.whose { span.faint { " (" (whose) ")" } }
        }
    }
}

fn percent(part: Option<u128>) -> String {
    part.map_or_else(|| "?".to_owned(), |part| format!("{}%", part / 10))
}

fn minute(limits: &ScopeLimits) -> Markup {
    let values = [&limits.requests_per_minute, &limits.tokens_per_minute, &limits.concurrent_requests];
    let set = MINUTE.iter().zip(values).find_map(|((_, label), value)| match value {
        Some(LimitValue::Number(count)) => Some((label, *count)),
        _ => None,
    });
    html! { span.faint { @match set {
        Some((label, count)) => { (number(i64::try_from(count).unwrap_or(i64::MAX))) " " (label.to_lowercase()) }
        None => { "no quota" }
    } } }
}
