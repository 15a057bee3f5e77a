//! `kill -9` under load: of gateways, whose records must be there exactly once of every response whose end a client
//! saw, and of the control plane, whose sums and balances must be those of the upstream.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use keymeter_core::money::Usd;
use tokio::{sync::watch, task::JoinHandle};

use super::*;
use crate::support::{
    line::Line,
    process::{Process, Signal},
    soak::scaled,
};

/// What the upstream itself says that it did, by the request's id.
pub type Stated = Arc<Mutex<HashMap<String, (u64, u64)>>>;

/// Answers with streams and whole responses of several lengths, and keeps what it states.
pub async fn upstream(stated: &Stated) -> ScriptedUpstream {
    let (stated, count) = (stated.clone(), AtomicU64::new(0));
    ScriptedUpstream::start(move |request| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        let words = 1 + number % 7;
        let id = format!("req_{}", request.header("x-request-id").unwrap().replace('-', ""));
        stated.lock().unwrap().insert(id, (7, words));
        let script = match request.json()["stream"] {
            Value::Bool(true) => Script::stream_of(request, words, &usage(7, words)),
            _ => Script::json(200, &completion("m", words)),
        };
        script.paced(Duration::from_millis(number % 3))
    })
    .await
}

pub fn cost((prompt, completion): (u64, u64)) -> i64 {
    i64::try_from(prompt * 2000 + completion * 4000).unwrap()
}

