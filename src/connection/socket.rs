//! A client's socket as Pingora wants its streams. Pingora's own has no buffers unless its own listener accepted it.

use std::{io, net::SocketAddr, os::fd::AsRawFd, pin::Pin, sync::Arc, task::Context, task::Poll, time::SystemTime};

use async_trait::async_trait;
use futures_util::FutureExt;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType, raw_connect::ProxyDigest,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufStream, BufWriter, ReadBuf},
    net::TcpStream,
};

/// As much as one packet holds: a head and the first piece of a body leave together.
const WRITE_BUFFER: usize = 1460;

/// TLS reads its records in small pieces.
const READ_BUFFER_OF_TLS: usize = 64 * 1024;

/// A socket that was accepted, with what it is buffered by.
#[derive(Debug)]
pub(super) struct Socket<S: AsyncWrite + Unpin> {
    stream: S,
    id: UniqueIDType,
    digest: Arc<SocketDigest>,
    accepted: SystemTime,
}

/// One that carries plain HTTP, whose readers ask for large pieces.
pub(super) fn plain(stream: TcpStream, peer: SocketAddr) -> Socket<BufWriter<TcpStream>> {
    let (id, digest) = (stream.as_raw_fd(), digest(&stream, peer));
    Socket { stream: BufWriter::with_capacity(WRITE_BUFFER, stream), id, digest, accepted: SystemTime::now() }
}

/// One that carries TLS.
pub(super) fn beneath_tls(stream: TcpStream, peer: SocketAddr) -> Socket<BufStream<TcpStream>> {
    let (id, digest) = (stream.as_raw_fd(), digest(&stream, peer));
    let stream = BufStream::with_capacity(READ_BUFFER_OF_TLS, WRITE_BUFFER, stream);
    Socket { stream, id, digest, accepted: SystemTime::now() }
}

impl<S: AsyncWrite + Unpin> Socket<S> {
    pub fn digest(&self) -> Arc<SocketDigest> {
        self.digest.clone()
    }
}

/// What the system can be asked of a socket, as long as that is open.
pub(super) fn digest(stream: &TcpStream, peer: SocketAddr) -> Arc<SocketDigest> {
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    // It is new: nobody has asked it before.
    let _ = digest.peer_addr.set(Some(peer.into()));
    Arc::new(digest)
}

impl<S: AsyncWrite + Unpin> Drop for Socket<S> {
    /// What is written last need not have been waited for.
    fn drop(&mut self) {
        let _ = self.stream.flush().now_or_never();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Socket<S> {
    /// Whoever waits for the client has written all that there is at present. Pingora leaves a response of a stated length in
    /// the buffer until that is full, however long the rest takes.
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_pending() {
            // A failure is told to whoever writes next.
            let _ = Pin::new(&mut self.stream).poll_flush(context);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
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
impl<S: AsyncWrite + Unpin + Send> Shutdown for Socket<S> {
    async fn shutdown(&mut self) {
        // It is closed in any case.
        let _ = self.stream.shutdown().await;
    }
}

impl<S: AsyncWrite + Unpin> UniqueID for Socket<S> {
    fn id(&self) -> UniqueIDType {
        self.id
    }
}

impl<S: AsyncWrite + Unpin> GetTimingDigest for Socket<S> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(TimingDigest { established_ts: self.accepted, ..TimingDigest::default() })]
    }
}

impl<S: AsyncWrite + Unpin> GetSocketDigest for Socket<S> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.digest())
    }
}

impl<S: AsyncWrite + Unpin> GetProxyDigest for Socket<S> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl<S: AsyncWrite + Unpin> Ssl for Socket<S> {}

impl<S: AsyncWrite + Unpin> Peek for Socket<S> {}
