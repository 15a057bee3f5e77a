//! A key service that is slow, wrong, gone or comes and goes: known keys are served, unknown ones get 503, and when it
//! is back so is everything.

use std::time::{Duration, Instant};

use keymeter_core::key::Secret;
use serde_json::Value;

use super::{OTHER, another, answering, asked, gateway, record};
use crate::support::{
    gateway::SECRET,
    script::{Gate, Script, Step},
    service::KeyService,
    soak::scaled,
};

fn text(status: u16, body: &str) -> Script {
    let headers = vec![("content-length".to_owned(), body.len().to_string())];
    Script { status, headers, steps: vec![Step::Send(body.to_owned().into()), Step::Finish] }
}

/// Every way in which a service fails to answer.
fn faults() -> Vec<(&'static str, Script)> {
    let of_another =
        another().to_string().replace(&Secret::new(OTHER).hash().to_hex(), &Secret::new("sk-third").hash().to_hex());
    let redirect = text(302, "").with_header("location", "http://127.0.0.1:1/");
    vec![
        ("gone", Script::hang().then(Step::Reset)),
        ("silent", Script::hang()),
        ("slow", Script::json(200, &record()).gated(0, &Gate::new())),
        ("half an answer", text(200, "{\"id\":").with_header("x-half", "1")),
        (
            "cut",
            Script {
                status: 200,
                headers: vec![("content-length".to_owned(), "900".to_owned())],
                steps: vec![Step::Send("{".into()), Step::Close],
            },
        ),
        ("empty", text(200, "")),
        ("garbage", text(200, "<html>")),
        ("another key", text(200, &of_another)),
        ("an unknown field", text(200, &record().to_string().replace("\"name\"", "\"nmae\""))),
        ("endless", text(200, &" ".repeat(100_000))),
        ("429", text(429, "")),
        ("500", text(500, "")),
        ("401", text(401, "")),
        ("304 unasked", text(304, "")),
        ("redirecting", redirect),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_service_does_known_keys_are_served_and_unknown_ones_get_503() {
    for (name, error) in faults() {
        let (upstream, service) = (answering().await, KeyService::start().await);
        service.set(record());
        let gateway = gateway(&upstream, &service, "ttl: 1ms", "");
        assert_eq!(asked(&gateway, SECRET).await.0, 200);
        service.fail_as(error);
        for _ in 0..3 {
            assert_eq!(asked(&gateway, SECRET).await, (200, Value::Null), "{name}: it is known");
            let start = Instant::now();
            let unknown = asked(&gateway, OTHER).await;
            assert_eq!(unknown, (503, "key_source_unavailable".into()), "{name}: never 200, never 401");
            assert!(start.elapsed() < Duration::from_secs(2), "{name}: {:?}", start.elapsed());
        }
        service.recover();
        service.set(another());
        let start = Instant::now();
        while asked(&gateway, OTHER).await.0 != 200 {
            assert!(start.elapsed() < Duration::from_secs(5), "{name}: it is back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_key_is_served_as_long_as_it_may_be_stale_and_no_longer() {
    let (upstream, service) = (answering().await, KeyService::start().await);
    service.set(record());
    let gateway = gateway(&upstream, &service, "ttl: 1ms, stale_for: 1s", "");
    assert_eq!(asked(&gateway, SECRET).await.0, 200);
    service.fail(500);
    let start = Instant::now();
    let end = loop {
        match asked(&gateway, SECRET).await {
            (200, _) => assert!(start.elapsed() < Duration::from_secs(5), "it ends"),
            other => break other,
        }
    };
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
    assert_eq!(end, (503, "key_source_unavailable".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_comes_and_goes_while_keys_change_harms_nobody() {
    let (upstream, service) = (answering().await, KeyService::start().await);
    service.set(record());
    let gateway = gateway(&upstream, &service, "ttl: 20ms", "");
    assert_eq!(asked(&gateway, SECRET).await.0, 200);
    let (flaps, pause) = scaled((10, Duration::from_millis(100)), (60, Duration::from_secs(1)));
    for flap in 0..flaps {
        if flap % 2 == 0 {
            service.fail(503);
        } else {
            service.recover();
        }
        let start = Instant::now();
        while start.elapsed() < pause {
            let mut changed = another();
            changed["name"] = format!("Named {flap}").into();
            service.set(changed);
            service.send("event: key\ndata: {\"id\":\"key_other\"}\n\n");
            assert_eq!(asked(&gateway, SECRET).await, (200, Value::Null), "flap {flap}");
            let other = asked(&gateway, OTHER).await.0;
            assert!([200, 503].contains(&other), "flap {flap}: {other}");
        }
    }
    service.recover();
    let start = Instant::now();
    while asked(&gateway, OTHER).await.0 != 200 {
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}
