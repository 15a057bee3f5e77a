//! Faulty configurations, and exactly what is said of them.

use super::*;

/// The faults of a text that is put before what every configuration needs.
fn before_least(text: &str) -> Vec<String> {
    of(&format!("{text}\n{LEAST}"))
}

fn of(text: &str) -> Vec<String> {
    let directory = directory();
    let faults = parse(text, &directory.path().join("f"), &variable).expect_err(text);
    lines(&directory, &faults)
}

fn table(rows: &[(&str, &[&str])], faults: fn(&str) -> Vec<String>) {
    for (text, expected) in rows {
        assert_eq!(faults(text), *expected, "{text}");
    }
}

#[test]
fn of_fields() {
    table(
        &[
            (
                "server: {lissten: []}",
                &["f:1:10: unknown field `lissten` in server; did you mean `listen`? accepted: listen, tls, threads, \
                   max_request_body, max_buffered_bodies, body_timeout, head_timeout, keep_alive, write_timeout, \
                   max_connections, drain_timeout, upgrade_socket, client_address, cors, heartbeat"],
            ),
            (
                "server:\n  tls:\n    cert: cert.pem\n    key: key.pem\n    kee: 1",
                &["f:5:5: unknown field `kee` in server.tls; did you mean `key`? accepted: cert, key"],
            ),
            (
                "on_client_abort: wait\nledger: {directory: data}",
                &[
                    "f:1:18: `wait` is not accepted here; accepted: stop, drain",
                    "f:2:9: the ledger is unused: records are sent to `keys.http.usage_url`, which is not set; set it or remove `ledger`",
                ],
            ),
            ("server: {threads: 1, threads: 2}", &["f:1:22: the field `threads` is already given on line 1"]),
            (
                "admin: {}\nserver: {}\nadmin: {}\nserver: {}",
                &[
                    "f:3:1: the field `admin` is already given on line 1",
                    "f:4:1: the field `server` is already given on line 2",
                ],
            ),
            ("1: x\n[]: y", &["f:1:1: the name of a field must be text"]),
            (
                "server: {server: 1, tls: {tls: 2, cert: cert.pem, key: key.pem}}",
                &[
                    "f:1:10: unknown field `server` in server; accepted: listen, tls, threads, max_request_body, \
                     max_buffered_bodies, body_timeout, head_timeout, keep_alive, write_timeout, max_connections, \
                     drain_timeout, upgrade_socket, client_address, cors, heartbeat",
                    "f:1:27: unknown field `tls` in server.tls; accepted: cert, key",
                ],
            ),
            (
                "server:\n  cors: {origins: [app.example, 'https://a.example/'], max_age: 10}\n  heartbeat: 10ms",
                &[
                    "f:2:20: an origin is a scheme, a host and perhaps a port, such as https://app.example:8443, \
                     without a path; `*` is any",
                    "f:2:33: an origin is a scheme, a host and perhaps a port, such as https://app.example:8443, \
                     without a path; `*` is any",
                    "f:2:65: a duration is a whole number and a unit, such as 60s, at most 8760h; units: ms, s, m, h",
                    "f:3:14: a heartbeat is `off` or a duration of at least 1s, such as 15s",
                ],
            ),
            (
                "server: {cors: {}}",
                &["f:1:16: missing field `origins` in server.cors: the origins of pages, such as https://app.example"],
            ),
            ("server: {cors: {origins: []}}", &["f:1:26: at least one origin is needed, such as https://app.example"]),
            ("server: text", &["f:1:9: expected fields, such as `listen`, found a single value"]),
            ("server: []", &["f:1:9: expected fields, such as `listen`, found a list"]),
            ("models: [[a]]", &["f:1:10: expected the fields of a model, `name` at least, found a list"]),
            ("server: {threads: {cut: true}}", &["f:1:19: expected a single value, found fields"]),
            ("server: {threads: !big 1}", &["f:1:19: a tag (`!…`) is not accepted"]),
            (
                "metrics: {max_key_series: '${SERIES}'}\nserver: {threads: '${FOUR-1}', tls: {cert: '${A', key: key.pem}}",
                &[
                    "f:1:27: the environment variable `SERIES` is not set; set it, or write ${SERIES:-default}",
                    "f:2:19: unknown form of variable; accepted: ${VAR}, ${VAR:-default} and \
                     ${VAR:?message}, not nested",
                    "f:2:44: `${` without its `}`; a literal `$` before a `{` is written `$$`",
                ],
            ),
            (
                "metrics: {max_key_series: '${REVOKE:?say what is to happen}'}",
                &["f:1:27: the environment variable `REVOKE` is not set: say what is to happen"],
            ),
        ],
        before_least,
    );
}

