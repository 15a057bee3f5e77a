//! A path in another spelling is a 404 that names the right one, in the form of the API that was meant.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_404_names_the_path_that_was_meant() {
    let upstream = answering("{}").await;
    let gateway = gateway(&upstream, "", "");
    for (method, path, right) in [
        ("POST", "//v1/chat/completions", "POST /v1/chat/completions"),
        ("POST", "/v1//chat/completions", "POST /v1/chat/completions"),
        ("POST", "/v1/v1/chat/completions", "POST /v1/chat/completions"),
        ("POST", "/v1/chat/completions/", "POST /v1/chat/completions"),
        ("POST", "/chat/completions", "POST /v1/chat/completions"),
        ("GET", "/chat/completions", "POST /v1/chat/completions"),
        ("POST", "/V1/Chat/Completions", "POST /v1/chat/completions"),
        ("POST", "/v1/v1/messages", "POST /v1/messages"),
        ("POST", "/messages/count_tokens", "POST /v1/messages/count_tokens"),
        ("GET", "/models", "GET /v1/models"),
        ("GET", "/v1/models/", "GET /v1/models"),
        ("GET", "/api/tags/", "GET /api/tags"),
        ("POST", "/v1/api/chat", "POST /api/chat"),
        ("POST", "/v1/tokenize", "POST /tokenize"),
        ("POST", "/v1beta/v1beta/models/m:generateContent", "POST /v1beta/models/m:generateContent"),
        ("POST", "/v1beta/models/m:generateContent/", "POST /v1beta/models/m:generateContent"),
        ("POST", "/v1/models/m:generateContent/", "POST /v1/models/m:generateContent"),
        ("GET", "//v1/usage", "GET /v1/usage"),
    ] {
        let response = ask(&gateway, method, path, &[("x-api-key", SECRET)], "").await;
        let text = response.text();
        assert_eq!(response.status, 404, "{path}: {text}");
        assert!(text.contains(&format!("there is no {method} {path}; did you mean {right}?")), "{path}: {text}");
    }
    for (path, base_url) in [
        ("/chat/completions", Some("ends in /v1")),
        ("/v1/v1/chat/completions", Some("ends in /v1")),
        ("/v1/v1/messages", Some("ends before /v1")),
        ("/v1/api/chat", Some("ends before /api")),
        ("/v1beta/v1beta/models/m:generateContent", Some("ends before /v1beta")),
        ("/v1/v1/models/m:generateContent", Some("ends before /v1")),
        ("/v1/chat/completions/", None),
        ("//v1/chat/completions", None),
    ] {
        let text = ask(&gateway, "POST", path, &[("x-api-key", SECRET)], "").await.text();
        let said = base_url.map(|end| format!(" The client's base URL {end}"));
        assert_eq!(said.as_ref().is_some_and(|said| text.contains(said)), said.is_some(), "{path}: {text}");
        assert_eq!(text.contains("base URL"), said.is_some(), "{path}: {text}");
    }
    for path in ["/v1/files", "/", "/v1/chat", "/v1/models/m:predict"] {
        let response = ask(&gateway, "POST", path, &[("x-api-key", SECRET)], "").await;
        let text = response.text();
        assert!(response.status == 404 && !text.contains("did you mean"), "{path}: {text}");
    }
    assert!(upstream.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_form_is_that_of_the_api_that_was_meant() {
    let upstream = answering("{}").await;
    let gateway = gateway(&upstream, "", "");
    let key = [("x-api-key", SECRET)];
    let anthropic = ask(&gateway, "POST", "/v1/v1/messages", &key, "").await;
    assert_eq!(anthropic.json()["error"]["type"], "not_found_error", "{}", anthropic.text());
    assert!(anthropic.header("request-id").is_some());
    let ollama = ask(&gateway, "POST", "/api/chat/", &key, "").await.json();
    assert!(ollama["error"].is_string(), "{ollama}");
    let by_query = format!("/v1beta/models/m:generateContent/?key={SECRET}");
    let gemini = ask(&gateway, "POST", &by_query, &[], "").await;
    assert_eq!((gemini.status, &gemini.json()["error"]["status"]), (404, &json!("NOT_FOUND")));
    assert!(!gemini.text().contains(SECRET));
    assert_eq!(ask(&gateway, "POST", "/v1/v1/messages", &[], "").await.status, 401, "strangers are told nothing");
}
