//! Where an admitted request goes: to a replica of its upstream, and when that fails before anything was forwarded, to another
//! one, or to the next upstream that serves the model.

use std::{sync::Arc, time::Duration};

use http::HeaderMap;
use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};
use keymeter_config::AffinityBy;
use keymeter_core::{body::Scanned, clock::MonotonicTime, pool::AffinityHash, rejection::Rejection};
use pingora::{
    ErrorSource, ErrorType,
    prelude::{Error, Result},
    proxy::Session,
};

use super::{RequestState, Running, body::Outgoing, ends, failure};
use crate::{
    admission::{Gate, Now, Route},
    observe::metrics::AttemptOutcome,
    upstream::{Interrupt, Permit, Pool, PoolError, Replica, UNRESOLVED, Wanted, Ways},
};

/// How far a request's way is.
#[derive(Default)]
pub(super) struct Dispatch {
    /// Its place on the replica that is asked.
    permit: Option<Permit>,
    /// Where it goes next.
    next: Option<Next>,
    /// The replicas of this upstream that failed it.
    tried: Vec<Arc<str>>,
    /// By which it is told that its replica is down, while it waits for the head of the answer.
    interrupt: Option<Arc<Interrupt>>,
    /// Whether the log says already how its last attempt failed.
    is_told: bool,
}

enum Next {
    Replica(Permit),
    /// Another replica of the same upstream, for which it waits.
    Wait,
    Upstream(Arc<Route>),
}

/// Why nobody waits any more.
enum Stop {
    OfProcess,
    /// Of one whose exchange runs apart from it.
    OfClient,
}

/// How often it is looked whether the process stops or such a client left, while a request waits.
const LOOK: Duration = Duration::from_millis(250);

impl Dispatch {
    /// The replica that is asked.
    pub fn replica(&self) -> Option<&Arc<Replica>> {
        self.permit.as_ref().map(Permit::replica)
    }

    /// By which it is told that its replica is down.
    pub fn interrupt(&self) -> Option<&Arc<Interrupt>> {
        self.interrupt.as_ref()
    }

    /// The head of an answer is there, so that nothing ends the wait for it any more.
    fn answered(&mut self) {
        self.is_told = false;
        if let Some(interrupt) = self.interrupt.take() {
            interrupt.answered();
        }
    }

    /// The answer with this id was made here.
    pub fn made(&self, answer: &str) {
        if let Some(permit) = &self.permit {
            permit.made(hash(answer));
        }
    }
}

/// Chooses the replica for the request's first attempt, or its next one. A request whose route has no replicas goes on without.
///
/// # Errors
/// When there is none, or the client left, its key was revoked or the process stops while it waited.
pub(super) async fn choose(gate: &Gate, session: &mut Session, state: &mut RequestState) -> Result<()> {
    let RequestState::Running(running) = state else { return Ok(()) };
    let route = match running.dispatch.next.take() {
        Some(Next::Replica(permit)) => {
            running.send_to(permit);
            return Ok(());
        }
        Some(Next::Wait) => {
            running.dispatch.permit = None;
            running.request.admitted().route.clone()
        }
        Some(Next::Upstream(route)) => {
            running.reroute(route.clone());
            route
        }
        None if running.dispatch.permit.is_some() => {
            running.send_again();
            return Ok(());
        }
        None => running.request.admitted().route.clone(),
    };
    let Some(mut pool) = route.pool.clone() else { return Ok(()) };
    // Where one is full and another is down, it is worth coming again.
    let mut refused: Option<Rejection> = None;
    loop {
        let wanted = running.wanted(&pool, &session.req_header().headers);
        match place(gate, session, running, &pool, wanted).await? {
            Ok(permit) => {
                running.send_to(permit);
                return Ok(());
            }
            Err(why) => {
                if refused.is_none() || matches!(why, PoolError::Overloaded { .. }) {
                    refused = Some(rejection(&pool, why));
                }
                let Some((route, next)) = running.next_upstream() else {
                    running.rejection = refused;
                    return Err(Error::explain(ends::NO_REPLICA, why.to_string()).into_in());
                };
                running.reroute(route);
                pool = next;
            }
        }
    }
}

