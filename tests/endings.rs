//! However a request ends, it is settled once: counted, charged for what was delivered, logged, and its
//! place given back.

mod broken;
mod drain;
mod every_api;
mod failures;

use std::time::{Duration, Instant};

use keymeter_core::usage::count_tokens;
use tokio::net::TcpSocket;

use crate::support::{
    client::{Arrival, Client},
    gateway::{Gateway, SECRET, one_key},
    scene::{DONE, chat, configuration, event, get, post, says, stream, sum, sum_becomes, uses},
    script::{Script, Step, completion},
    upstream::ScriptedUpstream,
};

/// One way for a request to end.
struct Ending {
    name: &'static str,
    upstream: Script,
    client: Behaviour,
    expected: Line,
}

/// What the client does.
#[derive(Clone, Copy)]
enum Behaviour {
    /// It reads to the end, and sees this status.
    Stays(u16),
    /// It goes away before there is a head.
    LeavesBeforeTheHead(Way),
    /// It goes away when it has all that the upstream sends.
    LeavesAfter(Way),
}

#[derive(Clone, Copy)]
enum Way {
    Reset,
    Close,
}

/// What the access log says of the request.
#[derive(Clone, Copy)]
struct Line {
    status: u64,
    reason: Option<&'static str>,
    aborted: bool,
    source: &'static str,
    input: Input,
    output: u64,
}

#[derive(Clone, Copy)]
enum Input {
    /// What the upstream stated.
    Stated(u64),
    /// Roughly what a tokenizer finds in the prompt.
    OfThePrompt,
}

pub const PROMPT: &str = "Please write a few short words about the sea, the sky and the hills, and nothing more.";
pub const CHAT: &str = "/v1/chat/completions";
const NOTHING: Input = Input::Stated(0);

fn upstream_states(output: u64) -> Line {
    Line { status: 200, reason: None, aborted: false, source: "upstream", input: Input::Stated(7), output }
}

fn estimated(text: &str) -> Line {
    let output = count_tokens(text);
    Line { status: 200, reason: None, aborted: false, source: "estimated", input: Input::OfThePrompt, output }
}

fn failed(status: u64, reason: &'static str) -> Line {
    Line { status, reason: Some(reason), aborted: false, source: "none", input: NOTHING, output: 0 }
}

fn aborted(line: Line) -> Line {
    Line { aborted: true, ..line }
}

fn broken(reason: &'static str, line: Line) -> Line {
    Line { reason: Some(reason), ..line }
}

fn silent() -> Script {
    stream(Vec::<String>::new())
}

fn two_words() -> Script {
    stream([says("one "), says("two ")])
}

fn with_usage(prompt: u64, completion: u64) -> Script {
    stream([says("one "), says("two "), uses(prompt, completion)])
}

fn complete() -> Script {
    stream([says("one "), says("two "), uses(7, 5), DONE.to_owned()])
}

