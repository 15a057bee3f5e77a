//! A request that is not admitted: what is known of it, and why it is refused.

use std::sync::Arc;

use keymeter_core::{limit::Scope, rejection::Rejection};

use super::{Gate, Now, RequestContext};
use crate::{
    keys::Key,
    observe::{access_log::Line, traces::Ended},
};

/// A request that was refused.
pub struct Rejected {
    /// What is known of it.
    pub context: RequestContext,
    /// Whose it is, if that is known.
    pub key: Option<Arc<Key>>,
    /// What its sender is told.
    pub rejection: Rejection,
}

impl Rejected {
    /// A request that is refused.
    #[must_use]
    pub fn new(context: RequestContext, key: Option<Arc<Key>>, rejection: Rejection) -> Box<Self> {
        Box::new(Self { context, key, rejection })
    }
}

impl Gate {
    /// Logs and counts a request that asked no model, with the status that was answered and why it was refused, if it was.
    pub fn end_unmetered(
        &self,
        context: &mut RequestContext,
        key: Option<&Key>,
        status: u16,
        rejection: Option<&Rejection>,
        now: Now,
    ) {
        if let Some(key) = key {
            let metrics = &key.account.metrics;
            let settings = &context.settings;
            let model = context.model.as_deref().map_or_else(|| settings.other(), |model| settings.model(model));
            metrics.model(&model.label).answered(status);
            if let Some(reason) = rejection.and_then(Rejection::refused) {
                let scope = rejection.and_then(Rejection::scope).unwrap_or(Scope::Key);
                metrics.refused(reason, scope);
                if let Some(ledger) = self.ledger() {
                    ledger.note_refusal(&key.record.id, reason, scope, now.date);
                }
            }
        }
        let reason = rejection.map(Rejection::code);
        if let Some(code) = reason {
            self.metrics.error(code);
        }
        let record = key.map(|key| &*key.record);
        context.trace_ended(&Ended { status, reason, ..Ended::default() }, record, now);
        let limit = rejection.and_then(Rejection::reached_limit);
        self.log.write(&Line { limit, ..context.line(record, status, reason, now) });
    }
}
