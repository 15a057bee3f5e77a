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
    body::Change,
    limit::{Learned, LimitStatus, Limits},
    price::{TokenCounts, Usd},
    record::Record,
    rejection::Rejection,
    usage::{Ending, Form, Meter, Metered, Source, Usage},
};

use super::{
    Gate, Model, Now, Outcome, Prompt, RequestContext, Reservations, Route, Settings,
    context::{RequestId, millis},
};
use crate::{
    accounting::OutboxError,
    keys::{
        Key,
        revocation::{RevocationEntry, RevocationGuard},
    },
    observe::{
        metrics::UpstreamSeries,
        traces::{Ended, ExchangeEnded, RequestTrace, Spent},
    },
};

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
    pub limits: Limits,
}

/// The right of one request to run.
pub struct ActiveRequest {
    gate: Arc<Gate>,
    visit: RequestContext,
    admitted: Admitted,
    prompt: Prompt,
    change: Change,
    adds_usage: bool,
    /// `None` once the response has ended.
    held: Option<Reservations>,
    is_settled: bool,
    /// Whether its record was handed to the ledger.
    is_recorded: bool,
    meter: Option<Meter>,
    /// What the response came to, once it has ended.
    reading: Option<Reading>,
    status: u16,
    first_token: Option<Now>,
    /// `None`: it goes on though its key is revoked.
    running: Option<RevocationGuard>,
}

/// What the meter says at the end.
#[derive(Clone, Copy)]
struct Reading {
    complete: bool,
    is_stream: bool,
    metered: Metered,
    cost: Usd,
}

impl Default for Reading {
    fn default() -> Self {
        Self { complete: false, is_stream: false, metered: Metered::none(), cost: Usd::ZERO }
    }
}

impl ActiveRequest {
    pub(super) fn new(
        gate: Arc<Gate>,
        visit: RequestContext,
        admitted: Admitted,
        held: Reservations,
        prompt: Prompt,
        wish: Change,
        now: Now,
    ) -> Self {
        admitted.key.account.metrics.began(now.date.as_second());
        let adds_usage = wish.include_usage;
        let key = &admitted.key;
        let enter = || gate.runs().register(&key.record.id, *key.hash(), key.end());
        let running = visit.settings.cuts_revoked.then(enter);
        Self {
            gate,
            visit,
            admitted,
            prompt,
            change: wish,
            adds_usage,
            held: Some(held),
            is_settled: false,
            is_recorded: false,
            meter: None,
            reading: None,
            status: 0,
            first_token: None,
            running,
        }
    }

    /// Who was admitted, to what.
    #[must_use]
    pub fn admitted(&self) -> &Admitted {
        &self.admitted
    }

    /// The name of the request.
    #[must_use]
    pub fn request_id(&self) -> &RequestId {
        &self.visit.id
    }

    /// What held when the request arrived.
    #[must_use]
    pub fn settings(&self) -> &Arc<Settings> {
        &self.visit.settings
    }

    /// The request's trace, where requests are traced.
    #[must_use]
    pub fn trace(&self) -> Option<&RequestTrace> {
        self.visit.trace.as_deref()
    }

    /// The same, to tell it what happens.
    pub fn trace_mut(&mut self) -> Option<&mut RequestTrace> {
        self.visit.trace.as_deref_mut()
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
        self.visit.work += time;
    }

    /// Whether a refusal with `status` may be due to what we added to the request, which then
    /// is sent again as the client wrote it.
    #[must_use]
    pub fn withdraw_addition(&mut self, status: u16) -> bool {
        let due =
            matches!(status, 400 | 422) && self.change.include_usage && self.admitted.route.may_retry_without_usage();
        if due {
            self.change.include_usage = false;
        }
        due
    }

