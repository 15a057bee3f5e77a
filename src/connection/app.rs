//! Serves timed connections with a Pingora application. The application gets streams that end in time, and its requests are
//! noted as they begin and end.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

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

/// An application with timed connections.
pub struct TimedApp<A> {
    app: Arc<A>,
    connections: Arc<Connections>,
    on_malformed: Arc<OnMalformed>,
}

/// Handles the address of a client that sent no valid request.
type OnMalformed = dyn Fn(IpAddr) + Send + Sync;

impl<A: HttpServerApp + Send + Sync + 'static> TimedApp<A> {
    /// `app`, whose connections are some of `connections`.
    pub fn new(app: A, connections: Arc<Connections>) -> Self {
        Self { app: Arc::new(app), connections, on_malformed: Arc::new(|_| {}) }
    }

    /// The same application, which calls `on_malformed` with the address of each client whose head is malformed or breaks off. Over
    /// HTTP/2 such a stream is reset before anybody here sees it.
    #[must_use]
    pub fn on_malformed(self, on_malformed: impl Fn(IpAddr) + Send + Sync + 'static) -> Self {
        Self { on_malformed: Arc::new(on_malformed), ..self }
    }

    /// Accepts and serves connections until it is stopped. Open connections are served further.
    pub async fn listen(self: Arc<Self>, listener: Listener, tls: Option<Arc<Acceptor>>, mut stop: ShutdownWatch) {
        loop {
            let accepted = tokio::select! {
                biased;
                // An error means that the sender was dropped.
                _ = stop.wait_for(|stop| *stop) => return,
                accepted = listener.accept() => accepted,
            };
            let (app, tls, stop) = (self.clone(), tls.clone(), stop.clone());
            tokio::spawn(async move { app.serve_accepted(accepted, tls, &stop).await });
        }
    }

    /// Tells the application to close idle connections.
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
            Ok(Err(error)) => tracing::debug!("the TLS handshake with {peer} failed: {error}"),
            Err(_) => tracing::debug!("the TLS handshake with {peer} took too long"),
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
            biased;
            () = told => {}
            _ = CURRENT.scope(connection.clone(), app.process_new(stream, &closing)) => {}
        }
    }
}

/// For another server, whose own listener has accepted the connection.
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
        let peer = session.client_addr().and_then(|address| address.as_inet()).map(SocketAddr::ip);
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
