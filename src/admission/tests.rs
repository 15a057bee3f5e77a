//! The gate by itself: who is let in, what a request holds, and that it is given back once, whatever happens.

mod additions;
mod estimates;
pub(in crate::admission) mod fixture;
mod scopes;
mod wallet;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use keymeter_core::{
    api::Endpoint,
    body::scan,
    clock::MonotonicTime,
    glob::Glob,
    key::{KeyRecord, Retiring, Secret},
    limit::{Limit, LimitStatus},
    rejection::Rejection,
};

use self::fixture::{Fixture, admit, at, limited, now, record, settings, settings_with};
use super::*;

const HOUR: Duration = Duration::from_hours(1);
const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hello"}]}"#;
const STREAM: &str = r#"{"model":"m","stream":true,"messages":[]}"#;
const WORST_CASE: &str = "limits: {reservation: worst_case}";

fn code(refused: Result<Box<ActiveRequest>, Rejection>) -> &'static str {
    refused.err().map_or("admitted", |rejection| rejection.code().as_str())
}

/// An answer of 7 tokens in and 5 out.
const ANSWER: &[u8] =
    br#"{"choices":[{"message":{"content":"word"}}],"usage":{"prompt_tokens":7,"completion_tokens":5}}"#;

fn answer(request: &mut ActiveRequest) {
    request.answered(200, "application/json", Vec::new());
    assert_eq!(request.pass(Bytes::from_static(ANSWER)), ANSWER);
}

/// What is used of the requests and tokens, and what runs.
fn used(standing: &LimitStatus) -> (u64, u64, u64) {
    (standing.requests.used, standing.tokens.used, standing.running)
}

