//! The life of a key.

use serde_json::{Value, json};

use super::over_both;
use crate::support::control::{GATEWAYS, OPERATOR, Plane};

over_both! {
    a_key_lives_from_its_making_to_its_deletion
    a_key_is_made_once_under_one_idempotency_key
    a_key_may_be_of_a_secret_that_was_made_elsewhere
    a_faulty_field_is_named
    a_user_makes_fifteen_secrets_an_hour
    lists_have_pages
    a_record_is_asked_for_by_its_tag
}

async fn a_key_may_be_of_a_secret_that_was_made_elsewhere(plane: &Plane) {
    let hash = keymeter_core::key::Secret::new("sk-old").hash().to_string();
    let asked = json!({"name": "Old key", "hash": hash});
    let made = plane.operate("POST", "/api/v1/keys", asked.clone()).await.with(201);
    assert!(made.get("secret").is_none() && !made.to_string().contains(&hash[7..]), "{made}");
    assert_eq!(plane.look_up("sk-old").await.with(200)["id"], made["id"]);
    plane.operate("POST", "/api/v1/keys", asked.clone()).await.refused(409, "conflict");
    let faulty = json!({"name": "Old key", "hash": "sha256:00"});
    assert_eq!(plane.operate("POST", "/api/v1/keys", faulty).await.refused(400, "invalid_value"), "hash");
    let ada = plane.user("ada").await;
    plane.credit("ada", "1", "a").await;
    let other = json!({"name": "Old key", "hash": keymeter_core::key::Secret::new("sk-b").hash().to_string()});
    plane.call(&ada, "POST", "/api/v1/keys", other).await.refused(403, "forbidden");
    // A new secret takes the old one's place.
    let path = format!("/api/v1/keys/{}/regenerate", made["id"].as_str().unwrap());
    let regenerated = plane.operate("POST", &path, json!({})).await.with(200);
    assert_eq!(plane.look_up(regenerated["secret"].as_str().unwrap()).await.with(200)["id"], made["id"]);
    plane.look_up("sk-old").await.with(404);
}

async fn a_key_lives_from_its_making_to_its_deletion(plane: &Plane) {
    let made = plane.operate("POST", "/api/v1/keys", json!({"name": "Production", "models": ["m*"]})).await.with(201);
    let (id, secret) = (made["id"].as_str().unwrap(), made["secret"].as_str().unwrap());
    assert!(keymeter_core::key::is_well_formed(secret));
    assert_eq!(
        (&made["state"], &made["name"], &made["created_by"]),
        (&json!("active"), &json!("Production"), &json!("operator"))
    );
    let path = format!("/api/v1/keys/{id}");
    let shown = plane.get(OPERATOR, &path).await;
    assert!(!shown.text.contains(secret), "a secret is shown once");
    assert_eq!(shown.with(200)["masked"], format!("{}…{}", &secret[..8], &secret[47..]));
    let record = plane.look_up(secret).await.with(200);
    assert_eq!((&record["id"], &record["models"], &record["state"]), (&json!(id), &json!(["m*"]), &json!("active")));

    let changed = json!({"name": "Another name", "enabled": false, "models": null,
        "limits": {"requests_per_minute": 5, "tokens_per_minute": "unlimited"}, "expires_at": "2030-01-01T00:00:00Z"});
    let changed = plane.operate("PATCH", &path, changed).await.with(200);
    assert_eq!((&changed["state"], &changed["models"]), (&json!("disabled"), &Value::Null));
    let record = plane.look_up(secret).await.with(200);
    assert_eq!(record["limits"], json!({"requests_per_minute": 5, "tokens_per_minute": "unlimited"}));
    assert_eq!((&record["state"], &record["expires_at"]), (&json!("disabled"), &json!("2030-01-01T00:00:00Z")));
    let changed = plane.operate("PATCH", &path, json!({"enabled": true, "expires_at": null})).await.with(200);
    assert_eq!(
        (&changed["state"], &changed["expires_at"], &changed["name"]),
        (&json!("active"), &Value::Null, &json!("Another name"))
    );

    let regenerate = format!("{path}/regenerate");
    let second = plane.operate("POST", &regenerate, json!({"grace": "10m"})).await.with(200);
    let second = second["secret"].as_str().unwrap().to_owned();
    let record = plane.look_up(&second).await.with(200);
    assert_eq!(record["id"], id);
    assert_eq!(plane.look_up(secret).await.with(200), record, "the old one works for a while");
    let third = plane.operate("POST", &regenerate, Value::Null).await.with(200)["secret"].clone();
    let third = third.as_str().unwrap();
    for old in [secret, &second] {
        plane.look_up(old).await.refused(404, "not_found");
    }
    assert_eq!(plane.state(third).await, "active");

    assert!(plane.operate("DELETE", &path, Value::Null).await.with(204).is_null());
    plane.look_up(third).await.refused(404, "not_found");
    plane.operate("PATCH", &path, json!({"enabled": true})).await.refused(404, "not_found");
    plane.operate("DELETE", &path, Value::Null).await.refused(404, "not_found");
    assert_eq!(plane.get(OPERATOR, &path).await.with(200)["state"], "deleted");
    assert_eq!(plane.get(OPERATOR, "/api/v1/keys").await.with(200)["data"], json!([]));
    assert_eq!(plane.get(OPERATOR, "/api/v1/keys?deleted=true").await.with(200)["data"][0]["id"], id);

    let audit = plane.get(OPERATOR, "/api/v1/audit").await;
    for secret in [secret, &second, third] {
        assert!(!audit.text.contains(secret) && !audit.text.contains(&secret[10..40]));
    }
    let audit = audit.with(200);
    let actions: Vec<_> =
        audit["data"].as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    let expected = ["key.delete", "key.regenerate", "key.regenerate", "key.update", "key.update", "key.create"];
    assert_eq!(actions, expected);
    assert_eq!(audit["data"][5]["address"], "127.0.0.1");
}

