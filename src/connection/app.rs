//! Serves connections by an application of Pingora's, which is told nothing of it: it is given streams that end in time, and
//! its requests are noticed as they come and go.

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;
use pingora::{
    apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp},
    listeners::tls::Acceptor,
    protocols::{SocketDigest, Stream, http::ServerSession, http::v2::server::H2Options},
    server::ShutdownWatch,
};

use super::{
    CURRENT, Connection, Connections, OpenConnection, TimedStream,
    listener::{Accepted, Listener},
    socket,
};

/// An application whose connections have their time.
pub struct TimedApp<A> {
    app: Arc<A>,
    connections: Arc<Connections>,
    on_malformed: Arc<OnMalformed>,
}

/// What is done about an address from which something came that is no request.
type OnMalformed = dyn Fn(IpAddr) + Send + Sync;

impl<A: HttpServerApp + Send + Sync + 'static> TimedApp<A> {
    /// `app`, whose connections are some of `connections`.
    pub fn new(app: A, connections: Arc<Connections>) -> Self {
        Self { app: Arc::new(app), connections, on_malformed: Arc::new(|_| {}) }
    }

    /// The same, which calls `on_malformed` with the address of each client whose head is malformed or breaks off. Over
    /// HTTP/2 such a stream is reset before anybody here sees it.
    #[must_use]
    pub fn on_malformed(self, on_malformed: impl Fn(IpAddr) + Send + Sync + 'static) -> Self {
        Self { on_malformed: Arc::new(on_malformed), ..self }
    }

    /// Accepts connections and serves them, until it is told to stop. Those that are open then are served on.
    pub async fn listen(self: Arc<Self>, listener: Listener, tls: Option<Arc<Acceptor>>, mut stop: ShutdownWatch) {
        loop {
            let accepted = tokio::select! {
                biased;
                // An error means that whoever could say so is gone.
                _ = stop.wait_for(|stop| *stop) => return,
                accepted = listener.accept() => accepted,
            };
            let (app, tls, stop) = (self.clone(), tls.clone(), stop.clone());
            tokio::spawn(async move { app.serve_accepted(accepted, tls, &stop).await });
        }
    }

    /// Tells the application that nobody listens any more: then it closes what is idle.
    pub async fn close_idle(&self) {
        if !self.connections.may_linger() {
            self.app.http_cleanup().await;
        }
    }

    async fn serve_accepted(&self, accepted: Accepted, tls: Option<Arc<Acceptor>>, stop: &ShutdownWatch) {
        let Accepted { stream, peer, open } = accepted;
        let Some(tls) = tls else {
            let stream = socket::plain(stream, peer);
            let digest = stream.digest();
            return self.serve(Box::new(stream), open, Some(digest), stop).await;
        };
        let stream = socket::beneath_tls(stream, peer);
        let digest = stream.digest();
        let Some(deadline) = open.connection().deadline(None) else { return };
        match tokio::time::timeout_at(deadline.at, tls.tls_handshake(stream)).await {
            Ok(Ok(stream)) => self.serve(Box::new(stream), open, Some(digest), stop).await,
            Ok(Err(fault)) => tracing::debug!("{peer} has not agreed on TLS: {fault}"),
            Err(_) => tracing::debug!("{peer} has not agreed on TLS in time"),
        }
    }

    async fn serve(
        &self,
        stream: Stream,
        open: OpenConnection,
        socket: Option<Arc<SocketDigest>>,
        stop: &ShutdownWatch,
    ) {
        let connection = open.connection().clone();
        let stream = Box::new(TimedStream::new(stream, open, socket));
        let closing = connection.closing.subscribe();
        let on_malformed = self.on_malformed.clone();
        let app = Arc::new(OnConnection { app: self.app.clone(), connection: connection.clone(), on_malformed });
        let mut stop = stop.clone();
        let told = async {
            // As above.
            let _ = stop.wait_for(|stop| *stop).await;
            connection.closing.send_replace(true);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = CURRENT.scope(connection.clone(), app.process_new(stream, &closing)) => {}
            () = told => {}
        }
    }
}

/// For somebody else's server, whose listener has accepted the connection and knows no bounds of ours.
#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> ServerApp for TimedApp<A> {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let socket = stream.get_socket_digest();
        self.serve(stream, self.connections.enter(), socket, shutdown).await;
        None
    }

    async fn cleanup(&self) {
        self.close_idle().await;
    }
}

/// An application as it serves one connection.
struct OnConnection<A> {
    app: Arc<A>,
    connection: Arc<Connection>,
    on_malformed: Arc<OnMalformed>,
}

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> HttpServerApp for OnConnection<A> {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        session.set_total_drain_timeout(Some(self.connection.drain_timeout()));
        if session.is_http2() {
            // The connection can be written to while a stream of it cannot.
            session.set_write_timeout(Some(self.connection.timeouts.write));
            let _running = self.connection.run_request();
            return self.app.process_new_http(session, shutdown).await;
        }
        if session.get_keepalive().is_some() {
            // Pingora's own time for each read would end it before ours.
            session.set_keepalive(Some(0));
        }
        let peer = session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip());
        let reusable = self.app.process_new_http(session, shutdown).await;
        if let Some(peer) = peer.filter(|_| self.connection.has_partial_head()) {
            (self.on_malformed)(peer);
        }
        self.connection.end_request();
        reusable
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.app.h2_options()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.app.server_options()
    }

    async fn http_cleanup(&self) {
        self.app.http_cleanup().await;
    }
}
