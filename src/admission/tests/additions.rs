//! What a request's additions are, what becomes of them where the upstream refuses them, and what is learned from that.

use keymeter_core::{
    body::{Change, MaximumName},
    evidence::LASTS,
};

use super::*;

/// The worst case of answers that leave room for others.
const BOUNDED: &str = "limits: {reservation: worst_case}\nmodels: [{name: \"*\", max_output_tokens: 300}]";

/// What an upstream takes of what we add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Takes {
    usage: bool,
    max_tokens: bool,
    completion_tokens: bool,
}

const ALL: Takes = Takes { usage: true, max_tokens: true, completion_tokens: true };

impl Takes {
    fn is_content_with(self, request: &ActiveRequest) -> bool {
        let change = request.change();
        let takes_name = match (change.maximum, change.name) {
            (None, _) => true,
            (Some(_), MaximumName::MaxTokens) => self.max_tokens,
            (Some(_), MaximumName::MaxCompletionTokens) => self.completion_tokens,
        };
        takes_name && (self.usage || !change.include_usage)
    }
}

/// Sends a request until its upstream takes it, and says what was sent: whether usage was asked for, and the field of the
/// maximum. What is refused for good answers with 400.
fn sent(request: &mut ActiveRequest, upstream: Takes, now: Now) -> Vec<(bool, MaximumName)> {
    let mut sent = Vec::new();
    loop {
        sent.push((request.change().include_usage, request.change().name));
        assert!(sent.len() <= 4, "{sent:?}");
        if upstream.is_content_with(request) {
            request.learn_additions(200, now);
            request.answered(200, "application/json", Vec::new());
            return sent;
        }
        if !request.try_otherwise(400) {
            request.learn_additions(400, now);
            request.answered(400, "application/json", Vec::new());
            return sent;
        }
    }
}

fn fixture(option: &str, sections: &str) -> Fixture {
    let keys = ["key_a", "key_b", "key_c"].map(|id| limited(id, 100_000, 100_000_000, 10_000));
    let fixture = Fixture::new(keys.to_vec(), sections, 1000);
    fixture.gate.replace_settings(settings_with(option, sections));
    fixture
}

async fn ask(fixture: &Fixture, key: &str, body: &'static str, now: Now) -> Box<ActiveRequest> {
    fixture.ask(&format!("sk-{key}"), body, now).await.unwrap_or_else(|rejection| panic!("{}", rejection.message()))
}

const OLD: MaximumName = MaximumName::MaxTokens;
const NEW: MaximumName = MaximumName::MaxCompletionTokens;

#[tokio::test]
async fn usage_is_asked_for_as_configured_and_left_out_where_it_is_refused() {
    let refusing = Takes { usage: false, ..ALL };
    for (option, expected) in [
        ("", [vec![true, false], vec![true, false], vec![false]]),
        (", inject_usage: auto", [vec![true, false], vec![true, false], vec![false]]),
        (", inject_usage: always", [vec![true], vec![true], vec![true]]),
        (", inject_usage: never", [vec![false], vec![false], vec![false]]),
    ] {
        let fixture = fixture(option, "");
        for expected in expected {
            let mut request = ask(&fixture, "key_a", STREAM, now()).await;
            let asked: Vec<_> = sent(&mut request, refusing, now()).into_iter().map(|(usage, _)| usage).collect();
            assert_eq!(asked, expected, "{option}");
        }
        let mut plain = ask(&fixture, "key_a", CHAT, now()).await;
        assert_eq!(sent(&mut plain, ALL, now()), [(false, OLD)], "{option}: no stream, nothing to ask for");
    }
}

#[tokio::test]
async fn only_a_400_or_422_is_about_what_was_added() {
    let fixture = fixture("", BOUNDED);
    let mut request = ask(&fixture, "key_a", STREAM, now()).await;
    for unrelated in [200, 401, 404, 413, 429, 500] {
        assert!(!request.try_otherwise(unrelated), "{unrelated}");
    }
    assert_eq!([400, 422, 400, 422].map(|status| request.try_otherwise(status)), [true, true, true, false]);
    let last = Change { include_usage: false, name: OLD, ..request.change().clone() };
    assert_eq!(*request.change(), last, "there is nothing left to try");
}

