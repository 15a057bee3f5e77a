//! The way of a request from its key to its right to run: read, plan, reserve, start. Each step takes what the step before
//! it made, so that nothing is planned for a request without a key and nothing runs that is not reserved; each may refuse,
//! and what was taken until then is given back by `Drop`.

use std::{sync::Arc, time::Duration};

use keymeter_core::{
    api::Endpoint,
    body::{BodyError, Scanned},
    limit::{Demand, Limit, LimitMode, Place, Plan, Scope, certain_prompt},
    money::StalePolicy,
    rejection::Rejection,
};

use super::{
    ActiveRequest, Admitted, BodyRoom, Gate, Identified, Now, Prompt, Rejected, Reservations,
    additions::{Additions, asks_for_usage},
    money::{self, Shortage},
    planned::{Planned, over_limit},
};
use crate::{keys::Key, limits::account::Holder};

impl Gate {
    /// Lets a request run, or refuses it. `read_body` reads its body into the room that it is given, and says what stands
    /// in it; `clock` is asked for the time as it passes.
    ///
    /// # Errors
    /// When the request is refused: then it has taken nothing from its key's limits.
    pub async fn admit(
        self: &Arc<Self>,
        request: Identified,
        endpoint: Endpoint,
        read_body: impl AsyncFnOnce(BodyRoom) -> Result<Result<Scanned, BodyError>, Rejection>,
        clock: impl Fn() -> Now,
    ) -> Result<(Box<ActiveRequest>, Box<Scanned>), Box<Rejected>> {
        let read = self.read(request, endpoint, read_body, &clock).await?;
        // Nothing is waited for from here to the reservation: it is one moment.
        let start = read.at;
        let planned = self.plan(read)?;
        let reserved = self.reserve(planned, start, &clock).await?;
        let (mut active, scanned) = self.start(reserved);
        active.worked(clock().moment.saturating_since(start.moment));
        Ok((active, scanned))
    }

    /// Takes the request's place among those of its key that run, and reads its body. The key may have changed meanwhile.
    async fn read(
        &self,
        mut request: Identified,
        endpoint: Endpoint,
        read_body: impl AsyncFnOnce(BodyRoom) -> Result<Result<Scanned, BodyError>, Rejection>,
        clock: &impl Fn() -> Now,
    ) -> Result<Read, Box<Rejected>> {
        match self.read_in_place(&mut request, read_body, clock).await {
            Ok((place, scanned, at)) => {
                request.context.asks(endpoint, &scanned);
                Ok(Read { request, place, endpoint, scanned, at })
            }
            Err(rejection) => Err(request.rejected(rejection)),
        }
    }

    async fn read_in_place(
        &self,
        request: &mut Identified,
        read_body: impl AsyncFnOnce(BodyRoom) -> Result<Result<Scanned, BodyError>, Rejection>,
        clock: &impl Fn() -> Now,
    ) -> Result<(Place<Holder>, Box<Scanned>, Now), Rejection> {
        let mut place = self.take_place(request)?;
        let room = self.in_flight.body_room(request.key.account.clone(), request.context.settings.max_buffered_bodies);
        // It is handed on from step to step, and is large: so are the plan and the active request.
        let scanned = read_body(room).await?.map(Box::new);
        // What is reserved counts from this moment.
        let now = self.confirm(request, clock).await?;
        if !is_of(&place, &request.key) {
            // The secret has become another key's, or the key another team's.
            place = self.take_place(request)?;
        }
        Ok((place, scanned.map_err(Rejection::InvalidBody)?, now))
    }

    /// A key's unfinished bodies are at most as many as it may run. Where limits are shared this is the place here, which
    /// costs no question: the others count it with the admission.
    fn take_place(&self, request: &Identified) -> Result<Place<Holder>, Rejection> {
        let key = &request.key;
        let limits = request.context.settings.limits_of(key);
        let here = match self.sharing(&limits) {
            Some(shared) => shared.local_limits(limits),
            None => limits,
        };
        Place::take(key.accounts(), &here).map_err(|refusal| {
            key.account.metrics.held_to(&here.scopes.key);
            over_limit(key, refusal, None)
        })
    }

    /// Says where the request goes and what it is to reserve, if its key may make it at all.
    fn plan(&self, read: Read) -> Result<Box<Planned>, Box<Rejected>> {
        let Read { request, place, endpoint, mut scanned, at } = read;
        let admitted = match self.destination(&request, endpoint, &scanned) {
            Ok(admitted) => admitted,
            Err(rejection) => return Err(request.rejected(rejection)),
        };
        admitted.key.account.metrics.held_to(&admitted.limits.scopes.key);
        let figures = admitted.figures();
        let prompt = Prompt::new(&mut scanned, endpoint, &figures);
        let Identified { context, .. } = request;
        let mut planned = Box::new(Planned {
            demand: Demand {
                prompt: prompt.estimate(),
                certain_prompt: certain_prompt(scanned.prompt_text_bytes).saturating_add(scanned.prompt_tokens_given),
                stated_maximum: scanned.maximum,
                least_maximum: scanned.least_maximum,
                useful_maximum: scanned.useful_maximum,
                choices: scanned.choices,
                max_output_tokens: admitted.model.max_output_tokens,
                expected_output: figures.expected_output(),
                free: None,
                has_output: endpoint.has_output(),
            },
            limit: Limit::Unlimited,
            plan: Plan { tokens: 0, set_maximum: None },
            observed: None,
            context,
            admitted,
            place: Some(place),
            scanned,
            prompt,
        });
        match planned.plan(self, at) {
            Ok(()) => Ok(planned),
            Err(rejection) => Err(planned.rejected(rejection)),
        }
    }

