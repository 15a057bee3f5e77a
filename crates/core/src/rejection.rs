//! Every reason for which a request is refused, with its answer: a status, a type and a code for programs, and a sentence
//! that says what to do. No secret appears in an answer.

mod code;
mod form;
mod limits;

use std::{borrow::Cow, time::Duration};

use http::StatusCode;

use self::limits::seconds;
pub use self::{
    code::{ErrorCode, Refused},
    limits::{OverLimit, ReachedLimit, TokenLimit, Wanted},
};

use crate::{
    api::{base_url_end, right_spelling},
    body::BodyError,
    key::{KeyDenial, KeyId},
    limit::{LimitKind, QuotaUnit, Scope},
};

/// Why a request is not answered by an upstream.
#[derive(Clone, Debug, PartialEq)]
pub enum Rejection {
    /// No key, a malformed, unknown, deleted or replaced one: they all look alike.
    InvalidKey,
    /// Somebody switched the key off.
    KeyDisabled(KeyId),
    /// The key's time is over.
    KeyExpired(KeyId),
    /// The key is archived.
    KeyArchived(KeyId),
    /// The key's wallet is used up.
    NoBalance(KeyId),
    /// No upstream serves the model, or the key may not call it.
    ModelNotFound {
        /// The key that asked.
        key: KeyId,
        /// The model as the client wrote it.
        model: String,
    },
    /// The key is not used from this address.
    AddressNotAllowed(KeyId),
    /// One of the limits that concern the request is reached.
    OverLimit(Box<OverLimit>),
    /// The prompt alone is certainly over a limit of tokens.
    PromptTooLarge {
        /// Tokens that the prompt has at least.
        least: u64,
        /// The limit.
        limit: Box<TokenLimit>,
    },
    /// The prompt and the shortest answer that its API lets the request be held to are certainly over that.
    AnswerTooLarge {
        /// The shortest answer, in tokens.
        answer: u64,
        /// Tokens that the request takes at least.
        least: u64,
        /// The limit.
        limit: Box<TokenLimit>,
    },
    /// The shortest answer that its API lets the request be held to is longer than the model may answer.
    AnswerOverModel {
        /// The shortest answer, in tokens.
        answer: u64,
        /// The longest, in tokens.
        most: u64,
    },
    /// The address sent too many bad keys.
    Throttled,
    /// The body cannot be read in one way only.
    InvalidBody(BodyError),
    /// The request's framing can be read in two ways.
    AmbiguousFraming,
    /// The body broke off.
    BodyCut,
    /// The body did not arrive in time.
    BodyTimeout(Duration),
    /// The body is longer than is taken.
    BodyTooLarge {
        /// Bytes.
        max: u64,
    },
    /// The body is compressed in a way that nobody here undoes, or in several.
    UnsupportedEncoding,
    /// The path is none of an API.
    UnknownUrl {
        /// As the client wrote it.
        method: String,
        /// As the client wrote it.
        path: String,
    },
    /// The path is asked with another method.
    MethodNotAllowed {
        /// The one method that it has.
        allowed: &'static str,
    },
    /// A websocket is asked for.
    UpgradeRequired,
    /// The key source cannot answer.
    SourceUnavailable,
    /// Too many bodies are held at once.
    Overloaded,
    /// There is no room for the request's record.
    LedgerUnavailable,
    /// Those who count with us cannot be asked.
    LimitsUnavailable,
    /// The process is stopping.
    ShuttingDown,
    /// No replica of any upstream that serves the model may be asked.
    UpstreamUnavailable {
        /// The configured name of the last one that was tried.
        upstream: String,
    },
    /// All replicas are busy, and the request could not wait, or not for so long.
    QueueFull {
        /// The configured name of the upstream.
        upstream: String,
        /// When there is probably a place.
        retry_after: Duration,
    },
    /// The upstream is unreachable, or broke off.
    Upstream {
        /// Its configured name.
        upstream: String,
    },
    /// The upstream refused our credential for it.
    UpstreamCredential {
        /// Its configured name.
        upstream: String,
    },
    /// The upstream is too slow.
    UpstreamTimeout {
        /// Its configured name.
        upstream: String,
    },
}

const MINUTE: Duration = Duration::from_mins(1);

impl Rejection {
    /// Why the key of `id` may not be used.
    #[must_use]
    pub fn of_bar(bar: KeyDenial, id: KeyId) -> Self {
        match bar {
            KeyDenial::Unknown => Self::InvalidKey,
            KeyDenial::Disabled => Self::KeyDisabled(id),
            KeyDenial::Archived => Self::KeyArchived(id),
            KeyDenial::NoBalance => Self::NoBalance(id),
            KeyDenial::Expired => Self::KeyExpired(id),
        }
    }

