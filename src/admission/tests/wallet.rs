//! What a wallet pays for, and what it does not.

use keymeter_core::money::{Allowance, BalanceUpdate};

use super::*;

const PRICED: &str = r#"
limits: {requests_per_minute: unlimited, tokens_per_minute: unlimited, concurrent_requests: unlimited, reservation: worst_case}
models: [{name: m, input: "1000", output: "10000"}]
"#;

/// A key whose wallet has $10, of which all is granted.
fn fixture() -> Fixture {
    let fixture = Fixture::new(vec![KeyRecord { wallet: Some("ada".into()), ..record("key_a") }], PRICED, 1000);
    grant(&fixture, "10", "10", "0");
    fixture
}

fn grant(fixture: &Fixture, balance: &str, granted: &str, counted: &str) {
    let [balance, granted, counted] = [balance, granted, counted].map(|text| text.parse().unwrap());
    let allowance = Some(Allowance { version: 1, granted, counted, lasts: Duration::from_mins(1) });
    fixture.resolver.wallets().of(&"ada".into()).update(&BalanceUpdate { balance, allowance }, now().moment);
}

#[tokio::test]
async fn of_two_hundred_requests_at_once_those_are_admitted_that_the_wallet_pays_for() {
    let fixture = fixture();
    // A cent a token of output; the prompt has less than a hundred bytes, of a tenth of a cent each.
    let body = r#"{"model":"m","max_tokens":95,"messages":[{"role":"user","content":"Say something short."}]}"#;
    let mut admitted = Vec::new();
    for _ in 0..200 {
        match fixture.ask("sk-key_a", body, now()).await {
            Ok(request) => admitted.push(request),
            Err(rejection) => assert_eq!(rejection.code().as_str(), "insufficient_quota"),
        }
    }
    assert_eq!(admitted.len(), 10);
    assert_eq!(used(&admitted[0].standing(now())), (10, 10 * 107, 10), "refusals took nothing");
    drop(admitted);
    assert!(fixture.ask("sk-key_a", body, now()).await.is_ok(), "what was not spent is there again");
}

#[tokio::test]
async fn a_settled_request_has_cost_what_was_used() {
    let fixture = fixture();
    let mut request = fixture.admitted(r#"{"model":"m","max_tokens":95,"messages":[]}"#).await;
    answer(&mut request);
    request.settle(&Outcome { status: Some(200), complete: true, ..Outcome::default() }, now());
    assert_eq!(fixture.resolver.wallets().of(&"ada".into()).left().to_string(), "9.943", "7 tokens in, 5 out");
}

#[tokio::test]
async fn an_answer_of_unknown_length_is_held_to_what_the_wallet_pays_for() {
    let fixture = fixture();
    let request = fixture.admitted(r#"{"model":"m","messages":[]}"#).await;
    let maximum = request.change().maximum.unwrap();
    assert!((900..=1000).contains(&maximum), "{maximum}: $10 are 1000 tokens of output");
}

#[tokio::test]
async fn the_lesser_of_the_minute_and_the_wallet_holds_an_answer_of_unknown_length() {
    for (tokens, expected) in [(5_000, 900..=1000), (500, 400..=500)] {
        let record = KeyRecord { wallet: Some("ada".into()), ..limited("key_a", 10, tokens, 10) };
        let fixture = Fixture::new(vec![record], PRICED, 1000);
        grant(&fixture, "10", "10", "0");
        let maximum = fixture.admitted(r#"{"model":"m","messages":[]}"#).await.change().maximum.unwrap();
        assert!(expected.contains(&maximum), "{maximum} of {tokens}");
    }
}

#[tokio::test]
async fn a_wallet_of_which_nothing_is_known_pays_for_nothing_where_nobody_can_be_asked() {
    let fixture =
        Fixture::new(vec![KeyRecord { wallet: Some("ada".into()), ..limited("key_a", 5, 90_000, 5) }], PRICED, 1000);
    assert_eq!(code(fixture.ask("sk-key_a", CHAT, now()).await), "insufficient_quota");
    grant(&fixture, "100", "100", "0");
    let request = fixture.admitted(r#"{"model":"m","max_tokens":9,"messages":[]}"#).await;
    assert_eq!(
        (request.standing(now()).requests.used, request.standing(now()).running),
        (1, 1),
        "the refusal took nothing"
    );
}

#[tokio::test]
async fn a_key_without_a_wallet_asks_nobody() {
    let fixture = Fixture::new(vec![record("key_a")], PRICED, 1000);
    assert!(fixture.ask("sk-key_a", CHAT, now()).await.is_ok());
}