#[tokio::test]
async fn a_settled_lease_gives_back_what_it_did_not_use_and_is_counted_once() {
    let fixture = Fixture::of(limited("key_a", 10, 10_000, 10));
    let mut request = fixture.admitted(CHAT).await;
    let account = request.admitted().key.account.clone();
    let limits = request.admitted().limits.clone();
    let standing = request.standing(now());
    assert_eq!((standing.requests.used, standing.running), (1, 1));
    assert!((1025..1060).contains(&standing.tokens.used), "{standing:?}");
    fixture.in_flight("1");
    answer(&mut request);
    request.settle(&Outcome { status: Some(200), complete: true, ..Outcome::default() }, now());
    assert_eq!(used(&account.counters.standing(&limits.scopes.key.minute, now())), (1, 12, 0));
    fixture.in_flight("0");
    fixture.counts(r#"keymeter_requests_total{key_id="key_a",model="other",status="200"}"#, "1");
    fixture.counts(r#"keymeter_tokens_total{key_id="key_a",model="other",type="output"}"#, "5");
    fixture.counts(r#"keymeter_usage_total{source="upstream"}"#, "1");
    let lines = fixture.lines();
    assert_eq!((lines.len(), &lines[0]["output_tokens"], &lines[0]["status"]), (1, &5.into(), &200.into()));
}

#[tokio::test]
async fn a_dropped_lease_is_settled_once_too() {
    let fixture = Fixture::of(limited("key_a", 10, 10_000, 10));
    let mut unanswered = Vec::new();
    for _ in 0..3 {
        unanswered.push(fixture.admitted(CHAT).await);
    }
    let account = unanswered[0].admitted().key.account.clone();
    let limits = unanswered[0].admitted().limits.clone();
    answer(&mut unanswered[0]);
    fixture.in_flight("3");
    drop(unanswered);
    fixture.in_flight("0");
    assert_eq!(used(&account.counters.standing(&limits.scopes.key.minute, now())), (3, 12, 0), "one was answered");
    fixture.counts(r#"keymeter_tokens_total{key_id="key_a",model="other",type="input"}"#, "7");
    assert_eq!(fixture.lines().len(), 3);
}

/// The client may ask again at once: then nothing of the request before may stand in its way.
#[tokio::test]
async fn an_error_gives_back_what_was_reserved_before_the_client_has_it() {
    let fixture = Fixture::of(limited("key_a", 10, 1000, 1));
    let mut passed_on = fixture.admitted(CHAT).await;
    passed_on.answered(400, "application/json", Vec::new());
    passed_on.close(now()).unwrap();
    let mut of_ours = fixture.admitted(CHAT).await;
    of_ours.give_up(502, now());
    let third = fixture.admitted(CHAT).await;
    let standing = used(&third.standing(now()));
    assert_eq!((standing.0, standing.2), (3, 1));
    drop((passed_on, of_ours));
    assert_eq!(used(&third.standing(now())), standing, "each is given back once");
}

#[tokio::test]
async fn a_panic_in_between_leaves_nothing_taken() {
    let fixture = Fixture::of(limited("key_a", 10, 10_000, 1));
    for _ in 0..3 {
        let mut request = fixture.admitted(CHAT).await;
        assert_eq!(code(fixture.ask("sk-key_a", CHAT, now()).await), "rate_limit_exceeded");
        fixture.in_flight("1");
        let caught = catch_unwind(AssertUnwindSafe(move || {
            answer(&mut request);
            std::panic::resume_unwind(Box::new("a bug"));
        }));
        assert!(caught.is_err());
        fixture.in_flight("0");
    }
    let last = fixture.admitted(CHAT).await;
    let standing = last.standing(now());
    assert_eq!((standing.requests.used, standing.running), (4, 1));
    assert!(standing.tokens.used > 3 * 12 && standing.tokens.used < 3 * 12 + 1060, "what was delivered is charged");
}

#[tokio::test]
async fn what_is_refused_takes_nothing() {
    let fixture = Fixture::of(KeyRecord { models: Some([Glob::new("m")].into()), ..limited("key_a", 3, 1500, 2) });
    let first = fixture.admitted(CHAT).await;
    let before = first.standing(now());
    for (body, expected) in
        [(CHAT, "rate_limit_exceeded"), (r#"{"model":"x"}"#, "model_not_found"), (r"{}", "model_not_found")]
    {
        assert_eq!(code(fixture.ask("sk-key_a", body, now()).await), expected, "{body}");
        assert_eq!(first.standing(now()), before, "{body}");
    }
    fixture.in_flight("1");
    assert_eq!(first.standing(at(Duration::from_secs(61))).tokens.used, 0, "and leaves after a minute, running or not");
}

#[tokio::test]
async fn a_refusal_names_its_limit_and_a_wait_that_suffices() {
    let fixture = Fixture::of(limited("key_a", 2, 1_000_000, 100));
    let _first = fixture.admitted(CHAT).await;
    let later = at(Duration::from_secs(10));
    let _second = fixture.ask("sk-key_a", CHAT, later).await.ok().unwrap();
    let Err(rejection) = fixture.ask("sk-key_a", CHAT, later).await else { panic!("a third is admitted") };
    let wait = rejection.retry_after().unwrap();
    assert_eq!(wait, Duration::from_secs(50));
    let almost = at(Duration::from_secs(10) + wait.checked_sub(Duration::from_nanos(1)).unwrap());
    assert_eq!(code(fixture.ask("sk-key_a", CHAT, almost).await), "rate_limit_exceeded", "less does not");
    assert_eq!(code(fixture.ask("sk-key_a", CHAT, at(Duration::from_secs(10) + wait)).await), "admitted");
}

#[tokio::test]
async fn every_state_of_a_key_has_its_answer() {
    let date = |text: &str| Some(text.parse::<Timestamp>().unwrap());
    for (changed, expected) in [
        (record("key_a"), "admitted"),
        (KeyRecord { state: keymeter_core::key::KeyState::Disabled, ..record("key_a") }, "api_key_disabled"),
        (KeyRecord { state: keymeter_core::key::KeyState::Archived, ..record("key_a") }, "api_key_archived"),
        (KeyRecord { state: keymeter_core::key::KeyState::NoBalance, ..record("key_a") }, "insufficient_quota"),
        (KeyRecord { expires_at: date("2026-06-01T00:00:00Z"), ..record("key_a") }, "api_key_expired"),
        (KeyRecord { expires_at: date("2026-06-01T00:00:01Z"), ..record("key_a") }, "admitted"),
    ] {
        assert_eq!(code(Fixture::of(changed).ask("sk-key_a", CHAT, now()).await), expected);
    }
    assert_eq!(code(Fixture::of(record("key_b")).ask("sk-key_a", CHAT, now()).await), "invalid_api_key");
}

#[tokio::test]
async fn a_retiring_secret_works_until_its_time() {
    let retiring = Retiring { hash: Secret::new("sk-old").hash(), not_after: at(HOUR).date };
    let fixture = Fixture::of(KeyRecord { retiring: [retiring].into(), ..record("key_a") });
    for (secret, when, expected) in [
        ("sk-old", now(), "admitted"),
        ("sk-old", at(HOUR), "admitted"),
        ("sk-old", at(HOUR + Duration::from_secs(1)), "invalid_api_key"),
        ("sk-key_a", at(2 * HOUR), "admitted"),
    ] {
        assert_eq!(code(fixture.ask(secret, CHAT, when).await), expected, "{secret}");
    }
}

#[tokio::test]
async fn counters_outlive_eviction_and_reload() {
    let records = (0..50).map(|number| limited(&format!("key_{number}"), 1, 5000, 1)).collect();
    let fixture = Fixture::new(records, "", 1);
    for number in 0..50 {
        assert_eq!(code(fixture.ask(&format!("sk-key_{number}"), CHAT, now()).await), "admitted");
    }
    fixture.resolver.changed(crate::keys::Change::All, MonotonicTime::now());
    fixture.gate.replace_settings(settings("limits: {requests_per_minute: 1000}"));
    for number in 0..50 {
        assert_eq!(code(fixture.ask(&format!("sk-key_{number}"), CHAT, now()).await), "rate_limit_exceeded");
    }
}

#[tokio::test]
async fn no_key_is_refused_for_anothers_traffic() {
    let keys: usize = if std::env::var_os("KEYMETER_SOAK").is_some() { 100_000 } else { 2000 };
    let records = (0..keys).map(|number| limited(&format!("key_{number}"), 3, 100_000, 2)).collect();
    let fixture = Fixture::new(records, "", 1_000_000);
    let mut running = Vec::with_capacity(2 * keys);
    for round in 0..2 {
        for number in 0..keys {
            let request = fixture.ask(&format!("sk-key_{number}"), CHAT, now()).await;
            running.push(request.unwrap_or_else(|rejection| panic!("key {number}, {round}: {}", rejection.message())));
        }
    }
    for number in (0..keys).step_by(100) {
        assert_eq!(code(fixture.ask(&format!("sk-key_{number}"), CHAT, now()).await), "rate_limit_exceeded");
    }
    for request in running {
        request.settle(&Outcome::default(), now());
    }
    for (time, expected) in ["admitted", "rate_limit_exceeded"].into_iter().enumerate() {
        for number in 0..keys {
            let answer = code(fixture.ask(&format!("sk-key_{number}"), CHAT, now()).await);
            assert_eq!(answer, expected, "key {number}, {time}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_200_threads_as_many_are_admitted_as_the_limits_say() {
    let times: usize = std::env::var("KEYMETER_SOAK").ok().map_or(3, |times| times.parse().unwrap());
    for (requests, concurrent) in [(10, 1000), (1000, 10)].repeat(times) {
        let fixture = Fixture::of(limited("key_a", requests, 10_000_000, concurrent));
        let requests = (0..200).map(|_| fixture.identify("sk-key_a", now()));
        let requests: Vec<_> = futures_util::future::try_join_all(requests).await.map_err(|_| "refused").unwrap();
        let start = std::sync::Barrier::new(200);
        let (gate, start, runtime, now) = (&fixture.gate, &start, &tokio::runtime::Handle::current(), now());
        let admitted: Vec<_> = thread::scope(|scope| {
            let run = |request| {
                scope.spawn(move || {
                    start.wait();
                    runtime.block_on(admit(gate, request, Endpoint::ChatCompletions, CHAT.as_bytes(), now)).ok()
                })
            };
            let threads: Vec<_> = requests.into_iter().map(run).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(admitted.len(), 10);
        fixture.in_flight("10");
        drop(admitted);
        fixture.in_flight("0");
    }
}

#[tokio::test]
async fn strangers_are_throttled_and_known_keys_are_not() {
    let fixture = Fixture::new(vec![record("key_a"), record("key_b")], "", 1000);
    assert_eq!(code(fixture.ask("sk-key_a", CHAT, now()).await), "admitted");
    let mut throttled = 0;
    for number in 0..5000 {
        match code(fixture.ask(&format!("sk-bad-{number}"), CHAT, now()).await) {
            "rate_limit_exceeded" => throttled += 1,
            other => assert_eq!(other, "invalid_api_key"),
        }
        if throttled == 1 {
            assert_eq!(code(fixture.ask("sk-key_a", CHAT, now()).await), "admitted", "it is cached");
            assert_eq!(code(fixture.ask("sk-key_b", CHAT, now()).await), "admitted", "it is in memory");
        }
        if throttled == 50 {
            break;
        }
    }
    assert_eq!(throttled, 50);
    fixture.counts(r#"keymeter_unauthorized_total{reason="throttled"}"#, "50");
}

#[tokio::test]
async fn worst_case_holds_the_output_to_what_fits() {
    let sections = "limits: {reservation: worst_case}\nmodels: [{name: m, max_output_tokens: 300}]";
    for (tokens, body, maximum) in [
        (1000, CHAT, Some(300)),
        (1000, r#"{"model":"m","max_tokens":300}"#, None),
        (1000, r#"{"model":"m","max_tokens":301}"#, Some(300)),
        (1000, r#"{"model":"m","n":10}"#, Some(99)),
        (100, r#"{"model":"m","max_tokens":200}"#, Some(97)),
    ] {
        let fixture = Fixture::new(vec![limited("key_a", 10, tokens, 10)], sections, 10);
        let request = fixture.admitted(body).await;
        assert_eq!(request.change().maximum, maximum, "{body}");
        assert!(request.standing(now()).tokens.used <= tokens);
    }
}

#[tokio::test]
async fn worst_case_without_any_maximum_does_not_wait_until_the_whole_minute_is_free() {
    let fixture = Fixture::new(vec![limited("key_a", 10, 2000, 10)], "limits: {reservation: worst_case}", 10);
    for left in [2000, 1949, 1898] {
        let mut request = fixture.admitted(CHAT).await;
        let prompt = request.standing(now()).tokens.used - request.change().maximum.unwrap() - (2000 - left);
        assert_eq!(request.change().maximum, Some(left - prompt), "all that is left");
        request.answered(200, "application/json", Vec::new());
        drop(request.pass(Bytes::from_static(br#"{"usage":{"prompt_tokens":38,"completion_tokens":13}}"#)));
        request.settle(&Outcome { status: Some(200), complete: true, ..Outcome::default() }, now());
    }
    let request = fixture.admitted(CHAT).await;
    assert_eq!(code(fixture.ask("sk-key_a", CHAT, now()).await), "rate_limit_exceeded", "{:?}", request.change());
}

#[tokio::test]
async fn worst_case_of_what_has_no_maximum_waits_for_what_such_answers_take_and_not_for_all() {
    let fixture = Fixture::new(vec![limited("key_a", 10, 5000, 10)], "limits: {reservation: worst_case}", 10);
    for used in [0, 51, 102] {
        let request = fixture.identify("sk-key_a", now()).await.map_err(|_| "refused").unwrap();
        let body = br#"{"model":"m","prompt":"a tree"}"#;
        let scanned = scan(&Bytes::from_static(body), Endpoint::ImageGenerations.shape()).unwrap();
        let admitted = admit(&fixture.gate, request, Endpoint::ImageGenerations, body, now()).await;
        let mut request = admitted.map_err(|refused| refused.rejection.message()).unwrap();
        assert_eq!(request.standing(now()).tokens.used, 5000, "after {used}, all that is left");
        assert_eq!(scanned.splice(request.change()), &body[..], "and nothing is changed");
        request.answered(200, "application/json", Vec::new());
        drop(
            request.pass(Bytes::from_static(br#"{"usage":{"input_tokens":38,"output_tokens":13,"total_tokens":51}}"#)),
        );
        request.settle(&Outcome { status: Some(200), complete: true, ..Outcome::default() }, now());
    }
}

#[tokio::test]
async fn a_request_keeps_the_settings_that_it_came_with() {
    let fixture = Fixture::new(vec![record("key_a")], "limits: {requests_per_minute: 1}", 10);
    let request = fixture.identify("sk-key_a", now()).await.map_err(|_| "refused").unwrap();
    fixture.gate.replace_settings(settings_with(", models: [other]", ""));
    let admitted = admit(&fixture.gate, request, Endpoint::ChatCompletions, CHAT.as_bytes(), now()).await;
    let request = admitted.map_err(|_| "refused").unwrap();
    assert_eq!(request.standing(now()).requests.limit, Limit::at(1).unwrap());
    assert_eq!(code(fixture.ask("sk-key_a", CHAT, now()).await), "model_not_found");
}
