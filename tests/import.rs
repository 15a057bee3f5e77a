//! `keymeter import` from a real PostgreSQL, filled with the tables of other gateways: their clients go on with their keys.

use std::{
    process::{Command, Output},
    time::{Duration, Instant},
};

use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};

use crate::support::{
    control::{OPERATOR, Plane, Postgres},
    gateway::{Gateway, config},
    process::keymeter,
    scene::chat,
    script::{Script, completion},
    soak::scaled,
    upstream::ScriptedUpstream,
};

/// The columns that count of LiteLLM's tables, with the types that its migrations give them.
const LITELLM: &str = r#"
CREATE TABLE "LiteLLM_BudgetTable" (budget_id text PRIMARY KEY, max_budget double precision, soft_budget double precision,
    max_parallel_requests integer, tpm_limit bigint, rpm_limit bigint, model_max_budget jsonb, budget_duration text,
    budget_reset_at timestamp(3));
CREATE TABLE "LiteLLM_TeamTable" (team_id text PRIMARY KEY, team_alias text, organization_id text, admins text[],
    members text[], members_with_roles jsonb NOT NULL DEFAULT '{}', metadata jsonb NOT NULL DEFAULT '{}',
    max_budget double precision, spend double precision NOT NULL DEFAULT 0.0, models text[],
    max_parallel_requests integer, tpm_limit bigint, rpm_limit bigint, budget_duration text,
    budget_reset_at timestamp(3), blocked boolean NOT NULL DEFAULT false, model_spend jsonb NOT NULL DEFAULT '{}',
    model_max_budget jsonb NOT NULL DEFAULT '{}');
CREATE TABLE "LiteLLM_VerificationToken" (token text PRIMARY KEY, key_name text, key_alias text,
    soft_budget_cooldown boolean NOT NULL DEFAULT false, spend double precision NOT NULL DEFAULT 0.0,
    expires timestamp(3), models text[], aliases jsonb NOT NULL DEFAULT '{}', config jsonb NOT NULL DEFAULT '{}',
    user_id text, team_id text, permissions jsonb NOT NULL DEFAULT '{}', max_parallel_requests integer,
    metadata jsonb NOT NULL DEFAULT '{}', blocked boolean, tpm_limit bigint, rpm_limit bigint,
    max_budget double precision, budget_duration text, budget_reset_at timestamp(3),
    allowed_cache_controls text[] DEFAULT '{}', model_spend jsonb NOT NULL DEFAULT '{}',
    model_max_budget jsonb NOT NULL DEFAULT '{}', budget_id text, organization_id text, created_at timestamp(3));
INSERT INTO "LiteLLM_TeamTable" (team_id, team_alias, models, rpm_limit, max_budget, budget_duration, spend, budget_reset_at)
    SELECT 'team-' || n, 'Team ' || n, '{gpt-4*,"llama 3"}', 6000, 500, '30d', 1.25, now() + interval '10 days'
    FROM generate_series(1, 20) n;
INSERT INTO "LiteLLM_VerificationToken" (token, key_name, key_alias, spend, models, user_id, team_id, rpm_limit, tpm_limit,
    max_parallel_requests, max_budget, budget_duration, budget_reset_at, expires)
    SELECT encode(sha256(('sk-litellm-' || n)::bytea), 'hex'), 'sk-...' || right('000' || n, 4), 'app ' || n, n / 1000.0,
        '{gpt-4o}', 'user-' || n % 100, 'team-' || 1 + n % 20, 600, 100000, 10, 100, '30d', now() + interval '3 days',
        now() + interval '1 year'
    FROM generate_series(1, COUNT) n;
"#;

/// The same of one-api's.
const ONE_API: &str = r"
CREATE TABLE users (id bigserial PRIMARY KEY, username text, password text, display_name text, role bigint, status bigint,
    quota bigint, used_quota bigint, deleted_at timestamptz);
