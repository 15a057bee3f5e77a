//! A refusal as each API writes its errors, so that the official clients raise their own typed
//! exceptions.
//!
//! Sources: OpenAI's and Anthropic's API references (errors), Google's AIP-193 (`google.rpc.Code`),
//! Ollama's API documentation.

use http::StatusCode;
use serde_json::{Value, json};

use super::Rejection;
use crate::api::{Api, Endpoint};

impl Rejection {
    /// The body in the form of `api`.
    #[must_use]
    pub fn body(&self, api: Api, request_id: &str) -> Vec<u8> {
        self.document(api, request_id).to_string().into_bytes()
    }

    /// The event that ends a broken stream of `endpoint`.
    #[must_use]
    pub fn event(&self, endpoint: Endpoint, request_id: &str) -> Vec<u8> {
        let api = endpoint.api();
        let document = match endpoint {
            Endpoint::Responses => self.response_event(),
            _ => self.document(api, request_id),
        };
        match (api, endpoint) {
            (Api::Ollama, _) => format!("{document}\n"),
            (Api::Anthropic, _) | (_, Endpoint::Responses) => format!("event: error\ndata: {document}\n\n"),
            (Api::OpenAi | Api::Gemini, _) => format!("data: {document}\n\n"),
        }
        .into_bytes()
    }

    fn document(&self, api: Api, request_id: &str) -> Value {
        let message = self.message();
        match api {
            Api::OpenAi => {
                let (kind, code) = (self.kind(), self.code().as_str());
                json!({"error": {"message": message, "type": kind, "param": self.parameter(), "code": code}})
            }
            Api::Anthropic => json!({
                "type": "error",
                "error": {"type": self.anthropic_type(), "message": message},
                "request_id": request_id,
            }),
            Api::Gemini => {
                let status = self.status();
                json!({"error": {"code": status.as_u16(), "message": message, "status": google_status(status)}})
            }
            Api::Ollama => json!({"error": message}),
        }
    }

    /// A stream of responses has an error event of its own form.
    fn response_event(&self) -> Value {
        json!({"type": "error", "code": self.code().as_str(), "message": self.message(), "param": self.parameter()})
    }

    /// Anthropic's `type`.
    fn anthropic_type(&self) -> &'static str {
        match self {
            Self::InvalidKey | Self::KeyDisabled(_) | Self::KeyExpired(_) | Self::KeyArchived(_) => {
                "authentication_error"
            }
            Self::ModelNotFound { .. } | Self::UnknownUrl { .. } => "not_found_error",
            Self::AddressNotAllowed(_) => "permission_error",
            Self::NoBalance(_) => "billing_error",
            Self::OverLimit(_)
            | Self::PromptTooLarge { .. }
            | Self::AnswerTooLarge { .. }
            | Self::AnswerOverModel { .. }
            | Self::Throttled => "rate_limit_error",
            Self::BodyTooLarge { .. } => "request_too_large",
            Self::InvalidBody(_)
            | Self::AmbiguousFraming
            | Self::BodyCut
            | Self::BodyTimeout(_)
            | Self::UnsupportedEncoding
            | Self::MethodNotAllowed { .. }
            | Self::UpgradeRequired => "invalid_request_error",
            Self::Overloaded
            | Self::QueueFull { .. }
            | Self::UpstreamUnavailable { .. }
            | Self::LedgerUnavailable
            | Self::LimitsUnavailable
            | Self::ShuttingDown => "overloaded_error",
            Self::UpstreamTimeout { .. } => "timeout_error",
            Self::SourceUnavailable | Self::Upstream { .. } | Self::UpstreamCredential { .. } => "api_error",
        }
    }
}

/// The name of Google's canonical code that stands for an HTTP status (AIP-193).
fn google_status(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "UNAUTHENTICATED",
        StatusCode::FORBIDDEN => "PERMISSION_DENIED",
        StatusCode::NOT_FOUND => "NOT_FOUND",
        StatusCode::TOO_MANY_REQUESTS => "RESOURCE_EXHAUSTED",
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => "DEADLINE_EXCEEDED",
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => "UNAVAILABLE",
        StatusCode::METHOD_NOT_ALLOWED => "UNIMPLEMENTED",
        _ => "INVALID_ARGUMENT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn a_body_has_all_four_fields_in_openais_form() {
        let body = read(&Rejection::InvalidKey.body(Api::OpenAi, "req_1"));
        assert_eq!(body["error"]["code"], "invalid_api_key");
        assert_eq!(body["error"]["type"], "invalid_request_error");
        assert!(body["error"]["param"].is_null());
        assert!(body["error"]["message"].is_string());
        assert_eq!(body["error"].as_object().unwrap().len(), 4);
    }

    #[test]
    fn each_api_has_its_own_form() {
        let rejection = Rejection::KeyExpired("key_a".parse().unwrap());
        let message = rejection.message();
        assert_eq!(
            read(&rejection.body(Api::Anthropic, "req_1")),
            json!({"type": "error", "error": {"type": "authentication_error", "message": message}, "request_id": "req_1"})
        );
        assert_eq!(
            read(&rejection.body(Api::Gemini, "req_1")),
            json!({"error": {"code": 401, "message": message, "status": "UNAUTHENTICATED"}})
        );
        assert_eq!(read(&rejection.body(Api::Ollama, "req_1")), json!({"error": message}));
    }

    #[test]
    fn an_event_is_framed_as_its_stream_is() {
        let rejection = Rejection::Upstream { upstream: "a".to_owned() };
        for (endpoint, start, end) in [
            (Endpoint::ChatCompletions, "data: {\"error\":{", "}}\n\n"),
            (Endpoint::Responses, "event: error\ndata: {", "}\n\n"),
            (Endpoint::Messages, "event: error\ndata: {", "}\n\n"),
            (Endpoint::OllamaChat, "{\"error\":\"", "\"}\n"),
            (Endpoint::StreamGenerateContent, "data: {\"error\":{", "}}\n\n"),
        ] {
            let event = String::from_utf8(rejection.event(endpoint, "req_1")).unwrap();
            assert!(event.starts_with(start) && event.ends_with(end), "{endpoint:?}: {event}");
        }
    }

    #[test]
    fn what_a_client_wrote_is_cut() {
        let model = "é".repeat(4000);
        let rejection = Rejection::ModelNotFound { key: "key_test".parse().unwrap(), model };
        assert!(rejection.body(Api::OpenAi, "req_1").len() < 800);
    }
}