#[tokio::test]
async fn every_upstream_gets_what_it_takes_at_once_and_what_is_learned_from_then_on() {
    let plain_old = Takes { usage: false, max_tokens: true, completion_tokens: false };
    let plain_new = Takes { usage: false, max_tokens: false, completion_tokens: true };
    let new = Takes { max_tokens: false, ..ALL };
    let old = Takes { completion_tokens: false, ..ALL };
    let plain = Takes { usage: false, ..ALL };
    // What the first request is sent as, the second, and one when all is learned.
    for (upstream, first, second, later) in [
        (ALL, vec![(true, OLD)], vec![(true, OLD)], (true, OLD)),
        (old, vec![(true, OLD)], vec![(true, OLD)], (true, OLD)),
        (new, vec![(true, OLD), (true, NEW)], vec![(true, NEW)], (true, NEW)),
        (
            plain,
            vec![(true, OLD), (true, NEW), (false, NEW)],
            vec![(true, OLD), (true, NEW), (false, NEW)],
            (false, OLD),
        ),
        (
            plain_old,
            vec![(true, OLD), (true, NEW), (false, NEW), (false, OLD)],
            vec![(true, OLD), (true, NEW), (false, NEW), (false, OLD)],
            (false, OLD),
        ),
        (
            plain_new,
            vec![(true, OLD), (true, NEW), (false, NEW)],
            vec![(true, OLD), (true, NEW), (false, NEW)],
            (false, NEW),
        ),
    ] {
        let fixture = fixture("", BOUNDED);
        for expected in [first, second] {
            let mut request = ask(&fixture, "key_a", STREAM, now()).await;
            assert_eq!(sent(&mut request, upstream, now()), expected, "{upstream:?}");
        }
        let mut learning = ask(&fixture, "key_a", STREAM, now()).await;
        sent(&mut learning, upstream, now());
        let mut request = ask(&fixture, "key_a", STREAM, now()).await;
        assert_eq!(sent(&mut request, upstream, now()), [later], "{upstream:?}");
    }
}

#[tokio::test]
async fn a_request_that_is_refused_in_every_form_teaches_nothing_and_is_not_sent_for_ever() {
    let none = Takes { usage: false, max_tokens: false, completion_tokens: false };
    let fixture = fixture("", BOUNDED);
    for _ in 0..5 {
        let mut request = ask(&fixture, "key_a", STREAM, now()).await;
        assert_eq!(sent(&mut request, none, now()), [(true, OLD), (true, NEW), (false, NEW), (false, OLD)]);
        let mut request = ask(&fixture, "key_a", CHAT, now()).await;
        assert_eq!(sent(&mut request, none, now()), [(false, OLD), (false, NEW)]);
    }
}

#[tokio::test]
async fn where_a_field_that_is_known_is_refused_the_client_is_not_told_of_the_other() {
    let fixture_of_old = fixture("", BOUNDED);
    let nothing = Takes { max_tokens: false, completion_tokens: false, usage: false };
    sent(&mut *ask(&fixture_of_old, "key_a", CHAT, now()).await, ALL, now());
    let bad = sent(&mut *ask(&fixture_of_old, "key_b", CHAT, now()).await, nothing, now());
    assert_eq!(bad, [(false, OLD), (false, NEW), (false, OLD)]);
    let (none, new) =
        (Takes { max_tokens: false, completion_tokens: false, usage: false }, Takes { max_tokens: false, ..ALL });
    let fixture = fixture("", BOUNDED);
    sent(&mut *ask(&fixture, "key_a", CHAT, now()).await, new, now());
    let bad = sent(&mut *ask(&fixture, "key_a", CHAT, now()).await, none, now());
    assert_eq!(bad, [(false, NEW), (false, OLD), (false, NEW)]);
    let bad = sent(&mut *ask(&fixture, "key_a", STREAM, now()).await, none, now());
    assert_eq!(bad, [(true, NEW), (false, NEW), (false, OLD), (false, NEW)]);
    assert_eq!(
        sent(&mut *ask(&fixture, "key_a", CHAT, now()).await, new, now()),
        [(false, NEW)],
        "and nothing is unlearned"
    );
}

