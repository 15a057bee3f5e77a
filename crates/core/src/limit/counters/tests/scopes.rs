//! Limits of several scopes together, against a plain list of all that happened.

use super::{
    super::reference::scopes::{
        SubjectOfScopes, any_limits_of_scopes, any_request, check_scopes, date, quota, with_quotas,
    },
    *,
};
use crate::limit::ModelLimits;

#[test]
fn a_refusal_of_any_scope_touches_none() {
    let counters = Scopes { team: Some(Arc::<Counters>::default()), owner: Some(Arc::default()), key: Arc::default() };
    let roomy = || with_quotas(limits(limit(10), limit(100), limit(10)), vec![quota("tokens_per_day", 1000)]);
    let tight = || with_quotas(limits(limit(10), limit(100), limit(10)), vec![quota("tokens_per_day", 10)]);
    for scope in Scope::ALL {
        let of = |this| if scope == this { tight() } else { roomy() };
        let model = ModelLimits { models: Glob::new("m"), limits: of(Scope::Model) };
        let all = Arc::new(RequestLimits {
            scopes: Scopes { team: Some(of(Scope::Team)), owner: Some(of(Scope::Owner)), key: of(Scope::Key) },
            models: [model].into(),
            mode: LimitMode::Enforce,
        });
        let before = lines(&counters, &all, date(0));
        let first = Reservation::take(counters.clone(), &all, Amounts::tokens(6), date(0)).unwrap();
        let after = lines(&counters, &all, date(0));
        let refusal = Reservation::take(counters.clone(), &all, Amounts::tokens(6), date(0)).unwrap_err();
        assert_eq!((refusal.scope, refusal.limit, refusal.used), (scope, 10, 6));
        assert_eq!(refusal.retry_after, Duration::from_hours(24), "the day that began in 1970");
        assert_eq!(lines(&counters, &all, date(0)), after);
        drop(first.cancel());
        assert_eq!(lines(&counters, &all, date(0)), before);
    }
}

#[test]
fn what_would_be_refused_is_told_where_limits_only_count() {
    let counters = Scopes::of_key(Arc::<Counters>::default());
    let all = Arc::new(RequestLimits::from(limits(limit(1), Limit::Unlimited, limit(1))).observed());
    let first = Reservation::take(counters.clone(), &all, Amounts::default(), date(0)).unwrap();
    let second = Reservation::take(counters.clone(), &all, Amounts::default(), date(0)).unwrap();
    assert_eq!((first.observed(), second.observed().unwrap().over), (None, LimitKind::Concurrency));
    drop((first, second));
    let third = Reservation::take(counters.clone(), &all, Amounts::default(), date(0)).unwrap();
    assert_eq!(third.observed().unwrap().over, LimitKind::Requests);
    assert_eq!(used(&counters.key, date(0)), (3, 0, 1), "and all of them count");
}

#[test]
fn headers_tell_of_the_tightest() {
    let counters = Scopes { team: Some(Arc::<Counters>::default()), owner: None, key: Arc::default() };
    let all = Arc::new(RequestLimits {
        scopes: Scopes {
            team: Some(limits(limit(4), Limit::Unlimited, Limit::Unlimited).into()),
            owner: None,
            key: limits(limit(10), limit(100), Limit::Unlimited).into(),
        },
        ..RequestLimits::from(UNLIMITED)
    });
    let status = |counters| super::super::status(counters, &all, date(0)).requests;
    assert_eq!(status(&counters).limit, limit(10), "of equal ones the key's own is told");
    drop(Reservation::take(counters.clone(), &all, Amounts::default(), date(0)).unwrap());
    assert_eq!((status(&counters).limit, status(&counters).used), (limit(4), 1));
}

#[test]
fn what_a_request_came_to_in_each_quota_is_said_at_its_end() {
    let counters = Scopes { team: Some(Arc::<Counters>::default()), owner: None, key: Arc::default() };
    let all = Arc::new(RequestLimits {
        scopes: Scopes {
            team: Some(with_quotas(UNLIMITED, vec![quota("usd_per_month", 1000), quota("requests_per_5h", 9)])),
            owner: None,
            key: with_quotas(UNLIMITED, vec![quota("output_tokens_per_day", 50)]),
        },
        ..RequestLimits::from(UNLIMITED)
    });
    let planned = Amounts { tokens: 100, output_tokens: 80, nano_usd: 300 };
    let reservation = Reservation::take(counters.clone(), &all, planned, date(100)).unwrap();
    let used = Amounts { tokens: 90, output_tokens: 70, nano_usd: 200 };
    let kept = reservation.settle(used, date(86_400 + 5));
    let said: Vec<_> = kept.iter().map(|said| (said.scope, said.name.to_string(), said.slot, said.amount)).collect();
    let expected = [
        (Scope::Team, "usd_per_month".to_owned(), 31 * 86_400, 200),
        (Scope::Team, "requests_per_5h".to_owned(), 0, 1),
        (Scope::Key, "output_tokens_per_day".to_owned(), 86_400, 50),
        (Scope::Key, "output_tokens_per_day".to_owned(), 2 * 86_400, 20),
    ];
    assert_eq!(said, expected, "what is beyond a reservation counts from when it is known");
    let restored = Counters::default();
    for QuotaUse { models, name, slot, amount, .. } in kept.iter().filter(|said| said.scope == Scope::Key) {
        restored.restore(models.as_ref(), *name, *slot, *amount);
    }
    let left = |counters: &Counters| lines(&Scopes::of_key(counters), &all, date(86_400 + 5))[0].used;
    assert_eq!((left(&counters.key), left(&restored)), (20, 20), "as in another process");
}

/// Counters of one process, of two keys of one team and one owner.
#[derive(Default)]
struct Here {
    team: Arc<Counters>,
    owner: Arc<Counters>,
    keys: [Arc<Counters>; 2],
}

impl Here {
    fn of(&self, key: usize, limits: &RequestLimits) -> Scopes<Arc<Counters>> {
        Scopes {
            team: limits.scopes.team.is_some().then(|| self.team.clone()),
            owner: limits.scopes.owner.is_some().then(|| self.owner.clone()),
            key: self.keys[key].clone(),
        }
    }
}

impl SubjectOfScopes for Here {
    type Held = Reservation;

    fn reserve(
        &mut self,
        key: usize,
        limits: &Arc<RequestLimits>,
        amounts: Amounts,
        now: Now,
    ) -> Result<Reservation, Refusal> {
        Reservation::take(self.of(key, limits), limits, amounts, now)
    }

    fn settle(&mut self, held: Reservation, used: Amounts, now: Now) {
        held.settle(used, now);
    }

    fn drop(&mut self, held: Reservation, _: Now) {
        drop(held);
    }

    fn lines(&mut self, key: usize, limits: &RequestLimits, now: Now) -> Vec<LimitLine> {
        lines(&self.of(key, limits), limits, now)
    }
}

proptest! {
    #[test]
    fn any_set_of_scopes_agrees_with_a_plain_list(
        limits in any_limits_of_scopes(),
        requests in prop::collection::vec(any_request(), 1..60),
    ) {
        check_scopes(&mut Here::default(), &Arc::new(limits), &requests);
    }
}
