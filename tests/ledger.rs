//! The ledger, seen from outside: each request is recorded once, on disk before its client sees the end, and sent on
//! whatever happens to the usage service, the disk or the process.

pub mod crash;
mod disk;
mod poison;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use keymeter::journal::{Magic, frame::frames};
use keymeter_core::{record::Record, usage::UsageSource};
use serde_json::{Value, json};

use crate::{
    sources::record,
    support::{
        client::{Arrival, Client, Response, events},
        gateway::{Gateway, SECRET},
        scene::{chat, configuration, post},
        script::{Gate, Script, Step, completion, usage},
        service::KeyService,
        upstream::{Received, ScriptedUpstream},
        usage_service::{Failure, UsageService},
    },
};

/// What a token of each kind costs here: 0.000002 and 0.000004 dollars.
const PRICES: &str = "models: [{name: \"*\", input: \"2\", output: \"4\"}]";

/// A configuration with keys from `service` and records for `usage service`.
fn recording(upstream: &ScriptedUpstream, service: &KeyService, usage_service: &UsageService, extra: &str) -> String {
    let http = format!(
        "http: {{url: \"{0}/v1/keys/{{hash}}\", events_url: \"{0}/v1/keys/events\", usage_url: \"{1}\", token: t}}",
        service.url(),
        usage_service.usage_url()
    );
    let upstreams = format!("{{name: scripted, url: \"{}\"}}", upstream.url());
    configuration(&upstreams, "", &format!("{PRICES}\n{extra}")).replace("yaml: {path: keys.yaml}", &http)
}

struct House {
    gateway: Gateway,
    service: KeyService,
    usage_service: UsageService,
    _upstream: ScriptedUpstream,
}

impl House {
    async fn new(script: impl Fn(&Received) -> Script + Send + Sync + 'static) -> Self {
        let (service, usage_service) = (KeyService::start().await, UsageService::start().await);
        let upstream = ScriptedUpstream::start(script).await;
        let mut key = record();
        key["owner"] = "ada".into();
        key["team"] = "research".into();
        service.set(key);
        let gateway = Gateway::start(&recording(&upstream, &service, &usage_service, ""), "keys: []");
        Self { gateway, service, usage_service, _upstream: upstream }
    }

    async fn ask(&self, body: &Value) -> Response {
        self.gateway.chat(body).await
    }

    /// What stands in the gateway's spool, sent or not.
    fn spooled(&self) -> Vec<Record> {
        spooled(&self.gateway.directory.path().join("data/spool"))
    }
}

/// Reads a stream of 3 words up to the usage, after which only its end is missing.
async fn read_up_to_end(client: &mut Client) {
    let mut read = Vec::new();
    while events(&read).len() < 5 {
        let Arrival::Chunk { data, .. } = client.next_chunk().await else { panic!("the stream goes on") };
        read.extend_from_slice(&data);
    }
}

fn id(response: &Response) -> String {
    response.header("x-request-id").expect("each response has an id").to_owned()
}

fn json_chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "Hello"}]})
}

