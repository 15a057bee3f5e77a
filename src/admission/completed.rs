//! What an admitted request came to: who asked for what, where it went, with which status, what it used and cost, and how
//! long it took. It is put together once, and each sink is told of it: the ledger, the metrics, the log and the trace. None
//! of them computes what another has.

use keymeter_core::{
    money::{TokenCounts, Usd},
    record::{Record, Session},
    rejection::{ErrorCode, Rejection},
    usage::{Metered, Usage, UsageSource},
};

use super::{Admitted, Dispatched, Now, Outcome, RequestContext, response_meter::ResponseKind};
use crate::observe::{
    access_log::Line,
    metrics::{Metrics, UpstreamOutcome},
    traces::{Ended, Spent},
};

/// What a response used, as its meter says at its end, and what that costs.
#[derive(Clone, Copy)]
pub(super) struct Charge {
    /// Whether the response came to its end.
    pub complete: bool,
    /// Whether the upstream said within it that it failed.
    pub failed: bool,
    pub kind: ResponseKind,
    pub metered: Metered,
    pub cost: Usd,
}

impl Default for Charge {
    fn default() -> Self {
        let (kind, metered) = (ResponseKind::default(), Metered::none());
        Self { complete: false, failed: false, kind, metered, cost: Usd::ZERO }
    }
}

impl Charge {
    /// What is charged for a response that used `metered`. What was not served, and used nothing, has no price either.
    pub fn new(admitted: &Admitted, metered: Metered, is_served: bool) -> Self {
        let is_charged = admitted.endpoint.takes_tokens() && (is_served || metered.source != UsageSource::None);
        let Usage { input, cached_input, cache_write, cache_write_1h, output, .. } = metered.usage;
        let counts = TokenCounts { input, cached_input, cache_write, cache_write_1h, output };
        let cost = if is_charged { admitted.model.price.cost(&counts, metered.audio) } else { Usd::ZERO };
        Self { metered, cost, ..Self::default() }
    }

    /// What is said of a response that tells of a failure itself, whatever its status.
    pub fn failure(&self) -> Option<ErrorCode> {
        self.failed.then_some(ErrorCode::UpstreamError)
    }
}

/// What is logged and counted as the status of a response whose client went away before its
/// head, as nginx does.
const CLIENT_CLOSED: u16 = 499;

/// A request that is over.
pub(super) struct Completed<'request> {
    context: &'request RequestContext,
    admitted: &'request Admitted,
    dispatched: &'request Dispatched,
    charge: Charge,
    /// What the client was answered with.
    status: u16,
    /// What the upstream answered with; 0: it did not.
    upstream_status: u16,
    outcome: &'request Outcome<'request>,
    is_aborted: bool,
    first_token: Option<Now>,
    at: Now,
}

impl<'request> Completed<'request> {
    pub fn new(
        context: &'request RequestContext,
        (admitted, dispatched): (&'request Admitted, &'request Dispatched),
        charge: Charge,
        upstream_status: u16,
        outcome: &'request Outcome<'request>,
        first_token: Option<Now>,
        at: Now,
    ) -> Self {
        let is_aborted = outcome.is_aborted(charge.complete);
        let status = outcome.status.unwrap_or(if is_aborted { CLIENT_CLOSED } else { upstream_status });
        Self { context, admitted, dispatched, charge, status, upstream_status, outcome, is_aborted, first_token, at }
    }

    /// For the ledger of `session`. `None`: the request's name is none of a record, which each name of ours is.
    pub fn record(&self, session: &Session) -> Option<Record> {
        let (RequestContext { id, arrived, .. }, key) = (self.context, &self.admitted.key.record);
        let Usage { input, cached_input, cache_write, output, reasoning, .. } = self.charge.metered.usage;
        Some(Record {
            id: id.as_str().parse().ok()?,
            gateway: session.clone(),
            time: arrived.date,
            key_id: key.id.clone(),
            key_name: key.name.clone(),
            owner: key.owner.clone(),
            team: key.team.clone(),
            wallet: key.wallet.clone(),
            model: self.context.kept_model().unwrap_or_default().into(),
            input_tokens: input,
            cached_input_tokens: cached_input,
            cache_write_tokens: cache_write,
            output_tokens: output,
            reasoning_tokens: reasoning,
            cost_usd: self.charge.cost,
            status: self.status,
            usage_source: self.charge.metered.source,
        })
    }

