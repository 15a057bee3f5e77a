//! Handover from one process to the next without a refused connection. A running gateway offers its listening sockets at
//! a Unix socket. A new process takes them and starts on them, and only then does the running one stop.
//!
//! The protocol: the running process sends `1` together with its sockets. The new one sends `t` to ask it to stop what
//! cannot run twice, and gets `g` once that is done. The new one sends `u` when it is ready, and gets `o` when the running
//! one leaves the sockets to it, or `n` when the running one no longer waits. A process that hangs up before `u` changes
//! nothing.

use std::{
    io,
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener},
    os::{
        fd::AsFd,
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Listening sockets: kept by this process for its successor, or inherited from its predecessor.
#[derive(Debug, Default)]
pub struct Sockets(Vec<TcpListener>);

/// The messages of the protocol. The first also carries the sockets.
const VERSION: u8 = b'1';
const RELEASE: u8 = b't';
const RELEASED: u8 = b'g';
const READY: u8 = b'u';
const CONFIRMED: u8 = b'o';
const TIMED_OUT: u8 = b'n';

/// More sockets than a gateway listens on.
const MOST: usize = 64;

/// How long the other side may take to become ready, or to release what cannot run twice.
const PATIENCE: Duration = Duration::from_mins(1);

/// How long the other side may take for an answer that needs no work.
const AT_ONCE: Duration = Duration::from_secs(5);

impl Sockets {
    /// No sockets.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// A listener on `address`: the inherited one, or a new one.
    ///
    /// # Errors
    /// When it cannot be listened on.
    pub fn listen(&mut self, address: SocketAddr) -> io::Result<TcpListener> {
        if let Some(inherited) = self.claim(address) {
            return Ok(inherited);
        }
        let socket = TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    fn claim(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let is_it = |socket: &TcpListener| socket.local_addr().is_ok_and(|bound| bound == address);
        let place = self.0.iter().position(is_it)?;
        Some(self.0.remove(place))
    }

    /// Keeps another handle of `socket` for a later handover.
    ///
    /// # Errors
    /// When the system has no handle left.
    pub fn keep(&mut self, socket: &TcpListener) -> io::Result<()> {
        self.0.push(socket.try_clone()?);
        Ok(())
    }

    /// Another handle of each socket.
    ///
    /// # Errors
    /// When the system has none left.
    pub fn duplicate(&self) -> io::Result<Self> {
        self.0.iter().map(TcpListener::try_clone).collect::<io::Result<_>>().map(Self)
    }

    /// Adds `others`.
    pub fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }
}

/// The running process, as the new one sees it.
pub struct Predecessor {
    link: UnixStream,
}

impl Predecessor {
    /// Asks the process that offers its sockets at `path` for them.
    ///
    /// # Errors
    /// When no process offers any, or it speaks another version of the protocol.
    pub fn connect(path: &Path) -> Result<(Self, Sockets), HandoverError> {
        let link = UnixStream::connect(path).map_err(|error| HandoverError::Nobody(path.to_owned(), error))?;
        link.set_read_timeout(Some(PATIENCE)).map_err(HandoverError::Link)?;
        let sockets = received(&link)?;
        Ok((Self { link }, sockets))
    }

    /// Asks the running process to stop what cannot run twice, and waits until it has.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn request_release(&mut self) -> Result<(), HandoverError> {
        io::Write::write_all(&mut self.link, &[RELEASE]).map_err(HandoverError::Link)?;
        let mut word = [0];
        io::Read::read_exact(&mut self.link, &mut word).map_err(HandoverError::Link)?;
        if word == [RELEASED] { Ok(()) } else { Err(HandoverError::Version) }
    }

    /// Tells the running process that this one is ready, and waits for its confirmation. A process that has ended counts
    /// as one that confirms.
    ///
    /// # Errors
    /// When the running process no longer waits and continues to serve: then this process must not serve.
    pub fn confirm_takeover(mut self) -> Result<(), HandoverError> {
        // A process that no longer waits says so before it closes the link.
        let _ = io::Write::write_all(&mut self.link, &[READY]);
        let mut word = [0];
        match io::Read::read(&mut self.link, &mut word) {
            Ok(1) if word == [TIMED_OUT] => Err(HandoverError::TooLate),
            _ => Ok(()),
        }
    }
}