#[test]
fn of_connections_and_hosts() {
    table(
        &[
            (
                "server: {head_timeout: 0s, keep_alive: off, write_timeout: 0ms, max_connections: -1}",
                &[
                    "f:1:24: must be longer than 0",
                    "f:1:40: a duration is a whole number and a unit, such as 60s, at most 8760h; units: ms, s, m, h",
                    "f:1:60: must be longer than 0",
                    "f:1:82: must be a whole number, 0 or more",
                ],
            ),
            (
                "admin: {hosts: ['metrics.example:9090', 'http://x', '', metrics.example]}",
                &[
                    "f:1:17: `metrics.example:9090` is not a host name; accepted: a name or an IP address without a \
                     port, such as metrics.example",
                    "f:1:41: `http://x` is not a host name; accepted: a name or an IP address without a port, such as \
                     metrics.example",
                    "f:1:53: `` is not a host name; accepted: a name or an IP address without a port, such as \
                     metrics.example",
                ],
            ),
        ],
        before_least,
    );
}

#[test]
fn of_servers() {
    table(
        &[
            ("server: {listen: []}", &["f:1:18: at least one address is needed, such as 127.0.0.1:8080"]),
            ("server: {listen: 127.0.0.1:80}", &["f:1:18: expected a list in brackets, found a single value"]),
            (
                "server: {listen: ['127.0.0.1:80', 'localhost:80', '127.0.0.1:80']}",
                &[
                    "f:1:35: `localhost:80` is not an address; accepted: an IP address and a port, such as \
                     127.0.0.1:8080 or [::1]:8080",
                    "f:1:51: `127.0.0.1:80` is already in the list",
                ],
            ),
            ("server:\n  listen:\n  - 127.0.0.1:80\n  -", &["f:4:4: the element has no value"]),
            (
                "server:\n  tls: {cert: cert.pem}",
                &["f:2:8: missing field `key` in server.tls: the file of the certificate's private key, in PEM form"],
            ),
            (
                "server: {tls: {cert: none.pem, key: cert.pem}}",
                &[
                    "f:1:22: cannot read none.pem: No such file or directory (os error 2)",
                    "f:1:37: cert.pem holds no `-----BEGIN … PRIVATE KEY-----` (PEM)",
                ],
            ),
            (
                "server: {threads: 1025, body_timeout: 0s, drain_timeout: 10, max_request_body: 32}",
                &[
                    "f:1:19: at most 1024 threads; 0 is one for each core",
                    "f:1:39: must be longer than 0",
                    "f:1:58: a duration is a whole number and a unit, such as 60s, at most 8760h; units: ms, s, m, h",
                    "f:1:80: a size is a whole number of at least 1 and a unit, such as 32MiB; units: B, KB, KiB, \
                     MB, MiB, GB, GiB",
                ],
            ),
            ("server: {threads: -1}", &["f:1:19: must be a whole number, 0 or more"]),
            ("server: {threads: 1.5}", &["f:1:19: must be a whole number, 0 or more"]),
            (
                "server: {max_request_body: 2GiB}",
                &["f:1:28: `max_request_body` (2GiB) is more than `max_buffered_bodies` (1GiB): such a request could \
                   never be taken"],
            ),
            (
                "server:\n  max_buffered_bodies: 1MB",
                &["f:2:24: `max_request_body` (32MiB) is more than `max_buffered_bodies` (1MB): such a request could \
                   never be taken"],
            ),
            (
                "server: {client_address: {header: 'x y', trusted: [lan]}}",
                &[
                    "f:1:35: `x y` is not a header name; an example is x-forwarded-for",
                    "f:1:52: `lan` is not a network; accepted: CIDR notation, such as 10.0.0.0/8 or fd00::/8, or one \
                     IP address",
                ],
            ),
            (
                "server: {client_address: {header: x-real-ip, trusted: []}}",
                &["f:1:55: at least one network is needed, such as 10.0.0.0/8"],
            ),
            (
                "server:\n  client_address: {}",
                &[
                    "f:2:19: missing field `header` in server.client_address: such as x-forwarded-for",
                    "f:2:19: missing field `trusted` in server.client_address: the networks of the proxies that set \
                     the header",
                ],
            ),
            ("admin: {listen: '0.0.0.0:9090'}", &["f:1:17: a `token` is required, as 0.0.0.0:9090 is not loopback"]),
            (
                "admin: {listen: '127.0.0.1:8080'}",
                &["f:1:17: `127.0.0.1:8080` is also in `server.listen`; the two need different ports"],
            ),
            (
                "admin:\n  token: has space",
                &["f:2:10: the secret has a space, a line break or a character that is not ASCII, which no HTTP \
                   header carries"],
            ),
            ("admin: {listen: '0.0.0.0:1', token: 0x1F}", &["f:1:37: a secret must be written in quotes"]),
            ("admin: {token: '${EMPTY}'}", &["f:1:16: the secret is empty"]),
            (
                "admin: {token: 0123456789abcdef0123456789abcde}",
                &["f:1:16: a token of 31 characters could be guessed: at least 32 are needed; `openssl rand -hex 32` \
                   makes one of 64"],
            ),
            (
                "control: {token: x1, gateway_token: 0123456789abcdef0123456789abcdef}",
                &["f:1:18: a token of 2 characters could be guessed: at least 32 are needed; `openssl rand -hex 32` \
                   makes one of 64"],
            ),
            (
                "control: {token: 0123456789abcdef0123456789abcdef, client_address: {header: x-real-ip, trusted: []}}",
                &["f:1:97: at least one network is needed, such as 10.0.0.0/8"],
            ),
            (
                "admin: {token: true}",
                &["f:1:16: `true` and `false` are no value here; write it in quotes if it is meant as text"],
            ),
        ],
        before_least,
    );
}

