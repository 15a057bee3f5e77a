//! The plugin. `Gated` wraps anybody's Pingora proxy: it lets in what the gate admits, meters
//! what comes back, and hands every phase on to the proxy within. This and its parts are the only
//! places that write a response to a client.

mod body;
mod cors;
mod dispatch;
mod ends;
mod failure;
mod forward;
mod heartbeat;
mod preflight;
mod query;
mod respond;
mod response;
mod subrequest;
mod usage;

use std::sync::Arc;

use bytes::Bytes;
use http::header;
use keymeter_config::{Upstream, UpstreamUrl};
use keymeter_core::{
    api::{Api, Call, Endpoint, Unrecognised, recognise, right_spelling},
    clock::MonotonicTime,
    key::KeyRecord,
    rejection::Rejection,
};
use pingora::{
    ErrorSource, ErrorType,
    http::RequestHeader,
    prelude::{Error, HttpPeer, Result},
    protocols::l4::socket::SocketAddr,
    proxy::Session,
};

pub use self::respond::{respond_json, respond_rejection};
use self::{
    body::{Outgoing, receive, scan_request},
    dispatch::Dispatch,
    query::take_key,
};
use crate::{
    admission::{
        ActiveRequest, CREDENTIAL_HEADERS, Client, Credentials, Gate, Identified, InFlightGuard, Now, Outcome,
        Rejected, RequestContext, RequestId, Route, Settings,
    },
    connection::Connection,
    headers::{change_request, header_value, remove_hop_by_hop},
    keys::Key,
    observe::traces::{AskedReplica, RequestTrace},
    upstream::{Dialer, Replica, address_request, rename_in_path},
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
    /// Whose API it is in, which our own answers are written for.
    pub api: Api,
    /// Where it goes; `None` where no model is asked.
    pub route: Option<Arc<Route>>,
    /// The replica that it goes to, once that is chosen; `None`: the proxy within knows where it goes.
    pub replica: Option<Arc<Replica>>,
    /// What the replica calls the model, if otherwise than the client.
    pub renamed: Option<Arc<str>>,
    /// What held when it arrived.
    pub settings: Arc<Settings>,
    gate: Arc<Gate>,
}

impl RequestInfo {
    /// What is known of a request, if it is let in.
    #[must_use]
    pub fn of(request: &RequestHeader) -> Option<&Self> {
        request.extensions.get()
    }

    fn of_running(running: &Running, call: Call, gate: &Arc<Gate>) -> Self {
        let (request, admitted) = (&running.request, running.request.admitted());
        Self {
            id: request.request_id().clone(),
            key: admitted.key.clone(),
            call,
            api: admitted.endpoint.api(),
            route: Some(admitted.route.clone()),
            replica: None,
            renamed: None,
            settings: request.settings().clone(),
            gate: gate.clone(),
        }
    }

    fn of_identified(request: &Identified, call: Call, gate: &Arc<Gate>) -> Self {
        let Identified { context, key } = request;
        let (id, key, settings) = (context.id.clone(), key.clone(), context.settings.clone());
        Self {
            id,
            key,
            call,
            api: context.api,
            route: None,
            replica: None,
            renamed: None,
            settings,
            gate: gate.clone(),
        }
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

    /// The peer for the replica that was chosen, for `upstream_peer`.
    ///
    /// # Errors
    /// When none was, since no upstreams are configured, or its name does not resolve.
    pub fn peer<'d>(&self, dialer: &'d Dialer) -> impl Future<Output = Result<Box<HttpPeer>>> + Send + use<'d> {
        // A session cannot be borrowed while something is awaited.
        let chosen = self.upstream().cloned().zip(self.replica.clone());
        async move {
            match &chosen {
                Some((upstream, replica)) => dialer.peer(upstream, replica).await,
                None => Error::e_explain(ErrorType::InternalError, "a request without an upstream"),
            }
        }
    }

    /// Turns the client's request into one for that replica, for `upstream_request_filter`: its path, its host, our credential
    /// and, in a path, its name of the model.
    ///
    /// # Errors
    /// When what comes of it is no URI.
    pub fn address(&self, request: &mut RequestHeader) -> Result<()> {
        if let Some(model) = &self.renamed {
            rename_in_path(request, model)?;
        }
        match self.upstream().zip(self.replica.as_ref()) {
            Some((upstream, replica)) => address_request(request, upstream, replica),
            None => Ok(()),
        }
    }
}

/// A request's state: the inner proxy's, and ours.
pub struct Context<C> {
    inner: C,
    state: RequestState,
    /// Whether its exchange with the upstream runs apart from its client.
    role: subrequest::SubrequestRole<C>,
    _in_flight: InFlightGuard,
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
#[allow(clippy::large_enum_variant, reason = "every request is identified first, and a box costs more than the room")]
enum RequestState {
    /// Its head is being looked at.
    New,
    /// Its key is known, and it asks no model.
    Identified(Identified),
    /// It is refused.
    Refused(Box<Rejected>),
    /// It runs.
    Running(Box<Running>),
    /// It is settled.
    Settled,
}

impl RequestState {
    /// The request's trace, where requests are traced.
    fn trace(&self) -> Option<&RequestTrace> {
        match self {
            Self::Running(running) => running.request.trace(),
            Self::Identified(request) => request.context.trace.as_deref(),
            Self::Refused(rejected) => rejected.context.trace.as_deref(),
            Self::New | Self::Settled => None,
        }
    }