#[tokio::test]
async fn what_one_keys_requests_prove_changes_nothing_for_others_and_two_keys_decide() {
    let (plain, new) = (Takes { usage: false, ..ALL }, Takes { max_tokens: false, ..ALL });
    let usage = fixture("", "");
    for _ in 0..50 {
        sent(&mut *ask(&usage, "key_a", STREAM, now()).await, plain, now());
    }
    assert!(!ask(&usage, "key_a", STREAM, now()).await.change().include_usage);
    assert!(ask(&usage, "key_b", STREAM, now()).await.change().include_usage, "it is another's");
    sent(&mut *ask(&usage, "key_b", STREAM, now()).await, plain, now());
    assert!(!ask(&usage, "key_c", STREAM, now()).await.change().include_usage, "the second key proves it for all");

    let field = fixture("", BOUNDED);
    for _ in 0..50 {
        sent(&mut *ask(&field, "key_a", CHAT, now()).await, new, now());
    }
    assert_eq!(ask(&field, "key_a", CHAT, now()).await.change().name, NEW);
    assert_eq!(ask(&field, "key_b", CHAT, now()).await.change().name, OLD);
    sent(&mut *ask(&field, "key_b", CHAT, now()).await, new, now());
    assert_eq!(ask(&field, "key_c", CHAT, now()).await.change().name, NEW);
    let other_model = r#"{"model":"n","messages":[]}"#;
    assert_eq!(ask(&field, "key_c", other_model, now()).await.change().name, OLD);
}

#[tokio::test]
async fn a_foreign_refusal_is_forgotten_with_the_next_success() {
    let plain = Takes { usage: false, ..ALL };
    let fixture = fixture("", "");
    for round in 0..5 {
        let mut picture = ask(&fixture, "key_a", STREAM, now()).await;
        assert_eq!(sent(&mut picture, plain, now()), [(true, OLD), (false, OLD)], "{round}");
        assert_eq!(sent(&mut *ask(&fixture, "key_b", STREAM, now()).await, ALL, now()), [(true, OLD)], "{round}");
    }
    assert!(ask(&fixture, "key_a", STREAM, now()).await.change().include_usage);
}

#[tokio::test]
async fn what_was_learned_is_tried_again_after_ten_minutes() {
    let (plain, new) = (Takes { usage: false, ..ALL }, Takes { max_tokens: false, ..ALL });
    let usage = fixture("", "");
    for key in ["key_a", "key_b"] {
        sent(&mut *ask(&usage, key, STREAM, now()).await, plain, now());
    }
    let field = fixture("", BOUNDED);
    sent(&mut *ask(&field, "key_a", CHAT, now()).await, new, now());
    let (before, after) = (at(Duration::from_secs(599)), at(LASTS));
    assert!(!ask(&usage, "key_c", STREAM, before).await.change().include_usage);
    assert!(ask(&usage, "key_c", STREAM, after).await.change().include_usage);
    assert_eq!(ask(&field, "key_a", CHAT, before).await.change().name, NEW);
    assert_eq!(ask(&field, "key_a", CHAT, after).await.change().name, OLD);
    let healed = sent(&mut *ask(&usage, "key_c", STREAM, after).await, ALL, after);
    assert_eq!(healed, [(true, OLD)]);
}

#[tokio::test]
async fn an_upstream_that_changes_its_mind_is_followed_at_once() {
    let (new, old) = (Takes { max_tokens: false, ..ALL }, Takes { completion_tokens: false, ..ALL });
    let fixture = fixture("", BOUNDED);
    for key in ["key_a", "key_b"] {
        sent(&mut *ask(&fixture, key, CHAT, now()).await, new, now());
    }
    assert_eq!(sent(&mut *ask(&fixture, "key_c", CHAT, now()).await, old, now()), [(false, NEW), (false, OLD)]);
    assert_eq!(sent(&mut *ask(&fixture, "key_a", CHAT, now()).await, old, now()), [(false, OLD)]);
}

