//! A database of an earlier version: all that is in it is there after the upgrade.

use std::borrow::Cow;

use keymeter_core::key::Secret;
use serde_json::{Value, json};
use sqlx::migrate::{Migration, MigrationType, Migrator};

use super::over_both;
use crate::support::control::{OPERATOR, Plane};

/// As an earlier version left it: ada and bob, ada's team with a key, and bob's own key.
const CONTENT: &str = "
INSERT INTO wallets (id, balance_nanos) VALUES ('ada', 0), ('bob', 2500000000), ('research', 7000000001);
INSERT INTO wallet_entries (wallet, kind, reference, amount_nanos, at)
    VALUES ('bob', 'credit', 'first', 2500000000, 1), ('research', 'credit', 'first', 7000000001, 1);
INSERT INTO users (id, name, token_hash, created_at) VALUES ('ada', 'Ada L.', 'ADA', 1), ('bob', 'Bob B.', 'BOB', 1);
INSERT INTO teams (id, name, created_at) VALUES ('research', 'Research', 1);
INSERT INTO members (user_id, team_id, role) VALUES ('ada', 'research', 'owner');
INSERT INTO keys (id, name, masked, enabled, owner, team, wallet, limits, created_by, created_at, updated_at)
    VALUES ('key_team', 'Team', 'sk-a', 1, NULL, 'research', 'research', '{}', 'ada', 1, 1),
    ('key_bob', 'Bob', 'sk-b', 1, 'bob', NULL, 'bob', '{}', 'bob', 1, 1);
INSERT INTO secrets (hash, key_id) VALUES ('TEAM_KEY', 'key_team'), ('BOB_KEY', 'key_bob');
INSERT INTO audit (seq, at, actor, address, action, target, detail) VALUES (1, 1, 'operator', '', 'team.create', 'research', '{}');
UPDATE counters SET value = 1 WHERE name = 'audit';
INSERT INTO created (actor, idempotency_key, digest, key_id, at) VALUES ('ada', 'one', 'ASKED', 'key_team', 1);
";

/// What the team's key was made with, as its digest was computed.
const ASKED: &str = r#"{"expires_at":null,"limits":{},"models":null,"name":"Team","owner":null,"team":"research"}"#;

const SECRETS: [(&str, &str); 4] =
    [("ADA", "kmu-ada"), ("BOB", "kmu-bob"), ("TEAM_KEY", "sk-of-the-team"), ("BOB_KEY", "sk-of-bob")];

/// The tables of version 4, with something in them.
pub async fn version_4(url: String) {
    sqlx::any::install_default_drivers();
    let is_postgres = url.starts_with("postgres");
    let append_only = if is_postgres {
        include_str!("../../crates/control/src/store/append_only_postgres.sql")
    } else {
        include_str!("../../crates/control/src/store/append_only_sqlite.sql")
    };
    let versions = [
        (1, "tables", include_str!("../../crates/control/src/store/schema_1.sql")),
        (2, "the audit is only added to", append_only),
        (3, "sessions of the page", include_str!("../../crates/control/src/store/schema_3.sql")),
        (4, "sessions that were ended", include_str!("../../crates/control/src/store/schema_4.sql")),
    ];
    let migrations = versions.map(|(version, name, sql)| {
        Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, Cow::Borrowed(sql), false)
    });
    let migrator = Migrator { migrations: Cow::Owned(migrations.to_vec()), ..Migrator::DEFAULT };
    let pool = sqlx::any::AnyPoolOptions::new().max_connections(1).connect(&url).await.unwrap();
    migrator.run(&pool).await.unwrap();
    let content = SECRETS.iter().fold(CONTENT.to_owned(), |content, (name, secret)| {
        content.replace(&format!("'{name}'"), &format!("'{}'", Secret::new(*secret).hash().to_hex()))
    });
    let content = content.replace("ASKED", &Secret::new(ASKED).hash().to_hex());
    sqlx::raw_sql(&content).execute(&pool).await.unwrap();
    pool.close().await;
}

over_both! { at version_4: everything_is_there_after_the_upgrade }

async fn everything_is_there_after_the_upgrade(plane: &Plane) {
    let (ada, bob) = ("kmu-ada", "kmu-bob");
    let team = plane.get(ada, "/api/v1/teams/research").await.with(200);
    assert_eq!((&team["name"], &team["members"]), (&json!("Research"), &json!([{"user": "ada", "role": "owner"}])));
    for secret in ["sk-of-the-team", "sk-of-bob"] {
        assert_eq!(plane.state(secret).await, "active");
    }
    assert_eq!((plane.balance("bob").await, plane.balance("research").await), ("2.5".into(), "7.000000001".into()));
    assert_eq!(plane.get(OPERATOR, "/api/v1/audit").await.with(200)["data"][0]["action"], "team.create");
    let (once, asked) = ([("idempotency-key", "one")], serde_json::from_str(ASKED).unwrap());
    let again = plane.call_with(ada, "POST", "/api/v1/keys", asked, &once).await.with(200);
    assert_eq!((&again["id"], &again["priority"]), (&json!("key_team"), &json!(0)), "it is not made twice");
    // And what is new works on what was there.
    plane.operate("PATCH", "/api/v1/keys/key_team", json!({"priority": -5})).await.with(200);
    assert_eq!(plane.look_up("sk-of-the-team").await.with(200)["priority"], -5);
    assert_eq!(plane.get(bob, "/api/v1/invitations").await.with(200)["data"], json!([]));
    plane.call(ada, "PUT", "/api/v1/teams/research/members/bob", json!({"role": "admin"})).await.with(202);
    assert_eq!(plane.state("sk-of-bob").await, "active");
    plane.call(bob, "POST", "/api/v1/teams/research/invitation", json!({"accept": true})).await.with(200);
    assert_eq!(plane.state("sk-of-bob").await, "archived");
    plane.operate("DELETE", "/api/v1/teams/research", json!({"refund_to": "bob"})).await.with(204);
    assert_eq!(plane.state("sk-of-bob").await, "active");
    plane.look_up("sk-of-the-team").await.refused(404, "not_found");
    assert_eq!(plane.balance("bob").await, "9.500000001");
    assert_eq!(plane.get(OPERATOR, "/api/v1/teams/research").await.refused(404, "not_found"), Value::Null);
    assert_eq!(plane.store().unbalanced_wallets().await.unwrap(), Vec::<String>::new());
}
