//! `kill -9` under load: of every answer whose end a client saw, all is counted once, in each quota alike.

use std::{collections::HashMap, time::Duration};

use tokio::sync::watch;

use super::*;
use crate::{
    ledger::crash::{Crowd, Stated, upstream},
    support::{client::Client, process::Signal, soak::scaled},
};

/// How often it is killed.
fn kills() -> u64 {
    scaled(6, 500)
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_are_killed_and_each_response_that_was_seen_is_counted_once() {
    let stated = Stated::default();
    let upstream = upstream(&stated).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keymeter.yaml");
    fs::write(&path, config(&upstream, PRICES)).unwrap();
    let quotas =
        "{quotas: [{tokens: 1000000000, per: month}, {tokens: 1000000000, per: 31d}, {usd: \"1000000\", per: month}]}";
    let keys = format!(
        "teams: [{{id: research, limits: {quotas}}}]\n{}",
        one_key(&format!(", team: research, limits: {quotas}"))
    );
    fs::write(directory.path().join("keys.yaml"), keys).unwrap();

    let mut gateway = Process::serve(&path);
    let (tell, told) = watch::channel(gateway.addresses().await.0);
    let crowd = Crowd::of(8, &told, SECRET);
    for round in 0..kills() {
        tokio::time::sleep(Duration::from_millis(60 + 37 * (round % 5))).await;
        gateway.signal(Signal::KILL);
        gateway.ended().await;
        gateway = Process::serve(&path);
        tell.send_replace(gateway.addresses().await.0);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let seen = crowd.leave().await;
    let authorization = format!("Bearer {SECRET}");
    let address = *told.borrow();
    let usage = async || {
        let mut client = Client::connect(address).await;
        client.request("GET", "/v1/usage", &[("authorization", &authorization)], b"").await.json()
    };
    let told = usage().await;

    let stated: HashMap<_, _> = stated.lock().unwrap().clone();
    let tokens = |(prompt, completion): (u64, u64)| prompt + completion;
    let least: u64 = seen.iter().map(|id| tokens(stated[id])).sum();
    let most: u64 = stated.values().copied().map(tokens).sum();
    let counted = |scope, name| limit(&told, scope, name)["used"].as_u64().unwrap();
    let month = counted("key", "tokens_per_month");
    assert!((least..=most).contains(&month), "{least} were seen, {month} are counted, {most} were stated");
    for (scope, name) in [("key", "tokens_per_31d"), ("team", "tokens_per_month"), ("team", "tokens_per_31d")] {
        assert_eq!(counted(scope, name), month, "{scope} {name}: all are counted together");
    }
    println!("{} kills: {} responses seen, {least} tokens; {month} counted, {most} stated", kills(), seen.len());
    assert!(seen.len() as u64 > kills(), "there was some load");
}