    /// The response's status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::InvalidKey | Self::KeyDisabled(_) | Self::KeyExpired(_) | Self::KeyArchived(_) => {
                StatusCode::UNAUTHORIZED
            }
            Self::ModelNotFound { .. } | Self::UnknownUrl { .. } => StatusCode::NOT_FOUND,
            Self::AddressNotAllowed(_) => StatusCode::FORBIDDEN,
            Self::NoBalance(_)
            | Self::OverLimit(_)
            | Self::PromptTooLarge { .. }
            | Self::AnswerTooLarge { .. }
            | Self::AnswerOverModel { .. }
            | Self::Throttled => StatusCode::TOO_MANY_REQUESTS,
            Self::InvalidBody(_) | Self::AmbiguousFraming | Self::BodyCut => StatusCode::BAD_REQUEST,
            Self::BodyTimeout(_) => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::UpgradeRequired => StatusCode::UPGRADE_REQUIRED,
            Self::SourceUnavailable
            | Self::Overloaded
            | Self::LedgerUnavailable
            | Self::LimitsUnavailable
            | Self::UpstreamUnavailable { .. }
            | Self::QueueFull { .. }
            | Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            Self::Upstream { .. } | Self::UpstreamCredential { .. } => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// OpenAI's `type`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoBalance(_) => "insufficient_quota",
            Self::AddressNotAllowed(_) => "permission_error",
            Self::OverLimit(over) => match over.refusal.over {
                LimitKind::Tokens => "tokens",
                LimitKind::Requests | LimitKind::Concurrency => "requests",
                LimitKind::Quota(_) => "insufficient_quota",
            },
            Self::PromptTooLarge { .. } | Self::AnswerTooLarge { .. } | Self::AnswerOverModel { .. } => "tokens",
            Self::Throttled => "requests",
            _ if self.status().is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// OpenAI's `code`. It is also the `reason` of the access log.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::InvalidKey => ErrorCode::InvalidApiKey,
            Self::KeyDisabled(_) => ErrorCode::ApiKeyDisabled,
            Self::KeyExpired(_) => ErrorCode::ApiKeyExpired,
            Self::KeyArchived(_) => ErrorCode::ApiKeyArchived,
            Self::NoBalance(_) => ErrorCode::InsufficientQuota,
            Self::ModelNotFound { .. } => ErrorCode::ModelNotFound,
            Self::AddressNotAllowed(_) => ErrorCode::AddressNotAllowed,
            Self::OverLimit(over) if matches!(over.refusal.over, LimitKind::Quota(_)) => ErrorCode::InsufficientQuota,
            Self::OverLimit(_) | Self::Throttled => ErrorCode::RateLimitExceeded,
            Self::PromptTooLarge { .. }
            | Self::AnswerTooLarge { .. }
            | Self::AnswerOverModel { .. }
            | Self::BodyTooLarge { .. } => ErrorCode::RequestTooLarge,
            Self::InvalidBody(BodyError::Background { .. }) => ErrorCode::UnsupportedParameter,
            Self::InvalidBody(_) => ErrorCode::InvalidJson,
            Self::AmbiguousFraming | Self::BodyCut => ErrorCode::InvalidRequest,
            Self::BodyTimeout(_) => ErrorCode::RequestTimeout,
            Self::UnsupportedEncoding => ErrorCode::UnsupportedEncoding,
            Self::UnknownUrl { .. } => ErrorCode::UnknownUrl,
            Self::MethodNotAllowed { .. } => ErrorCode::MethodNotAllowed,
            Self::UpgradeRequired => ErrorCode::UpgradeRequired,
            Self::SourceUnavailable => ErrorCode::KeySourceUnavailable,
            Self::Overloaded | Self::QueueFull { .. } => ErrorCode::Overloaded,
            Self::UpstreamUnavailable { .. } => ErrorCode::UpstreamUnavailable,
            Self::LedgerUnavailable => ErrorCode::LedgerUnavailable,
            Self::LimitsUnavailable => ErrorCode::LimitsUnavailable,
            Self::ShuttingDown => ErrorCode::ShuttingDown,
            Self::Upstream { .. } | Self::UpstreamCredential { .. } => ErrorCode::UpstreamError,
            Self::UpstreamTimeout { .. } => ErrorCode::UpstreamTimeout,
        }
    }

    /// The parameter of the request that is at fault, where it is one.
    fn parameter(&self) -> Option<&'static str> {
        match self {
            Self::ModelNotFound { .. } => Some("model"),
            Self::InvalidBody(error) => error.field(),
            _ => None,
        }
    }

    /// What the sender is told.
    #[must_use]
    pub fn message(&self) -> Cow<'static, str> {
        match self {
            Self::InvalidKey => {
                "the API key is missing or not valid; send a valid one as `Authorization: Bearer sk-…`".into()
            }
            Self::KeyDisabled(key) => format!("the API key {key} is disabled; ask its owner to enable it").into(),
            Self::KeyExpired(key) => format!("the API key {key} has expired; ask its owner for a new one").into(),
            Self::KeyArchived(key) => {
                format!("the API key {key} is archived while its owner is on a team; use a key of the team").into()
            }
            Self::NoBalance(key) => format!("the balance that the API key {key} draws on is used up; add credit").into(),
            Self::ModelNotFound { key, model } if model.is_empty() => {
                format!("the request names no model; GET /v1/models lists those that the API key {key} may call").into()
            }
            Self::ModelNotFound { key, model } => format!(
                "the model `{}` does not exist or the API key {key} may not call it; GET /v1/models lists those it may",
                shortened(model)
            )
            .into(),
            Self::AddressNotAllowed(key) => format!(
                "the API key {key} may not be used from this address; ask its owner which addresses it allows"
            )
            .into(),
            Self::OverLimit(over) => over.message().into(),
            Self::PromptTooLarge { least, limit } => {
                format!("the prompt has at least {least} tokens and {limit}; send a shorter one").into()
            }
            Self::AnswerTooLarge { answer, least, limit } => format!(
                "the request's answer cannot be held to less than {answer} tokens, with which it takes at least {least}, and {limit}; lower its thinking budget or its minimum"
            )
            .into(),
            Self::AnswerOverModel { answer, most } => format!(
                "the request's answer cannot be held to less than {answer} tokens and the model answers with {most} at most; lower its thinking budget or its minimum"
            )
            .into(),
            Self::Throttled => "too many requests with bad API keys from this address; retry in 1 s with a valid one".into(),
            Self::InvalidBody(error) => format!("the request body cannot be used: {error}").into(),
            Self::AmbiguousFraming => {
                "the request states both content-length and transfer-encoding; state one of them".into()
            }
            Self::BodyCut => "the request body broke off; send it again".into(),
            Self::BodyTimeout(limit) => format!(
                "the request body did not arrive within {}; send it faster or smaller",
                seconds(*limit)
            )
            .into(),
            Self::BodyTooLarge { max } => {
                format!("the request body is over {max} bytes, the most that is taken; send a smaller one").into()
            }
            Self::UnsupportedEncoding => {
                "the request's content-encoding is not supported; send the body with one of gzip, deflate, br and zstd, or without it".into()
            }
            Self::UnknownUrl { method, path } => unknown_url(method, path).into(),
            Self::MethodNotAllowed { allowed } => format!("this path is asked with {allowed} only").into(),
            Self::UpgradeRequired => {
                "websockets are not served here; send the request by HTTP, and read its events as they stream".into()
            }
            Self::SourceUnavailable => "the API key cannot be checked at the moment; retry shortly".into(),
            Self::Overloaded => "too many large requests are being received at once; retry shortly".into(),
            Self::LedgerUnavailable => "usage cannot be recorded at the moment; retry shortly".into(),
            Self::LimitsUnavailable => "the API key's limits cannot be checked at the moment; retry shortly".into(),
            Self::ShuttingDown => "the server is shutting down; retry, and another will answer".into(),
            Self::UpstreamUnavailable { upstream } => {
                format!("no replica of the upstream {upstream} is up; retry shortly").into()
            }
            Self::QueueFull { upstream, retry_after } => format!(
                "all replicas of the upstream {upstream} are busy, and too many requests wait; retry in {}",
                seconds(*retry_after)
            )
            .into(),
            Self::Upstream { upstream } => {
                format!("the upstream {upstream} is unreachable or broke off; retry shortly").into()
            }
            Self::UpstreamCredential { upstream } => format!(
                "the upstream {upstream} refused the gateway's own credential; tell whoever runs the gateway"
            )
            .into(),
            Self::UpstreamTimeout { upstream } => format!("the upstream {upstream} did not answer in time; retry").into(),
        }
    }

    /// How long to wait before a retry has a chance, where waiting helps.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::OverLimit(over) => Some(over.refusal.retry_after),
            Self::QueueFull { retry_after, .. } => Some(*retry_after),
            Self::Throttled
            | Self::UpstreamUnavailable { .. }
            | Self::Overloaded
            | Self::LedgerUnavailable
            | Self::LimitsUnavailable
            | Self::ShuttingDown
            | Self::SourceUnavailable => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// Whether clients that retry by themselves had better not: because waiting does not
    /// help, or takes longer than a minute.
    #[must_use]
    pub fn forbids_retry(&self) -> bool {
        self.status() == StatusCode::TOO_MANY_REQUESTS && self.retry_after().is_none_or(|wait| wait > MINUTE)
    }

    /// Whether it is not known where the request ends: whatever follows on its connection could be a part of it.
    #[must_use]
    pub fn loses_the_end(&self) -> bool {
        matches!(self, Self::AmbiguousFraming | Self::BodyCut | Self::BodyTimeout(_))
    }

    /// The reason under which a known key's refusal is counted.
    #[must_use]
    pub fn refused(&self) -> Option<Refused> {
        match self {
            Self::KeyDisabled(_) => Some(Refused::Disabled),
            Self::KeyExpired(_) => Some(Refused::Expired),
            Self::KeyArchived(_) => Some(Refused::Archived),
            Self::NoBalance(_) => Some(Refused::Balance),
            Self::ModelNotFound { .. } => Some(Refused::Model),
            Self::PromptTooLarge { .. } | Self::AnswerTooLarge { .. } | Self::AnswerOverModel { .. } => {
                Some(Refused::Tokens)
            }
            Self::AddressNotAllowed(_) => Some(Refused::Address),
            Self::OverLimit(over) => Some(over.refusal.over.into()),
            _ => None,
        }
    }

    /// The limit that refuses, where one does.
    #[must_use]
    pub fn reached_limit(&self) -> Option<ReachedLimit<'_>> {
        match self {
            Self::OverLimit(over) => Some(over.reached()),
            Self::PromptTooLarge { limit, .. } | Self::AnswerTooLarge { limit, .. } => Some(limit.reached()),
            _ => None,
        }
    }

    /// Whose limit refuses, where one does.
    #[must_use]
    pub fn scope(&self) -> Option<Scope> {
        match self {
            Self::OverLimit(over) => Some(over.refusal.scope),
            Self::PromptTooLarge { limit, .. } | Self::AnswerTooLarge { limit, .. } => Some(limit.scope),
            _ => None,
        }
    }
}

