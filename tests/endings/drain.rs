//! `on_client_abort: drain`: whatever else holds of a request holds there too, over HTTP/1.1 and over HTTP/2.

use std::time::{Duration, Instant};

use h2::Reason;
use serde_json::Value;
use tempfile::TempDir;

use super::PROMPT;
use crate::{
    bodies::{SIZES, additions::stream_of, chat_of},
    support::{
        client::events,
        gateway::{Gateway, SECRET, one_key},
        h2_upstream::H2Upstream,
        h2c::H2c,
        scene::{DONE, chat, configuration, says, stream, sum_becomes, uses},
        script::{Gate, Script, Step, completion, usage},
        upstream::ScriptedUpstream,
    },
};

fn draining(url: &str, extra: &str) -> Gateway {
    let upstream = format!("{{name: scripted, url: \"{url}\"}}");
    Gateway::start(&configuration(&upstream, "", &format!("on_client_abort: drain\n{extra}")), &one_key(""))
}

/// An upstream of HTTP/2 and a gateway that trusts it.
async fn over_http2(on_abort: &str, script: Script) -> (H2Upstream, Gateway, TempDir) {
    let upstream = H2Upstream::start(move |_| script.clone()).await;
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, &upstream.certificate).unwrap();
    let entry = format!("{{name: scripted, url: \"{}\", ca: {}}}", upstream.url(), ca.display());
    let extra = format!("on_client_abort: {on_abort}");
    let gateway = Gateway::start(&configuration(&entry, "", &extra), &one_key(""));
    (upstream, gateway, directory)
}

/// Two words, then the rest behind `gate`.
fn gated(gate: &Gate) -> Script {
    stream([says("one "), says("two "), uses(7, 50), DONE.to_owned()]).gated(2, gate).then(Step::Finish)
}

fn is_drained(line: &Value) {
    assert_eq!((&line["client_aborted"], &line["status"]), (&true.into(), &200.into()), "{line}");
    assert_eq!((&line["usage_source"], &line["output_tokens"]), (&"upstream".into(), &50.into()), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_longer_than_the_limit_is_stopped_and_charged_for_what_came() {
    let gate = Gate::new();
    let script = gated(&gate);
    let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
    let gateway = draining(&upstream.url(), "drain_limit: 100ms");
    let mut client = gateway.connect().await;
    client.chat_stream(SECRET, &chat("m", PROMPT, true)).await;
    client.next_chunk().await;
    let left = Instant::now();
    client.abort();
    let closed = upstream.wait_for_closed(1).await;
    assert!(closed.by_peer && closed.at - left >= Duration::from_millis(100), "{:?}", closed.at - left);
    let line = gateway.next_line();
    assert_eq!((&line["client_aborted"], &line["usage_source"]), (&true.into(), &"estimated".into()), "{line}");
    sum_becomes(&gateway, "keymeter_requests_in_flight{", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_every_size_pass_and_connections_are_kept() {
    let upstream = ScriptedUpstream::start(|_| Script::json(200, &completion("m", 4))).await;
    let gateway = draining(&upstream.url(), "");
    let mut client = gateway.connect().await;
    let http2 = H2c::connect(gateway.address()).await;
    for size in SIZES {
        let body = chat_of(size);
        let answer = client.request("POST", super::CHAT, &[("x-api-key", SECRET)], &body).await;
        assert_eq!((answer.status, answer.json()), (200, completion("m", 4)), "{size}");
        assert!(upstream.received().pop().unwrap().body == body, "{size}");
        let (answer, rest) = http2.send(SECRET, &body).await.whole().await;
        assert_eq!((answer.status, rest), (200, completion("m", 4).to_string().into_bytes()), "{size}");
        assert!(upstream.received().pop().unwrap().body == body, "{size}");
    }
    assert_eq!(upstream.connections_opened(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_addition_that_is_refused_is_taken_back_there_too() {
    let upstream = ScriptedUpstream::start(|request| {
        if request.asks_for_usage() {
            return Script::error(400, "invalid_request_error", "unknown field: stream_options");
        }
        Script::stream_of(request, 3, &usage(7, 3))
    });
    let upstream = upstream.await;
    let gateway = draining(&upstream.url(), "");
    let mut client = gateway.connect().await;
    for size in [1000, 100_000, 1000] {
        let answer = client.request("POST", super::CHAT, &[("x-api-key", SECRET)], &stream_of(size)).await;
        assert_eq!((answer.status, events(&answer.body).len()), (200, 5), "{}", answer.text());
        assert!(upstream.received().pop().unwrap().body == stream_of(size), "{size}");
    }
    assert_eq!(upstream.received().len(), 5, "after two refusals the upstream is asked without");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http2_that_resets_its_stream_is_drained() {
    let gate = Gate::new();
    let script = gated(&gate);
    let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
    let gateway = draining(&upstream.url(), "");
    let client = H2c::connect(gateway.address()).await;
    let mut exchange = client.send(SECRET, chat("m", PROMPT, true).to_string().as_bytes()).await;
    upstream.wait_for_request(1).await;
    exchange.body.send_reset(Reason::CANCEL);
    // Frames come in order: when this is answered, the reset is known.
    assert_eq!(client.chat("sk-nobody", &chat("m", PROMPT, true)).await.0.status, 401);
    gate.open();
    assert_eq!(gateway.next_line()["status"], 401);
    is_drained(&gateway.next_line());
    sum_becomes(&gateway, "keymeter_requests_in_flight{", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_of_http2_is_drained() {
    let gate = Gate::new();
    let (upstream, gateway, _certificates) = over_http2("drain", gated(&gate)).await;
    let mut client = gateway.connect().await;
    client.chat_stream(SECRET, &chat("m", PROMPT, true)).await;
    client.next_chunk().await;
    client.abort();
    gate.open();
    is_drained(&gateway.next_line());
    assert_eq!(upstream.bodies().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_stop_the_stream_of_an_upstream_of_http2_is_reset() {
    let gate = Gate::new();
    let (upstream, gateway, _certificates) = over_http2("stop", gated(&gate)).await;
    let mut client = gateway.connect().await;
    client.chat_stream(SECRET, &chat("m", PROMPT, true)).await;
    upstream.wait_for_request(1).await;
    let left = Instant::now();
    client.abort();
    let took = upstream.wait_for_reset().await.saturating_duration_since(left);
    println!("the upstream saw it after {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    let line = gateway.next_line();
    assert_eq!((&line["client_aborted"], &line["usage_source"]), (&true.into(), &"estimated".into()), "{line}");
    gate.open();
    assert_eq!(gateway.chat(&chat("m", PROMPT, true)).await.status, 200, "on the same connection");
}
