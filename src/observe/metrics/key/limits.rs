//! The last limits of a key, for scrapes between requests.

use std::sync::atomic::{AtomicU64, Ordering};

use keymeter_core::limit::{Limit, Limits};

/// Three limits, readable without a request. 0 stands for none.
#[derive(Default)]
pub(super) struct LastLimits([AtomicU64; 3]);

impl LastLimits {
    pub fn set(&self, limits: &Limits) {
        let Limits { requests_per_minute, tokens_per_minute, concurrent_requests } = limits;
        for (last, limit) in self.0.iter().zip([requests_per_minute, tokens_per_minute, concurrent_requests]) {
            let number = limit.number().unwrap_or(0);
            // They hardly ever change, and what is not written stays in every core's cache.
            if last.load(Ordering::Relaxed) != number {
                last.store(number, Ordering::Relaxed);
            }
        }
    }

    pub fn read(&self) -> Limits {
        let [requests_per_minute, tokens_per_minute, concurrent_requests] =
            self.0.each_ref().map(|last| Limit::at(last.load(Ordering::Relaxed)).unwrap_or(Limit::Unlimited));
        Limits { requests_per_minute, tokens_per_minute, concurrent_requests }
    }
}
