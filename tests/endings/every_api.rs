//! Every way for a response to end, for every API, with `on_client_abort: stop` and with `drain`: one settlement, one
//! source of the count and the right charge.

mod exchanges;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use keymeter_core::usage::count_tokens;
use serde_json::Value;

use self::exchanges::{DOCUMENTS, STREAMS};
use crate::support::{
    client::Client,
    gateway::{Gateway, SECRET, one_key},
    scene::{configuration, sum, sum_becomes},
    script::{Gate, Script, Step},
    upstream::ScriptedUpstream,
};

/// One way to ask for a response, and that response in parts. It says "one two ", and states 7 tokens of input and
/// 50 of output.
struct Exchange {
    path: &'static str,
    kind: Kind,
    /// What comes before the part that states the usage.
    text: &'static [&'static str],
    usage: &'static str,
    /// The API's last event, where it is another; the closing bracket of a document.
    end: &'static str,
    /// How the API says that it failed in the middle.
    error: Option<&'static str>,
    /// Whether the answer has text at all.
    says: bool,
    /// Whether the input is stated before the text.
    states_input: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Sse,
    Ndjson,
    Json,
}

/// How a response may end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    Complete,
    GoneBeforeTheHead,
    GoneInTheMiddle,
    GoneAfterUsage,
    GoneAfterTheEnd,
    Reset,
    Truncated,
    TooSlow,
    WithoutLastEvent,
    ErrorEvent,
}

const ENDINGS: [Ending; 10] = [
    Ending::Complete,
    Ending::GoneBeforeTheHead,
    Ending::GoneInTheMiddle,
    Ending::GoneAfterUsage,
    Ending::GoneAfterTheEnd,
    Ending::Reset,
    Ending::Truncated,
    Ending::TooSlow,
    Ending::WithoutLastEvent,
    Ending::ErrorEvent,
];

/// `on_client_abort`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum OnAbort {
    Stop,
    Drain,
}

/// What a settlement leaves behind.
#[derive(Debug, PartialEq)]
struct Settled {
    status: u64,
    reason: Value,
    aborted: bool,
    source: &'static str,
    /// `None`: the prompt, estimated.
    input: Option<u64>,
    output: u64,
}

impl Exchange {
    fn expected(&self, ending: Ending, on_abort: OnAbort) -> Settled {
        let reason = match ending {
            Ending::Reset | Ending::Truncated | Ending::ErrorEvent => "upstream_error".into(),
            Ending::TooSlow => "upstream_timeout".into(),
            _ => Value::Null,
        };
        let stated_output = if self.says { 50 } else { 0 };
        let stated =
            Settled { status: 200, reason, aborted: false, source: "upstream", input: Some(7), output: stated_output };
        let has_more = !self.end.is_empty() || self.ends_with_its_last_byte();
        match (ending, on_abort) {
            (Ending::Complete | Ending::GoneAfterTheEnd, _) => stated,
            (Ending::GoneAfterUsage, _) if !has_more => stated,
            (Ending::GoneBeforeTheHead | Ending::GoneInTheMiddle | Ending::GoneAfterUsage, OnAbort::Drain) => {
                Settled { aborted: true, ..stated }
            }
            (Ending::GoneBeforeTheHead, OnAbort::Stop) => {
                Settled { status: 499, aborted: true, source: "estimated", input: None, output: 0, ..stated }
            }
            (Ending::GoneAfterUsage, OnAbort::Stop) => Settled { aborted: true, source: "estimated", ..stated },
            _ => Settled {
                aborted: ending == Ending::GoneInTheMiddle,
                source: "estimated",
                input: self.states_input.then_some(7),
                output: if self.says { count_tokens("one two ") } else { 0 },
                ..stated
            },
        }
    }

