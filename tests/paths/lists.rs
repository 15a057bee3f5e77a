//! Lists of models hold what the key may call, in the form of the API that is asked.

use super::*;

/// An upstream that lists its models as every API does, at that API's own path, and tells Ollama's version.
async fn listing() -> ScriptedUpstream {
    ScriptedUpstream::start(|request| match request.path.split('?').next().unwrap() {
        "/v1/models" => Script::json(200, &json!({"object": "list", "data": [{"id": "a-1"}, {"id": "b-1"}]})),
        "/v1beta/models" => Script::json(200, &json!({"models": [{"name": "models/g-1"}, {"name": "models/x"}]})),
        "/api/version" => Script::json(200, &json!({"version": "0.13.5"})),
        _ => Script::error(404, "invalid_request_error", "no"),
    })
    .await
}

fn with(upstreams: &[String], extra: &str) -> Gateway {
    Gateway::start(&configuration(&upstreams.join(", "), "", ""), &one_key(extra))
}

fn upstream(name: &str, server: &ScriptedUpstream, apis: &str, models: &str) -> String {
    format!("{{name: {name}, url: \"{}\", apis: [{apis}], models: [{models}]}}", server.url())
}

const EVERY: &str = "openai, anthropic, ollama, gemini";

/// What a list names, in its API's own form.
fn names(list: &Value) -> Vec<String> {
    let entries = list.get("models").or(list.get("data")).unwrap().as_array().unwrap().iter();
    let name = |entry: &Value| entry.get("id").or(entry.get("name")).unwrap().as_str().unwrap().to_owned();
    entries.map(name).collect()
}

