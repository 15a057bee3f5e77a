//! All of it at once, each part a process of its own: four gateways, two instances of the control plane, Redis,
//! PostgreSQL. Each is killed in turn while clients ask, and lines between them fail; at the end the books are right.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use keymeter_config::Database;
use keymeter_control::store::Store;
use keymeter_core::money::Usd;
use sqlx::Row;
use tempfile::TempDir;
use tokio::sync::watch;

use super::*;
use crate::{
    ledger::crash::{Crowd, Plane, Stated, cost, upstream as counting_upstream},
    support::{
        control::Postgres,
        line::{Fault, Line},
        process::{Process, Signal},
    },
};

const PRICES: &str = "models: [{name: \"*\", input: \"2\", output: \"4\"}]";

/// The whole house.
struct Fleet {
    postgres: Postgres,
    redis: Redis,
    planes: Vec<Plane>,
    gateways: Vec<Process>,
    addresses: Vec<watch::Sender<std::net::SocketAddr>>,
    /// From all gateways to whichever instance is there, and to Redis.
    to_planes: Line,
    to_redis: Line,
    stated: Stated,
    _upstream: ScriptedUpstream,
    folder: TempDir,
}

impl Fleet {
    async fn new() -> Self {
        let stated = Stated::default();
        let upstream = counting_upstream(&stated).await;
        let (postgres, redis, folder) = (Postgres::start(), Redis::start(), tempfile::tempdir().unwrap());
        let upstreams = format!("{{name: scripted, url: \"{}\"}}", upstream.url());
        let control = format!(
            "control: {{listen: \"127.0.0.1:0\", database: \"{}\", token: operator-0123456789-0123456789-0123456789, gateway_token: gateways-0123456789-0123456789-0123456789}}",
            postgres.url
        );
        let mut planes = Vec::new();
        for number in 0..2 {
            let path = configured(&folder, &format!("plane_{number}"), &configuration(&upstreams, "", &control));
            planes.push(Plane::start(&path).await);
        }
        let to_planes = Line::to_any(&[planes[0].address, planes[1].address]).await;
        let to_redis = Line::to(([127, 0, 0, 1], redis.port).into()).await;
        let keys = format!(
            "http: {{url: \"http://{0}/v1/keys/{{hash}}\", events_url: \"http://{0}/v1/keys/events\", \
             usage_url: \"http://{0}/v1/usage/records\", token: gateways-0123456789-0123456789-0123456789}}",
            to_planes.address
        );
        let limits = format!("limits: {{shared: {{url: \"redis://{}\"}}}}", to_redis.address);
        let text =
            configuration(&upstreams, "", &format!("{PRICES}\n{limits}")).replace("yaml: {path: keys.yaml}", &keys);
        let (mut gateways, mut addresses) = (Vec::new(), Vec::new());
        for number in 0..4 {
            let gateway = Process::serve(&configured(&folder, &format!("gateway_{number}"), &text));
            addresses.push(watch::Sender::new(gateway.addresses().await.0));
            gateways.push(gateway);
        }
        Self { postgres, redis, planes, gateways, addresses, to_planes, to_redis, stated, _upstream: upstream, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name).join("keymeter.yaml")
    }

    async fn kill_gateway(&mut self, number: usize) {
        self.gateways[number].signal(Signal::KILL);
        self.gateways[number].ended().await;
        self.gateways[number] = Process::serve(&self.path(&format!("gateway_{number}")));
        self.addresses[number].send_replace(self.gateways[number].addresses().await.0);
    }

    async fn kill_plane(&mut self, number: usize) {
        self.planes[number].process.signal(Signal::KILL);
        self.planes[number].process.ended().await;
        let other = self.planes[1 - number].address;
        self.to_planes.leads_to(&[other]);
        tokio::time::sleep(Duration::from_millis(200)).await;
        self.planes[number] = Plane::start(&self.path(&format!("plane_{number}"))).await;
        self.to_planes.leads_to(&[self.planes[number].address, other]);
    }

    /// A key whose limits are wide, but are limits.
    async fn key(&self) -> (String, String) {
        let asked = json!({"name": "Some key", "owner": "ada",
            "limits": {"requests_per_minute": 1_000_000, "tokens_per_minute": 100_000_000, "concurrent_requests": 1000}});
        let key = self.planes[0].call("POST", "/api/v1/keys", &asked).await;
        (key["id"].as_str().unwrap().to_owned(), key["secret"].as_str().unwrap().to_owned())
    }