#[test]
fn of_signing_in() {
    let missing = "missing field `page_url` in control: where browsers reach the page, such as https://keys.example: the issuer \
                   sends them back to /sign-in/callback there";
    let secret = "the secret has a space, a line break or a character that is not ASCII, which no HTTP header carries";
    table(
        &[
            ("control: {oidc: {issuer: 'https://a', client_id: b}}", &[&format!("f:1:10: {missing}")]),
            (
                "control: {page_url: 'https://k', oidc: {}}",
                &[
                    "f:1:40: missing field `client_id` in control.oidc: what the issuer calls this control plane, such as keymeter",
                    "f:1:40: missing field `issuer` in control.oidc: what tokens say as `iss`, such as https://login.example",
                ],
            ),
            (
                "control: {page_url: 'https://k/keys', oidc: {issuer: 'https://a?b', client_id: b}}",
                &["f:1:21: the URL of the page must have no path: its links begin at the root of the host"],
            ),
            (
                "control: {page_url: 'https://k', oidc: {issuer: 'https://a?b', client_id: b}}",
                &["f:1:49: the URL must hold no query (`?…`)"],
            ),
            (
                "control: {page_url: 'https://k', oidc: {issuer: login, client_id: b, scopes: email}}",
                &[
                    "f:1:49: the URL must have a scheme and a host; accepted: http:// or https://, a host, a port and a path if \
                     need be",
                    "f:1:78: `openid` must be among them, parted by spaces: without it there is no ID token",
                ],
            ),
            (
                "control: {page_url: 'https://k', oidc: {issuer: 'https://a', client_id: b, client_secret: a b, operator: [c]}}",
                &[
                    &format!("f:1:91: {secret}"),
                    "f:1:96: unknown field `operator` in control.oidc; did you mean `operators`? accepted: issuer, client_id, \
                     client_secret, claim, operators, create_users, scopes, ca",
                ],
            ),
            (
                "control: {page_url: 'https://ada:geheim@k', oidc: {issuer: 'https://a', client_id: b, ca: none.pem}}",
                &["f:1:21: the URL must hold no user and password"],
            ),
        ],
        before_least,
    );
    let control = |more: &str| parsed(&format!("control: {{{more}}}\n{LEAST}")).unwrap().control.unwrap();
    let least =
        "page_url: 'https://Keys.example:443/', oidc: {issuer: 'https://a/', client_id: b, client_secret: geheim-1}";
    let settings = control(least);
    let oidc = settings.oidc.as_ref().unwrap();
    assert_eq!((&*oidc.page_url, &*oidc.issuer, &*oidc.claim), ("https://keys.example", "https://a/", "email"));
    assert_eq!((&*oidc.scopes, oidc.create_users, oidc.operators.len()), ("openid email profile", false, 0));
    assert!(
        settings.hosts.iter().any(|host| Some(host) == keymeter_core::hosts::HostName::parse("keys.example").as_ref())
    );
    assert!(!format!("{settings:?}").contains("geheim"));
}

