//! Whole files: what they mean, and what is said of faulty ones.

use std::{fs, net::SocketAddr};

use keymeter_core::{
    glob::Glob,
    key::{KeyHash, KeyState, OwnLimits},
    money::Rate,
};
use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};
use tempfile::TempDir;

use super::*;

mod faults;
mod faults_of_keys;
mod limits_of_keys;
mod pools;

/// What both files need at least.
const LEAST: &str = "upstreams: [{name: vllm, url: http://127.0.0.1:8000}]\nkeys: {yaml: {path: keys.yaml}}\n";

const HASH: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn variable(name: &str) -> Option<String> {
    let value = match name {
        "KEYMETER_ADMIN_TOKEN" => "admin-token-0123456789-0123456789",
        "VLLM_API_KEY" => "sk-upstream",
        "PROD_KEY" => "sk-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef2P40Ol",
        "PATTERN" => "qwen*",
        "FOUR" => "4",
        "NO" => "false",
        "EMPTY" => "",
        _ => return None,
    };
    Some(value.to_owned())
}

/// A directory with the files that the texts of these tests name.
fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| fs::write(directory.path().join(name), content).unwrap();
    write("cert.pem", "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n");
    write("key.pem", "-----BEGIN EC PRIVATE KEY-----\nMA==\n-----END EC PRIVATE KEY-----\n");
    write("ca.pem", "# ours\n-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n");
    write("keys.yaml", "keys: []\n");
    directory
}

fn parsed(text: &str) -> Result<Config, Vec<ConfigError>> {
    parsed_in(&directory(), text)
}

fn parsed_in(directory: &TempDir, text: &str) -> Result<Config, Vec<ConfigError>> {
    parse(text, &directory.path().join("keymeter.yaml"), &variable)
}

/// The faults as `check` prints them, with the directory cut off.
fn lines(directory: &TempDir, faults: &[ConfigError]) -> Vec<String> {
    let prefix = format!("{}/", directory.path().display());
    faults.iter().map(|error| error.to_string().replace(&prefix, "")).collect()
}

/// What `load` says of a configuration and the keys beside it.
fn loaded(config: &str, keys: &str) -> Result<Loaded, Vec<String>> {
    let directory = directory();
    fs::write(directory.path().join("keymeter.yaml"), config).unwrap();
    fs::write(directory.path().join("keys.yaml"), keys).unwrap();
    load(&directory.path().join("keymeter.yaml"), &variable).map_err(|faults| lines(&directory, &faults))
}

#[test]
fn everything_that_is_optional_has_its_default() {
    let config = parsed(LEAST).unwrap();
    assert_eq!(
        config.server,
        Server {
            listen: vec!["127.0.0.1:8080".parse().unwrap()],
            tls: None,
            threads: None,
            max_request_body: 32 * 1024 * 1024,
            max_buffered_bodies: 1024 * 1024 * 1024,
            body_timeout: Duration::from_mins(1),
            timeouts: ConnectionTimeouts {
                head: Duration::from_secs(10),
                keep_alive: Duration::from_secs(75),
                write: Duration::from_mins(1),
            },
            max_connections: None,
            drain_timeout: Duration::from_mins(10),
            upgrade_socket: None,
            client_address: None,
            cors: None,
            heartbeat: None,
        }
    );
    assert_eq!(config.admin, Admin { listen: "127.0.0.1:9090".parse().unwrap(), token: None, hosts: Vec::new() });
    assert_eq!(
        config.upstreams,
        [Arc::new(Upstream {
            name: "vllm".into(),
            replicas: vec![Arc::new(Replica {
                name: "127.0.0.1:8000".into(),
                url: "http://127.0.0.1:8000".parse().unwrap(),
                weight: 1,
                max_in_flight: Limit::Unlimited,
                api_key: None,
                ca: None,
                rename: Rename::new(),
            })],
            pool: config.upstreams[0].pool.clone(),
            apis: vec![keymeter_core::api::Api::OpenAi],
            models: vec![Glob::new("*")],
            api_key_header: ApiKeyHeader::Authorization,
            inject_usage: InjectUsage::Auto,
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_mins(10),
        })]
    );
    let seconds = Duration::from_secs;
    let cache = KeyCache { capacity: 1_000_000, ttl: seconds(60), unknown_ttl: seconds(5), stale_for: seconds(600) };
    assert_eq!(config.key_cache, cache);
    let unlimited = Limits {
        requests_per_minute: Limit::Unlimited,
        tokens_per_minute: Limit::Unlimited,
        concurrent_requests: Limit::Unlimited,
    };
    let store = config.limits.store.clone();
    assert!(store.ends_with("data/limits"), "{store:?}");
    let (mode, reservation) = (LimitMode::Enforce, Strategy::Expected);
    assert_eq!(config.limits, Defaults { limits: unlimited, mode, store, reservation, shared: None });
    assert_eq!(config.models, []);
    assert_eq!(config.metrics, Metrics { max_key_series: 100_000 });
    assert!(!config.keys.secret_checksum_required);
}

