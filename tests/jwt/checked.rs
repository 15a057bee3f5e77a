//! Whose a token is, what is none, and where a token never goes.

use serde_json::{Value, json};

use super::{SERVED, answering, ask, asked, becomes, gateway, hash, keys, knows, refused, text};
use crate::support::{
    client::Arrival,
    gateway::{Gateway, SECRET},
    issuer::{Issuer, claims, claims_with},
    scene::{DONE, chat, get, says, stream},
    script::{Gate, Step},
    service::KeyService,
    signer::{Signer, encoded, unsigned, with_secret},
    soak::scaled,
    upstream::ScriptedUpstream,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_its_holders_key_and_goes_nowhere() {
    let (rsa, ec, ed) = (Signer::rsa("r"), Signer::ec("c"), Signer::ed("d"));
    let (upstream, issuer) = (answering().await, Issuer::start(&[&rsa, &ec, &ed]).await);
    let gateway = gateway(&upstream, &issuer.entry(), "");
    knows(&gateway).await;
    for key in [&rsa, &ec, &ed, &rsa] {
        let token = key.token(&claims("ada"));
        let answer = ask(&mut gateway.connect().await, &token).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = upstream.received().pop().unwrap();
        let signature = token.rsplit('.').next().unwrap();
        assert!(!format!("{seen:?}").contains(signature), "{seen:?}");
        assert_eq!(seen.header("authorization"), None);
        let line = gateway.next_line();
        assert_eq!(line["key_id"], "key_ada");
        assert!(!line.to_string().contains(signature));
    }
    assert_eq!(asked(&gateway, SECRET).await, SERVED, "secrets are taken as before");
    assert_eq!(asked(&gateway, &ec.token(&claims("eve"))).await, refused(), "who has no key has none");
    let metrics = gateway.admin("GET", "/metrics").await.text();
    assert!(!metrics.contains("eyJ"), "{metrics}");
    assert_eq!(issuer.asked().len(), 1, "its keys are fetched once");
    gateway.metric_becomes("keymeter_unauthorized_total{reason=\"unknown\"}", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_valid_token_is_one_and_the_same_401() {
    let (key, other) = (Signer::rsa("r"), Signer::ec("r"));
    let (upstream, issuer) = (answering().await, Issuer::start(&[&key]).await);
    let gateway = gateway(&upstream, &issuer.entry(), "");
    knows(&gateway).await;
    let n = key.jwk()["n"].as_str().unwrap().to_owned();
    let now = jiff::Timestamp::now().as_second();
    let with = |others: Value| key.token(&claims_with("ada", &others));
    let good = with(json!({}));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (head, _) = signed.split_once('.').unwrap();
    let padding = "x".repeat(9_000);
    let bad = [
        ("another audience", with(json!({"aud": "somebody"}))),
        ("no audience", with(json!({"aud": null}))),
        ("expired, beyond the leeway", with(json!({"exp": now - 70}))),
        ("no expiry", with(json!({"exp": null}))),
        ("not yet valid, beyond the leeway", with(json!({"nbf": now + 90}))),
        ("no holder", with(json!({"sub": null}))),
        ("nobody signed it", unsigned(&json!({"alg": "none"}), &claims("ada"))),
        ("the public key as a secret", with_secret(n.as_bytes(), &json!({"alg": "HS256", "kid": "r"}), &claims("ada"))),
        ("another's signature", other.token(&claims("ada"))),
        ("another's algorithm", key.token_with(&json!({"alg": "RS512", "kid": "r"}), &claims("ada"))),
        ("an unknown key", key.token_with(&json!({"alg": "RS256", "kid": "q"}), &claims("ada"))),
        ("another body", format!("{head}.{}.{signature}", encoded(claims("eve").to_string().as_bytes()))),
        ("no signature", format!("{signed}.")),
        ("over 8 KiB", with(json!({"more": padding}))),
        ("no head", format!("!.{}", good.split_once('.').unwrap().1)),
    ];
    assert_eq!(asked(&gateway, &good).await, SERVED, "so that it is remembered");
    let body = ask(&mut gateway.connect().await, "sk-nobodys").await.text();
    for (what, token) in &bad {
        let answer = ask(&mut gateway.connect().await, token).await;
        assert_eq!((answer.status, answer.text()), (401, body.clone()), "{what}");
    }
    for others in [
        json!({"exp": now - 40}),
        json!({"nbf": now + 40}),
        json!({"iat": now + 4000}),
        json!({"aud": ["a", "keymeter"]}),
        json!({"more": "x".repeat(5_000)}),
    ] {
        assert_eq!(asked(&gateway, &with(others.clone())).await, SERVED, "{others}");
    }
    gateway.metric_becomes("keymeter_unauthorized_total{reason=\"malformed\"}", bad.len() as f64).await;
    gateway.metric_becomes("keymeter_unauthorized_total{reason=\"unknown\"}", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_a_bearers_and_stands_beside_nothing_else() {
    let key = Signer::ed("d");
    let (upstream, issuer) = (answering().await, Issuer::start(&[&key]).await);
    let gateway = gateway(&upstream, &issuer.entry(), "");
    knows(&gateway).await;
    let token = key.token(&claims("ada"));
    let bearer = format!("Bearer {token}");
    let body = chat("m", "Hello", false).to_string();
    for (headers, status) in [
        (vec![("authorization", bearer.as_str())], 200),
        (vec![("authorization", bearer.as_str()), ("x-api-key", token.as_str())], 200),
        (vec![("authorization", bearer.as_str()), ("x-api-key", SECRET)], 401),
        (vec![("x-api-key", token.as_str())], 401),
        (vec![("api-key", token.as_str())], 401),
        (vec![("x-goog-api-key", token.as_str())], 401),
        (vec![("authorization", token.as_str())], 401),
    ] {
        let answer = gateway.connect().await.request("POST", "/v1/chat/completions", &headers, body.as_bytes()).await;
        assert_eq!(answer.status, status, "{headers:?}");
    }
    let path = format!("/v1beta/models/m:generateContent?key={token}");
    assert_eq!(gateway.connect().await.request("POST", &path, &[], b"{}").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_megabyte_is_refused_and_harms_nobody() {
    let key = Signer::ed("d");
    let (upstream, issuer) = (answering().await, Issuer::start(&[&key]).await);
    let gateway = gateway(&upstream, &issuer.entry(), "");
    knows(&gateway).await;
    for length in [20_000, 500_000] {
        let token = key.token(&claims_with("ada", &json!({"more": "x".repeat(length)})));
        assert_eq!(asked(&gateway, &token).await, refused(), "{length}");
    }
    // A head that long is none, whatever is in it.
    let token = key.token(&claims_with("ada", &json!({"more": "x".repeat(1 << 20)})));
    let mut client = gateway.connect().await;
    client
        .send_raw(format!("GET /v1/models HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n").as_bytes())
        .await;
    let answer = client.closed_by_server().await;
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "{:?}", String::from_utf8_lossy(&answer));
    assert_eq!(asked(&gateway, &key.token(&claims("ada"))).await, SERVED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_in_mid_stream_does_not_end_the_stream() {
    let key = Signer::ed("d");
    let gate = Gate::new();
    let waiting = gate.clone();
    let upstream = ScriptedUpstream::start(move |_| {
        let mut script = stream([says("one"), says("two"), DONE.to_owned()]).gated(1, &waiting);
        script.steps.push(Step::Finish);
        script
    })
    .await;
    let issuer = Issuer::start(&[&key]).await;
    let gateway = gateway(&upstream, &issuer.entry(), "");
    knows(&gateway).await;
    // It is within the leeway for three seconds more.
    let now = jiff::Timestamp::now().as_second();
    let token = key.token(&claims_with("ada", &json!({"exp": now - 57})));
    let mut client = gateway.connect().await;
    assert_eq!(client.chat_stream(&token, &chat("m", "Hello", false)).await.status, 200);
    assert!(matches!(client.next_chunk().await, Arrival::Chunk { .. }));
    // What is asked here takes no upstream.
    let mut other = gateway.connect().await;
    while get(&mut other, "/v1/usage", &token).await.status == 200 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(get(&mut other, "/v1/usage", &token).await.status, 401, "it has expired");
    gate.open();
    let (rest, end) = client.rest().await;
    assert_eq!(end, Arrival::End);
    assert!(String::from_utf8(rest).unwrap().ends_with(DONE));
    let of_stream = |line: &Value| line["path"] == "/v1/chat/completions";
    let line = std::iter::repeat_with(|| gateway.next_line()).find(of_stream).unwrap();
    assert_eq!((&line["key_id"], &line["client_aborted"]), (&json!("key_ada"), &json!(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_revocation_and_rotation_are_those_of_the_key() {
    let key = Signer::ec("c");
    let (upstream, issuer) = (answering().await, Issuer::start(&[&key]).await);
    let gateway = Gateway::start(&text(&upstream, &issuer.entry(), ""), &keys(", limits: {requests_per_minute: 2}"));
    knows(&gateway).await;
    let tokens = [0, 1, 2].map(|number| key.token(&claims_with("ada", &json!({"jti": number}))));
    assert_eq!(asked(&gateway, &tokens[0]).await, SERVED);
    assert_eq!(asked(&gateway, &tokens[1]).await, SERVED);
    assert_eq!(asked(&gateway, &tokens[2]).await, (429, json!("rate_limit_exceeded")), "whichever token it is");
    gateway.write_keys(&keys(", enabled: false"));
    becomes(&gateway, &tokens[0], 401).await;
    assert_eq!(asked(&gateway, &tokens[2]).await, (401, json!("api_key_disabled")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_service_is_asked_for_the_holders_hash_and_checksums_are_for_secrets() {
    let key = Signer::ec("c");
    let (upstream, issuer, service) = (answering().await, Issuer::start(&[&key]).await, KeyService::start().await);
    service.set(json!({"id": "key_ada", "name": "Ada", "hash": hash("ada").to_string()}));
    let http = format!("http: {{url: \"{}/v1/keys/{{hash}}\"}}, secret_checksum: required", service.url());
    let text = text(&upstream, &issuer.entry(), "").replace("yaml: {path: keys.yaml}", &http);
    let gateway = Gateway::start(&text, "keys: []");
    knows(&gateway).await;
    let count = scaled(200, 10_000);
    let mut client = gateway.connect().await;
    for number in 0..count {
        let token = key.token(&claims_with("ada", &json!({"jti": number})));
        assert_eq!(ask(&mut client, &token).await.status, 200);
    }
    assert_eq!(asked(&gateway, &key.token(&claims("eve"))).await, refused());
    let paths: Vec<_> = service.look_ups().into_iter().map(|look_up| look_up.path).collect();
    assert_eq!(paths, ["ada", "eve"].map(|holder| format!("/v1/keys/{}", hash(holder).to_hex())), "each holder once");
    assert_eq!(issuer.asked().len(), 1, "and the issuer once");
    gateway.metric_becomes("keymeter_key_cache_lookups_total{result=\"hit\"}", f64::from(count - 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_guesses_tokens_is_throttled_and_a_token_that_was_checked_is_not() {
    let key = Signer::ec("c");
    let (upstream, issuer) = (answering().await, Issuer::start(&[&key]).await);
    let gateway = gateway(&upstream, &issuer.entry(), "");
    knows(&gateway).await;
    let (token, forged) = (key.token(&claims("ada")), Signer::ec("c").token(&claims("ada")));
    let (mut client, body) = (gateway.connect().await, chat("m", "Hello", false));
    assert_eq!(client.chat(&token, &body).await.status, 200);
    let mut tries = 0;
    let refused = loop {
        let answer = client.chat(&forged, &body).await;
        if answer.status == 429 {
            break answer;
        }
        tries += 1;
        assert!(answer.status == 401 && tries < 1000);
    };
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(client.chat(&token, &body).await.status, 200);
    assert_eq!(client.chat(SECRET, &body).await.status, 200);
}