    /// The response's head is there: from here on its bytes are metered, if it is one that
    /// uses tokens.
    pub fn answered(&mut self, status: u16, content_type: &str, is_encoded: bool) {
        self.status = status;
        let withdrawn = self.adds_usage && !self.change.include_usage;
        let succeeded = (200..300).contains(&status);
        if succeeded && withdrawn {
            self.admitted.route.learn_refusal();
        }
        let form = if is_encoded { Form::Other } else { Form::of_content_type(content_type) };
        let Self { admitted, change, prompt, .. } = &*self;
        let meter = || Meter::new(admitted.endpoint, form, change.include_usage).of_prompts(prompt.count());
        self.meter = succeeded.then(meter);
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

    /// What was held back to see whether it is to be taken out, at the response's end.
    #[must_use]
    pub fn flush(&mut self) -> Option<Bytes> {
        self.meter.as_mut().and_then(Meter::flush)
    }

    /// Whether the response came to the end that its API knows.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.reading.map_or_else(|| self.meter.as_ref().is_some_and(Meter::ended), |reading| reading.complete)
    }

    /// The response has come to its end: what it used counts from here on, its place is free, and it is recorded, before
    /// the client sees the end and asks for more.
    ///
    /// # Errors
    /// When it cannot be recorded: then the client must not see the end.
    pub fn close(&mut self, now: Now) -> Result<(), OutboxError> {
        if self.meter.is_some() || self.gate.ledger().is_some() {
            self.read(&Outcome { complete: true, ..Outcome::default() }, now);
        }
        self.end_exchange(None, now);
        self.record(self.status)
    }

    /// The client is about to be told, with `status`, that there is no response, or no more of it.
    pub fn give_up(&mut self, status: u16, now: Now) {
        if self.gate.ledger().is_some() {
            self.read(&Outcome::default(), now);
            // The client is not told of a success. What cannot be written is held.
            let _ = self.record(status);
        }
    }

