//! Limits of several scopes together, against a plain list of all that happened: for counters of one process, and for those
//! that gateways share. For tests only.

use std::collections::HashMap;

use jiff::Timestamp;

use super::*;
use crate::limit::{ModelLimits, Quota, QuotaSpan, Quotas, ScopeLimits, Zone};

/// What is compared with the list: counters of two keys of one team and one owner.
pub trait SubjectOfScopes {
    /// What an admitted request holds.
    type Held;

    fn reserve(
        &mut self,
        key: usize,
        limits: &Arc<RequestLimits>,
        amounts: Amounts,
        now: Now,
    ) -> Result<Self::Held, Refusal>;
    fn settle(&mut self, held: Self::Held, used: Amounts, now: Now);
    fn drop(&mut self, held: Self::Held, now: Now);
    fn lines(&mut self, key: usize, limits: &RequestLimits, now: Now) -> Vec<LimitLine>;
}

pub fn quota(text: &str, amount: u64) -> Quota {
    Quota { name: text.parse().unwrap(), amount: amount.try_into().unwrap(), zone: Zone::UTC, carried: None }
}

pub fn with_quotas(minute: Limits, quotas: Vec<Quota>) -> ScopeLimits {
    ScopeLimits { minute, quotas: Quotas::new(quotas).unwrap() }
}

/// So many seconds after 1970, by both clocks.
pub fn date(seconds: i64) -> Now {
    let moment = MonotonicTime::from_nanos(u64::try_from(seconds).unwrap() * 1_000_000_000);
    Now { moment, date: Timestamp::from_second(seconds).unwrap() }
}

/// One request: what it takes, how long after the one before it comes, and how it ends after that.
#[derive(Clone, Debug)]
pub struct Request {
    key: usize,
    tokens: u64,
    used: u64,
    after: i64,
    runs: bool,
}

pub fn any_request() -> impl Strategy<Value = Request> {
    let after = prop_oneof![4 => 0_i64..3, 3 => 0_i64..70, 1 => 0_i64..90_000];
    (0_usize..2, 0_u64..40, 0_u64..60, after, any::<bool>()).prop_map(|(key, tokens, used, after, runs)| Request {
        key,
        tokens,
        used,
        after,
        runs,
    })
}

fn any_scope() -> impl Strategy<Value = ScopeLimits> {
    let quotas = (0_usize..3, 1_u64..120, 1_u64..120, 1_u64..30);
    (any_limits(), quotas).prop_map(|(minute, (count, day, sliding, requests))| {
        let quotas =
            [quota("tokens_per_day", day), quota("tokens_per_1h", sliding), quota("requests_per_5m", requests)];
        with_quotas(minute, quotas.into_iter().take(count).collect())
    })
}

/// What one scope counted, as plainly as can be.
#[derive(Default)]
struct Seen {
    /// When, how many requests, and how many tokens.
    entries: Vec<(i64, u64, u64)>,
    running: u64,
}

impl Seen {
    fn since(&self, from: i64) -> (u64, u64) {
        let recent = self.entries.iter().filter(|(at, ..)| *at > from);
        recent.fold((0, 0), |(requests, tokens), (_, more, amount)| (requests + more, tokens + amount))
    }

    /// The limits that a request certainly exceeds (`slack`: as if entries were kept as long as they may be).
    fn exceeded(&self, limits: &ScopeLimits, tokens: u64, now: i64, slack: bool) -> Vec<LimitKind> {
        let over = |limit: Limit, total: u64| limit.number().is_some_and(|limit| total > limit);
        let (requests, used) = self.since(now - 60 - i64::from(slack));
        let mut found = Vec::new();
        let minute = &limits.minute;
        found.extend(over(minute.concurrent_requests, self.running + 1).then_some(LimitKind::Concurrency));
        found.extend(over(minute.requests_per_minute, requests + 1).then_some(LimitKind::Requests));
        found.extend((tokens > 0 && over(minute.tokens_per_minute, used + tokens)).then_some(LimitKind::Tokens));
        for quota in limits.quotas.iter() {
            let from = match quota.name.span {
                QuotaSpan::Length(length) => {
                    let length = i64::from(length.seconds());
                    now - length - if slack { length / 60 + 1 } else { 0 }
                }
                _ => now - now.rem_euclid(86_400) - 1,
            };
            let (requests, used) = self.since(from);
            let (used, amount) = if quota.name.unit == QuotaUnit::Requests { (requests, 1) } else { (used, tokens) };
            let is_over = amount > 0 && used + amount > quota.amount.get();
            found.extend(is_over.then_some(LimitKind::Quota(quota.name)));
        }
        found
    }
}

