//! A record for tests.

use keymeter_core::key::{KeyHash, KeyRecord, KeyState, OwnLimits, Priority};

/// The record of an active key with `id` and `secret`, and no limits of its own.
pub(crate) fn record(id: &str, secret: &str) -> KeyRecord {
    KeyRecord {
        id: id.parse().unwrap(),
        name: "some key".parse().unwrap(),
        hash: KeyHash::digest(secret.as_bytes()),
        state: KeyState::Active,
        owner: None,
        team: None,
        models: None,
        limits: OwnLimits::default(),
        expires_at: None,
        retiring: Box::default(),
        wallet: None,
        priority: Priority::default(),
        terms: None,
    }
}
