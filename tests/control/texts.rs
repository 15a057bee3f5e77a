//! Texts that no store, or not each, takes: told to whoever sent them, with their place, and never a fault of the store.

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::{Value, json};

use super::{
    money::{record, used},
    over_both,
};
use crate::support::{
    control::{Answer, GATEWAYS, OPERATOR, Plane},
    scene::escaped,
    soak::scaled,
};

over_both! {
    all_records_at_fault_are_named_and_the_others_are_taken_at_once_after
    a_record_that_the_store_refuses_is_named
    whatever_a_record_says_the_store_is_not_at_fault
    whatever_a_call_says_the_store_is_not_at_fault
}

async fn hand_in(plane: &Plane, records: &[Value]) -> Answer {
    let batch = json!({"gateway": "0123456789abcdef", "records": records});
    plane.call(GATEWAYS, "POST", "/v1/usage/records", batch).await
}

async fn all_records_at_fault_are_named_and_the_others_are_taken_at_once_after(plane: &Plane) {
    plane.user("ada").await;
    plane.credit("ada", "10", "first").await;
    let mut records: Vec<_> = (0..6).map(|number| record(&format!("r{number}"), "key_a", "ada", "1")).collect();
    records[1]["model"] = "m1\0x".into();
    records[3]["owner"] = "a\u{85}b".into();
    records[4]["id"] = "no id".into();
    let answer = hand_in(plane, &records).await;
    let body = answer.json();
    assert_eq!(answer.refused(422, "invalid_record"), "records[1]");
    let refused: Vec<_> = body["refused"].as_array().unwrap().iter().map(|one| (&one["index"], &one["id"])).collect();
    assert_eq!(refused, [(&json!(1), &json!("r1")), (&json!(3), &json!("r3")), (&json!(4), &json!("no id"))]);
    assert!(body["refused"][0]["message"].as_str().unwrap().starts_with("model: "), "{body}");
    let others: Vec<_> = [0, 2, 5].map(|index: usize| records[index].clone()).into();
    used(plane, &others).await;
    used(plane, &others).await;
    assert_eq!(plane.balance("ada").await, "7");
    assert_eq!(plane.store().unbalanced_wallets().await.unwrap(), Vec::<String>::new());
}

/// What nobody foresaw: here a rule of the database itself.
async fn a_record_that_the_store_refuses_is_named(plane: &Plane) {
    plane.user("ada").await;
    plane.credit("ada", "10", "first").await;
    let of_sqlite = ["CREATE TRIGGER t BEFORE INSERT ON usage_records WHEN NEW.status = 299 \
                      BEGIN SELECT RAISE(ABORT, 'no such status'); END"];
    let of_postgres = [
        "CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN RAISE EXCEPTION 'no such status' USING ERRCODE = '22023'; END $$",
        "CREATE TRIGGER t BEFORE INSERT ON usage_records FOR EACH ROW WHEN (NEW.status = 299) EXECUTE FUNCTION t()",
    ];
    let is_sqlite = plane.store().engine() == keymeter_control::store::Engine::Sqlite;
    let rules = if is_sqlite { &of_sqlite[..] } else { &of_postgres[..] };
    let mut tx = plane.store().begin().await.unwrap();
    for rule in rules {
        sqlx::query(rule).execute(&mut *tx).await.unwrap();
    }
    plane.store().commit(tx).await.unwrap();
    let mut records: Vec<_> = (0..5).map(|number| record(&format!("r{number}"), "key_a", "ada", "1")).collect();
    records[2]["status"] = 299.into();
    records[4]["status"] = 299.into();
    let answer = hand_in(plane, &records).await;
    let body = answer.json();
    assert_eq!(answer.refused(422, "invalid_record"), "records[2]");
    let refused: Vec<_> = body["refused"].as_array().unwrap().iter().map(|one| one["id"].clone()).collect();
    assert_eq!(refused, ["r2", "r4"]);
    assert_eq!(plane.balance("ada").await, "10", "nothing is taken");
    used(plane, &[0, 1, 3].map(|index: usize| records[index].clone())).await;
    assert_eq!(plane.balance("ada").await, "7");
    assert_eq!(plane.store().unbalanced_wallets().await.unwrap(), Vec::<String>::new());
}

