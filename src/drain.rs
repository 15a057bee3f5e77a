//! Waiting for work to end: for running requests, records and settlements when a process stops.

use std::time::Duration;

/// How often it is checked whether the work has ended.
const POLL: Duration = Duration::from_millis(20);

/// Waits until `is_done`, for `limit` at most. Returns whether it is.
pub(crate) async fn drain(limit: Duration, is_done: impl Fn() -> bool) -> bool {
    let done = async {
        while !is_done() {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(limit, done).await.is_ok()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_that_ends_is_waited_for_and_work_that_does_not_until_the_limit() {
        let left = Cell::new(3_u32);
        assert!(drain(Duration::MAX, || left.replace(left.get().saturating_sub(1)) == 0).await);
        assert!(!drain(Duration::from_secs(1), || false).await);
        assert!(drain(Duration::ZERO, || true).await, "what has ended needs no time");
    }
}
