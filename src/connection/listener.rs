//! Accepts connections while there is room. Others stay in the system's queue.

use std::{
    io,
    net::{self, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use tokio::{io::unix::AsyncFd, net::TcpStream};

use super::{Connections, OpenConnection, TimedStream, descriptors::Reserve, socket};

/// A listening socket.
pub struct Listener {
    socket: AsyncFd<net::TcpListener>,
    connections: Arc<Connections>,
    reserve: Reserve,
}

/// A connection that was accepted.
pub struct Accepted {
    /// Its socket.
    pub stream: TcpStream,
    /// The address of the other side.
    pub peer: SocketAddr,
    /// Its place.
    pub open: OpenConnection,
}

/// The pause while the process has no descriptor left.
const EXHAUSTED: Duration = Duration::from_millis(500);

/// The descriptors that an operator's address reserves.
const RESERVE: usize = 16;

impl Listener {
    /// Accepts connections at `socket`, which does not block, to be some of `connections`.
    ///
    /// # Errors
    /// When the system has no handle left.
    pub fn new(socket: net::TcpListener, connections: Arc<Connections>) -> io::Result<Self> {
        #[allow(
            deprecated,
            reason = "its successor is unsafe for what may close its descriptor, as a listener never does"
        )]
        let socket = AsyncFd::new(socket)?;
        Ok(Self { socket, connections, reserve: Reserve::new(0) })
    }

    /// The same, with descriptors of its own.
    #[must_use]
    pub fn with_reserve(self) -> Self {
        Self { reserve: Reserve::new(RESERVE), ..self }
    }

    /// The address that is listened on.
    ///
    /// # Errors
    /// When the system does not know.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get_ref().local_addr()
    }

    /// The next connection, as a stream that ends when its time is over.
    pub async fn accept_timed(&self) -> (TimedStream<TcpStream>, SocketAddr) {
        let Accepted { stream, peer, open } = self.accept().await;
        let digest = socket::digest(&stream, peer);
        (TimedStream::new(stream, open, Some(digest)), peer)
    }

    /// The next connection.
    pub async fn accept(&self) -> Accepted {
        loop {
            match self.try_accept().await {
                Ok(Some(accepted)) => return accepted,
                Ok(None) => {}
                Err(error) if is_of_connection(&error) => {}
                Err(error) if is_exhaustion(&error) && self.reserve.release() => {}
                Err(error) => {
                    tracing::error!("cannot accept a connection: {error}");
                    tokio::time::sleep(EXHAUSTED).await;
                }
            }
        }
    }

    /// `None` if another process or task was faster.
    async fn try_accept(&self) -> io::Result<Option<Accepted>> {
        let mut ready = self.socket.readable().await?;
        // The connection may be gone, and then no other one must make room for it.
        if !is_waited_at(self.socket.get_ref())? {
            ready.clear_ready();
            return Ok(None);
        }
        let place = self.connections.place().await;
        let Ok(accepted) = ready.try_io(|socket| socket.get_ref().accept()) else { return Ok(None) };
        let (stream, peer) = accepted?;
        self.reserve.refill();
        let open = place.taken();
        stream.set_nonblocking(true)?;
        let stream = TcpStream::from_std(stream)?;
        stream.set_nodelay(true)?;
        Ok(Some(Accepted { stream, peer, open }))
    }
}

/// Whether a connection is in the system's queue.
fn is_waited_at(socket: &net::TcpListener) -> io::Result<bool> {
    let mut waited = [PollFd::new(socket, PollFlags::IN)];
    Ok(poll(&mut waited, Some(&Timespec::default()))? > 0)
}

/// Whether it concerns one connection that was gone before it was accepted.
fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn is_exhaustion(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}
