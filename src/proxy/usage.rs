//! What a key is told of itself: `GET /v1/usage`. Its limits come from the counters that enforce them, and what it used in
//! all, with its balance, from whoever keeps the accounts, if anybody does.

use keymeter_core::{
    glob::Glob,
    limit::{LimitLine, LimitName, QuotaName, QuotaUnit, Scope, WindowStatus},
};
use serde_json::{Value, json};

use super::RequestInfo;
use crate::{admission::Now, keys::Key};

impl RequestInfo {
    /// What the key may use, has used, and has left.
    pub async fn usage(&self) -> Value {
        let (record, limits) = (&self.key.record, self.settings.limits_with_models(&self.key));
        let now = Now::read();
        let (standing, lines) = self.gate.asked_standing(&self.key, &limits, now).await;
        let all: Vec<_> = lines.iter().map(|limit| line(&self.key, limit)).collect();
        let at_once = limits.scopes.key.minute.concurrent_requests.number();
        let mut told = json!({
            "object": "usage",
            "key": {"id": record.id.as_str(), "name": record.name.as_str(), "owner": record.owner, "team": record.team},
            "limits": {
                "requests_per_minute": level(&standing.requests),
                "tokens_per_minute": level(&standing.tokens),
                "concurrent_requests": {
                    "limit": at_once,
                    "used": standing.running,
                    "remaining": at_once.map(|limit| limit.saturating_sub(standing.running)),
                },
            },
            "all": all,
        });
        if let (Some(object), Some(total)) = (told.as_object_mut(), self.gate.totals(&self.key).await) {
            object.extend(total);
        }
        told
    }
}

/// One limit of the key, of a model within it, of its team or of its owner. Money is a decimal number in a text.
fn line(key: &Key, limit: &LimitLine) -> Value {
    let id = match limit.scope {
        Scope::Key => Some(key.record.id.as_str()),
        Scope::Model => limit.models.as_ref().map(Glob::as_str),
        Scope::Team => key.record.team.as_deref(),
        Scope::Owner => key.record.owner.as_deref(),
    };
    let amount = |amount: u64| match limit.name {
        LimitName::Quota(QuotaName { unit: unit @ QuotaUnit::Usd, .. }) => Value::from(unit.written(amount)),
        _ => Value::from(amount),
    };
    json!({
        "scope": limit.scope.as_str(),
        "id": id,
        "limit": limit.name.to_string(),
        "value": amount(limit.limit),
        "used": amount(limit.used),
        "remaining": amount(limit.remaining()),
        "reset_seconds": limit.reset.as_millis().div_ceil(1000),
    })
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
