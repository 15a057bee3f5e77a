//! The reference service of `examples/`: what it sends, and a gateway that takes its keys from it.

#[path = "../../examples/key_source.rs"]
#[allow(dead_code, reason = "its `main` is not called here")]
mod key_source;

use std::{net::SocketAddr, path::PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::AbortHandle};

use super::{OTHER, another, answering, asked, record};
use crate::support::{
    client::{Arrival, Client, PATIENCE, within},
    gateway::{Gateway, SECRET, replace},
    scene::configuration,
};

pub const TOKEN: &str = "keys-token";

/// A running reference service.
pub struct Reference {
    pub address: SocketAddr,
    directory: TempDir,
    running: AbortHandle,
}

impl Reference {
    pub async fn start(keys: &[Value]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), "127.0.0.1:0", keys).await
    }

    async fn start_in(directory: TempDir, address: &str, keys: &[Value]) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let (address, file) = (listener.local_addr().unwrap(), directory.path().join("keys.yaml"));
        replace(&file, &text(keys));
        let serving =
            async { key_source::serve(listener, file, TOKEN.to_owned()).await.map_err(|error| error.to_string()) };
        Self { address, directory, running: tokio::spawn(serving).abort_handle() }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// It has these keys from now on.
    fn set(&self, keys: &[Value]) {
        replace(&self.file(), &text(keys));
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("keys.yaml")
    }

    async fn listen(&self, last_id: Option<&str>) -> Client {
        let mut client = Client::connect(self.address).await;
        let authorization = format!("Bearer {TOKEN}");
        let mut headers = vec![("authorization", authorization.as_str())];
        headers.extend(last_id.map(|id| ("last-event-id", id)));
        let head = client.open_stream("GET", "/v1/keys/events", &headers, b"").await;
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
        assert_eq!(next(&mut client).await, ": connected\n\n");
        client
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// The file: YAML holds JSON.
fn text(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}

async fn next(client: &mut Client) -> String {
    match client.next_chunk().await {
        Arrival::Chunk { data, .. } => String::from_utf8(data.to_vec()).unwrap(),
        end => panic!("the stream ended: {end:?}"),
    }
}

/// The id, the kind and the data of the next event.
async fn next_event(client: &mut Client) -> (String, String, Value) {
    let event = next(client).await;
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    (field("id:"), field("event:"), serde_json::from_str(&field("data:")).unwrap())
}

fn with(mut record: Value, field: &str, value: Value) -> Value {
    record[field] = value;
    record
}

fn hex(record: &Value) -> &str {
    record["hash"].as_str().unwrap().strip_prefix("sha256:").unwrap()
}

#[tokio::test]
async fn each_change_is_an_event_and_a_listener_goes_on_where_it_was() {
    let reference = Reference::start(&[record()]).await;
    let mut client = reference.listen(None).await;
    let change = |record: &Value| json!({"id": record["id"], "hash": hex(record)});
    reference.set(&[with(record(), "enabled", false.into())]);
    let (first, kind, data) = next_event(&mut client).await;
    assert_eq!((kind.as_str(), data), ("key", change(&record())), "one that changed");
    reference.set(&[with(record(), "enabled", false.into()), another()]);
    let (second, _, data) = next_event(&mut client).await;
    assert_eq!(data, change(&another()), "one that was made");
    reference.set(&[another()]);
    let (third, _, data) = next_event(&mut client).await;
    assert_eq!(data, change(&record()), "one that was deleted");

    let mut later = reference.listen(Some(&first)).await;
    assert_eq!([next_event(&mut later).await.0, next_event(&mut later).await.0], [second, third.clone()]);
    let mut never = reference.listen(Some("1")).await;
    assert_eq!(next_event(&mut never).await, (third.clone(), "all".to_owned(), json!({})));

    // A listener that has seen all hears of what comes next only.
    let mut latest = reference.listen(Some(&third)).await;
    reference.set(&[]);
    for listener in [&mut latest, &mut never, &mut later, &mut client] {
        assert_eq!(next_event(listener).await.2, change(&another()));
    }
}

#[tokio::test]
async fn a_new_secret_is_told_of_and_so_is_the_one_that_it_replaces() {
    let reference = Reference::start(&[record()]).await;
    let mut client = reference.listen(None).await;
    let renewed = with(record(), "hash", another()["hash"].clone());
    reference.set(std::slice::from_ref(&renewed));
    let mut told = [next_event(&mut client).await.2, next_event(&mut client).await.2];
    told.sort_by_key(ToString::to_string);
    let mut expected = [&record(), &renewed].map(|record| json!({"id": "key_test", "hash": hex(record)}));
    expected.sort_by_key(ToString::to_string);
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_file_that_holds_secrets_or_a_key_twice_is_not_served() {
    let secret = json!({"id": "key_test", "name": "Test key", "secret": SECRET});
    for (keys, error) in [(vec![secret], "the secret itself"), (vec![record(), record()], "given twice")] {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("keys.yaml");
        std::fs::write(&file, text(&keys)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ended = within("the service to give up", key_source::serve(listener, file, TOKEN.to_owned())).await;
        let said = ended.unwrap_err().to_string();
        assert!(said.contains(error) && !said.contains(SECRET), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_follows_the_file_of_the_reference() {
    let (upstream, reference) = (answering().await, Reference::start(&[record()]).await);
    let http = format!(
        "http: {{url: \"{0}/v1/keys/{{hash}}\", events_url: \"{0}/v1/keys/events\", token: {TOKEN}}}",
        reference.url()
    );
    let upstreams = format!("{{name: scripted, url: \"{}\"}}", upstream.url());
    // What is believed for so long changes by events alone.
    let cache = "key_cache: {ttl: 1h, unknown_ttl: 1h}";
    let clients = ", client_address: {header: x-forwarded-for, trusted: [\"127.0.0.0/8\"]}";
    let text = configuration(&upstreams, clients, cache).replace("yaml: {path: keys.yaml}", &http);
    let gateway = Gateway::start(&text, "keys: []");
    gateway.metric_becomes("keymeter_key_events_connected", 1.0).await;
    assert_eq!(asked(&gateway, SECRET).await, (200, Value::Null));
    assert_eq!(asked(&gateway, OTHER).await, (401, json!("invalid_api_key")));

    reference.set(&[with(record(), "enabled", false.into()), another()]);
    becomes(&gateway, SECRET, 401, json!("api_key_disabled")).await;
    becomes(&gateway, OTHER, 200, Value::Null).await;
    reference.set(&[record()]);
    becomes(&gateway, SECRET, 200, Value::Null).await;
    becomes(&gateway, OTHER, 401, json!("invalid_api_key")).await;
}

async fn becomes(gateway: &Gateway, secret: &str, status: u16, code: Value) {
    let start = std::time::Instant::now();
    loop {
        let answer = asked(gateway, secret).await;
        if answer == (status, code.clone()) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{answer:?} does not become {status} {code}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
