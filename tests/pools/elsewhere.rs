//! An attempt that fails before anything was forwarded: the request goes to another replica, and its client does not notice.

use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;

use super::*;
use crate::support::{
    gateway::one_key,
    scene::{DONE, chat, says, stream, sum},
    script::Step,
};

/// Asks so many times, and says with which statuses.
async fn statuses(gateway: &Gateway, times: usize) -> Vec<u16> {
    let mut all = Vec::new();
    for _ in 0..times {
        all.push(ask(gateway).await.status);
    }
    all
}

/// A server that answers a chat by this.
async fn failing(script: Script) -> ScriptedUpstream {
    ScriptedUpstream::start(move |request| if is_chat(request) { script.clone() } else { answer(request, 1) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_before_a_head_is_tried_elsewhere() {
    let overloaded = Script::error(503, "server_error", "busy").with_header("retry-after", "2");
    for (script, outcome) in [
        (Script::hang().then(Step::Reset), "closed"),
        (Script::hang().then(Step::Close), "closed"),
        (overloaded, "http_5xx"),
        (Script::error(429, "requests", "too many"), "http_429"),
        (Script::error(502, "server_error", "bad"), "http_5xx"),
        (Script::error(504, "server_error", "slow"), "http_5xx"),
    ] {
        let (bad, good) = (failing(script).await, answering(4).await);
        let gateway = gateway(&pool(&urls([&bad, &good]), ", balance: round_robin"), &one_key(""));
        assert_eq!(statuses(&gateway, 6).await, [200; 6], "{outcome}");
        let tried = gateway.metric(&attempts("r0", outcome)).await;
        assert!((1.0..=6.0).contains(&tried), "{outcome}: {tried}");
        assert_eq!((gateway.metric(&attempts("r1", "success")).await, chats(&good).len()), (6.0, 6));
        gateway.metric_becomes(r#"keymeter_requests_total{key_id="key_test",model="other",status="200"}"#, 6.0).await;
        assert_eq!(sum(&gateway, "keymeter_tokens_total").await, 6.0 * 11.0, "each counts once");
        let lines: Vec<_> = (0..6).map(|_| gateway.next_line()).collect();
        let retried = lines.iter().filter(|line| line["attempts"] == 2).count();
        assert!(retried as f64 == tried && lines.iter().all(|line| line["replica"] == "r1"), "{outcome}: {lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_nobody_listens_on_costs_nobody_a_request() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let good = answering(4).await;
    let gateway = gateway(&pool(&[format!("http://{free}"), good.url()], ""), &one_key(""));
    assert_eq!(statuses(&gateway, 8).await, [200; 8]);
    assert!(gateway.metric(&attempts("r0", "connect")).await >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_has_begun_is_not_tried_elsewhere() {
    let (broken, good) = (failing(stream([says("one ")]).then(Step::Close)).await, answering(4).await);
    let gateway = gateway(&pool(&urls([&broken, &good]), ", balance: round_robin"), &one_key(""));
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let mut client = gateway.connect().await;
        client.chat_stream(SECRET, &chat("m", "Hi!", true)).await;
        bodies.push(String::from_utf8(client.rest().await.0).unwrap());
    }
    assert!(bodies.iter().any(|body| body.contains("upstream_error") && !body.ends_with(DONE)), "{bodies:?}");
    assert_eq!((chats(&broken).len(), chats(&good).len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_other_remains_the_answer_passes_as_it_is() {
    let busy = || Script::error(503, "server_error", "busy").with_header("retry-after", "7");
    let (one, other) = (failing(busy()).await, failing(busy()).await);
    let gateway = gateway(&pool(&urls([&one, &other]), ""), &one_key(""));
    let answer = ask(&gateway).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("7")));
    assert_eq!(answer.json()["error"]["message"], "busy");
    assert_eq!(chats(&one).len() + chats(&other).len(), 2, "both were asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_asks_for_a_pause_gets_one() {
    let busy = failing(Script::error(503, "server_error", "busy").with_header("retry-after", "60")).await;
    let good = answering(4).await;
    let gateway = gateway(&pool(&urls([&busy, &good]), ""), &one_key(""));
    assert_eq!(statuses(&gateway, 10).await, [200; 10]);
    assert_eq!(chats(&busy).len(), 1, "once, and not again within its minute");
    let told = replica(&gateway, "r0").await;
    assert_eq!((&told["state"], &told["reason"]), (&json!("paused"), &json!("it answered 503")));
    assert!(told["until"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn long_bodies_and_streams_are_sent_again_whole() {
    let (bad, good) = (failing(Script::hang().then(Step::Close)).await, answering(4).await);
    let gateway = gateway(&pool(&urls([&bad, &good]), ", balance: round_robin, eject: {after: 1000}"), &one_key(""));
    let content = "word ".repeat(60_000);
    let body = json!({"model": "m", "messages": [{"role": "user", "content": content}]});
    for _ in 0..4 {
        assert_eq!(gateway.chat(&body).await.status, 200);
    }
    assert!(chats(&good).iter().chain(&chats(&bad)).all(|request| request.json() == body));
    assert_eq!(chats(&good).len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sick_fleet_is_not_asked_twice_for_everything() {
    let sick = || failing(Script::hang().then(Step::Close));
    let (one, other) = (sick().await, sick().await);
    let gateway = gateway(&pool(&urls([&one, &other]), ", eject: {after: 1000}"), &one_key(""));
    assert_eq!(statuses(&gateway, 60).await, [502; 60]);
    let asked = chats(&one).len() + chats(&other).len();
    assert!((60..=60 + 10 + 12).contains(&asked), "{asked} attempts at 60 requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_upstream_serves_where_the_first_cannot() {
    let (bad, good) = (failing(Script::hang().then(Step::Close)).await, answering(4).await);
    let first = format!("{{name: pool, url: \"{}\"}}", bad.url());
    let second = format!("{{name: second, url: \"{}\", api_key: k2, rename: {{m: other-m}}}}", good.url());
    let gateway = gateway(&format!("{first}, {second}"), &one_key(""));
    assert_eq!(statuses(&gateway, 3).await, [200; 3]);
    let asked = chats(&good);
    assert!(asked.iter().all(|request| request.header("authorization") == Some("Bearer k2")));
    assert!(asked.iter().all(|request| request.json()["model"] == "other-m"), "by its own name there");
    let line = gateway.next_line();
    assert_eq!((&line["upstream"], &line["model"], &line["attempts"]), (&json!("second"), &json!("m"), &json!(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_replica_is_ejected_once_two_keys_say_so() {
    let keys = "keys:\n- {id: key_a, name: Key A, secret: sk-a}\n- {id: key_b, name: Key B, secret: sk-b}\n";
    let (bad, good) = (failing(Script::error(500, "server_error", "no")).await, answering(4).await);
    let fields = ", balance: round_robin, eject: {after: 3, for: 10m}";
    let gateway = gateway(&pool(&urls([&bad, &good]), fields), keys);
    let mut client = gateway.connect().await;
    for _ in 0..20 {
        ask_by(&mut client, "sk-a").await;
    }
    assert_eq!(replica(&gateway, "r0").await["state"], "up", "one key alone ejects nothing");
    for _ in 0..2 {
        ask_by(&mut client, "sk-b").await;
    }
    becomes(&gateway, "r0", "ejected").await;
    let before = chats(&bad).len();
    for _ in 0..10 {
        assert_eq!(ask_by(&mut client, "sk-a").await.status, 200);
    }
    assert_eq!(chats(&bad).len(), before);
    gateway.metric_becomes(r#"keymeter_replica_ejections_total{replica="r0",upstream="pool"}"#, 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_is_neither_paused_nor_ejected() {
    let busy = failing(Script::error(503, "server_error", "busy").with_header("retry-after", "60")).await;
    let gateway = gateway(&format!("{{name: pool, url: \"{}\"}}", busy.url()), &one_key(""));
    assert_eq!(statuses(&gateway, 12).await, [503; 12]);
    assert_eq!(chats(&busy).len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_takes_too_long_is_waited_for_elsewhere() {
    let (silent, good) = (failing(Script::hang()).await, answering(4).await);
    let fields = ", first_byte_timeout: 300ms, eject: {after: 1000}, balance: round_robin";
    for extra in ["", "on_client_abort: drain"] {
        let text = configuration(&pool(&urls([&silent, &good]), fields), "", extra);
        let gateway = Gateway::start(&text, &one_key(""));
        let start = std::time::Instant::now();
        assert_eq!(statuses(&gateway, 4).await, [200; 4], "{extra}");
        assert!(start.elapsed() < Duration::from_secs(8), "{extra}");
        assert!(gateway.metric(&attempts("r0", "timeout")).await >= 1.0, "{extra}");
    }
}
