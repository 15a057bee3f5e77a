use keymeter_config::{JwtAlgorithm, keys::JwtIssuer};
use keymeter_core::clock::MonotonicTime;
use proptest::prelude::*;
use serde_json::{Value, json};

use self::signer::{Signer, encoded, unsigned, with_secret};
use super::{
    key_set::KeySet,
    token::{Claims, header, stated_issuer},
    *,
};

#[path = "../../../tests/support/signer.rs"]
#[allow(dead_code, clippy::pedantic, reason = "it is a tool of other tests, too")]
mod signer;

const NOW: i64 = 1_800_000_000;

fn terms() -> JwtIssuer {
    JwtIssuer {
        issuer: "https://login.example".into(),
        audience: "keymeter".into(),
        jwks: "http://127.0.0.1:1/jwks.json".into(),
        claim: "sub".into(),
        algorithms: vec![JwtAlgorithm::Rs256, JwtAlgorithm::Es256, JwtAlgorithm::EdDsa, JwtAlgorithm::Ps256],
        ca: None,
    }
}

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
    KeySet::parse(json!({"keys": keys}).to_string().as_bytes(), &terms().algorithms)
}

/// Whom a token is of at `now`, by these keys.
fn holder_at(token: &str, keys: &[Value], now: i64) -> Option<String> {
    provider::install();
    let (keys, header) = (key_set(keys).ok()?, header(token)?);
    let candidates = keys.candidates(header.kid.as_deref(), header.alg);
    let now = Timestamp::from_second(now).unwrap();
    candidates.iter().find_map(|key| Claims::checked(token, key, &terms(), now)).map(|claims| claims.holder)
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
    assert!(KeySet::parse(b"<html>", &terms().algorithms).unwrap_err().starts_with("its answer is no key set: "));
}

