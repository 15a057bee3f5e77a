//! What is changed at the control plane is so at its gateways, by the time that a client can ask.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::over_both;
use crate::{
    sources::{answering, asked},
    support::{
        client::Arrival,
        control::{GATEWAYS, OPERATOR, Plane},
        gateway::{Gateway, config},
        process::keymeter,
        scene::{chat, says, stream},
        script::{Gate, Script, Step},
        soak::scaled,
        upstream::ScriptedUpstream,
    },
};

over_both! {
    what_is_changed_is_so_on_every_gateway_at_once
    a_running_stream_ends_with_its_key
    it_keeps_to_the_protocol_of_key_services
}

/// A gateway that asks this control plane, and listens to it.
pub async fn gateway(upstream: &ScriptedUpstream, plane: &Plane, extra: &str) -> Gateway {
    gateway_of(&config(upstream, extra), plane).await
}

/// One with this configuration, whose keys come from here.
pub(super) async fn gateway_of(configuration: &str, plane: &Plane) -> Gateway {
    let trusting = "client_address: {header: x-forwarded-for, trusted: [127.0.0.0/8]}";
    let configuration = configuration.replace("{yaml: {path: keys.yaml}}", &plane.as_source());
    let configuration =
        configuration.replace("listen: [\"127.0.0.1:0\"]", &format!("listen: [\"127.0.0.1:0\"], {trusting}"));
    let gateway = Gateway::start(&configuration, "keys: []");
    gateway.metric_becomes("keymeter_key_events_connected", 1.0).await;
    gateway
}

async fn what_is_changed_is_so_on_every_gateway_at_once(plane: &Plane) {
    let upstream = answering().await;
    let gateways = [gateway(&upstream, plane, "").await, gateway(&upstream, plane, "").await];
    let rounds = scaled(3, 100);
    let mut lags = Vec::new();
    for _ in 0..rounds {
        let (id, secret) = plane.key(OPERATOR, json!({"name": "Some key"})).await;
        let path = format!("/api/v1/keys/{id}");
        becomes(&gateways, &secret, &(200, Value::Null), &mut lags).await;
        plane.operate("PATCH", &path, json!({"enabled": false})).await.with(200);
        becomes(&gateways, &secret, &(401, "api_key_disabled".into()), &mut lags).await;
        plane.operate("PATCH", &path, json!({"enabled": true})).await.with(200);
        becomes(&gateways, &secret, &(200, Value::Null), &mut lags).await;
        let renewed = plane.operate("POST", &format!("{path}/regenerate"), json!({"grace": "1h"})).await.with(200);
        let second = renewed["secret"].as_str().unwrap().to_owned();
        becomes(&gateways, &second, &(200, Value::Null), &mut lags).await;
        becomes(&gateways, &secret, &(200, Value::Null), &mut lags).await;
        let renewed = plane.operate("POST", &format!("{path}/regenerate"), Value::Null).await.with(200);
        for old in [&secret, &second] {
            becomes(&gateways, old, &(401, "invalid_api_key".into()), &mut lags).await;
        }
        let third = renewed["secret"].as_str().unwrap();
        becomes(&gateways, third, &(200, Value::Null), &mut lags).await;
        plane.operate("DELETE", &path, Value::Null).await.with(204);
        becomes(&gateways, third, &(401, "invalid_api_key".into()), &mut lags).await;
    }
    let [_, nearly_all, _] = told(&mut lags, "two gateways");
    assert!(nearly_all < Duration::from_secs(scaled(3, 1)), "{nearly_all:?}");
}

/// Prints how long changes took, and gives the median, the 99th percentile and the most.
pub(super) fn told(lags: &mut [Duration], on: &str) -> [Duration; 3] {
    lags.sort_unstable();
    let [half, nearly_all, most] = [50, 99, 100].map(|percent| lags[(lags.len() * percent / 100).min(lags.len() - 1)]);
    println!("{} changes on {on}: p50 {half:?}, p99 {nearly_all:?}, at most {most:?}", lags.len());
    [half, nearly_all, most]
}

/// How long after the answer to a call it is so on all gateways.
pub(super) async fn becomes(gateways: &[Gateway], secret: &str, expected: &(u16, Value), lags: &mut Vec<Duration>) {
    let start = Instant::now();
    for gateway in gateways {
        loop {
            let now = asked(gateway, secret).await;
            if now == *expected {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(5), "{now:?} does not become {expected:?}");
        }
    }
    lags.push(start.elapsed());
}

async fn a_running_stream_ends_with_its_key(plane: &Plane) {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = ScriptedUpstream::start(move |_| -> Script {
        stream([says("one"), says("two")]).then(Step::Wait(held.clone()))
    })
    .await;
    let gateway = gateway(&upstream, plane, "").await;
    let (id, secret) = plane.key(OPERATOR, json!({"name": "Some key"})).await;
    let mut client = gateway.connect().await;
    assert_eq!(client.chat_stream(&secret, &chat("m", "Hello", false)).await.status, 200);
    assert!(matches!(client.next_chunk().await, Arrival::Chunk { .. }));
    plane.operate("PATCH", &format!("/api/v1/keys/{id}"), json!({"enabled": false})).await.with(200);
    let (rest, _) = client.rest().await;
    let rest = String::from_utf8_lossy(&rest).into_owned();
    assert!(rest.contains("api_key_disabled"), "{rest}");
    gate.open();
}

async fn it_keeps_to_the_protocol_of_key_services(plane: &Plane) {
    let (_, secret) = plane.key(OPERATOR, json!({"name": "Some key"})).await;
    let (url, events) = (plane.url("/v1/keys/{hash}"), plane.url("/v1/keys/events"));
    let mut command = keymeter(&["check", "--source", &url, "--events", &events]);
    command.env("KEYMETER_SOURCE_TOKEN", GATEWAYS).env("KEYMETER_SOURCE_SECRET", secret);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && !said.contains("FAIL") && !said.contains("warn"), "{said}");
}
