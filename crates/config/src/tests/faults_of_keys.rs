//! Faulty keys files, and exactly what is said of them.

use keymeter_core::money::{Allowance, BalanceUpdate};

use super::*;

fn of(text: &str) -> Vec<String> {
    let faults = keys::parse(text, Path::new("k"), true, &variable).expect_err(text);
    faults.iter().map(ConfigError::to_string).collect()
}

#[test]
fn of_files() {
    assert_eq!(of(""), ["k:1:1: the file is empty; for a file without keys write `keys: []`"]);
    assert_eq!(of("{}"), ["k:1:1: missing field `keys`: the list of keys; for none write `keys: []`"]);
    assert_eq!(of("- id: a"), ["k:1:1: expected the field `keys`, a list, found a list"]);
    assert_eq!(of("keys: {}"), ["k:1:7: expected a list in brackets, found fields"]);
    assert_eq!(
        of("keys: []\nkey: []"),
        ["k:2:1: unknown field `key`; did you mean `keys`? accepted: keys, teams, owners"]
    );
    assert_eq!(of("keys:\n- id: a\n  id: b\n"), ["k:3:3: the field `id` is already given on line 2"]);
    assert_eq!(of("keys:\n-\n"), ["k:2:2: the element has no value"]);
}

#[test]
fn of_patterns_that_are_too_many_too_long_or_nobodys() {
    let models = |models: &[String]| {
        of(&format!("keys:\n- {{id: a, name: First, hash: '{HASH}', models: [{}]}}\n", models.join(", ")))
    };
    let many: Vec<_> = (0..257).map(|number| format!("m{number}*")).collect();
    assert_eq!(models(&many), ["k:2:113: 257 models; a key has 256 names and patterns at most"]);
    let why = "a model's name or pattern has 256 bytes at most and no control characters";
    for pattern in [format!("'{}*'", "m".repeat(256)), r#""m\0x""#.to_owned(), r#""m\u0085""#.to_owned()] {
        assert_eq!(models(&[pattern]), [format!("k:2:114: {why}")]);
    }
    let text = format!("keys:\n- {{id: a, name: First, hash: '{HASH}', models: [{}]}}\n", many[1..].join(", "));
    assert_eq!(keys::parse(&text, Path::new("k"), true, &variable).unwrap()[0].models.as_ref().unwrap().len(), 256);
    let record = format!(r#"{{"id":"a","name":"First","hash":"{HASH}","models":{}}}"#, serde_json::json!(many));
    let error = keys::parse_record(record.as_bytes()).unwrap_err();
    assert_eq!(error, "257 models; a key has 256 names and patterns at most");
    let record = format!(r#"{{"id":"a","name":"First","hash":"{HASH}","models":["a\u0000b"]}}"#);
    assert_eq!(keys::parse_record(record.as_bytes()).unwrap_err(), format!("models[0]: {why}"));
}

#[test]
fn of_keys() {
    let text = format!(
        "keys:
- id: key-1
  name: ab
  hash: sk-0123456789
- id: Ключ
- {{id: a, name: First, hash: '{HASH}', secret: '${{PROD_KEY}}'}}
- {{id: a, name: Second, secret: sk-typed-by-hand}}
- id: c
  name: Third
  hash: '{HASH}'
  limits: {{requests_per_minutes: 1, tokens_per_minute: 1.5}}
  expires_at: 2027-13-01
  enabled: maybe
  models: ['']
  owner: ' ada'
  retiring: [{{hash: '{HASH}', not_after: soon}}, {{hash: '{HASH}'}}]
- {{id: d, name: Fourth, secret: '${{UNSET_KEY}}'}}
- {{id: e, name: Fifth, secret: 123, priority: 101}}
"
    );
    let expected = [
        "k:2:7: an id is 1 to 64 characters of a-z, 0-9 and _",
        "k:3:9: a name is 3 to 50 characters, without control characters or spaces around it",
        "k:4:9: a hash is `sha256:` and 64 hexadecimal digits; `keymeter keys hash` makes one of a secret",
        "k:5:3: missing field `hash` in keys[1]: that of the secret, or `secret` itself",
        "k:5:3: missing field `name` in keys[1]: 3 to 50 characters that tell people what the key is for",
        "k:5:7: an id is 1 to 64 characters of a-z, 0-9 and _",
        "k:6:113: either `hash` or `secret`, not both",
        "k:7:8: the id `a` is already used on line 6",
        "k:7:33: the secret has no right checksum, which `secret_checksum: required` asks for; `keymeter keys create` \
         makes one that has",
        "k:11:12: unknown field `requests_per_minutes` in keys[4].limits; did you mean `requests_per_minute`? accepted: \
         requests_per_minute, tokens_per_minute, concurrent_requests, mode, quotas, models",
        "k:11:56: a limit is a whole number of at least 1, or `unlimited`",
        "k:12:15: `2027-13-01` is not an RFC 3339 time, such as 2027-01-01T00:00:00Z, or a date, such as 2027-01-01",
        "k:13:12: `maybe` is not accepted here; accepted: true, false",
        "k:14:12: a model's name or pattern must not be empty; `*` stands for all",
        "k:15:10: 1 to 64 characters, without control characters or spaces around them",
        "k:16:21: the same secret is already given on line 10; each must belong to one key, once",
        "k:16:107: `soon` is not an RFC 3339 time, such as 2027-01-01T00:00:00Z, or a date, such as 2027-01-01",
        "k:16:114: missing field `not_after` in keys[4].retiring[1]: when the replaced secret stops working",
        "k:16:121: the same secret is already given on line 16; each must belong to one key, once",
        "k:17:33: the environment variable `UNSET_KEY` is not set; set it, or write ${UNSET_KEY:-default}",
        "k:18:32: a secret must be written in quotes",
        "k:18:47: a priority is a whole number from -100 to 100",
    ];
    assert_eq!(of(&text), expected);
}

#[test]
fn a_hash_and_the_secret_that_it_is_of_are_the_same() {
    let secret = variable("PROD_KEY").unwrap();
    let hash = KeyHash::digest(secret.as_bytes());
    let text = format!("keys:\n- {{id: a, name: One, hash: '{hash}'}}\n- {{id: b, name: Two, secret: {secret}}}\n");
    assert_eq!(of(&text), ["k:3:30: the same secret is already given on line 2; each must belong to one key, once"]);
}

#[test]
fn no_fault_repeats_a_secret() {
    let text =
        "keys: [{id: sk-hidden, name: sk, hash: sk-hidden, secret: sk-hidden, limits: sk-hidden, retiring: sk-hidden}]";
    let faults = of(text).join("\n");
    assert!(faults.lines().count() >= 5 && !faults.contains("hidden"), "{faults}");
}

const LIMITS: [&str; 6] =
    ["requests_per_minute", "tokens_per_minute", "concurrent_requests", "mode", "quotas", "models"];

/// Whatever has a field, `null` there says no more than its absence.
#[test]
fn null_is_no_fault_where_the_field_may_be_absent() {
    let (plain, _) =
        keys::parse_record(format!(r#"{{"id":"key_a","name":"Some key","hash":"{HASH}"}}"#).as_bytes()).unwrap();
    let record = |field: &str| {
        let text = format!(r#"{{"id":"key_a","name":"Some key","hash":"{HASH}",{field}}}"#);
        keys::parse_record(text.as_bytes()).map(|(record, update)| (record, update.is_none()))
    };
    for field in [
        "secret",
        "enabled",
        "state",
        "owner",
        "team",
        "models",
        "allow_from",
        "limits",
        "team_limits",
        "owner_limits",
        "expires_at",
        "retiring",
        "wallet",
        "priority",
    ] {
        assert_eq!(record(&format!(r#""{field}":null"#)), Ok((plain.clone(), true)), "{field}");
    }
    for limits in LIMITS {
        assert_eq!(record(&format!(r#""limits":{{"{limits}":null}}"#)), Ok((plain.clone(), true)), "{limits}");
    }
    let wallet = record(r#""wallet":{"id":"ada","balance_usd":"1","allowance":null}"#).unwrap();
    assert_eq!(wallet.0.wallet.as_deref(), Some("ada"));
    assert!(record(r#""nobody":null"#).is_err(), "a field that no record has is still a mistake");
    for field in ["id", "name", "hash"] {
        let text = format!(r#"{{"id":"key_a","name":"Some key","hash":"{HASH}"}}"#);
        let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
        record[field] = serde_json::Value::Null;
        let error = keys::parse_record(record.to_string().as_bytes()).unwrap_err();
        assert!(error.contains(&format!("missing field `{field}`")), "{error}");
    }
}

#[test]
fn null_is_no_fault_in_a_keys_file_either() {
    let parse = |fields: &str| {
        let text = format!("keys: [{{id: key_a, name: Some key, hash: \"{HASH}\", {fields}}}]");
        keys::parse(&text, Path::new("keys.yaml"), false, &|_| None)
    };
    let plain = parse("").unwrap();
    for field in ["secret", "enabled", "owner", "team", "models", "allow_from", "limits", "expires_at", "retiring"] {
        for nothing in ["null", "~", ""] {
            assert_eq!(parse(&format!("{field}: {nothing}")), Ok(plain.clone()), "{field}: {nothing}");
        }
    }
    for limit in LIMITS {
        assert_eq!(parse(&format!("limits: {{{limit}: null}}")), Ok(plain.clone()), "{limit}");
    }
}

#[test]
fn of_a_services_record() {
    let parse = |text: &str| keys::parse_record(text.as_bytes());
    let with = |more: &str| parse(&format!(r#"{{"id":"key_a","name":"Some key","hash":"{HASH}"{more}}}"#));
    let record = with(r#","state":"archived","wallet":{"id":"ada","balance_usd":"1.5"},"team":"t","models":["m*"]"#);
    let (record, word) = record.unwrap();
    assert_eq!(record.wallet.as_deref(), Some("ada"));
    assert_eq!(word, Some(BalanceUpdate { balance: "1.5".parse().unwrap(), allowance: None }));
    assert_eq!((record.id.as_str(), record.state), ("key_a", KeyState::Archived));
    assert!(record.may_call("m1") && !record.may_call("x"));
    assert_eq!(with(r#","enabled":false,"state":"active""#).unwrap().0.state, KeyState::Disabled, "the stricter one");
    let granted_by = r#","wallet":{"id":"ada","balance_usd":"9","allowance":{"version":5,"granted_usd":"2","counted_usd":"0.5","expires_in_ms":60000}}"#;
    let (granted, counted, lasts) = ("2".parse().unwrap(), "0.5".parse().unwrap(), Duration::from_mins(1));
    let allowance = with(granted_by).unwrap().1.unwrap().allowance;
    assert_eq!(allowance, Some(Allowance { version: 5, granted, counted, lasts }));
    for (more, expected) in [
        (r#","secret":"sk-a""#, "the record holds the secret itself: send its `hash` only"),
        (r#","state":"gone""#, "state: `gone` is not accepted here; accepted: active, disabled, archived, no_balance"),
        (r#","limits":{"requests_per_minute":0}"#, "limits.requests_per_minute: a limit of 0"),
        (r#","nmae":"b""#, "unknown field `nmae`, expected one of `id`, `name`, `hash`, `enabled`, `state`"),
        (r#","wallet":{"balance_usd":"1"}"#, "wallet: missing field `id`"),
        (r#","wallet":{"id":"ada","balance_usd":"1","allowance":{}}"#, "wallet: allowance: missing field `version`"),
        (r#","wallet":{"id":"ada","balance_usd":1.5}"#, "wallet: balance_usd: money is never a floating-point number"),
        (r#","wallet":{"id":"ada","euros":"1"}"#, "wallet: euros: unknown field `euros`"),
        (r#","expires_at":"soon""#, "expires_at: `soon` is not an RFC 3339 time"),
    ] {
        let error = with(more).unwrap_err();
        assert!(error.starts_with(expected), "{more}: {error}");
    }
    for text in ["", "[]", "{", "null", r#"{"id":"key_a"}"#] {
        assert!(parse(text).is_err(), "{text}");
    }
    assert!(with(r#","limits":{"tokens_per_minute":"${HOME}"}"#).is_err(), "nothing is expanded");
}