async fn a_key_is_made_once_under_one_idempotency_key(plane: &Plane) {
    let make = |name: &str, key: &'static str| {
        let body = json!({"name": name});
        async move { plane.call_with(OPERATOR, "POST", "/api/v1/keys", body, &[("idempotency-key", key)]).await }
    };
    let first = make("Some key", "one").await.with(201);
    let again = make("Some key", "one").await.with(200);
    assert_eq!(again["id"], first["id"]);
    assert!(again.get("secret").is_none() && first["secret"].is_string());
    make("Other key", "one").await.refused(409, "conflict");
    assert_ne!(make("Some key", "two").await.with(201)["id"], first["id"]);
    let calls: Vec<_> = (0..20).map(|_| make("At once", "three")).collect();
    let answers = futures_util::future::join_all(calls).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    assert!(answers.iter().all(|answer| matches!(answer.status.as_u16(), 200 | 201 | 409)), "{answers:?}");
    let listed = plane.get(OPERATOR, "/api/v1/keys").await.with(200);
    assert_eq!(listed["data"].as_array().unwrap().len(), 3);
}

async fn a_faulty_field_is_named(plane: &Plane) {
    for (body, field) in [
        (json!({"name": "ab"}), "name"),
        (json!({}), "name"),
        (json!({"name": 5}), "name"),
        (json!({"name": "Some key", "colour": "red"}), "colour"),
        (json!({"name": "Some key", "models": [""]}), "models"),
        (json!({"name": "Some key", "limits": {"requests_per_minute": 0}}), "limits.requests_per_minute"),
        (json!({"name": "Some key", "limits": {"requests_per_minute": "many"}}), "limits.requests_per_minute"),
        (json!({"name": "Some key", "expires_at": "soon"}), "expires_at"),
        (json!({"name": "Some key", "team": "a", "owner": "b"}), "owner"),
    ] {
        assert_eq!(
            plane.operate("POST", "/api/v1/keys", body.clone()).await.refused(400, "invalid_value"),
            field,
            "{body}"
        );
    }
    for query in ["?limit=0", "?limit=x", "?colour=red"] {
        plane.get(OPERATOR, &format!("/api/v1/keys{query}")).await.refused(400, "invalid_value");
    }
    let (id, _) = plane.key(OPERATOR, json!({"name": "Some key"})).await;
    let path = format!("/api/v1/keys/{id}/regenerate");
    assert_eq!(plane.operate("POST", &path, json!({"grace": "soon"})).await.refused(400, "invalid_value"), "grace");
    plane
        .operate("POST", "/api/v1/keys", json!({"name": "Some key", "team": "nobody"}))
        .await
        .refused(404, "not_found");
    plane
        .operate("POST", "/api/v1/keys", json!({"name": "Some key", "owner": "nobody"}))
        .await
        .refused(404, "not_found");
}

async fn a_user_makes_fifteen_secrets_an_hour(plane: &Plane) {
    let (ada, bob) = (plane.user("ada").await, plane.user("bob").await);
    plane.credit("ada", "1", "first").await;
    plane.credit("bob", "1", "first").await;
    let (id, _) = plane.key(&ada, json!({"name": "Some key"})).await;
    let regenerate = format!("/api/v1/keys/{id}/regenerate");
    let calls: Vec<_> = (0..20).map(|_| plane.call(&ada, "POST", &regenerate, Value::Null)).collect();
    let answers = futures_util::future::join_all(calls).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 14, "and one was made");
    let refused = plane.call(&ada, "POST", "/api/v1/keys", json!({"name": "Some key"})).await;
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((3500..=3600).contains(&wait), "{wait}");
    refused.refused(429, "rate_limit_exceeded");
    plane.key(&bob, json!({"name": "Some key"})).await;
    plane.operate("POST", &regenerate, Value::Null).await.with(200);
}

async fn lists_have_pages(plane: &Plane) {
    let mut made = Vec::new();
    for number in 0..5 {
        made.push(plane.key(OPERATOR, json!({"name": format!("Key number {number}")})).await.0);
    }
    made.sort();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = plane.get(OPERATOR, &format!("/api/v1/keys?limit=2{cursor}")).await.with(200);
        seen.extend(page["data"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, made);
}

async fn a_record_is_asked_for_by_its_tag(plane: &Plane) {
    let (id, secret) = plane.key(OPERATOR, json!({"name": "Some key"})).await;
    let record = plane.look_up(&secret).await;
    let tag = record.headers["etag"].to_str().unwrap().to_owned();
    let hash = keymeter_core::key::Secret::new(secret).hash().to_hex();
    let path = format!("/v1/keys/{hash}");
    let headers = [("if-none-match", tag.as_str())];
    let ask = || plane.call_with(GATEWAYS, "GET", &path, Value::Null, &headers);
    assert_eq!(ask().await.status, 304);
    plane.operate("PATCH", &format!("/api/v1/keys/{id}"), json!({"enabled": false})).await.with(200);
    assert_eq!(ask().await.with(200)["state"], "disabled");
}
