//! What a client is told of an upstream's failures: the gateway's own words where there is no answer, and the
//! upstream's where there is one.

use tokio::net::TcpSocket;

use super::{assert_told, told};
use crate::support::{
    gateway::{Gateway, SECRET, one_key},
    scene::{chat, configuration},
    script::{Script, Step, completion},
    upstream::ScriptedUpstream,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_fails_is_named() {
    let refusing = TcpSocket::new_v4().unwrap();
    refusing.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let refusing = format!("http://{}", refusing.local_addr().unwrap());
    let upstream = ScriptedUpstream::start(|request| match request.json()["model"].as_str().unwrap_or_default() {
        "reset" => Script::hang().then(Step::Reset),
        "close" => Script::hang().then(Step::Close),
        "nonsense" => Script::hang().then(Step::Raw("nonsense\r\n\r\n".into())).then(Step::Close),
        "401" => Script::error(401, "invalid_request_error", "Incorrect API key: sk-upstream"),
        "403" => Script::error(403, "forbidden", "sk-upstream may not"),
        "slow" => Script::hang(),
        _ => Script::json(200, &completion("m", 1)),
    });
    let upstream = upstream.await;
    let entries = format!(
        r#"{{name: nowhere, url: "{refusing}", models: [nowhere]}},
           {{name: hasty, url: "{0}", models: [slow], read_timeout: 200ms}},
           {{name: scripted, url: "{0}", models: [m, reset, close, nonsense, "401", "403"], api_key: sk-upstream}}"#,
        upstream.url()
    );
    let gateway = Gateway::start(&configuration(&entries, "", ""), &one_key(""));
    let error = |name| told(502, "server_error", "upstream_error", name);
    for (model, expected) in [
        ("nowhere", error(&["nowhere"])),
        ("reset", error(&["scripted"])),
        ("close", error(&["scripted"])),
        ("nonsense", error(&["scripted"])),
        ("401", error(&["scripted"])),
        ("403", error(&["scripted"])),
        ("slow", told(504, "server_error", "upstream_timeout", &["hasty"])),
    ] {
        for wants_stream in [false, true] {
            let mut body = chat(model, "", false);
            body["stream"] = wants_stream.into();
            let mut client = gateway.connect().await;
            let response = client.chat(SECRET, &body).await;
            assert_told(model, &response, &expected);
            assert_eq!(response.header("connection"), Some("close"), "{model}: no request is lost on it");
            client.closed_by_server().await;
            let line = gateway.next_line();
            assert_eq!((&line["status"], &line["reason"]), (&expected.status.into(), &expected.code.into()), "{line}");
            assert_eq!((&line["usage_source"], &line["output_tokens"]), (&"none".into(), &0.into()), "{line}");
        }
    }
    assert_eq!(gateway.chat(&chat("m", "", false)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstreams_own_error_passes_unchanged() {
    let upstream = ScriptedUpstream::start(|request| {
        let status = request.json()["model"].as_str().and_then(|model| model.parse().ok()).unwrap();
        let body = own_error(status);
        Script { status, headers: vec![], steps: vec![Step::Send(body.clone().into()), Step::Finish] }
            .with_header("content-type", "text/weird; charset=x")
            .with_header("content-length", &body.len().to_string())
            .with_header("x-own", "a, b")
            .with_header("x-own", "c")
            .with_header("retry-after", "17")
            .with_header("x-ratelimit-limit-requests", "3")
            .with_header("x-ratelimit-remaining-tokens", "0")
            .with_header("x-request-id", "theirs")
    });
    let upstream = upstream.await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    for status in [400, 402, 404, 409, 413, 422, 429, 500, 502, 503, 504] {
        for wants_stream in [false, true] {
            let mut body = chat(&status.to_string(), "", false);
            body["stream"] = wants_stream.into();
            let response = client.chat(SECRET, &body).await;
            assert_eq!((response.status, response.text()), (status, own_error(status)));
            let own: Vec<_> = response.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-own")).collect();
            assert_eq!(own.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["a, b", "c"], "{status}");
            assert_eq!(response.header("content-type"), Some("text/weird; charset=x"), "{status}");
            assert_eq!(response.header("retry-after"), Some("17"), "{status}");
            assert!(response.header("x-request-id").unwrap().starts_with("req_"), "{status}: ours");
            let theirs = response.headers.iter().find(|(name, _)| name.to_lowercase().starts_with("x-ratelimit"));
            assert_eq!(theirs, None, "{status}: an upstream's limits are not the key's");
            let line = gateway.next_line();
            assert_eq!((&line["status"], &line["usage_source"]), (&status.into(), &"none".into()), "{line}");
        }
    }
}

/// Something that is no JSON of ours.
fn own_error(status: u16) -> String {
    format!("<p>{status}</p>\r\n{{\"usage\": {{\"prompt_tokens\": 5, \"completion_tokens\": 5}}}}\u{1}")
}
