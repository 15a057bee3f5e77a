//! A record that the usage service fails at, without a word that it is the record.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use keymeter::accounting::Outbox;
use keymeter_core::{
    record::{Record, Session},
    usage::UsageSource,
};
use serde_json::{Value, json};

use super::{House, id, json_chat};
use crate::{
    control::gateways,
    sources::answering,
    support::{
        client::{PATIENCE, within_limit},
        control::{OPERATOR, Plane},
        script::{Script, completion},
        usage_service::Failure,
    },
};

const REFUSED: &str = "keymeter_ledger_records_total{outcome=\"refused\"}";
const SPOOLED: &str = "keymeter_ledger_spooled_records";

/// The ids in a ledger's `refused.jsonl`.
fn aside(root: &Path) -> Vec<String> {
    let text = fs::read_to_string(root.join("refused.jsonl")).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| line["record"]["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_fails_at_one_record_gets_all_others_and_that_one_is_set_aside() {
    for status in [400, 503] {
        let house = House::new(|_| Script::json(200, &completion("m", 5))).await;
        house.usage_service.record(&id(&house.ask(&json_chat("m")).await)).await;
        house.usage_service.fail(Failure::FailsAtModel("bad", status));
        let bad = id(&house.ask(&json_chat("bad")).await);
        house.usage_service.is_asked().await;
        let mut good = Vec::new();
        for _ in 0..5 {
            good.push(id(&house.ask(&json_chat("good")).await));
        }
        let root = house.gateway.directory.path().join("data/spool");
        let done = async {
            while aside(&root).is_empty() || house.gateway.metric(SPOOLED).await > 0.0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within_limit(PATIENCE * 6, "the poisoned record to be set aside", done).await;
        assert_eq!(aside(&root), [bad], "{status}");
        assert_eq!(fs::metadata(root.join("refused.jsonl")).unwrap().permissions().mode() & 0o777, 0o600);
        let records = house.usage_service.records();
        assert!(records.len() == 6 && good.iter().all(|id| records.contains_key(id)), "{status}");
        assert!((house.gateway.metric(REFUSED).await - 1.0).abs() < 1e-9);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn others_do_not_wait_for_a_record_that_the_keeper_fails_at_from_the_first_on() {
    let house = House::new(|_| Script::json(200, &completion("m", 5))).await;
    house.usage_service.fail(Failure::FailsAtModel("bad", 503));
    house.ask(&json_chat("bad")).await;
    house.usage_service.is_asked().await;
    let good = id(&house.ask(&json_chat("good")).await);
    let sent = house.usage_service.record(&good);
    within_limit(PATIENCE * 3, "a record that came later", sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_keeper_takes_nothing_nothing_is_set_aside() {
    let house = House::new(|_| Script::json(200, &completion("m", 5))).await;
    house.usage_service.record(&id(&house.ask(&json_chat("m")).await)).await;
    for failure in [Failure::Status(503), Failure::Status(400), Failure::Status(401)] {
        house.usage_service.fail(failure);
        let waits = id(&house.ask(&json_chat("m")).await);
        // More often than a record is tried that the usage service fails at.
        for _ in 0..7 {
            house.usage_service.is_asked().await;
        }
        house.usage_service.fail(Failure::None);
        house.usage_service.record(&waits).await;
    }
    house.gateway.metric_becomes(SPOOLED, 0.0).await;
    assert!(house.gateway.metric(REFUSED).await.abs() < 1e-9);
}

/// A gateway of before let a client name a model as it liked.
fn poisoned(spool: &Outbox, number: u64, model: &str) -> String {
    let id = format!("req_old{number}");
    let record = Record {
        id: id.parse().unwrap(),
        gateway: Session::generate().unwrap(),
        time: jiff::Timestamp::now(),
        key_id: "key_old".parse().unwrap(),
        key_name: "Old key".parse().unwrap(),
        owner: Some("ada".into()),
        team: None,
        wallet: Some("ada".into()),
        model: model.into(),
        input_tokens: 1,
        cached_input_tokens: 0,
        cache_write_tokens: 0,
        output_tokens: 1,
        reasoning_tokens: 0,
        cost_usd: "0.5".parse().unwrap(),
        status: 200,
        usage_source: UsageSource::Upstream,
    };
    spool.append(&record).unwrap();
    id
}

async fn a_poisoned_spool_drains(plane: &Plane) {
    plane.user("ada").await;
    plane.credit("ada", "10", "first").await;
    let upstream = answering().await;
    let gateway = gateways::gateway(&upstream, plane, "").await;
    let root = gateway.directory.path().join("data/spool");
    // Left by a process that is gone; the one that runs looks for such.
    let spool = Outbox::open(&root, &Session::generate().unwrap()).unwrap();
    let mut bad = Vec::new();
    for number in 0..20 {
        let model = if number % 4 == 3 { "m1\0x" } else { "m" };
        let id = poisoned(&spool, number, model);
        bad.extend((number % 4 == 3).then_some(id));
    }
    drop(spool);
    let drained = async {
        while aside(&root).len() < 5 || plane.balance("ada").await != "2.5" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within_limit(PATIENCE * 2, "the spool to drain", drained).await;
    assert_eq!(aside(&root), bad, "each once, in their order");
    gateway.metric_becomes(SPOOLED, 0.0).await;
    gateway.metric_becomes(REFUSED, 5.0).await;
    let rows = plane.get(OPERATOR, "/api/v1/usage").await.with(200)["rows"].clone();
    assert_eq!((&rows[0]["requests"], &rows[0]["cost_usd"]), (&json!(15), &json!("7.5")));
    assert_eq!(plane.store().unbalanced_wallets().await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_spool_drains_into_sqlite() {
    a_poisoned_spool_drains(&Plane::sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_spool_drains_into_postgres() {
    a_poisoned_spool_drains(&Plane::postgres().await).await;
}