impl From<LimitKind> for Refused {
    fn from(over: LimitKind) -> Self {
        match over {
            LimitKind::Requests => Self::Requests,
            LimitKind::Tokens => Self::Tokens,
            LimitKind::Concurrency => Self::Concurrency,
            LimitKind::Quota(name) => match name.unit {
                QuotaUnit::Requests => Self::RequestsQuota,
                QuotaUnit::Tokens => Self::TokensQuota,
                QuotaUnit::OutputTokens => Self::OutputTokensQuota,
                QuotaUnit::Usd => Self::UsdQuota,
            },
        }
    }
}

/// A path that is nearly one that is served is told from others, which no hint would help.
fn unknown_url(method: &str, path: &str) -> String {
    let asked = shortened(path);
    match right_spelling(path) {
        Some((right_method, right)) => {
            let base_url = base_url_end(path, &right).map(|end| format!(" The client's base URL ends {end}"));
            let base_url = base_url.unwrap_or_default();
            format!("there is no {method} {asked}; did you mean {right_method} {}?{base_url}", shortened(&right))
        }
        None => format!("there is no {method} {asked}; see the documentation for the paths that are served"),
    }
}

/// What a client wrote, cut where it would swell a message.
fn shortened(text: &str) -> &str {
    text.char_indices().nth(128).map_or(text, |(end, _)| text.get(..end).unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Refusal;

    fn over(over: LimitKind, retry_after: Duration) -> Rejection {
        let (scope, models) = (Scope::Key, None);
        let refusal = Refusal { over, scope, models, limit: 10, used: 10, retry_after, reset: retry_after };
        Rejection::OverLimit(Box::new(OverLimit {
            key: "key_test".parse().unwrap(),
            scope_id: None,
            refusal,
            wanted: None,
        }))
    }

    #[test]
    fn only_a_wait_of_at_most_a_minute_invites_a_retry() {
        assert!(!over(LimitKind::Requests, Duration::from_mins(1)).forbids_retry());
        assert!(over(LimitKind::Tokens, Duration::from_millis(60_001)).forbids_retry());
        assert!(Rejection::NoBalance("key_test".parse().unwrap()).forbids_retry());
        assert!(!Rejection::InvalidKey.forbids_retry(), "only 429s are retried by clients");
    }

    #[test]
    fn the_message_names_the_key_the_limit_and_the_wait() {
        assert_eq!(
            over(LimitKind::Requests, Duration::from_millis(1500)).message(),
            "the API key key_test made 10 of the 10 requests that it may make in 60 s; retry in 1.500 s (all of them are free in 1.500 s)"
        );
    }
}
