//! `GET /v1/models` tells a key what it may call, and the first upstream that serves a model gets its requests.

use keymeter_core::key::Secret;
use serde_json::{Value, json};

use crate::support::{
    client::Client,
    gateway::{Gateway, SECRET, one_key},
    scene::{chat, configuration, escaped, get},
    script::{Script, completion},
    upstream::ScriptedUpstream,
};

/// An inference server that has these models.
async fn with_models(models: &'static [&'static str]) -> ScriptedUpstream {
    ScriptedUpstream::start(move |request| match request.method.as_str() {
        "GET" => {
            let data: Vec<_> =
                models.iter().map(|id| json!({"id": id, "object": "model", "created": 1, "owned_by": "x"})).collect();
            Script::json(200, &json!({"object": "list", "data": data}))
        }
        _ => Script::json(200, &completion("m", 1)),
    })
    .await
}

fn entry(name: &str, url: &str, rest: &str) -> String {
    format!(r#"{{name: {name}, url: "{url}", {rest}}}"#)
}

/// A gateway with these upstreams and one key, to whose record `extra` adds.
fn gateway(upstreams: &[String], extra: &str) -> Gateway {
    Gateway::start(&configuration(&upstreams.join(", "), "", ""), &one_key(extra))
}

/// The ids that the key is told, in their order.
async fn ids(client: &mut Client, secret: &str) -> Vec<String> {
    let response = get(client, "/v1/models", secret).await;
    assert_eq!((response.status, response.header("content-type")), (200, Some("application/json")));
    assert!(response.header("x-request-id").unwrap().starts_with("req_"));
    let list = response.json();
    assert_eq!(list["object"], "list");
    let models = list["data"].as_array().unwrap();
    assert!(models.iter().all(is_model), "{list}");
    models.iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

/// Whether a value has what clients require of a model.
fn is_model(value: &Value) -> bool {
    value["id"].is_string() && value["object"] == "model" && value["created"].is_u64() && value["owned_by"].is_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn literal_names_are_listed_without_asking_anybody() {
    let upstream = with_models(&["surprise"]).await;
    let gateway = gateway(&[entry("one", &upstream.url(), "models: [qwen3, llama-3]")], "");
    assert_eq!(ids(&mut gateway.connect().await, SECRET).await, ["llama-3", "qwen3"]);
    assert!(upstream.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn globs_are_filled_by_the_upstream_which_is_asked_once() {
    let upstream = with_models(&["llama-3-8b", "llama-3-70b", "llama-2", "whisper", "qwen3"]).await;
    let rest = r#"models: ["llama-3*", qwen3, always], api_key: sk-upstream"#;
    let gateway = gateway(&[entry("one", &upstream.url(), rest)], "");
    let mut client = gateway.connect().await;
    for _ in 0..3 {
        assert_eq!(ids(&mut client, SECRET).await, ["always", "llama-3-70b", "llama-3-8b", "qwen3"]);
        assert_eq!(get(&mut client, "/v1/models/llama-3-8b", SECRET).await.status, 200);
    }
    let asked = upstream.received();
    assert_eq!(asked.len(), 1, "what it answered is kept");
    assert_eq!((asked[0].method.as_str(), asked[0].path.as_str()), ("GET", "/v1/models"));
    assert_eq!(asked[0].header("authorization"), Some("Bearer sk-upstream"), "our credential, not the client's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_told_only_what_it_may_call() {
    let upstream = with_models(&["llama-3-8b", "qwen3"]).await;
    let keys = format!(
        "{}  - {{id: key_few, name: Few models, hash: \"{}\", models: [\"llama-*\", fixed]}}\n",
        one_key(""),
        Secret::new("sk-few").hash()
    );
    let upstreams = entry("one", &upstream.url(), r#"models: ["*", fixed, other]"#);
    let gateway = Gateway::start(&configuration(&upstreams, "", ""), &keys);
    let mut client = gateway.connect().await;
    assert_eq!(ids(&mut client, SECRET).await, ["fixed", "llama-3-8b", "other", "qwen3"]);
    assert_eq!(ids(&mut client, "sk-few").await, ["fixed", "llama-3-8b"]);
    for (secret, status) in [(SECRET, 200), ("sk-few", 404)] {
        assert_eq!(get(&mut client, "/v1/models/qwen3", secret).await.status, status, "{secret}");
    }
    assert_eq!(get(&mut client, "/v1/models", "sk-nobody").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_model_is_shown_by_its_id_however_that_is_written() {
    let upstream = with_models(&["org/llama", "a b", "x:latest"]).await;
    let gateway = gateway(&[entry("one", &upstream.url(), r#"models: ["*"]"#)], "");
    let mut client = gateway.connect().await;
    for (path, id) in [
        ("org/llama", "org/llama"),
        ("org%2Fllama", "org/llama"),
        ("org%2fllama", "org/llama"),
        ("a%20b", "a b"),
        ("x:latest", "x:latest"),
        ("x%3Alatest?limit=1", "x:latest"),
    ] {
        let response = get(&mut client, &format!("/v1/models/{path}"), SECRET).await;
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        let model = response.json();
        assert!(is_model(&model) && model["id"] == id, "{path}: {model}");
        assert!(response.header("x-request-id").is_some(), "{path}");
    }
    for path in ["nobody", "org", "org%252Fllama", "%", "..%2f"] {
        let response = get(&mut client, &format!("/v1/models/{path}"), SECRET).await;
        let error = &response.json()["error"];
        assert_eq!((response.status, &error["code"]), (404, &"model_not_found".into()), "{path}: {error}");
        assert_eq!((&error["type"], &error["param"]), (&"invalid_request_error".into(), &"model".into()), "{path}");
        assert!(error["message"].as_str().unwrap().contains("key_test"), "{path}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_takes_no_request_from_the_limit() {
    let upstream = with_models(&["m"]).await;
    let limits = ", limits: {requests_per_minute: 1, tokens_per_minute: 2000, concurrent_requests: 1}";
    let gateway = gateway(&[entry("one", &upstream.url(), r#"models: ["*"]"#)], limits);
    let mut client = gateway.connect().await;
    for path in ["/v1/models", "/v1/models", "/v1/models/m", "/v1/models/none"] {
        let response = get(&mut client, path, SECRET).await;
        let left = |kind: &str| response.header(&format!("x-ratelimit-remaining-{kind}")).map(str::to_owned);
        assert_eq!((left("requests").as_deref(), left("tokens").as_deref()), (Some("1"), Some("2000")), "{path}");
    }
    assert_eq!(client.chat(SECRET, &chat("m", "", false)).await.status, 200);
    assert_eq!(client.chat(SECRET, &chat("m", "", false)).await.status, 429);
    assert_eq!(get(&mut client, "/v1/models", SECRET).await.status, 200, "nor does it need one");
}

#[tokio::test(flavor = "multi_thread")]
async fn literal_names_are_listed_though_the_upstream_cannot_list() {
    for (name, script) in [
        ("an error", Script::error(500, "server_error", "no")),
        ("refused", Script::error(401, "invalid_request_error", "no")),
        ("no list", Script::json(200, &json!({"models": []}))),
        ("broken", Script::hang().then(crate::support::script::Step::Reset)),
    ] {
        let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
        let good = with_models(&["m-1"]).await;
        let upstreams = [
            entry("bad", &upstream.url(), r#"models: ["b*", literal]"#),
            entry("good", &good.url(), r#"models: ["m-*"]"#),
        ];
        let gateway = gateway(&upstreams, "");
        assert_eq!(ids(&mut gateway.connect().await, SECRET).await, ["literal", "m-1"], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstreams_path_is_put_before_the_clients_and_v1_stands_once() {
    let upstream = with_models(&["m"]).await;
    for (base, models, completions) in [
        ("", "/v1/models", "/v1/chat/completions?x=1"),
        ("/", "/v1/models", "/v1/chat/completions?x=1"),
        ("/v1", "/v1/models", "/v1/chat/completions?x=1"),
        ("/openai/v1", "/openai/v1/models", "/openai/v1/chat/completions?x=1"),
        ("/openai/v1/", "/openai/v1/models", "/openai/v1/chat/completions?x=1"),
        ("/openai", "/openai/v1/models", "/openai/v1/chat/completions?x=1"),
    ] {
        let before = upstream.received().len();
        let gateway = gateway(&[entry("one", &format!("{}{base}", upstream.url()), r#"models: ["*"]"#)], "");
        let mut client = gateway.connect().await;
        assert_eq!(ids(&mut client, SECRET).await, ["m"], "{base}");
        let body = chat("m", "", false).to_string();
        client.request("POST", "/v1/chat/completions?x=1", &[("x-api-key", SECRET)], body.as_bytes()).await;
        let paths: Vec<_> = upstream.received()[before..].iter().map(|request| request.path.clone()).collect();
        assert_eq!(paths, [models, completions], "{base}");
        let host = upstream.address.to_string();
        assert_eq!(upstream.received()[before].header("host"), Some(host.as_str()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_upstream_that_serves_a_model_gets_its_requests() {
    let (one, other) = (with_models(&["llama-1", "shared"]).await, with_models(&["qwen-1", "shared"]).await);
    let upstreams = [
        entry("one", &one.url(), r#"models: ["llama-*", shared], api_key: sk-one, api_key_header: x-api-key"#),
        entry("other", &other.url(), r#"models: ["*"]"#),
    ];
    let gateway = gateway(&upstreams, "");
    let mut client = gateway.connect().await;
    for (model, server, name, credential) in [
        ("llama-9", &one, "one", Some("sk-one")),
        ("shared", &one, "one", Some("sk-one")),
        ("qwen-1", &other, "other", None),
    ] {
        let before = server.received().len();
        assert_eq!(client.chat(SECRET, &chat(model, "", false)).await.status, 200, "{model}");
        assert_eq!(gateway.next_line()["upstream"], name, "{model}");
        assert_eq!(server.received().len(), before + 1, "{model}");
        let received = server.received().pop().unwrap();
        assert_eq!(received.header("x-api-key"), credential, "{model}");
        assert_eq!(received.header("authorization"), None, "{model}: the client's credential stays here");
        assert_eq!(received.json()["model"], model);
    }
    assert_eq!(ids(&mut client, SECRET).await, ["llama-1", "qwen-1", "shared"]);
    let shared = get(&mut client, "/v1/models/shared", SECRET).await.json();
    assert_eq!(shared["owned_by"], "one", "who serves it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_no_model_can_have_is_refused_wherever_it_stands() {
    let upstream = with_models(&["m"]).await;
    let rest = r#"models: ["*"], apis: [openai, anthropic, ollama, gemini]"#;
    let gateway = gateway(&[entry("one", &upstream.url(), rest)], ", limits: {requests_per_minute: 1}");
    let mut client = gateway.connect().await;
    let key = ("authorization", format!("Bearer {SECRET}"));
    let long = "m".repeat(257);
    for name in ["m1\0x", "a\nb", "\u{1b}[2J", "\u{7f}", "\u{85}", "\u{9f}", "", long.as_str()] {
        let json = json!({"model": name, "messages": [], "max_tokens": 1}).to_string().into_bytes();
        let form = format!(
            "--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{name}\r\n--x\r\n\
             Content-Disposition: form-data; name=\"file\"; filename=\"a.mp3\"\r\n\r\nabc\r\n--x--\r\n"
        );
        let in_path = escaped(name);
        let json_type = "application/json";
        let mut requests = vec![
            ("POST", format!("/v1beta/models/{in_path}:generateContent"), json_type, b"{}".to_vec()),
            ("POST", format!("/v1beta/models/{in_path}:embedContent"), json_type, b"{}".to_vec()),
            ("POST", "/v1/audio/transcriptions".to_owned(), "multipart/form-data; boundary=x", form.into_bytes()),
        ];
        if !name.is_empty() {
            requests.push(("GET", format!("/v1/models/{in_path}"), json_type, Vec::new()));
        }
        for path in ["/v1/chat/completions", "/v1/embeddings", "/v1/messages", "/v1/messages/count_tokens", "/api/chat"]
        {
            requests.push(("POST", path.to_owned(), json_type, json.clone()));
        }
        for (method, path, kind, body) in requests {
            let headers = [(key.0, key.1.as_str()), ("content-type", kind)];
            let answer = client.request(method, &path, &headers, &body).await;
            assert_eq!(answer.status, 400, "{name:?} at {path}: {}", answer.text());
            let is_openai = path.starts_with("/v1/") && !path.starts_with("/v1/messages");
            if is_openai {
                let error = &answer.json()["error"];
                assert_eq!((&error["code"], &error["param"]), (&json!("invalid_json"), &json!("model")), "{path}");
            }
            assert!(!answer.text().contains(['\0', '\u{7f}', '\u{85}', '\u{9f}']), "{path}");
        }
    }
    assert!(upstream.received().is_empty());
    let longest = "é".repeat(128);
    assert_eq!(client.chat(SECRET, &chat(&longest, "Hello", false)).await.status, 200, "the others took nothing");
}