/// A place on one of the pool's replicas, which the request waits for if need be.
async fn place(
    gate: &Gate,
    session: &mut Session,
    running: &mut Running,
    pool: &Arc<Pool>,
    wanted: Wanted,
) -> Result<std::result::Result<Permit, PoolError>> {
    let start = MonotonicTime::now();
    if let Some(placed) = pool.place_now(&wanted, start) {
        return Ok(placed);
    }
    let run = running.request.run().cloned();
    // One that would go on when its key is revoked has not begun yet.
    let key = &running.request.admitted().key;
    let waits = run.is_none().then(|| gate.revocations().register(&key.record.id, *key.hash(), key.end()));
    let (id, subrequest) = (key.record.id.clone(), running.subrequest.clone());
    let stops = async {
        loop {
            if gate.in_flight().is_draining() {
                return Stop::OfProcess;
            }
            if subrequest.as_ref().is_some_and(|subrequest| subrequest.client_left_early()) {
                return Stop::OfClient;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let placed = tokio::select! {
        biased;
        _ = ends::revoked(run.as_deref()) => {
            Err(Error::explain(ends::KEY_REVOKED, "the key is revoked").into_in())
        }
        denial = ends::revoked(waits.as_ref().map(|waits| &**waits.entry())) => {
            running.rejection = Some(Rejection::of_bar(denial, id));
            Err(Error::explain(ends::NO_REPLICA, "the key is revoked").into_in())
        }
        placed = pool.wait(wanted, start, MonotonicTime::now) => Ok(placed),
        left = leaves(session) => Err(left.into_down()),
        stop = stops => match stop {
            Stop::OfProcess => {
                running.rejection = Some(Rejection::ShuttingDown);
                Err(Error::explain(ends::NO_REPLICA, "the process stops").into_in())
            }
            Stop::OfClient => Err(Error::explain(ErrorType::ConnectionClosed, "the client left").into_down()),
        }
    };
    running.request.dispatched().queued += MonotonicTime::now().saturating_since(start);
    placed
}

/// Ends when the client leaves.
async fn leaves(session: &mut Session) -> Box<Error> {
    loop {
        if let Err(error) = session.downstream_session.read_body_or_idle(true).await {
            return error;
        }
    }
}

fn rejection(pool: &Pool, why: PoolError) -> Rejection {
    let upstream = pool.name.to_string();
    match why {
        PoolError::NoneUp => Rejection::UpstreamUnavailable { upstream },
        PoolError::Overloaded { retry_after } => Rejection::QueueFull { upstream, retry_after },
    }
}

/// The head of an answer is there that has the request sent to the same replica once more. The attempt goes on: what comes of it
/// is what comes of that.
pub(super) fn begin_again(running: &mut Running) {
    running.dispatch.answered();
}

/// The head of an answer is there. Whether the request goes elsewhere all the same: the replica has too much to do or failed,
/// and another remains.
pub(super) fn goes_elsewhere(running: &mut Running, status: u16, headers: &HeaderMap) -> bool {
    let now = MonotonicTime::now();
    running.dispatch.answered();
    let Some(permit) = &mut running.dispatch.permit else { return false };
    let outcome = match status {
        429 => AttemptOutcome::TooMany,
        500..=599 => AttemptOutcome::ServerError,
        _ => AttemptOutcome::Success,
    };
    let pause = if status < 400 { None } else { retry_after(headers, Timestamp::now()) };
    permit.attempted(outcome, status, pause, now);
    let goes_elsewhere = matches!(status, 429 | 502..=504) && running.find_another(now);
    running.trace_attempt(outcome, goes_elsewhere);
    goes_elsewhere
}

/// `retry-after` in seconds, or by the date that it names (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, today: Timestamp) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let millis = || text("retry-after-ms").and_then(|value| value.trim().parse().ok()).map(Duration::from_millis);
    let seconds = |value: &str| value.trim().parse().ok().map(Duration::from_secs);
    let date = |value: &str| {
        let date = DateTimeParser::new().parse_timestamp(value.trim()).ok()?;
        Some(Duration::try_from(date.duration_since(today)).unwrap_or(Duration::ZERO))
    };
    text("retry-after").and_then(|value| seconds(value).or_else(|| date(value))).or_else(millis)
}

/// What came of ending the wait for the head of an answer, if that was ended: it is the replica's doing, and not the client's.
pub(super) fn end_of_wait(running: &Running) -> Option<Box<Error>> {
    match running.dispatch.interrupt()? {
        interrupt if interrupt.is_interrupted() => {
            Some(Error::explain(ErrorType::ConnectionClosed, "the replica was found down").into_up())
        }
        interrupt if interrupt.is_timed_out() => {
            Some(Error::explain(ErrorType::ReadTimedout, "no head of an answer within first_byte_timeout").into_up())
        }
        _ => None,
    }
}

/// An attempt failed without the head of an answer. Whether the request is tried elsewhere.
pub(super) fn failed(running: &mut Running, error: &Error) -> bool {
    let now = MonotonicTime::now();
    let interrupt = running.dispatch.interrupt.take();
    let is_down = interrupt.as_ref().is_some_and(|interrupt| interrupt.is_interrupted());
    let is_slow = interrupt.as_ref().is_some_and(|interrupt| interrupt.is_timed_out());
    let outcome = match (is_down, is_slow) {
        (true, _) => AttemptOutcome::Down,
        (_, true) => AttemptOutcome::Timeout,
        _ => outcome_of(error),
    };
    let Some(permit) = &mut running.dispatch.permit else { return false };
    if *error.etype() == UNRESOLVED {
        permit.unresolved(now);
    } else {
        permit.attempted(outcome, 0, None, now);
    }
    let (pool, replica) = (permit.pool().clone(), permit.replica().clone());
    let goes_elsewhere = match outcome {
        AttemptOutcome::Other => false,
        // What that takes was taken when it was told.
        AttemptOutcome::Down => running.take_another(now),
        _ => running.find_another(now),
    };
    running.trace_attempt(outcome, goes_elsewhere);
    if *error.esource() != ErrorSource::Downstream {
        failure::log_attempt((&pool, &replica), running.request.request_id(), error, goes_elsewhere);
        running.dispatch.is_told = true;
    }
    goes_elsewhere
}

/// Says in the log that a request failed, if nothing has said so. What its client did wrong is not told.
pub(super) fn report(running: &Running, error: &Error) {
    let dispatch = &running.dispatch;
    if dispatch.is_told || *error.esource() == ErrorSource::Downstream {
        return;
    }
    let id = running.request.request_id();
    match &dispatch.permit {
        Some(permit) => failure::log_attempt((permit.pool(), permit.replica()), id, error, false),
        None => failure::log_request(&running.request.admitted().route.name, id, error),
    }
}

/// What an error of an attempt says of its replica. A socket that we ourselves cannot open, as when descriptors run out, says
/// nothing: a crowd of clients must not take replicas out.
fn outcome_of(error: &Error) -> AttemptOutcome {
    match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, _)
        | (_, ErrorType::InternalError | ErrorType::SocketError | ErrorType::BindError) => AttemptOutcome::Other,
        (_, ErrorType::ReadTimedout | ErrorType::WriteTimedout) => AttemptOutcome::Timeout,
        (
            _,
            ErrorType::ConnectTimedout
            | ErrorType::ConnectRefused
            | ErrorType::ConnectNoRoute
            | ErrorType::ConnectError
            | ErrorType::ConnectProxyFailure
            | ErrorType::TLSHandshakeFailure
            | ErrorType::TLSHandshakeTimedout
            | ErrorType::InvalidCert
            | &UNRESOLVED,
        ) => AttemptOutcome::Connect,
        (ErrorSource::Upstream, _) => AttemptOutcome::Closed,
        _ => AttemptOutcome::Other,
    }
}

