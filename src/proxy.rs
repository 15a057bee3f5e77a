//! The plugin. `Gated` wraps anybody's Pingora proxy: it lets in what the gate admits, meters
//! what comes back, and hands every phase on to the proxy within. This and its parts are the only
//! places that write a response to a client.

mod body;
mod forward;
mod query;
mod respond;
mod response;
mod subrequest;
mod usage;

use std::sync::Arc;

use bytes::Bytes;
use http::header;
use keymeter_config::Upstream;
use keymeter_core::{
    api::{Api, Call, Endpoint, recognise},
    body::Scanned,
    key::KeyRecord,
    rejection::Rejection,
};
use pingora::{
    ErrorSource,
    http::RequestHeader,
    prelude::{Error, Result},
    protocols::l4::socket::SocketAddr,
    proxy::Session,
};

use self::body::{BufferedBody, Outgoing, receive, scan_request};
use self::query::take_key;
pub use self::respond::{respond_json, respond_rejection};
use crate::{
    admission::{
        ActiveRequest, BodyRoom, CREDENTIAL_HEADERS, Client, Gate, InFlightGuard, Now, Outcome, RequestContext,
        RequestId, Route, Settings,
    },
    connection::Connection,
    headers::{change_request, header_value, remove_hop_by_hop},
    keys::Key,
    observe::traces::RequestTrace,
};

/// A Pingora proxy behind a gate.
pub struct Gated<P> {
    gate: Arc<Gate>,
    inner: P,
}

impl<P> Gated<P> {
    /// Puts `gate` before `inner`.
    #[must_use]
    pub fn new(gate: Arc<Gate>, inner: P) -> Self {
        Self { gate, inner }
    }
}

/// What the proxy within can ask of the request that it serves: it stands in the extensions
/// of the request's header.
#[derive(Clone)]
pub struct RequestInfo {
    /// The name of the request.
    pub id: RequestId,
    /// Whose request it is.
    pub key: Arc<Key>,
    /// What it asks for.
    pub call: Call,
    /// Where it goes; `None` where no model is asked.
    pub route: Option<Arc<Route>>,
    /// What held when it arrived.
    pub settings: Arc<Settings>,
    gate: Arc<Gate>,
}

impl RequestInfo {
    /// The pass of a request, if it is let in.
    #[must_use]
    pub fn of(request: &RequestHeader) -> Option<&Self> {
        request.extensions.get()
    }

    /// What is known of the key.
    #[must_use]
    pub fn key(&self) -> &KeyRecord {
        &self.key.record
    }

    /// The configured upstream of its route; `None`: the proxy within knows where it goes.
    #[must_use]
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        self.route.as_ref()?.upstream.as_ref()
    }
}

/// A request's state: the inner proxy's, and ours.
pub struct Context<C> {
    inner: C,
    stage: RequestState,
    /// Whether its exchange with the upstream runs apart from its client.
    role: subrequest::SubrequestRole<C>,
    _presence: InFlightGuard,
}

impl<C> Context<C> {
    /// Whether this is an exchange that runs apart from its client's request.
    fn is_exchange(&self) -> bool {
        matches!(self.role, subrequest::SubrequestRole::Exchange(_))
    }

    /// Whether this is such a request, whose exchange does everything else.
    fn is_clients(&self) -> bool {
        matches!(self.role, subrequest::SubrequestRole::Client(_))
    }
}

/// How far a request has come.
#[allow(clippy::large_enum_variant, reason = "every request is a visit first, and a box costs more than the room")]
enum RequestState {
    /// Its head is being looked at.
    New,
    /// It is not admitted, or not yet.
    Visiting(RequestContext, Option<Rejection>),
    /// It runs.
    Running(Box<Running>),
    /// It is settled.
    ExchangeEnd,
}

impl RequestState {
    /// The request's trace, where requests are traced.
    fn trace(&self) -> Option<&RequestTrace> {
        match self {
            Self::Running(running) => running.lease.trace(),
            Self::Visiting(visit, _) => visit.trace.as_deref(),
            Self::New | Self::ExchangeEnd => None,
        }
    }

    /// The same, to tell it what happens.
    fn trace_mut(&mut self) -> Option<&mut RequestTrace> {
        match self {
            Self::Running(running) => running.lease.trace_mut(),
            Self::Visiting(visit, _) => visit.trace.as_deref_mut(),
            Self::New | Self::ExchangeEnd => None,
        }
    }

