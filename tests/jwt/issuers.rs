//! What an issuer does: it changes its keys, is slow, wrong or gone, or is another one after a reload.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use keymeter_config::{self as config};
use serde_json::json;

use super::{SERVED, answering, ask, asked, becomes, gateway, knows, refused, text, unavailable};
use crate::support::{
    issuer::{AUDIENCE, Issuer, NAME, claims},
    script::Script,
    signer::Signer,
};

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_under_load_and_no_request_is_refused() {
    let (old, new) = (Signer::ed("old"), Arc::new(Signer::ec("new")));
    let (upstream, issuer) = (answering().await, Issuer::start(&[&old]).await);
    let gateway = gateway(&upstream, &issuer.entry(), "");
    knows(&gateway).await;
    let (address, ended, refusals, served) =
        (gateway.address(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let token = Arc::new(std::sync::Mutex::new(old.token(&claims("ada"))));
    let clients = (0..8).map(|_| {
        let (ended, refusals, served, token) = (ended.clone(), refusals.clone(), served.clone(), token.clone());
        tokio::spawn(async move {
            let mut client = crate::support::client::Client::connect(address).await;
            while !ended.load(Ordering::Acquire) {
                let token = token.lock().unwrap().clone();
                let status = ask(&mut client, &token).await.status;
                if status == 200 { &served } else { &refusals }.fetch_add(1, Ordering::AcqRel);
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    let served_more = async |count: u32| {
        let before = served.load(Ordering::Acquire);
        while served.load(Ordering::Acquire) < before + count && refusals.load(Ordering::Acquire) == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    served_more(50).await;
    // The issuer shows the new key first, signs with it from then on, and withdraws the old one.
    issuer.show(&[&old, &new]);
    *token.lock().unwrap() = new.token(&claims("ada"));
    served_more(50).await;
    issuer.show(&[&new]);
    *token.lock().unwrap() = new.token(&claims("ada"));
    served_more(50).await;
    ended.store(true, Ordering::Release);
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(refusals.load(Ordering::Acquire), 0);
    assert_eq!(issuer.asked().len(), 2, "at the start, and once for all that named the new key");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_asked_for_once_in_a_while_whoever_names_one() {
    let key = Signer::ed("d");
    let (upstream, issuer) = (answering().await, Issuer::start(&[&key]).await);
    let gateway = gateway(&upstream, &issuer.entry(), "");
    knows(&gateway).await;
    let address = gateway.address();
    let forged: Vec<_> = (0..60).map(|number| Signer::ed(&format!("unknown-{number}")).token(&claims("ada"))).collect();
    let asking = forged.into_iter().map(|token| {
        tokio::spawn(
            async move { ask(&mut crate::support::client::Client::connect(address).await, &token).await.status },
        )
    });
    for asking in asking.collect::<Vec<_>>() {
        assert_eq!(asking.await.unwrap(), 401);
    }
    assert_eq!(issuer.asked().len(), 2);
    // One that the issuer adds now is known at the next renewal only.
    let new = Signer::ed("new");
    issuer.show(&[&key, &new]);
    assert_eq!(asked(&gateway, &new.token(&claims("ada"))).await, refused());
    assert_eq!(issuer.asked().len(), 2);
    assert_eq!(asked(&gateway, &key.token(&claims("ada"))).await, SERVED);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_down_at_the_start_is_a_503_until_it_is_there() {
    let key = Signer::ec("c");
    for script in [
        Script::json(500, &json!({})),
        Script::json(200, &json!({"keys": []})),
        Script::json(200, &json!({"keys": "x".repeat(70_000)})),
        Script::json(404, &json!({"keys": [key.jwk()]})),
    ] {
        let (upstream, issuer) = (answering().await, Issuer::start(&[]).await);
        issuer.fail_as(script);
        let gateway = gateway(&upstream, &issuer.entry(), "");
        assert_eq!(asked(&gateway, &key.token(&claims("ada"))).await, unavailable());
        assert_eq!(asked(&gateway, crate::support::gateway::SECRET).await, SERVED, "secrets need no issuer");
        assert_eq!(asked(&gateway, "a.b.c").await, refused(), "and what is no token of its is none");
        assert_eq!(gateway.metric(&format!("keymeter_issuer_up{{issuer=\"{NAME}\"}}")).await, 0.0);
        issuer.show(&[&key]);
        becomes(&gateway, &key.token(&claims("ada")), 200).await;
        knows(&gateway).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_goes_down_later_is_missed_by_new_keys_alone() {
    let (key, new) = (Signer::ec("c"), Signer::ec("new"));
    let (upstream, issuer) = (answering().await, Issuer::start(&[&key]).await);
    let gateway = gateway(&upstream, &issuer.entry(), "");
    knows(&gateway).await;
    issuer.fail_as(Script::json(500, &json!({})));
    for _ in 0..3 {
        assert_eq!(asked(&gateway, &key.token(&claims("ada"))).await, SERVED);
        assert_eq!(asked(&gateway, &new.token(&claims("ada"))).await, unavailable(), "nobody can tell");
    }
    assert_eq!(gateway.metric(&format!("keymeter_issuer_up{{issuer=\"{NAME}\"}}")).await, 0.0);
    assert_eq!(asked(&gateway, &Signer::ec("c").token(&claims("ada"))).await, refused(), "a known key's forger is one");
    // Background fetches come on their own; the one that succeeds brings the new key.
    issuer.show(&[&key, &new]);
    becomes(&gateway, &new.token(&claims("ada")), 200).await;
    knows(&gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_holds_up_its_own_tokens_only() {
    let key = Signer::ec("c");
    let (upstream, issuer) = (answering().await, Issuer::start(&[]).await);
    issuer.fail_as(Script::hang());
    let gateway = gateway(&upstream, &issuer.entry(), "");
    let (address, token) = (gateway.address(), key.token(&claims("ada")));
    let waiting =
        tokio::spawn(
            async move { ask(&mut crate::support::client::Client::connect(address).await, &token).await.status },
        );
    issuer.wait_for(1).await;
    assert_eq!(asked(&gateway, crate::support::gateway::SECRET).await, SERVED);
    assert_eq!(waiting.await.unwrap(), 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_whose_tokens_are_taken() {
    let key = Signer::ec("c");
    let (upstream, issuer) = (answering().await, Issuer::start(&[&key]).await);
    let gateway = gateway(&upstream, "", "");
    let token = key.token(&claims("ada"));
    assert_eq!(asked(&gateway, &token).await, refused());
    gateway.write_config(&text(&upstream, &issuer.entry(), ""));
    becomes(&gateway, &token, 200).await;
    // Of one that stays, what is known stays.
    let other = Issuer::start(&[&key]).await;
    let second = other.entry().replace(NAME, "https://other.example");
    gateway.write_config(&text(&upstream, &format!("{}, {second}", issuer.entry()), ""));
    other.wait_for(1).await;
    assert_eq!((asked(&gateway, &token).await, issuer.asked().len()), (SERVED, 1));
    // A faulty file changes nothing.
    gateway.write_config(&text(&upstream, &issuer.entry().replace("ES256", "HS256"), ""));
    gateway.metric_becomes("keymeter_config_last_reload_successful", 0.0).await;
    assert_eq!(asked(&gateway, &token).await, SERVED);
    // One that is for somebody else, or gone, takes its tokens with it, those that were checked too.
    gateway.write_config(&text(&upstream, &issuer.entry().replace(AUDIENCE, "somebody"), ""));
    becomes(&gateway, &token, 401).await;
    gateway.write_config(&text(&upstream, &issuer.entry(), ""));
    becomes(&gateway, &token, 200).await;
    gateway.write_config(&text(&upstream, "", ""));
    becomes(&gateway, &token, 401).await;
    let metrics = gateway.admin("GET", "/metrics").await.text();
    assert!(!metrics.contains("keymeter_issuer_up{"), "{metrics}");
}

#[tokio::test]
async fn check_says_where_an_entry_is_wrong_and_warns_of_keys_without_tls() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keymeter.yaml");
    std::fs::write(directory.path().join("keys.yaml"), "keys: []\n").unwrap();
    let jwks = "http://login.example/jwks.json";
    let entry = format!("{{issuer: 'https://a', audience: b, jwks: '{jwks}', algorithms: [RS256]}}");
    let text = format!(
        "upstreams: [{{name: a, url: 'http://127.0.0.1:1'}}]\nkeys:\n  yaml: {{path: keys.yaml}}\n  jwt: [{entry}]\n"
    );
    std::fs::write(&path, &text).unwrap();
    let loaded = config::load(&path, &config::environment).unwrap();
    let warnings: Vec<_> = config::warnings(&loaded).iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("keymeter.yaml:4:50: the keys of `https://a` come without TLS: "), "{warnings:?}");
}
