//! A path that is almost one of those that are served: programs put a base URL and a path together, and get a slash or a
//! version too many or too few. The error names the path that was meant.

use super::path::{is_geminis, known};

/// What programs put before a path, once too often or where nothing belongs: versions, and the names under which
/// servers have an API beside others.
const PREFIXES: [&str; 8] = ["v1", "v1beta", "v2", "api", "openai", "anthropic", "ollama", "gemini"];

/// More segments than any served path has, with prefixes to spare: what is longer is no mistake in spelling.
const MOST_SEGMENTS: usize = 12;

/// Where the base URL of a client ends that asks for the served path `right` and writes it as `path`: `None` where the two
/// begin alike. Each family of clients puts a path of its own behind the base URL.
#[must_use]
pub fn base_url_end(path: &str, right: &str) -> Option<&'static str> {
    let segments = |path: &str| path.split('/').filter(|segment| !matches!(*segment, "" | ".")).count();
    if segments(path) == segments(right) {
        return None;
    }
    match right.trim_start_matches('/').split('/').next()? {
        "v1beta" => Some("before /v1beta"),
        "api" => Some("before /api"),
        "v1" if right.starts_with("/v1/messages") => Some("before /v1"),
        "v1" if is_geminis(right.trim_start_matches("/v1/")) => Some("before /v1"),
        "v1" => Some("in /v1"),
        _ => None,
    }
}

/// The served path of which `path` is another spelling, and the method that it is asked with. Its slashes, capitals and
/// versions may differ.
#[must_use]
pub fn right_spelling(path: &str) -> Option<(&'static str, String)> {
    let segments: Vec<&str> =
        path.split('/').filter(|segment| !matches!(*segment, "" | ".")).take(MOST_SEGMENTS + 1).collect();
    if segments.len() > MOST_SEGMENTS {
        return None;
    }
    let found = served(&segments).or_else(|| served_in_lower_case(&segments))?;
    (found.1 != path).then_some(found)
}

/// The same where names have no capitals; those of models and of Gemini's methods may.
fn served_in_lower_case(segments: &[&str]) -> Option<(&'static str, String)> {
    let lower: Vec<String> = segments.iter().map(|segment| segment.to_ascii_lowercase()).collect();
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
    let is_of_models = |segments: &[&str]| segments.iter().rev().skip(1).any(|segment| *segment == "models");
    served(&lower).filter(|_| !is_of_models(&lower))
}

/// The served path that these segments are, without some of the prefixes or with one more.
fn served(segments: &[&str]) -> Option<(&'static str, String)> {
    let prefixes = segments.iter().take_while(|segment| PREFIXES.contains(segment)).count();
    let parts = |from: usize| segments.get(from..).unwrap_or_default().join("/");
    let shorter = (0..=prefixes).map(|from| format!("/{}", parts(from)));
    let rest = parts(prefixes);
    // Nothing that is said to be of one API is taken for a path of another.
    let families: &[&str] = match prefixes.checked_sub(1).and_then(|last| segments.get(last)) {
        None => &["v1", "api", "v1beta"],
        Some(&"ollama") => &["api", "v1"],
        Some(_) => &["v1"],
    };
    let longer = families.iter().map(|family| format!("/{family}/{rest}"));
    shorter.chain(longer).find_map(|candidate| {
        let (_, method) = known(&candidate)?;
        Some((method, candidate))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(path: &str) -> Option<String> {
        right_spelling(path).map(|(_, right)| right)
    }

    #[test]
    fn every_path_is_found_in_its_other_spellings() {
        let paths = super::super::path::ENDPOINTS.map(|(path, _)| path);
        let gemini = ["/v1beta/models/m:generateContent", "/v1/models/M:countTokens", "/v1beta/models/m"];
        let lists = ["/v1/models", "/v1beta/models", "/api/tags", "/api/version", "/v1/usage", "/v1/models/org/M"];
        for path in paths.into_iter().chain(gemini).chain(lists) {
            assert_eq!(right(path), None, "{path}");
            let mut spellings = vec![
                format!("/{path}"),
                format!("{path}/"),
                format!("{path}//"),
                path.replace('/', "//"),
                format!("/openai{path}"),
                format!("/v1{path}"),
                format!("/./{path}"),
            ];
            if !path.contains("models/") {
                spellings.push(path.to_uppercase());
            }
            for spelling in spellings.into_iter().filter(|spelling| known(spelling).is_none()) {
                assert_eq!(right(&spelling).as_deref(), Some(path), "{spelling}");
            }
        }
    }

    #[test]
    fn a_version_that_is_missing_doubled_or_wrong_is_found() {
        for (path, expected) in [
            ("/chat/completions", "/v1/chat/completions"),
            ("/v1/v1/messages", "/v1/messages"),
            ("/v1/v1/v1/messages", "/v1/messages"),
            ("/messages/count_tokens", "/v1/messages/count_tokens"),
            ("/models", "/v1/models"),
            ("/models/org/m", "/v1/models/org/m"),
            ("/v1beta/v1beta/models/m:generateContent", "/v1beta/models/m:generateContent"),
            ("/v1beta/openai/chat/completions", "/v1/chat/completions"),
            ("/api/v1/chat/completions", "/v1/chat/completions"),
            ("/api/chat/completions", "/v1/chat/completions"),
            ("/v1/api/chat", "/api/chat"),
            ("/ollama/chat", "/api/chat"),
            ("/chat", "/api/chat"),
            ("/v1/tokenize", "/tokenize"),
            ("/v2/embeddings", "/v1/embeddings"),
        ] {
            assert_eq!(right(path).as_deref(), Some(expected), "{path}");
        }
        assert_eq!(right_spelling("/responses"), Some(("POST", "/v1/responses".to_owned())));
        assert_eq!(right_spelling("//v1/models"), Some(("GET", "/v1/models".to_owned())));
    }

    #[test]
    fn what_is_no_other_spelling_has_none() {
        let long = "/v1".repeat(100) + "/messages";
        for path in [
            "",
            "/",
            "//",
            "/v1",
            "/v1/",
            "/v1/files",
            "/v1/chat",
            "/v1/messagesx",
            "/v1/messages/batches",
            "/v1/tags",
            "/v1/chat/completions/x",
            "/v1/threads/models",
            "/%2fv1/messages",
            &long,
        ] {
            assert_eq!(right(path), None, "{path}");
        }
    }
}