impl Running {
    /// What the request wants of a pool.
    fn wanted(&self, pool: &Pool, headers: &HeaderMap) -> Wanted {
        let admitted = self.request.admitted();
        let scanned = self.body.as_ref().map(Outgoing::scanned);
        let affinity = pool.members().upstream.pool.affinity.as_ref().and_then(|affinity| match &affinity.by {
            AffinityBy::Prefix => scanned.map(Scanned::prefix_hash),
            AffinityBy::Key => Some(hash(admitted.key.record.id.as_str())),
            AffinityBy::Header(name) => {
                headers.get(name).map(|value| AffinityHash::new().add_part(value.as_bytes()).finish())
            }
        });
        let previous = scanned.and_then(|scanned| scanned.previous_response_id.as_deref()).map(hash);
        Wanted {
            key: admitted.key.account.tag.number(),
            priority: admitted.key.record.priority.number(),
            tokens: self.request.planned_tokens(),
            affinity,
            previous,
            tried: self.dispatch.tried.clone(),
        }
    }

    /// The request goes to the replica of this place.
    fn send_to(&mut self, permit: Permit) {
        if self.request.send_to(permit.replica()) {
            self.rewrite_body();
        }
        self.request.dispatched().attempts += 1;
        self.wait_for_head(&permit);
        self.dispatch.permit = Some(permit);
    }

