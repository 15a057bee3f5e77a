//! Several instances over one PostgreSQL server: what is done at one is done for all.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    gateways::{becomes, gateway, told},
    money::{ask_for, used},
};
use crate::{
    sources::answering,
    support::{
        control::{GATEWAYS, OPERATOR, Plane},
        soak::scaled,
    },
};

async fn instances() -> [Plane; 2] {
    let first = Plane::postgres().await;
    let second = first.beside().await;
    [first, second]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_at_one_is_so_on_the_gateways_of_all() {
    let (planes, upstream) = (instances().await, answering().await);
    let mut gateways = Vec::new();
    for number in 0..4 {
        gateways.push(gateway(&upstream, &planes[number % 2], "").await);
    }
    let rounds = scaled(5, 100);
    let mut lags = Vec::new();
    for round in 0..rounds {
        let (here, there) = (&planes[round % 2], &planes[(round + 1) % 2]);
        let (id, secret) = here.key(OPERATOR, json!({"name": "Some key"})).await;
        let path = format!("/api/v1/keys/{id}");
        becomes(&gateways, &secret, &(200, Value::Null), &mut lags).await;
        there.operate("PATCH", &path, json!({"enabled": false})).await.with(200);
        becomes(&gateways, &secret, &(401, "api_key_disabled".into()), &mut lags).await;
        here.operate("PATCH", &path, json!({"enabled": true})).await.with(200);
        becomes(&gateways, &secret, &(200, Value::Null), &mut lags).await;
        there.operate("DELETE", &path, Value::Null).await.with(204);
        becomes(&gateways, &secret, &(401, "invalid_api_key".into()), &mut lags).await;
    }
    let [half, _, most] = told(&mut lags, "four gateways");
    assert!(half < Duration::from_millis(scaled(1000, 100)), "{half:?}");
    assert!(most < Duration::from_secs(scaled(3, 1)), "{most:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_told_and_does_not_have_to_look() {
    let planes = instances().await;
    let mut changed = planes[1].store().changed();
    let start = Instant::now();
    while planes[1].store().longest_wait().is_some_and(|time| time < Duration::from_secs(1)) {
        assert!(start.elapsed() < Duration::from_secs(10), "it does not listen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    changed.mark_unchanged();
    planes[0].key(OPERATOR, json!({"name": "Some key"})).await;
    tokio::time::timeout(Duration::from_secs(5), changed.changed()).await.expect("it was told").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallets_recall_reaches_the_gateways_of_all() {
    let planes = instances().await;
    planes[0].user("ada").await;
    planes[0].credit("ada", "10", "first").await;
    let events = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut events = events.get(planes[1].url("/v1/keys/events")).bearer_auth(GATEWAYS).send().await.unwrap();
    assert_ne!(ask_for(&planes[0], "aaaaaaaaaaaaaaaa", "9", "0", &Value::Null).await["granted_usd"], "0");
    // What this one wants is with the other one, whose gateway listens elsewhere.
    ask_for(&planes[0], "bbbbbbbbbbbbbbbb", "9", "0", &Value::Null).await;
    let told = async {
        let mut text = String::new();
        while !text.contains("event: wallet") {
            text += &String::from_utf8_lossy(&events.chunk().await.unwrap().expect("the stream goes on"));
        }
    };
    tokio::time::timeout(Duration::from_secs(5), told).await.expect("it is told of the recall");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_done_in_an_hour_is_counted_over_all() {
    let planes = instances().await;
    let ada = planes[0].user("ada").await;
    planes[1].credit("ada", "1", "first").await;
    let (id, _) = planes[0].key(&ada, json!({"name": "Some key"})).await;
    let regenerate = format!("/api/v1/keys/{id}/regenerate");
    let calls = (0..40).map(|number| planes[number % 2].call(&ada, "POST", &regenerate, Value::Null));
    let answers = futures_util::future::join_all(calls).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 14, "and one was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_twice_is_done_once() {
    let planes = instances().await;
    planes[0].user("ada").await;
    let credits = (0..20).map(|number| planes[number % 2].credit("ada", "5", "the same"));
    futures_util::future::join_all(credits).await;
    assert_eq!(planes[1].balance("ada").await, "5");
    let made = (0..20).map(|number| {
        let headers = [("idempotency-key", "the same")];
        let body = json!({"name": "Some key", "owner": "ada"});
        let plane = &planes[number % 2];
        async move { plane.call_with(OPERATOR, "POST", "/api/v1/keys", body, &headers).await }
    });
    let answers = futures_util::future::join_all(made).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1, "one secret is shown, once");
    // One that came while the first was under way is told to come again.
    assert!(answers.iter().all(|answer| matches!(answer.status.as_u16(), 200 | 201 | 409)), "{answers:?}");
    let listed = planes[1].get(OPERATOR, "/api/v1/keys").await.with(200);
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_handed_in_twice_counts_once() {
    let planes = instances().await;
    planes[0].user("ada").await;
    planes[0].credit("ada", "10", "first").await;
    let (id, _) = planes[0].key(OPERATOR, json!({"name": "Some key", "owner": "ada"})).await;
    let records: Vec<_> =
        (0..50).map(|number| super::money::record(&format!("r{number}"), &id, "ada", "0.1")).collect();
    let sent = (0..12).map(|number| used(&planes[number % 2], &records));
    futures_util::future::join_all(sent).await;
    for plane in &planes {
        assert_eq!(plane.balance("ada").await, "5");
        let rows = plane.get(OPERATOR, "/api/v1/usage").await.with(200)["rows"].clone();
        assert_eq!((&rows[0]["requests"], &rows[0]["cost_usd"]), (&json!(50), &json!("5")));
    }
}