/// Half of a JSON answer.
fn half_an_answer() -> Script {
    let half = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"one two "#;
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    Script { status: 200, headers, steps: vec![Step::Send(half.into())] }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_comes_to_its_end_is_settled_once() {
    let error = event(r#"{"error":{"message":"out of memory","type":"server_error","param":null,"code":null}}"#);
    let stays = Behaviour::Stays(200);
    settled_once([
        ending("complete", complete().then(Step::Finish), stays, upstream_states(5)),
        ending("whole JSON", Script::json(200, &completion("m", 4)), stays, upstream_states(4)),
        ending("without [DONE]", with_usage(7, 5).then(Step::Finish), stays, upstream_states(5)),
        ending("without usage or [DONE]", two_words().then(Step::Finish), stays, estimated("one two ")),
        ending(
            "an error event",
            stream([says("one "), error.clone()]).then(Step::Finish),
            stays,
            broken("upstream_error", estimated("one ")),
        ),
        ending(
            "an error event at once",
            stream([error]).then(Step::Finish),
            stays,
            broken("upstream_error", Line { input: NOTHING, source: "none", ..estimated("") }),
        ),
        ending(
            "an upstream's own error",
            Script::error(500, "server_error", "no"),
            Behaviour::Stays(500),
            Line { reason: None, ..failed(500, "") },
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_client_leaves_is_settled_once() {
    let before = Behaviour::LeavesBeforeTheHead;
    let after = Behaviour::LeavesAfter;
    let unanswered = || Line { status: 499, ..estimated("") };
    let stated = |output| Line { source: "estimated", ..upstream_states(output) };
    settled_once([
        ending("before the head", Script::hang(), before(Way::Reset), aborted(unanswered())),
        ending("before the head, politely", Script::hang(), before(Way::Close), aborted(unanswered())),
        ending("before the first byte", silent().then(Step::Head), after(Way::Reset), aborted(estimated(""))),
        ending("in the middle", two_words(), after(Way::Reset), aborted(estimated("one two "))),
        ending("in the middle, politely", two_words(), after(Way::Close), aborted(estimated("one two "))),
        ending("in the middle of JSON", half_an_answer(), after(Way::Reset), aborted(estimated("one two "))),
        ending("before [DONE]", with_usage(7, 50), after(Way::Reset), aborted(stated(50))),
        // The usage event is the last word on the answer, also where a tokenizer finds more.
        ending("before [DONE], understated", with_usage(7, 1), after(Way::Reset), aborted(stated(1))),
        ending(
            "after usage on the way",
            stream([says("one "), uses(7, 1), says("two ")]),
            after(Way::Reset),
            aborted(stated(count_tokens("one two "))),
        ),
        ending("after [DONE]", complete(), after(Way::Reset), upstream_states(5)),
        ending("after [DONE], politely", complete(), after(Way::Close), upstream_states(5)),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_upstream_breaks_is_settled_once() {
    let stays = Behaviour::Stays;
    let after_text = |reason| broken(reason, estimated("one two "));
    let unanswered = stays(502);
    settled_once([
        ending("reset", two_words().then(Step::Reset), stays(200), after_text("upstream_error")),
        ending("truncated", two_words().then(Step::Close), stays(200), after_text("upstream_error")),
        ending("too slow", two_words(), stays(200), after_text("upstream_timeout")),
        ending(
            "reset after usage",
            with_usage(7, 50).then(Step::Reset),
            stays(200),
            Line { source: "estimated", ..broken("upstream_error", upstream_states(50)) },
        ),
        ending("truncated JSON", half_an_answer().then(Step::Close), stays(200), after_text("upstream_error")),
        ending(
            "truncated JSON of a stated length",
            half_an_answer().with_header("content-length", "500").then(Step::Close),
            stays(200),
            after_text("upstream_error"),
        ),
        ending("reset before the head", Script::hang().then(Step::Reset), unanswered, failed(502, "upstream_error")),
        ending("closed before the head", Script::hang().then(Step::Close), unanswered, failed(502, "upstream_error")),
        ending("no head in time", Script::hang(), stays(504), failed(504, "upstream_timeout")),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_upstream_refuses_the_connection_is_settled_once() {
    // Bound and not listening: nobody else gets the port, and a connection is refused.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let gateway = patient(&url);
    let refused = gateway.chat(&chat("m", PROMPT, false)).await;
    assert_eq!(refused.status, 502);
    is_settled("refused", &gateway, &failed(502, "upstream_error")).await;
    assert_eq!(gateway.chat(&chat("next", PROMPT, false)).await.status, 502, "not 429: the place is free again");
}

fn ending(name: &'static str, upstream: Script, client: Behaviour, expected: Line) -> Ending {
    Ending { name, upstream, client, expected }
}

/// A gateway that lets the key run one request at a time, and waits for its upstream as long as a test does.
fn patient(url: &str) -> Gateway {
    gateway(&format!(r#"{{name: scripted, url: "{url}", models: [m, next]}}"#))
}

/// The same, which waits 200 ms for each read from the upstream.
fn impatient(url: &str) -> Gateway {
    gateway(&format!(r#"{{name: scripted, url: "{url}", models: [m, next], read_timeout: 200ms}}"#))
}

fn gateway(upstream: &str) -> Gateway {
    Gateway::start(
        &configuration(upstream, "", ""),
        &one_key(", limits: {concurrent_requests: 1, tokens_per_minute: 100000}"),
    )
}

async fn settled_once(endings: impl IntoIterator<Item = Ending>) {
    for Ending { name, upstream: script, client, expected } in endings {
        let sent = sent(&script).len();
        let upstream = ScriptedUpstream::start(move |request| match request.json()["model"].as_str() {
            Some("next") => Script::json(200, &completion("next", 1)),
            _ => script.clone(),
        });
        let upstream = upstream.await;
        let is_slow = expected.reason == Some("upstream_timeout");
        let gateway = if is_slow { impatient(&upstream.url()) } else { patient(&upstream.url()) };
        run(name, client, sent, &gateway, &upstream).await;
        is_settled(name, &gateway, &expected).await;
        let next = post(&mut gateway.connect().await, CHAT, SECRET, &chat("next", "", false)).await;
        assert_eq!(next.status, 200, "{name}: the place is free again: {}", next.text());
        sum_becomes(&gateway, "keymeter_requests_total{", 3.0).await;
        assert_eq!(gateway.next_line()["model"], "next", "{name}: one line a request");
    }
}

/// The client's part. The upstream sends `sent` bytes of a body.
async fn run(name: &str, client: Behaviour, sent: usize, gateway: &Gateway, upstream: &ScriptedUpstream) {
    let mut connection = gateway.connect().await;
    connection.send("POST", CHAT, &[("x-api-key", SECRET)], chat("m", PROMPT, true).to_string().as_bytes()).await;
    match client {
        Behaviour::Stays(status) => {
            assert_eq!(connection.head().await.status, status, "{name}");
            connection.rest().await;
        }
        Behaviour::LeavesBeforeTheHead(way) => {
            upstream.wait_for_request(1).await;
            leave(name, connection, way, upstream).await;
        }
        Behaviour::LeavesAfter(way) => {
            assert_eq!(connection.head().await.status, 200, "{name}");
            let mut had = 0;
            while had < sent {
                match connection.next_chunk().await {
                    Arrival::Chunk { data, .. } => had += data.len(),
                    end => panic!("{name}: {end:?} after {had} bytes"),
                }
            }
            leave(name, connection, way, upstream).await;
        }
    }
}

/// Goes away, and sees the upstream's connection closed soon after: nothing is generated for nobody.
async fn leave(name: &str, client: Client, way: Way, upstream: &ScriptedUpstream) {
    let left = Instant::now();
    match way {
        Way::Reset => client.abort(),
        Way::Close => client.close().await,
    }
    let closed = upstream.wait_for_closed(1).await;
    assert!(closed.by_peer && closed.mid_response, "{name}: {closed:?}");
    let took = closed.at.saturating_duration_since(left);
    println!("{name}: the upstream saw it after {took:?}");
    assert!(took < Duration::from_secs(2), "{name}: {took:?}");
}

/// Everything that a settlement leaves behind, once.
async fn is_settled(name: &str, gateway: &Gateway, expected: &Line) {
    println!("{name}");
    let Line { status, reason, aborted, source, output, .. } = *expected;
    sum_becomes(gateway, "keymeter_requests_total{", 1.0).await;
    let line = gateway.next_line();
    assert_eq!((&line["status"], &line["reason"]), (&status.into(), &reason.into()), "{name}: {line}");
    assert_eq!((&line["client_aborted"], &line["usage_source"]), (&aborted.into(), &source.into()), "{name}: {line}");
    assert_eq!(line["output_tokens"], output, "{name}: {line}");
    let input = line["input_tokens"].as_u64().unwrap();
    match expected.input {
        Input::Stated(stated) => assert_eq!(input, stated, "{name}: {line}"),
        Input::OfThePrompt => {
            let counted = count_tokens(PROMPT);
            assert!((counted / 2..=counted * 2).contains(&input), "{name}: {input} for a prompt of {counted}");
        }
    }
    let of_status = format!(r#"keymeter_requests_total{{key_id="key_test",model="other",status="{status}"}}"#);
    assert_eq!(number(gateway.metric(&of_status).await), 1, "{name}");
    assert_eq!(number(gateway.metric(&tokens("input")).await), input, "{name}");
    assert_eq!(number(gateway.metric(&tokens("output")).await), output, "{name}");
    assert_eq!(number(sum(gateway, "keymeter_usage_total{").await), 1, "{name}: one source");
    assert_eq!(
        number(gateway.metric(&format!(r#"keymeter_usage_total{{source="{source}"}}"#)).await),
        1,
        "{name}: {source}"
    );
    assert_eq!(number(gateway.metric("keymeter_client_aborts_total").await), u64::from(aborted), "{name}");
    assert_eq!(number(sum(gateway, "keymeter_requests_in_flight{").await), 0, "{name}");
    let models = get(&mut gateway.connect().await, "/v1/models", SECRET).await;
    let left = (100_000 - input - output).to_string();
    assert_eq!(models.header("x-ratelimit-remaining-tokens"), Some(left.as_str()), "{name}: no more is taken");
    assert_eq!(gateway.next_line()["path"], "/v1/models", "{name}: one line a request");
}

fn tokens(kind: &str) -> String {
    format!(r#"keymeter_tokens_total{{key_id="key_test",model="other",type="{kind}"}}"#)
}

/// A counter's value.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counters are whole and not negative")]
fn number(value: f64) -> u64 {
    value as u64
}

/// All that a script sends of a body.
fn sent(script: &Script) -> String {
    let pieces = script.steps.iter().filter_map(|step| match step {
        Step::Send(piece) => Some(String::from_utf8(piece.to_vec()).unwrap()),
        _ => None,
    });
    pieces.collect()
}
