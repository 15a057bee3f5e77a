//! Wallets and allowances.

use keymeter_core::money::Usd;
use serde_json::{Value, json};

use super::over_both;
use crate::support::control::{GATEWAYS, OPERATOR, Plane};

over_both! {
    a_credit_counts_once
    keys_are_made_and_work_only_while_they_can_pay
    no_two_gateways_are_granted_the_same_dollar
    what_was_used_is_charged_once
    a_balance_is_overspent_by_what_was_granted_to_those_who_were_cut_off
}

async fn a_credit_counts_once(plane: &Plane) {
    plane.user("ada").await;
    let calls: Vec<_> = (0..10).map(|_| plane.credit("ada", "2.50", "first")).collect();
    futures_util::future::join_all(calls).await;
    assert_eq!(plane.credit("ada", "0.000000001", "second").await["balance_usd"], "2.500000001");
    let credit = |usd: &str, key: &str| {
        let body = json!({"usd": usd, "idempotency_key": key});
        async move { plane.operate("POST", "/api/v1/wallets/ada/credits", body).await }
    };
    credit("3", "first").await.refused(409, "conflict");
    for usd in ["0", "-1", "1e3", "0.0000000001", "99999999999"] {
        assert_eq!(credit(usd, "third").await.refused(400, "invalid_value"), "usd", "{usd}");
    }
    credit("9223372036", "fourth").await.refused(400, "invalid_value");
    credit("1", "").await.refused(400, "invalid_value");
    plane
        .operate("POST", "/api/v1/wallets/eve/credits", json!({"usd": "1", "idempotency_key": "a"}))
        .await
        .refused(404, "not_found");
    assert_eq!(
        plane.get(OPERATOR, "/api/v1/wallets/ada").await.with(200),
        json!({"owner": "ada", "balance_usd": "2.500000001"})
    );
    assert_eq!(plane.store().unbalanced_wallets().await.unwrap(), Vec::<String>::new());
}

async fn keys_are_made_and_work_only_while_they_can_pay(plane: &Plane) {
    let ada = plane.user("ada").await;
    let make = json!({"name": "Some key"});
    plane.call(&ada, "POST", "/api/v1/keys", make.clone()).await.refused(402, "insufficient_quota");
    plane.credit("ada", "1", "first").await;
    let (id, secret) = plane.key(&ada, make).await;
    let (off, off_secret) = plane.key(&ada, json!({"name": "Another"})).await;
    plane.call(&ada, "PATCH", &format!("/api/v1/keys/{off}"), json!({"enabled": false})).await.with(200);
    used(plane, &[record("r1", &id, "ada", "0.949999999")]).await;
    assert_eq!(plane.state(&secret).await, "active", "5 cents and a nano-dollar are left");
    used(plane, &[record("r2", &id, "ada", "0.000000001")]).await;
    assert_eq!(plane.state(&secret).await, "no_balance");
    let (_, late) = plane.key(&ada, json!({"name": "Made with five cents"})).await;
    assert_eq!(plane.state(&late).await, "no_balance");
    plane.credit("ada", "0.000000001", "second").await;
    assert_eq!(plane.state(&secret).await, "active");
    assert_eq!(plane.state(&off_secret).await, "disabled", "somebody had switched it off");
    let (_, free) = plane.key(OPERATOR, json!({"name": "Of the operator"})).await;
    assert!(plane.look_up(&free).await.with(200).get("wallet").is_none());
}

async fn no_two_gateways_are_granted_the_same_dollar(plane: &Plane) {
    plane.user("ada").await;
    plane.credit("ada", "10", "first").await;
    let (id, secret) = plane.key(OPERATOR, json!({"name": "Some key", "owner": "ada"})).await;
    let hash = keymeter_core::key::Secret::new(secret).hash().to_hex();
    let met = |gateway: &'static str| {
        let path = format!("/v1/keys/{hash}");
        async move {
            let headers = [("x-keymeter-gateway", gateway)];
            plane.call_with(GATEWAYS, "GET", &path, Value::Null, &headers).await.with(200)["wallet"].clone()
        }
    };
    let (one, other) = ("aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb");
    let first = met(one).await;
    assert_eq!((&first["id"], &first["balance_usd"]), (&json!("ada"), &json!("10")));
    let allowance = &first["allowance"];
    assert_eq!((&allowance["granted_usd"], &allowance["counted_usd"]), (&json!("2.5"), &json!("0")));
    assert!((59_000..=60_000).contains(&allowance["expires_in_ms"].as_u64().unwrap()), "{allowance}");
    let of_other = met(other).await["allowance"].clone();
    assert_eq!(of_other["granted_usd"], "1.875");
    assert_eq!(met(one).await["allowance"]["version"], allowance["version"], "nothing more is asked for");
    let more = ask_for(plane, one, "100", "2.5", allowance).await;
    assert_eq!(more["granted_usd"], "8.125", "all that the other was not granted");
    assert_eq!(ask_for(plane, other, "100", "1.875", &of_other).await["granted_usd"], "1.875");
    let mut record = record("r1", &id, "ada", "6");
    record["gateway"] = one.into();
    used(plane, &[record]).await;
    let word = ask_for(plane, one, "0", "8.125", &more).await;
    assert_eq!((&word["granted_usd"], &word["counted_usd"]), (&json!("8.125"), &json!("6")));
    assert_eq!(plane.balance("ada").await, "4");
    let others = ["cccccccccccccccc", "dddddddddddddddd", "eeeeeeeeeeeeeeee"];
    let asked: Vec<_> = others.into_iter().map(|gateway| ask_for(plane, gateway, "4", "0", &Value::Null)).collect();
    for word in futures_util::future::join_all(asked).await {
        assert_eq!(word["granted_usd"], "0", "all is granted");
    }
    let late = ask_for(plane, one, "0", "7", &more).await;
    assert_eq!(late["granted_usd"], "8.125", "what was granted since may be in use");
    let less = ask_for(plane, one, "1", "7", &late).await;
    assert_eq!(less["granted_usd"], "7", "more than a dollar is given back");
    let last = ask_for(plane, "ffffffffffffffff", "4", "0", &Value::Null).await;
    assert_eq!(last["granted_usd"], "1.125");
}