    /// What the upstream does; a response that waits for `gate` goes on to its end.
    fn script(&self, ending: Ending, gate: &Gate) -> Script {
        let send = |piece: &str| Step::Send(piece.to_owned().into());
        let (text, usage) = (self.text.iter().map(|piece| send(piece)).collect::<Vec<_>>(), send(self.usage));
        let end = (!self.end.is_empty()).then(|| send(self.end));
        let wait = || Step::Wait(gate.clone());
        let steps = match ending {
            Ending::Complete => [text, vec![usage], end.into_iter().collect(), vec![Step::Finish]].concat(),
            Ending::GoneBeforeTheHead => {
                [vec![wait()], text, vec![usage], end.into_iter().collect(), vec![Step::Finish]].concat()
            }
            Ending::GoneInTheMiddle => {
                [text, vec![wait(), usage], end.into_iter().collect(), vec![Step::Finish]].concat()
            }
            Ending::GoneAfterUsage => {
                [text, vec![usage, wait()], end.into_iter().collect(), vec![Step::Finish]].concat()
            }
            Ending::GoneAfterTheEnd => {
                let finish = self.ends_with_its_last_byte().then_some(Step::Finish);
                [text, vec![usage], end.into_iter().chain(finish).collect()].concat()
            }
            Ending::Reset => [text, vec![Step::Reset]].concat(),
            Ending::Truncated => [text, vec![Step::Close]].concat(),
            Ending::TooSlow => text,
            Ending::WithoutLastEvent => [text, vec![Step::Finish]].concat(),
            Ending::ErrorEvent => [text, self.error.map(send).into_iter().collect(), vec![Step::Finish]].concat(),
        };
        let content_type = match self.kind {
            Kind::Sse => "text/event-stream",
            Kind::Ndjson => "application/x-ndjson",
            Kind::Json => "application/json",
        };
        Script { status: 200, headers: vec![("content-type".to_owned(), content_type.to_owned())], steps }
    }

    /// Gemini's events have no last one that says so.
    fn ends_with_its_last_byte(&self) -> bool {
        self.path.ends_with("alt=sse")
    }

    /// The bytes that the client has before it goes away.
    fn read_before_leaving(&self, ending: Ending) -> Option<usize> {
        let text: usize = self.text.iter().map(|piece| piece.len()).sum();
        match ending {
            Ending::GoneBeforeTheHead => Some(0),
            Ending::GoneInTheMiddle => Some(text),
            Ending::GoneAfterUsage => Some(text + self.usage.len()),
            Ending::GoneAfterTheEnd if self.ends_with_its_last_byte() => None,
            Ending::GoneAfterTheEnd => Some(text + self.usage.len() + self.end.len()),
            _ => None,
        }
    }

    fn body(&self) -> (&'static str, &'static [u8]) {
        match self.path {
            "/v1/audio/transcriptions" => ("multipart/form-data; boundary=b", FORM),
            "/v1/messages" | "/v1/chat/completions" | "/api/chat" => ("application/json", MESSAGES),
            path if path.starts_with("/v1beta") => ("application/json", CONTENTS),
            _ => ("application/json", PLAIN),
        }
    }
}

const FORM: &[u8] = b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nRIFF\r\n\
    --b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b--\r\n";
const MESSAGES: &[u8] = br#"{"model":"m","stream":true,"stream_options":{"include_usage":true},"max_tokens":60,
    "messages":[{"role":"user","content":"Say two short words, please."}]}"#;