    /// The same, to tell it what happens.
    fn trace_mut(&mut self) -> Option<&mut RequestTrace> {
        match self {
            Self::Running(running) => running.request.trace_mut(),
            Self::Identified(request) => request.context.trace.as_deref_mut(),
            Self::Refused(rejected) => rejected.context.trace.as_deref_mut(),
            Self::New | Self::Settled => None,
        }
    }

    /// What held when the request arrived, as far as it is known.
    fn settings(&self) -> Option<&Arc<Settings>> {
        match self {
            Self::Running(running) => Some(running.request.settings()),
            Self::Identified(request) => Some(&request.context.settings),
            Self::Refused(rejected) => Some(&rejected.context.settings),
            Self::New | Self::Settled => None,
        }
    }

    /// The request is sent to an upstream, or once more.
    fn exchange_begins(&mut self) {
        let (route, replica) = match self {
            Self::Running(running) if running.request.trace().is_some() => {
                (running.request.admitted().route.clone(), running.dispatch.replica().cloned())
            }
            _ => return,
        };
        let replica = replica.as_ref().map(|replica| {
            let UpstreamUrl { host, port, .. } = &replica.config.url;
            AskedReplica { name: &replica.name, host, port: *port }
        });
        if let Some(trace) = self.trace_mut() {
            trace.exchange_begins(&route.name, replica, Now::read().date);
        }
    }

    /// The request is answered with `rejection` in place of a response.
    fn fail(&mut self, rejection: Rejection) {
        *self = match std::mem::replace(self, Self::Settled) {
            Self::Running(mut running) => {
                running.rejection = Some(rejection);
                Self::Running(running)
            }
            Self::Identified(request) => Self::Refused(request.rejected(rejection)),
            Self::Refused(mut rejected) => {
                rejected.rejection = rejection;
                Self::Refused(rejected)
            }
            other => other,
        };
    }

    /// Whether the upstream's answer has begun: what it was asked is not kept any longer.
    fn is_answered(&self) -> bool {
        matches!(self, Self::Running(running) if running.body.is_none())
    }
}

/// An admitted request.
struct Running {
    request: Box<ActiveRequest>,
    /// What goes upstream, until the response is there.
    body: Option<Outgoing>,
    rejection: Option<Rejection>,
    tail: response::Tail,
    /// Where it runs apart from its client's request.
    subrequest: Option<Arc<subrequest::Subrequest>>,
    /// The connection that carries it, if the end of its key reaches it there.
    connection: Option<Arc<Connection>>,
    /// Where it goes.
    dispatch: Dispatch,
}

impl Running {
    fn upstream_body(&self) -> Bytes {
        self.body.as_ref().map(Outgoing::bytes).unwrap_or_default()
    }

    /// Writes the request's changes into the body anew.
    fn rewrite_body(&mut self) {
        if let Some(body) = &mut self.body {
            body.rewrite(self.request.change());
        }
    }
}

impl<P> Gated<P> {
    /// The way of a request until it runs, or is to be answered by the proxy within: head, key, body, limits.
    async fn enter<C>(&self, session: &mut Session, context: &mut Context<C>) -> Result<(), Box<Rejected>> {
        let (arrived, call) = self.arrive(session);
        let now = arrived.arrived;
        if let Some(cors) = &arrived.settings.cors {
            let readers = cors::Readers::of(cors, session.req_header());
            session.req_header_mut().extensions_mut().insert(readers);
        }
        let in_query = (arrived.api == Api::Gemini).then(|| take_key(session.req_header_mut())).flatten();
        let credentials = Credentials { headers: &session.req_header().headers, in_query: in_query.as_deref() };
        let identified = self.gate.identify(arrived, credentials, now).await;
        if self.gate.in_flight().is_draining() {
            return Err(shutting_down(identified));
        }
        let mut request = identified?;
        request.context.work = MonotonicTime::now().saturating_since(now.moment);
        if respond::asks_for_websocket(session.req_header(), &call) {
            return Err(request.rejected(Rejection::UpgradeRequired));
        }
        let info = match call {
            Ok(Call::Inference { endpoint, model }) => {
                let call = Call::Inference { endpoint, model: model.clone() };
                let running = self.admit(session, request, endpoint, model).await?;
                let info = RequestInfo::of_running(&running, call, &self.gate);
                context.state = RequestState::Running(Box::new(running));
                info
            }
            Ok(call) => {
                let info = RequestInfo::of_identified(&request, call, &self.gate);
                context.state = RequestState::Identified(request);
                info
            }
            Err(unrecognised) => {
                return Err(request.rejected(respond::unrecognised(unrecognised, session.req_header())));
            }
        };
        session.req_header_mut().extensions_mut().insert(info);
        Ok(())
    }