/// The records in all spools of a ledger's directory.
fn spooled(root: &Path) -> Vec<Record> {
    let within = |path: PathBuf| fs::read_dir(path).into_iter().flatten().map(|entry| entry.unwrap().path());
    let files = within(root.to_owned()).filter(|path| path.is_dir()).flat_map(within);
    let segments = files.filter(|path| path.extension().is_some_and(|extension| extension == "segment"));
    let records = segments.flat_map(|path| {
        let bytes = fs::read(path).unwrap();
        frames(&bytes[size_of::<Magic>()..]).map(|json| Record::parse(json).unwrap()).collect::<Vec<_>>()
    });
    records.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_sent_again_is_recorded_and_charged_once() {
    let (service, usage_service) = (KeyService::start().await, UsageService::start().await);
    let upstream = ScriptedUpstream::start(|request| {
        let body = request.json();
        if ["stream_options", "max_tokens"].iter().any(|field| !body[*field].is_null()) {
            return Script::error(400, "invalid_request_error", "unsupported parameter");
        }
        Script::stream_of(request, 3, &usage(7, 3))
    })
    .await;
    service.set(record());
    let limits = "limits: {reservation: worst_case, tokens_per_minute: 1_000_000}";
    let gateway = Gateway::start(&recording(&upstream, &service, &usage_service, limits), "keys: []");
    let mut cost = 0.0;
    for (number, attempts) in [(1, 3), (2, 3), (3, 2), (4, 1)] {
        let seen = upstream.received().len();
        let answer = gateway.chat(&chat("gpt-5", "Hello", false)).await;
        assert_eq!((answer.status, upstream.received().len() - seen), (200, attempts), "{number}: {}", answer.text());
        let record = usage_service.record(&id(&answer)).await;
        let line = gateway.next_line();
        assert_eq!((record.status, record.usage_source), (200, UsageSource::Estimated), "usage is not stated");
        assert_eq!(line["output_tokens"], record.output_tokens);
        assert_eq!(line["cost_usd"], record.cost_usd.to_string());
        cost += record.cost_usd.to_string().parse::<f64>().unwrap();
        usage_service.has(number).await;
        assert_eq!((usage_service.records().len(), usage_service.again(), gateway.lines().len()), (number, 0, 0));
    }
    gateway.metric_becomes(r#"keymeter_requests_total{key_id="key_test",model="*",status="200"}"#, 4.0).await;
    gateway.metric_becomes(r#"keymeter_cost_usd_total{key_id="key_test",model="*"}"#, cost).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_recorded_with_what_the_access_log_says_of_it() {
    let house = House::new(|request| match request.json()["model"].as_str() {
        Some("broken") => Script::truncated(request, 3),
        Some("refusing") => Script::error(400, "invalid_request_error", "no"),
        Some("closing") => Script { status: 200, headers: vec![], steps: vec![Step::Close] },
        Some("empty") => {
            Script { status: 204, headers: vec![], steps: vec![Step::Finish] }.with_header("content-length", "0")
        }
        _ if request.json()["stream"] == true => Script::stream_of(request, 3, &usage(7, 3)),
        _ => Script::json(200, &completion("m", 5)),
    })
    .await;
    let mut ids = Vec::new();
    for body in
        [json_chat("m"), chat("m", "Hello", false), json_chat("refusing"), json_chat("closing"), json_chat("empty")]
    {
        ids.push(id(&house.ask(&body).await));
    }
    let mut client = house.gateway.connect().await;
    let head = client.chat_stream(SECRET, &chat("broken", "Hello", false)).await;
    ids.push(head.header("x-request-id").unwrap().to_owned());
    client.rest().await;

    for (id, (model, status, source)) in ids.iter().zip([
        ("m", 200, UsageSource::Upstream),
        ("m", 200, UsageSource::Upstream),
        ("refusing", 400, UsageSource::None),
        ("closing", 502, UsageSource::None),
        ("empty", 204, UsageSource::None),
        ("broken", 200, UsageSource::Estimated),
    ]) {
        let record = house.usage_service.record(id).await;
        assert_eq!((&*record.model, record.status, record.usage_source), (model, status, source), "{record:?}");
        assert_eq!((record.key_id.as_str(), record.key_name.as_str()), ("key_test", "Test key"));
        assert_eq!(
            (record.owner.as_deref(), record.team.as_deref(), record.wallet),
            (Some("ada"), Some("research"), None)
        );
    }
    let lines: Vec<_> = ids.iter().map(|_| house.gateway.next_line()).collect();
    let records = house.usage_service.records();
    for line in &lines {
        let record: Value = serde_json::from_slice(&records[line["request_id"].as_str().unwrap()].to_json()).unwrap();
        for field in [
            "time",
            "status",
            "input_tokens",
            "cached_input_tokens",
            "cache_write_tokens",
            "output_tokens",
            "reasoning_tokens",
            "cost_usd",
            "usage_source",
            "model",
            "key_id",
            "key_name",
        ] {
            assert_eq!(record[field], line[field], "{field} of {record}");
        }
    }
    assert_eq!(records[&ids[0]].cost_usd, "0.000034".parse().unwrap(), "7 tokens at 2 and 5 at 4 for a million");
    assert_eq!((records.len(), house.usage_service.again()), (ids.len(), 0));
    house.gateway.metric_becomes("keymeter_ledger_records_total{outcome=\"sent\"}", 6.0).await;
    house.gateway.metric_becomes("keymeter_ledger_records_total{outcome=\"spooled\"}", 6.0).await;
    house.gateway.metric_becomes("keymeter_ledger_spooled_records", 0.0).await;
    let first = &house.usage_service.batches()[0];
    assert_eq!((first.header("authorization"), first.path.as_str()), (Some("Bearer t"), "/v1/usage/records"));
    assert_eq!(first.json()["gateway"], records[&ids[0]].gateway.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_before_it_ran_is_not_recorded() {
    let house = House::new(|_| Script::json(200, &completion("m", 5))).await;
    let mut client = house.gateway.connect().await;
    assert_eq!(post(&mut client, "/v1/chat/completions", "sk-unknown", &json_chat("m")).await.status, 401);
    assert_eq!(house.ask(&json!({"model": 7})).await.status, 400);
    let answer = house.ask(&json_chat("m")).await;
    house.usage_service.record(&id(&answer)).await;
    assert_eq!(house.usage_service.records().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_on_disk_before_the_client_sees_the_end() {
    let gate = Gate::new();
    let end = gate.clone();
    let house = House::new(move |request| match request.json()["stream"] {
        // Before `[DONE]`.
        Value::Bool(true) => Script::stream_of(request, 3, &usage(7, 3)).gated(5, &end),
        _ => Script::json(200, &completion("m", 5)),
    })
    .await;
    house.usage_service.fail(Failure::Status(503));
    for round in 0..20 {
        let answer = house.ask(&json_chat("m")).await;
        assert!(house.spooled().iter().any(|record| record.id.as_str() == id(&answer)), "round {round}");
    }
    let mut client = house.gateway.connect().await;
    let head = client.chat_stream(SECRET, &chat("m", "Hello", true)).await;
    let id = head.header("x-request-id").unwrap();
    read_up_to_end(&mut client).await;
    assert!(house.spooled().iter().all(|record| record.id.as_str() != id), "it has not ended");
    gate.open();
    let Arrival::Chunk { data, .. } = client.next_chunk().await else { panic!("the stream goes on") };
    assert_eq!(events(&data), ["[DONE]"]);
    let records = house.spooled();
    let record = records.iter().find(|record| record.id.as_str() == id).expect("it is on disk");
    assert_eq!((record.input_tokens, record.output_tokens), (7, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_is_away_or_loses_its_answers_gets_each_record_once() {
    let house = House::new(|_| Script::json(200, &completion("m", 5))).await;
    let mut ids = Vec::new();
    for failure in
        [Failure::Status(500), Failure::Status(401), Failure::AnswerLost, Failure::Status(200), Failure::None]
    {
        house.usage_service.fail(failure);
        for _ in 0..5 {
            ids.push(id(&house.ask(&json_chat("m")).await));
        }
        house.usage_service.is_asked().await;
    }
    for id in &ids {
        house.usage_service.record(id).await;
    }
    assert_eq!(house.usage_service.records().len(), ids.len());
    assert!(house.usage_service.again() > 0, "what was taken and not acknowledged came again");
    house.gateway.metric_becomes("keymeter_ledger_spooled_records", 0.0).await;
    house.gateway.metric_becomes("keymeter_ledger_oldest_record_age_seconds", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_records_wait_their_number_and_age_are_shown() {
    let house = House::new(|_| Script::json(200, &completion("m", 5))).await;
    house.usage_service.fail(Failure::Status(503));
    for _ in 0..3 {
        house.ask(&json_chat("m")).await;
    }
    house.gateway.metric_becomes("keymeter_ledger_spooled_records", 3.0).await;
    assert!(house.gateway.metric("keymeter_ledger_oldest_record_age_seconds").await > 0.0);
    house.usage_service.fail(Failure::None);
    house.gateway.metric_becomes("keymeter_ledger_spooled_records", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_for_good_is_set_aside_and_holds_nothing_up() {
    for failure in
        [Failure::RefusesModel("bad"), Failure::RefusesModelSilently("bad"), Failure::RefusesAllOfModel("bad")]
    {
        let house = House::new(|_| Script::json(200, &completion("m", 5))).await;
        // So that all of them are in one batch.
        house.usage_service.fail(Failure::Status(503));
        house.ask(&json_chat("m")).await;
        house.usage_service.is_asked().await;
        let mut bad = Vec::new();
        for at in 0..30 {
            let is_bad = matches!(at, 3 | 4 | 29);
            let answer = house.ask(&json_chat(if is_bad { "bad" } else { "good" })).await;
            bad.extend(is_bad.then(|| id(&answer)));
        }
        house.usage_service.fail(failure.clone());
        house.usage_service.has(28).await;
        house.gateway.metric_becomes("keymeter_ledger_records_total{outcome=\"refused\"}", 3.0).await;
        house.gateway.metric_becomes("keymeter_ledger_spooled_records", 0.0).await;
        let records = house.usage_service.records();
        assert!(records.len() == 28 && bad.iter().all(|id| !records.contains_key(id)), "{failure:?}");
        let text = fs::read_to_string(house.gateway.directory.path().join("data/spool/refused.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let aside: Vec<_> = lines.map(|line| line["record"]["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(aside, bad, "{failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_has_sent_its_records_and_leaves_nothing() {
    let house = House::new(|_| Script::json(200, &completion("m", 5))).await;
    let answer = house.ask(&json_chat("m")).await;
    house.gateway.server.drain(Duration::from_secs(10)).await;
    assert!(house.usage_service.records().contains_key(&id(&answer)));
    let House { gateway, usage_service: _keeper, service: _service, .. } = house;
    let Gateway { server, directory, .. } = gateway;
    drop(server);
    let root = directory.path().join("data/spool");
    let start = std::time::Instant::now();
    while fs::read_dir(&root).unwrap().count() > 0 {
        assert!(start.elapsed() < Duration::from_secs(10), "something is left in {}", root.display());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_usage_url_nothing_is_recorded() {
    let (service, usage_service) = (KeyService::start().await, UsageService::start().await);
    let upstream = ScriptedUpstream::start(|_| Script::json(200, &completion("m", 5))).await;
    service.set(record());
    let text = recording(&upstream, &service, &usage_service, "");
    let without = text.replace(&format!(", usage_url: \"{}\"", usage_service.usage_url()), "");
    assert_ne!(text, without);
    let gateway = Gateway::start(&without, "keys: []");
    assert_eq!(gateway.chat(&json_chat("m")).await.status, 200);
    assert!(!gateway.directory.path().join("data").exists());
    assert!(!gateway.admin("GET", "/metrics").await.text().contains("keymeter_ledger_records_total"));
}
