//! An upstream's 403: about the content of a request where the upstream took our credential lately, else about that.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};

use crate::support::{
    client::Response,
    gateway::{Gateway, SECRET, config, one_key},
    h2c::H2c,
    script::{Script, completion},
    upstream::ScriptedUpstream,
};

fn policy() -> Value {
    json!({"error": {"message": "flagged by the content filter", "type": "content_policy", "code": "flagged"}})
}

/// An upstream that answers with `refusal` what names the model `bad`.
async fn refusing(refusal: Script) -> ScriptedUpstream {
    ScriptedUpstream::start(move |request| {
        if request.json()["model"] == "bad" { refusal.clone() } else { Script::json(200, &completion("m", 3)) }
    })
    .await
}

async fn ask(gateway: &Gateway, model: &str) -> Response {
    gateway.chat(&json!({"model": model, "messages": []})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_passes_as_a_400_once_the_credential_was_taken() {
    let upstream = refusing(Script::json(403, &policy())).await;
    for extra in ["", "on_client_abort: drain"] {
        let gateway = Gateway::start(&config(&upstream, extra), &one_key(""));
        let before = ask(&gateway, "bad").await;
        assert_eq!((before.status, &before.json()["error"]["code"]), (502, &json!("upstream_error")));
        assert_eq!(ask(&gateway, "good").await.status, 200);
        let after = ask(&gateway, "bad").await;
        assert_eq!((after.status, after.json()), (400, policy()), "with its own body");
        let http2 = H2c::connect(gateway.address()).await;
        let (answer, body) = http2.chat(SECRET, &json!({"model": "bad"})).await;
        assert_eq!((answer.status, serde_json::from_slice::<Value>(&body).unwrap()), (400, policy()));
        assert!(answer.header("x-request-id").is_some());
        let lines: Vec<_> = (0..4).map(|_| gateway.next_line()["status"].clone()).collect();
        assert_eq!(lines, [502, 200, 400, 400]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_first_line_says_bad_request() {
    let upstream = refusing(Script::json(403, &policy())).await;
    let gateway = Gateway::before(&upstream);
    ask(&gateway, "good").await;
    let mut client = gateway.connect().await;
    client.send("POST", "/v1/chat/completions", &[("x-api-key", SECRET)], br#"{"model":"bad"}"#).await;
    client.response().await;
    client
        .send("POST", "/v1/chat/completions", &[("x-api-key", SECRET), ("connection", "close")], br#"{"model":"bad"}"#)
        .await;
    let text = String::from_utf8(client.closed_by_server().await.to_vec()).unwrap();
    assert!(text.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_json_or_a_401_is_about_the_credential() {
    let html = Script::json(403, &json!({})).with_header("x-kind", "html");
    let html = Script {
        headers: html
            .headers
            .into_iter()
            .map(|(name, value)| {
                let value = if name == "content-type" { "text/html".to_owned() } else { value };
                (name, value)
            })
            .collect(),
        ..html
    };
    for refusal in [html, Script::json(401, &policy())] {
        let upstream = refusing(refusal).await;
        let gateway = Gateway::before(&upstream);
        ask(&gateway, "good").await;
        let answer = ask(&gateway, "bad").await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (502, &json!("upstream_error")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_upstream_does_not_speak_for_another() {
    let good = refusing(Script::json(403, &policy())).await;
    let took = Arc::new(AtomicBool::new(false));
    let seen = took.clone();
    let other = ScriptedUpstream::start(move |_| {
        let status = if seen.load(Ordering::Relaxed) { 200 } else { 403 };
        Script::json(status, &policy())
    })
    .await;
    let both = format!(
        r#"upstreams: [{{name: good, url: "{}", models: [good]}}, {{name: other, url: "{}", models: [bad]}}]"#,
        good.url(),
        other.url()
    );
    let configuration = config(&good, "");
    let at = configuration.find("upstreams:").unwrap();
    let end = at + configuration[at..].find('\n').unwrap();
    let gateway = Gateway::start(&format!("{}{both}{}", &configuration[..at], &configuration[end..]), &one_key(""));
    assert_eq!(ask(&gateway, "good").await.status, 200);
    assert_eq!(ask(&gateway, "bad").await.status, 502);
    took.store(true, Ordering::Relaxed);
    assert_eq!(ask(&gateway, "bad").await.status, 200);
    took.store(false, Ordering::Relaxed);
    assert_eq!(ask(&gateway, "bad").await.status, 400);
}
