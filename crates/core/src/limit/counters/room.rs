//! How much of tokens, of tokens of output and of money there is, or is left, under all limits of a request together.

use std::ops::Deref;

use super::{Counters, LimitLine, LimitName, each_status};
use crate::{
    clock::Now,
    limit::{QuotaUnit, RequestLimits, Scopes},
};

/// How much a request may take; `None`: nothing limits that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Tokens of all kinds.
    pub tokens: Option<u64>,
    /// Tokens of its answer.
    pub output_tokens: Option<u64>,
    /// Nano-dollars.
    pub nano_usd: Option<u64>,
}

impl Room {
    /// The room under a limit of this name and number.
    fn narrow(&mut self, name: LimitName, number: u64) {
        let room = match name {
            LimitName::TokensPerMinute => &mut self.tokens,
            LimitName::Quota(quota) => match quota.unit {
                QuotaUnit::Tokens => &mut self.tokens,
                QuotaUnit::OutputTokens => &mut self.output_tokens,
                QuotaUnit::Usd => &mut self.nano_usd,
                QuotaUnit::Requests => return,
            },
            LimitName::RequestsPerMinute | LimitName::ConcurrentRequests => return,
        };
        *room = Some(room.map_or(number, |room| room.min(number)));
    }
}

impl RequestLimits {
    /// How much a request may take at all.
    #[must_use]
    pub fn room(&self) -> Room {
        let mut room = Room::default();
        for (.., limits) in self.all() {
            if let Some(number) = limits.minute.tokens_per_minute.number() {
                room.narrow(LimitName::TokensPerMinute, number);
            }
            limits.quotas.iter().for_each(|quota| room.narrow(LimitName::Quota(quota.name), quota.amount.get()));
        }
        room
    }
}

/// How much is left at `now`.
pub fn room_left<Owner: Deref<Target = Counters>>(counters: &Scopes<Owner>, limits: &RequestLimits, now: Now) -> Room {
    let mut room = Room::default();
    each_status(counters, limits, now, |_, _, meter, limits| {
        let status = meter.status(&limits.minute, now.moment);
        if let Some(left) = status.tokens.remaining() {
            room.narrow(LimitName::TokensPerMinute, left);
        }
        meter.each_quota(limits, now, |name, limit, used| {
            room.narrow(LimitName::Quota(name), limit.saturating_sub(used));
        });
    });
    room
}

impl LimitLine {
    /// What is left of it.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}
