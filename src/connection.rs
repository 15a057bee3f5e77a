//! Client connections with a time limit for each state, and with a limit on their number. A connection waits for the head of
//! a request, carries requests, or is kept alive for further ones. Its stream checks the time whenever it has nothing to
//! read or cannot write, and ends when the time is over. The server of the connection only sees that the client has gone.
//! The gateway, the admin address and the control plane share this.

pub mod app;
pub mod descriptors;
mod frames;
pub mod listener;
mod registry;
mod socket;
mod stream;

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use keymeter_config::ConnectionTimeouts;
use parking_lot::{Mutex, MutexGuard};
use tokio::{sync::watch, time::Instant};

pub use self::{
    registry::{Connections, OpenConnection},
    stream::TimedStream,
};
use crate::{keys::revocation::RevocationEntry, upstream::Interrupt};

tokio::task_local! {
    /// The connection that the task serves, where it carries one request at a time.
    static CURRENT: Arc<Connection>;
}

/// One client's connection, as far as time and revocation concern it.
pub struct Connection {
    timeouts: ConnectionTimeouts,
    state: Mutex<State>,
    /// Whether the client may still be sending when it is closed.
    lingers: AtomicBool,
    /// Tells the server to accept no further request.
    closing: watch::Sender<bool>,
    /// The set of connections that it belongs to.
    connections: Weak<Connections>,
}

struct State {
    phase: Phase,
    /// Whether the client was told to send no more requests.
    is_closing: bool,
    /// Whether it makes room for another.
    is_evicted: bool,
    /// Whether a part of a head came that is not whole.
    has_partial_head: bool,
    /// The request whose revocation makes the reader fail.
    revocable: Option<Arc<RevocationEntry>>,
    /// What ends the wait for the head of an answer.
    interrupt: Option<Arc<Interrupt>>,
    /// Wakes the task that reads.
    reader: Option<Waker>,
}

/// What ends a read although the client goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadEnd {
    /// The key of the request that the connection carries is revoked.
    Revoked,
    /// The wait for the head of an answer has ended. The reader fails once, and the connection goes on.
    Interrupted,
    /// The connection makes room for another.
    Evicted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The head of a request is awaited or on its way, since then.
    Head(Instant),
    /// So many requests run.
    Running(usize),
    /// None does, since then.
    Idle(Instant),
}

/// When a connection ends unless something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Deadline {
    at: Instant,
    /// Whether the connection is only kept for further requests.
    is_idle: bool,
}

impl Connection {
    fn new(timeouts: ConnectionTimeouts, accepted: Instant, connections: Weak<Connections>) -> Self {
        let state = State {
            phase: Phase::Head(accepted),
            is_closing: false,
            is_evicted: false,
            has_partial_head: false,
            revocable: None,
            interrupt: None,
            reader: None,
        };
        Self {
            timeouts,
            state: Mutex::new(state),
            lingers: AtomicBool::new(false),
            closing: watch::Sender::new(false),
            connections,
        }
    }

    /// The connection of the request that is under way, if it carries one request at a time.
    #[must_use]
    pub fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Sets the request whose revocation makes the reader fail; `None`: no request does.
    pub fn set_revocation(&self, entry: Option<Arc<RevocationEntry>>) {
        self.state.lock().revocable = entry;
    }

    /// Notes that the head of a request was read. The request runs until [`Self::end_request`]. For connections that carry
    /// one request at a time.
    pub fn begin_request(&self) {
        let mut state = self.state.lock();
        state.phase = Phase::Running(1);
        state.has_partial_head = false;
    }

    /// Notes that the client may still be sending when the connection is closed. What it sends is then passed over for a
    /// moment: an end of which it learns by a reset would take the last answer with it.
    pub fn linger(&self) {
        self.lingers.store(true, Ordering::Relaxed);
    }

    fn lingers(&self) -> bool {
        self.lingers.load(Ordering::Relaxed)
    }

    /// Notes that the request has ended, if there was one.
    pub fn end_request(&self) {
        self.state.lock().phase = Phase::Idle(Instant::now());
        self.notify_idle();
    }

    /// Notes that a request runs while the returned guard lives. For connections that may carry several.
    pub fn run_request(self: &Arc<Self>) -> RunningRequest {
        let mut state = self.state.lock();
        state.phase = match state.phase {
            Phase::Running(others) => Phase::Running(others + 1),
            Phase::Head(_) | Phase::Idle(_) => Phase::Running(1),
        };
        RunningRequest(self.clone())
    }

    fn finish_running(&self) {
        let mut state = self.state.lock();
        if let Phase::Running(others) = state.phase
            && others > 1
        {
            state.phase = Phase::Running(others - 1);
            return;
        }
        state.phase = Phase::Idle(Instant::now());
        // Another task may wait for the client already, with no end in view.
        wake_reader(state);
        self.notify_idle();
    }

