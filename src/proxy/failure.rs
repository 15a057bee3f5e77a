//! What the process log says of a request that its upstream failed: one line of ours for each attempt, with whose server, what and
//! which request. Of those that go elsewhere and of those that fail the log's filter writes the first ten within a second, and counts
//! the rest.

use std::fmt;

use pingora::prelude::Error;

use crate::{
    admission::RequestId,
    upstream::{Pool, Replica, in_words},
};

/// Logs an attempt that failed, and whether the request goes elsewhere.
pub(super) fn log_attempt(
    (pool, replica): (&Pool, &Replica),
    request: &RequestId,
    error: &Error,
    goes_elsewhere: bool,
) {
    let line = Line { pool, replica, request, what: in_words(error), goes_elsewhere };
    if goes_elsewhere {
        tracing::warn!("{line}");
    } else {
        tracing::error!("{line}");
    }
}

/// Logs a request that failed before a replica was asked.
pub(super) fn log_request(upstream: &str, request: &RequestId, error: &Error) {
    tracing::error!("upstream {upstream}: {}, {}", in_words(error), request.as_str());
}

struct Line<'request> {
    pool: &'request Pool,
    replica: &'request Replica,
    request: &'request RequestId,
    what: String,
    goes_elsewhere: bool,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pool, replica, request, what, goes_elsewhere } = self;
        let url = &replica.config.url;
        let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.to_string() };
        let address = replica.address.map_or_else(|| format!("{host}:{}", url.port), |address| address.to_string());
        write!(formatter, "upstream {}: {what} (", pool.name)?;
        if *replica.name != *address {
            write!(formatter, "{}, ", replica.name)?;
        }
        write!(formatter, "{address}), {}", request.as_str())?;
        if *goes_elsewhere { formatter.write_str("; the request goes elsewhere") } else { Ok(()) }
    }
}
