//! `server.heartbeat`: a stream whose upstream is silent gets comments, between events only.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{
    client::{Arrival, Client, events, within_limit},
    gateway::{Gateway, SECRET, config, one_key},
    h2c::H2c,
    scene::{DONE, says, stream, uses},
    script::{Gate, Script, Step, completion},
    upstream::ScriptedUpstream,
};

const COMMENT: &str = ": keep-alive\n\n";

fn beating(upstream: &ScriptedUpstream, extra: &str) -> Gateway {
    Gateway::start(&config(upstream, extra).replace("server: {", "server: {heartbeat: 1s, "), &one_key(""))
}

async fn next(client: &mut Client) -> String {
    match within_limit(Duration::from_secs(5), "a piece of the stream", client.next_chunk()).await {
        Arrival::Chunk { data, .. } => String::from_utf8(data.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn asking() -> serde_json::Value {
    json!({"model": "m", "stream": true, "messages": []})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_gets_comments_between_its_events_and_counts_the_same() {
    for extra in ["", "on_client_abort: drain", "on_revoke: finish"] {
        let gate = Gate::new();
        let held = gate.clone();
        // A silence after the head, one between two events and one before the end.
        let script = Script {
            steps: [
                vec![Step::Head, Step::Wait(held.clone())],
                stream([says("one "), says("two ")]).steps,
                vec![Step::Wait(held)],
                stream([uses(7, 50), DONE.to_owned()]).steps,
                vec![Step::Finish],
            ]
            .concat(),
            ..Script::sse(&[])
        };
        let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
        let gateway = beating(&upstream, extra);
        let mut client = gateway.connect().await;
        assert_eq!(client.chat_stream(SECRET, &asking()).await.status, 200);
        let start = Instant::now();
        assert_eq!([next(&mut client).await, next(&mut client).await], [COMMENT, COMMENT], "{extra}");
        assert!(start.elapsed() >= Duration::from_millis(1900), "{:?}", start.elapsed());
        gate.pass_one();
        let mut came = String::new();
        while !came.ends_with(COMMENT) {
            came += &next(&mut client).await;
        }
        assert_eq!(events(came.as_bytes()).len(), 2, "{came}");
        gate.open();
        let (rest, end) = client.rest().await;
        let rest = String::from_utf8(rest).unwrap();
        assert!(rest.ends_with("data: [DONE]\n\n") && end == Arrival::End, "{rest}");
        let line = gateway.next_line();
        assert_eq!((&line["input_tokens"], &line["output_tokens"]), (&json!(7), &json!(50)), "{extra}: {line}");
        assert_eq!(line["client_aborted"], false, "{extra}");
        assert_eq!(client.chat_stream(SECRET, &asking()).await.status, 200, "the connection is kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn none_comes_within_an_event_or_after_the_last() {
    let gate = Gate::new();
    let parts = ["data: {\"choices\":[{\"index\":0,\"del", "ta\":{\"content\":\"one \"}}]}\n", "\ndata: [DONE]\n\n"];
    let steps = parts.iter().flat_map(|part| [Step::Send((*part).into()), Step::Wait(gate.clone())]);
    let script = Script { steps: steps.chain([Step::Finish]).collect(), ..Script::sse(&[]) };
    let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
    let gateway = beating(&upstream, "");
    let mut client = gateway.connect().await;
    client.chat_stream(SECRET, &asking()).await;
    let mut came = String::new();
    for _ in 0..3 {
        came += &next(&mut client).await;
        let silence = tokio::time::timeout(Duration::from_millis(1500), client.next_chunk()).await;
        assert!(silence.is_err(), "{silence:?} after {came:?}");
        gate.pass_one();
    }
    assert_eq!(came, parts.concat());
    assert_eq!(client.rest().await, (Vec::new(), Arrival::End));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_plain_stream_of_events_gets_none() {
    let body = completion("m", 3).to_string();
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    for headers in [
        vec![header("content-type", "application/json")],
        vec![header("content-type", "application/x-ndjson")],
        vec![header("content-type", "text/event-stream"), header("content-encoding", "gzip")],
        vec![header("content-type", "text/event-stream"), header("content-length", &body.len().to_string())],
    ] {
        let steps =
            vec![Step::Head, Step::Pause(Duration::from_millis(1500)), Step::Send(body.clone().into()), Step::Finish];
        let script = Script { status: 200, headers: headers.clone(), steps };
        let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
        let gateway = beating(&upstream, "");
        let answer = gateway.chat(&json!({"model": "m"})).await;
        assert_eq!(answer.text(), body, "{headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http2_gets_them_too() {
    let gate = Gate::new();
    let script = stream([says("one "), DONE.to_owned()]).gated(1, &gate).then(Step::Finish);
    let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
    let gateway = beating(&upstream, "");
    let client = H2c::connect(gateway.address()).await;
    let mut answer = client.send(SECRET, asking().to_string().as_bytes()).await.head().await;
    let mut came = String::new();
    while !came.ends_with(COMMENT) {
        came += str::from_utf8(&answer.piece().await.unwrap()).unwrap();
    }
    gate.open();
    assert!(String::from_utf8(answer.rest().await).unwrap().ends_with("data: [DONE]\n\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_its_exchange() {
    let upstream = ScriptedUpstream::start(|_| Script { steps: vec![Step::Head], ..Script::sse(&[]) }).await;
    let gateway = beating(&upstream, "");
    let mut client = gateway.connect().await;
    client.chat_stream(SECRET, &asking()).await;
    assert_eq!(next(&mut client).await, COMMENT);
    client.abort();
    assert!(upstream.wait_for_closed(1).await.mid_response);
    assert_eq!(gateway.next_line()["client_aborted"], true);
}