    /// Waits until every spool is empty: then all that was recorded has been handed in.
    async fn hands_in_everything(&mut self) {
        for gateway in &mut self.gateways {
            gateway.signal(Signal::TERM);
        }
        for gateway in &mut self.gateways {
            gateway.ended().await;
        }
        for number in 0..self.gateways.len() {
            let spool = self.folder.path().join(format!("gateway_{number}/data/spool"));
            let left: Vec<_> = std::fs::read_dir(&spool).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

fn configured(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let folder = folder.path().join(name);
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("keys.yaml"), "keys: []").unwrap();
    let path = folder.join("keymeter.yaml");
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_under_load_the_books_are_right() {
    let mut house = Fleet::new().await;
    house.planes[0].call("POST", "/api/v1/users", &json!({"id": "ada", "name": "Ada"})).await;
    let credit = json!({"usd": "1000", "idempotency_key": "first"});
    house.planes[1].call("POST", "/api/v1/wallets/ada/credits", &credit).await;
    let (id, secret) = house.key().await;
    let crowds: Vec<_> = house.addresses.iter().map(|address| Crowd::of(3, &address.subscribe(), &secret)).collect();
    for _ in 0..scaled(1, 10) {
        let rest = || tokio::time::sleep(Duration::from_millis(300));
        for number in 0..4 {
            rest().await;
            house.kill_gateway(number).await;
        }
        for number in 0..2 {
            rest().await;
            house.kill_plane(number).await;
        }
        rest().await;
        house.redis.kill();
        rest().await;
        house.redis.restart();
        rest().await;
        house.postgres.crash();
        for error in [Fault::Delay(Duration::from_millis(30)), Fault::Silent, Fault::Cut] {
            rest().await;
            house.to_redis.set(error);
            house.to_planes.set(error);
            rest().await;
            house.to_redis.set(Fault::None);
            house.to_planes.set(Fault::None);
        }
        rest().await;
    }
    let mut seen = Vec::new();
    for crowd in crowds {
        seen.extend(crowd.leave().await);
    }

    disabled_everywhere(&house, &id, &secret).await;
    house.hands_in_everything().await;
    let stated = house.stated.lock().unwrap().clone();
    let recorded = recorded(&house.postgres).await;
    let missing: Vec<_> = seen.iter().filter(|id| !recorded.contains_key(*id)).collect();
    assert!(missing.is_empty(), "{} of {} responses are not recorded", missing.len(), seen.len());
    for id in &seen {
        assert_eq!(recorded[id], cost(stated[id]), "{id}");
    }
    let charged: i64 = recorded.values().sum();
    let wallet = house.planes[1].call("GET", "/api/v1/wallets/ada", &Value::Null).await;
    assert_eq!(wallet["balance_usd"], Usd::from_nanos(1_000_000_000_000 - charged).to_string());
    let usage = house.planes[0].call("GET", "/api/v1/usage", &Value::Null).await["rows"][0].clone();
    assert_eq!(
        (&usage["requests"], &usage["cost_usd"]),
        (&json!(recorded.len()), &json!(Usd::from_nanos(charged).to_string()))
    );
    println!("{} responses seen to their end, {} recorded, each once", seen.len(), recorded.len());
    assert!(seen.len() > 100, "there was some load");
}

/// What each record costs, from the database itself.
async fn recorded(postgres: &Postgres) -> HashMap<String, i64> {
    let store = Store::open(&Database::Postgres(Arc::from(postgres.url.as_str()))).await.unwrap();
    let rows = sqlx::query("SELECT id, cost_nanos FROM usage_records").fetch_all(store.reader()).await.unwrap();
    rows.iter().map(|row| (row.get("id"), row.get("cost_nanos"))).collect()
}

/// A key that is disabled at one instance is refused by every gateway.
async fn disabled_everywhere(house: &Fleet, id: &str, secret: &str) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let status = async |address: std::net::SocketAddr| {
        let url = format!("http://{address}/v1/chat/completions");
        // One that is cut in the middle by the change itself is no answer.
        let answer = client.post(url).bearer_auth(secret).json(&body()).send().await;
        answer.map_or(0, |answer| answer.status().as_u16())
    };
    for (gateway, address) in house.gateways.iter().zip(&house.addresses) {
        let address = *address.borrow();
        let start = Instant::now();
        // After all that, each listens to the control plane again.
        let (_, admin) = gateway.addresses().await;
        crate::support::process::answer_becomes(admin, "/metrics", "listening", |answer| {
            answer.text().contains("keymeter_key_events_connected 1")
        })
        .await;
        while status(address).await != 200 {
            assert!(start.elapsed() < PATIENCE, "the key does not work again");
        }
    }
    let mut lags = Vec::new();
    for round in 0..10 {
        for (enabled, expected) in [(false, 401), (true, 200)] {
            house.planes[round % 2].call("PATCH", &format!("/api/v1/keys/{id}"), &json!({"enabled": enabled})).await;
            let start = Instant::now();
            for address in &house.addresses {
                let address = *address.borrow();
                while status(address).await != expected {
                    assert!(start.elapsed() < Duration::from_secs(scaled(5, 2)), "it does not become {expected}");
                }
            }
            lags.push(start.elapsed());
        }
    }
    println!("disabled and enabled on all four gateways after {lags:?}");
    lags.sort_unstable();
    assert!(lags[lags.len() / 2] < Duration::from_millis(scaled(1000, 100)), "{lags:?}");
}
