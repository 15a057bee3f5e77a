//! From one process to the next, without a connection that is refused in between: a running gateway offers its listening
//! sockets at a Unix socket, and a new one takes them, comes up on them beside it, and only then is the old one done.
//!
//! What is said: the old process sends `1`, and with it its sockets; `t` asks it to stop what cannot run twice, and `g`
//! answers that it has; `u` tells that the new process is up, and `o` answers that the old one leaves the sockets to it, or
//! `n` that it no longer waited. Whoever hangs up before `u` has changed nothing.

use std::{
    fmt, io,
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
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Sockets that were bound before: by this process for its heir, or by the one before it.
#[derive(Debug, Default)]
pub struct Sockets(Vec<TcpListener>);

/// What is said over the link. The first also carries the sockets.
const VERSION: u8 = b'1';
const GIVE_WAY: u8 = b't';
const GAVE_WAY: u8 = b'g';
const UP: u8 = b'u';
const DONE: u8 = b'o';
const GAVE_UP: u8 = b'n';

/// More sockets than a gateway listens on.
const MOST: usize = 64;

/// The other side gets so long to come up, or to give way.
const PATIENCE: Duration = Duration::from_secs(60);

/// And so long for what it says at once.
const AT_ONCE: Duration = Duration::from_secs(5);

impl Sockets {
    /// None.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// A listener on `address`: the one that is there already, or a new one.
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

    /// Keeps another handle of `socket`, to hand it on one day.
    ///
    /// # Errors
    /// When the system has no handle left.
    pub fn keep(&mut self, socket: &TcpListener) -> io::Result<()> {
        self.0.push(socket.try_clone()?);
        Ok(())
    }

    /// As many handles again.
    ///
    /// # Errors
    /// When the system has none left.
    pub fn duplicate(&self) -> io::Result<Self> {
        self.0.iter().map(TcpListener::try_clone).collect::<io::Result<_>>().map(Self)
    }

    /// All of both.
    pub fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }
}

/// The new process' side.
pub struct Heir {
    link: UnixStream,
}

impl Heir {
    /// Asks the process that offers its sockets at `path` for them.
    ///
    /// # Errors
    /// When nobody does, or what comes is of another version.
    pub fn of(path: &Path) -> Result<(Self, Sockets), HandoverError> {
        let link = UnixStream::connect(path).map_err(|fault| HandoverError::Nobody(path.to_owned(), fault))?;
        link.set_read_timeout(Some(PATIENCE)).map_err(HandoverError::Link)?;
        let sockets = received(&link)?;
        Ok((Self { link }, sockets))
    }

    /// Asks the process before to stop what cannot run twice, and waits until it has.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn ask_to_give_way(&mut self) -> Result<(), HandoverError> {
        io::Write::write_all(&mut self.link, &[GIVE_WAY]).map_err(HandoverError::Link)?;
        let mut word = [0];
        io::Read::read_exact(&mut self.link, &mut word).map_err(HandoverError::Link)?;
        if word == [GAVE_WAY] { Ok(()) } else { Err(HandoverError::Version) }
    }

    /// Tells the process before that it is done, and waits for its word that it knows. One that is gone is done, too.
    ///
    /// # Errors
    /// When it gave up waiting and goes on: then this process must not.
    pub fn is_up(mut self) -> Result<(), HandoverError> {
        // Whoever gave up has said so before it closed the link.
        let _ = io::Write::write_all(&mut self.link, &[UP]);
        let mut word = [0];
        match io::Read::read(&mut self.link, &mut word) {
            Ok(1) if word == [GAVE_UP] => Err(HandoverError::TooLate),
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
        .map_err(|fault| HandoverError::Link(fault.into()))?;
    let handles = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(handles) => Some(handles),
        _ => None,
    });
    let sockets = Sockets(handles.flatten().map(TcpListener::from).collect());
    if word == [VERSION] { Ok(sockets) } else { Err(HandoverError::Version) }
}

/// The running process' side: where heirs announce themselves.
pub struct Offer {
    listener: tokio::net::UnixListener,
}

impl Offer {
    /// Waits for heirs at `path`. Whatever is there is put aside: it is a process' that handed over, or is gone.
    ///
    /// # Errors
    /// When there can be no such socket.
    pub fn at(path: &Path) -> Result<Self, HandoverError> {
        let fault = |fault| HandoverError::Bind(path.to_owned(), fault);
        match std::fs::symlink_metadata(path) {
            Ok(there) if there.file_type().is_socket() => std::fs::remove_file(path).map_err(fault)?,
            Ok(_) => return Err(fault(io::Error::other("there is something else than a socket"))),
            Err(_) => {}
        }
        let listener = tokio::net::UnixListener::bind(path).map_err(fault)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(fault)?;
        Ok(Self { listener })
    }

