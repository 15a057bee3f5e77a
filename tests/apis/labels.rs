//! Answers whose Content-Type is wrong or missing. None is free for that, and each holds its place to its last byte.

use keymeter_core::usage::count_tokens;
use serde_json::json;

use super::{CASES, Case, JSON, NDJSON, SSE};
use crate::support::{
    client::{Arrival, Client},
    gateway::{Gateway, SECRET, one_key},
    scene::{DONE, chat, configuration, says, uses},
    script::{Gate, Script, Step, completion},
    upstream::{Received, ScriptedUpstream},
};

/// What a Content-Type may say; the empty one is none.
const LABELS: [&str; 6] = [SSE, JSON, NDJSON, "text/plain; charset=utf-8", "application/octet-stream", ""];
/// What may stand before an answer.
const BEFORE: [&str; 3] = ["", "\u{feff}", "\r\n \u{feff}\n"];

const PAGE: &str = "<html><body>We are sorry, and something went wrong.</body></html>";

fn labelled(label: &str, steps: Vec<Step>) -> Script {
    let headers = [("content-type".to_owned(), label.to_owned())].into_iter().filter(|_| !label.is_empty());
    Script { status: 200, headers: headers.collect(), steps }
}

fn send(piece: &str) -> Step {
    Step::Send(piece.to_owned().into())
}