CREATE TABLE tokens (id bigserial PRIMARY KEY, user_id bigint, key char(48), status bigint DEFAULT 1, name text,
    created_time bigint, accessed_time bigint, expired_time bigint DEFAULT -1, remain_quota bigint DEFAULT 0,
    unlimited_quota boolean DEFAULT false, used_quota bigint DEFAULT 0, models text, subnet text DEFAULT '');
INSERT INTO users (username, status, quota) VALUES ('root', 1, 5000000);
INSERT INTO tokens (user_id, key, name, remain_quota) VALUES (1, 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUV', 'first', 500000);
";

async fn filled(sql: &str) -> Postgres {
    let server = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
    let mut connection = PgConnection::connect(&server.url).await.unwrap();
    connection.execute(sql).await.unwrap();
    server
}

/// Runs the command on a keys file of the directory. Returns what it told.
async fn import(arguments: &[&str], directory: &std::path::Path, url: &str) -> Result<String, String> {
    let file = directory.join("keys.yaml");
    run(keymeter(&[&["import"], arguments, &["--file", file.to_str().unwrap()]].concat()), url).await
}

/// The same to a control plane.
async fn import_to(plane: &Plane, arguments: &[&str], url: &str) -> Result<String, String> {
    let mut command = keymeter(&[&["import"], arguments].concat());
    command.env("KEYMETER_CONTROL_URL", plane.url("")).env("KEYMETER_CONTROL_TOKEN", OPERATOR);
    run(command, url).await
}

async fn run(mut command: Command, url: &str) -> Result<String, String> {
    command.env("DATABASE_URL", url);
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let [told, errors] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    if status.success() { Ok(told) } else { Err(errors) }
}

async fn answering() -> ScriptedUpstream {
    ScriptedUpstream::start(|_| Script::json(200, &completion("gpt-4o", 1))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_litellm_is_taken_and_its_clients_go_on() {
    let count = scaled(1_000, 10_000);
    let server = filled(&LITELLM.replace("COUNT", &count.to_string())).await;
    let directory = tempfile::tempdir().unwrap();
    let dry = import(&["litellm", "--dry-run"], directory.path(), &server.url).await.unwrap();
    assert!(dry.ends_with(&format!("keys would be taken: {count}; here already: 0; not taken: 0\n")), "{dry}");
    assert!(!directory.path().join("keys.yaml").exists());
    let start = Instant::now();
    let told = import(&["litellm"], directory.path(), &server.url).await.unwrap();
    assert!(start.elapsed() < scaled(Duration::from_mins(1), Duration::from_secs(10)), "{:?}", start.elapsed());
    assert!(told.ends_with(&format!("keys taken: {count}; here already: 0; not taken: 0\n")), "{told}");
    let keys = std::fs::read_to_string(directory.path().join("keys.yaml")).unwrap();
    let upstream = answering().await;
    let gateway = Gateway::start(&config(&upstream, ""), &keys);
    for (secret, model, status) in [
        ("sk-litellm-7", "gpt-4o", 200),
        (&format!("sk-litellm-{count}"), "gpt-4o", 200),
        ("sk-litellm-7", "gpt-3.5", 404),
        ("sk-litellm-0", "gpt-4o", 401),
    ] {
        let answer = gateway.connect().await.chat(secret, &chat(model, "Hello", false)).await;
        assert_eq!(answer.status, status, "{secret} {model}: {}", answer.text());
    }
    let usage = crate::support::scene::get(&mut gateway.connect().await, "/v1/usage", "sk-litellm-7").await.json();
    let month =
        usage["all"].as_array().unwrap().iter().find(|line| line["scope"] == "key" && line["limit"] == "usd_per_month");
    assert_eq!(month.unwrap()["used"], json!("0.007"), "what was spent counts on: {usage}");
    let again = import(&["litellm"], directory.path(), &server.url).await.unwrap();
    assert!(again.ends_with(&format!("keys taken: 0; here already: {count}; not taken: 0\n")), "{again}");
    assert_eq!(std::fs::read_to_string(directory.path().join("keys.yaml")).unwrap(), keys);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_one_api_is_taken_and_its_clients_go_on() {
    let server = filled(ONE_API).await;
    let directory = tempfile::tempdir().unwrap();
    let told = import(&["one-api"], directory.path(), &server.url).await.unwrap();
    assert!(told.contains("key 2: taken: first; $1 is left of its budget"), "{told}");
    let keys = std::fs::read_to_string(directory.path().join("keys.yaml")).unwrap();
    assert!(keys.contains("owner: root") && !keys.contains("abcdefghijkl"), "{keys}");
    let upstream = answering().await;
    let gateway = Gateway::start(&config(&upstream, ""), &keys);
    let secret = "sk-abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUV";
    assert_eq!(gateway.connect().await.chat(secret, &chat("m", "Hello", false)).await.status, 200);
    // LiteLLM's tables are not in it, and a password of the URL is not repeated.
    let refused = import(&["litellm"], directory.path(), &server.url).await.unwrap_err();
    assert_eq!(refused, "cannot read the database of DATABASE_URL: it has no table \"LiteLLM_VerificationToken\"\n");
    let refused = import(&["litellm"], directory.path(), "postgres://ada:geheim@127.0.0.1:1/a").await.unwrap_err();
    assert!(
        refused.starts_with("cannot read the database of DATABASE_URL: ") && !refused.contains("geheim"),
        "{refused}"
    );
    let refused = import(&["one-api"], directory.path(), "").await.unwrap_err();
    assert!(refused.starts_with("where are the keys?"), "{refused}");
    assert_eq!(std::fs::read_to_string(directory.path().join("keys.yaml")).unwrap(), keys);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_takes_keys_with_the_balances_of_their_users() {
    let sql = LITELLM.replace("COUNT", "3")
        + r#"
        INSERT INTO "LiteLLM_VerificationToken" (token, key_alias, user_id, max_budget, spend, blocked, models) VALUES
            (encode(sha256('sk-litellm-lone'), 'hex'), 'lone', 'ada', 10, 2.5, false, '{}'),
            (encode(sha256('sk-litellm-blocked'), 'hex'), 'blocked', 'ada', 1, 0, true, '{}'),
            (encode(sha256('sk-litellm-free'), 'hex'), 'free', 'bob', NULL, 0, NULL, '{}');
        "#;
    let (server, plane) = (filled(&sql).await, Plane::sqlite().await);
    let dry = import_to(&plane, &["litellm", "--dry-run"], &server.url).await.unwrap();
    assert!(dry.ends_with("keys would be taken: 6; here already: 0; not taken: 0\n"), "{dry}");
    assert_eq!(plane.get(OPERATOR, "/api/v1/keys").await.with(200)["data"], json!([]));
    let told = import_to(&plane, &["litellm"], &server.url).await.unwrap();
    assert!(told.contains("wallet 1: taken: ada; $8.5\n"), "{told}");
    assert!(told.contains("free; its owner is not taken: nothing is known of a balance"), "{told}");
    assert!(told.contains("not taken: Team 2; ") && told.contains("`keymeter teams create`"), "{told}");
    assert!(told.ends_with("keys taken: 3; here already: 0; not taken: 3\n"), "{told}");
    assert_eq!(plane.balance("ada").await, "8.5");
    assert_eq!(
        (plane.state("sk-litellm-lone").await, plane.state("sk-litellm-blocked").await),
        ("active".into(), "disabled".into())
    );
    assert_eq!(plane.look_up("sk-litellm-free").await.with(200)["wallet"], serde_json::Value::Null);
    let again = import_to(&plane, &["litellm"], &server.url).await.unwrap();
    assert!(again.ends_with("keys taken: 0; here already: 3; not taken: 3\n"), "{again}");
    assert_eq!(plane.balance("ada").await, "8.5", "it is credited once");
    let upstream = answering().await;
    let gateway = crate::control::gateways::gateway(&upstream, &plane, "").await;
    assert_eq!(gateway.connect().await.chat("sk-litellm-lone", &chat("m", "Hello", false)).await.status, 200);
}
