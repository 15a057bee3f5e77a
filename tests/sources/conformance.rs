//! `keymeter check --source` against the reference service of `examples/`, which keeps to the protocol, and against
//! services of which each breaks one thing.

use std::{net::SocketAddr, process::Output, sync::Arc};

use keymeter_core::key::Secret;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring::default_provider, pki_types::PrivateKeyDer},
};

use self::Breach::{Answers, Ends, Header, Open, Sends, Unchanged};
use super::{
    another, record,
    reference::{Reference, TOKEN},
};
use crate::support::{
    gateway::SECRET,
    process::keymeter,
    script::{Script, Step},
    upstream::{Received, ScriptedUpstream},
};

/// What it says of a service, line by line, and whether it is content.
async fn check(url: &str, arguments: &[&str], variables: &[(&str, &str)]) -> (bool, Vec<String>) {
    let url = format!("{url}/v1/keys/{{hash}}");
    let mut command = keymeter(&[&["check", "--source", &url], arguments].concat());
    command.env_remove("KEYMETER_SOURCE_TOKEN").env_remove("KEYMETER_SOURCE_SECRET");
    command.envs(variables.iter().copied());
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (said, errors) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(!said.contains(SECRET) && !said.contains(TOKEN), "{said}");
    let failed = said.lines().filter(|line| line.starts_with("FAIL")).count();
    let summary = format!("checks that failed: {failed}; ");
    assert!(if failed == 0 { errors.is_empty() } else { errors.starts_with(&summary) }, "{errors}");
    (status.success(), said.lines().map(str::to_owned).collect())
}

