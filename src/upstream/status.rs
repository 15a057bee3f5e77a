//! What operators are told of upstreams: each replica's state, why it has it, until when, and what runs on it.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use keymeter_core::clock::MonotonicTime;
use serde_json::{Value, json};

use super::{Pool, Replica};

/// All upstreams at `now`, which is also that `date`.
#[must_use]
pub fn describe(pools: &[Arc<Pool>], now: MonotonicTime, date: Timestamp) -> Value {
    let upstreams: Vec<_> = pools.iter().map(|pool| upstream(pool, now, date)).collect();
    json!({ "upstreams": upstreams })
}

fn upstream(pool: &Pool, now: MonotonicTime, date: Timestamp) -> Value {
    let (length, oldest) = pool.queue(now);
    let replicas: Vec<_> = pool.members().replicas.iter().map(|replica| describe_replica(replica, now, date)).collect();
    json!({
        "name": &*pool.name,
        "queue": {"length": length, "oldest_ms": oldest.map(|oldest| u64::try_from(oldest.as_millis()).unwrap_or(u64::MAX))},
        "replicas": replicas,
    })
}

fn describe_replica(replica: &Replica, now: MonotonicTime, date: Timestamp) -> Value {
    let availability = replica.availability(now);
    let until = availability.until().and_then(|until| {
        let left = SignedDuration::try_from(until.saturating_since(now)).ok()?;
        date.checked_add(left).ok()
    });
    let url = &replica.config.url;
    let scheme = if url.tls { "https" } else { "http" };
    json!({
        "name": &*replica.name,
        "url": format!("{scheme}://{}{}", url.authority, url.path),
        "state": availability.name(),
        "reason": replica.reason(now),
        "until": until.map(|until| until.to_string()),
        "in_flight": replica.in_flight(),
        "load_tokens": replica.load_tokens(),
        "weight": replica.config.weight,
    })
}
