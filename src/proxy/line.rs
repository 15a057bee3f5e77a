//! A client's connection, as far as the end of a key must reach it. Pingora carries a request by waiting for its upstream
//! and for its client, and nothing else wakes it: so the connection's reader is made to fail when the key of the
//! request that runs on it is revoked. The client can still be written to, and is told why.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::{
    apps::ServerApp,
    protocols::{
        ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
        TimingDigest, UniqueID, UniqueIDType, raw_connect::ProxyDigest, tls::SslDigest,
    },
    server::ShutdownWatch,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::runs::Run;

tokio::task_local! {
    /// The connection that the task serves, where it carries one request at a time.
    static LINE: Arc<Line>;
}

/// What runs on a connection.
#[derive(Default)]
pub(super) struct Line {
    running: Mutex<Option<Arc<Run>>>,
}

impl Line {
    /// The connection of the request that is under way, if its reader can be made to fail.
    pub fn current() -> Option<Arc<Self>> {
        LINE.try_with(Arc::clone).ok()
    }

    /// `run` runs on it, or nothing.
    pub fn carries(&self, run: Option<Arc<Run>>) {
        *self.running.lock() = run;
    }

    fn poll_revoked(&self, context: &Context<'_>) -> bool {
        self.running.lock().as_ref().is_some_and(|run| run.poll_barred(context).is_ready())
    }
}

/// The connections of clients that are open.
#[derive(Default)]
pub struct Connections {
    open: AtomicUsize,
    may_linger: AtomicBool,
}

impl Connections {
    /// How many there are.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Those that are idle when the server stops stay open for one more request: whoever sent it meanwhile is answered.
    pub fn linger(&self) {
        self.may_linger.store(true, Ordering::Release);
    }

    fn enter(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::AcqRel);
        Open(self.clone())
    }
}

/// A connection is open as long as this lives.
struct Open(Arc<Connections>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A server of connections through which the end of a key reaches what runs on them.
pub struct Watched<A> {
    server: Arc<A>,
    connections: Arc<Connections>,
}

impl<A> Watched<A> {
    /// The same `server`, whose connections are counted in `connections`.
    pub fn new(server: A, connections: Arc<Connections>) -> Self {
        Self { server: Arc::new(server), connections }
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> ServerApp for Watched<A> {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let _open = self.connections.enter();
        let line = Arc::new(Line::default());
        let stream = Box::new(Wire { stream, line: line.clone() });
        LINE.scope(line, self.server.process_new(stream, shutdown)).await
    }

    /// Pingora closes idle connections here.
    async fn cleanup(&self) {
        if !self.connections.may_linger.load(Ordering::Acquire) {
            self.server.cleanup().await;
        }
    }
}

/// A connection whose reader fails when what runs on it is revoked.
struct Wire {
    stream: Stream,
    line: Arc<Line>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.stream.fmt(formatter)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.line.poll_revoked(context) {
            return Poll::Ready(Err(io::Error::other("the key of the request on this connection is revoked")));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for Wire {
    async fn shutdown(&mut self) {
        self.stream.shutdown().await;
    }
}

impl UniqueID for Wire {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

impl Ssl for Wire {
    fn get_ssl(&self) -> Option<&pingora::protocols::tls::TlsRef> {
        self.stream.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.selected_alpn_proto()
    }
}

impl GetTimingDigest for Wire {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> std::time::Duration {
        self.stream.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> std::time::Duration {
        self.stream.get_write_pending_time()
    }
}

impl GetProxyDigest for Wire {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_proxy_digest()
    }

    fn set_proxy_digest(&mut self, digest: ProxyDigest) {
        self.stream.set_proxy_digest(digest);
    }
}

impl GetSocketDigest for Wire {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_socket_digest()
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.stream.set_socket_digest(digest);
    }
}

#[async_trait]
impl Peek for Wire {
    async fn try_peek(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        self.stream.try_peek(buffer).await
    }
}