    fn destination(&self, request: &Identified, endpoint: Endpoint, scanned: &Scanned) -> Result<Admitted, Rejection> {
        let (key, settings) = (&request.key, &request.context.settings);
        let requested = scanned.model.as_deref().unwrap_or_default();
        let may_call = key.record.may_call(requested);
        let route = may_call.then(|| settings.route(request.context.api, requested)).flatten();
        let route = route
            .ok_or_else(|| Rejection::ModelNotFound { key: key.record.id.clone(), model: requested.to_owned() })?;
        if self.ledger.as_ref().is_some_and(|ledger| !ledger.has_room()) {
            return Err(Rejection::LedgerUnavailable);
        }
        let limits = settings.limits_for(key, requested);
        if limits.mode == LimitMode::Enforce && limits.have_quotas() && !self.keeps_quotas() {
            return Err(Rejection::LedgerUnavailable);
        }
        Ok(Admitted {
            limits: Arc::new(limits),
            model: settings.model(requested),
            learned: self.learned.known(requested),
            route,
            endpoint,
            key: key.clone(),
        })
    }

    /// Takes what was planned at `start` from the key's limits and its wallet together, or nothing.
    async fn reserve(
        &self,
        mut planned: Box<Planned>,
        start: Now,
        clock: &impl Fn() -> Now,
    ) -> Result<Reserved, Box<Rejected>> {
        let (mut asked, mut policy) = (start, StalePolicy::WhileItLasts);
        loop {
            let (limits, now) = match planned.reserve_limits(self, asked, clock).await {
                Ok(reserved) => reserved,
                Err(rejection) => return Err(planned.rejected(rejection)),
            };
            let shortage = match planned.reserve_money(policy, now) {
                Ok(money) => return Ok(Reserved { planned, reservations: Reservations { limits, money }, at: now }),
                Err(_) if !planned.enforces() => {
                    planned.observed = Some(planned.no_balance());
                    return Ok(Reserved { planned, reservations: Reservations { limits, money: None }, at: now });
                }
                Err(shortage) => shortage,
            };
            // Its body is held while the accounting service is asked, and so is its place; nothing else is.
            planned.place = Some(limits.cancel());
            let waited = clock().moment.saturating_since(start.moment);
            // Boxed, since a call of a service takes as much room as all else that a request's future holds.
            let Some(trusting) = Box::pin(self.ask_for_allowance(&shortage, waited)).await else {
                let rejection = planned.no_balance();
                return Err(planned.rejected(rejection));
            };
            policy = trusting;
            asked = clock();
            // What the wallet pays for decides how long an answer may be.
            if let Err(rejection) = planned.plan(self, asked) {
                return Err(planned.rejected(rejection));
            }
        }
    }

    /// Asks the accounting service for more of a wallet, and says how what it said is to be taken. `None`: asking does not
    /// help, or has taken long enough.
    async fn ask_for_allowance(&self, shortage: &Shortage, waited: Duration) -> Option<StalePolicy> {
        let (service, needed) = (self.accounting.as_ref()?, shortage.needed.as_ref()?);
        if !waited.is_zero() {
            if waited >= money::WAIT_FOR_OTHERS {
                return None;
            }
            // Others may give back what they were granted and do not use.
            tokio::time::sleep(money::ASK_AGAIN).await;
        }
        match service.request_allowance(needed.wallet.asking(needed.cost)).await {
            Ok(()) => Some(StalePolicy::WhileItLasts),
            Err(refusal) => {
                tracing::debug!("the accounting service says nothing of a wallet: {refusal}");
                Some(StalePolicy::ForWantOfBetter)
            }
        }
    }

    /// Lets the request run.
    fn start(self: &Arc<Self>, reserved: Reserved) -> (Box<ActiveRequest>, Box<Scanned>) {
        let Reserved { planned, reservations, at: now } = reserved;
        let Planned { mut context, admitted, prompt, plan, scanned, observed, .. } = *planned;
        let of_limits = reservations.limits.observed().map(|refusal| (refusal.over.into(), refusal.scope));
        let for_good = observed
            .as_ref()
            .and_then(|rejection| Some((rejection.refused()?, rejection.scope().unwrap_or(Scope::Key))));
        context.observed = context.observed.or(of_limits).or(for_good);
        if let Some((reason, scope)) = context.observed {
            admitted.key.account.metrics.observed(reason, scope);
        }
        let named = context.model.as_deref().unwrap_or_default();
        let asking = admitted.asking(named, now.moment);
        let include_usage = asks_for_usage(&admitted.route, admitted.endpoint, &scanned, asking);
        let additions = Additions::new(&admitted.route, asking, &scanned, include_usage, plan.set_maximum);
        let active = ActiveRequest::new(self.clone(), context, admitted, reservations, prompt, (plan, additions), now);
        let key = &active.admitted().key;
        if !self.resolver.is_current(key) {
            // It changed a moment ago, when this request could not be reached yet.
            self.resolver.recheck(key);
        }
        (active, scanned)
    }
}