    /// The exchange with the upstream begins, or is tried once more.
    fn exchange_begins(&mut self) {
        let route = match self {
            Self::Running(running) if running.lease.trace().is_some() => running.lease.admitted().route.clone(),
            _ => return,
        };
        let server = route.upstream.as_ref().map(|upstream| (&*upstream.url.host, upstream.url.port));
        if let Some(trace) = self.trace_mut() {
            trace.exchange_begins(&route.name, server, Now::read().date);
        }
    }

    /// Whether the upstream's answer has begun: what it was asked is not kept any longer.
    fn is_answered(&self) -> bool {
        matches!(self, Self::Running(running) if running.body.is_none())
    }
}

/// An admitted request.
struct Running {
    lease: ActiveRequest,
    /// What goes upstream, until the response is there.
    body: Option<Outgoing>,
    rejection: Option<Rejection>,
    tail: response::Tail,
    /// Where it runs apart from its client's request.
    halves: Option<Arc<subrequest::Subrequest>>,
    /// The connection that carries it, if the end of its key reaches it there.
    connection: Option<Arc<Connection>>,
}

impl Running {
    fn upstream_body(&self) -> Bytes {
        self.body.as_ref().map(Outgoing::bytes).unwrap_or_default()
    }

    /// Writes the lease's changes into the body anew.
    fn rewrite_body(&mut self) {
        if let Some(body) = &mut self.body {
            body.rewrite(self.lease.change());
        }
    }
}

impl<P> Gated<P> {
    /// The way of a request up to its lease: head, key, place, body, limits.
    async fn enter<C>(&self, session: &mut Session, context: &mut Context<C>) -> Result<(), Rejection> {
        let now = Now::read();
        let head = session.req_header();
        let visit = RequestContext::new(head.uri.path(), self.gate.settings(), now);
        let call = recognise(&head.method, &visit.path);
        let mut visit = visit.traced(&self.gate, &head.method, &head.headers, call.as_ref().ok());
        let in_query = (visit.api == Api::Gemini).then(|| take_key(session.req_header_mut())).flatten();
        let head = session.req_header();
        let from = visit.settings.client_address(&head.headers, peer_address(session));
        let identified = self.gate.identify(&mut visit, &head.headers, in_query.as_deref(), from, now).await;
        visit.work = Now::read().moment.saturating_since(now.moment);
        let settings = visit.settings.clone();
        context.stage = RequestState::Visiting(visit, None);
        if self.gate.traffic().is_draining() {
            return Err(Rejection::ShuttingDown);
        }
        identified?;
        match call {
            Ok(Call::Inference { endpoint, model }) => {
                let room = self.expect_body(context, now)?;
                let body = receive(session, room, &settings).await?;
                let start = Now::read();
                if let RequestState::Visiting(visit, _) = &mut context.stage {
                    self.gate.confirm(visit, from, start).await?;
                }
                let scanned = scan_request(session.req_header(), endpoint, model, &body.bytes);
                self.admit(context, endpoint, scanned.map_err(Rejection::InvalidBody)?, body, start).await
            }
            Ok(_) => Ok(()),
            Err(unrecognised) => Err(respond::unrecognised(unrecognised, session.req_header())),
        }
    }

    /// Takes the request's place, and says where its body is counted.
    fn expect_body<C>(&self, context: &mut Context<C>, now: Now) -> Result<BodyRoom, Rejection> {
        let RequestState::Visiting(visit, _) = &mut context.stage else { return Err(Rejection::InvalidKey) };
        self.gate.take_place(visit, now)?;
        self.gate.body_room(visit)
    }

    /// From a body, which was read from `start` on, to a lease.
    async fn admit<C>(
        &self,
        context: &mut Context<C>,
        endpoint: Endpoint,
        scanned: Scanned,
        held: BufferedBody,
        start: Now,
    ) -> Result<(), Rejection> {
        let RequestState::Visiting(visit, _) = std::mem::replace(&mut context.stage, RequestState::New) else {
            return Err(Rejection::InvalidKey);
        };
        // The key may have been asked about since.
        let now = Now::read();
        match self.gate.admit_asking(visit, endpoint, &scanned, now).await {
            Ok(mut lease) => {
                let body = Outgoing::new(scanned, lease.change(), held);
                lease.worked(Now::read().moment.saturating_since(start.moment));
                let tail = response::Tail::default();
                let connection = Connection::current();
                if let Some(connection) = &connection {
                    connection.set_revocation(lease.run().cloned());
                }
                let running = Running { lease, body: Some(body), rejection: None, tail, halves: None, connection };
                context.stage = RequestState::Running(Box::new(running));
                Ok(())
            }
            Err(turned_away) => {
                context.stage = RequestState::Visiting(turned_away.visit, None);
                Err(turned_away.rejection)
            }
        }
    }

