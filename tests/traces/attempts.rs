//! A request that is tried at several replicas has a span for each attempt.

use super::*;
use crate::support::{scene::configuration, script::Step};

/// A gateway that traces every request, before these upstreams.
fn before(collector: &Collector, upstreams: &str, extra: &str) -> Gateway {
    Gateway::start(&configuration(upstreams, "", &format!("{}\n{extra}", collector.section(""))), &one_key(""))
}

/// An upstream with these replicas, called `r0` and so on, which are asked in turn.
fn pool(urls: &[String]) -> String {
    let replicas: Vec<_> =
        urls.iter().enumerate().map(|(at, url)| format!("{{name: r{at}, url: \"{url}\"}}")).collect();
    format!("{{name: pool, balance: round_robin, replicas: [{}]}}", replicas.join(", "))
}

async fn answering(script: Script) -> ScriptedUpstream {
    ScriptedUpstream::start(move |_| script.clone()).await
}

/// The spans of attempts in the order in which they began, and the request's.
fn apart(spans: Vec<Seen>) -> (Vec<Seen>, Seen) {
    let (mut servers, mut attempts): (Vec<_>, Vec<_>) = spans.into_iter().partition(|span| span.kind == "SERVER");
    attempts.sort_by_key(|span| span.began);
    (attempts, servers.remove(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_attempt_is_a_span_with_its_replica_and_its_outcome() {
    let busy = Script::error(503, "server_error", "busy");
    for mode in MODES {
        for (bad, outcome, error) in [
            (busy.clone(), "http_5xx", "503"),
            (Script::error(429, "requests", "too many"), "http_429", "429"),
            (Script::hang().then(Step::Close), "closed", "closed"),
        ] {
            let (collector, good) = (Collector::start().await, completing().await);
            let bad = answering(bad).await;
            let gateway = before(&collector, &pool(&[bad.url(), good.url()]), mode);
            assert_eq!(gateway.chat(&ask()).await.status, 200);
            let (attempts, server) = apart(collector.spans(3).await);
            let [first, second] = &attempts[..] else { panic!("{attempts:#?}") };
            assert!(attempts.iter().all(|span| (&span.parent, &span.trace) == (&server.id, &server.trace)), "{mode}");
            assert!(server.began <= first.began && first.ended <= second.began && second.ended <= server.ended);
            assert_has(
                first,
                &[
                    ("keymeter.upstream", "pool"),
                    ("keymeter.replica", "r0"),
                    ("keymeter.attempt.outcome", outcome),
                    ("error.type", error),
                    ("server.port", &bad.address.port().to_string()),
                ],
            );
            assert_has(
                second,
                &[
                    ("keymeter.replica", "r1"),
                    ("keymeter.attempt.outcome", "success"),
                    ("http.response.status_code", "200"),
                    ("http.request.resend_count", "1"),
                    ("gen_ai.usage.output_tokens", "3"),
                ],
            );
            assert_eq!((first.is_error, second.is_error, server.is_error), (true, false, false), "{outcome}");
            assert_eq!(first.get("gen_ai.usage.output_tokens"), None, "each request's tokens stand once");
            // An inference server that traces too goes on from the attempt that reached it.
            assert_eq!(parent_of(&bad.received()[0]).1, first.id);
            assert_eq!(parent_of(&good.received()[0]).1, second.id);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_fail_the_last_attempt_has_the_answer_that_passes() {
    let collector = Collector::start().await;
    let busy = || answering(Script::error(503, "server_error", "busy"));
    let (one, other, next) = (busy().await, busy().await, busy().await);
    let upstreams = format!("{}, {{name: next, url: \"{}\"}}", pool(&[one.url(), other.url()]), next.url());
    let gateway = before(&collector, &upstreams, "");
    assert_eq!(gateway.chat(&ask()).await.status, 503);
    let (attempts, server) = apart(collector.spans(4).await);
    let told = |name: &str| attempts.iter().map(|span| span.get(name).unwrap_or_default()).collect::<Vec<_>>();
    assert_eq!(told("keymeter.upstream"), ["pool", "pool", "next"]);
    assert_eq!(told("keymeter.attempt.outcome"), ["http_5xx"; 3]);
    assert_eq!(told("http.response.status_code"), ["503"; 3]);
    assert!(attempts.iter().all(|span| span.is_error));
    assert_has(&server, &[("http.response.status_code", "503"), ("keymeter.upstream", "next")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_nobody_listens_on_is_an_attempt_without_a_status() {
    let (collector, good) = (Collector::start().await, completing().await);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = before(&collector, &pool(&[format!("http://{free}"), good.url()]), "");
    assert_eq!(gateway.chat(&ask()).await.status, 200);
    let (attempts, _) = apart(collector.spans(3).await);
    assert_has(&attempts[0], &[("keymeter.attempt.outcome", "connect"), ("error.type", "connect")]);
    assert_eq!(attempts[0].get("http.response.status_code"), None);
    assert_has(&attempts[1], &[("keymeter.replica", "r1"), ("keymeter.attempt.outcome", "success")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_before_a_head_speaks_against_nobody() {
    let (collector, upstream) = (Collector::start().await, answering(Script::hang()).await);
    let gateway = before(&collector, &pool(&[upstream.url()]), "");
    let mut client = gateway.connect().await;
    let authorization = format!("Bearer {SECRET}");
    client.send("POST", CHAT, &[("authorization", &authorization)], ask().to_string().as_bytes()).await;
    upstream.wait_for_request(1).await;
    client.abort();
    let (server, attempt) = collector.request().await;
    assert_has(&attempt, &[("keymeter.replica", "r0"), ("keymeter.attempt.outcome", "other")]);
    assert_eq!((attempt.is_error, server.is_error), (false, false));
}