#[test]
fn empty_sections_have_their_defaults_too() {
    let empty = "server:\nadmin: {}\nkey_cache:\nlimits:\nmodels:\nmetrics:\n";
    let config = parsed(&format!("{empty}{LEAST}")).unwrap();
    assert_eq!(config.server, parsed(LEAST).unwrap().server);
    assert_eq!(config.models.len(), 0);
}

const EVERYTHING: &str = r#"
server:
  listen: ["127.0.0.1:8080", "[::1]:8080"]     # HTTP/1.1 and h2c
  tls: {cert: cert.pem, key: key.pem}
  threads: 8
  max_request_body: 16MiB
  max_buffered_bodies: 2GB
  body_timeout: 30s
  head_timeout: 5s
  keep_alive: 2m
  write_timeout: 500ms
  max_connections: 7
  drain_timeout: 1h
  upgrade_socket: upgrade.sock
  client_address: {header: X-Forwarded-For, trusted: ["10.0.0.0/8", "::1"]}
  cors: {origins: ["https://app.example", "http://localhost:3000"], max_age: 1h}
  heartbeat: 15s
admin:
  listen: "0.0.0.0:9090"
  token: "${KEYMETER_ADMIN_TOKEN}"
upstreams:
  - name: vllm
    url: "http://127.0.0.1:8000/base"
    apis: [openai]
    models: ["llama-3*", "qwen3"]
    api_key: "${VLLM_API_KEY}"
    api_key_header: x-api-key
    inject_usage: never
    ca: ca.pem
    connect_timeout: 500ms
    read_timeout: 2m
keys:
  yaml: {path: keys.yaml}
  secret_checksum: required
key_cache: {capacity: 10, ttl: 1s, unknown_ttl: 2s, stale_for: 3s}
limits:
  requests_per_minute: 60
  tokens_per_minute: "2000000"
  concurrent_requests: unlimited
  mode: observe
  store: /var/lib/keymeter/limits
  reservation: worst_case
models:
  - {name: "llama-3*", input: "0.20", cached_input: "0.05", cache_write: "0.25", cache_write_1h: "0.45", output: 1, max_output_tokens: 8192}
  - {name: whisper-1, audio_minute: "0.006"}
  - {name: rerank-1, request: "0.002"}
metrics: {max_key_series: 7}
access_log: {client_address: network}
tracing: {otlp: "https://collector.example:4317", sample: 12.5%}
"#;