#[tokio::test]
async fn a_field_that_the_upstream_passes_over_is_not_taken_for_learned() {
    let new = Takes { max_tokens: false, ..ALL };
    let fixture = fixture("", "limits: {reservation: worst_case}\nmodels: [{name: m, max_output_tokens: 10}]");
    for (stated, name) in [(20, NEW), (21, OLD)] {
        let two = r#"{"model":"m","n":2,"messages":[]}"#;
        let mut request = ask(&fixture, "key_a", two, now()).await;
        sent(&mut request, new, now());
        let answer = format!(r#"{{"usage":{{"prompt_tokens":7,"completion_tokens":{stated}}}}}"#);
        drop(request.pass(answer.into()));
        request.settle(&Outcome { status: Some(200), complete: true, ..Outcome::default() }, now());
        assert_eq!(ask(&fixture, "key_a", two, now()).await.change().name, name, "{stated} tokens of 2 answers of 10");
    }
}

#[tokio::test]
async fn a_maximum_is_written_where_the_client_has_its_own() {
    let new = Takes { max_tokens: false, ..ALL };
    for (body, first, tries) in [
        (r#"{"model":"m","max_tokens":null,"messages":[]}"#, OLD, vec![(false, OLD), (false, NEW)]),
        (r#"{"model":"m","max_completion_tokens":null,"messages":[]}"#, NEW, vec![(false, NEW)]),
        (r#"{"model":"m","max_tokens":-1,"messages":[]}"#, OLD, vec![(false, OLD), (false, NEW)]),
        (r#"{"model":"m","max_completion_tokens":0,"messages":[]}"#, NEW, vec![(false, NEW)]),
        (r#"{"model":"m","max_tokens":null,"max_completion_tokens":null}"#, OLD, vec![(false, OLD), (false, NEW)]),
    ] {
        let fixture = fixture("", BOUNDED);
        let mut request = ask(&fixture, "key_a", body, now()).await;
        assert_eq!(request.change().name, first, "{body}");
        assert_eq!(sent(&mut request, new, now()), tries, "{body}");
    }
    let keys = vec![limited("key_a", 100, 1000, 100)];
    let fixture = Fixture::new(keys, WORST_CASE, 1000);
    for body in [
        r#"{"model":"m","max_tokens":5000,"messages":[]}"#,
        r#"{"model":"m","max_tokens":-1,"max_completion_tokens":-1,"messages":[]}"#,
        r#"{"model":"m","max_completion_tokens":5000,"max_tokens":null,"messages":[]}"#,
    ] {
        let mut request = ask(&fixture, "key_a", body, now()).await;
        assert!(request.change().maximum.is_some(), "{body}");
        assert!(!request.try_otherwise(400), "{body}: the field is the client's own");
        request.settle(&Outcome { status: Some(400), complete: true, ..Outcome::default() }, now());
    }
}

#[tokio::test]
async fn where_nothing_is_written_nothing_is_tried_otherwise() {
    for sections in ["", BOUNDED] {
        let fixture = fixture("", sections);
        let mut request = ask(&fixture, "key_a", r#"{"model":"m","max_tokens":5,"messages":[]}"#, now()).await;
        assert!(!request.try_otherwise(400), "{sections}");
    }
    let fixture = fixture("", "");
    assert!(!ask(&fixture, "key_a", CHAT, now()).await.try_otherwise(400));
}

#[tokio::test]
async fn where_less_is_free_than_the_api_demands_waiting_helps_and_where_it_never_fits_it_does_not() {
    let thinking = |tokens: u64, budget: u64| {
        let keys = vec![limited("key_a", 100, tokens, 100)];
        let body = format!(r#"{{"model":"m","messages":[],"thinking":{{"type":"enabled","budget_tokens":{budget}}}}}"#);
        (Fixture::new(keys, WORST_CASE, 1000), &*body.leak())
    };
    let (fixture, body) = thinking(1000, 600);
    let first = ask(&fixture, "key_a", body, now()).await;
    assert!(first.change().maximum.unwrap() > 600);
    let refused = fixture.ask("sk-key_a", body, now()).await.err().unwrap();
    assert_eq!((refused.code().as_str(), refused.retry_after().is_some()), ("rate_limit_exceeded", true));
    let (fixture, body) = thinking(1000, 1000);
    let refused = fixture.ask("sk-key_a", body, now()).await.err().unwrap();
    assert_eq!((refused.status().as_u16(), refused.code().as_str()), (429, "request_too_large"));
    assert!(refused.retry_after().is_none() && refused.forbids_retry());
    assert!(refused.message().contains("1001 tokens"), "{}", refused.message());
}
