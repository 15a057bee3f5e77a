//! Bounds of every call, checked before it is handled: the host that it is meant for, the time that its body may take,
//! and the connection that carries it.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{ConnectInfo, Request, State, connect_info::Connected},
    middleware::Next,
    response::{IntoResponse, Response},
    serve::{IncomingStream, Listener},
};
use http_body::{Frame, SizeHint};
use keymeter_config::{self as config};
use keymeter_core::hosts::{HostName, check_host};
use tokio::time::{Sleep, sleep};

use super::{Plane, error::ApiError};

/// What is allowed of every call.
pub(super) struct Bounds {
    listen: SocketAddr,
    hosts: Vec<HostName>,
    body_timeout: Duration,
}

impl From<&config::Control> for Bounds {
    fn from(settings: &config::Control) -> Self {
        Self { listen: settings.listen, hosts: settings.hosts.clone(), body_timeout: settings.body_timeout }
    }
}

/// What the program accepts calls with: its connections end when nothing runs on them for long.
pub trait CallListener: Listener<Addr = SocketAddr> {
    /// Who is to be told of the calls on a connection.
    fn connection(stream: &Self::Io) -> Arc<dyn CallConnection>;
}

/// A connection that is told of its calls.
pub trait CallConnection: Send + Sync {
    /// A call runs on it, for as long as what is given lives.
    fn run_call(self: Arc<Self>) -> Box<dyn Send + Sync>;
}

/// The other side of a connection.
#[derive(Clone)]
pub(super) struct Peer {
    address: SocketAddr,
    connection: Arc<dyn CallConnection>,
}

impl<L: CallListener> Connected<IncomingStream<'_, L>> for Peer {
    fn connect_info(stream: IncomingStream<'_, L>) -> Self {
        Self { address: *stream.remote_addr(), connection: L::connection(stream.io()) }
    }
}

/// Passes a call on, if it is meant for this control plane.
pub(super) async fn bounded(
    State(plane): State<Arc<Plane>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let running = peer.connection.run_call();
    let bounds = &plane.bounds;
    let answer = match check_host(bounds.listen, &bounds.hosts, (request.uri(), request.headers(), request.version())) {
        Ok(()) => {
            request.extensions_mut().insert(ConnectInfo(peer.address));
            let limit = bounds.body_timeout;
            next.run(request.map(|body| Body::new(TimedBody { body, limit, over: None }))).await
        }
        Err(_) => ApiError::foreign_host().into_response(),
    };
    answer.map(|body| Body::new(RunningBody { body, _running: running }))
}

/// A body that has to come within a time, from when it is first waited for.
struct TimedBody {
    body: Body,
    limit: Duration,
    over: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for TimedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        let limit = this.limit;
        let over = this.over.get_or_insert_with(|| Box::pin(sleep(limit)));
        let too_late = || Some(Err(axum::Error::new("the body did not come within `server.body_timeout`")));
        over.as_mut().poll(context).map(|()| too_late())
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer, until whose end the call runs.
struct RunningBody {
    body: Body,
    _running: Box<dyn Send + Sync>,
}

impl HttpBody for RunningBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