/// Whether a place is one among the requests of a key, and of its team and owner.
fn is_of(place: &Place<Holder>, key: &Key) -> bool {
    let is = |one: Option<&Holder>, other: Option<&Holder>| match (one, other) {
        (Some(one), Some(other)) => one.is(other),
        (None, None) => true,
        _ => false,
    };
    let (taken, now) = (place.counters(), key.accounts());
    [Scope::Team, Scope::Owner, Scope::Key].into_iter().all(|scope| is(taken.of(scope), now.of(scope)))
}

/// A request whose body was read.
struct Read {
    request: Identified,
    place: Place<Holder>,
    endpoint: Endpoint,
    scanned: Box<Scanned>,
    /// When it was.
    at: Now,
}

/// A request that has all that it needs to run.
struct Reserved {
    planned: Box<Planned>,
    reservations: Reservations,
    /// When it was reserved.
    at: Now,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use keymeter_core::{body::scan, key::KeyRecord, money::Cost};

    use super::*;
    use crate::admission::tests::fixture::{Fixture, at, now, record};

    const PRICED: &str = r#"
limits: {requests_per_minute: unlimited, tokens_per_minute: unlimited, concurrent_requests: unlimited, reservation: worst_case}
models:
  - {name: m, input: "1000", output: "10000"}
  - {name: fresh, input: "1000"}
  - {name: written, input: "1000", cache_write: "1250"}
  - {name: hour, input: "1000", cache_write: "1250", cache_write_1h: "3000"}
"#;

    /// What the accounting service is asked for before a request runs whose key's wallet nobody knows yet.
    async fn needed(endpoint: Endpoint, body: String) -> Cost {
        let record = KeyRecord { wallet: Some("ada".into()), ..record("key_a") };
        let fixture = Fixture::new(vec![record], PRICED, 1000);
        let Ok(request) = fixture.identify("sk-key_a", now()).await else { panic!("a known key") };
        let body = Bytes::from(body);
        let read = fixture.gate.read(request, endpoint, async |_| Ok(scan(&body, endpoint.shape())), &now).await;
        let planned = fixture.gate.plan(read.ok().unwrap()).ok().unwrap();
        let shortage = planned.reserve_money(StalePolicy::WhileItLasts, now()).err().unwrap();
        let needed = shortage.needed.unwrap();
        assert_eq!(&**needed.wallet.id(), "ada");
        needed.cost
    }

    #[tokio::test]
    async fn of_a_wallet_of_which_nothing_is_known_the_accounting_service_is_to_be_asked() {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"hello"}]}"#;
        let cost = needed(Endpoint::ChatCompletions, body.to_owned()).await;
        assert!(
            matches!(cost, Cost::AtMost(cost) if cost > "10".parse().unwrap()),
            "a thousand tokens are expected: {cost:?}"
        );
    }

    #[tokio::test]
    async fn a_reservation_counts_from_after_a_key_that_changed_was_looked_up_again() {
        let fixture = Fixture::of(record("key_a"));
        let Ok(request) = fixture.identify("sk-key_a", now()).await else { panic!("a known key") };
        let (hash, resolver) = (*request.key.hash(), fixture.resolver.clone());
        let is_looked_up = || resolver.known(&hash).is_some_and(|key| resolver.is_current(&key));
        // The look-up takes five seconds.
        let clock = || at(Duration::from_secs(if is_looked_up() { 5 } else { 0 }));
        let body = Bytes::from_static(br#"{"model":"m","messages":[]}"#);
        let endpoint = Endpoint::ChatCompletions;
        let read_body = async |_| {
            resolver.changed(crate::keys::Change::All, now().moment);
            Ok(scan(&body, endpoint.shape()))
        };
        let Ok(read) = fixture.gate.read(request, endpoint, read_body, &clock).await else { panic!("a good body") };
        assert_eq!(read.at.moment, at(Duration::from_secs(5)).moment);
    }

    #[tokio::test]
    async fn a_prompt_is_paid_for_as_if_it_were_written_to_a_cache_for_an_hour() {
        let needed = async |model| {
            let body =
                format!(r#"{{"model":"{model}","max_tokens":9,"messages":[{{"role":"user","content":"hello"}}]}}"#);
            let Cost::AtMost(cost) = needed(Endpoint::ChatCompletions, body).await else { panic!("the worst case") };
            cost.nanos()
        };
        let (fresh, written, hour) = (needed("fresh").await, needed("written").await, needed("hour").await);
        // The bodies differ in the names' lengths, which are no text of the prompt.
        assert!(fresh > 0, "{fresh}");
        assert_eq!((written, hour), (2 * fresh, 3 * fresh), "1.6 times 1250, and 3000, for 1000");
    }
}