/// A gateway before an upstream that speaks every API, for a key with these limits.
fn gateway(upstream: &ScriptedUpstream, limits: &str) -> Gateway {
    super::gateway(upstream, limits)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_any_api_is_counted_alike_under_any_content_type() {
    let upstream = ScriptedUpstream::start(|request| {
        let number = |name: &str| request.header(name).unwrap().parse::<usize>().unwrap();
        let case = &CASES[number("x-case")];
        let pieces = [BEFORE[number("x-before")]].into_iter().filter(|before| !before.is_empty());
        let pieces = pieces.chain(case.answer.iter().copied()).map(send);
        labelled(LABELS[number("x-label")], pieces.chain([Step::Finish]).collect())
    });
    let upstream = upstream.await;
    let gateway = gateway(&upstream, "");
    let mut client = gateway.connect().await;
    for (number, case) in CASES.iter().enumerate() {
        for (label_number, label) in LABELS.iter().enumerate() {
            for (before_number, before) in BEFORE.iter().enumerate() {
                let numbers = [number, label_number, before_number].map(|number| number.to_string());
                let headers = [
                    ("x-api-key", SECRET),
                    ("content-type", JSON),
                    ("x-case", &numbers[0]),
                    ("x-label", &numbers[1]),
                    ("x-before", &numbers[2]),
                ];
                let response = client.request("POST", case.path, &headers, case.body.as_bytes()).await;
                let name = format!("{} as {label:?} after {before:?}", case.path);
                assert_eq!(response.text(), format!("{before}{}", case.answer.concat()), "{name}");
                case.is_counted(&name, &gateway.next_line());
            }
        }
    }
}

/// Asks for a chat's stream whose usage event the client does not want.
async fn ask(client: &mut Client) {
    client
        .send("POST", "/v1/chat/completions", &[("x-api-key", SECRET)], chat("m", "", false).to_string().as_bytes())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_usage_that_we_asked_for_is_taken_out_of_a_stream_under_any_content_type() {
    let events = [says("one "), uses(40, 132), DONE.to_owned()];
    for label in LABELS {
        for states_length in [false, true] {
            let mut script = labelled(label, events.iter().map(|event| send(event)).chain([Step::Finish]).collect());
            if states_length {
                script = script.with_header("content-length", &events.concat().len().to_string());
            }
            let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
            let gateway = Gateway::before(&upstream);
            let mut client = gateway.connect().await;
            ask(&mut client).await;
            let response = client.response().await;
            assert_eq!(response.text(), format!("{}{}", events[0], events[2]), "{label:?}");
            let line = gateway.next_line();
            assert_eq!((&line["input_tokens"], &line["output_tokens"]), (&40.into(), &132.into()), "{label:?}: {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_held_to_the_last_byte_whatever_the_content_type() {
    let array = super::CASES.last().unwrap();
    let whole = [says("one "), uses(40, 132), DONE.to_owned()].concat();
    let page = PAGE.to_owned();
    for (path, body, answer, labels) in [
        ("/v1/chat/completions", chat("m", "", true).to_string(), &whole, &[JSON, "text/plain", ""][..]),
        (array.path, array.body.to_owned(), &array.answer.concat(), &[SSE, "text/plain", ""]),
        ("/v1/chat/completions", chat("m", "", true).to_string(), &page, &[JSON, "text/html", ""]),
    ] {
        for label in labels {
            let gate = Gate::new();
            let (begun, rest) = answer.split_at(answer.len() - 6);
            let steps = vec![send(begun), Step::Wait(gate.clone()), send(rest), Step::Finish];
            let script = labelled(label, steps);
            let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
            let gateway = gateway(&upstream, ", limits: {concurrent_requests: 1}");
            let mut client = gateway.connect().await;
            client.send("POST", path, &[("x-api-key", SECRET)], body.as_bytes()).await;
            assert_eq!(client.head().await.status, 200);
            let mut had = 0;
            while had < begun.len() {
                let Arrival::Chunk { data, .. } = client.next_chunk().await else {
                    panic!("{path} as {label:?} ended")
                };
                had += data.len();
            }
            let second = gateway.chat(&json!({"model": "m", "messages": []})).await;
            assert_eq!(second.status, 429, "{path} as {label:?}: {}", second.text());
            assert_eq!(gateway.next_line()["reason"], "rate_limit_exceeded", "{path} as {label:?}");
            gate.open();
            client.rest().await;
            assert_ne!(gateway.next_line()["usage_source"], "none", "{path} as {label:?}");
            let next = gateway.chat(&json!({"model": "m", "messages": []})).await;
            assert_eq!(next.status, 200, "{path} as {label:?}: the place is free again");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_settled_with_its_last_byte_whatever_the_content_type() {
    let answer = format!("\u{feff}\n{}", completion("m", 4));
    for label in [JSON, SSE, "text/plain", ""] {
        let script = labelled(label, vec![send(&answer)]);
        let upstream = ScriptedUpstream::start(move |request: &Received| match request.json()["model"].as_str() {
            Some("next") => Script::json(200, &completion("next", 1)),
            _ => script.clone(),
        });
        let upstream = upstream.await;
        let gateway = Gateway::start(
            &configuration(&format!("{{name: scripted, url: \"{}\"}}", upstream.url()), "", ""),
            &one_key(", limits: {concurrent_requests: 1}"),
        );
        let mut client = gateway.connect().await;
        ask(&mut client).await;
        client.head().await;
        let mut had = 0;
        while had < answer.len() {
            let Arrival::Chunk { data, .. } = client.next_chunk().await else { panic!("{label:?} ended") };
            had += data.len();
        }
        let next = gateway.chat(&json!({"model": "next", "messages": []})).await;
        assert_eq!(next.status, 200, "{label:?}: the connection is still open, and the place is free");
        assert_eq!(gateway.next_line()["model"], "next", "{label:?}");
        client.abort();
        let line = gateway.next_line();
        assert_eq!((&line["output_tokens"], &line["client_aborted"]), (&4.into(), &false.into()), "{label:?}: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_read_is_charged_as_estimated_and_media_never() {
    let sound = "RIFF\u{24}\u{8}\u{0}\u{0}WAVEfmt ";
    let of_chat = count_tokens(PAGE);
    for (path, label, answer, output) in [
        ("/v1/chat/completions", "text/html", PAGE, of_chat),
        ("/v1/chat/completions", "", PAGE, of_chat),
        ("/v1/chat/completions", JSON, PAGE, of_chat),
        ("/v1/messages", "text/plain", PAGE, of_chat),
        ("/api/chat", "text/html", PAGE, of_chat),
        ("/v1/chat/completions", "audio/wav", sound, 0),
        ("/v1/chat/completions", "", sound, 0),
        ("/v1/embeddings", "text/html", PAGE, 0),
        ("/v1/audio/speech", "audio/wav", sound, 0),
        ("/v1/images/generations", "image/png", "\u{89}PNG\r\n", 0),
    ] {
        let script = labelled(label, vec![send(answer), Step::Finish]);
        let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
        let gateway = gateway(&upstream, "");
        let body = r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hello there"}],"prompt":"Hello there","input":"Hello there"}"#;
        let response = super::ask(&gateway, path, ("x-api-key", SECRET), body).await;
        assert_eq!((response.status, response.text().as_str()), (200, answer), "{path} as {label:?}");
        let line = gateway.next_line();
        assert_eq!(
            (&line["usage_source"], &line["output_tokens"]),
            (&"estimated".into(), &output.into()),
            "{path} as {label:?}: {line}"
        );
        assert!(line["input_tokens"].as_u64() > Some(0), "{path} as {label:?}: {line}");
    }
    let free = CASES.iter().find(|case: &&Case| case.path.ends_with("count_tokens")).unwrap();
    let upstream = ScriptedUpstream::start(|_| labelled("text/html", vec![send(PAGE), Step::Finish])).await;
    let gateway = gateway(&upstream, "");
    super::ask(&gateway, free.path, ("x-api-key", SECRET), free.body).await;
    free.is_counted("what the API gives for nothing", &gateway.next_line());
}
