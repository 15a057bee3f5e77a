//! File descriptors: how many there are, how they are divided, and some that are held back.

use std::{fs::File, num::NonZeroUsize};

use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Where the system sets no limit.
const MANY: u64 = 1 << 20;

/// Makes as many descriptors of this process' as it may have.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(fault) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!("the number of file descriptors stays at {}: {fault}", available());
    }
}

/// How many connections of clients there may be at the gateway: as many as were `configured`, or nine tenths of the
/// descriptors, and no more than these in any case.
#[must_use]
pub fn most_of_gateway(configured: Option<NonZeroUsize>) -> usize {
    let fitting = part(9, 10);
    match configured.map(NonZeroUsize::get) {
        Some(most) if most > fitting => {
            tracing::warn!(
                "`server.max_connections` is {most}, and {fitting} it is: the process has {} file descriptors, of which \
                 upstreams, files and the admin address need some; raise its limit (ulimit -n, LimitNOFILE)",
                available()
            );
            fitting
        }
        Some(most) => most,
        None => fitting,
    }
}

/// How many there may be at the admin address.
#[must_use]
pub fn most_of_admin() -> usize {
    part(1, 40).min(1024)
}

/// How many there may be at the control plane.
#[must_use]
pub fn most_of_control() -> usize {
    part(1, 20)
}

fn part(numerator: u64, denominator: u64) -> usize {
    let fitting = available().saturating_mul(numerator) / denominator;
    usize::try_from(fitting).unwrap_or(usize::MAX).max(1)
}

fn available() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(MANY).min(MANY.saturating_mul(1024))
}

/// Descriptors that one listener holds back, so that it can accept connections when the process has no others left.
pub(super) struct Reserve {
    size: usize,
    held: Mutex<Vec<File>>,
}

impl Reserve {
    pub fn new(size: usize) -> Self {
        let reserve = Self { size, held: Mutex::default() };
        reserve.refill();
        reserve
    }

    /// Holds as many as it should again, if it can.
    pub fn refill(&self) {
        let mut held = self.held.lock();
        while held.len() < self.size {
            let Ok(file) = File::open("/dev/null") else { return };
            held.push(file);
        }
    }

    /// Lets one go. Says whether there was one.
    pub fn release(&self) -> bool {
        self.held.lock().pop().is_some()
    }
}