async fn get(gateway: &Gateway, path: &str, headers: &[(&str, &str)]) -> Response {
    ask(gateway, "GET", path, headers, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_api_lists_in_its_own_form_what_the_key_may_call() {
    let server = listing().await;
    let gateway = with(&[upstream("all", &server, EVERY, "a-1, b-1, c-1")], ", models: [\"a-*\", b-1]");
    let bearer = format!("Bearer {SECRET}");
    let authorization = ("authorization", bearer.as_str());
    let anthropic = [("x-api-key", SECRET), ("anthropic-version", "2023-06-01")];
    let google = [("x-goog-api-key", SECRET)];

    let openai = get(&gateway, "/v1/models", &[authorization]).await.json();
    assert_eq!((&openai["object"], names(&openai)), (&json!("list"), vec!["a-1".to_owned(), "b-1".to_owned()]));

    let list = get(&gateway, "/v1/models?limit=20", &anthropic).await;
    assert!(list.header("request-id").is_some(), "{:?}", list.headers);
    let list = list.json();
    assert_eq!(names(&list), ["a-1", "b-1"]);
    assert_eq!((&list["has_more"], &list["first_id"], &list["last_id"]), (&json!(false), &json!("a-1"), &json!("b-1")));
    assert_eq!((&list["data"][0]["type"], &list["data"][0]["display_name"]), (&json!("model"), &json!("a-1")));
    let one = get(&gateway, "/v1/models/b-1", &anthropic).await.json();
    assert_eq!((&one["type"], &one["id"]), (&json!("model"), &json!("b-1")));

    let by_query = format!("/v1/models?pageSize=5&key={SECRET}");
    for (path, headers) in [
        ("/v1beta/models", &google[..]),
        ("/v1beta/models", &[authorization]),
        ("/v1/models", &google),
        (by_query.as_str(), &[]),
    ] {
        let list = get(&gateway, path, headers).await.json();
        assert_eq!(names(&list), ["models/a-1", "models/b-1"], "{path}");
        let methods = list["models"][0]["supportedGenerationMethods"].as_array().unwrap();
        assert!(methods.contains(&json!("generateContent")), "{list}");
    }
    for path in ["/v1beta/models/a-1", "/v1/models/a-1"] {
        assert_eq!(get(&gateway, path, &google).await.json()["name"], "models/a-1", "{path}");
    }

    let tags = get(&gateway, "/api/tags", &[authorization]).await.json();
    assert_eq!((names(&tags), &tags["models"][0]["model"]), (vec!["a-1".to_owned(), "b-1".to_owned()], &json!("a-1")));
    assert!(tags["models"][0]["details"].is_object() && tags["models"][0]["size"].is_u64(), "{tags}");
    assert!(server.received().is_empty(), "literal names need nobody's list");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_keys_is_not_found_in_the_apis_own_form() {
    let server = listing().await;
    let gateway = with(&[upstream("all", &server, EVERY, "a-1, c-1")], ", models: [a-1]");
    for name in ["c-1", "nobody"] {
        let google = get(&gateway, &format!("/v1beta/models/{name}"), &[("x-goog-api-key", SECRET)]).await;
        assert_eq!((google.status, &google.json()["error"]["status"]), (404, &json!("NOT_FOUND")), "{name}");
        let headers = [("x-api-key", SECRET), ("anthropic-version", "2023-06-01")];
        let anthropic = get(&gateway, &format!("/v1/models/{name}"), &headers).await;
        assert_eq!((anthropic.status, &anthropic.json()["error"]["type"]), (404, &json!("not_found_error")), "{name}");
        let openai = get(&gateway, &format!("/v1/models/{name}"), &[("x-api-key", SECRET)]).await;
        assert_eq!((openai.status, &openai.json()["error"]["code"]), (404, &json!("model_not_found")), "{name}");
    }
    for path in ["/api/tags", "/api/version", "/v1beta/models", "/v1beta/models/a-1"] {
        assert_eq!(get(&gateway, path, &[]).await.status, 401, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apis_list_has_what_can_be_called_by_that_api() {
    let (one, other) = (listing().await, listing().await);
    let upstreams =
        [upstream("one", &one, "openai, ollama", r#""a-*", lit"#), upstream("google", &other, "gemini", r#""g-*""#)];
    let gateway = with(&upstreams, ", limits: {requests_per_minute: 1}");
    let key = [("x-api-key", SECRET)];
    assert_eq!(names(&get(&gateway, "/v1/models", &key).await.json()), ["a-1", "g-1", "lit"]);
    assert_eq!(names(&get(&gateway, "/api/tags", &key).await.json()), ["a-1", "lit"]);
    assert_eq!(names(&get(&gateway, "/v1beta/models", &key).await.json()), ["models/g-1"]);
    let anthropic = [("x-api-key", SECRET), ("anthropic-version", "2023-06-01")];
    assert!(names(&get(&gateway, "/v1/models", &anthropic).await.json()).is_empty());
    assert_eq!(other.received()[0].path, "/v1beta/models?pageSize=1000", "Gemini's own list is asked for");
    assert_eq!((one.received().len(), other.received().len()), (1, 1), "and kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropics_own_list_is_asked_for_as_it_wants_to_be() {
    let server = listing().await;
    let gateway = with(&[upstream("claude", &server, "anthropic", r#""a-*""#)], "");
    let headers = [("x-api-key", SECRET), ("anthropic-version", "2023-06-01")];
    assert_eq!(names(&get(&gateway, "/v1/models", &headers).await.json()), ["a-1"]);
    let asked = &server.received()[0];
    assert_eq!(asked.path, "/v1/models?limit=1000");
    assert!(asked.header("anthropic-version").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_is_that_of_the_ollama_behind() {
    let server = listing().await;
    let key = [("x-api-key", SECRET)];
    let gateway = with(&[upstream("a", &server, "openai", "m"), upstream("b", &server, "ollama", "m")], "");
    for _ in 0..2 {
        let version = get(&gateway, "/api/version", &key).await;
        assert_eq!((version.status, version.json()), (200, json!({"version": "0.13.5"})));
    }
    assert_eq!(server.received().len(), 1, "what it said is kept");
    let without = with(&[upstream("a", &server, "openai", "m")], "");
    let version = get(&without, "/api/version", &key).await.json();
    assert!(version["version"].as_str().unwrap().split('.').count() >= 3, "{version}");
}
