//! What a response used is counted as its upstream states it, while its bytes pass to the client
//! unchanged and at once.

mod costs;

use keymeter_core::usage::count_tokens;
use serde_json::{Value, json};

use crate::support::{
    client::{Arrival, Client, events},
    gateway::{Gateway, SECRET, one_key},
    scene::{DONE, chat, configuration, event, post, says, stream, uses},
    script::{Gate, Script, Step, completion, usage},
    upstream::{Received, ScriptedUpstream},
};

/// A stream in one server's dialect, and what it used.
struct Dialect {
    name: &'static str,
    stream: String,
    /// The part that only a client that asked for its usage gets.
    extra: String,
    source: &'static str,
    output: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streams_usage_is_counted_and_its_event_taken_out() {
    let upstream = ScriptedUpstream::start(|request| Script::stream_of(request, 5, &usage(7, 5))).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    let head = client.chat_stream(SECRET, &json!({"model": "m", "stream": true, "messages": []})).await;
    assert_eq!(head.status, 200);
    let (body, end) = client.rest().await;
    assert_eq!(end, Arrival::End);
    let events = events(&body);
    assert!(!events.iter().any(|event| event.contains("\"usage\":{")), "{events:?}");
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    assert!(upstream.received()[0].asks_for_usage());
    gateway.metric_becomes(r#"keymeter_tokens_total{key_id="key_test",model="other",type="output"}"#, 5.0).await;
    gateway.metric_becomes(r#"keymeter_tokens_total{key_id="key_test",model="other",type="input"}"#, 7.0).await;
    let line = gateway.next_line();
    assert_eq!((&line["usage_source"], &line["output_tokens"]), (&"upstream".into(), &5.into()));
}

/// Streams of two words, `one two`, that cost 7 tokens and 5 where somebody says so.
fn dialects() -> Vec<Dialect> {
    let words = || says("one ") + &says("two ");
    let finish = event(r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#);
    let plain = words() + &finish + &uses(7, 5) + DONE;
    let stated = |name, stream: String, extra: String| Dialect { name, stream, extra, source: "upstream", output: 5 };
    let estimated = |name, stream: String, text| Dialect {
        name,
        stream,
        extra: String::new(),
        source: "estimated",
        output: count_tokens(text),
    };
    let with = |usage: &str, text: &str| {
        event(&format!(r#"{{"choices":[{{"index":0,"delta":{{"content":"{text}"}}}}],"usage":{usage}}}"#))
    };
    let counts = |completion: u64| {
        format!(r#"{{"prompt_tokens":7,"completion_tokens":{completion},"total_tokens":{}}}"#, 7 + completion)
    };
    let null_choices = event(&format!(r#"{{"id":"c","choices":null,"usage":{}}}"#, counts(5)));
    let no_choices = event(&format!(r#"{{"id":"c","usage":{}}}"#, counts(5)));
    let fractions = event(r#"{"choices":[],"usage":{"prompt_tokens":"7","completion_tokens":5.4}}"#);
    let in_choice =
        event(&format!(r#"{{"choices":[{{"index":0,"delta":{{}},"finish_reason":"stop","usage":{}}}]}}"#, counts(5)));
    let error = event(r#"{"error":{"message":"out of memory","type":"server_error","param":null,"code":500}}"#);
    let call = event(
        r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"name":"look_up","arguments":"{\"word\": \"sea\"}"}}]}}]}"#,
    );
    vec![
        stated("plain", plain.clone(), uses(7, 5)),
        stated("CRLF", plain.replace('\n', "\r\n"), uses(7, 5).replace('\n', "\r\n")),
        stated("`data:` without a space", plain.replace("data: ", "data:"), uses(7, 5).replace("data: ", "data:")),
        stated("comments", format!(": hello\n\n{}: ping\n\n{finish}: ping\n{}{DONE}", words(), uses(7, 5)), uses(7, 5)),
        stated("fields", plain.replace("data:", "event: x\nid: 1\ndata:"), format!("event: x\nid: 1\n{}", uses(7, 5))),
        stated(
            "`usage: null` on every chunk",
            with("null", "one ") + &with("null", "two ") + &uses(7, 5) + DONE,
            uses(7, 5),
        ),
        stated(
            "cumulative usage on every chunk",
            with(&counts(1), "one ") + &with(&counts(5), "two ") + &uses(7, 5) + DONE,
            uses(7, 5),
        ),
        stated(
            "usage on the last content chunk",
            with("null", "one ") + &with(&counts(5), "two ") + DONE,
            String::new(),
        ),
        stated("`choices: null`", words() + &finish + &null_choices + DONE, null_choices.clone()),
        stated("no `choices`", words() + &finish + &no_choices + DONE, no_choices.clone()),
        stated("usage inside the last choice", words() + &in_choice + DONE, String::new()),
        stated("fractions and quotes", words() + &finish + &fractions + DONE, fractions.clone()),
        stated("no [DONE]", words() + &finish + &uses(7, 5), uses(7, 5)),
        stated("usage before the last words", says("one ") + &uses(7, 5) + &says("two ") + DONE, uses(7, 5)),
        stated("zero, then text, then the truth", with(&counts(0), "one ") + &uses(7, 5) + DONE, uses(7, 5)),
        Dialect { output: 0, ..stated("zero and no text", finish.clone() + &uses(7, 0) + DONE, uses(7, 0)) },
        estimated("an error event in the middle", words() + &error + DONE, "one two "),
        estimated("no usage at all", words() + &finish + DONE, "one two "),
        // The tags around a call take 7 more.
        Dialect {
            output: count_tokens(r#"look_up{"word": "sea"}"#) + 7,
            ..estimated("a tool call and no usage", call + DONE, "")
        },
        Dialect {
            extra: uses(7, 0),
            ..estimated("zero in spite of text", words() + &finish + &uses(7, 0) + DONE, "one two ")
        },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_in_every_dialect_pass_unchanged_and_are_counted() {
    let upstream = ScriptedUpstream::start(|request| {
        let pieces = request.header("x-pieces").and_then(|size| size.parse().ok()).unwrap_or(usize::MAX);
        let dialects = dialects();
        let dialect = dialects.iter().find(|dialect| request.json()["model"] == dialect.name).expect("a dialect");
        let pieces = dialect.stream.as_bytes().chunks(pieces).map(|piece| String::from_utf8_lossy(piece).into_owned());
        stream(pieces).then(Step::Finish)
    });
    let upstream = upstream.await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    for dialect in dialects() {
        for pieces in ["7", "64", "100000"] {
            for wants_usage in [true, false] {
                passes(&gateway, &mut client, &dialect, pieces, wants_usage).await;
            }
        }
    }
    assert_eq!(upstream.connections_opened(), 1, "every stream left its connection fit for the next");
}

async fn passes(gateway: &Gateway, client: &mut Client, dialect: &Dialect, pieces: &str, wants_usage: bool) {
    let Dialect { name, stream, extra, source, output } = dialect;
    let authorization = format!("Bearer {SECRET}");
    let headers = [("authorization", authorization.as_str()), ("x-pieces", pieces)];
    let body = chat(name, "Say one two.", wants_usage).to_string();
    let response = client.request("POST", "/v1/chat/completions", &headers, body.as_bytes()).await;
    let expected =
        if wants_usage || extra.is_empty() { stream.clone() } else { stream.replacen(extra.as_str(), "", 1) };
    assert_eq!(response.text(), expected, "{name} in pieces of {pieces}, asked for usage: {wants_usage}");
    let line = gateway.next_line();
    let counted = (line["usage_source"].as_str(), line["output_tokens"].as_u64());
    assert_eq!(counted, (Some(*source), Some(*output)), "{name} in pieces of {pieces}: {line}");
    if *source == "upstream" {
        assert_eq!(line["input_tokens"], 7, "{name}: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_chunk_arrives_before_the_next_is_sent() {
    let events = [says("one "), says("two "), says("three "), uses(7, 3), DONE.to_owned()];
    let pieces = [
        r#"{"choices":[{"index":0,"message":"#,
        r#"{"content":"one two"}}],"usage""#,
        r#":{"prompt_tokens":7,"completion_tokens":3}}"#,
    ];
    for (name, content_type, pieces, wants_usage) in [
        ("a stream as it is", "text/event-stream", events.to_vec(), true),
        ("a stream less its usage", "text/event-stream", events.to_vec(), false),
        ("half events", "text/event-stream", halves(&events[..3]), true),
        ("half events of a stream less its usage", "text/event-stream", halves(&events[..3]), false),
        ("JSON", "application/json", pieces.map(str::to_owned).to_vec(), true),
    ] {
        let gate = Gate::new();
        let script = gated(content_type, &pieces, &gate);
        let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
        let gateway = Gateway::before(&upstream);
        let mut client = gateway.connect().await;
        client
            .send(
                "POST",
                "/v1/chat/completions",
                &[("x-api-key", SECRET)],
                chat("m", "", wants_usage).to_string().as_bytes(),
            )
            .await;
        for (number, piece) in pieces.iter().enumerate() {
            gate.pass_one();
            if number == 0 {
                assert_eq!(client.head().await.status, 200, "{name}");
            }
            if wants_usage || *piece != uses(7, 3) {
                arrives(name, &mut client, piece).await;
            }
        }
        gate.open();
        assert_eq!(client.next_chunk().await, Arrival::End, "{name}");
    }
}

/// The bytes of `piece`, in however many chunks, and not one more.
async fn arrives(name: &str, client: &mut Client, piece: &str) {
    let mut arrived = Vec::new();
    while arrived.len() < piece.len() {
        match client.next_chunk().await {
            Arrival::Chunk { data, .. } => arrived.extend_from_slice(&data),
            end => panic!("{name}: {end:?} before {piece:?} was there"),
        }
    }
    assert_eq!(String::from_utf8(arrived).unwrap(), piece, "{name}");
}

/// Each event in two pieces, cut within its text.
fn halves(events: &[String]) -> Vec<String> {
    let cut = |event: &String| {
        let (one, other) = event.split_at(event.find("content").unwrap() + 12);
        [one.to_owned(), other.to_owned()]
    };
    events.iter().flat_map(cut).collect()
}

/// A chunked response each piece of which waits for the gate.
fn gated(content_type: &str, pieces: &[String], gate: &Gate) -> Script {
    let steps = pieces.iter().flat_map(|piece| [Step::Wait(gate.clone()), Step::Send(piece.clone().into())]);
    let steps = steps.chain([Step::Wait(gate.clone()), Step::Finish]).collect();
    Script { status: 200, headers: vec![("content-type".to_owned(), content_type.to_owned())], steps }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_usage_event_goes_to_the_client_that_asks_for_it() {
    let upstream = ScriptedUpstream::start(|request| Script::stream_of(request, 3, &usage(7, 3))).await;
    let gateway = Gateway::before(&upstream);
    for path in ["/v1/chat/completions", "/v1/completions"] {
        for (options, gets_it) in [
            (json!({"include_usage": true}), true),
            (json!({"include_usage": false}), false),
            (json!({}), false),
            (Value::Null, false),
        ] {
            let mut body = json!({"model": "m", "stream": true, "prompt": "", "messages": []});
            if !options.is_null() {
                body["stream_options"] = options.clone();
            }
            let response = post(&mut gateway.connect().await, path, SECRET, &body).await;
            assert_eq!(response.text().contains("\"usage\""), gets_it, "{path} {options}: {}", response.text());
            assert!(response.text().ends_with(DONE), "{path} {options}");
            assert!(upstream.received().last().unwrap().asks_for_usage(), "{path} {options}");
            let line = gateway.next_line();
            assert_eq!((&line["usage_source"], &line["output_tokens"]), (&"upstream".into(), &3.into()), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_refuses_stream_options_twice_is_asked_without_them_from_then_on() {
    for (inject, status, asked) in [
        ("auto", 200, vec![true, false, true, false, false]),
        ("always", 400, vec![true; 3]),
        ("never", 200, vec![false; 3]),
    ] {
        let upstream = ScriptedUpstream::start(|request| {
            if request.asks_for_usage() {
                Script::error(400, "invalid_request_error", "stream_options is not supported")
            } else {
                Script::stream_of(request, 2, &usage(7, 2))
            }
        });
        let upstream = upstream.await;
        let entry = format!(r#"{{name: scripted, url: "{}", inject_usage: {inject}}}"#, upstream.url());
        let gateway = Gateway::start(&configuration(&entry, "", ""), &one_key(""));
        for _ in 0..3 {
            assert_eq!(gateway.chat(&chat("m", "", false)).await.status, status, "{inject}");
            let source = if status == 200 { "estimated" } else { "none" };
            assert_eq!(gateway.next_line()["usage_source"], source, "{inject}");
        }
        let received: Vec<bool> = upstream.received().iter().map(Received::asks_for_usage).collect();
        assert_eq!(received, asked, "{inject}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_one_piece_passes_unchanged_and_is_counted() {
    let answer = completion("m", 4);
    let mut silent = answer.clone();
    silent.as_object_mut().unwrap().remove("usage");
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    let embedding = json!({"object": "list", "data": [{"index": 0, "embedding": [0.1, -2.5e-3]}], "usage": {"prompt_tokens": 9, "total_tokens": 9}});
    let total = json!({"object": "list", "data": [], "usage": {"total_tokens": 9}});
    let (chat, embeddings) = ("/v1/chat/completions", "/v1/embeddings");
    for (name, path, answer, source, output) in [
        ("an answer", chat, &answer, "upstream", 4),
        ("an answer without usage", chat, &silent, "estimated", count_tokens(text)),
        ("embeddings", embeddings, &embedding, "upstream", 0),
        ("embeddings with a total only", embeddings, &total, "upstream", 0),
    ] {
        // Spaces and line ends are as they were, whatever we make of the JSON.
        let sent = serde_json::to_string_pretty(answer).unwrap();
        let body = sent.clone();
        let upstream = ScriptedUpstream::start(move |_| json_text(&body)).await;
        let gateway = Gateway::before(&upstream);
        let asked =
            json!({"model": "m", "messages": [{"role": "user", "content": "four words"}], "input": "four words"});
        let response = post(&mut gateway.connect().await, path, SECRET, &asked).await;
        assert_eq!(response.text(), sent, "{name}");
        assert_eq!(response.header("content-length"), Some(sent.len().to_string().as_str()), "{name}");
        let line = gateway.next_line();
        assert_eq!((&line["usage_source"], &line["output_tokens"]), (&source.into(), &output.into()), "{name}: {line}");
        let input = answer["usage"]["prompt_tokens"].as_u64().or(answer["usage"]["total_tokens"].as_u64());
        if let Some(input) = input {
            assert_eq!(line["input_tokens"], input, "{name}: {line}");
        } else {
            assert!(line["input_tokens"].as_u64().unwrap() > 0, "{name}: {line}");
        }
        assert_eq!(upstream.received()[0].json(), asked, "{name}: asked as the client did");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_that_are_stated_each_with_its_choice_are_all_counted() {
    let response = include_str!("fixtures/usage/servers/llama-cpp-prompts.sse");
    let upstream = ScriptedUpstream::start(move |_| stream([response]).then(Step::Finish)).await;
    let gateway = Gateway::before(&upstream);
    let asked = json!({"model": "m", "stream": true, "prompt": ["the moon", "two and two are"]});
    let received = post(&mut gateway.connect().await, "/v1/completions", SECRET, &asked).await;
    assert_eq!(received.text(), response);
    let line = gateway.next_line();
    let counts = ["input_tokens", "cached_input_tokens", "output_tokens"].map(|field| line[field].as_u64());
    assert_eq!(counts, [Some(6), Some(2), Some(6)], "{line}");
    assert_eq!(line["usage_source"], "upstream");
}

fn json_text(text: &str) -> Script {
    let length = text.len().to_string();
    Script::hang()
        .with_header("content-type", "application/json; charset=utf-8")
        .with_header("content-length", &length)
        .then(Step::Send(text.to_owned().into()))
        .then(Step::Finish)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_response_is_does_not_depend_on_what_was_asked_for() {
    let answer = completion("m", 4).to_string();
    let events = [says("one "), uses(7, 5), DONE.to_owned()];
    for (asks_for_stream, response, output) in [
        (true, json_text(&answer), 4),
        (false, stream(events.clone()).then(Step::Finish), 5),
        (false, Script { headers: vec![], ..stream([answer.clone()]).then(Step::Finish) }, 4),
        (true, Script { headers: vec![], ..stream(events).then(Step::Finish) }, 5),
    ] {
        let upstream = ScriptedUpstream::start(move |_| response.clone()).await;
        let gateway = Gateway::before(&upstream);
        let mut body = chat("m", "", true);
        body["stream"] = asks_for_stream.into();
        if !asks_for_stream {
            body.as_object_mut().unwrap().remove("stream_options");
        }
        let response = gateway.chat(&body).await;
        assert_eq!(response.status, 200);
        let line = gateway.next_line();
        assert_eq!((&line["usage_source"], &line["output_tokens"]), (&"upstream".into(), &output.into()), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_are_not_asked_to_compress() {
    let upstream = ScriptedUpstream::start(|_| Script::json(200, &completion("m", 1))).await;
    let gateway = Gateway::before(&upstream);
    let headers = [("x-api-key", SECRET), ("accept-encoding", "gzip, br")];
    let body = chat("m", "", false).to_string();
    gateway.connect().await.request("POST", "/v1/chat/completions", &headers, body.as_bytes()).await;
    assert_eq!(upstream.received()[0].header("accept-encoding"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_counted_by_where_it_came_from_and_first_tokens_are_timed() {
    let upstream = ScriptedUpstream::start(|request| match request.json()["model"].as_str() {
        Some("stated") => stream([says("one "), says("two "), uses(7, 5), DONE.to_owned()]).then(Step::Finish),
        Some("unstated") => stream([says("one two "), DONE.to_owned()]).then(Step::Finish),
        _ => Script::error(404, "invalid_request_error", "no such model"),
    });
    let upstream = upstream.await;
    let gateway = Gateway::before(&upstream);
    for (model, source, timed) in [("stated", "upstream", 1.0), ("unstated", "estimated", 2.0), ("none", "none", 2.0)] {
        gateway.chat(&chat(model, "", false)).await;
        let line = gateway.next_line();
        assert_eq!(line["usage_source"], source, "{model}");
        assert_eq!(line["time_to_first_token_ms"].is_number(), source != "none", "{line}");
        gateway.metric_becomes(&format!(r#"keymeter_usage_total{{source="{source}"}}"#), 1.0).await;
        let count = |name: &str| format!(r#"keymeter_{name}_seconds_count{{model="other",upstream="scripted"}}"#);
        gateway.metric_becomes(&count("time_to_first_token"), timed).await;
        gateway.metric_becomes(&count("time_per_output_token"), timed).await;
    }
    let all = r#"keymeter_request_duration_seconds_count{model="other",upstream="scripted"}"#;
    gateway.metric_becomes(all, 3.0).await;
}
