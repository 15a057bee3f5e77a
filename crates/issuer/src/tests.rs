use jiff::Timestamp;
use keymeter_config::JwtAlgorithm;
use serde_json::{Value, json};

use self::signer::{Signer, encoded, unsigned, with_secret};
use super::*;

#[path = "../../../tests/support/signer.rs"]
#[allow(dead_code, clippy::pedantic, reason = "it is a tool of other tests, too")]
mod signer;

const NOW: i64 = 1_800_000_000;

const ALGORITHMS: [JwtAlgorithm; 4] =
    [JwtAlgorithm::Rs256, JwtAlgorithm::Es256, JwtAlgorithm::EdDsa, JwtAlgorithm::Ps256];

fn claims(others: &Value) -> Value {
    let mut claims =
        json!({"iss": "https://login.example", "aud": "keymeter", "sub": "ada", "nbf": NOW, "exp": NOW + 3600});
    for (name, value) in others.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

fn key_set(keys: &[Value]) -> Result<KeySet, String> {
    KeySet::parse(json!({"keys": keys}).to_string().as_bytes(), &ALGORITHMS)
}

/// Whom a token is of at `now`, by these keys.
fn holder_at(token: &str, keys: &[Value], now: i64) -> Option<String> {
    install();
    let (keys, header) = (key_set(keys).ok()?, header(token)?);
    let candidates = keys.candidates(header.kid.as_deref(), header.alg);
    let now = Timestamp::from_second(now).unwrap();
    let signed = |key| Claims::signed(token, key, "https://login.example", "keymeter");
    let claims = candidates.iter().find_map(signed)?;
    claims.validity().filter(|validity| validity.holds(now))?;
    claims.text("sub").map(str::to_owned)
}

fn holder(token: &str, keys: &[Value]) -> Option<String> {
    holder_at(token, keys, NOW)
}

#[test]
fn a_token_of_each_algorithm_is_its_holders() {
    let keys = [Signer::rsa("r"), Signer::ec("c"), Signer::ed("d")];
    let set: Vec<_> = keys.iter().map(Signer::jwk).collect();
    for key in &keys {
        let token = key.token(&claims(&json!({})));
        assert_eq!(holder(&token, &set).as_deref(), Some("ada"), "{}", key.algorithm());
        let others: Vec<_> = set.iter().filter(|jwk| jwk["kid"] != *key.id).cloned().collect();
        assert_eq!(holder(&token, &others), None, "another's key");
    }
    let pss = keys[0].token_with(&json!({"alg": "PS256", "kid": "r"}), &claims(&json!({})));
    assert_eq!(holder(&pss, &set).as_deref(), Some("ada"));
    let nameless = keys[1].token_with(&json!({"alg": "ES256"}), &claims(&json!({})));
    assert_eq!(holder(&nameless, &set).as_deref(), Some("ada"), "without a key's id all are tried");
}

#[test]
fn what_a_token_says_must_hold() {
    let key = Signer::ec("c");
    for (others, expected) in [
        (json!({"aud": ["other", "keymeter"]}), Some("ada")),
        (json!({"nbf": null}), Some("ada")),
        (json!({"nbf": NOW + 60}), Some("ada")),
        (json!({"nbf": NOW + 61}), None),
        (json!({"exp": NOW - 59}), Some("ada")),
        (json!({"exp": NOW - 60}), None),
        (json!({"exp": 1e15}), Some("ada")),
        (json!({"exp": 1e300}), None),
        (json!({"exp": 1_800_000_000.5}), Some("ada")),
        (json!({"exp": (NOW + 10).to_string()}), None),
        (json!({"exp": -1}), None),
        (json!({"exp": null}), None),
        (json!({"exp": [NOW + 10]}), None),
        (json!({"nbf": "soon"}), None),
        (json!({"iat": NOW + 100_000}), Some("ada")),
        (json!({"aud": null}), None),
        (json!({"aud": "other"}), None),
        (json!({"aud": []}), None),
        (json!({"aud": {"keymeter": true}}), None),
        (json!({"aud": "keymeter-admin"}), None),
        (json!({"iss": "https://login.example/"}), None),
        (json!({"iss": ["https://evil.example"]}), None),
        (json!({"sub": null}), None),
        (json!({"sub": ""}), None),
        (json!({"sub": 7}), None),
        (json!({"sub": "ada lovelace"}), Some("ada lovelace")),
    ] {
        let token = key.token(&claims(&others));
        assert_eq!(holder(&token, &[key.jwk()]).as_deref(), expected, "{others}");
    }
}

#[test]
fn nobody_makes_a_token_but_the_issuer() {
    let (key, set) = (Signer::rsa("r"), vec![Signer::rsa("r").jwk(), Signer::ec("c").jwk()]);
    let good = key.token(&claims(&json!({})));
    let [head, body, signature] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    let other = encoded(claims(&json!({"sub": "eve"})).to_string().as_bytes());
    let jwk = key.jwk().to_string();
    let n = jwk.split('"').max_by_key(|part| part.len()).unwrap().to_owned();
    let hs = json!({"alg": "HS256", "kid": "r"});
    let mut bad = vec![
        unsigned(&json!({"alg": "none"}), &claims(&json!({}))),
        unsigned(&json!({"alg": "None", "kid": "r"}), &claims(&json!({}))),
        unsigned(&json!({"alg": "RS256", "kid": "r"}), &claims(&json!({}))),
        format!("{head}.{other}.{signature}"),
        format!("{head}.{body}."),
        format!("{head}.{body}.{}", &signature[..signature.len() - 4]),
        format!("{head}.{body}.{signature}AAAA"),
        // The head says another algorithm than the key's, or one that nobody named.
        key.token_with(&json!({"alg": "ES256", "kid": "r"}), &claims(&json!({}))),
        key.token_with(&json!({"alg": "RS384", "kid": "r"}), &claims(&json!({}))),
        key.token_with(&json!({"alg": "RS256", "kid": "c"}), &claims(&json!({}))),
        // The head brings its own key, or demands what nobody here knows.
        Signer::ec("own").token_with(
            &json!({"alg": "ES256", "jwk": Signer::ec("own").jwk(), "jku": "http://127.0.0.1:1/"}),
            &claims(&json!({})),
        ),
        key.token_with(&json!({"alg": "RS256", "kid": "r", "crit": ["exp"]}), &claims(&json!({}))),
        key.token_with(&json!({"alg": "RS256", "kid": "r", "b64": false, "crit": ["b64"]}), &claims(&json!({}))),
    ];
    // The public key as the secret of HMAC, in the forms in which it is public.
    bad.extend([n.as_bytes(), jwk.as_bytes(), b""].map(|secret| with_secret(secret, &hs, &claims(&json!({})))));
    for token in &bad {
        assert_eq!(holder(token, &set), None, "{token}");
    }
    assert_eq!(holder(&good, &set).as_deref(), Some("ada"));
}

#[test]
fn keys_that_are_for_something_else_are_left_out() {
    let key = Signer::ec("c");
    let token = key.token(&claims(&json!({})));
    for (field, value, is_used) in [
        ("use", json!("enc"), false),
        ("key_ops", json!(["sign"]), false),
        ("key_ops", json!(["verify"]), true),
        ("alg", json!("ES256"), true),
        ("alg", json!("ES384"), false),
        ("alg", json!("HS256"), false),
        ("kid", json!("other"), false),
        ("crv", json!("P-384"), false),
        ("x5t", json!("anything"), true),
    ] {
        let mut jwk = key.jwk();
        jwk[field] = value.clone();
        assert_eq!(holder(&token, &[jwk]).is_some(), is_used, "{field}: {value}");
    }
    let symmetric = json!({"kty": "oct", "kid": "c", "k": encoded(b"everybody knows it")});
    let strange = [json!({"kty": "AKP", "kid": "q"}), json!("no key"), json!({}), symmetric.clone(), key.jwk()];
    assert_eq!(holder(&token, &strange).as_deref(), Some("ada"), "others do no harm");
    for none in [vec![], vec![symmetric], vec![json!({"kty": "EC", "crv": "P-256"})]] {
        assert!(key_set(&none).unwrap_err().contains("no key"), "{none:?}");
    }
    assert!(KeySet::parse(b"<html>", &ALGORITHMS).unwrap_err().starts_with("its answer is no key set: "));
}

#[test]
fn a_token_says_when_it_was_made() {
    let key = Signer::ec("c");
    let made = |iat: Value| {
        install();
        let keys = key_set(&[key.jwk()]).unwrap();
        let token = key.token(&claims(&json!({"iat": iat})));
        let claims = Claims::signed(
            &token,
            &keys.candidates(None, by_name(JwtAlgorithm::Es256))[0],
            "https://login.example",
            "keymeter",
        );
        claims.unwrap().is_made_by(Timestamp::from_second(NOW).unwrap())
    };
    for (iat, is_made) in [
        (json!(NOW), true),
        (json!(NOW + 60), true),
        (json!(NOW + 61), false),
        (json!(0), true),
        (json!("now"), false),
        (Value::Null, false),
    ] {
        assert_eq!(made(iat.clone()), is_made, "{iat}");
    }
}