    /// Tells the metrics.
    pub fn count(&self, metrics: &Metrics) {
        let Charge { metered, cost, .. } = &self.charge;
        let model = &self.admitted.model;
        let of_key = &self.admitted.key.account.metrics;
        of_key.ended();
        let of_model = of_key.model(&model.label);
        of_model.used(&metered.usage, *cost);
        of_model.answered(self.status);
        metrics.usage_from(metered.source);
        if self.is_aborted {
            metrics.client_aborted();
        }
        if metered.source != UsageSource::None && model.price.is_absent() {
            metrics.unpriced(&model.label);
        }
        if let Some(rejection) = self.outcome.rejection {
            metrics.error(rejection.code());
        }
        self.time(metrics);
    }

    fn time(&self, metrics: &Metrics) {
        let series = self.admitted.route.series(&self.admitted.model, metrics);
        series.answered(self.of_upstream());
        let (arrived, ended) = (self.context.arrived.moment, self.at.moment);
        series.request_duration.observe(ended.saturating_since(arrived).as_secs_f64());
        series.overhead.observe(self.context.work.as_secs_f64());
        let Some(first) = self.first_token else { return };
        series.time_to_first_token.observe(first.moment.saturating_since(arrived).as_secs_f64());
        let output = self.charge.metered.usage.output;
        if self.charge.kind != ResponseKind::Document && self.charge.complete && output > 1 {
            let rest = u32::try_from(output - 1).unwrap_or(u32::MAX);
            series.time_per_output_token.observe((ended.saturating_since(first.moment) / rest).as_secs_f64());
        }
    }

    fn of_upstream(&self) -> UpstreamOutcome {
        let Charge { complete, failed, .. } = self.charge;
        self.outcome.of_upstream(self.upstream_status, complete, failed)
    }

    /// Why there was no response, or no whole one.
    fn reason(&self) -> Option<ErrorCode> {
        self.outcome.rejection.map(Rejection::code).or_else(|| self.charge.failure())
    }

    /// Its line in the access log.
    pub fn line(&self) -> Line<'_> {
        let Charge { metered: Metered { usage, source, .. }, cost, .. } = &self.charge;
        let arrived = self.context.arrived.moment;
        let outcome = self.of_upstream();
        Line {
            upstream: Some(&self.admitted.route.name),
            replica: self.dispatched.replica.as_deref(),
            attempts: self.dispatched.attempts,
            queued: self.dispatched.queued,
            outcome: (outcome != UpstreamOutcome::Success).then_some(outcome.as_str()),
            time_to_first_token: self.first_token.map(|first| first.moment.saturating_since(arrived)),
            input_tokens: usage.input,
            cached_input_tokens: usage.cached_input,
            cache_write_tokens: usage.cache_write,
            output_tokens: usage.output,
            reasoning_tokens: usage.reasoning,
            usage_source: source.as_str(),
            cost: *cost,
            client_aborted: self.is_aborted,
            limit: self.outcome.rejection.and_then(Rejection::reached_limit),
            ..self.context.line(Some(&self.admitted.key.record), self.status, self.reason(), self.at)
        }
    }

    /// For its trace, which knows the upstream by its configured name.
    pub fn ended<'name>(&self, upstream: &'name str) -> Ended<'name> {
        let Metered { usage, source, .. } = self.charge.metered;
        Ended {
            status: self.status,
            reason: self.reason(),
            broke_off: !self.charge.complete,
            client_aborted: self.is_aborted,
            upstream: Some(upstream),
            spent: Some(Spent { usage, source, cost: self.charge.cost }),
        }
    }
}
