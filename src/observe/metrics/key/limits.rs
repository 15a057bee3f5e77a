//! The last limits of a key, for scrapes between requests.

use std::sync::atomic::{AtomicU64, Ordering};

use keymeter_core::limit::{Limit, Limits, Quotas, ScopeLimits};
use parking_lot::RwLock;

/// Three limits and the quotas, readable without a request. 0 stands for none.
#[derive(Default)]
pub(super) struct LastLimits {
    minute: [AtomicU64; 3],
    quotas: RwLock<Quotas>,
}

impl LastLimits {
    pub fn set(&self, limits: &ScopeLimits) {
        let ScopeLimits { minute, quotas } = limits;
        if *self.quotas.read() != *quotas {
            *self.quotas.write() = quotas.clone();
        }
        let Limits { requests_per_minute, tokens_per_minute, concurrent_requests } = minute;
        for (last, limit) in self.minute.iter().zip([requests_per_minute, tokens_per_minute, concurrent_requests]) {
            let number = limit.number().unwrap_or(0);
            // They hardly ever change, and what is not written stays in every core's cache.
            if last.load(Ordering::Relaxed) != number {
                last.store(number, Ordering::Relaxed);
            }
        }
    }

    pub fn read(&self) -> ScopeLimits {
        let [requests_per_minute, tokens_per_minute, concurrent_requests] =
            self.minute.each_ref().map(|last| Limit::at(last.load(Ordering::Relaxed)).unwrap_or(Limit::Unlimited));
        let minute = Limits { requests_per_minute, tokens_per_minute, concurrent_requests };
        ScopeLimits { minute, quotas: self.quotas.read().clone() }
    }
}