#[test]
fn of_policy() {
    table(
        &[
            (
                "key_cache: {capacity: 0, stale_for: 8761h}",
                &[
                    "f:1:23: must be a whole number, 1 or more",
                    "f:1:37: a duration is a whole number and a unit, such as 60s, at most 8760h; units: ms, s, m, h",
                ],
            ),
            (
                "limits: {tokens_per_minute: 1.5, reservation: worst-case}",
                &[
                    "f:1:29: a limit is a whole number of at least 1, or `unlimited`",
                    "f:1:47: `worst-case` is not accepted here; did you mean `worst_case`? accepted: expected, \
                     worst_case",
                ],
            ),
            ("metrics: {max_key_series: lots}", &["f:1:27: must be a whole number, 0 or more"]),
            (
                "models:
- {name: a, input: 0.20}
- input: '1'
- {name: b, max_output_tokens: -1}
-
- {name: a}
- {name: c, outptu: 1}
- name
- {name: ''}",
                &[
                    "f:2:20: money is never a floating-point number: write it in quotes, such as \"0.20\"",
                    "f:3:3: missing field `name` in models[1]: the model's name or a pattern, such as llama-3*",
                    "f:4:32: must be a whole number, 1 or more",
                    "f:5:2: the element has no value",
                    "f:6:10: `a` is already given on line 2, and the first that matches counts",
                    "f:7:13: unknown field `outptu` in models[5]; did you mean `output`? accepted: name, input, \
                     cached_input, cache_write, cache_write_1h, output, audio_minute, request, max_output_tokens",
                    "f:8:3: expected the fields of a model, `name` at least, found a single value",
                    "f:9:10: a model's name or pattern must not be empty; `*` stands for all",
                ],
            ),
        ],
        before_least,
    );
}

