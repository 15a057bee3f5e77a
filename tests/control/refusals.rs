//! What gateways refused of a key, as they tell it: apart from usage records, once, and of known keys only.

use std::time::Instant;

use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};

use super::{
    gateways::gateway,
    money::{record, used},
    over_both,
    page::Browser,
};
use crate::{
    sources::{answering, asked},
    support::{
        client::PATIENCE,
        control::{Answer, GATEWAYS, OPERATOR, Plane},
    },
};

over_both! {
    a_report_counts_once_and_is_kept_for_a_month
    a_report_is_taken_within_bounds
    a_gateway_tells_why_it_refused
}

const GATEWAY: &str = "00000000000000aa";

async fn reports(plane: &Plane, number: u64, sums: Value) -> Answer {
    let batch = json!({"gateway": GATEWAY, "records": [], "refusals": {"number": number, "sums": sums}});
    plane.call(GATEWAYS, "POST", "/v1/usage/records", batch).await
}

fn sum(key: &str, reason: &str, scope: &str, count: u64, last: Timestamp) -> Value {
    json!({"key_id": key, "reason": reason, "scope": scope, "count": count, "last_at": last.to_string()})
}

async fn rows(plane: &Plane, token: &str, id: &str) -> Value {
    plane.get(token, &format!("/api/v1/keys/{id}/refusals")).await.with(200)["rows"].clone()
}

async fn a_report_counts_once_and_is_kept_for_a_month(plane: &Plane) {
    let ada = plane.user("ada").await;
    plane.credit("ada", "1", "first").await;
    let (id, _) = plane.key(&ada, json!({"name": "Some key"})).await;
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    let before = now.checked_sub(40.hours()).unwrap();
    let first = json!([sum(&id, "usd_quota", "owner", 3, before), sum(&id, "disabled", "key", 1, before)]);
    for _ in 0..2 {
        let answer = reports(plane, 1, first.clone()).await.with(200);
        assert_eq!((&answer["accepted"], &answer["takes_refusals"]), (&json!(0), &json!(true)));
    }
    reports(plane, 2, json!([sum(&id, "usd_quota", "owner", 4, now)])).await.with(200);
    reports(plane, 1, json!([sum(&id, "usd_quota", "owner", 9, now)])).await.with(200);
    let told = json!([
        {"reason": "usd_quota", "scope": "owner", "count": 7, "last_at": now},
        {"reason": "disabled", "scope": "key", "count": 1, "last_at": before},
    ]);
    assert_eq!(rows(plane, &ada, &id).await, told);
    let mut browser = Browser::signed_in(plane, &ada).await;
    browser
        .get(&format!("/keys/{id}"))
        .await
        .with(200)
        .says("A quota of money was used up")
        .says("The key was disabled");

    // What is older than a month is forgotten, and with it the numbers of reports that went on for no longer.
    let end = now.checked_sub(20.hours()).unwrap();
    assert_eq!(plane.store().forget_refusals(end).await.unwrap(), 2);
    assert_eq!(rows(plane, &ada, &id).await[0]["count"], 4);
    let all = now.checked_add(48.hours()).unwrap();
    plane.store().forget_refusals(all).await.unwrap();
    assert_eq!(rows(plane, &ada, &id).await, json!([]));
    browser.get(&format!("/keys/{id}")).await.says("Gateways have told of no refusals.");
}

async fn a_report_is_taken_within_bounds(plane: &Plane) {
    let (ada, bob) = (plane.user("ada").await, plane.user("bob").await);
    plane.credit("ada", "1", "first").await;
    let (id, _) = plane.key(&ada, json!({"name": "Some key"})).await;
    let now = Timestamp::now();
    let ahead = now.checked_add(9000.hours()).unwrap();
    let sums = json!([
        sum(&id, "address", "key", 1, ahead),
        sum(&id, "a_reason_of_a_later_version", "key", 1, now),
        sum(&id, "usd_quota", "universe", 1, now),
        sum("key_that_there_is_not", "usd_quota", "key", 1, now),
        sum(&id, "balance", "key", u64::MAX, now),
    ]);
    reports(plane, 1, sums).await.with(200);
    let told = rows(plane, &ada, &id).await;
    let words: Vec<_> = told.as_array().unwrap().iter().map(|row| row["reason"].as_str().unwrap()).collect();
    assert_eq!(words.len(), 2, "{told}");
    assert!(words.contains(&"address") && words.contains(&"balance"), "{told}");
    for row in told.as_array().unwrap() {
        assert!(row["last_at"].as_str().unwrap().parse::<Timestamp>().unwrap() <= Timestamp::now(), "{row}");
    }
    let many: Vec<_> = (0..1001).map(|number| sum(&format!("key_{number}"), "address", "key", 1, now)).collect();
    assert_eq!(reports(plane, 2, json!(many)).await.refused(422, "invalid_record"), "refusals.sums");
    plane.get(&bob, &format!("/api/v1/keys/{id}/refusals")).await.refused(404, "not_found");
    plane.get(GATEWAYS, &format!("/api/v1/keys/{id}/refusals")).await.refused(401, "invalid_token");
    // Records are taken whatever comes with them, and as before where nothing does.
    used(plane, &[record("r1", &id, "ada", "0.5")]).await;
    assert_eq!(plane.balance("ada").await, "0.5");
}

async fn a_gateway_tells_why_it_refused(plane: &Plane) {
    let upstream = answering().await;
    let gateway = gateway(&upstream, plane, "").await;
    let limits = json!({"requests_per_minute": 1});
    let (id, secret) = plane.key(OPERATOR, json!({"name": "Some key", "limits": limits})).await;
    let asks = async |status: u16| assert_eq!(asked(&gateway, &secret).await.0, status);
    asks(200).await;
    asks(429).await;
    asks(429).await;
    becomes(plane, &id, &json!([["requests_per_minute", "key", 2]])).await;
    asks(429).await;
    becomes(plane, &id, &json!([["requests_per_minute", "key", 3]])).await;
    // A stranger's requests are nobody's.
    assert_eq!(asked(&gateway, "sk-of-nobody").await.0, 401);
    let records = plane.get(OPERATOR, &format!("/api/v1/usage?key={id}")).await.with(200);
    assert_eq!(records["rows"][0]["requests"], 1, "a refused request is no usage");
}

/// Waits until so much was told of a key.
async fn becomes(plane: &Plane, id: &str, expected: &Value) {
    let start = Instant::now();
    loop {
        let told = rows(plane, OPERATOR, id).await;
        let told: Vec<_> =
            told.as_array().unwrap().iter().map(|row| json!([row["reason"], row["scope"], row["count"]])).collect();
        if json!(told) == *expected {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{told:?} does not become {expected}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
