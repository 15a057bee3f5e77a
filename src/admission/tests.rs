//! The gate by itself: who is let in, what a lease holds, and that it is given back once, whatever happens.

pub(in crate::admission) mod fixture;
mod wallet;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::Duration,
};

use bytes::Bytes;
use keymeter_core::{
    body::scan,
    glob::Glob,
    key::{KeyRecord, Retiring, Secret},
    limit::{Limit, LimitStatus},
};

use self::fixture::{Fixture, at, limited, now, record, settings, settings_with};
use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hello"}]}"#;
const STREAM: &str = r#"{"model":"m","stream":true,"messages":[]}"#;

fn code(refused: Result<ActiveRequest, Rejection>) -> &'static str {
    refused.err().map_or("admitted", |rejection| rejection.code().as_str())
}

/// An answer of 7 tokens in and 5 out.
const ANSWER: &[u8] =
    br#"{"choices":[{"message":{"content":"word"}}],"usage":{"prompt_tokens":7,"completion_tokens":5}}"#;

fn answer(lease: &mut ActiveRequest) {
    lease.answered(200, "application/json", false);
    assert_eq!(lease.pass(Bytes::from_static(ANSWER)), ANSWER);
}

/// What is used of the requests and tokens, and what runs.
fn used(standing: &LimitStatus) -> (u64, u64, u64) {
    (standing.requests.used, standing.tokens.used, standing.running)
}