    /// Whether the response is a stream of events.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.reading.map_or_else(|| self.meter.as_ref().is_some_and(Meter::is_stream), |reading| reading.is_stream)
    }

    /// Whether an event that the client did not ask for may be taken out of the response.
    #[must_use]
    pub fn may_shorten(&self) -> bool {
        self.is_stream() && self.change.include_usage
    }

    /// Gives back what was not used, charges what was, and tells the metrics and the log.
    pub fn settle(mut self, outcome: &Outcome<'_>, now: Now) {
        self.settle_once(outcome, now);
    }

    fn settle_once(&mut self, outcome: &Outcome<'_>, now: Now) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        let Reading { complete, is_stream, metered, cost, .. } = self.read(outcome, now);
        let aborted = outcome.is_aborted(complete);
        self.end_exchange(outcome.rejection, now);
        self.learn(&metered, complete);
        let status = outcome.status.unwrap_or(if aborted { CLIENT_CLOSED } else { self.status });
        // Whoever saw the response's end did so after it was recorded.
        let _ = self.record(status);
        self.count(&metered, cost, status, aborted);
        if let Some(rejection) = outcome.rejection {
            self.gate.metrics.error(rejection.code());
        }
        let series = self.admitted.route.series(&self.admitted.model, &self.gate.metrics);
        series.answered(outcome.of_upstream(self.status, complete));
        self.time(&series, &metered, is_stream && complete, now);
        self.end_trace(&metered, cost, status, outcome, now);
        self.log(&metered, cost, status, aborted, outcome.rejection, now);
    }

    /// What the response came to. The first time it is looked at, its tokens are settled and its place is given back.
    fn read(&mut self, outcome: &Outcome<'_>, now: Now) -> Reading {
        if let Some(reading) = self.reading {
            return reading;
        }
        let held = self.held.take();
        // A meter may have failed in the middle of a chunk, and a second panic while the first one
        // unwinds would end the process. Without a reading, what was reserved stays counted.
        let read = catch_unwind(AssertUnwindSafe(|| self.read_meter(outcome)));
        if let (Ok(reading), Some(held)) = (&read, held) {
            held.limits.settle(reading.metered.usage.total(), now.moment);
            if let Some(money) = held.money {
                money.settle(reading.cost);
            }
        }
        *self.reading.insert(read.unwrap_or_default())
    }

    /// Tells the request's trace what its exchange with the upstream came to. The first time counts.
    fn end_exchange(&mut self, rejection: Option<&Rejection>, now: Now) {
        let Some(trace) = &mut self.visit.trace else { return };
        let reading = self.reading.unwrap_or_default();
        let first_piece = self.first_token.filter(|_| reading.is_stream).map(|first| first.date);
        let Metered { usage, source, .. } = reading.metered;
        let failure = rejection.map(Rejection::code);
        trace.exchange_ended(&ExchangeEnded { usage, source, first_piece, failure }, now.date);
    }

    /// Tells it what the whole came to.
    fn end_trace(&mut self, metered: &Metered, cost: Usd, status: u16, outcome: &Outcome<'_>, now: Now) {
        if self.visit.trace.is_none() {
            return;
        }
        let complete = self.reading.is_some_and(|reading| reading.complete);
        let upstream = self.admitted.route.name.clone();
        let ended = Ended {
            status,
            reason: outcome.rejection.map(Rejection::code),
            broke_off: !complete,
            client_aborted: outcome.is_aborted(complete),
            upstream: Some(&upstream),
            spent: Some(Spent { usage: metered.usage, source: metered.source, cost }),
        };
        self.visit.ended(&ended, now);
    }

    /// Hands what the response came to over to the ledger, once.
    fn record(&mut self, status: u16) -> Result<(), OutboxError> {
        let (Some(ledger), Some(reading), false) = (self.gate.ledger(), &self.reading, self.is_recorded) else {
            return Ok(());
        };
        let (RequestContext { id, arrived, .. }, key) = (&self.visit, &self.admitted.key.record);
        // Each request's name is one of a record, too.
        let Ok(id) = id.as_str().parse() else { return Ok(()) };
        let Usage { input, cached_input, cache_write, output, reasoning } = reading.metered.usage;
        let record = Record {
            id,
            gateway: ledger.session().clone(),
            time: arrived.date,
            key_id: key.id.clone(),
            key_name: key.name.clone(),
            owner: key.owner.clone(),
            team: key.team.clone(),
            wallet: key.wallet.clone(),
            model: self.visit.kept_model().unwrap_or_default().into(),
            input_tokens: input,
            cached_input_tokens: cached_input,
            cache_write_tokens: cache_write,
            output_tokens: output,
            reasoning_tokens: reasoning,
            cost_usd: reading.cost,
            status,
            usage_source: reading.metered.source,
        };
        let appended = ledger.append(record);
        self.is_recorded = true;
        appended
    }

    fn read_meter(&mut self, outcome: &Outcome<'_>) -> Reading {
        let (is_served, is_stream) = (self.meter.is_some(), self.is_stream());
        let complete = outcome.complete || self.has_ended();
        let metered = self.metered(complete, outcome.is_aborted(complete));
        let is_charged = is_served || metered.source != Source::None;
        let cost = if is_charged { self.cost(&metered) } else { Usd::ZERO };
        Reading { complete, is_stream, metered, cost }
    }

    fn metered(&mut self, complete: bool, aborted: bool) -> Metered {
        let ending = if complete { Ending::Complete } else { Ending::Early };
        match self.meter.take() {
            Some(meter) => {
                let own_tokens = |found| self.admitted.learned.own_tokens(found);
                meter.finish_for(ending, || self.counted_prompt(), own_tokens)
            }
            // The client did not wait for the head. The upstream has had its prompt, and that is all we know.
            None if aborted && self.status == 0 => {
                let usage = Usage { input: self.counted_prompt(), ..Usage::default() };
                Metered { usage, source: Source::Estimated, ..Metered::none() }
            }
            None => Metered::none(),
        }
    }

    fn counted_prompt(&self) -> u64 {
        self.prompt.counted(&self.admitted.learned)
    }

    fn cost(&self, metered: &Metered) -> Usd {
        self.admitted.model.price.cost(&counts(&metered.usage), metered.audio)
    }

    /// Remembers what the model's prompts and outputs are like, from counts that its upstream stated.
    fn learn(&self, metered: &Metered, complete: bool) {
        if metered.source != Source::Upstream || !complete {
            return;
        }
        let usage = &metered.usage;
        let prompt_tokens = usage.total().saturating_sub(usage.output);
        let learned = self.gate.learned.of(self.visit.model.as_deref().unwrap_or_default());
        let output = self.admitted.endpoint.has_output().then_some(usage.output);
        self.prompt.teach(&learned, prompt_tokens, output);
    }

    fn count(&self, metered: &Metered, cost: Usd, status: u16, aborted: bool) {
        let series = &self.admitted.key.account.metrics;
        series.ended();
        let model = series.model(&self.admitted.model.label);
        model.used(&metered.usage, cost);
        model.answered(status);
        self.gate.metrics.usage_from(metered.source);
        if aborted {
            self.gate.metrics.client_aborted();
        }
        if metered.source != Source::None && self.admitted.model.price.is_absent() {
            self.gate.metrics.unpriced(&self.admitted.model.label);
        }
    }

    fn time(&self, series: &UpstreamSeries, metered: &Metered, streamed: bool, now: Now) {
        let arrived = self.visit.arrived.moment;
        series.request_duration.observe(now.moment.saturating_since(arrived).as_secs_f64());
        series.overhead.observe(self.visit.work.as_secs_f64());
        let Some(first) = self.first_token else { return };
        series.time_to_first_token.observe(first.moment.saturating_since(arrived).as_secs_f64());
        if streamed && metered.usage.output > 1 {
            let rest = u32::try_from(metered.usage.output - 1).unwrap_or(u32::MAX);
            series.time_per_output_token.observe((now.moment.saturating_since(first.moment) / rest).as_secs_f64());
        }
    }

    fn log(&self, metered: &Metered, cost: Usd, status: u16, aborted: bool, rejection: Option<&Rejection>, now: Now) {
        let usage = &metered.usage;
        let arrived = self.visit.arrived.moment;
        let mut line = self.visit.line(status, rejection.map(Rejection::code), now);
        line.upstream = Some(&self.admitted.route.name);
        line.time_to_first_token_ms = self.first_token.map(|first| millis(first.moment.saturating_since(arrived)));
        line.input_tokens = usage.input;
        line.cached_input_tokens = usage.cached_input;
        line.cache_write_tokens = usage.cache_write;
        line.output_tokens = usage.output;
        line.reasoning_tokens = usage.reasoning;
        line.usage_source = metered.source.as_str();
        line.cost_usd = cost.to_string();
        line.client_aborted = aborted;
        self.gate.log.write(&line);
    }
}

/// A response's tokens as they are priced.
fn counts(usage: &Usage) -> TokenCounts {
    let Usage { input, cached_input, cache_write, output, .. } = *usage;
    TokenCounts { input, cached_input, cache_write, output }
}

/// What is logged and counted as the status of a response whose client went away before its
/// head, as nginx does.
const CLIENT_CLOSED: u16 = 499;

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

    use super::*;
    use crate::admission::tests::fixture::{Fixture, record};

    #[tokio::test]
    async fn a_meter_that_panics_fails_its_request_and_leaks_nothing() {
        let house = Fixture::of(record("key_a"));
        let mut lease = house.lease(r#"{"model":"m","max_tokens":5,"messages":[]}"#).await;
        lease.meter = Some(Meter::broken());
        let account = lease.admitted.key.account.clone();
        let limits = lease.admitted.limits;
        let failed = catch_unwind(AssertUnwindSafe(move || drop(lease.pass(Bytes::from_static(b"{}")))));
        assert!(failed.is_err(), "the request fails");
        house.in_flight("0");
        assert_eq!(account.counters.standing(&limits, keymeter_core::clock::MonotonicTime::now()).running, 0);
        assert_eq!(house.lines().len(), 1, "and is settled once");
    }
}