    fn notify_idle(&self) {
        if let Some(connections) = self.connections.upgrade() {
            connections.notify_idle();
        }
    }

    /// How long the rest of a request's body may take after its answer.
    fn drain_timeout(&self) -> Duration {
        self.timeouts.head
    }

    /// Records that bytes came on a connection that carries one request at a time.
    fn record_bytes(&self) {
        let mut state = self.state.lock();
        match state.phase {
            Phase::Running(_) => return,
            Phase::Idle(_) => state.phase = Phase::Head(Instant::now()),
            Phase::Head(_) => {}
        }
        state.has_partial_head = true;
    }

    /// Whether bytes came that did not become the head of a request. For connections of one request at a time.
    fn has_partial_head(&self) -> bool {
        self.state.lock().has_partial_head
    }

    /// When it ends. `head_since` is when the head of a request began to arrive, where others may be running.
    fn deadline(&self, head_since: Option<Instant>) -> Option<Deadline> {
        let (phase, is_closing) = {
            let state = self.state.lock();
            (state.phase, state.is_closing)
        };
        let of_head = head_since.map(|since| Deadline { at: since + self.timeouts.head, is_idle: false });
        let of_phase = match phase {
            Phase::Head(since) => Some(Deadline { at: since + self.timeouts.head, is_idle: false }),
            Phase::Running(_) => None,
            // A client that was told to leave, and does not, need not have the whole time again.
            Phase::Idle(since) if is_closing => Some(Deadline { at: since + self.timeouts.head, is_idle: true }),
            Phase::Idle(since) => Some(Deadline { at: since + self.timeouts.keep_alive, is_idle: true }),
        };
        of_head.into_iter().chain(of_phase).min_by_key(|deadline| deadline.at)
    }

    /// Asks the client to send no more requests, if it can be asked and was not. It then has a little time to leave.
    /// Returns whether it has more time, as it also has where a request has begun meanwhile.
    fn request_close(&self) -> bool {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Idle(_)) {
            return true;
        }
        if state.is_closing || self.closing.receiver_count() == 0 {
            return false;
        }
        state.is_closing = true;
        state.phase = Phase::Idle(Instant::now());
        drop(state);
        self.closing.send_replace(true);
        true
    }

    fn idle_since(&self) -> Option<Instant> {
        let state = self.state.lock();
        match state.phase {
            Phase::Idle(since) if !state.is_evicted => Some(since),
            _ => None,
        }
    }

    /// Ends the connection if it has been idle since `since`. Returns whether it was.
    fn evict(&self, since: Instant) -> bool {
        let mut state = self.state.lock();
        if state.phase != Phase::Idle(since) || state.is_evicted {
            return false;
        }
        state.is_evicted = true;
        wake_reader(state);
        true
    }

    fn is_evicted(&self) -> bool {
        self.state.lock().is_evicted
    }

    /// Ready when the connection makes room for another; `waker` is woken then.
    fn poll_evicted(&self, waker: &Waker) -> Poll<()> {
        self.state.lock().poll_evicted(waker)
    }

    /// Sets what ends the wait for the head of an answer; `None`: nothing does.
    pub fn set_interrupt(&self, interrupt: Option<Arc<Interrupt>>) {
        let mut state = self.state.lock();
        state.interrupt = interrupt;
        // Who reads is to look at the new one.
        wake_reader(state);
    }

    /// Ready when a read is to end although the client goes on.
    fn poll_end(&self, context: &Context<'_>) -> Poll<ReadEnd> {
        let mut state = self.state.lock();
        if state.revocable.as_ref().is_some_and(|entry| entry.poll_revoked(context).is_ready()) {
            return Poll::Ready(ReadEnd::Revoked);
        }
        if state.interrupt.as_ref().is_some_and(|interrupt| interrupt.poll(context).is_ready()) {
            state.interrupt = None;
            return Poll::Ready(ReadEnd::Interrupted);
        }
        state.poll_evicted(context.waker()).map(|()| ReadEnd::Evicted)
    }
}

impl State {
    fn poll_evicted(&mut self, waker: &Waker) -> Poll<()> {
        if !self.reader.as_ref().is_some_and(|reader| reader.will_wake(waker)) {
            self.reader = Some(waker.clone());
        }
        if self.is_evicted { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Wakes the task that reads, if one does.
fn wake_reader(mut state: MutexGuard<'_, State>) {
    let reader = state.reader.take();
    drop(state);
    reader.into_iter().for_each(Waker::wake);
}

/// A request that runs on a connection.
pub struct RunningRequest(Arc<Connection>);

impl Drop for RunningRequest {
    fn drop(&mut self) {
        self.0.finish_running();
    }
}

#[cfg(test)]
mod tests;