async fn check_all(url: &str) -> (bool, Vec<String>) {
    let variables = [("KEYMETER_SOURCE_TOKEN", TOKEN), ("KEYMETER_SOURCE_SECRET", SECRET)];
    check(url, &["--events", &format!("{url}/v1/keys/events")], &variables).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_keeps_to_the_protocol() {
    let reference = Reference::start(&[record()]).await;
    let (content, mut said) = check_all(&reference.url()).await;
    for line in said.iter_mut().filter(|line| line.contains(" s of 2 s") || line.contains(" after ")) {
        line.retain(|character| !character.is_ascii_digit());
    }
    assert_eq!(
        said,
        [
            "ok   an unknown hash: 404",
            "ok   zz, which is no hash: 404",
            "ok   no token: 401",
            "ok   a wrong token: 401",
            "ok   a known hash: 200, the record of key_test",
            "ok   its Content-Type: application/json",
            "ok   its Cache-Control: believed for 60 s, or `key_cache.ttl` where that is less",
            "ok   its ETag, sent back: 304",
            "ok   another ETag: 200",
            "ok   events, no token: 401",
            "ok   events: text/event-stream, and a comment after . s",
            "ok   events, a Last-Event-ID that the service never gave: 200",
            "ok   time: the slowest answer took . s of  s",
        ]
    );
    assert!(content);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_given_is_skipped_and_said() {
    let open = ScriptedUpstream::start(|request| right(request, true)).await;
    let (content, said) = check(&open.url(), &[], &[]).await;
    let said_of = |kind| said.iter().filter(|line| line.starts_with(kind)).map(String::as_str).collect::<Vec<_>>();
    assert!(content, "{said:#?}");
    assert_eq!(
        said_of("skip"),
        [
            "skip no token: set KEYMETER_SOURCE_TOKEN to the service's token",
            "skip a wrong token: set KEYMETER_SOURCE_TOKEN to the service's token",
            "skip a known hash: set KEYMETER_SOURCE_SECRET to the secret of a working key",
            "skip its Content-Type: set KEYMETER_SOURCE_SECRET to the secret of a working key",
            "skip its Cache-Control: set KEYMETER_SOURCE_SECRET to the secret of a working key",
            "skip its ETag, sent back: set KEYMETER_SOURCE_SECRET to the secret of a working key",
            "skip another ETag: set KEYMETER_SOURCE_SECRET to the secret of a working key",
            "skip events, no token: pass the URL of the events with --events",
            "skip events: pass the URL of the events with --events",
            "skip events, a Last-Event-ID that the service never gave: pass the URL of the events with --events",
        ]
    );
    assert_eq!(said_of("ok ").len(), 3, "{said:#?}");

    let closed = ScriptedUpstream::start(|request| right(request, false)).await;
    let (content, said) = check(&closed.url(), &[], &[]).await;
    let hint = "FAIL an unknown hash: expected 404; came 401 (set KEYMETER_SOURCE_TOKEN to the service's token)";
    assert!(!content && said[0] == hint, "{said:#?}");
}

/// A service that keeps to the protocol.
fn right(request: &Received, is_open: bool) -> Script {
    if !is_open && no_right(request) {
        return answer(401, nothing);
    }
    match request.header("if-none-match") {
        _ if events(request) => stream(Step::Send(": here\n\n".into())),
        Some("\"1\"") if key(request) => unchanged(),
        _ if key(request) => sends(&record()),
        _ => answer(404, nothing),
    }
}

fn answer(status: u16, body: fn() -> Value) -> Script {
    Script::json(status, &body())
}

fn sends(record: &Value) -> Script {
    Script::json(200, record).with_header("etag", "\"1\"").with_header("cache-control", "max-age=5")
}

fn unchanged() -> Script {
    Script { status: 304, headers: vec![], steps: vec![Step::Finish] }
}

fn stream(step: Step) -> Script {
    let headers = vec![("content-type".to_owned(), "text/event-stream".to_owned())];
    Script { status: 200, headers, steps: vec![Step::Head, step] }
}

fn nothing() -> Value {
    Value::Null
}

fn nameless() -> Value {
    json!({"id": "key_test", "hash": record()["hash"]})
}

fn disabled() -> Value {
    json!({"id": "key_test", "name": "Test key", "hash": record()["hash"], "state": "disabled"})
}

fn list() -> Value {
    json!([])
}

fn long() -> Value {
    "a".repeat(70_000).into()
}

fn key(request: &Received) -> bool {
    request.path.ends_with(&Secret::new(SECRET).hash().to_hex())
}

fn events(request: &Received) -> bool {
    request.path.ends_with("/events")
}

fn no_hash(request: &Received) -> bool {
    request.path.ends_with("/zz")
}

fn unknown(request: &Received) -> bool {
    !(key(request) || events(request) || no_hash(request))
}

fn stranger(request: &Received) -> bool {
    request.header("authorization").is_none()
}

fn forger(request: &Received) -> bool {
    no_right(request) && !stranger(request)
}

fn no_right(request: &Received) -> bool {
    request.header("authorization") != Some(&format!("Bearer {TOKEN}"))
}

/// What a service does wrong.
enum Breach {
    /// It answers this instead.
    Answers(u16, fn() -> Value),
    /// Its record is this.
    Sends(fn() -> Value),
    /// Its answer has another header, or none of this name.
    Header(&'static str, Option<&'static str>),
    /// It does not look at the token.
    Open,
    /// It says that nothing changed.
    Unchanged,
    /// It closes the stream.
    Ends,
}

impl Breach {
    fn script(&self, request: &Received) -> Script {
        match *self {
            Self::Answers(status, body) => answer(status, body),
            Self::Sends(record) => sends(&record()),
            Self::Header(name, value) => {
                let mut script = right(request, false);
                script.headers.retain(|(header, _)| header != name);
                script.headers.extend(value.map(|value| (name.to_owned(), value.to_owned())));
                script
            }
            Self::Open => right(request, true),
            Self::Unchanged => unchanged(),
            Self::Ends => stream(Step::Finish),
        }
    }
}

type When = fn(&Received) -> bool;

/// When a service does something wrong, and what; and all the lines, by their beginnings, that are not content.
const WRONG: &[(When, Breach, &[&str])] = &[
    (
        |asked| unknown(asked) && !no_right(asked),
        Answers(200, record),
        &["FAIL an unknown hash: expected 404; came 200"],
    ),
    (
        |asked| unknown(asked) && !no_right(asked),
        Answers(500, nothing),
        &["FAIL an unknown hash: expected 404; came 500"],
    ),
    (no_hash, Answers(200, record), &["FAIL zz, which is no hash: expected 404 or 400; came 200"]),
    (no_hash, Answers(500, nothing), &["FAIL zz, which is no hash: expected 404 or 400; came 500"]),
    (no_hash, Answers(400, nothing), &[]),
    (no_right, Answers(403, nothing), &[]),
    (
        stranger,
        Open,
        &["FAIL no token: expected 401 or 403; came 200", "FAIL events, no token: expected 401 or 403; came 200"],
    ),
    (forger, Open, &["FAIL a wrong token: expected 401 or 403; came 200"]),
    (
        |asked| unknown(asked) && no_right(asked),
        Open,
        &["FAIL no token: expected 401 or 403; came 404", "FAIL a wrong token: expected 401 or 403; came 404"],
    ),
    (
        |asked| key(asked) && !no_right(asked),
        Answers(302, record),
        &[
            "FAIL a known hash: expected 200 with the key's record; came 302",
            "skip its Content-Type: it needs a 200",
            "skip its Cache-Control: it needs a 200",
            "skip its ETag, sent back: it needs a 200",
            "skip another ETag: it needs a 200",
        ],
    ),
    (
        plain_key,
        Sends(nameless),
        &[concat!(
            "FAIL a known hash: expected 200 with the key's record; ",
            "came 200, but the record is invalid: missing field `name`"
        )],
    ),
    (
        plain_key,
        Sends(another),
        &[concat!(
            "FAIL a known hash: expected 200 with the key's record; came 200, but the record of key_other ",
            "has the requested hash neither as `hash` nor in `retiring`"
        )],
    ),
    (
        plain_key,
        Sends(list),
        &[concat!(
            "FAIL a known hash: expected 200 with the key's record; ",
            "came 200, but the record is invalid: the record is not a JSON object"
        )],
    ),
    (
        plain_key,
        Sends(long),
        &[
            "FAIL a known hash: expected 200 with the key's record; came the answer has more than 65536 bytes",
            "skip its Content-Type: it needs a 200",
            "skip its Cache-Control: it needs a 200",
            "skip its ETag, sent back: it needs a 200",
            "skip another ETag: it needs a 200",
        ],
    ),
    (plain_key, Sends(disabled), &["warn a known hash: 200, but key_test is not active"]),
    (
        plain_key,
        Header("content-type", Some("text/html")),
        &["warn its Content-Type: it should be application/json, and is `text/html`"],
    ),
    (
        plain_key,
        Header("cache-control", Some("private, max-age=soon")),
        &["FAIL its Cache-Control: expected max-age=<seconds>; came `private, max-age=soon`"],
    ),
    (
        plain_key,
        Header("cache-control", Some("no-store")),
        &["warn its Cache-Control: `no-store`: every request with the key waits for the service"],
    ),
    (plain_key, Header("cache-control", Some("private")), &[]),
    (plain_key, Header("cache-control", None), &[]),
    (
        plain_key,
        Header("etag", None),
        &["warn its ETag, sent back: there is no ETag of up to 256 bytes", "skip another ETag: there is no ETag"],
    ),
    (
        |asked| asked.header("if-none-match").is_some(),
        Sends(record),
        &["FAIL its ETag, sent back: expected 304; came 200"],
    ),
    (|asked| asked.header("if-none-match").is_some(), Unchanged, &["FAIL another ETag: expected 200; came 304"]),
    (
        |asked| events(asked) && !no_right(asked),
        Answers(404, nothing),
        &[
            "FAIL events: expected 200 with text/event-stream; came 404",
            "FAIL events, a Last-Event-ID that the service never gave: expected 200 with text/event-stream; came 404",
        ],
    ),
    (
        |asked| events(asked) && !no_right(asked),
        Answers(200, nothing),
        &[
            "FAIL events: expected 200 with text/event-stream; came 200 with another Content-Type",
            "FAIL events, a Last-Event-ID that the service never gave: expected 200 with text/event-stream; came 200",
        ],
    ),
    (
        |asked| events(asked) && !no_right(asked),
        Ends,
        &["FAIL events: expected a stream that stays open; came its end"],
    ),
    (
        |asked| asked.header("last-event-id").is_some(),
        Answers(410, nothing),
        &["FAIL events, a Last-Event-ID that the service never gave: expected 200 with text/event-stream; came 410"],
    ),
];

/// Whether it is asked for the key as somebody does who knows nothing of it.
fn plain_key(request: &Received) -> bool {
    key(request) && !no_right(request) && request.header("if-none-match").is_none()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_service_does_wrong_is_said_of_that_and_of_nothing_else() {
    for (number, (when, breach, expected)) in WRONG.iter().enumerate() {
        let answer = |request: &Received| if when(request) { breach.script(request) } else { right(request, false) };
        let service = ScriptedUpstream::start(answer).await;
        let (content, said) = check_all(&service.url()).await;
        let complaints: Vec<_> = said.iter().filter(|line| !line.starts_with("ok ")).collect();
        let as_expected = complaints.iter().zip(*expected).all(|(line, start)| line.starts_with(start));
        assert!(complaints.len() == expected.len() && as_expected, "{number}: {said:#?}");
        assert_eq!(content, !said.iter().any(|line| line.starts_with("FAIL")), "{number}: {said:#?}");
    }
}

/// The address of a door with TLS to `inside`, and its certificate.
async fn tls_before(inside: SocketAddr) -> (SocketAddr, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.key_pair.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key);
    let (door, listener) =
        (TlsAcceptor::from(Arc::new(config.unwrap())), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let door = door.clone();
            tokio::spawn(async move {
                // Who does not trust the certificate leaves.
                let Ok(mut outside) = door.accept(stream).await else { return };
                let mut inside = TcpStream::connect(inside).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    (address, made.cert.pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_a_certificate_of_its_own_is_trusted_by_that_alone() {
    let reference = Reference::start(&[record()]).await;
    let (address, certificate) = tls_before(reference.address).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, certificate).unwrap();
    let (url, token) = (format!("https://{address}"), [("KEYMETER_SOURCE_TOKEN", TOKEN)]);
    let (content, said) = check(&url, &["--ca", file.to_str().unwrap()], &token).await;
    assert!(content && said[0] == "ok   an unknown hash: 404", "{said:#?}");
    let (content, said) = check(&url, &[], &token).await;
    assert!(!content && said[0].starts_with("FAIL an unknown hash: expected 404; came invalid peer cert"), "{said:#?}");
}

#[test]
fn a_url_that_cannot_be_one_is_explained() {
    for (arguments, expected) in [
        (&["--source", "http://127.0.0.1/v1/keys"][..], "--source: the URL must have `{hash}` in it"),
        (&["--source", "127.0.0.1/{hash}"], "--source: the URL must have a scheme and a host"),
        (&["--source", "http://127.0.0.1/{hash}", "--events", "ftp://127.0.0.1"], "--events: the scheme of the URL"),
        (&["--source", "http://127.0.0.1/{hash}", "--ca", "no-such.pem"], "cannot use the certificates"),
    ] {
        let output = keymeter(&[&["check"], arguments].concat()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.starts_with(expected), "{arguments:?}: {said}");
    }
    for arguments in [
        &["--events", "http://127.0.0.1"][..],
        &["--ca", "ca.pem"],
        &["--source", "http://127.0.0.1/{hash}", "--config", "keymeter.yaml"],
    ] {
        assert_eq!(
            keymeter(&[&["check"], arguments].concat()).output().unwrap().status.code(),
            Some(2),
            "{arguments:?}"
        );
    }
}
