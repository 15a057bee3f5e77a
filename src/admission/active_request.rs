//! What an admitted request holds: its place within the key's limits, and the meter of its
//! response. It is settled once, by whoever is done with it or by `Drop`, so that no way out
//! of a request leaves a slot taken or a token uncounted.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use keymeter_core::{
    api::Endpoint,
    body::{Change, Scanned},
    clock::MonotonicTime,
    learned::{Figures, KeyTag, Learned},
    limit::{Amounts, LimitStatus, Plan, QuotaUse, RequestLimits},
    rejection::Rejection,
    usage::{Form, Meter, Metered, Usage, UsageSource},
};
use thiserror::Error;

use super::{
    Gate, Model, Now, Outcome, Prompt, RequestContext, RequestId, Reservations, Route, Settings,
    additions::{Additions, Asking, asks_for_usage},
    completed::{Charge, Completed},
    response_meter::{ResponseKind, ResponseMeter},
};
use crate::{
    accounting::OutboxError,
    encoding::ContentCoding,
    keys::{
        Key,
        revocation::{RevocationEntry, RevocationGuard},
    },
    limits::store::{Kept, StoreError},
    observe::traces::{ExchangeEnded, RequestTrace},
    upstream::Replica,
};

/// Longer answers are not tokenized to learn from, since that takes over a millisecond; in bytes, with what a meter keeps
/// beside.
const MOST_TO_LEARN_FROM: usize = 16 * 1024;

/// Who was admitted, to what, on which terms.
pub struct Admitted {
    /// Whose request it is.
    pub key: Arc<Key>,
    /// Where it goes.
    pub route: Arc<Route>,
    /// What is configured of its model.
    pub model: Arc<Model>,
    /// What the model's recent traffic taught.
    pub learned: Arc<Learned>,
    /// What it asks for.
    pub endpoint: Endpoint,
    /// The limits that it is held to.
    pub limits: Arc<RequestLimits>,
}

impl Admitted {
    /// How its route's memory is asked at `now`, of a model that the client called so.
    pub(super) fn asking<'request>(&'request self, named: &'request str, now: MonotonicTime) -> Asking<'request> {
        Asking { key: &self.key.record.id, model: &self.model, named, now }
    }

    /// What is known of the model's tokens, for this key.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.learned.figures(self.key.account.tag)
    }
}

/// Why the end of a response must not be passed on.
#[derive(Debug, Error)]
pub enum CloseError {
    /// It cannot be recorded.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// What it came to in its quotas cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How a request came to where it was answered.
#[derive(Clone, Debug, Default)]
pub struct Dispatched {
    /// The replica that answered, or was asked last.
    pub replica: Option<Arc<str>>,
    /// How many replicas were asked.
    pub attempts: u32,
    /// How long it waited for places.
    pub queued: Duration,
}

/// The right of one request to run.
pub struct ActiveRequest {
    gate: Arc<Gate>,
    context: RequestContext,
    admitted: Admitted,
    prompt: Prompt,
    plan: Plan,
    additions: Additions,
    /// What is written into the body at present.
    change: Change,
    /// What the replica calls the model, if otherwise than the client.
    renamed: Option<Arc<str>>,
    /// How it came to the replica that answered, or was asked last.
    dispatched: Dispatched,
    /// `None` once the response has ended.
    reservations: Option<Reservations>,
    /// What it came to in each quota, once its response has ended.
    uses: Vec<QuotaUse>,
    is_settled: bool,
    /// Whether its record was handed to the ledger.
    is_recorded: bool,
    meter: Option<ResponseMeter>,
    /// The meter, once the response has ended: what was delivered may still teach.
    ended: Option<ResponseMeter>,
    /// What the response used, once it has ended.
    charge: Option<Charge>,
    status: u16,
    first_token: Option<Now>,
    /// `None`: it goes on though its key is revoked.
    running: Option<RevocationGuard>,
}

impl ActiveRequest {
    pub(super) fn new(
        gate: Arc<Gate>,
        context: RequestContext,
        admitted: Admitted,
        reservations: Reservations,
        prompt: Prompt,
        (plan, additions): (Plan, Additions),
        now: Now,
    ) -> Box<Self> {
        admitted.key.account.metrics.began(now.date.as_second());
        let key = &admitted.key;
        let enter = || gate.revocations().register(&key.record.id, *key.hash(), key.end());
        let running = context.settings.cuts_revoked.then(enter);
        let mut request = Box::new(Self {
            gate,
            context,
            admitted,
            prompt,
            plan,
            additions,
            change: Change::default(),
            renamed: None,
            dispatched: Dispatched::default(),
            reservations: Some(reservations),
            uses: Vec::new(),
            is_settled: false,
            is_recorded: false,
            meter: None,
            ended: None,
            charge: None,
            status: 0,
            first_token: None,
            running,
        });
        request.renew_change();
        request
    }