    /// Lets the proxy within know whom it serves.
    fn publish<C>(&self, session: &mut Session, context: &Context<C>) {
        let head = session.req_header();
        let Ok(call) = recognise(&head.method, head.uri.path()) else { return };
        let pass = match &context.stage {
            RequestState::Running(running) => {
                let admitted = running.lease.admitted();
                RequestInfo {
                    id: running.lease.request_id().clone(),
                    key: admitted.key.clone(),
                    call,
                    route: Some(admitted.route.clone()),
                    settings: running.lease.settings().clone(),
                    gate: self.gate.clone(),
                }
            }
            RequestState::Visiting(visit, None) => {
                let Some(key) = visit.key.clone() else { return };
                let (id, settings) = (visit.id.clone(), visit.settings.clone());
                RequestInfo { id, key, call, route: None, settings, gate: self.gate.clone() }
            }
            _ => return,
        };
        session.req_header_mut().extensions_mut().insert(pass);
    }

    /// Answers a request that is not let in.
    async fn refuse<C>(&self, session: &mut Session, context: &mut Context<C>, rejection: Rejection) -> Result<bool> {
        let reply = respond::Reply::to(&self.gate, &context.stage, &rejection, Now::read());
        if let RequestState::Visiting(visit, reason) = &mut context.stage {
            // Whoever is refused may come again at once.
            visit.place = None;
            *reason = Some(rejection);
        }
        respond::before_body(session, reply).await?;
        Ok(true)
    }
}

/// Takes the client's credential and what concerns its connection with us out of a request,
/// and describes the body as it goes upstream.
fn prepare_upstream_request(request: &mut RequestHeader, stage: &RequestState) -> Result<()> {
    let trace = stage.trace().map(RequestTrace::headers);
    let (id, length) = match stage {
        RequestState::Running(running) => (Some(running.lease.request_id()), Some(running.upstream_body().len())),
        RequestState::Visiting(visit, _) => (Some(&visit.id), None),
        RequestState::New | RequestState::ExchangeEnd => (None, None),
    };
    change_request(request, |headers| {
        remove_hop_by_hop(headers);
        for name in CREDENTIAL_HEADERS.iter().chain([&header::ACCEPT_ENCODING, &header::EXPECT]) {
            headers.remove(name);
        }
        if let Some(length) = length {
            headers.remove(header::TRANSFER_ENCODING);
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        if let Some(id) = id {
            headers.insert(respond::X_REQUEST_ID, header_value(id.as_uuid()));
        }
        for (name, value) in trace.into_iter().flatten() {
            match value {
                Some(value) => drop(headers.insert(name, value)),
                None => drop(headers.remove(name)),
            }
        }
    })
}

/// The address at the other end of the connection.
fn peer_address(session: &Session) -> std::net::IpAddr {
    match session.client_addr() {
        Some(SocketAddr::Inet(address)) => address.ip(),
        _ => std::net::Ipv4Addr::UNSPECIFIED.into(),
    }
}

/// What a request came to, as its session saw it.
fn over(session: &Session, error: Option<&Error>) -> subrequest::ExchangeEnd {
    let status = session.response_written().map(|response| response.status.as_u16());
    let client = match error {
        Some(error) if *error.esource() == ErrorSource::Downstream => Client::Gone,
        _ => Client::There,
    };
    subrequest::ExchangeEnd { status, complete: error.is_none(), client }
}

/// Settles a request that is over, whatever became of it.
fn finish(gate: &Gate, stage: &mut RequestState, over: subrequest::ExchangeEnd) {
    let now = Now::read();
    match std::mem::replace(stage, RequestState::ExchangeEnd) {
        RequestState::Running(running) => {
            let Running { lease, rejection, halves, connection, body, .. } = *running;
            // Its room is free before anybody is told that the request is over.
            drop(body);
            if let Some(connection) = connection {
                connection.set_revocation(None);
            }
            let client = match over.client {
                _ if halves.is_some_and(|halves| halves.client_left_early()) => Client::LeftEarly,
                // It was we who left.
                Client::Gone if lease.revoked().is_some() => Client::There,
                client => client,
            };
            let subrequest::ExchangeEnd { status, complete, .. } = over;
            lease.settle(&Outcome { status, complete, client, rejection: rejection.as_ref() }, now);
        }
        RequestState::Visiting(mut visit, rejection) => {
            gate.turned_away(&mut visit, over.status.unwrap_or(499), rejection.as_ref(), now);
        }
        RequestState::New | RequestState::ExchangeEnd => {}
    }
}

#[cfg(test)]
mod tests;
