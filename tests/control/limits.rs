//! What one user may change in an hour, and how much of the database's work they may ask for.

use keymeter_core::key::Secret;
use serde_json::{Value, json};

use super::{over_both, page::Browser};
use crate::support::control::{OPERATOR, Plane};

over_both! {
    so_much_usage_is_added_up_and_no_more
    an_idempotent_replay_is_answered_to_who_may_see_the_key
}

const FEW: &str = "changes_per_hour: 5";

#[tokio::test(flavor = "multi_thread")]
async fn a_user_changes_so_much_an_hour_over_sqlite() {
    changes_are_counted(&Plane::with(FEW).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_changes_so_much_an_hour_over_postgres() {
    changes_are_counted(&Plane::postgres_with(FEW).await).await;
}

async fn changes_are_counted(plane: &Plane) {
    let (ada, bob, other) = (plane.user("ada").await, plane.user("bob").await, plane.beside().await);
    for user in ["ada", "bob"] {
        plane.credit(user, "1", "first").await;
    }
    let (id, _) = plane.key(&ada, json!({"name": "Some key"})).await;
    let path = format!("/api/v1/keys/{id}");
    let mut browser = Browser::signed_in(plane, &ada).await;
    let token = browser.get("/").await.hidden("form_token");
    let rename = |on: &'static str| plane.call(&ada, "PATCH", &path, json!({"name": on}));

    rename("Another name").await.with(200);
    rename("Another name").await.with(200);
    rename("").await.refused(400, "invalid_value");
    plane.call(&ada, "DELETE", "/api/v1/keys/key_none", Value::Null).await.refused(404, "not_found");
    let told = plane.store().last_change().await.unwrap();
    let at_once = (0..10).map(|number| {
        let instance = if number % 2 == 0 { plane } else { &other };
        instance.call(&ada, "PATCH", &path, json!({"name": format!("Name {number}")}))
    });
    let answers = futures_util::future::join_all(at_once).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1, "four were before");
    for refused in answers.into_iter().filter(|answer| answer.status != 200) {
        let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((3500..=3600).contains(&wait), "{wait}");
        refused.refused(429, "rate_limit_exceeded");
    }
    let own = json!({"id": "adas", "name": "Ada's team", "owner": "ada"});
    for (method, path, body) in [
        ("DELETE", path.as_str(), Value::Null),
        ("POST", "/api/v1/teams", own),
        ("PUT", "/api/v1/teams/adas/members/bob", json!({"role": "member"})),
        ("DELETE", "/api/v1/teams/adas/members/ada", Value::Null),
    ] {
        other.call(&ada, method, path, body).await.refused(429, "rate_limit_exceeded");
    }
    let form = [("form_token", token.as_str()), ("enabled", "false")];
    let refused = browser.send(&format!("/keys/{id}/enabled"), &form).await.with(429);
    assert!(refused.headers.contains_key("retry-after"));

    // Of all this the audit has what was done, and gateways are told of it alone.
    assert_eq!(plane.store().last_change().await.unwrap(), told + 1);
    let audit = plane.get(OPERATOR, "/api/v1/audit").await.with(200);
    let entries = audit["data"].as_array().unwrap();
    assert_eq!(entries.iter().filter(|entry| entry["action"] == "key.update").count(), 2);

    // What is no change, or counted otherwise, or somebody else's, goes on.
    plane.get(&ada, &path).await.with(200);
    plane.call(&ada, "POST", &format!("{path}/regenerate"), Value::Null).await.with(200);
    plane.key(&ada, json!({"name": "Another key"})).await;
    let form = [("form_token", token.as_str()), ("once", "1"), ("name", "Third key")];
    browser.send("/keys/new", &form).await.with(201);
    browser.send("/sign-out", &form).await.leads_to("/sign-in");
    plane
        .call(&bob, "POST", "/api/v1/teams", json!({"id": "bobs", "name": "Bob's team", "owner": "bob"}))
        .await
        .with(201);
    for number in 0..10 {
        plane.operate("PATCH", &path, json!({"name": format!("Number {number}")})).await.with(200);
    }
}

/// Sums of days, one a key, as if a user had used so many.
const SUMS: &str = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < COUNT) \
    INSERT INTO usage_days SELECT DAY + i / 12000 * 86400000000, 'key_' || i, 'OWNER', '', 'm', 'Key', \
    1, 7, 1, 0, 5, 0, 1000, DAY + 1 FROM n";

async fn so_much_usage_is_added_up_and_no_more(plane: &Plane) {
    let (ada, eve) = (plane.user("ada").await, plane.user("eve").await);
    let day = "2026-06-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap().as_microsecond();
    let mut tx = plane.store().begin().await.unwrap();
    for (owner, count) in [("ada", 200_001), ("eve", 12_000)] {
        let sql = SUMS.replace("COUNT", &count.to_string()).replace("OWNER", owner);
        let sql = sql.replace("'key_'", &format!("'key_{owner}_'")).replace("DAY", &day.to_string());
        sqlx::query(&sql).execute(&mut *tx).await.unwrap();
    }
    plane.store().commit(tx).await.unwrap();
    let ask = |token: &str, query: &str| {
        let (token, path) = (token.to_owned(), format!("/api/v1/usage{query}"));
        async move { plane.get(&token, &path).await }
    };
    let requests = |answer: &Value| answer["rows"][0]["requests"].as_u64();
    let much = ask(&ada, "").await;
    assert!(much.text.contains("ask for a shorter time"), "{}", much.text);
    assert_eq!(much.refused(400, "invalid_value"), "from");
    assert_eq!(requests(&ask(&ada, "?from=2026-06-02T00:00:00Z").await.with(200)), Some(188_001));
    assert_eq!(requests(&ask(&ada, "?key=key_ada_200000&group_by=day").await.with(200)), Some(1));
    assert_eq!(ask(&ada, "?key=key_eve_1").await.with(200)["rows"], json!([]));
    assert_eq!(ask(&ada, "?team=evil").await.with(200)["rows"], json!([]));
    assert_eq!(requests(&ask(&eve, "").await.with(200)), Some(12_000), "others' is not in the way");
    for format in ["json", "csv", "jsonl"] {
        ask(&eve, &format!("?group_by=key&format={format}")).await.refused(400, "invalid_value");
    }
    assert_eq!(requests(&ask(OPERATOR, "").await.with(200)), Some(212_001));
}

async fn an_idempotent_replay_is_answered_to_who_may_see_the_key(plane: &Plane) {
    let (ada, bob) = (plane.user("ada").await, plane.user("bob").await);
    plane.team("research", "ada").await;
    plane.credit("research", "1", "first").await;
    let member = "/api/v1/teams/research/members/bob";
    plane.operate("PUT", member, json!({"role": "admin"})).await.with(200);
    let attempt = || {
        let (body, once) = (json!({"name": "Team's key", "team": "research"}), [("idempotency-key", "one")]);
        let bob = &bob;
        async move { plane.call_with(bob, "POST", "/api/v1/keys", body, &once).await }
    };
    let made = attempt().await.with(201);
    assert_eq!(attempt().await.with(200)["id"], made["id"]);
    plane.call(&ada, "DELETE", member, Value::Null).await.with(204);
    attempt().await.refused(404, "not_found");
    plane.operate("PUT", member, json!({"role": "member"})).await.with(200);
    assert_eq!(attempt().await.with(200)["id"], made["id"]);
    let secret = Secret::new(made["secret"].as_str().unwrap());
    assert!(!attempt().await.text.contains(secret.reveal()));
}