    /// A request whose head is there, and what it asks for.
    fn arrive(&self, session: &Session) -> (RequestContext, Result<Call, Unrecognised>) {
        let (head, settings) = (session.req_header(), self.gate.settings());
        let from = settings.client_address(&head.headers, peer_address(session));
        let path = head.uri.path();
        let call = recognise(&head.method, path);
        let api = match call {
            // Who misspelled a path is told in the form that their client reads.
            Err(Unrecognised::Path) => api_of(head, right_spelling(path).as_ref().map_or(path, |(_, right)| right)),
            _ => api_of(head, path),
        };
        let arrived = RequestContext::new(path, api, from, settings, Now::read());
        (arrived.traced(&self.gate, &head.method, &head.headers, call.as_ref().ok()), call)
    }

    /// Reads the request's body, and lets it run or refuses it.
    async fn admit(
        &self,
        session: &mut Session,
        request: Identified,
        endpoint: Endpoint,
        model: Option<String>,
    ) -> Result<Running, Box<Rejected>> {
        let settings = request.context.settings.clone();
        let mut buffered = None;
        let read_body = async |room| {
            let body = receive(session, room, &settings).await?;
            let scanned = scan_request(session.req_header(), endpoint, model, &body.bytes);
            buffered = Some(body);
            Ok(scanned)
        };
        let (request, scanned) = self.gate.admit(request, endpoint, read_body, Now::read).await?;
        let body = buffered.map(|body| Outgoing::new(scanned, request.change(), body));
        let connection = Connection::current();
        if let Some(connection) = &connection {
            connection.set_revocation(request.run().cloned());
        }
        let (tail, dispatch) = (response::Tail::default(), Dispatch::default());
        Ok(Running { request, body, rejection: None, tail, subrequest: None, connection, dispatch })
    }

    /// Answers a request that is refused.
    async fn refuse<C>(
        &self,
        session: &mut Session,
        context: &mut Context<C>,
        rejected: Box<Rejected>,
    ) -> Result<bool> {
        let reply = respond::Reply::to_refused(&self.gate, &rejected, Now::read());
        context.state = RequestState::Refused(rejected);
        respond::before_body(session, reply).await?;
        Ok(true)
    }
}

/// Whose request it is, if it is asked at `path`.
fn api_of(head: &RequestHeader, path: &str) -> Api {
    Api::of_request(path, head.uri.query(), &head.headers)
}

/// Whatever was found of a request: the process stops.
fn shutting_down(identified: Result<Identified, Box<Rejected>>) -> Box<Rejected> {
    match identified {
        Ok(request) => request.rejected(Rejection::ShuttingDown),
        Err(mut rejected) => {
            rejected.rejection = Rejection::ShuttingDown;
            rejected
        }
    }
}

/// Takes the client's credential and what concerns its connection with us out of a request,
/// and describes the body as it goes upstream.
fn prepare_upstream_request(request: &mut RequestHeader, state: &RequestState) -> Result<()> {
    let trace = state.trace().map(RequestTrace::headers);
    let (id, length) = match state {
        RequestState::Running(running) => (Some(running.request.request_id()), Some(running.upstream_body().len())),
        RequestState::Identified(request) => (Some(&request.context.id), None),
        RequestState::New | RequestState::Refused(_) | RequestState::Settled => (None, None),
    };
    change_request(request, |headers| {
        remove_hop_by_hop(headers, |name| {
            CREDENTIAL_HEADERS.contains(name)
                || [header::ACCEPT_ENCODING, header::EXPECT].contains(name)
                || length.is_some() && *name == header::TRANSFER_ENCODING
        });
        if let Some(length) = length {
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
fn finish(gate: &Gate, state: &mut RequestState, over: subrequest::ExchangeEnd) {
    let now = Now::read();
    match std::mem::replace(state, RequestState::Settled) {
        RequestState::Running(running) => {
            let Running { request, rejection, subrequest, connection, body, .. } = *running;
            // Its room is free before anybody is told that the request is over.
            drop(body);
            if let Some(connection) = connection {
                connection.set_revocation(None);
            }
            let client = match over.client {
                _ if subrequest.is_some_and(|subrequest| subrequest.client_left_early()) => Client::LeftEarly,
                // It was we who left.
                Client::Gone if request.revoked().is_some() => Client::There,
                client => client,
            };
            let subrequest::ExchangeEnd { status, complete, .. } = over;
            request.settle(&Outcome { status, complete, client, rejection: rejection.as_ref() }, now);
        }
        RequestState::Identified(mut request) => {
            let Identified { context, key } = &mut request;
            gate.end_unmetered(context, Some(key), over.status.unwrap_or(499), None, now);
        }
        RequestState::Refused(mut rejected) => {
            let Rejected { context, key, rejection } = &mut *rejected;
            gate.end_unmetered(context, key.as_deref(), over.status.unwrap_or(499), Some(rejection), now);
        }
        RequestState::New | RequestState::Settled => {}
    }
}

#[cfg(test)]
mod tests;