#[test]
fn of_limits_and_money_in_the_words_of_their_parsers() {
    let limit = "none".parse::<Limit>().map_err(|error| error.to_string()).unwrap_err();
    assert_eq!(before_least("limits: {requests_per_minute: none}"), [format!("f:1:31: {limit}")]);
    for price in ["free", "-1", "0.0000000001"] {
        let rate = price.parse::<Rate>().map_err(|error| error.to_string()).unwrap_err();
        assert_eq!(before_least(&format!("models: [{{name: a, input: '{price}'}}]")), [format!("f:1:27: {rate}")]);
    }
}

#[test]
fn of_upstreams_and_sources() {
    table(
        &[
            (
                "upstreams: []",
                &[
                    "f:1:1: missing field `keys`: where keys come from, such as `yaml: {path: keys.yaml}`",
                    "f:1:12: at least one upstream is needed, with a `name` and a `url`",
                ],
            ),
            (
                "# nothing but\nmodels: []",
                &[
                    "f:2:1: missing field `keys`: where keys come from, such as `yaml: {path: keys.yaml}`",
                    "f:2:1: missing field `upstreams`: the inference servers, each with a `name` and a `url`",
                ],
            ),
            (
                "upstreams:
  - {name: a/b, url: 'ftp://h', apis: [coh, openai, openai], models: []}
  - name: c
    url: http://ada:secret@h
    ca: none.pem
    inject_usage: true
  - {name: d, url: http://h, apis: [], api_key_header: authorisation}
  - {name: d, url: http://h}
  - {name: d, urls: http://h}
keys: {yaml: {path: keys.yaml}}",
                &[
                    "f:2:12: an upstream's name is 1 to 64 characters of a-z, A-Z, 0-9, `.`, `_` and `-`",
                    "f:2:22: the scheme of the URL must be http or https",
                    "f:2:40: `coh` is not accepted here; accepted: openai, anthropic, ollama, gemini",
                    "f:2:53: this API is already in the list",
                    "f:2:70: at least one model or pattern is needed; without the field, all models are served",
                    "f:4:10: the URL must hold no user and password; a credential has a field of its own, `api_key` or `token`",
                    "f:5:9: cannot read none.pem: No such file or directory (os error 2)",
                    "f:6:19: `true` is not accepted here; accepted: auto, always, never",
                    "f:7:36: at least one API is needed; accepted: openai, anthropic, ollama, gemini",
                    "f:7:56: `authorisation` is not accepted here; did you mean `authorization`? accepted: \
                     authorization, x-api-key, api-key, x-goog-api-key",
                    "f:9:5: missing field `url` in upstreams[4]: such as http://127.0.0.1:8000; or `replicas`, a list of them",
                    "f:9:15: unknown field `urls` in upstreams[4]; did you mean `url`? accepted: name, url, replicas, \
                     apis, models, api_key, api_key_header, inject_usage, ca, connect_timeout, read_timeout, \
                     first_byte_timeout, resolve, balance, affinity, health, eject, attempts, max_in_flight, queue, \
                     rename, send_priority",
                ],
            ),
            (
                "upstreams: [{name: a, url: http://h, ca: none.pem}, {name: a, url: http://h}]\nkeys: {}",
                &[
                    "f:1:42: cannot read none.pem: No such file or directory (os error 2)",
                    "f:1:60: the name `a` is already used on line 1",
                    "f:2:7: missing field `yaml` in keys: the source of keys, such as `yaml: {path: keys.yaml}`",
                ],
            ),
            (
                "upstreams: [{name: a, url: http://h}]\nkeys: {yaml: {path: }, secret_checksum: on}",
                &[
                    "f:2:14: missing field `path` in keys.yaml: the file that holds the keys",
                    "f:2:41: `on` is not accepted here; accepted: off, required",
                ],
            ),
            (
                "upstreams: [1]\nkeys: keys.yaml",
                &[
                    "f:1:13: expected the fields of an upstream, `name` and `url` at least, found a single value",
                    "f:2:7: expected a source of keys, such as `yaml: {path: keys.yaml}`, found a single value",
                ],
            ),
        ],
        of,
    );
}

#[test]
fn of_texts_that_are_no_yaml() {
    table(
        &[
            ("", &["f:1:1: the file is empty; `upstreams` and `keys` are required"]),
            ("# only a comment\n", &["f:1:1: the file is empty; `upstreams` and `keys` are required"]),
            ("- a", &["f:1:1: expected fields, `upstreams` and `keys` at least, found a list"]),
            ("text", &["f:1:1: expected fields, `upstreams` and `keys` at least, found a single value"]),
            ("server:\n\tthreads: 1\n", &["f:2:1: a tab in the indentation; YAML allows only spaces there"]),
            ("a: 1\n---\nb: 2\n", &["f:2:1: a second document starts here; the file may hold only one"]),
            ("a: 1\n  b: 2\n", &["f:2:4: no valid YAML: mapping values are not allowed in this context"]),
            ("server: *nowhere\n", &["f:1:9: no valid YAML: while parsing node, found unknown anchor"]),
        ],
        of,
    );
}

#[test]
fn of_files_that_cannot_be_read() {
    let directory = directory();
    let path = directory.path().join("keymeter.yaml");
    let faults = |path: &Path| lines(&directory, &load(path, &variable).unwrap_err());
    assert_eq!(
        faults(&path),
        [
            "keymeter.yaml:1:1: cannot read the configuration: No such file or directory (os error 2); write it, or name \
         another with `--config`"
        ]
    );
    fs::write(&path, b"a: 1\nb: \xff\n").unwrap();
    assert_eq!(
        faults(&path),
        ["keymeter.yaml:1:1: cannot read the configuration: line 2 is not UTF-8; write it, or name another with \
         `--config`"]
    );
    fs::write(&path, LEAST.replace("keys.yaml", "none.yaml")).unwrap();
    assert_eq!(
        faults(&path),
        ["keymeter.yaml:2:21: cannot read the keys in none.yaml: No such file or directory (os error 2); \
         `keymeter keys create --file none.yaml --name \"My first key\"` makes it"]
    );
}

#[test]
fn of_both_files_are_named_in_one_run() {
    let faults = loaded(&format!("limits: {{reservation: worst}}\n{LEAST}"), "keys: [1]\n").unwrap_err();
    assert_eq!(
        faults,
        [
            "keymeter.yaml:1:23: `worst` is not accepted here; accepted: expected, worst_case",
            "keys.yaml:1:8: expected the fields of a key, `id`, `name` and `hash` at least, found a single value",
        ]
    );
}

#[test]
fn of_a_key_service() {
    let of_keys = |text: &str| of(&format!("upstreams: [{{name: a, url: 'http://127.0.0.1:1'}}]\nkeys:\n  {text}"));
    for (text, expected) in [
        ("http: {}", "f:3:9: missing field `url` in keys.http: such as https://keys.example/v1/keys/{hash}"),
        ("http: {url: 'http://a/keys'}", "f:3:15: the URL must have `{hash}` in it, where the hash of a secret goes"),
        ("http: {url: 'ftp://a/{hash}'}", "f:3:15: the scheme of the URL must be http or https"),
        (
            "http: {url: 'http://a/{hash}', events_url: 'a'}",
            "f:3:46: the URL must have a scheme and a host; accepted: http:// or https://, a host, a port and a path if need be",
        ),
        (
            "http: {url: 'http://a/{hash}', usage_url: 'http:a'}",
            "f:3:45: the URL must have a scheme and a host; accepted: http:// or https://, a host, a port and a path if need be",
        ),
        (
            "{yaml: {path: keys.yaml}, http: {url: 'http://a/{hash}'}}",
            "f:3:35: either `yaml` or `http`, not both: keys come from one source",
        ),
    ] {
        assert_eq!(of_keys(text), [expected], "{text}");
    }
    let good = "keys: {http: {url: 'https://a/{hash}?v=1', timeout: 3s}, ready_without_source: true}";
    let config = parsed(&LEAST.replace("keys: {yaml: {path: keys.yaml}}", good)).unwrap();
    let Source::Http(service) = &config.keys.source else { panic!("it is a service") };
    assert_eq!(service.url_of(&KeyHash::digest(b"abc")).len(), "https://a/?v=1".len() + 64);
    assert!(config.keys.ready_without_source);
}

#[test]
fn of_issuers() {
    let of_issuers = |text: &str| {
        of(&format!("upstreams: [{{name: a, url: 'http://127.0.0.1:1'}}]\nkeys:\n  yaml: {{path: k}}\n  jwt: [{text}]"))
    };
    let good = "{issuer: 'https://a', audience: b, jwks: 'https://a/c', algorithms: [RS256]}";
    for (text, expected) in [
        (
            "{}",
            vec![
                "f:4:9: missing field `algorithms` in keys.jwt[0]: what tokens may be signed with, such as [RS256, ES256]",
                "f:4:9: missing field `audience` in keys.jwt[0]: what tokens must say as `aud`, such as keymeter",
                "f:4:9: missing field `issuer` in keys.jwt[0]: what tokens say as `iss`, such as https://login.example",
                "f:4:9: missing field `jwks` in keys.jwt[0]: where the issuer's keys are, such as \
                 https://login.example/jwks.json",
            ],
        ),
        (
            &*good.replace("RS256", "HS256, none"),
            vec![
                "f:4:78: `HS256` is not accepted here; accepted: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA",
                "f:4:85: `none` is not accepted here; accepted: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA",
            ],
        ),
        (
            &good.replace("[RS256]", "[]"),
            vec!["f:4:77: at least one algorithm is needed: what tokens may be signed with, such as [RS256, ES256]"],
        ),
        (
            &good.replace("https://a'", "a b'"),
            vec!["f:4:18: an issuer's name is 1 to 1024 bytes without spaces, as tokens say it in `iss`"],
        ),
        (&good.replace("https://a/c", "ftp://a/c"), vec!["f:4:50: the scheme of the URL must be http or https"]),
        (
            &format!("{good}, {good}"),
            vec!["f:4:96: the issuer `https://a` is written twice: a token must have one entry that it is checked by"],
        ),
        (
            &good.replace("]}", "], claims: sub}"),
            vec![
                "f:4:86: unknown field `claims` in keys.jwt[0]; did you mean `claim`? accepted: issuer, audience, jwks, claim, \
                 algorithms, ca",
            ],
        ),
    ] {
        assert_eq!(of_issuers(text), expected, "{text}");
    }
    let issuers = |text: &str| parsed(&LEAST.replace("keys: {", &format!("keys: {{jwt: [{text}], "))).unwrap().keys.jwt;
    assert_eq!(&*issuers(good)[0].claim, "sub");
    for (jwks, may_be_forged) in [("https://a/c", false), ("http://a/c?v=1", true), ("http://127.0.0.1:1", false)] {
        assert_eq!(issuers(&good.replace("https://a/c", jwks))[0].may_be_forged(), may_be_forged, "{jwks}");
    }
}

#[test]
fn of_tracing() {
    let userinfo = "f:1:17: the URL must hold no user and password; the variable OTEL_EXPORTER_OTLP_HEADERS has what the \
                    collector wants";
    table(
        &[
            (
                "tracing: {}",
                &["f:1:10: missing field `otlp` in tracing: the collector that takes OTLP over gRPC, such as \
                               http://127.0.0.1:4317"],
            ),
            ("tracing: {otlp: 'http://ada:geheim@host:4317'}", &[userinfo]),
            (
                "tracing: {otlp: 'grpc://host', sample: 101%}",
                &[
                    "f:1:17: the scheme of the URL must be http or https",
                    "f:1:40: a part is written as 0% to 100%, such as 5% or 0.25%",
                ],
            ),
        ],
        before_least,
    );
}