    /// The request goes to the same replica once more, since what was added to it was refused, or on another connection.
    fn send_again(&mut self) {
        let Some(mut permit) = self.dispatch.permit.take() else { return };
        permit.begin_again();
        self.wait_for_head(&permit);
        self.dispatch.permit = Some(permit);
    }

    /// The request may be told that its replica is down, if it can go elsewhere then, or takes too long.
    fn wait_for_head(&mut self, permit: &Permit) {
        let members = permit.pool().members();
        let patience = (members.upstream.pool.first_byte_timeout, members.upstream.read_timeout);
        let is_impatient = patience.0 < patience.1;
        let is_checked = members.replicas.len() > 1 || members.upstream.pool.health.is_some();
        let here = members.replicas.len() > 1 && self.attempts_are_left(permit);
        let here = here.then(|| self.dispatch.tried.clone());
        let after = if is_checked { self.later_upstreams().map(|(_, pool)| pool).collect() } else { Vec::new() };
        let waits = is_impatient || here.is_some() || !after.is_empty();
        self.dispatch.interrupt = waits.then(|| permit.interrupt(Ways { here, after }));
        if let (Some(interrupt), true) = (&self.dispatch.interrupt, is_impatient) {
            end_after(patience.0, interrupt);
        }
        self.listen_for_interrupt();
    }

    /// Whatever carries the request is told of the end of its wait.
    fn listen_for_interrupt(&self) {
        let interrupt = self.dispatch.interrupt.clone();
        match (&self.subrequest, &self.connection) {
            (Some(subrequest), _) => subrequest.set_interrupt(interrupt),
            (None, Some(connection)) => connection.set_interrupt(interrupt),
            (None, None) => {}
        }
    }

    /// Tells the request's trace what came of an attempt, and whether that is over because the request goes elsewhere.
    fn trace_attempt(&mut self, outcome: AttemptOutcome, goes_elsewhere: bool) {
        let Some(trace) = self.request.trace_mut() else { return };
        trace.attempted(outcome);
        if goes_elsewhere {
            trace.goes_elsewhere(Now::read().date);
        }
    }

    /// The request goes to another upstream.
    fn reroute(&mut self, route: Arc<Route>) {
        self.dispatch.permit = None;
        self.dispatch.tried.clear();
        if let Some(body) = &self.body {
            self.request.reroute(route, body.scanned(), Now::read());
        }
        self.rewrite_body();
    }

    /// Finds where else the request may go, if it may be tried once more. Then it goes there next.
    fn find_another(&mut self, now: MonotonicTime) -> bool {
        let Some(permit) = &self.dispatch.permit else { return false };
        let pool = permit.pool().clone();
        self.has_another(now) && pool.take_retry(now) && self.take_another(now)
    }

    fn has_another(&self, now: MonotonicTime) -> bool {
        let Some(permit) = &self.dispatch.permit else { return false };
        let mut tried = self.dispatch.tried.clone();
        tried.push(permit.replica().name.clone());
        let here = self.attempts_are_left(permit) && permit.pool().has_another(&tried, now);
        here || self.later_upstreams().any(|(_, pool)| pool.has_another(&[], now))
    }

