//! A key service, to look at before you write your own: it serves a YAML file of keys (as `conf/keys.yaml`, with the
//! hashes of the secrets only) by the protocol of `docs/key-source.md`, and tells gateways when the file changes.
//!
//! ```sh
//! KEYMETER_SOURCE_TOKEN=… cargo run --example key_source -- --keys keys.yaml
//! ```
//!
//! A database would stand where the file is; the rest would be the same. Put a new version of the file in place whole
//! (`keymeter keys` does): one that is written bit by bit may be read in the middle.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    convert::Infallible,
    error::Error,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    extract::{self, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
    routing::get,
};
use clap::Parser;
use futures_util::{StreamExt, stream};
use keymeter_config::keys::parse_record;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::{net::TcpListener, sync::watch, time::sleep};

/// What the command line says.
#[derive(Parser)]
struct Options {
    /// Where gateways connect.
    #[arg(long, default_value = "127.0.0.1:9092")]
    listen: String,
    /// The file of keys.
    #[arg(long)]
    keys: PathBuf,
}

/// A key as it is sent.
#[derive(PartialEq)]
struct Record {
    id: String,
    body: String,
    tag: String,
}

/// By the hash of each secret that works, in hexadecimal digits.
type Keys = HashMap<String, Arc<Record>>;

/// The keys, and what changed of them lately.
struct Known {
    keys: Keys,
    /// The data of an event each, numbered from `first`. That is the time at the start in milliseconds, so that what
    /// another process has numbered is out of our range.
    changes: VecDeque<String>,
    first: usize,
}

/// A gateway that has missed more changes than these is told that all keys changed.
const CHANGES_KEPT: usize = 10_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let Options { listen, keys } = Options::parse();
    let token =
        std::env::var("KEYMETER_SOURCE_TOKEN").map_err(|_| "set KEYMETER_SOURCE_TOKEN to the gateways' token")?;
    let listener = TcpListener::bind(listen).await?;
    println!("listening on {}", listener.local_addr()?);
    serve(listener, keys, token).await
}

/// Serves the keys in the file to whoever has the token.
///
/// # Errors
/// When the file is faulty at the start. Later a faulty one changes nothing.
pub async fn serve(listener: TcpListener, file: PathBuf, token: String) -> Result<(), Box<dyn Error>> {
    let text = fs::read_to_string(&file)?;
    let first = usize::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let (known, reader) = watch::channel(Known { keys: load(&text)?, changes: VecDeque::new(), first });
    let routes = Router::new()
        .route("/v1/keys/{hash}", get(key))
        .route("/v1/keys/events", get(events))
        .with_state(reader)
        .layer(from_fn_with_state(Arc::from(format!("Bearer {token}")), authorize));
    tokio::select! {
        ended = axum::serve(listener, routes) => Ok(ended?),
        () = follow(&file, text, &known) => Ok(()),
    }
}

async fn authorize(State(expected): State<Arc<str>>, request: Request, next: Next) -> Response {
    let stated = request.headers().get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    if stated.ct_eq(expected.as_bytes()).into() {
        next.run(request).await
    } else {
        StatusCode::UNAUTHORIZED.into_response()
    }
}

async fn key(
    State(known): State<watch::Receiver<Known>>,
    extract::Path(hash): extract::Path<String>,
    request: HeaderMap,
) -> Response {
    let record = known.borrow().keys.get(&hash).cloned();
    let Some(record) = record else { return StatusCode::NOT_FOUND.into_response() };
    let headers = [(header::ETAG, record.tag.as_str()), (header::CACHE_CONTROL, "max-age=60")];
    if request.get(header::IF_NONE_MATCH).is_some_and(|tag| *tag == record.tag) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, [(header::CONTENT_TYPE, "application/json")], record.body.clone()).into_response()
}

/// The changes that the gateway has not seen, and then each as it comes.
async fn events(State(known): State<watch::Receiver<Known>>, request: HeaderMap) -> impl IntoResponse {
    let next = match request.get("last-event-id") {
        None => known.borrow().end(),
        // One that nobody can have from us is out of range too.
        Some(id) => id.to_str().ok().and_then(|id| id.parse().ok()).unwrap_or(0),
    };
    let changes = stream::unfold((known, next), |(mut known, next)| async move {
        let (event, next) = known.wait_for(|known| known.end() != next).await.ok()?.event(next);
        Some((event, (known, next)))
    });
    // A comment at once shows the gateway that events would come; one every 15 s, that they still would.
    let hello = stream::iter([Event::default().comment("connected")]);
    Sse::new(hello.chain(changes).map(Ok::<_, Infallible>)).keep_alive(KeepAlive::new())
}

impl Known {
    /// The number of the change to come.
    fn end(&self) -> usize {
        self.first + self.changes.len()
    }

    /// The event about the change of that number, and the number of the one after it, which is the event's id.
    fn event(&self, next: usize) -> (Event, usize) {
        let change = next.checked_sub(self.first).and_then(|index| self.changes.get(index));
        let (kind, data, next) = change.map_or(("all", "{}", self.end()), |change| ("key", change, next + 1));
        (Event::default().id(next.to_string()).event(kind).data(data), next)
    }

    fn replace(&mut self, keys: Keys) {
        self.changes.extend(changes(&self.keys, &keys));
        self.keys = keys;
        let excess = self.changes.len().saturating_sub(CHANGES_KEPT);
        self.changes.drain(..excess);
        self.first += excess;
    }
}

/// Takes in the file whenever something else stands in it.
async fn follow(file: &Path, mut text: String, known: &watch::Sender<Known>) {
    loop {
        sleep(Duration::from_millis(50)).await;
        let Ok(new) = tokio::fs::read_to_string(file).await else { continue };
        if new == text {
            continue;
        }
        text = new;
        match load(&text) {
            Ok(keys) => known.send_modify(|known| known.replace(keys)),
            Err(error) => eprintln!("{}: {error}; what was read before goes on", file.display()),
        }
    }
}

fn load(text: &str) -> Result<Keys, Box<dyn Error>> {
    let mut file: BTreeMap<String, Vec<serde_yaml::Value>> = serde_yaml::from_str(text)?;
    let mut keys = Keys::new();
    for record in file.remove("keys").ok_or("there is no list `keys`")? {
        let body = serde_json::to_string(&record)?;
        let (key, _) = parse_record(body.as_bytes())?;
        let tag = format!("\"{:x}\"", Sha256::digest(&body));
        let record = Arc::new(Record { id: key.id.to_string(), body, tag });
        for hash in key.retiring.iter().map(|retiring| retiring.hash).chain([key.hash]) {
            if keys.insert(hash.to_hex(), record.clone()).is_some() {
                return Err(format!("{hash} is given twice").into());
            }
        }
    }
    Ok(keys)
}

/// The data of an event for each secret that is made, gone, or another key's or another version of it.
fn changes(old: &Keys, new: &Keys) -> BTreeSet<String> {
    let gone = old.iter().filter(|(hash, record)| new.get(*hash) != Some(record));
    let come = new.iter().filter(|(hash, record)| old.get(*hash) != Some(record));
    gone.chain(come).map(|(hash, record)| serde_json::json!({"id": record.id, "hash": hash}).to_string()).collect()
}