    /// How many tokens it is planned to take, prompt and output.
    #[must_use]
    pub fn planned_tokens(&self) -> u64 {
        self.plan.tokens
    }

    /// The model as the client named it.
    #[must_use]
    pub fn model(&self) -> &str {
        self.context.model.as_deref().unwrap_or_default()
    }

    /// What the replica calls the model, if otherwise than the client.
    #[must_use]
    pub fn renamed(&self) -> Option<&Arc<str>> {
        self.renamed.as_ref()
    }

    /// Where the request came by now.
    pub fn dispatched(&mut self) -> &mut Dispatched {
        &mut self.dispatched
    }

    /// It goes by another route than before, which may take other additions.
    pub fn reroute(&mut self, route: Arc<Route>, scanned: &Scanned, now: Now) {
        self.admitted.route = route;
        let asking = self.asking(now);
        let include_usage = asks_for_usage(&self.admitted.route, self.admitted.endpoint, scanned, asking);
        let additions = Additions::new(&self.admitted.route, asking, scanned, include_usage, self.plan.set_maximum);
        self.additions = additions;
        self.renew_change();
    }

    /// It goes to `replica`. Says whether its body is another with that.
    pub fn send_to(&mut self, replica: &Replica) -> bool {
        let renamed = replica.config.rename.get(self.model()).cloned();
        self.dispatched.replica = Some(replica.name.clone());
        let differs = renamed != self.renamed;
        self.renamed = renamed;
        self.renew_change();
        differs
    }

    fn renew_change(&mut self) {
        let sends_priority = self.admitted.route.upstream.as_ref().is_some_and(|upstream| upstream.pool.send_priority);
        let priority = sends_priority.then_some(self.admitted.key.record.priority.number());
        self.change = Change { model: self.renamed.clone(), priority, ..self.additions.change() };
    }

    /// Who was admitted, to what.
    #[must_use]
    pub fn admitted(&self) -> &Admitted {
        &self.admitted
    }

    /// The name of the request.
    #[must_use]
    pub fn request_id(&self) -> &RequestId {
        &self.context.id
    }

    /// What held when the request arrived.
    #[must_use]
    pub fn settings(&self) -> &Arc<Settings> {
        &self.context.settings
    }

    /// The request's trace, where requests are traced.
    #[must_use]
    pub fn trace(&self) -> Option<&RequestTrace> {
        self.context.trace.as_deref()
    }

    /// The same, to tell it what happens.
    pub fn trace_mut(&mut self) -> Option<&mut RequestTrace> {
        self.context.trace.as_deref_mut()
    }

    /// What is to be changed in the request's body before it goes upstream.
    #[must_use]
    pub fn change(&self) -> &Change {
        &self.change
    }

    /// What is left of the key's limits.
    #[must_use]
    pub fn standing(&self, now: Now) -> LimitStatus {
        self.gate.standing(&self.admitted.key, &self.admitted.limits, now)
    }

    /// What is to be looked at for the end of the key, if that ends the request.
    #[must_use]
    pub fn run(&self) -> Option<&Arc<RevocationEntry>> {
        self.running.as_ref().map(RevocationGuard::entry)
    }