/// Texts as strangers write them: any, and those that are known to make trouble.
struct Texts(TestRunner);

impl Texts {
    fn new() -> Self {
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
        Self(TestRunner::new_with_rng(Config::default(), rng))
    }

    fn next(&mut self) -> String {
        let odd = prop::sample::select(vec![
            "\0",
            "m1\0x",
            "\u{1b}[2J",
            "\u{85}",
            "\u{feff}",
            "\u{ffff}",
            "\u{10ffff}",
            "'; --",
            "\u{202e}",
            "",
            " ",
        ]);
        let text = prop_oneof![any::<String>(), odd.prop_map(str::to_owned), "[a-z]{1,9}", "\\PC{1,300}"];
        text.new_tree(&mut self.0).unwrap().current()
    }
}

fn rounds() -> usize {
    scaled(12, 300)
}

async fn whatever_a_record_says_the_store_is_not_at_fault(plane: &Plane) {
    plane.user("ada").await;
    let mut texts = Texts::new();
    for round in 0..rounds() {
        for field in [
            "id",
            "gateway",
            "time",
            "key_id",
            "key_name",
            "owner",
            "team",
            "wallet",
            "model",
            "cost_usd",
            "usage_source",
        ] {
            let text = texts.next();
            let mut odd = record(&format!("odd{round}{field}").replace('_', "-"), "key_a", "ada", "0");
            odd[field] = text.clone().into();
            let good = record(&format!("good{round}{field}").replace('_', "-"), "key_a", "ada", "0");
            let answer = hand_in(plane, &[good.clone(), odd]).await;
            if answer.status == 200 {
                assert!(!text.contains('\0'), "{field}: {text:?}");
            } else {
                assert_eq!(answer.refused(422, "invalid_record"), "records[1]", "{field}: {text:?}");
                used(plane, &[good]).await;
            }
        }
        for batch in [
            json!({"gateway": texts.next(), "records": []}),
            json!({"gateway": "0123456789abcdef", "wallets": [{"id": texts.next(), "version": 0, "wanted_usd": "1",
                "granted_usd": "0"}]}),
            json!({"gateway": "0123456789abcdef", texts.next(): []}),
        ] {
            let answer = plane.call(GATEWAYS, "POST", "/v1/usage/records", batch.clone()).await;
            told(&answer, &batch.to_string());
        }
    }
    assert!(plane.store().sums_are_right("2026-06-01T00:00:00Z".parse().unwrap()).await.unwrap());
}

/// A call was done, or its sender is told what is wrong with it. Text that holds U+0000 never does anything.
fn told(answer: &Answer, sent: &str) {
    let status = answer.status.as_u16();
    assert!((200..500).contains(&status), "{sent}: {} {}", answer.status, answer.text);
    if sent.contains("\\u0000") || sent.contains("%00") {
        assert!(status == 400 || status == 422, "{sent}: {} {}", answer.status, answer.text);
        assert!(answer.json()["error"]["param"].is_string(), "{sent}: {}", answer.text);
    }
}