/// Clients that ask as long as they are let, and note which responses they saw the end of.
pub struct Crowd {
    goes_on: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Crowd {
    pub fn of(size: usize, gateway: &watch::Receiver<SocketAddr>, secret: &str) -> Self {
        let goes_on = Arc::new(AtomicBool::new(true));
        let client = |number| ask_on(number, gateway.clone(), secret.to_owned(), goes_on.clone());
        let clients = (0..size).map(|number| tokio::spawn(client(number))).collect();
        Self { goes_on, clients }
    }

    /// The ids of the responses whose end was seen.
    pub async fn leave(self) -> Vec<String> {
        self.goes_on.store(false, Ordering::Relaxed);
        let mut seen = Vec::new();
        for client in self.clients {
            seen.extend(client.await.unwrap());
        }
        seen
    }
}

async fn ask_on(
    number: usize,
    gateway: watch::Receiver<SocketAddr>,
    secret: String,
    goes_on: Arc<AtomicBool>,
) -> Vec<String> {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
    let (mut seen, mut round) = (Vec::new(), number);
    while goes_on.load(Ordering::Relaxed) {
        round += 1;
        let is_stream = round % 2 == 0;
        let body = if is_stream { chat("m", "Hello", true) } else { json_chat("m") };
        let address = *gateway.borrow();
        let request = client.post(format!("http://{address}/v1/chat/completions")).bearer_auth(&secret).json(&body);
        match whole(request, is_stream).await {
            Some(id) => seen.push(id),
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    seen
}

/// The id of a response, if it was a success that came to its end.
async fn whole(request: reqwest::RequestBuilder, is_stream: bool) -> Option<String> {
    let response = request.send().await.ok()?;
    let id = response.headers().get("x-request-id")?.to_str().ok()?.to_owned();
    let succeeded = response.status() == 200;
    let text = response.text().await.ok()?;
    let ended = if is_stream { text.ends_with("data: [DONE]\n\n") } else { text.ends_with('}') };
    (succeeded && ended).then_some(id)
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_are_killed_and_each_response_that_was_seen_is_recorded_once() {
    let stated = Stated::default();
    let (upstream, service, usage_service) =
        (upstream(&stated).await, KeyService::start().await, UsageService::start().await);
    service.set(record());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keymeter.yaml");
    fs::write(&path, recording(&upstream, &service, &usage_service, "")).unwrap();
    let root = directory.path().join("data/spool");

    let mut gateway = Process::serve(&path);
    let (tell, told) = watch::channel(gateway.addresses().await.0);
    let crowd = Crowd::of(8, &told, SECRET);
    let (kills, mut slowest) = (scaled(6, 500), Duration::ZERO);
    for round in 0..kills {
        usage_service.fail(match round % 3 {
            0 => Failure::None,
            1 => Failure::AnswerLost,
            _ => Failure::Status(503),
        });
        tokio::time::sleep(Duration::from_millis(60 + 37 * (round as u64 % 5))).await;
        gateway.signal(Signal::KILL);
        gateway.ended().await;
        let start = Instant::now();
        gateway = Process::serve(&path);
        tell.send_replace(gateway.addresses().await.0);
        slowest = slowest.max(start.elapsed());
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    usage_service.fail(Failure::None);
    let seen = crowd.leave().await;

    // The last one sends on what all before it left.
    let left = || fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let start = Instant::now();
    while left().len() > 1 {
        assert!(start.elapsed() < Duration::from_mins(1), "beside its own spool there are {:?}", left());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let drained = start.elapsed();
    gateway.signal(Signal::TERM);
    gateway.ended().await;
    assert!(left().is_empty(), "{:?} is left in {}", left(), root.display());

    let (records, stated) = (usage_service.records(), stated.lock().unwrap().clone());
    let missing: Vec<_> = seen.iter().filter(|id| !records.contains_key(*id)).collect();
    assert!(missing.is_empty(), "{missing:?} of {}", seen.len());
    for record in records.values().filter(|record| record.usage_source == UsageSource::Upstream) {
        let (prompt, completion) = stated[record.id.as_str()];
        assert_eq!((record.input_tokens, record.output_tokens), (prompt, completion), "{record:?}");
        assert_eq!(record.cost_usd, Usd::from_nanos(cost((prompt, completion))));
    }
    let of_records: i64 = seen.iter().map(|id| records[id].cost_usd.nanos()).sum();
    let of_upstream: i64 = seen.iter().map(|id| cost(stated[id])).sum();
    assert_eq!(of_records, of_upstream);
    println!(
        "{kills} kills: {} responses seen to their end, all recorded once; {} records, {} of them sent again; \
         slowest start {slowest:?}, spools drained after {drained:?}",
        seen.len(),
        records.len(),
        usage_service.again()
    );
    assert!(seen.len() > kills, "there was some load");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

/// A control plane in a process of its own.
pub struct Plane {
    pub process: Process,
    pub address: SocketAddr,
}

impl Plane {
    pub async fn start(path: &Path) -> Self {
        let process = Process::serve(path);
        let line = process.stderr.line("the control plane is on").await;
        let address = line.rsplit(' ').next().unwrap().parse().unwrap();
        process.addresses().await;
        Self { process, address }
    }

    pub async fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.request(method.parse().unwrap(), format!("http://{}{path}", self.address));
        let request = request.bearer_auth("operator-0123456789-0123456789-0123456789");
        let request = if body.is_null() { request } else { request.json(body) };
        let response = request.send().await.unwrap();
        assert!(response.status().is_success(), "{}", response.text().await.unwrap());
        response.json().await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_is_killed_and_its_sums_are_the_upstreams() {
    let stated = Stated::default();
    let upstream = upstream(&stated).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.yaml");
    let control = "control: {listen: \"127.0.0.1:0\", token: operator-0123456789-0123456789-0123456789, gateway_token: gateways-0123456789-0123456789-0123456789}";
    fs::write(&path, configuration(&format!("{{name: a, url: \"{}\"}}", upstream.url()), "", control)).unwrap();
    fs::write(directory.path().join("keys.yaml"), "keys: []").unwrap();
    let mut plane = Plane::start(&path).await;
    plane.call("POST", "/api/v1/users", &json!({"id": "ada", "name": "Ada"})).await;
    let credit = json!({"usd": "1000", "idempotency_key": "first"});
    plane.call("POST", "/api/v1/wallets/ada/credits", &credit).await;
    let key = plane.call("POST", "/api/v1/keys", &json!({"name": "Some key", "owner": "ada"})).await;
    let secret = key["secret"].as_str().unwrap().to_owned();

    let line = Line::to(plane.address).await;
    let door = line.address;
    let http = format!(
        "http: {{url: \"http://{door}/v1/keys/{{hash}}\", events_url: \"http://{door}/v1/keys/events\", \
         usage_url: \"http://{door}/v1/usage/records\", token: gateways-0123456789-0123456789-0123456789}}"
    );
    let upstreams = format!("{{name: scripted, url: \"{}\"}}", upstream.url());
    let text = configuration(&upstreams, "", PRICES).replace("yaml: {path: keys.yaml}", &http);
    let gateway = Gateway::start(&text, "keys: []");
    let (_tell_gateway, address) = watch::channel(gateway.address());
    let crowd = Crowd::of(4, &address, &secret);
    let (kills, mut slowest) = (scaled(4, 100), Duration::ZERO);
    for round in 0..kills {
        tokio::time::sleep(Duration::from_millis(150 + 70 * (round as u64 % 4))).await;
        plane.process.signal(Signal::KILL);
        plane.process.ended().await;
        tokio::time::sleep(Duration::from_millis(50 * (round as u64 % 3))).await;
        let start = Instant::now();
        plane = Plane::start(&path).await;
        slowest = slowest.max(start.elapsed());
        line.leads_to(&[plane.address]);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let seen = crowd.leave().await;
    gateway.metric_becomes("keymeter_requests_in_flight{key_id=\"other\"}", 0.0).await;
    let start = Instant::now();
    while gateway.metric("keymeter_ledger_spooled_records").await > 0.0
        || gateway.metric("keymeter_ledger_records_total{outcome=\"sent\"}").await
            < gateway.metric("keymeter_ledger_records_total{outcome=\"spooled\"}").await
    {
        assert!(start.elapsed() < Duration::from_secs(20), "the spool does not drain");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // The gateway was not killed: each of its requests is there, and the upstream stated all of them.
    let stated = stated.lock().unwrap().clone();
    let rows = plane.call("GET", "/api/v1/usage?group_by=key", &Value::Null).await["rows"].clone();
    let of_upstream: i64 = stated.values().copied().map(cost).sum();
    let words: u64 = stated.values().map(|(_, words)| words).sum();
    let row = &rows[0];
    assert_eq!(rows.as_array().unwrap().len(), 1);
    assert_eq!((row["requests"].as_u64(), row["output_tokens"].as_u64()), (Some(stated.len() as u64), Some(words)));
    assert_eq!(row["cost_usd"], Usd::from_nanos(of_upstream).to_string());
    let wallet = plane.call("GET", "/api/v1/wallets/ada", &Value::Null).await;
    let left = Usd::from_nanos(1_000_000_000_000 - of_upstream);
    assert_eq!(wallet["balance_usd"], left.to_string());
    println!(
        "{kills} kills of the control plane: {} responses seen, {} recorded, all of them charged once; slowest start \
         {slowest:?}",
        seen.len(),
        stated.len()
    );
    assert!(seen.len() > kills && seen.iter().all(|id| stated.contains_key(id)));
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}
