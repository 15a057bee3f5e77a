use keymeter_config::{JwtAlgorithm, keys::JwtIssuer};
use keymeter_core::clock::MonotonicTime;
use keymeter_issuer::{KeySet, header};
use proptest::prelude::*;
use serde_json::{Value, json};

use self::signer::{Signer, encoded};
use super::{
    token::{TokenHolder, stated_issuer},
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

/// Whom a token is of, by these keys.
fn holder(token: &str, keys: &[Value]) -> Option<String> {
    keymeter_issuer::install();
    let (keys, header) = (key_set(keys).ok()?, header(token)?);
    let candidates = keys.candidates(header.kid.as_deref(), header.alg);
    let now = Timestamp::from_second(NOW).unwrap();
    candidates.iter().find_map(|key| TokenHolder::checked(token, key, &terms(), now)).map(|token| token.holder)
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