#[tokio::test]
async fn a_settled_lease_gives_back_what_it_did_not_use_and_is_counted_once() {
    let house = Fixture::of(limited("key_a", 10, 10_000, 10));
    let mut lease = house.lease(CHAT).await;
    let account = lease.admitted().key.account.clone();
    let limits = lease.admitted().limits;
    let standing = lease.standing(now());
    assert_eq!((standing.requests.used, standing.running), (1, 1));
    assert!((1025..1060).contains(&standing.tokens.used), "{standing:?}");
    house.in_flight("1");
    answer(&mut lease);
    lease.settle(&Outcome { status: Some(200), complete: true, ..Outcome::default() }, now());
    assert_eq!(used(&account.counters.standing(&limits, now().moment)), (1, 12, 0));
    house.in_flight("0");
    house.counts(r#"keymeter_requests_total{key_id="key_a",model="other",status="200"}"#, "1");
    house.counts(r#"keymeter_tokens_total{key_id="key_a",model="other",type="output"}"#, "5");
    house.counts(r#"keymeter_usage_total{source="upstream"}"#, "1");
    let lines = house.lines();
    assert_eq!((lines.len(), &lines[0]["output_tokens"], &lines[0]["status"]), (1, &5.into(), &200.into()));
}

#[tokio::test]
async fn a_dropped_lease_is_settled_once_too() {
    let house = Fixture::of(limited("key_a", 10, 10_000, 10));
    let mut unanswered = Vec::new();
    for _ in 0..3 {
        unanswered.push(house.lease(CHAT).await);
    }
    let account = unanswered[0].admitted().key.account.clone();
    let limits = unanswered[0].admitted().limits;
    answer(&mut unanswered[0]);
    house.in_flight("3");
    drop(unanswered);
    house.in_flight("0");
    assert_eq!(used(&account.counters.standing(&limits, now().moment)), (3, 12, 0), "one was answered");
    house.counts(r#"keymeter_tokens_total{key_id="key_a",model="other",type="input"}"#, "7");
    assert_eq!(house.lines().len(), 3);
}

#[tokio::test]
async fn a_panic_in_between_leaves_nothing_taken() {
    let house = Fixture::of(limited("key_a", 10, 10_000, 1));
    for _ in 0..3 {
        let mut lease = house.lease(CHAT).await;
        assert_eq!(code(house.ask("sk-key_a", CHAT, now()).await), "rate_limit_exceeded");
        house.in_flight("1");
        let caught = catch_unwind(AssertUnwindSafe(move || {
            answer(&mut lease);
            std::panic::resume_unwind(Box::new("a bug"));
        }));
        assert!(caught.is_err());
        house.in_flight("0");
    }
    let last = house.lease(CHAT).await;
    let standing = last.standing(now());
    assert_eq!((standing.requests.used, standing.running), (4, 1));
    assert!(standing.tokens.used > 3 * 12 && standing.tokens.used < 3 * 12 + 1060, "what was delivered is charged");
}

#[tokio::test]
async fn what_is_refused_takes_nothing() {
    let house = Fixture::of(KeyRecord { models: Some([Glob::new("m")].into()), ..limited("key_a", 3, 1500, 2) });
    let first = house.lease(CHAT).await;
    let before = first.standing(now());
    for (body, expected) in
        [(CHAT, "rate_limit_exceeded"), (r#"{"model":"x"}"#, "model_not_found"), (r"{}", "model_not_found")]
    {
        assert_eq!(code(house.ask("sk-key_a", body, now()).await), expected, "{body}");
        assert_eq!(first.standing(now()), before, "{body}");
    }
    house.in_flight("1");
    assert_eq!(first.standing(at(Duration::from_secs(61))).tokens.used, 0, "and leaves after a minute, running or not");
}

#[tokio::test]
async fn a_refusal_names_its_limit_and_a_wait_that_suffices() {
    let house = Fixture::of(limited("key_a", 2, 1_000_000, 100));
    let _first = house.lease(CHAT).await;
    let later = at(Duration::from_secs(10));
    let _second = house.ask("sk-key_a", CHAT, later).await.ok().unwrap();
    let Err(rejection) = house.ask("sk-key_a", CHAT, later).await else { panic!("a third is admitted") };
    let wait = rejection.retry_after().unwrap();
    assert_eq!(wait, Duration::from_secs(50));
    let almost = at(Duration::from_secs(10) + wait.checked_sub(Duration::from_nanos(1)).unwrap());
    assert_eq!(code(house.ask("sk-key_a", CHAT, almost).await), "rate_limit_exceeded", "less does not");
    assert_eq!(code(house.ask("sk-key_a", CHAT, at(Duration::from_secs(10) + wait)).await), "admitted");
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
    let house = Fixture::of(KeyRecord { retiring: [retiring].into(), ..record("key_a") });
    for (secret, when, expected) in [
        ("sk-old", now(), "admitted"),
        ("sk-old", at(HOUR), "admitted"),
        ("sk-old", at(HOUR + Duration::from_secs(1)), "invalid_api_key"),
        ("sk-key_a", at(2 * HOUR), "admitted"),
    ] {
        assert_eq!(code(house.ask(secret, CHAT, when).await), expected, "{secret}");
    }
}

#[tokio::test]
async fn counters_outlive_eviction_and_reload() {
    let records = (0..50).map(|number| limited(&format!("key_{number}"), 1, 5000, 1)).collect();
    let house = Fixture::new(records, "", 1);
    for number in 0..50 {
        assert_eq!(code(house.ask(&format!("sk-key_{number}"), CHAT, now()).await), "admitted");
    }
    house.resolver.changed(crate::keys::Change::All, MonotonicTime::now());
    house.gate.replace_settings(settings("limits: {requests_per_minute: 1000}"));
    for number in 0..50 {
        assert_eq!(code(house.ask(&format!("sk-key_{number}"), CHAT, now()).await), "rate_limit_exceeded");
    }
}

#[tokio::test]
async fn no_key_is_refused_for_anothers_traffic() {
    let keys: usize = if std::env::var_os("KEYMETER_SOAK").is_some() { 100_000 } else { 2000 };
    let records = (0..keys).map(|number| limited(&format!("key_{number}"), 3, 100_000, 2)).collect();
    let house = Fixture::new(records, "", 1_000_000);
    let mut running = Vec::with_capacity(2 * keys);
    for round in 0..2 {
        for number in 0..keys {
            let lease = house.ask(&format!("sk-key_{number}"), CHAT, now()).await;
            running.push(lease.unwrap_or_else(|rejection| panic!("key {number}, {round}: {}", rejection.message())));
        }
    }
    for number in (0..keys).step_by(100) {
        assert_eq!(code(house.ask(&format!("sk-key_{number}"), CHAT, now()).await), "rate_limit_exceeded");
    }
    for lease in running {
        lease.settle(&Outcome::default(), now());
    }
    for (time, expected) in ["admitted", "rate_limit_exceeded"].into_iter().enumerate() {
        for number in 0..keys {
            let answer = code(house.ask(&format!("sk-key_{number}"), CHAT, now()).await);
            assert_eq!(answer, expected, "key {number}, {time}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_200_threads_as_many_are_admitted_as_the_limits_say() {
    let times: usize = std::env::var("KEYMETER_SOAK").ok().map_or(3, |times| times.parse().unwrap());
    for (requests, concurrent) in [(10, 1000), (1000, 10)].repeat(times) {
        let house = Fixture::of(limited("key_a", requests, 10_000_000, concurrent));
        let visits = (0..200).map(|_| house.identify("sk-key_a", now()));
        let visits: Vec<_> = futures_util::future::try_join_all(visits).await.map_err(|_| "refused").unwrap();
        let scanned = scan(&Bytes::from_static(CHAT.as_bytes()), Endpoint::ChatCompletions.shape()).unwrap();
        let start = std::sync::Barrier::new(200);
        let (gate, scanned, start, now) = (&house.gate, &scanned, &start, now());
        let leases: Vec<_> = thread::scope(|scope| {
            let admit = |visit| {
                scope.spawn(move || {
                    start.wait();
                    gate.admit(visit, Endpoint::ChatCompletions, scanned, now).ok()
                })
            };
            let threads: Vec<_> = visits.into_iter().map(admit).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(leases.len(), 10);
        house.in_flight("10");
        drop(leases);
        house.in_flight("0");
    }
}

#[tokio::test]
async fn strangers_are_throttled_and_known_keys_are_not() {
    let house = Fixture::new(vec![record("key_a"), record("key_b")], "", 1000);
    assert_eq!(code(house.ask("sk-key_a", CHAT, now()).await), "admitted");
    let mut throttled = 0;
    for number in 0..5000 {
        match code(house.ask(&format!("sk-bad-{number}"), CHAT, now()).await) {
            "rate_limit_exceeded" => throttled += 1,
            other => assert_eq!(other, "invalid_api_key"),
        }
        if throttled == 1 {
            assert_eq!(code(house.ask("sk-key_a", CHAT, now()).await), "admitted", "it is cached");
            assert_eq!(code(house.ask("sk-key_b", CHAT, now()).await), "admitted", "it is in memory");
        }
        if throttled == 50 {
            break;
        }
    }
    assert_eq!(throttled, 50);
    house.counts(r#"keymeter_unauthorized_total{reason="throttled"}"#, "50");
}

#[tokio::test]
async fn usage_is_asked_for_as_configured_and_a_refusal_is_learned() {
    for (option, added, withdrawn, later) in [
        ("", true, true, false),
        (", inject_usage: auto", true, true, false),
        (", inject_usage: always", true, false, true),
        (", inject_usage: never", false, false, false),
    ] {
        let house = Fixture::of(record("key_a"));
        house.gate.replace_settings(settings_with(option, ""));
        let mut lease = house.lease(STREAM).await;
        assert_eq!(lease.change().include_usage, added, "{option}");
        for unrelated in [200, 401, 404, 429, 500] {
            assert!(!lease.withdraw_addition(unrelated), "{option}, {unrelated}");
        }
        assert_eq!(lease.withdraw_addition(422), withdrawn, "{option}");
        assert!(!lease.withdraw_addition(422) || !withdrawn, "only once");
        lease.answered(200, "text/event-stream", false);
        assert_eq!(house.lease(STREAM).await.change().include_usage, later, "{option}");
        assert!(!house.lease(CHAT).await.change().include_usage, "{option}: no stream, nothing to ask for");
    }
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
        let house = Fixture::new(vec![limited("key_a", 10, tokens, 10)], sections, 10);
        let lease = house.lease(body).await;
        assert_eq!(lease.change().maximum, maximum, "{body}");
        assert!(lease.standing(now()).tokens.used <= tokens);
    }
}

#[tokio::test]
async fn worst_case_without_any_maximum_does_not_wait_until_the_whole_minute_is_free() {
    let house = Fixture::new(vec![limited("key_a", 10, 2000, 10)], "limits: {reservation: worst_case}", 10);
    for left in [2000, 1949, 1898] {
        let mut lease = house.lease(CHAT).await;
        let prompt = lease.standing(now()).tokens.used - lease.change().maximum.unwrap() - (2000 - left);
        assert_eq!(lease.change().maximum, Some(left - prompt), "all that is left");
        lease.answered(200, "application/json", false);
        drop(lease.pass(Bytes::from_static(br#"{"usage":{"prompt_tokens":38,"completion_tokens":13}}"#)));
        lease.settle(&Outcome { status: Some(200), complete: true, ..Outcome::default() }, now());
    }
    let lease = house.lease(CHAT).await;
    assert_eq!(code(house.ask("sk-key_a", CHAT, now()).await), "rate_limit_exceeded", "{:?}", lease.change());
}

#[tokio::test]
async fn worst_case_of_what_has_no_maximum_waits_for_what_such_answers_take_and_not_for_all() {
    let house = Fixture::new(vec![limited("key_a", 10, 5000, 10)], "limits: {reservation: worst_case}", 10);
    for used in [0, 51, 102] {
        let visit = house.identify("sk-key_a", now()).await.map_err(|_| "refused").unwrap();
        let body = Bytes::from_static(br#"{"model":"m","prompt":"a tree"}"#);
        let scanned = scan(&body, Endpoint::ImageGenerations.shape()).unwrap();
        let admitted = house.gate.admit(visit, Endpoint::ImageGenerations, &scanned, now());
        let mut lease = admitted.map_err(|refused| refused.rejection.message()).unwrap();
        assert_eq!(lease.standing(now()).tokens.used, 5000, "after {used}, all that is left");
        assert_eq!(scanned.splice(lease.change()), body, "and nothing is changed");
        lease.answered(200, "application/json", false);
        drop(lease.pass(Bytes::from_static(br#"{"usage":{"input_tokens":38,"output_tokens":13,"total_tokens":51}}"#)));
        lease.settle(&Outcome { status: Some(200), complete: true, ..Outcome::default() }, now());
    }
}

#[tokio::test]
async fn a_request_keeps_the_settings_that_it_came_with() {
    let house = Fixture::new(vec![record("key_a")], "limits: {requests_per_minute: 1}", 10);
    let visit = house.identify("sk-key_a", now()).await.map_err(|_| "refused").unwrap();
    house.gate.replace_settings(settings_with(", models: [other]", ""));
    let scanned = scan(&Bytes::from_static(CHAT.as_bytes()), Endpoint::ChatCompletions.shape()).unwrap();
    let lease = house.gate.admit(visit, Endpoint::ChatCompletions, &scanned, now()).map_err(|_| "refused").unwrap();
    assert_eq!(lease.standing(now()).requests.limit, Limit::at(1).unwrap());
    assert_eq!(code(house.ask("sk-key_a", CHAT, now()).await), "model_not_found");
}