async fn whatever_a_call_says_the_store_is_not_at_fault(plane: &Plane) {
    plane.user("ada").await;
    plane.team("research", "ada").await;
    plane.credit("research", "10", "first").await;
    let (key, _) = plane.key(OPERATOR, json!({"name": "Some key"})).await;
    let mut texts = Texts::new();
    for _ in 0..rounds() {
        let bodies = [
            ("POST", "/api/v1/keys".to_owned(), json!({"name": texts.next()})),
            ("POST", "/api/v1/keys".to_owned(), json!({"name": "Some key", "team": texts.next()})),
            ("POST", "/api/v1/keys".to_owned(), json!({"name": "Some key", "owner": texts.next()})),
            ("POST", "/api/v1/keys".to_owned(), json!({"name": "Some key", "models": ["m", texts.next()]})),
            (
                "POST",
                "/api/v1/keys".to_owned(),
                json!({"name": "Some key", "limits": {"tokens_per_minute": texts.next()}}),
            ),
            ("POST", "/api/v1/keys".to_owned(), json!({"name": "Some key", "expires_at": texts.next()})),
            ("POST", "/api/v1/keys".to_owned(), json!({"name": "Some key", texts.next(): 1})),
            ("PATCH", format!("/api/v1/keys/{key}"), json!({"name": texts.next()})),
            ("PATCH", format!("/api/v1/keys/{key}"), json!({"models": [texts.next()]})),
            ("POST", format!("/api/v1/keys/{key}/regenerate"), json!({"grace": texts.next()})),
            ("POST", "/api/v1/users".to_owned(), json!({"id": texts.next(), "name": "Somebody"})),
            ("POST", "/api/v1/users".to_owned(), json!({"id": "eve", "name": texts.next()})),
            ("POST", "/api/v1/teams".to_owned(), json!({"id": texts.next(), "name": "Some team", "owner": "ada"})),
            ("POST", "/api/v1/teams".to_owned(), json!({"id": "t", "name": texts.next(), "owner": "ada"})),
            ("POST", "/api/v1/teams".to_owned(), json!({"id": "t", "name": "Some team", "owner": texts.next()})),
            ("PUT", "/api/v1/teams/research/members/ada".to_owned(), json!({"role": texts.next()})),
            ("POST", "/api/v1/wallets/ada/credits".to_owned(), json!({"usd": "1", "idempotency_key": texts.next()})),
            ("POST", "/api/v1/wallets/ada/credits".to_owned(), json!({"usd": texts.next(), "idempotency_key": "k"})),
        ];
        for (method, path, body) in bodies {
            told(&plane.operate(method, &path, body.clone()).await, &format!("{method} {path} {body}"));
        }
        let mut text = || escaped(&texts.next());
        for (method, path, body) in [
            ("GET", format!("/api/v1/keys/x{}", text()), Value::Null),
            ("PATCH", format!("/api/v1/keys/x{}", text()), json!({})),
            ("DELETE", format!("/api/v1/keys/x{}", text()), Value::Null),
            ("POST", format!("/api/v1/keys/x{}/regenerate", text()), json!({})),
            ("GET", format!("/api/v1/keys?team={}", text()), Value::Null),
            ("GET", format!("/api/v1/keys?owner={}", text()), Value::Null),
            ("GET", format!("/api/v1/keys?cursor={}", text()), Value::Null),
            ("GET", format!("/api/v1/users?cursor={}", text()), Value::Null),
            ("DELETE", format!("/api/v1/users/x{}", text()), Value::Null),
            ("GET", format!("/api/v1/teams/x{}", text()), Value::Null),
            ("PUT", format!("/api/v1/teams/x{}/members/ada", text()), json!({"role": "member"})),
            ("PUT", format!("/api/v1/teams/research/members/x{}", text()), json!({"role": "member"})),
            ("DELETE", format!("/api/v1/teams/research/members/x{}", text()), Value::Null),
            ("GET", format!("/api/v1/wallets/x{}", text()), Value::Null),
            ("POST", format!("/api/v1/wallets/x{}/credits", text()), json!({"usd": "1", "idempotency_key": "k"})),
            ("GET", format!("/api/v1/usage?key={}", text()), Value::Null),
            ("GET", format!("/api/v1/usage?team={}&group_by=key", text()), Value::Null),
            ("GET", format!("/api/v1/usage?{}=1", text()), Value::Null),
            ("GET", format!("/api/v1/audit?cursor={}", text()), Value::Null),
        ] {
            told(&plane.operate(method, &path, body).await, &format!("{method} {path}"));
        }
        let path = format!("/v1/keys/x{}", text());
        told(&plane.get(GATEWAYS, &path).await, &path);
    }
    for bytes in ["%ff", "%c3%28"] {
        let answer = plane.get(OPERATOR, &format!("/api/v1/keys/{bytes}")).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
    }
    let made = [("idempotency-key", "a\tb")];
    plane
        .call_with(OPERATOR, "POST", "/api/v1/keys", json!({"name": "Some key"}), &made)
        .await
        .refused(400, "invalid_value");
}
