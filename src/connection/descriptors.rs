//! File descriptors: their number, their division, and a reserve.

use std::{fs::File, num::NonZeroUsize};

use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Where the system sets no limit.
const MANY: u64 = 1 << 20;

/// Raises the limit of file descriptors to the maximum.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!("cannot raise the limit of file descriptors above {}: {error}", available());
    }
}

/// The most client connections of the gateway: the `configured` number, or nine tenths of the descriptors, and never more.
#[must_use]
pub fn most_of_gateway(configured: Option<NonZeroUsize>) -> usize {
    let fitting = part(9, 10);
    match configured.map(NonZeroUsize::get) {
        Some(most) if most > fitting => {
            tracing::warn!(
                "`server.max_connections` is {most}, but only {fitting} are possible: the process has {} file descriptors, \
                 of which upstreams, files and the admin address need some; raise its limit (ulimit -n, LimitNOFILE)",
                available()
            );
            fitting
        }
        Some(most) => most,
        None => fitting,
    }
}

/// The most connections of the admin address.
#[must_use]
pub fn most_of_admin() -> usize {
    part(1, 40).min(1024)
}

/// The most connections of the control plane.
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

/// Descriptors that a listener reserves, so that it can accept connections when the process has no others left.
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

    /// Reserves the full number again, if possible.
    pub fn refill(&self) {
        let mut held = self.held.lock();
        while held.len() < self.size {
            let Ok(file) = File::open("/dev/null") else { return };
            held.push(file);
        }
    }

    /// Releases one descriptor. Returns whether there was one.
    pub fn release(&self) -> bool {
        self.held.lock().pop().is_some()
    }
}
