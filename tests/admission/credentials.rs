//! Whose request it is: where the secret may stand, which keys may be used, and where a secret never goes.

use jiff::{Span, Timestamp};
use keymeter_core::key::Secret;

use super::{answering, chat};
use crate::support::{
    client::{Client, Response},
    gateway::{Gateway, SECRET, config, one_key},
    script::Script,
    upstream::ScriptedUpstream,
};

const PATH: &str = "/v1/chat/completions";

async fn ask(client: &mut Client, headers: &[(&str, &str)]) -> Response {
    client.request("POST", PATH, headers, chat().to_string().as_bytes()).await
}

fn bearer(secret: &str) -> String {
    format!("Bearer {secret}")
}

fn hash(secret: &str) -> String {
    Secret::new(secret).hash().to_string()
}

/// A moment so many hours from now, in RFC 3339.
fn in_hours(hours: i64) -> String {
    (Timestamp::now() + Span::new().hours(hours)).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_may_come_in_every_header_and_reaches_no_upstream() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    let authorization = bearer(SECRET);
    for headers in [
        vec![("Authorization", authorization.as_str())],
        vec![("x-api-key", SECRET)],
        vec![("API-Key", SECRET)],
        vec![("x-goog-api-key", SECRET)],
        vec![("x-goog-api-key", SECRET), ("authorization", authorization.as_str()), ("x-api-key", SECRET)],
    ] {
        assert_eq!(ask(&mut client, &headers).await.status, 200, "{headers:?}");
        let seen = upstream.received().pop().unwrap();
        assert!(!format!("{seen:?}").contains(SECRET), "{seen:?}");
        for name in ["authorization", "x-api-key", "api-key", "x-goog-api-key"] {
            assert_eq!(seen.header(name), None, "no credential is sent where none is configured");
        }
        assert!(!gateway.next_line().to_string().contains(SECRET));
    }
    assert!(!gateway.admin("GET", "/metrics").await.text().contains(SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_is_sent_its_own_credential_in_the_header_it_wants() {
    for (option, name, value) in [
        ("", "authorization", "Bearer sk-of-the-upstream"),
        (", api_key_header: authorization", "authorization", "Bearer sk-of-the-upstream"),
        (", api_key_header: x-api-key", "x-api-key", "sk-of-the-upstream"),
        (", api_key_header: api-key", "api-key", "sk-of-the-upstream"),
        (", api_key_header: x-goog-api-key", "x-goog-api-key", "sk-of-the-upstream"),
    ] {
        let upstream = answering(5).await;
        let named = format!("name: scripted, api_key: sk-of-the-upstream{option},");
        let gateway = Gateway::start(&config(&upstream, "").replace("name: scripted,", &named), &one_key(""));
        let mut client = gateway.connect().await;
        assert_eq!(ask(&mut client, &[("x-api-key", SECRET), ("api-key", SECRET)]).await.status, 200);
        let seen = upstream.received().pop().unwrap();
        let credentials: Vec<_> = seen
            .headers
            .iter()
            .filter(|(name, _)| name.to_lowercase().contains("api-key") || name.eq_ignore_ascii_case("authorization"))
            .map(|(name, value)| (name.to_lowercase(), value.as_str()))
            .collect();
        assert_eq!(credentials, [(name.to_owned(), value)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_refuses_our_credential_is_not_the_clients_fault() {
    for status in [401, 403] {
        let upstream =
            ScriptedUpstream::start(move |_| Script::error(status, "invalid_request_error", "bad key sk-of-the")).await;
        let answer = Gateway::before(&upstream).chat(&chat()).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (502, &"upstream_error".into()));
        assert!(!answer.text().contains("sk-of-the"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_no_key_gets_one_and_the_same_answer() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    let authorization = bearer(SECRET);
    let mut bodies = Vec::new();
    for headers in [
        vec![],
        vec![("authorization", "Bearer sk-nobody")],
        vec![("authorization", SECRET)],
        vec![("authorization", "Basic dTpw")],
        vec![("x-api-key", "")],
        vec![("authorization", authorization.as_str()), ("x-api-key", "sk-another")],
        vec![("x-api-key", SECRET), ("api-key", "sk-another")],
        vec![("x-api-key", SECRET), ("x-api-key", "sk-another")],
    ] {
        let answer = ask(&mut client, &headers).await;
        assert_eq!(answer.status, 401, "{headers:?}");
        assert!(answer.header("x-request-id").is_some());
        assert!(!answer.headers.iter().any(|(name, _)| name.contains("ratelimit")), "nobody's standing is told");
        bodies.push(answer.text());
    }
    let error = serde_json::from_str::<serde_json::Value>(&bodies[0]).unwrap()["error"].clone();
    assert_eq!((&error["type"], &error["code"]), (&"invalid_request_error".into(), &"invalid_api_key".into()));
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
    assert!(upstream.received().is_empty());
    for (reason, times) in [("missing", 1.0), ("malformed", 6.0), ("unknown", 1.0)] {
        gateway.metric_becomes(&format!("keymeter_unauthorized_total{{reason=\"{reason}\"}}"), times).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_or_expired_key_is_told_so() {
    let upstream = answering(5).await;
    for (extra, code, reason) in [
        (", enabled: false".to_owned(), "api_key_disabled", "disabled"),
        (format!(", expires_at: {}", in_hours(-1)), "api_key_expired", "expired"),
    ] {
        let gateway = Gateway::start(&config(&upstream, ""), &one_key(&extra));
        let answer = gateway.chat(&chat()).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status, &error["code"]), (401, &code.into()));
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().unwrap().contains("key_test"));
        let series = format!("keymeter_rejections_total{{key_id=\"key_test\",reason=\"{reason}\",scope=\"key\"}}");
        gateway.metric_becomes(&series, 1.0).await;
        assert_eq!(gateway.next_line()["reason"], code);
    }
    let gateway = Gateway::start(&config(&upstream, ""), &one_key(&format!(", expires_at: {}", in_hours(1))));
    assert_eq!(gateway.chat(&chat()).await.status, 200);
    assert_eq!(upstream.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retiring_secret_works_until_its_time_and_counts_with_the_new_one() {
    let upstream = answering(5).await;
    let retiring = |secret: &str, hours| format!("{{hash: \"{}\", not_after: {}}}", hash(secret), in_hours(hours));
    let list = format!("{}, {}", retiring("sk-grace", 1), retiring("sk-over", -1));
    let keys = one_key(&format!(", retiring: [{list}], limits: {{requests_per_minute: 2}}"));
    let gateway = Gateway::start(&config(&upstream, ""), &keys);
    let mut client = gateway.connect().await;
    assert_eq!(client.chat("sk-over", &chat()).await.status, 401);
    for (secret, status) in [("sk-grace", 200), (SECRET, 200), ("sk-grace", 429), (SECRET, 429)] {
        assert_eq!(client.chat(secret, &chat()).await.status, status, "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_bad_keys_is_throttled_and_a_cached_key_never_is() {
    let upstream = answering(5).await;
    let source = r#"server: {client_address: {header: x-forwarded-for, trusted: ["127.0.0.0/8"]}, "#;
    let gateway = Gateway::start(&config(&upstream, "").replace("server: {", source), &one_key(""));
    let mut client = gateway.connect().await;
    let good = bearer(SECRET);
    assert_eq!(client.chat(SECRET, &chat()).await.status, 200);
    let flood = [("x-forwarded-for", "192.0.2.1")];
    let mut throttled = None;
    for number in 0..2000 {
        let bad = bearer(&format!("sk-bad-{number}"));
        let answer = ask(&mut client, &[flood[0], ("authorization", &bad)]).await;
        if answer.status == 429 {
            throttled = Some(answer);
            break;
        }
        assert_eq!(answer.status, 401);
    }
    let throttled = throttled.expect("2000 bad keys in a row are throttled");
    let error = &throttled.json()["error"];
    assert_eq!((&error["type"], &error["code"]), (&"requests".into(), &"rate_limit_exceeded".into()));
    assert_eq!((throttled.header("retry-after"), throttled.header("retry-after-ms")), (Some("1"), Some("1000")));
    assert!(gateway.metric(r#"keymeter_unauthorized_total{reason="throttled"}"#).await >= 1.0);
    let elsewhere = [("x-forwarded-for", "192.0.2.1, 198.51.100.7"), ("authorization", "Bearer sk-bad")];
    assert_eq!(ask(&mut client, &elsewhere).await.status, 401, "another address is not throttled");
    for number in 0..100 {
        let bad = bearer(&format!("sk-worse-{number}"));
        let refused = ask(&mut client, &[flood[0], ("authorization", &bad)]).await;
        assert!(matches!(refused.status, 401 | 429), "{}", refused.status);
        let known = ask(&mut client, &[flood[0], ("authorization", &good)]).await;
        assert_eq!(known.status, 200, "a cached key is throttled by others' bad ones");
    }
}

/// On a socket for both families peers of IPv4 come as a part of IPv6, and a network of IPv4 is theirs all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_of_ipv4_is_one_on_a_socket_of_ipv6_too() {
    let upstream = answering(5).await;
    let source = r#"server: {client_address: {header: x-forwarded-for, trusted: ["127.0.0.0/8"]}, "#;
    let configuration = config(&upstream, "").replace("server: {", source);
    let configuration = configuration.replacen("listen: [\"127.0.0.1:0\"]", "listen: [\"[::]:0\"]", 1);
    let gateway = Gateway::start(&configuration, &one_key(""));
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], gateway.address().port()));
    let mut client = Client::connect(address).await;
    let mut number = 0;
    let mut from = async |forwarded: &str| {
        number += 1;
        let bad = bearer(&format!("sk-bad-{number}"));
        ask(&mut client, &[("x-forwarded-for", forwarded), ("authorization", &bad)]).await.status
    };
    while from("192.0.2.1").await != 429 {}
    assert_eq!(from("192.0.2.2").await, 401, "it is another address");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_with_a_wrong_checksum_is_refused_without_a_look_up() {
    let upstream = answering(5).await;
    let configuration = config(&upstream, "").replace("keys: {", "keys: {secret_checksum: required, ");
    let gateway = Gateway::start(&configuration, &one_key(""));
    let mut client = gateway.connect().await;
    assert_eq!(client.chat(SECRET, &chat()).await.status, 200);
    let typo = SECRET.replace("2P40Ol", "2P40Om");
    assert_eq!(client.chat(&typo, &chat()).await.status, 401);
    gateway.metric_becomes(r#"keymeter_unauthorized_total{reason="malformed"}"#, 1.0).await;
    gateway.metric_becomes(r#"keymeter_key_cache_lookups_total{result="miss"}"#, 1.0).await;
}