#[test]
fn an_issuer_is_read_of_what_may_be_a_token_only() {
    let token = |body: &str| format!("e30.{}.c2ln", encoded(body.as_bytes()));
    for (text, expected) in [
        (token(r#"{"iss":"https://a"}"#), Some("https://a")),
        (token(r#"{"iss":7}"#), None),
        (token(r#"{"iss":"a","iss":"b"}"#), None),
        (token("{}"), None),
        (token("[]"), None),
        ("a.b".to_owned(), None),
        ("a.b.c.d".to_owned(), None),
        (format!("{}{}", token(r#"{"iss":"https://a"}"#), "A".repeat(8192)), None),
    ] {
        assert_eq!(stated_issuer(&text).as_deref(), expected, "{text}");
    }
}

/// Issuers of which one shows these keys, as if it had been asked.
fn issuers(keys: &[Value]) -> Issuers {
    let issuers = Issuers::none(Arc::new(Metrics::new(1).unwrap()));
    issuers.replace(issuers.prepare(&[terms()]).unwrap());
    issuers.taken.load()[0].show(key_set(keys).unwrap());
    issuers
}

fn at(seconds: i64) -> Now {
    Now { moment: MonotonicTime::from_nanos(1), date: Timestamp::from_second(seconds).unwrap() }
}

async fn check(issuers: &Issuers, token: &str, now: Now) -> Result<KeyHash, TokenError> {
    let issuer = issuers.issuer_of(token).unwrap();
    issuers.check(issuer, token, KeyHash::digest(token.as_bytes()), now).await
}

#[tokio::test]
async fn a_token_that_was_checked_is_known_until_it_expires() {
    let key = Signer::ed("d");
    let issuers = issuers(&[key.jwk()]);
    let token = key.token(&claims(&json!({})));
    let hash = KeyHash::digest(token.as_bytes());
    let known = |seconds| issuers.known_holder(&hash, Timestamp::from_second(NOW + seconds).unwrap());
    assert_eq!(known(0), None);
    let holder = check(&issuers, &token, at(NOW)).await.unwrap();
    assert_eq!(holder, KeyHash::digest(b"jwt https://login.example ada"));
    assert_eq!((known(3659), known(3660)), (Some(holder), None));
    assert_eq!(check(&issuers, &token, at(NOW + 3660)).await, Err(TokenError::Invalid));
    check(&issuers, &token, at(NOW)).await.unwrap();
    assert_eq!(issuers.remembered(), 1);
    issuers.evict_expired(Timestamp::from_second(NOW + 3660).unwrap());
    assert_eq!(issuers.remembered(), 0);
}

#[tokio::test]
async fn a_key_that_is_withdrawn_takes_its_tokens_with_it() {
    let (old, new) = (Signer::ed("old"), Signer::ed("new"));
    let issuers = issuers(&[old.jwk()]);
    let token = old.token(&claims(&json!({})));
    let hash = KeyHash::digest(token.as_bytes());
    check(&issuers, &token, at(NOW)).await.unwrap();
    let issuer = issuers.taken.load()[0].clone();
    issuer.show(key_set(&[old.jwk(), new.jwk()]).unwrap());
    assert!(issuers.known_holder(&hash, at(NOW).date).is_some(), "one more takes nothing away");
    issuer.show(key_set(&[new.jwk()]).unwrap());
    assert_eq!(issuers.known_holder(&hash, at(NOW).date), None);
}

#[tokio::test]
async fn an_issuer_that_is_taken_out_takes_its_tokens_with_it() {
    let key = Signer::ed("d");
    let issuers = issuers(&[key.jwk()]);
    let token = key.token(&claims(&json!({})));
    let hash = KeyHash::digest(token.as_bytes());
    check(&issuers, &token, at(NOW)).await.unwrap();
    issuers.replace(issuers.prepare(&[terms()]).unwrap());
    assert!(issuers.known_holder(&hash, at(NOW).date).is_some(), "nothing has changed");
    let running = issuers.issuer_of(&token).unwrap();
    let other = JwtIssuer { audience: "another".into(), ..terms() };
    issuers.replace(issuers.prepare(&[other]).unwrap());
    assert_eq!(issuers.known_holder(&hash, at(NOW).date), None);
    // A request that began before is not held up, and leaves nothing behind.
    assert!(issuers.check(running, &token, hash, at(NOW)).await.is_ok());
    assert_eq!(issuers.known_holder(&hash, at(NOW).date), None);
    issuers.replace(issuers.prepare(&[]).unwrap());
    assert!(issuers.are_none() && issuers.issuer_of(&token).is_none());
}

#[tokio::test]
async fn ten_thousand_tokens_take_bounded_memory_and_ask_nobody() {
    let key = Signer::ed("d");
    let issuers = issuers(&[key.jwk()]);
    for number in 0..10_000 {
        let token = key.token(&claims(&json!({"jti": number})));
        check(&issuers, &token, at(NOW)).await.unwrap();
    }
    assert_eq!(issuers.remembered(), 10_000);
    // Nobody is at its address: a question would have failed.
    let forged = Signer::ed("d");
    for number in 0..100 {
        let token = forged.token(&claims(&json!({"jti": number})));
        assert_eq!(check(&issuers, &token, at(NOW)).await, Err(TokenError::Invalid));
    }
    assert!(size_of::<Checked>() <= 64, "{}", size_of::<Checked>());
}

#[tokio::test]
async fn nothing_is_fetched_for_a_token_that_no_key_could_make_valid() {
    let key = Signer::ed("new");
    let issuers = issuers(&[Signer::ed("old").jwk()]);
    for claims in [claims(&json!({"exp": NOW - 100})), claims(&json!({"sub": null}))] {
        assert_eq!(check(&issuers, &key.token(&claims), at(NOW)).await, Err(TokenError::Invalid));
    }
    let unnamed = key.token_with(&json!({"alg": "RS512", "kid": "new"}), &claims(&json!({})));
    assert_eq!(check(&issuers, &unnamed, at(NOW)).await, Err(TokenError::Invalid));
    // Nobody is at its address: for one that might be valid it is asked, in vain.
    let valid = key.token(&claims(&json!({})));
    assert_eq!(check(&issuers, &valid, at(NOW)).await, Err(TokenError::Unavailable));
}

proptest! {
    /// However a good token is changed, it is nobody's or the same holder's.
    #[test]
    fn a_token_that_was_changed_is_no_others(place in any::<prop::sample::Index>(), byte in 0x21_u8..0x7f, cut in 0_usize..4) {
        let (key, set) = (Signer::rsa("r"), [Signer::rsa("r").jwk()]);
        let mut token = key.token(&claims(&json!({}))).into_bytes();
        let place = place.index(token.len());
        token[place] = byte;
        token.truncate(token.len() - cut);
        let found = holder(&String::from_utf8(token).unwrap(), &set);
        prop_assert!(found.is_none_or(|found| found == "ada"));
    }

    #[test]
    fn any_text_is_no_token_or_names_its_issuer(text in "[!-~]{0,40}(\\.[!-~]{0,80}){0,3}") {
        prop_assert!(stated_issuer(&text).is_none() || has_three_parts(&text));
    }
}