/// Any set of scopes with any limits.
pub fn any_limits_of_scopes() -> impl Strategy<Value = RequestLimits> {
    let scope = || prop::option::of(any_scope());
    (scope(), scope(), any_scope(), scope()).prop_map(|(team, owner, key, model)| {
        let models = model.map(|limits| ModelLimits { models: Glob::new("m*"), limits });
        let scopes = Scopes { team, owner, key };
        RequestLimits { scopes, models: models.into_iter().collect(), mode: LimitMode::Enforce }
    })
}

/// A scope, and the key if it is within one.
type Counted = (&'static str, usize);

fn counted(scope: Scope, key: usize) -> Counted {
    (scope.as_str(), if matches!(scope, Scope::Key | Scope::Model) { key } else { 9 })
}

/// The limits that a request exceeds, and whose they are.
fn exceeded(
    seen: &HashMap<Counted, Seen>,
    limits: &RequestLimits,
    (key, tokens, now): (usize, u64, i64),
    slack: bool,
) -> Vec<(Scope, LimitKind)> {
    let nothing = Seen::default();
    let of = |scope| seen.get(&counted(scope, key)).unwrap_or(&nothing);
    let each = limits.all().map(|(scope, _, limits)| (scope, of(scope).exceeded(limits, tokens, now, slack)));
    each.flat_map(|(scope, over)| over.into_iter().map(move |over| (scope, over))).collect()
}

/// Whatever scopes and limits there are, nothing is admitted over one of them, nothing is refused within all of them, and what
/// is refused touches nothing.
pub fn check_scopes<S: SubjectOfScopes>(counters: &mut S, limits: &Arc<RequestLimits>, requests: &[Request]) {
    let mut seen: HashMap<Counted, Seen> = HashMap::new();
    let (mut now, mut running) = (10_000_i64, Vec::new());
    for Request { key, tokens, used, after, runs } in requests {
        now += after;
        let scopes: Vec<_> = limits.all().map(|(scope, ..)| counted(scope, *key)).collect();
        let amounts = Amounts { tokens: *tokens, output_tokens: *tokens, nano_usd: 0 }.cut(limits);
        let before = counters.lines(*key, limits, date(now));
        match counters.reserve(*key, limits, amounts, date(now)) {
            Ok(held) => {
                let over = exceeded(&seen, limits, (*key, amounts.tokens, now), false);
                assert_eq!(over, [], "admitted over a limit");
                let kept = if *runs { amounts.tokens } else { *used };
                for scope in &scopes {
                    let seen = seen.entry(*scope).or_default();
                    seen.entries.push((now, 1, kept));
                    seen.running += u64::from(*runs);
                }
                if *runs {
                    running.push((held, scopes));
                } else {
                    counters.settle(held, Amounts { tokens: *used, output_tokens: *used, nano_usd: 0 }, date(now));
                }
            }
            Err(refusal) => {
                let over = exceeded(&seen, limits, (*key, amounts.tokens, now), true);
                assert!(over.contains(&(refusal.scope, refusal.over)), "{refusal:?} of {over:?}");
                assert!(refusal.retry_after <= refusal.reset, "{refusal:?}");
                assert_eq!(counters.lines(*key, limits, date(now)), before, "a refusal took something");
            }
        }
        if running.len() > 3 {
            let (held, scopes) = running.swap_remove(0);
            counters.drop(held, date(now));
            for scope in &scopes {
                seen.get_mut(scope).unwrap().running -= 1;
            }
        }
    }
}
