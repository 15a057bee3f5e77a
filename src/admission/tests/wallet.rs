//! What a wallet pays for, and what it does not.

use keymeter_core::wallet::{Allowance, BalanceUpdate, Cost};

use super::*;

const PRICED: &str = r#"
limits: {requests_per_minute: unlimited, tokens_per_minute: unlimited, concurrent_requests: unlimited, reservation: worst_case}
models: [{name: m, input: "1000", output: "10000"}]
"#;

/// A key whose wallet has $10, of which all is granted.
fn house() -> Fixture {
    let house = Fixture::new(vec![KeyRecord { wallet: Some("ada".into()), ..record("key_a") }], PRICED, 1000);
    hear(&house, "10", "10", "0");
    house
}

fn hear(house: &Fixture, balance: &str, granted: &str, counted: &str) {
    let [balance, granted, counted] = [balance, granted, counted].map(|text| text.parse().unwrap());
    let allowance = Some(Allowance { version: 1, granted, counted, lasts: Duration::from_secs(60) });
    house.resolver.wallets().of(&"ada".into()).hear(&BalanceUpdate { balance, allowance }, now().moment);
}

#[tokio::test]
async fn of_two_hundred_requests_at_once_those_are_admitted_that_the_wallet_pays_for() {
    let house = house();
    // A cent a token of output; the prompt has less than a hundred bytes, of a tenth of a cent each.
    let body = r#"{"model":"m","max_tokens":95,"messages":[{"role":"user","content":"Say something short."}]}"#;
    let mut admitted = Vec::new();
    for _ in 0..200 {
        match house.ask("sk-key_a", body, now()).await {
            Ok(lease) => admitted.push(lease),
            Err(rejection) => assert_eq!(rejection.code().as_str(), "insufficient_quota"),
        }
    }
    assert_eq!(admitted.len(), 10);
    assert_eq!(used(&admitted[0].standing(now())), (10, 10 * 107, 10), "refusals took nothing");
    drop(admitted);
    assert!(house.ask("sk-key_a", body, now()).await.is_ok(), "what was not spent is there again");
}

#[tokio::test]
async fn a_settled_request_has_cost_what_was_used() {
    let house = house();
    let mut lease = house.lease(r#"{"model":"m","max_tokens":95,"messages":[]}"#).await;
    answer(&mut lease);
    lease.settle(&Outcome { status: Some(200), complete: true, ..Outcome::default() }, now());
    assert_eq!(house.resolver.wallets().of(&"ada".into()).left().to_string(), "9.943", "7 tokens in, 5 out");
}

#[tokio::test]
async fn an_answer_of_unknown_length_is_held_to_what_the_wallet_pays_for() {
    let house = house();
    let lease = house.lease(r#"{"model":"m","messages":[]}"#).await;
    let maximum = lease.change().maximum.unwrap();
    assert!((900..=1000).contains(&maximum), "{maximum}: $10 are 1000 tokens of output");
}

#[tokio::test]
async fn the_lesser_of_the_minute_and_the_wallet_holds_an_answer_of_unknown_length() {
    for (tokens, expected) in [(5_000, 900..=1000), (500, 400..=500)] {
        let record = KeyRecord { wallet: Some("ada".into()), ..limited("key_a", 10, tokens, 10) };
        let house = Fixture::new(vec![record], PRICED, 1000);
        hear(&house, "10", "10", "0");
        let maximum = house.lease(r#"{"model":"m","messages":[]}"#).await.change().maximum.unwrap();
        assert!(expected.contains(&maximum), "{maximum} of {tokens}");
    }
}

#[tokio::test]
async fn of_a_wallet_of_which_nothing_is_known_its_keeper_is_to_be_asked() {
    let house = Fixture::new(vec![KeyRecord { wallet: Some("ada".into()), ..record("key_a") }], PRICED, 1000);
    let visit = house.identify("sk-key_a", now()).await.unwrap();
    let scanned = scan(&Bytes::from_static(CHAT.as_bytes()), Endpoint::ChatCompletions.shape()).unwrap();
    let turned_away = house.gate.admit(visit, Endpoint::ChatCompletions, &scanned, now()).err().unwrap();
    let AllowanceNeeded { purse, cost } = turned_away.ask.unwrap();
    assert_eq!(&**purse.id(), "ada");
    assert!(
        matches!(cost, Cost::AtMost(cost) if cost > "10".parse().unwrap()),
        "a thousand tokens are expected: {cost:?}"
    );
}

#[tokio::test]
async fn a_key_without_a_wallet_asks_nobody() {
    let house = Fixture::new(vec![record("key_a")], PRICED, 1000);
    assert!(house.ask("sk-key_a", CHAT, now()).await.is_ok());
}
