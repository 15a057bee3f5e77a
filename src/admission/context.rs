//! What is known of a request from its head on, whether it is admitted or not: enough to answer it, to log it and to tell
//! its sender which request we speak of.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, Method};
use keymeter_core::{
    api::{Api, Call, Endpoint},
    body::Scanned,
    key::KeyRecord,
    limit::Scope,
    rejection::{ErrorCode, Refused},
};

use super::{Gate, Now, Settings};
use crate::observe::access_log::Line;
use crate::observe::traces::{Arrival, Ended, RequestTrace};

/// A request that has arrived.
pub struct RequestContext {
    /// In the response's `x-request-id`.
    pub id: RequestId,
    /// When its head was there.
    pub arrived: Now,
    /// Without its query.
    pub path: String,
    /// Whose path it is.
    pub api: Api,
    /// What held when it arrived.
    pub settings: Arc<Settings>,
    /// The address that it comes from.
    pub from: IpAddr,
    /// The model as the client named it, once the body is read.
    pub model: Option<String>,
    /// Time that we ourselves spent on it.
    pub work: Duration,
    /// What would have refused it, if limits were enforced.
    pub observed: Option<(Refused, Scope)>,
    /// Its trace, where requests are traced.
    pub trace: Option<Box<RequestTrace>>,
}

/// The longest path and model that are logged, in bytes.
const LOGGED: usize = 128;

impl RequestContext {
    /// A request for `path`, of an API, that has just arrived from an address.
    #[must_use]
    pub fn new(path: &str, api: Api, from: IpAddr, settings: Arc<Settings>, now: Now) -> Self {
        let path = path.to_owned();
        let (id, work) = (RequestId::next(), Duration::ZERO);
        Self { id, arrived: now, path, api, settings, from, model: None, work, observed: None, trace: None }
    }

    /// The same, whose trace begins, if `gate` has its requests traced.
    #[must_use]
    pub fn traced(mut self, gate: &Gate, method: &Method, headers: &HeaderMap, call: Option<&Call>) -> Self {
        let Some(traces) = gate.traces() else { return self };
        self.trace = traces.begin(&Arrival {
            headers,
            method,
            path: first_bytes(&self.path, LOGGED),
            api: self.api,
            call,
            id: self.id.as_str(),
            at: self.arrived.date,
        });
        self
    }

    /// What it asks for, once its body is read.
    pub fn asks(&mut self, endpoint: Endpoint, scanned: &Scanned) {
        self.model.clone_from(&scanned.model);
        if let Some(trace) = &mut self.trace {
            let model = scanned.model.as_deref().map(|model| first_bytes(model, LOGGED));
            trace.asks(endpoint, model, scanned.maximum, scanned.stream);
        }
    }

    /// Ends its trace, if there is one.
    pub fn trace_ended(&mut self, ended: &Ended<'_>, key: Option<&KeyRecord>, now: Now) {
        let Some(trace) = &mut self.trace else { return };
        let key = key.map(|record| (record.id.as_str(), record.team.as_deref()));
        trace.ended(ended, key, now.date);
    }

    /// The model as the client named it, as much of it as is kept.
    #[must_use]
    pub fn kept_model(&self) -> Option<&str> {
        self.model.as_deref().map(|model| first_bytes(model, LOGGED))
    }

    /// The request's line in the access log, as far as its context goes.
    #[must_use]
    pub fn line<'line>(
        &'line self,
        key: Option<&'line KeyRecord>,
        status: u16,
        reason: Option<ErrorCode>,
        now: Now,
    ) -> Line<'line> {
        Line {
            time: self.arrived.date,
            request_id: self.id.as_str(),
            trace_id: self.trace.as_ref().map(|trace| trace.id()),
            client_address: self.settings.logged_address.told(self.from),
            key_id: key.map(|record| record.id.as_str()),
            key_name: key.map(|record| record.name.as_str()),
            model: self.kept_model(),
            path: first_bytes(&self.path, LOGGED),
            status,
            reason: reason.map(ErrorCode::as_str),
            would_reject: self.observed.map(|(reason, _)| reason.as_str()),
            duration: now.moment.saturating_since(self.arrived.moment),
            usage_source: "none",
            ..Line::default()
        }
    }
}

/// At most the first `most` bytes of `text`, cut between characters.
fn first_bytes(text: &str, most: usize) -> &str {
    let is_end = |end: &usize| text.is_char_boundary(*end);
    let end = (0..=most.min(text.len())).rev().find(is_end).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// The name of one request: `req_` and the digits of a UUID, in which are a number of the process and one of the
/// request.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    /// The name of another request.
    #[must_use]
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self::of(process(), NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Of version 4 (RFC 9562, section 5.4), the one that is commonly checked for.
    fn of(process: u64, request: u64) -> Self {
        let (process, request) = (process & !0xF000 | 0x4000, request & (u64::MAX >> 2) | 1 << 63);
        let number = u128::from(process) << 64 | u128::from(request);
        let mut digits = [0; 32];
        // There is room for two digits of each byte, and digits are ASCII.
        let _ = hex::encode_to_slice(number.to_be_bytes(), &mut digits);
        Self(["req_", str::from_utf8(&digits).unwrap_or_default()].concat())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id without `req_`, as a UUID is written. Upstreams get this: llama-cpp-python refuses all that is none.
    #[must_use]
    pub fn as_uuid(&self) -> String {
        let mut uuid = String::with_capacity(36);
        for group in [4..12, 12..16, 16..20, 20..24, 24..36] {
            if !uuid.is_empty() {
                uuid.push('-');
            }
            // The id has 36 bytes of ASCII.
            uuid.push_str(self.0.get(group).unwrap_or_default());
        }
        uuid
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A number that tells this process' ids from those of any other.
fn process() -> u64 {
    static PROCESS: OnceLock<u64> = OnceLock::new();
    *PROCESS.get_or_init(|| getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_have_one_form() {
        let (one, other) = (RequestId::next(), RequestId::next());
        assert_ne!(one, other);
        assert_eq!(one.as_str().len(), 36);
    }

    #[test]
    fn an_id_is_a_uuid() {
        for (process, request, expected) in [
            (0x0123_4567_89ab_cdef, 0x12_3456, "01234567-89ab-4def-8000-000000123456"),
            (u64::MAX, u64::MAX, "ffffffff-ffff-4fff-bfff-ffffffffffff"),
            (0, 0, "00000000-0000-4000-8000-000000000000"),
        ] {
            let id = RequestId::of(process, request);
            assert_eq!(id.as_uuid(), expected);
            assert_eq!(id.as_str(), format!("req_{}", expected.replace('-', "")));
        }
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(first_bytes("aé", 2), "a");
        assert_eq!(first_bytes("aé", 3), "aé");
    }
}