#[test]
fn every_field_of_the_edges_is_read() {
    let directory = directory();
    let config = parse(EVERYTHING, &directory.path().join("keymeter.yaml"), &variable).unwrap();
    let addresses: [SocketAddr; 2] = ["127.0.0.1:8080".parse().unwrap(), "[::1]:8080".parse().unwrap()];
    assert_eq!(config.server.listen, addresses);
    let beside = |name: &str| directory.path().join(name);
    assert_eq!(config.server.tls, Some(Tls { cert: beside("cert.pem"), key: beside("key.pem") }));
    assert_eq!(config.server.threads.map(usize::from), Some(8));
    assert_eq!((config.server.max_request_body, config.server.max_buffered_bodies), (16 << 20, 2_000_000_000));
    assert_eq!(config.server.body_timeout, Duration::from_secs(30));
    let [head, keep_alive, write] = [5000, 120_000, 500].map(Duration::from_millis);
    assert_eq!(config.server.timeouts, ConnectionTimeouts { head, keep_alive, write });
    assert_eq!(config.server.max_connections.unwrap().get(), 7);
    assert_eq!(config.server.drain_timeout, Duration::from_hours(1));
    assert!(config.server.upgrade_socket.is_some_and(|path| path.ends_with("upgrade.sock")));
    let client = config.server.client_address.unwrap();
    assert_eq!((client.header.as_str(), client.trusted.len()), ("x-forwarded-for", 2));
    let cors = config.server.cors.unwrap();
    assert_eq!((cors.origins.len(), cors.max_age), (2, Duration::from_hours(1)));
    assert_eq!(config.logged_address, LoggedAddress::Network);
    assert_eq!(config.server.heartbeat, Some(Duration::from_secs(15)));
    assert_eq!(config.admin.listen, "0.0.0.0:9090".parse().unwrap());
    assert_eq!(config.admin.token.unwrap().0.reveal(), "admin-token-0123456789-0123456789");
    let tracing = config.tracing.unwrap();
    assert_eq!((tracing.otlp.as_str(), tracing.sample.ratio()), ("https://collector.example:4317", 0.125));
    let upstream = &config.upstreams[0];
    let replica = &upstream.replicas[0];
    assert_eq!((&*replica.url.path, &replica.ca), ("/base", &Some(beside("ca.pem"))));
    assert_eq!(upstream.models, [Glob::new("llama-3*"), Glob::new("qwen3")]);
    assert_eq!(replica.api_key.as_ref().map(|key| key.0.reveal()), Some("sk-upstream"));
    assert_eq!((upstream.api_key_header, upstream.inject_usage), (ApiKeyHeader::XApiKey, InjectUsage::Never));
    assert_eq!(upstream.connect_timeout, Duration::from_millis(500));
    assert_eq!(upstream.read_timeout, Duration::from_mins(2));
}

#[test]
fn every_field_of_the_policy_is_read() {
    let config = parsed(EVERYTHING).unwrap();
    assert!(config.keys.secret_checksum_required);
    let seconds = Duration::from_secs;
    let cache = KeyCache { capacity: 10, ttl: seconds(1), unknown_ttl: seconds(2), stale_for: seconds(3) };
    assert_eq!(config.key_cache, cache);
    assert_eq!(config.limits.limits.requests_per_minute, "60".parse().unwrap());
    assert_eq!(config.limits.limits.tokens_per_minute, "2000000".parse().unwrap());
    assert_eq!(config.limits.limits.concurrent_requests, Limit::Unlimited);
    assert_eq!((config.limits.mode, config.limits.reservation), (LimitMode::Observe, Strategy::WorstCase));
    assert_eq!(config.limits.store, Path::new("/var/lib/keymeter/limits"));
    let rate = |text: &str| Some(text.parse::<Rate>().unwrap());
    let [llama, whisper, rerank] = &config.models[..] else { panic!("{:?}", config.models) };
    assert_eq!((llama.name.as_str(), llama.max_output_tokens), ("llama-3*", Some(8192)));
    assert_eq!((llama.price.input, llama.price.cached_input), (rate("0.20"), rate("0.05")));
    assert_eq!((llama.price.cache_write, llama.price.output), (rate("0.25"), rate("1")));
    assert_eq!((llama.price.cache_write_1h, whisper.price.cache_write_1h), (rate("0.45"), None));
    assert_eq!((whisper.price.audio_minute, whisper.price.request), (rate("0.006"), None));
    assert_eq!((rerank.price.request, rerank.max_output_tokens), (rate("0.002"), None));
    assert_eq!(config.metrics.max_key_series, 7);
}

