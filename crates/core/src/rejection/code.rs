//! The codes of refusals, for programs and for metrics.

use crate::words;

words! {
    /// What a client is told of why it has no response: the `code` of OpenAI's form of an error.
    ErrorCode {
        /// No key, or none that is valid.
        InvalidApiKey = "invalid_api_key",
        /// The key is disabled.
        ApiKeyDisabled = "api_key_disabled",
        /// The key's time is over.
        ApiKeyExpired = "api_key_expired",
        /// The key is archived.
        ApiKeyArchived = "api_key_archived",
        /// The balance, or a quota, is used up.
        InsufficientQuota = "insufficient_quota",
        /// The key is not used from this address.
        AddressNotAllowed = "address_not_allowed",
        /// The model is unknown, or not the key's.
        ModelNotFound = "model_not_found",
        /// A limit is reached.
        RateLimitExceeded = "rate_limit_exceeded",
        /// The prompt or the body is too large for good.
        RequestTooLarge = "request_too_large",
        /// The body is no JSON that can be read in one way only.
        InvalidJson = "invalid_json",
        /// A parameter asks for something that is not offered.
        UnsupportedParameter = "unsupported_parameter",
        /// The request's framing is at fault.
        InvalidRequest = "invalid_request",
        /// The body is too slow.
        RequestTimeout = "request_timeout",
        /// The body is compressed in another way than those that are undone.
        UnsupportedEncoding = "unsupported_encoding",
        /// The path is none that is served.
        UnknownUrl = "unknown_url",
        /// The path has another method.
        MethodNotAllowed = "method_not_allowed",
        /// A websocket is asked for.
        UpgradeRequired = "upgrade_required",
        /// The key source cannot answer.
        KeySourceUnavailable = "key_source_unavailable",
        /// Too many bodies are held.
        Overloaded = "overloaded",
        /// The request cannot be recorded.
        LedgerUnavailable = "ledger_unavailable",
        /// Those who share the limits cannot be asked.
        LimitsUnavailable = "limits_unavailable",
        /// The process stops.
        ShuttingDown = "shutting_down",
        /// No replica may be asked.
        UpstreamUnavailable = "upstream_unavailable",
        /// The upstream is unreachable, broke off, or refused our credential.
        UpstreamError = "upstream_error",
        /// The upstream is too slow.
        UpstreamTimeout = "upstream_timeout",
    }
}

words! {
    /// Why a known key was refused.
    Refused {
        /// Too many requests a minute.
        Requests = "requests_per_minute",
        /// Too many tokens a minute.
        Tokens = "tokens_per_minute",
        /// Too many requests at once.
        Concurrency = "concurrent_requests",
        /// The key is disabled.
        Disabled = "disabled",
        /// The key's time is over.
        Expired = "expired",
        /// The key is archived.
        Archived = "archived",
        /// The model is unknown, or not the key's.
        Model = "model",
        /// The wallet is used up.
        Balance = "balance",
        /// A quota of requests is used up.
        RequestsQuota = "requests_quota",
        /// A quota of tokens.
        TokensQuota = "tokens_quota",
        /// A quota of tokens of output.
        OutputTokensQuota = "output_tokens_quota",
        /// A quota of money.
        UsdQuota = "usd_quota",
        /// The key is not used from this address.
        Address = "address",
    }
}
