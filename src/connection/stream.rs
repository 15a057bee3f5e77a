//! The stream of a connection, which ends when the connection's time is over: a reader then sees the client's end, and a
//! writer whose client reads nothing fails.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType, raw_connect::ProxyDigest, tls::SslDigest, tls::TlsRef,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::{Connection, OpenConnection, ReadEnd, frames::Heads};

/// A stream to a client, and the connection's place, which is free when the stream is closed.
pub struct TimedStream<S> {
    stream: S,
    open: OpenConnection,
    /// By which the system tells how much of what was written has arrived.
    socket: Option<Arc<SocketDigest>>,
    heads: Heads,
    /// What was looked at and not read yet.
    peeked: Vec<u8>,
    reading: Alarm,
    writing: Alarm,
    stall: Option<Stall>,
    /// Whether it was read once more since it makes room for another.
    has_let_write: bool,
    /// When nothing more was written.
    shut: Option<Instant>,
}

/// A write that waits for the client.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stall {
    /// It fails then, if nothing arrives.
    until: Instant,
    /// What had arrived, in bytes.
    arrived: Option<u64>,
}

impl<S> TimedStream<S> {
    /// `stream` as that of a connection. `socket` is what it is made of.
    pub fn new(stream: S, open: OpenConnection, socket: Option<Arc<SocketDigest>>) -> Self {
        let (reading, writing) = (Alarm::default(), Alarm::default());
        let (heads, peeked, stall) = (Heads::default(), Vec::new(), None);
        Self { stream, open, socket, heads, peeked, reading, writing, stall, has_let_write: false, shut: None }
    }

    /// The connection.
    pub fn connection(&self) -> &Arc<Connection> {
        self.open.connection()
    }

    /// What came is looked at. Says whether the connection's time is over although something comes.
    fn record_received(&mut self, bytes: &[u8]) -> bool {
        self.heads.read(bytes, Instant::now);
        if !self.heads.is_http2() {
            self.connection().record_bytes();
            return false;
        }
        // Frames that begin no request are no sign of life.
        self.connection().deadline(self.heads.since()).is_some_and(|deadline| deadline.at <= Instant::now())
    }

    /// Ready when the client's time is over.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(deadline) = self.open.connection().deadline(self.heads.since()) else { return Poll::Pending };
            ready!(self.reading.poll(deadline.at, context));
            // A client of HTTP/1.1 learns it from the connection's end.
            let is_told = deadline.is_idle && self.heads.is_http2() && self.connection().request_close();
            if !is_told {
                return Poll::Ready(());
            }
        }
    }

    /// What a write has come to, which waits for the client only as long as that takes something.
    fn timed<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        if self.connection().poll_evicted(context.waker()).is_ready() {
            return Poll::Ready(Err(io::Error::other("the connection makes room for another")));
        }
        loop {
            let arrived = self.arrived();
            let stall = match self.stall {
                Some(stall) => stall,
                None => Stall { until: Instant::now() + self.connection().timeouts.write, arrived },
            };
            self.stall = Some(stall);
            ready!(self.writing.poll(stall.until, context));
            self.stall = None;
            if arrived == stall.arrived {
                let message = "the client reads nothing of what is written to it";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)));
            }
        }
    }

    /// How many bytes the client's side has taken, where the system knows.
    fn arrived(&self) -> Option<u64> {
        Some(self.socket.as_ref()?.tcp_info()?.tcpi_bytes_acked)
    }
}

impl<S: AsyncRead + Unpin> TimedStream<S> {
    /// Passes over what still comes, to its end or until then.
    fn poll_pass_over(&mut self, until: Instant, context: &mut Context<'_>) -> Poll<()> {
        let mut passed_over = [0; 8192];
        loop {
            let mut buffer = ReadBuf::new(&mut passed_over);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && Instant::now() < until => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.reading.poll(until, context),
            }
        }
    }
}

/// A moment that a task waits for. Setting it costs something, and mostly it moves on before it has come: so it is set anew only
/// where it is to come earlier, or has come too early.
#[derive(Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    fn poll(&mut self, at: Instant, context: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        ready!(sleep.as_mut().poll(context));
        if sleep.deadline() >= at {
            return Poll::Ready(());
        }
        sleep.as_mut().reset(at);
        sleep.as_mut().poll(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.peeked.is_empty() {
            let length = this.peeked.len().min(buffer.remaining());
            buffer.put_slice(&this.peeked.drain(..length).collect::<Vec<_>>());
            return Poll::Ready(Ok(()));
        }
        match this.connection().poll_end(context) {
            Poll::Pending => {}
            Poll::Ready(ReadEnd::Revoked) => {
                return Poll::Ready(Err(io::Error::other("the key of the request on this connection is revoked")));
            }
            Poll::Ready(ReadEnd::Interrupted) => {
                return Poll::Ready(Err(io::Error::other("the wait for the head of an answer has ended")));
            }
            // Over HTTP/2, whoever reads writes the last answer afterwards, and would not after the end.
            Poll::Ready(ReadEnd::Evicted) if this.heads.is_http2() && !this.has_let_write => {
                this.has_let_write = true;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(ReadEnd::Evicted) => return Poll::Ready(Ok(())),
        }
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(context, buffer) {
            Poll::Ready(Ok(())) => {
                let bytes = buffer.filled().get(before..).unwrap_or_default();
                if !bytes.is_empty() && this.record_received(bytes) {
                    buffer.set_filled(before);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // The end of what the client sends.
            Poll::Pending => this.poll_deadline(context).map(Ok),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.timed(written, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.timed(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = if let Some(shut) = self.shut {
            shut
        } else {
            let shutting = Pin::new(&mut self.stream).poll_shutdown(context);
            ready!(self.timed(shutting, context))?;
            *self.shut.insert(Instant::now())
        };
        if self.connection().lingers() {
            ready!(self.poll_pass_over(shut + LINGERING, context));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.timed(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// How long what is being shut down may take to leave.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// How long a client that is still sending is listened to after its answer.
const LINGERING: Duration = Duration::from_secs(2);

#[async_trait]
impl Shutdown for TimedStream<Stream> {
    async fn shutdown(&mut self) {
        // It is closed in any case.
        let _ = tokio::time::timeout(LAST_BYTES, self.stream.shutdown()).await;
    }
}

#[async_trait]
impl Peek for TimedStream<Stream> {
    /// Looks whether a client speaks HTTP/2, and no further than it takes to know.
    async fn try_peek(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let mut came = 0;
        while let Some(rest @ [_, ..]) = buffer.get_mut(came..) {
            if self.heads.is_known() {
                break;
            }
            match self.read(rest).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                length => came += length,
            }
        }
        self.peeked = buffer.get(..came).unwrap_or_default().to_vec();
        Ok(true)
    }
}

impl<S: std::fmt::Debug> std::fmt::Debug for TimedStream<S> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.stream.fmt(formatter)
    }
}

impl UniqueID for TimedStream<Stream> {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

impl Ssl for TimedStream<Stream> {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.stream.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.selected_alpn_proto()
    }
}

impl GetTimingDigest for TimedStream<Stream> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.stream.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.stream.get_write_pending_time()
    }
}

impl GetProxyDigest for TimedStream<Stream> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_proxy_digest()
    }

    fn set_proxy_digest(&mut self, digest: ProxyDigest) {
        self.stream.set_proxy_digest(digest);
    }
}

impl GetSocketDigest for TimedStream<Stream> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_socket_digest()
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.stream.set_socket_digest(digest);
    }
}
