//! The end of a wait for the head of an answer, told from outside: the replica was found down, or took too long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;

use super::Pool;

/// A request that waits for the head of an answer. Pingora learns of it by a read that fails, of the connection that carries
/// the request.
#[derive(Default)]
pub struct Interrupt {
    /// Where else the request may go.
    pub(super) ways: Ways,
    state: AtomicU8,
    waker: AtomicWaker,
}

/// Where else a request may go from the replica that it waits for.
#[derive(Default)]
pub struct Ways {
    /// The replicas of this pool that it was sent to already, if it may be sent to another one of it.
    pub here: Option<Vec<Arc<str>>>,
    /// The pools of the upstreams that come after.
    pub after: Vec<Arc<Pool>>,
}

const WAITING: u8 = 0;
const INTERRUPTED: u8 = 1;
const ANSWERED: u8 = 2;
const TIMED_OUT: u8 = 3;

impl Interrupt {
    /// The wait of a request that may go there.
    #[must_use]
    pub fn new(ways: Ways) -> Self {
        Self { ways, ..Self::default() }
    }

    /// Whether the wait goes on.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.state.load(Ordering::Acquire) == WAITING
    }

    /// Ends the wait, if there still is one: the replica was found down.
    pub fn interrupt(&self) -> bool {
        self.end(INTERRUPTED)
    }

    /// Ends the wait, if there still is one: it took too long.
    pub fn time_out(&self) -> bool {
        self.end(TIMED_OUT)
    }

    fn end(&self, how: u8) -> bool {
        let has_ended = self.state.compare_exchange(WAITING, how, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if has_ended {
            self.waker.wake();
        }
        has_ended
    }

    /// The head is there, or the wait has ended otherwise.
    pub fn answered(&self) {
        // One that was interrupted stays so.
        let _ = self.state.compare_exchange(WAITING, ANSWERED, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Whether the wait was ended because the replica was found down.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.state.load(Ordering::Acquire) == INTERRUPTED
    }

    /// Whether the wait was ended because it took too long.
    #[must_use]
    pub fn is_timed_out(&self) -> bool {
        self.state.load(Ordering::Acquire) == TIMED_OUT
    }

    fn has_ended(&self) -> bool {
        self.is_interrupted() || self.is_timed_out()
    }

    /// Ready when the wait is ended.
    pub fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.has_ended() {
            return Poll::Ready(());
        }
        self.waker.register(context.waker());
        // It may have been ended in between.
        if self.has_ended() { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_is_ended_once_and_not_after_its_answer() {
        let waiting = Arc::new(Interrupt::default());
        let ended = tokio::spawn({
            let waiting = waiting.clone();
            async move { std::future::poll_fn(|context| waiting.poll(context)).await }
        });
        assert!(waiting.interrupt() && !waiting.interrupt());
        ended.await.unwrap();
        let answered = Interrupt::default();
        answered.answered();
        assert!(!answered.interrupt() && !answered.is_interrupted());
    }
}
