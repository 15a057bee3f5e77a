//! What is used and left of shared limits, as far as the server said, or is asked.

use std::time::Duration;

use jiff::Timestamp;
use keymeter_core::{
    clock::Now,
    limit::{LimitLine, LimitName, LimitStatus, RequestLimits, Scope, Scopes, WindowStatus},
};

use super::{
    SharedLimits,
    answer::Standing,
    quotas,
    snapshots::{Counted, UsedQuota},
    subject::{Part, parts},
};

impl SharedLimits {
    /// What the server's last answers say of the limits of a minute, of the scope that has the least left of its own. `None`:
    /// the server is unavailable, and this gateway counts by itself.
    #[must_use]
    pub fn status(&self, names: &Scopes<&str>, limits: &RequestLimits, now: Now) -> Option<LimitStatus> {
        let parts = parts(names, limits);
        let status = |part: &Part| self.snapshots.status(&part.subject, &part.limits.minute, now.moment);
        self.health.is_reachable().then(|| tightest(parts.iter().map(|part| (part, status(part)))))
    }

    /// The same without those of single models, and each limit that there is, from a new answer of the server. `None`: it
    /// gives none in time.
    pub async fn fetch_status(
        &self,
        names: &Scopes<&str>,
        limits: &RequestLimits,
        now: Now,
    ) -> Option<(LimitStatus, Vec<LimitLine>)> {
        let parts = parts(names, limits);
        let mut connection = self.link.current().filter(|_| self.health.is_reachable())?;
        let keys: Vec<_> = parts.iter().flat_map(|part| part.subject.data()).collect();
        let mut call = self.scripts.status.on(&keys);
        let date = self.calendar.date(now.date);
        for part in &parts {
            quotas::write(&part.limits.quotas, &self.calendar, |_| 0, date, &mut call);
        }
        let said = self.link.wait_for(self.terms.timeout, call.run::<Vec<u64>>(&mut connection)).await.ok()?;
        let told = told(&said, &parts)?;
        let statuses = parts.iter().zip(&told).filter(|(part, _)| part.scope != Scope::Model);
        let status =
            tightest(statuses.map(|(part, told)| (part, told.counted.status(&part.limits.minute, Duration::ZERO))));
        let lines = parts.iter().zip(&told).flat_map(|(part, told)| told.lines(part, date)).collect();
        Some((status, lines))
    }

    /// Keeps what the server said about the subjects of a request, for which it was `date`.
    pub(super) fn record(&self, parts: &[Part], standings: &[Standing], date: Timestamp, now: Now) {
        for (part, standing) in parts.iter().zip(standings) {
            let quotas = part.limits.quotas.iter().zip(&standing.quotas).map(|(quota, used)| UsedQuota {
                name: quota.name,
                used: *used,
                at: date,
                division: self.calendar.division(quota, date),
                here: None,
            });
            self.snapshots.record(&part.subject, standing.counted, quotas.collect(), now.moment);
        }
    }
}

/// Of equal ones the key's own is told, and it is the key's requests that are said to run.
fn tightest<'parts>(statuses: impl Iterator<Item = (&'parts Part, LimitStatus)>) -> LimitStatus {
    let mut statuses: Vec<_> = statuses.collect();
    // The key's is the last.
    statuses.reverse();
    let running = statuses.first().filter(|(part, _)| part.scope == Scope::Key).map_or(0, |(_, status)| status.running);
    let tightest = statuses.into_iter().map(|(_, status)| status).reduce(|mut tightest, status| {
        tightest.tighten(&status);
        tightest
    });
    LimitStatus { running, ..tightest.unwrap_or_default() }
}

/// What the server says of one subject.
struct Told {
    counted: Counted,
    /// What is used of each quota, and how long until nothing is.
    quotas: Vec<(u64, Duration)>,
}

fn told(mut said: &[u64], parts: &[Part]) -> Option<Vec<Told>> {
    let mut all = Vec::with_capacity(parts.len());
    for part in parts {
        let (counted, rest) = said.split_at_checked(Counted::NUMBERS)?;
        let (quotas, rest) = rest.split_at_checked(2 * part.limits.quotas.len())?;
        let (pairs, _) = quotas.as_chunks();
        let quotas = pairs.iter().map(|[used, reset]| (*used, Duration::from_micros(*reset))).collect();
        all.push(Told { counted: Counted::read(counted)?, quotas });
        said = rest;
    }
    Some(all)
}

impl Told {
    fn lines(&self, part: &Part, date: Timestamp) -> Vec<LimitLine> {
        let Part { scope, models, limits, .. } = part;
        let line =
            |name, limit, used, reset| LimitLine { scope: *scope, models: models.clone(), name, limit, used, reset };
        let status = self.counted.status(&limits.minute, Duration::ZERO);
        let windows = [(LimitName::RequestsPerMinute, status.requests), (LimitName::TokensPerMinute, status.tokens)];
        let mut lines = Vec::new();
        for (name, WindowStatus { limit, used, reset }) in windows {
            lines.extend(limit.number().map(|limit| line(name, limit, used, reset)));
        }
        let concurrent = limits.minute.concurrent_requests.number();
        lines
            .extend(concurrent.map(|limit| line(LimitName::ConcurrentRequests, limit, status.running, Duration::ZERO)));
        for (quota, (used, reset)) in limits.quotas.iter().zip(&self.quotas) {
            let used = used.saturating_add(quotas::carried(quota, date).0);
            lines.push(line(LimitName::Quota(quota.name), quota.amount.get(), used, *reset));
        }
        lines
    }
}
