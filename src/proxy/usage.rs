//! What a key is told of itself: `GET /v1/usage`. Its limits come from the counters that enforce them, and what it used in
//! all, with its balance, from whoever keeps the accounts, if anybody does.

use keymeter_core::limit::WindowStatus;
use serde_json::{Value, json};

use super::RequestInfo;
use crate::admission::Now;

impl RequestInfo {
    /// What the key may use, has used, and has left.
    pub async fn usage(&self) -> Value {
        let (record, limits) = (&self.key.record, self.settings.limits_of(&self.key.record));
        let standing = self.gate.asked_standing(&self.key, &limits, Now::read()).await;
        let mut told = json!({
            "object": "usage",
            "key": {"id": record.id.as_str(), "name": record.name.as_str(), "owner": record.owner, "team": record.team},
            "limits": {
                "requests_per_minute": level(&standing.requests),
                "tokens_per_minute": level(&standing.tokens),
                "concurrent_requests": {
                    "limit": limits.concurrent_requests.number(),
                    "used": standing.running,
                    "remaining": limits.concurrent_requests.number().map(|limit| limit.saturating_sub(standing.running)),
                },
            },
        });
        if let (Some(object), Some(total)) = (told.as_object_mut(), self.gate.totals(&self.key).await) {
            object.extend(total);
        }
        told
    }
}

/// Where there is no limit, nothing is left of it either: both are `null`.
fn level(level: &WindowStatus) -> Value {
    json!({
        "limit": level.limit.number(),
        "used": level.used,
        "remaining": level.remaining(),
        "reset_seconds": level.reset.as_millis().div_ceil(1000),
    })
}
