//! Any record, for property tests.

#![allow(missing_docs, clippy::unwrap_used, clippy::must_use_candidate, reason = "it is a test's")]

use jiff::Timestamp;
use proptest::prelude::*;

use super::{MOST_COST, MOST_TOKENS, Record};
use crate::{money::Usd, usage::UsageSource};

prop_compose! {
    pub fn any_record()(
        id in "[A-Za-z0-9_-]{1,64}", gateway: u64, micros in 0_i64..4_000_000_000_000_000,
        key in "[a-z0-9_]{1,64}", name in "[a-zA-Z\"\\\\é]{3,50}",
        parties in prop::array::uniform3(prop::option::of("[a-z\"é]{1,64}")), model in "\\PC{0,32}",
        tokens in prop::array::uniform5(0..=MOST_TOKENS), cost in 0..=MOST_COST.nanos(), status in 100_u16..=999,
        source in prop::sample::select(vec![UsageSource::Upstream, UsageSource::Estimated, UsageSource::None]),
    ) -> Record {
        let [owner, team, wallet] = parties.map(|party| party.map(Into::into));
        let [input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens] = tokens;
        Record {
            id: id.parse().unwrap(), gateway: format!("{gateway:016x}").parse().unwrap(),
            time: Timestamp::from_microsecond(micros).unwrap(),
            key_id: key.parse().unwrap(), key_name: name.parse().unwrap(),
            owner, team, wallet, model: model.into(),
            input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
            cost_usd: Usd::from_nanos(cost), status, usage_source: source,
        }
    }
}