    /// Why the request is to end although it runs: its key may not be used any more.
    #[must_use]
    pub fn revoked(&self) -> Option<Rejection> {
        let bar = self.run()?.denial()?;
        Some(Rejection::of_bar(bar, self.admitted.key.record.id.clone()))
    }

    /// Adds to the time that we ourselves spent on the request.
    pub fn worked(&mut self, time: Duration) {
        self.context.work += time;
    }

    /// Whether a refusal with `status` may be due to what we added to the request, which then
    /// is sent again with that put otherwise, as `change` says.
    #[must_use]
    pub fn try_otherwise(&mut self, status: u16) -> bool {
        let again = self.additions.try_otherwise(status);
        self.renew_change();
        again
    }

    /// Remembers what an answer with `status` proves of its upstream.
    pub fn learn_additions(&self, status: u16, now: Now) {
        if (200..300).contains(&status) {
            self.admitted.route.credential_was_taken(now.moment);
            self.additions.taken(&self.admitted.route, self.asking(now));
        }
    }

    fn asking(&self, now: Now) -> Asking<'_> {
        self.admitted.asking(self.context.model.as_deref().unwrap_or_default(), now.moment)
    }

    /// The id of the answer, where requests can go on from it.
    #[must_use]
    pub fn answer_id(&self) -> Option<&str> {
        self.meter.as_ref().or(self.ended.as_ref()).and_then(ResponseMeter::answer_id)
    }

    /// The response's head is there: from here on its bytes are metered, if it is one that
    /// uses tokens. Of one that is encoded no event is taken out.
    pub fn answered(&mut self, status: u16, content_type: &str, codings: Vec<ContentCoding>) {
        self.status = status;
        let succeeded = (200..300).contains(&status);
        self.meter = succeeded.then(|| {
            let removes_usage_event = self.change.include_usage && codings.is_empty();
            let meter = Meter::new(self.admitted.endpoint, Form::of_content_type(content_type), removes_usage_event);
            ResponseMeter::new(meter.of_prompts(self.prompt.count()), codings)
        });
    }

    /// Looks at the response's next bytes, and says what of them is to be forwarded.
    #[must_use]
    pub fn pass(&mut self, chunk: Bytes) -> Bytes {
        let Some(meter) = &mut self.meter else { return chunk };
        let forwarded = meter.feed(chunk);
        if self.first_token.is_none() && meter.text_delivered() {
            self.first_token = Some(Now::read());
        }
        forwarded
    }

    /// When the first piece of the answer passed, if one has.
    #[must_use]
    pub fn first_token(&self) -> Option<Now> {
        self.first_token
    }

    /// What was held back to see whether it is to be taken out, at the response's end.
    #[must_use]
    pub fn flush(&mut self) -> Option<Bytes> {
        self.meter.as_mut().and_then(ResponseMeter::flush)
    }