#[test]
fn a_variable_may_stand_for_any_kind_of_value() {
    let server = "server: {threads: '${FOUR}', max_request_body: '${FOUR}MiB', body_timeout: '${UNSET:-7s}'}\n";
    let upstreams = "upstreams: [{name: 'v${FOUR}', url: 'http://h:${FOUR}', models: ['${PATTERN}', 'a$$b']}]\n";
    let config = parsed(&format!("{server}{upstreams}keys: {{yaml: {{path: 'keys.yaml'}}}}\n")).unwrap();
    assert_eq!(config.server.threads.map(usize::from), Some(4));
    assert_eq!(config.server.max_request_body, 4 << 20);
    assert_eq!(config.server.body_timeout, Duration::from_secs(7));
    assert_eq!((&*config.upstreams[0].name, config.upstreams[0].replicas[0].url.port), ("v4", 4));
    assert_eq!(config.upstreams[0].models, [Glob::new("qwen*"), Glob::new("a$b")]);
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_text() {
    assert_eq!(parsed(&format!("\u{feff}{LEAST}")).unwrap().server, parsed(LEAST).unwrap().server);
}

#[test]
fn anchors_and_merges_mean_what_they_mean_in_yaml() {
    let text = "upstreams:\n  - &first {name: a, url: http://h, read_timeout: 7s}\n  - {<<: *first, name: b}\n\
                keys: {yaml: {path: keys.yaml}}\n";
    let config = parsed(text).unwrap();
    assert_eq!((&*config.upstreams[1].name, config.upstreams[1].read_timeout), ("b", Duration::from_secs(7)));
}

#[test]
fn keys_are_loaded_with_the_configuration() {
    let text = format!(
        "keys:
  - id: key_prod
    name: Production API
    hash: \"{HASH}\"
    enabled: '${{NO}}'
    owner: ada
    team: research
    models: [\"*\"]
    limits: {{requests_per_minute: 600, tokens_per_minute: unlimited}}
    expires_at: 2027-01-01T00:00:00Z
    retiring: [{{hash: \"sha256:{}\", not_after: 2026-12-01T00:00:00+01:00}}]
  - id: key_2
    name: Zweiter Schlüssel
    secret: \"${{PROD_KEY}}\"
",
        "0".repeat(64)
    );
    let loaded = loaded(EVERYTHING, &text).unwrap();
    let [first, second] = &loaded.keys[..] else { panic!("{:?}", loaded.keys) };
    assert_eq!(
        (first.id.as_str(), first.name.as_str(), first.hash),
        ("key_prod", "Production API", KeyHash::digest(b"abc"))
    );
    assert_eq!(first.state, KeyState::Disabled);
    assert_eq!((first.owner.as_deref(), first.team.as_deref()), (Some("ada"), Some("research")));
    assert_eq!(first.models, Some([Glob::new("*")].into()));
    assert_eq!(first.limits.requests_per_minute, Some("600".parse().unwrap()));
    assert_eq!((first.limits.tokens_per_minute, first.limits.concurrent_requests), (Some(Limit::Unlimited), None));
    assert_eq!(first.expires_at, Some("2027-01-01T00:00:00Z".parse().unwrap()));
    assert_eq!(first.retiring[0].not_after, "2026-11-30T23:00:00Z".parse().unwrap());
    assert_eq!(second.hash, KeyHash::digest(variable("PROD_KEY").unwrap().as_bytes()));
    assert_eq!((second.state, &second.models), (KeyState::Active, &None));
    assert_eq!((second.limits, second.expires_at, second.retiring.len()), (OwnLimits::default(), None, 0));
    let names: Vec<_> = loaded.files.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    assert_eq!(names, ["keymeter.yaml", "keys.yaml", "cert.pem", "key.pem"]);
}

#[test]
fn records_wait_beside_the_configuration_unless_it_says_where() {
    let of = |extra: &str| {
        let text = format!(
            "upstreams: [{{name: a, url: 'http://127.0.0.1:1'}}]\n\
             keys: {{http: {{url: 'http://k/{{hash}}', usage_url: 'http://k/usage'}}}}\n{extra}"
        );
        parse(&text, Path::new("/etc/keymeter/keymeter.yaml"), &variable).unwrap()
    };
    let (default, other) = (of(""), of("ledger: {directory: /var/spool/keymeter}"));
    assert!(
        matches!(&default.keys.source, Source::Http(service) if service.usage_url.as_deref() == Some("http://k/usage"))
    );
    assert_eq!(default.ledger, Path::new("/etc/keymeter/data/spool"));
    assert_eq!(other.ledger, Path::new("/var/spool/keymeter"));
    assert_eq!(restart_needed(&default, &other), ["ledger.directory"]);
}

#[test]
fn a_file_without_keys_is_fine() {
    assert_eq!(loaded(LEAST, "keys: []\n").unwrap().keys, []);
}

#[test]
fn what_a_restart_is_needed_for_is_named() {
    let directory = directory();
    let parsed = |text: &str| parsed_in(&directory, text).unwrap();
    let old = parsed(LEAST);
    let reloaded = parsed(&format!("limits: {{requests_per_minute: 7, mode: observe}}\n{LEAST}"));
    assert_eq!(restart_needed(&old, &reloaded), [""; 0]);
    let expected = [
        "server.listen",
        "server.tls",
        "server.upgrade_socket",
        "server.threads",
        "server.head_timeout",
        "server.keep_alive",
        "server.write_timeout",
        "server.max_connections",
        "admin.listen",
        "key_cache.capacity",
        "key_cache.ttl",
        "key_cache.unknown_ttl",
        "key_cache.stale_for",
        "limits.store",
        "metrics.max_key_series",
        "tracing",
    ];
    assert_eq!(restart_needed(&old, &parsed(EVERYTHING)), expected);
    assert_eq!(restart_needed(&old, &old.clone()), [""; 0]);
}

#[test]
fn a_plugin_needs_no_upstreams_and_no_address_but_the_admins() {
    let load = |text: &str| {
        let directory = directory();
        let path = directory.path().join("keymeter.yaml");
        fs::write(&path, text).unwrap();
        load_for(Purpose::Plugin, &path, &variable).map_err(|faults| lines(&directory, &faults))
    };
    let least = "admin: {listen: '127.0.0.1:8080'}\nkeys: {yaml: {path: keys.yaml}}\n";
    let config = load(least).unwrap().config;
    assert_eq!((config.purpose, config.upstreams.len()), (Purpose::Plugin, 0));
    assert_eq!(load(LEAST).unwrap().config.upstreams, parsed(LEAST).unwrap().upstreams);
    for (text, error) in [
        ("", "keymeter.yaml:1:1: the file is empty; `keys` is required"),
        ("upstreams: []\nkeys: {yaml: {path: keys.yaml}}", "keymeter.yaml:1:12: at least one upstream is needed"),
        ("admin: {}", "keymeter.yaml:1:1: missing field `keys`"),
    ] {
        let faults = load(text).unwrap_err();
        assert!(faults.len() == 1 && faults[0].starts_with(error), "{faults:?}");
    }
}

#[test]
fn credentials_are_compared_but_never_shown() {
    let with_token = |token: &str| parsed(&format!("admin: {{token: {token}}}\n{LEAST}")).unwrap().admin;
    assert_eq!(with_token("0123456789-open-sesame-0123456789"), with_token("0123456789-open-sesame-0123456789"));
    assert_ne!(with_token("0123456789-open-sesame-0123456789"), with_token("0123456789-shut-sesame-0123456789"));
    assert!(!format!("{:?}", with_token("0123456789-open-sesame-0123456789")).contains("sesame"));
}

#[test]
fn the_process_environment_is_looked_up() {
    assert!(environment("PATH").is_some() && environment("KEYMETER_NO_SUCH_VARIABLE").is_none());
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_with_a_reason(parts in prop::collection::vec(0_usize..22, 0..14)) {
        const PARTS: [&str; 22] = [
            "upstreams:", "keys:", "server:", "models:", "\n", "\n  ", "\n- ", "- ", "{", "}", "[", "]", ", ", "name: ",
            "yaml: ", "path: ", "x", "1", "${A}", "'", "*x", "&x ",
        ];
        let text: String = parts.iter().map(|part| PARTS[*part]).collect();
        prop_assert!(!parsed(&text).is_err_and(|faults| faults.is_empty()), "{}", text);
        let with_rest = format!("{text}\n{LEAST}");
        prop_assert!(!parsed(&with_rest).is_err_and(|faults| faults.is_empty()), "{}", with_rest);
        let keys = keys::parse(&text, Path::new("keys.yaml"), false, &variable);
        prop_assert!(!keys.is_err_and(|faults| faults.is_empty()), "{}", text);
    }
}