const CONTENTS: &[u8] = br#"{"contents":[{"parts":[{"text":"Say two short words, please."}]}]}"#;
const PLAIN: &[u8] = br#"{"model":"m","stream":true,"stream_options":{"include_usage":true},
    "prompt":"Say two short words, please.","input":"Say two short words, please.","query":"What?","documents":["That."]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn with_stop_every_ending_of_every_api_is_settled_once() {
    every_ending_is_settled_once(OnAbort::Stop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_drain_every_ending_of_every_api_is_settled_once() {
    every_ending_is_settled_once(OnAbort::Drain).await;
}

async fn every_ending_is_settled_once(on_abort: OnAbort) {
    for exchange in STREAMS.iter().chain(DOCUMENTS) {
        for ending in ENDINGS {
            if ending != Ending::ErrorEvent || exchange.error.is_some() {
                is_settled_once(exchange, ending, on_abort).await;
            }
        }
    }
}

/// Waits until the reset of a client that left has come to the server's side, from where on no write to it succeeds. Under
/// load that takes a moment, in which the response's end would still be taken for delivered.
async fn reset_arrives(server: SocketAddr, client: SocketAddr) {
    let ends = [server, client].map(|end| format!("{:04X}", end.port()));
    let is_there = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        table.lines().any(|line| {
            let addresses = line.split_whitespace().skip(1).take(2);
            addresses.filter_map(|address| address.rsplit(':').next()).eq(&ends)
        })
    };
    let start = Instant::now();
    while is_there() {
        assert!(start.elapsed() < Duration::from_secs(10), "the connection is still there");
        tokio::task::yield_now().await;
    }
}

async fn is_settled_once(exchange: &Exchange, ending: Ending, on_abort: OnAbort) {
    let name = format!("{} {:?} {on_abort:?}", exchange.path, ending);
    println!("{name}");
    let gate = Gate::new();
    let upstream = upstream(exchange.script(ending, &gate), exchange.script(Ending::Complete, &gate)).await;
    let gateway = gateway(&upstream, ending, on_abort);
    let mut client = gateway.connect().await;
    ask(&mut client, exchange).await;
    if let Some(bytes) = exchange.read_before_leaving(ending) {
        read(&mut client, bytes, &upstream).await;
        let left = client.address();
        client.abort();
        if on_abort == OnAbort::Drain {
            reset_arrives(gateway.address(), left).await;
            gate.open();
        }
    } else {
        client.head().await;
        client.rest().await;
    }
    sum_becomes(&gateway, "keymeter_requests_total{", 1.0).await;
    let line = gateway.next_line();
    let expected = exchange.expected(ending, on_abort);
    assert_eq!(settled(&line, &expected), expected, "{name}: {line}");
    assert!(line["input_tokens"].as_u64().unwrap() > 0, "{name}: {line}");
    assert_eq!(sum(&gateway, "keymeter_usage_total{").await, 1.0, "{name}: one source");
    assert_eq!(sum(&gateway, "keymeter_requests_in_flight{").await, 0.0, "{name}");
    let aborts = gateway.metric("keymeter_client_aborts_total").await;
    assert_eq!(aborts, f64::from(u8::from(expected.aborted)), "{name}");
    let mut next = gateway.connect().await;
    ask(&mut next, exchange).await;
    assert_eq!(next.head().await.status, 200, "{name}: the place is free again");
    next.rest().await;
    assert_eq!(gateway.next_line()["usage_source"], "upstream", "{name}: one line a request");
}

fn settled(line: &Value, expected: &Settled) -> Settled {
    let source = ["upstream", "estimated", "none"].into_iter().find(|source| line["usage_source"] == *source);
    Settled {
        status: line["status"].as_u64().unwrap(),
        reason: line["reason"].clone(),
        aborted: line["client_aborted"].as_bool().unwrap(),
        source: source.unwrap(),
        input: expected.input.and(line["input_tokens"].as_u64()),
        output: line["output_tokens"].as_u64().unwrap(),
    }
}

/// An upstream that answers its first request so, and further ones otherwise.
async fn upstream(first: Script, next: Script) -> ScriptedUpstream {
    let asked = std::sync::atomic::AtomicBool::new(false);
    ScriptedUpstream::start(move |_| {
        let is_first = !asked.swap(true, std::sync::atomic::Ordering::Relaxed);
        if is_first { first.clone() } else { next.clone() }
    })
    .await
}

fn gateway(upstream: &ScriptedUpstream, ending: Ending, on_abort: OnAbort) -> Gateway {
    let read_timeout = if ending == Ending::TooSlow { "200ms" } else { "10m" };
    let upstreams = format!(
        "{{name: all, url: \"{}\", models: [m], apis: [openai, anthropic, ollama, gemini], read_timeout: {read_timeout}}}",
        upstream.url()
    );
    let extra = match on_abort {
        OnAbort::Stop => "on_client_abort: stop",
        OnAbort::Drain => "on_client_abort: drain",
    };
    Gateway::start(&configuration(&upstreams, "", extra), &one_key(", limits: {concurrent_requests: 1}"))
}

async fn ask(client: &mut Client, exchange: &Exchange) {
    let (content_type, body) = exchange.body();
    client.send("POST", exchange.path, &[("x-api-key", SECRET), ("content-type", content_type)], body).await;
}

/// Reads so many bytes of the response; none: not even its head, but the upstream has the request.
async fn read(client: &mut Client, bytes: usize, upstream: &ScriptedUpstream) {
    upstream.wait_for_request(1).await;
    if bytes == 0 {
        return;
    }
    client.head().await;
    let mut had = 0;
    while had < bytes {
        match client.next_chunk().await {
            crate::support::client::Arrival::Chunk { data, .. } => had += data.len(),
            end => panic!("{end:?} after {had} bytes"),
        }
    }
}
