//! Databases of earlier versions: what was in them stays, and is no more open to others than what is new.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use keymeter_config::Database;
use keymeter_core::key::Secret;
use serde_json::{Value, json};

use super::over_both;
use crate::support::control::{OPERATOR, Plane};

over_both! {
    an_earlier_database_keeps_what_is_in_it
    a_user_who_is_called_operator_is_told_apart
}

/// Takes back what versions 9 and 10 of the tables add.
pub(super) async fn as_version_8(plane: &Plane) {
    take_back(plane, &[&OF_VERSION_10[..], &OF_VERSION_9[..]].concat(), 9).await;
}

/// Takes back what version 10 of the tables adds.
pub(super) async fn as_version_9(plane: &Plane) {
    take_back(plane, &OF_VERSION_10, 10).await;
}

const OF_VERSION_10: [&str; 3] = [
    "DROP INDEX users_by_sign_in",
    "ALTER TABLE users DROP COLUMN sign_in",
    "ALTER TABLE users DROP COLUMN sign_in_folded",
];

const OF_VERSION_9: [&str; 6] = [
    "DROP TABLE key_usage",
    "DROP TABLE refusals",
    "DROP TABLE refusal_reports",
    "DROP INDEX keys_by_name",
    "DROP INDEX keys_by_age",
    "DROP INDEX wallet_entries_by_time",
];

async fn take_back(plane: &Plane, all: &[&str], version: u32) {
    let mut tx = plane.store().begin().await.unwrap();
    for sql in all {
        sqlx::query(sql).execute(&mut *tx).await.unwrap();
    }
    let sql = format!("DELETE FROM _sqlx_migrations WHERE version >= {version}");
    sqlx::query(&sql).execute(&mut *tx).await.unwrap();
    plane.store().commit(tx).await.unwrap();
}

/// Takes back what versions 6 to 10 of the tables add.
async fn as_version_4(plane: &Plane) {
    let of_6_to_8 = [
        "DROP TABLE change_operations",
        "DROP TABLE sign_out_operations",
        "DROP INDEX usage_hours_of_owner",
        "DROP INDEX usage_days_of_owner",
        "ALTER TABLE audit DROP COLUMN actor_kind",
        "ALTER TABLE keys DROP COLUMN priority",
        "ALTER TABLE keys DROP COLUMN allow_from",
        "ALTER TABLE teams DROP COLUMN limits",
        "ALTER TABLE users DROP COLUMN limits",
    ];
    take_back(plane, &[&OF_VERSION_10[..], &OF_VERSION_9[..], &of_6_to_8[..]].concat(), 6).await;
}

async fn an_earlier_database_keeps_what_is_in_it(plane: &Plane) {
    let ada = plane.user("ada").await;
    plane.credit("ada", "5", "first").await;
    let (id, secret) = plane.key(&ada, json!({"name": "Some key"})).await;
    let audit = plane.get(OPERATOR, "/api/v1/audit").await.with(200);
    as_version_4(plane).await;
    let later = plane.beside().await;
    assert_eq!(later.state(&secret).await, "active");
    assert_eq!(later.balance("ada").await, "5");
    assert_eq!(later.get(OPERATOR, "/api/v1/audit").await.with(200), audit, "the kinds are told by the names");
    later.call(&ada, "PATCH", &format!("/api/v1/keys/{id}"), json!({"enabled": false})).await.with(200);
    let last = later.get(OPERATOR, "/api/v1/audit?limit=1").await.with(200)["data"][0].clone();
    assert_eq!((&last["actor"], &last["actor_kind"]), (&json!("ada"), &json!("user")));
}

async fn a_user_who_is_called_operator_is_told_apart(plane: &Plane) {
    let named = json!({"id": "operator", "name": "Some user"});
    assert_eq!(plane.operate("POST", "/api/v1/users", named).await.refused(400, "invalid_value"), "id");
    plane.user("ada").await;
    // An earlier version made such a user, and its audit did not tell them apart.
    as_version_4(plane).await;
    let token = "kmu-of-a-user-who-is-called-operator";
    let mut tx = plane.store().begin().await.unwrap();
    sqlx::query("INSERT INTO wallets (id, balance_nanos) VALUES ('operator', 0)").execute(&mut *tx).await.unwrap();
    let sql = "INSERT INTO users (id, name, token_hash, created_at) VALUES ('operator', 'User', $1, $2)";
    let now = jiff::Timestamp::now().as_microsecond();
    let query = sqlx::query(sql).bind(Secret::new(token).hash().to_hex()).bind(now);
    query.execute(&mut *tx).await.unwrap();
    plane.store().commit(tx).await.unwrap();

    let later = plane.beside().await;
    later.credit("operator", "1", "first").await;
    let once = [("idempotency-key", "one")];
    let make = |token: &'static str| {
        let (later, body) = (&later, json!({"name": "Some key", "owner": Value::Null}));
        async move { later.call_with(token, "POST", "/api/v1/keys", body, &once).await.with(201)["id"].clone() }
    };
    let (operators, users) = (make(OPERATOR).await, make(token).await);
    assert_ne!(operators, users, "one's idempotency key is not the other's");
    let kinds = async || {
        let audit = later.get(OPERATOR, "/api/v1/audit").await.with(200);
        let kind = |entry: &Value| (entry["actor"].as_str().unwrap().to_owned(), entry["actor_kind"].clone());
        audit["data"].as_array().unwrap().iter().map(kind).collect::<Vec<_>>()
    };
    let named = |kind: &str| ("operator".to_owned(), json!(kind));
    assert_eq!(kinds().await, [named("user"), named("operator"), named("operator"), named("operator")]);
    // Of an entry from when both were there, nobody can tell.
    let mut tx = later.store().begin().await.unwrap();
    sqlx::query("UPDATE users SET created_at = 0 WHERE id = 'operator'").execute(&mut *tx).await.unwrap();
    later.store().commit(tx).await.unwrap();
    assert_eq!(kinds().await[3], named("unknown"));
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn an_sqlite_databases_files_are_its_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let files = ["keymeter.db", "keymeter.db-wal", "keymeter.db-shm"].map(|name| folder.path().join(name));
    let [database, ..] = &files;
    let plane = Plane::of(Database::Sqlite(database.clone())).await;
    plane.user("ada").await;
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
        // As an earlier version left them, under the usual umask.
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    }
    let later = Plane::of(Database::Sqlite(database.clone())).await;
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    later.user("bob").await;
    assert_eq!(plane.get(OPERATOR, "/api/v1/users").await.with(200)["data"].as_array().unwrap().len(), 2);
}