fn received(link: &UnixStream) -> Result<Sockets, HandoverError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    recvmsg(link, &mut [io::IoSliceMut::new(&mut word)], &mut control, flags)
        .map_err(|error| HandoverError::Link(error.into()))?;
    let handles = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(handles) => Some(handles),
        _ => None,
    });
    let sockets = Sockets(handles.flatten().map(TcpListener::from).collect());
    if word == [VERSION] { Ok(sockets) } else { Err(HandoverError::Version) }
}

/// Where a running process waits for its successor.
pub struct HandoverListener {
    listener: tokio::net::UnixListener,
}

impl HandoverListener {
    /// Listens at `path`. A socket that is there already is removed: it belongs to a process that has handed over or ended.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn bind(path: &Path) -> Result<Self, HandoverError> {
        let failed = |error| HandoverError::Bind(path.to_owned(), error);
        match std::fs::symlink_metadata(path) {
            Ok(there) if there.file_type().is_socket() => std::fs::remove_file(path).map_err(failed)?,
            Ok(_) => return Err(failed(io::Error::other("the file there is not a socket"))),
            Err(_) => {}
        }
        let listener = tokio::net::UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { listener })
    }

    /// Waits for the next successor and sends it `sockets`. Only a process of the same user, or root's, gets them.
    pub async fn accept(&self, sockets: impl Fn() -> io::Result<Sockets>) -> Successor {
        loop {
            let sent = match self.listener.accept().await {
                Ok((link, _)) => sockets().and_then(|sockets| send(&link, &sockets).map(|()| Successor { link })),
                Err(error) => Err(error),
            };
            match sent {
                Ok(successor) => return successor,
                Err(error) => tracing::warn!("another process cannot take over: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn send(link: &tokio::net::UnixStream, sockets: &Sockets) -> io::Result<()> {
    let ours = rustix::process::geteuid().as_raw();
    let theirs = link.peer_cred()?.uid();
    if theirs != ours && theirs != 0 {
        return Err(io::Error::other(format!("it runs as user {theirs}, and this one as user {ours}")));
    }
    let handles: Vec<_> = sockets.0.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&handles)) {
        return Err(io::Error::other(format!("more than {MOST} sockets cannot be handed over")));
    }
    sendmsg(link, &[io::IoSlice::new(&[VERSION])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The process that takes over: it has the sockets and is starting.
pub struct Successor {
    link: tokio::net::UnixStream,
}

impl Successor {
    /// Waits until it asks this process to stop what cannot run twice.
    ///
    /// # Errors
    /// When it ended, or speaks another version of the protocol.
    pub async fn wait_for_release_request(&mut self) -> Result<(), HandoverError> {
        self.says(RELEASE, AT_ONCE).await
    }

    /// Says that this is done, and waits until the successor is ready.
    ///
    /// # Errors
    /// When it ended, or speaks another version of the protocol.
    pub async fn wait_for_takeover(&mut self) -> Result<(), HandoverError> {
        self.wait_for_takeover_within(PATIENCE).await
    }

    async fn wait_for_takeover_within(&mut self, patience: Duration) -> Result<(), HandoverError> {
        self.link.write_all(&[RELEASED]).await.map_err(HandoverError::Link)?;
        let taken = self.says(READY, patience).await;
        // A successor that has ended need not be told.
        let _ = self.link.write_all(&[if taken.is_ok() { CONFIRMED } else { TIMED_OUT }]).await;
        taken
    }

    async fn says(&mut self, expected: u8, patience: Duration) -> Result<(), HandoverError> {
        match tokio::time::timeout(patience, self.link.read_u8()).await {
            Ok(Ok(word)) if word == expected => Ok(()),
            Ok(Ok(_)) => Err(HandoverError::Version),
            Ok(Err(error)) => Err(HandoverError::Link(error)),
            Err(_) => Err(HandoverError::Link(io::ErrorKind::TimedOut.into())),
        }
    }
}

/// Why a handover failed.
#[derive(Debug, Error)]
pub enum HandoverError {
    /// No process offers its sockets.
    #[error("no process offers its sockets at {} ({}); to start one, leave out --upgrade", .0.display(), .1)]
    Nobody(PathBuf, io::Error),
    /// The socket for successors cannot be made.
    #[error("cannot listen at {} (`server.upgrade_socket`): {}; let the process write there, or name another path", .0.display(), .1)]
    Bind(PathBuf, io::Error),
    /// The connection to the other process was lost.
    #[error("the other process broke off the handover: {0}")]
    Link(io::Error),
    /// The other process speaks another version of the protocol.
    #[error("the other process uses another version of the handover; stop it, and start without --upgrade")]
    Version,
    /// The running process no longer waited for this one.
    #[error("the running process stopped waiting and continues to serve; see why this one takes a minute to start")]
    TooLate,
    /// `server.upgrade_socket` is not set.
    #[error("a handover needs `server.upgrade_socket`; set it, restart, and then upgrade")]
    Unconfigured,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(sockets: &mut Sockets) -> SocketAddr {
        let socket = sockets.listen((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        sockets.keep(&socket).unwrap();
        socket.local_addr().unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_socket_passes_to_the_next_and_listens_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("upgrade.sock");
        let listener = HandoverListener::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut sockets = Sockets::none();
        let address = bound(&mut sockets);
        let new_process = tokio::task::spawn_blocking(move || {
            let (mut predecessor, mut sockets) = Predecessor::connect(&path).unwrap();
            predecessor.request_release().unwrap();
            let socket = sockets.listen(address).unwrap();
            predecessor.confirm_takeover().unwrap();
            socket
        });
        let mut successor = listener.accept(|| sockets.duplicate()).await;
        successor.wait_for_release_request().await.unwrap();
        successor.wait_for_takeover().await.unwrap();
        drop(sockets);
        let socket = new_process.await.unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        socket.set_nonblocking(false).unwrap();
        assert!(socket.accept().is_ok());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_successor_that_goes_away_is_noticed_and_the_next_is_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("upgrade.sock");
        let listener = HandoverListener::bind(&path).unwrap();
        let sockets = Sockets::none();
        for _ in 0..2 {
            let path = path.clone();
            let new_process = tokio::task::spawn_blocking(move || drop(Predecessor::connect(&path)));
            let mut successor = listener.accept(|| sockets.duplicate()).await;
            new_process.await.unwrap();
            assert!(matches!(successor.wait_for_release_request().await, Err(HandoverError::Link(_))));
        }
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.yaml");
        std::fs::write(&path, "keys: []").unwrap();
        assert!(HandoverListener::bind(&path).is_err());
        assert!(path.exists());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_successor_that_is_ready_too_late_is_told_so_and_one_whose_predecessor_is_gone_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("upgrade.sock");
        let listener = HandoverListener::bind(&path).unwrap();
        let sockets = Sockets::none();
        for gives_up in [true, false] {
            let path = path.clone();
            let (go, wait) = std::sync::mpsc::channel();
            let new_process = tokio::task::spawn_blocking(move || {
                let (mut predecessor, _) = Predecessor::connect(&path).unwrap();
                predecessor.request_release().unwrap();
                wait.recv().unwrap();
                predecessor.confirm_takeover()
            });
            let mut successor = listener.accept(|| sockets.duplicate()).await;
            successor.wait_for_release_request().await.unwrap();
            if gives_up {
                assert!(successor.wait_for_takeover_within(Duration::ZERO).await.is_err());
            } else {
                successor.link.write_all(&[RELEASED]).await.unwrap();
            }
            drop(successor);
            go.send(()).unwrap();
            assert_eq!(matches!(new_process.await.unwrap(), Err(HandoverError::TooLate)), gives_up);
        }
    }

    #[test]
    fn nobody_there_is_said_with_what_to_do() {
        let error = Predecessor::connect(Path::new("/nowhere/upgrade.sock")).err().unwrap();
        assert!(error.to_string().contains("leave out --upgrade"), "{error}");
    }

    #[test]
    fn an_address_that_was_not_inherited_is_bound() {
        let mut sockets = Sockets::none();
        let kept = bound(&mut sockets);
        let other = sockets.listen((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        assert_ne!(other.local_addr().unwrap(), kept);
        assert_eq!(sockets.listen(kept).unwrap().local_addr().unwrap(), kept);
    }
}