async fn what_was_used_is_charged_once(plane: &Plane) {
    plane.user("ada").await;
    plane.credit("ada", "10", "first").await;
    let (id, _) = plane.key(OPERATOR, json!({"name": "Some key", "owner": "ada"})).await;
    let records: Vec<_> = (0..30).map(|number| record(&format!("r{number}"), &id, "ada", "0.01")).collect();
    let batches = (0..20).map(|start| records[start..start + 10].to_vec());
    let calls: Vec<_> = batches.map(|batch| async move { used(plane, &batch).await }).collect();
    futures_util::future::join_all(calls).await;
    assert_eq!(
        plane.get(OPERATOR, "/api/v1/wallets/ada").await.with(200)["balance_usd"],
        "9.71",
        "29 of the 30 were sent"
    );
    assert_eq!(plane.store().unbalanced_wallets().await.unwrap(), Vec::<String>::new());
    used(plane, &[record("r99", "key_gone", "nobody", "5")]).await;
}

pub(super) fn record(id: &str, key: &str, wallet: &str, cost: &str) -> Value {
    json!({"id": id, "gateway": "0123456789abcdef", "time": "2026-06-01T10:20:30Z", "key_id": key, "key_name": "Some key",
        "owner": wallet, "wallet": wallet, "model": "m", "input_tokens": 7, "cached_input_tokens": 1,
        "cache_write_tokens": 2, "output_tokens": 5, "reasoning_tokens": 0, "cost_usd": cost, "status": 200,
        "usage_source": "upstream"})
}

pub(super) async fn used(plane: &Plane, records: &[Value]) {
    let batch = json!({"gateway": "0123456789abcdef", "records": records});
    let answer = plane.call(GATEWAYS, "POST", "/v1/usage/records", batch).await.with(200);
    assert_eq!(answer["accepted"], records.len());
}

/// Asks for so much, by a gateway that was told `last` and has given back what is beyond `granted`.
pub(super) async fn ask_for(plane: &Plane, gateway: &str, usd: &str, granted: &str, last: &Value) -> Value {
    let version = last["version"].as_u64().unwrap_or(0);
    let batch = json!({"gateway": gateway, "wallets": [{"id": "ada", "version": version, "wanted_usd": usd, "granted_usd": granted}]});
    plane.call(GATEWAYS, "POST", "/v1/usage/records", batch).await.with(200)["wallets"][0]["allowance"].clone()
}

/// The bound on what several gateways spend too much: one that was cut off spends what it was granted, though that ran out
/// and was granted to another.
async fn a_balance_is_overspent_by_what_was_granted_to_those_who_were_cut_off(plane: &Plane) {
    use keymeter_control::store::wallets::grant;
    use keymeter_core::money::AllowanceRequest;
    plane.user("ada").await;
    plane.credit("ada", "10", "first").await;
    let (id, _) = plane.key(OPERATOR, json!({"name": "Some key", "owner": "ada"})).await;
    let now = jiff::Timestamp::now();
    let granted = |gateway: &'static str, wanted: &'static str, now| async move {
        let mut tx = plane.store().begin().await.unwrap();
        let request =
            AllowanceRequest { wallet: "ada".into(), version: 0, wanted: wanted.parse().unwrap(), granted: Usd::ZERO };
        let word = grant(&mut tx, "ada", gateway, Some(&request), now).await.unwrap().unwrap();
        plane.store().commit(tx).await.unwrap();
        word.allowance.unwrap().granted.to_string()
    };
    assert_eq!(granted("aaaaaaaaaaaaaaaa", "4", now).await, "4");
    assert_eq!(granted("bbbbbbbbbbbbbbbb", "100", now).await, "6", "as long as it lasts");
    let later = now + std::time::Duration::from_secs(61);
    assert_eq!(granted("bbbbbbbbbbbbbbbb", "100", later).await, "10", "what ran out is there again");
    let spent = |record: &str, gateway: &str, cost: &str| {
        let mut record = super::money::record(record, &id, "ada", cost);
        record["gateway"] = gateway.into();
        record
    };
    used(plane, &[spent("r1", "bbbbbbbbbbbbbbbb", "10"), spent("r2", "aaaaaaaaaaaaaaaa", "4")]).await;
    assert_eq!(plane.balance("ada").await, "-4", "what the one that was cut off had been granted");
    assert_eq!(granted("cccccccccccccccc", "1", later).await, "0");
    assert_eq!(plane.store().unbalanced_wallets().await.unwrap(), Vec::<String>::new());
}
