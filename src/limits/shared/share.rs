//! What a gateway may use by itself while the server is away: of the limits of a minute its share, and of each quota what it
//! used here itself and its share of what was left.

use std::ops::Deref;

use jiff::{SignedDuration, Timestamp};
use keymeter_config::WhenUnreachable;
use keymeter_core::{
    clock::Now,
    glob::Glob,
    limit::{Carried, Counters, Division, LimitMode, Quota, QuotaName, Quotas, RequestLimits, Scope, Scopes},
};

use super::{
    SharedLimits, quotas,
    subject::{Part, Subject, parts},
};

impl SharedLimits {
    /// The limits that this gateway applies by itself to a request that is still to be counted: all of `limits` while the
    /// server is asked, since the server counts more than what runs here, and its share otherwise.
    #[must_use]
    pub fn local_limits(&self, limits: RequestLimits) -> RequestLimits {
        let is_asked = !self.health.is_known() || self.health.is_reachable();
        match self.terms.when_unreachable {
            WhenUnreachable::LocalShare if !is_asked => limits.share(self.health.gateways()),
            WhenUnreachable::LocalShare | WhenUnreachable::Refuse => limits,
        }
    }

    /// The limits that hold while the server is unavailable, with what `counters` have counted here. `None`: no request is
    /// admitted.
    #[must_use]
    pub fn local_share<Owner: Deref<Target = Counters>>(
        &self,
        names: &Scopes<&str>,
        counters: &Scopes<Owner>,
        limits: &RequestLimits,
        now: Now,
    ) -> Option<RequestLimits> {
        if self.terms.when_unreachable == WhenUnreachable::Refuse && limits.mode == LimitMode::Enforce {
            return None;
        }
        let mut share = limits.share(self.health.gateways());
        for Part { subject, scope, models, limits } in parts(names, limits) {
            if limits.quotas.is_empty() {
                continue;
            }
            let counted = counters.of(scope).map(|counters| counters.quotas()).unwrap_or_default();
            let used_here = |name: QuotaName| {
                let known = counted.iter().find(|(of, own)| *of == models && own.name == name);
                let quota = limits.quotas.iter().find(|quota| quota.name == name);
                let (Some((_, own)), Some(quota)) = (known, quota) else { return 0 };
                let mut own = own.clone();
                let quota = Quota { carried: None, ..quota.clone() };
                own.roll(&quota, now.date);
                own.used(&quota, now.date)
            };
            let quotas = limits.quotas.iter().map(|quota| self.share_of_quota(&subject, quota, used_here, now));
            let quotas = Quotas::new(quotas.collect());
            if let (Some(own), Ok(quotas)) = (quotas_of(&mut share, scope, models.as_ref()), quotas) {
                *own = quotas;
            }
        }
        Some(share)
    }

    /// The quota as it is to be counted here: what is not this gateway's of it counts as used elsewhere.
    fn share_of_quota(
        &self,
        subject: &Subject,
        quota: &Quota,
        used_here: impl Fn(QuotaName) -> u64,
        now: Now,
    ) -> Quota {
        let date = self.calendar.date(now.date);
        let (carried, _) = quotas::carried(quota, date);
        let amount = quota.amount.get();
        let known = self.snapshots.used_quota(subject, quota.name, date, || used_here(quota.name));
        let (used, before) = known.unwrap_or_default();
        let left = amount.saturating_sub(used).saturating_sub(carried);
        let own = before.saturating_add(left / self.health.gateways().max(1));
        let carried = Carried { amount: amount.saturating_sub(own), until: over_at(quota, now.date) };
        Quota { carried: Some(carried), ..quota.clone() }
    }
}

fn quotas_of<'limits>(
    limits: &'limits mut RequestLimits,
    scope: Scope,
    models: Option<&Glob>,
) -> Option<&'limits mut Quotas> {
    Some(match scope {
        Scope::Team => &mut limits.scopes.team.as_mut()?.quotas,
        Scope::Owner => &mut limits.scopes.owner.as_mut()?.quotas,
        Scope::Key => &mut limits.scopes.key.quotas,
        Scope::Model => &mut limits.models.iter_mut().find(|model| Some(&model.models) == models)?.limits.quotas,
    })
}

/// When all that counts now does so no longer.
fn over_at(quota: &Quota, now: Timestamp) -> Timestamp {
    let end = match quota.division(now) {
        Division::Spans { bounds: [_, _, end, _], .. } => Timestamp::from_second(end).ok(),
        Division::Steps(micros) => now.checked_add(SignedDuration::from_micros(61 * micros)).ok(),
    };
    end.unwrap_or(Timestamp::MAX)
}