    fn attempts_are_left(&self, permit: &Permit) -> bool {
        let most = permit.pool().members().upstream.pool.attempts;
        self.dispatch.tried.len().saturating_add(1) < most as usize
    }

    /// Another replica that takes it at once comes first, then the next upstream, and then a replica that is full.
    fn take_another(&mut self, now: MonotonicTime) -> bool {
        let Some(permit) = &self.dispatch.permit else { return false };
        let may_stay = self.attempts_are_left(permit);
        let (pool, mut wanted) = (permit.pool().clone(), permit.wanted().clone());
        self.dispatch.tried.push(permit.replica().name.clone());
        wanted.tried.clone_from(&self.dispatch.tried);
        let found = if may_stay { pool.another(&wanted, now) } else { None };
        let later = self.later_upstreams().find(|(_, pool)| pool.has_another(&[], now));
        self.dispatch.next = match (found, later) {
            (Some(permit), _) => Some(Next::Replica(permit)),
            (None, Some((route, _))) => Some(Next::Upstream(route)),
            (None, None) => (may_stay && pool.has_another(&wanted.tried, now)).then_some(Next::Wait),
        };
        self.dispatch.next.is_some()
    }

    /// The next upstream that serves the model: one that may be asked, if there is one.
    fn next_upstream(&self) -> Option<(Arc<Route>, Arc<Pool>)> {
        let now = MonotonicTime::now();
        let open = self.later_upstreams().find(|(_, pool)| pool.has_another(&[], now));
        open.or_else(|| self.later_upstreams().next())
    }

    /// The upstreams that serve the model after the one that is asked, in their order.
    fn later_upstreams(&self) -> impl Iterator<Item = (Arc<Route>, Arc<Pool>)> {
        let (admitted, settings) = (self.request.admitted(), self.request.settings());
        let (api, model) = (admitted.endpoint.api(), self.request.model());
        let later = move |route: &Arc<Route>| settings.route_after(route, api, model);
        let routes = std::iter::successors(later(&admitted.route), later);
        routes.filter_map(|route| Some((route.clone(), route.pool.clone()?)))
    }
}

/// Ends a wait after so long.
fn end_after(patience: Duration, interrupt: &Arc<Interrupt>) {
    let interrupt = Arc::downgrade(interrupt);
    tokio::spawn(async move {
        tokio::time::sleep(patience).await;
        if let Some(interrupt) = interrupt.upgrade() {
            interrupt.time_out();
        }
    });
}

fn hash(text: &str) -> u64 {
    AffinityHash::new().add_part(text.as_bytes()).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_ourselves_lack_says_nothing_of_a_replica() {
        for (kind, expected) in [
            (ErrorType::ConnectRefused, AttemptOutcome::Connect),
            (UNRESOLVED, AttemptOutcome::Connect),
            (ErrorType::ReadTimedout, AttemptOutcome::Timeout),
            (ErrorType::ConnectionClosed, AttemptOutcome::Closed),
            // Pingora's own name for a socket that it cannot open or bind.
            (ErrorType::InternalError, AttemptOutcome::Other),
            (ErrorType::SocketError, AttemptOutcome::Other),
            (ErrorType::BindError, AttemptOutcome::Other),
        ] {
            let told = format!("{kind:?}");
            assert!(outcome_of(&Error::new(kind).into_up()) == expected, "{told}");
        }
        assert!(outcome_of(&Error::new(ErrorType::ConnectionClosed).into_down()) == AttemptOutcome::Other);
    }

    #[test]
    fn a_pause_is_stated_in_seconds_or_by_a_date() {
        let today = "2026-11-30T12:00:00Z".parse().unwrap();
        for (name, value, expected) in [
            ("retry-after", "7", Some(7_000)),
            ("retry-after", "Mon, 30 Nov 2026 12:00:20 GMT", Some(20_000)),
            ("retry-after", "Mon, 30 Nov 2026 11:59:20 GMT", Some(0)),
            ("retry-after", "soon", None),
            ("retry-after-ms", "250", Some(250)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            assert_eq!(retry_after(&headers, today), expected.map(Duration::from_millis), "{value}");
        }
    }
}
