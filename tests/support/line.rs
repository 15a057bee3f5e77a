//! A line between two programs that a test can cut, slow down, or leave hanging half open.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
    task::AbortHandle,
};

/// What becomes of bytes on the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// They arrive.
    None,
    /// They arrive later, in both directions.
    Delay(Duration),
    /// Connections break, and new ones are closed at once.
    Cut,
    /// Connections stand, and nothing arrives any more; nor is it made up for later.
    Silent,
}

/// An address that leads to another, or to the first of several that takes the connection.
pub struct Line {
    pub address: SocketAddr,
    error: Arc<watch::Sender<Fault>>,
    targets: Targets,
    accepting: AbortHandle,
}

type Targets = Arc<Mutex<Vec<SocketAddr>>>;

impl Line {
    pub async fn to(target: SocketAddr) -> Self {
        Self::to_any(&[target]).await
    }

    pub async fn to_any(targets: &[SocketAddr]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let error = Arc::new(watch::Sender::new(Fault::None));
        let targets = Arc::new(Mutex::new(targets.to_vec()));
        let accepting = tokio::spawn(accept(listener, targets.clone(), error.clone())).abort_handle();
        Self { address, error, targets, accepting }
    }

    /// From the next connection on, it leads there.
    pub fn leads_to(&self, targets: &[SocketAddr]) {
        *self.targets.lock() = targets.to_vec();
    }

    pub fn set(&self, error: Fault) {
        self.error.send_replace(error);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, targets: Targets, error: Arc<watch::Sender<Fault>>) {
    while let Ok((near, _)) = listener.accept().await {
        let mut faults = error.subscribe();
        let targets = targets.lock().clone();
        tokio::spawn(async move {
            if *faults.borrow() == Fault::Cut {
                return;
            }
            let Some(far) = first(&targets).await else { return };
            near.set_nodelay(true).unwrap();
            far.set_nodelay(true).unwrap();
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::select! {
                () = carry(near_in, far_out, faults.clone()) => {}
                () = carry(far_in, near_out, faults.clone()) => {}
                _ = faults.wait_for(|error| *error == Fault::Cut) => {}
            }
        });
    }
}

async fn first(targets: &[SocketAddr]) -> Option<TcpStream> {
    for target in targets {
        if let Ok(stream) = TcpStream::connect(target).await {
            return Some(stream);
        }
    }
    None
}

/// One direction. Its end is the line's.
async fn carry(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, faults: watch::Receiver<Fault>) {
    let mut buffer = vec![0; 64 * 1024];
    let mut is_lost = false;
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        let error = *faults.borrow();
        match error {
            Fault::None | Fault::Cut => {}
            Fault::Delay(time) => tokio::time::sleep(time).await,
            // What comes after a gap would be no answer to anything.
            Fault::Silent => is_lost = true,
        }
        if !is_lost && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