    /// The next heir, who has been sent `sockets`. Only programs of the same user are, and root's.
    pub async fn heir(&self, sockets: impl Fn() -> io::Result<Sockets>) -> Successor {
        loop {
            let sent = match self.listener.accept().await {
                Ok((link, _)) => sockets().and_then(|sockets| send(&link, &sockets).map(|()| Successor { link })),
                Err(fault) => Err(fault),
            };
            match sent {
                Ok(successor) => return successor,
                Err(fault) => tracing::warn!("another process cannot take over: {fault}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn send(link: &tokio::net::UnixStream, sockets: &Sockets) -> io::Result<()> {
    let ours = rustix::process::geteuid().as_raw();
    let theirs = link.peer_cred()?.uid();
    if theirs != ours && theirs != 0 {
        return Err(io::Error::other(format!("it is user {theirs}'s, and this one is user {ours}'s")));
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

/// A process that has our sockets and is coming up.
pub struct Successor {
    link: tokio::net::UnixStream,
}

impl Successor {
    /// Waits until it asks us to stop what cannot run twice.
    ///
    /// # Errors
    /// When it went away, or is of another version.
    pub async fn asks_to_give_way(&mut self) -> Result<(), HandoverError> {
        self.says(GIVE_WAY, AT_ONCE).await
    }

    /// Says that we have, and waits until it is up.
    ///
    /// # Errors
    /// When it went away, or is of another version.
    pub async fn takes_over(&mut self) -> Result<(), HandoverError> {
        self.takes_over_within(PATIENCE).await
    }

    async fn takes_over_within(&mut self, patience: Duration) -> Result<(), HandoverError> {
        self.link.write_all(&[GAVE_WAY]).await.map_err(HandoverError::Link)?;
        let taken = self.says(UP, patience).await;
        // One that is gone need not be told.
        let _ = self.link.write_all(&[if taken.is_ok() { DONE } else { GAVE_UP }]).await;
        taken
    }

    async fn says(&mut self, expected: u8, patience: Duration) -> Result<(), HandoverError> {
        match tokio::time::timeout(patience, self.link.read_u8()).await {
            Ok(Ok(word)) if word == expected => Ok(()),
            Ok(Ok(_)) => Err(HandoverError::Version),
            Ok(Err(fault)) => Err(HandoverError::Link(fault)),
            Err(_) => Err(HandoverError::Link(io::ErrorKind::TimedOut.into())),
        }
    }
}

/// Why nothing was handed over.
#[derive(Debug)]
pub enum HandoverError {
    /// No process offers its sockets.
    Nobody(PathBuf, io::Error),
    /// Heirs cannot be waited for.
    Bind(PathBuf, io::Error),
    /// The other side is gone.
    Link(io::Error),
    /// The other side says something else.
    Version,
    /// The process before this one did not wait for it any longer.
    TooLate,
    /// Nothing says where sockets are offered.
    Unconfigured,
}

impl fmt::Display for HandoverError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody(path, fault) => {
                let path = path.display();
                write!(
                    formatter,
                    "no process offers its sockets at {path} ({fault}); to start one, leave out --upgrade"
                )
            }
            Self::Bind(path, fault) => {
                write!(formatter, "cannot wait at {} of `server.upgrade_socket`: {fault}", path.display())
            }
            Self::Link(fault) => write!(formatter, "the other process broke off the handover: {fault}"),
            Self::Version => {
                formatter.write_str("the other process hands over in another way; stop it, and start without --upgrade")
            }
            Self::TooLate => formatter.write_str(
                "the running process did not wait any longer and goes on; see what takes this one a minute to start",
            ),
            Self::Unconfigured => formatter
                .write_str("nothing is handed over without `server.upgrade_socket`; set it, restart, and then upgrade"),
        }
    }
}

impl std::error::Error for HandoverError {}

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
        let offer = Offer::at(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut sockets = Sockets::none();
        let address = bound(&mut sockets);
        let heir = tokio::task::spawn_blocking(move || {
            let (mut heir, mut sockets) = Heir::of(&path).unwrap();
            heir.ask_to_give_way().unwrap();
            let socket = sockets.listen(address).unwrap();
            heir.is_up().unwrap();
            socket
        });
        let mut successor = offer.heir(|| sockets.duplicate()).await;
        successor.asks_to_give_way().await.unwrap();
        successor.takes_over().await.unwrap();
        drop(sockets);
        let socket = heir.await.unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        socket.set_nonblocking(false).unwrap();
        assert!(socket.accept().is_ok());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_heir_that_goes_away_is_noticed_and_the_next_is_heard() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("upgrade.sock");
        let offer = Offer::at(&path).unwrap();
        let sockets = Sockets::none();
        for _ in 0..2 {
            let path = path.clone();
            let heir = tokio::task::spawn_blocking(move || drop(Heir::of(&path)));
            let mut successor = offer.heir(|| sockets.duplicate()).await;
            heir.await.unwrap();
            assert!(matches!(successor.asks_to_give_way().await, Err(HandoverError::Link(_))));
        }
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.yaml");
        std::fs::write(&path, "keys: []").unwrap();
        assert!(Offer::at(&path).is_err());
        assert!(path.exists());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_heir_that_comes_up_too_late_is_told_so_and_one_whose_predecessor_is_gone_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("upgrade.sock");
        let offer = Offer::at(&path).unwrap();
        let sockets = Sockets::none();
        for gives_up in [true, false] {
            let path = path.clone();
            let (go, wait) = std::sync::mpsc::channel();
            let heir = tokio::task::spawn_blocking(move || {
                let (mut heir, _) = Heir::of(&path).unwrap();
                heir.ask_to_give_way().unwrap();
                wait.recv().unwrap();
                heir.is_up()
            });
            let mut successor = offer.heir(|| sockets.duplicate()).await;
            successor.asks_to_give_way().await.unwrap();
            if gives_up {
                assert!(successor.takes_over_within(Duration::ZERO).await.is_err());
            } else {
                successor.link.write_all(&[GAVE_WAY]).await.unwrap();
            }
            drop(successor);
            go.send(()).unwrap();
            assert_eq!(matches!(heir.await.unwrap(), Err(HandoverError::TooLate)), gives_up);
        }
    }

    #[test]
    fn nobody_there_is_said_with_what_to_do() {
        let fault = Heir::of(Path::new("/nowhere/upgrade.sock")).err().unwrap();
        assert!(fault.to_string().contains("leave out --upgrade"), "{fault}");
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