    /// Whether the response came to the end that its API knows.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.charge.map_or_else(|| self.meter.as_ref().is_some_and(ResponseMeter::ended), |charge| charge.complete)
    }

    /// The response has come to its end: what it used counts from here on, its place is free, and it is recorded, before
    /// the client sees the end and asks for more.
    ///
    /// # Errors
    /// When it cannot be recorded: then the client must not see the end.
    pub fn close(&mut self, now: Now) -> Result<(), CloseError> {
        let outcome = Outcome { status: Some(self.status), complete: true, ..Outcome::default() };
        self.charge(&outcome, now);
        self.end_exchange(None, now);
        let recorded = self.record(&outcome, now);
        self.keep_quotas()?;
        Ok(recorded?)
    }

    /// The client is about to be told, with `status`, that there is no response, or no more of it. What was reserved is
    /// given back before, since the client may ask again at once.
    pub fn give_up(&mut self, status: u16, now: Now) {
        let outcome = Outcome { status: Some(status), ..Outcome::default() };
        self.charge(&outcome, now);
        // The client is not told of a success. What cannot be written is held.
        let _ = (self.record(&outcome, now), self.keep_quotas());
    }

    /// Whether the response is a stream that takes an event more, between two of its own.
    #[must_use]
    pub fn takes_events(&self) -> bool {
        let kind = self.charge.map(|charge| charge.kind).or(self.meter.as_ref().map(ResponseMeter::kind));
        kind == Some(ResponseKind::Stream)
    }

    /// Whether an event that the client did not ask for may be taken out of the response. What it is shows only in its
    /// first bytes, so that its head is to fit either.
    #[must_use]
    pub fn may_shorten(&self) -> bool {
        self.change.include_usage && self.meter.as_ref().is_some_and(ResponseMeter::is_plain)
    }

    /// Gives back what was not used, charges what was, and tells the metrics and the log.
    pub fn settle(mut self: Box<Self>, outcome: &Outcome<'_>, now: Now) {
        self.settle_once(outcome, now);
    }

    fn settle_once(&mut self, outcome: &Outcome<'_>, now: Now) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        let charge = self.charge(outcome, now);
        self.end_exchange(outcome.rejection, now);
        self.learn(&charge, now);
        // Whoever saw the response's end did so after it was recorded.
        let _ = (self.record(outcome, now), self.keep_quotas());
        let (context, first_token) = (&self.context, self.first_token);
        let went = (&self.admitted, &self.dispatched);
        let completed = Completed::new(context, went, charge, self.status, outcome, first_token, now);
        completed.count(&self.gate.metrics);
        self.gate.log.write(&completed.line());
        let upstream = &self.admitted.route.name;
        let ended = completed.ended(upstream);
        self.context.trace_ended(&ended, Some(&self.admitted.key.record), now);
    }

    /// What the response used. The first time it is looked at, its tokens and its money are settled and its place is given
    /// back.
    fn charge(&mut self, outcome: &Outcome<'_>, now: Now) -> Charge {
        if let Some(charge) = self.charge {
            return charge;
        }
        let reservations = self.reservations.take();
        // A meter may have failed in the middle of a chunk, and a second panic while the first one
        // unwinds would end the process. Without a reading, what was reserved stays counted.
        let read = catch_unwind(AssertUnwindSafe(|| self.read_meter(outcome)));
        if let (Ok(charge), Some(reservations)) = (&read, reservations) {
            let Usage { output, .. } = charge.metered.usage;
            let nano_usd = u64::try_from(charge.cost.nanos()).unwrap_or(0);
            let used = Amounts { tokens: charge.metered.usage.total(), output_tokens: output, nano_usd };
            self.uses = reservations.settle(used, charge.cost, now);
        }
        *self.charge.insert(read.unwrap_or_default())
    }

    /// Tells the request's trace what its exchange with the upstream came to. The first time counts.
    fn end_exchange(&mut self, rejection: Option<&Rejection>, now: Now) {
        let Some(trace) = &mut self.context.trace else { return };
        let charge = self.charge.unwrap_or_default();
        let first_piece = self.first_token.filter(|_| charge.kind != ResponseKind::Document).map(|first| first.date);
        let Metered { usage, source, .. } = charge.metered;
        let failure = rejection.map(Rejection::code).or_else(|| charge.failure());
        trace.exchange_ended(&ExchangeEnded { usage, source, first_piece, failure }, now.date);
    }

    /// Hands what the request came to over to the ledger, once.
    fn record(&mut self, outcome: &Outcome<'_>, now: Now) -> Result<(), OutboxError> {
        let (Some(ledger), Some(charge), false) = (self.gate.ledger(), self.charge, self.is_recorded) else {
            return Ok(());
        };
        let (context, first_token) = (&self.context, self.first_token);
        let went = (&self.admitted, &self.dispatched);
        let completed = Completed::new(context, went, charge, self.status, outcome, first_token, now);
        let Some(record) = completed.record(ledger.session()) else { return Ok(()) };
        let appended = ledger.append(record);
        self.is_recorded = true;
        appended
    }

    /// Makes what it came to in its quotas durable, once.
    fn keep_quotas(&mut self) -> Result<(), StoreError> {
        let uses = std::mem::take(&mut self.uses);
        let Some(store) = self.gate.resolver.accounts().kept().opened().filter(|_| !uses.is_empty()) else {
            return Ok(());
        };
        let record = &self.admitted.key.record;
        let kept: Vec<_> = uses.iter().filter_map(|used| Some(Kept { id: record.id_in(used.scope)?, used })).collect();
        store.append(&kept)
    }

    fn read_meter(&mut self, outcome: &Outcome<'_>) -> Charge {
        let complete = outcome.complete || self.has_ended();
        let Some(mut meter) = self.meter.take() else {
            let metered = self.unmetered(outcome.is_aborted(complete));
            return Charge { complete, ..Charge::new(&self.admitted, metered, false) };
        };
        let (kind, failed) = (meter.kind(), meter.failed());
        let metered = meter.finish(complete, || self.counted_prompt(), || self.admitted.figures());
        self.ended = Some(meter);
        Charge { complete, failed, kind, ..Charge::new(&self.admitted, metered, !failed) }
    }

    /// What a request used of whose response nothing was metered.
    fn unmetered(&self, aborted: bool) -> Metered {
        if !aborted || self.status != 0 || !self.admitted.endpoint.takes_tokens() {
            return Metered::none();
        }
        // The client did not wait for the head. The upstream has had its prompt, and that is all we know.
        let usage = Usage { input: self.counted_prompt(), ..Usage::default() };
        Metered { usage, source: UsageSource::Estimated, ..Metered::none() }
    }

    fn counted_prompt(&self) -> u64 {
        self.prompt.counted(&self.admitted.figures())
    }

    /// Remembers what the model's prompts and answers are like, from counts that its upstream stated.
    fn learn(&self, charge: &Charge, now: Now) {
        if charge.metered.source != UsageSource::Upstream || !charge.complete || charge.failed {
            return;
        }
        let (usage, key) = (&charge.metered.usage, self.admitted.key.account.tag);
        let prompt_tokens = usage.total().saturating_sub(usage.output);
        let output = self.admitted.endpoint.has_output().then_some(usage.output);
        self.additions.used(usage.output, &self.admitted.route, self.asking(now));
        let Some(learned) = self.gate.learned.of(self.context.model.as_deref().unwrap_or_default(), key) else {
            return;
        };
        if self.prompt.teach(&learned, key, prompt_tokens, output) {
            self.prompt.teach_by_tokens(&learned, key, prompt_tokens);
            self.teach_answer(&learned, key, usage);
        }
    }

    /// Teaches what the answer's text took. Thoughts that are delivered may be a summary of those that are counted, and teach
    /// nothing.
    fn teach_answer(&self, learned: &Learned, key: KeyTag, usage: &Usage) {
        let Some(meter) = self.ended.as_ref().filter(|meter| meter.held_bytes() <= MOST_TO_LEARN_FROM) else { return };
        let answer = meter.answer();
        if answer.reasoning == 0 && answer.prose + answer.json > 0 {
            learned.learn_answer(key, &answer, self.admitted.endpoint, usage.output.saturating_sub(usage.reasoning));
        }
    }
}

impl Drop for ActiveRequest {
    /// Whatever happened to the request, a panic included: what was delivered is charged.
    fn drop(&mut self) {
        if !self.is_settled {
            self.settle_once(&Outcome::default(), Now::read());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use keymeter_core::limit::Limits;

    use super::*;
    use crate::admission::tests::fixture::{Fixture, record};

    #[tokio::test]
    async fn a_meter_that_panics_fails_its_request_and_leaks_nothing() {
        let fixture = Fixture::of(record("key_a"));
        let mut request = fixture.admitted(r#"{"model":"m","max_tokens":5,"messages":[]}"#).await;
        request.meter = Some(ResponseMeter::new(Meter::broken(), Vec::new()));
        let account = request.admitted.key.account.clone();
        let failed = catch_unwind(AssertUnwindSafe(move || drop(request.pass(Bytes::from_static(b"{}")))));
        assert!(failed.is_err(), "the request fails");
        fixture.in_flight("0");
        assert_eq!(account.counters.standing(&Limits::UNLIMITED, Now::read()).running, 0);
        assert_eq!(fixture.lines().len(), 1, "and is settled once");
    }
}
