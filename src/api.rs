//! Which API a path belongs to. Every path that reaches an upstream is named here; what is
//! not named is refused, so that there is no way around admission.

use http::Method;

use crate::body::Shape;

/// The family of paths, errors and headers that a request speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Api {
    /// OpenAI's, as every inference server offers it.
    OpenAi,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Something that an upstream answers, and that is metered.
    Inference(Endpoint),
    /// The models that the key may call.
    Models,
    /// One of them.
    Model(String),
}

/// A path that an upstream answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `POST /v1/chat/completions`
    ChatCompletions,
    /// `POST /v1/completions`
    Completions,
    /// `POST /v1/embeddings`
    Embeddings,
}

/// Every endpoint with its path.
const ENDPOINTS: [(&str, Endpoint); 3] = [
    ("/v1/chat/completions", Endpoint::ChatCompletions),
    ("/v1/completions", Endpoint::Completions),
    ("/v1/embeddings", Endpoint::Embeddings),
];

const MODELS: &str = "/v1/models";

impl Endpoint {
    /// The API that the endpoint is part of.
    #[must_use]
    pub fn api(self) -> Api {
        match self {
            Self::ChatCompletions | Self::Completions | Self::Embeddings => Api::OpenAi,
        }
    }

    /// How the endpoint's request body is laid out.
    #[must_use]
    pub fn shape(self) -> Shape {
        match self {
            Self::ChatCompletions => Shape::Chat,
            Self::Completions => Shape::Completions,
            Self::Embeddings => Shape::Embeddings,
        }
    }

    /// Whether the endpoint's answer is text that costs output tokens.
    #[must_use]
    pub fn has_output(self) -> bool {
        !matches!(self, Self::Embeddings)
    }
}

/// Why a request asks for nothing that is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrecognised {
    /// No API has the path.
    Path,
    /// The path is known, under the method named here.
    Method(&'static str),
}

/// What `method` and `path` (without its query) ask for.
///
/// # Errors
/// When the path is none of an API, or the method is not the path's.
pub fn recognise(method: &Method, path: &str) -> Result<Call, Unrecognised> {
    if let Some((_, endpoint)) = ENDPOINTS.iter().find(|(known, _)| *known == path) {
        return if method == Method::POST { Ok(Call::Inference(*endpoint)) } else { Err(Unrecognised::Method("POST")) };
    }
    let call = match path.strip_prefix(MODELS) {
        Some("") => Call::Models,
        Some(rest) if rest.len() > 1 && rest.starts_with('/') => Call::Model(percent_decoded(&rest[1..])),
        _ => return Err(Unrecognised::Path),
    };
    if method == Method::GET { Ok(call) } else { Err(Unrecognised::Method("GET")) }
}

/// A path's segment as its characters (RFC 3986, section 2.1). What is no escape stays as it is.
fn percent_decoded(segment: &str) -> String {
    let mut decoded = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = (*first == b'%').then(|| escaped_byte(after)).flatten();
        let (byte, after) = escape.unwrap_or((*first, after));
        decoded.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// The byte that two hexadecimal digits at the start of `text` mean, and what follows them.
fn escaped_byte(text: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, rest) = text.split_at_checked(2)?;
    let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
    let digits = std::str::from_utf8(digits).ok().filter(|_| is_hex)?;
    Some((u8::from_str_radix(digits, 16).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_and_nothing_else() {
        for (path, endpoint) in ENDPOINTS {
            assert_eq!(recognise(&Method::POST, path), Ok(Call::Inference(endpoint)));
            assert_eq!(recognise(&Method::GET, path), Err(Unrecognised::Method("POST")));
        }
        assert_eq!(recognise(&Method::GET, "/v1/models"), Ok(Call::Models));
        assert_eq!(recognise(&Method::GET, "/v1/models/org%2Fname"), Ok(Call::Model("org/name".to_owned())));
        assert_eq!(recognise(&Method::GET, "/v1/models/org/name"), Ok(Call::Model("org/name".to_owned())));
        assert_eq!(recognise(&Method::POST, "/v1/models"), Err(Unrecognised::Method("GET")));
        for path in ["/", "/v1", "/v1/models/", "/v1/modelsx", "/v1/chat/completions/", "//v1/completions", "/v1/files"]
        {
            assert_eq!(recognise(&Method::GET, path), Err(Unrecognised::Path), "{path}");
        }
    }

    #[test]
    fn what_is_no_escape_stays() {
        for (written, meant) in [("a%2", "a%2"), ("%zz", "%zz"), ("100%", "100%"), ("%41b", "Ab")] {
            assert_eq!(percent_decoded(written), meant);
        }
    }
}
