//! What commands take for granted: the control plane of the environment, names in the place of ids, dates without a time.

use keymeter_core::key::Secret;
use serde_json::{Value, json};

use super::{over_both, page::Browser};
use crate::support::{
    control::{OPERATOR, Plane},
    process::keymeter,
};

over_both! {
    the_environment_names_the_control_plane
    keys_are_found_by_their_names
    a_key_is_told_in_the_same_words_as_one_of_a_file
    teams_and_wallets_are_listed_to_whoever_may_see_them
    a_token_is_rotated_and_the_one_before_is_over
    dates_stand_for_their_beginning
    ids_and_names_of_users_and_teams_are_short_and_dashed
}

/// What a command printed, or what it said of why it failed.
async fn command(url: &str, token: &str, words: &[&str]) -> Result<String, String> {
    let mut command = keymeter(words);
    command.env("KEYMETER_CONTROL_URL", url).env("KEYMETER_CONTROL_TOKEN", token);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

async fn the_environment_names_the_control_plane(plane: &Plane) {
    let url = plane.url("");
    let secret = command(&url, OPERATOR, &["keys", "create", "--name", "Some key"]).await.unwrap();
    plane.look_up(secret.trim()).await.with(200);
    command(&url, OPERATOR, &["users", "create", "ada", "--name", "Ada"]).await.unwrap();
    assert!(command(&url, OPERATOR, &["users", "list"]).await.unwrap().contains("ada"));
    // A file that is named comes first.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.yaml");
    command(&url, OPERATOR, &["keys", "create", "--name", "Of a file", "--file", file.to_str().unwrap()])
        .await
        .unwrap();
    assert!(std::fs::read_to_string(&file).unwrap().contains("Of a file"));
    let none = command("", OPERATOR, &["keys", "list"]).await.unwrap_err();
    assert!(none.contains("--file") && none.contains("--control") && none.contains("KEYMETER_CONTROL_URL"), "{none}");
    let elsewhere = format!("{url}/somewhere");
    for words in [&["keys", "list"][..], &["users", "list"], &["usage"]] {
        let told = command(&elsewhere, OPERATOR, words).await.unwrap_err();
        let start = format!("{elsewhere} is no keymeter control plane (404 at /api/v1/");
        assert!(told.starts_with(&start) && told.contains("control.listen"), "{told}");
    }
}

async fn a_key_is_told_in_the_same_words_as_one_of_a_file(plane: &Plane) {
    let url = plane.url("");
    let create = ["keys", "create", "--name", "Some key", "--requests-per-minute", "5"];
    command(&url, OPERATOR, &create).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (file, config) = (folder.path().join("keys.yaml"), folder.path().join("keymeter.yaml"));
    let in_file = |words: &[&'static str]| [words, &["--file"]].concat();
    let of_file = async |words: &[&'static str]| {
        let mut words: Vec<&str> = in_file(words);
        words.push(file.to_str().unwrap());
        command(&url, OPERATOR, &words).await.unwrap()
    };
    of_file(&create).await;
    let text = "upstreams: [{name: a, url: 'http://127.0.0.1:1'}]\nkeys: {yaml: {path: keys.yaml}}\n";
    std::fs::write(&config, text).unwrap();

    let row = |text: &str| -> Vec<Vec<String>> {
        let cells = |line: &str| -> Vec<String> {
            line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
        };
        text.lines().map(cells).collect()
    };
    let (mut remote, local) =
        (row(&command(&url, OPERATOR, &["keys", "list"]).await.unwrap()), row(&of_file(&["keys", "list"]).await));
    let secret = remote[0].iter().position(|title| title == "SECRET").unwrap();
    for line in &mut remote {
        line.remove(secret);
    }
    assert_eq!(remote[0], local[0], "the columns");
    assert_eq!(remote[1][1..], local[1][1..], "all but the id");
    assert!(local[1].contains(&"unlimited (default)".to_owned()) && local[1].contains(&"5".to_owned()), "{local:?}");

    let shown = command(&url, OPERATOR, &["keys", "show", "Some key"]).await.unwrap();
    let names: Vec<_> = shown.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names[..7], ["id", "name", "state", "masked", "owner", "team", "models"]);
    assert_eq!(names[7..10], ["requests_per_minute", "tokens_per_minute", "concurrent_requests"]);
    assert!(shown.contains("unlimited (default)") && !shown.contains('{'), "{shown}");
}

async fn keys_are_found_by_their_names(plane: &Plane) {
    let url = plane.url("");
    let (id, secret) = plane.key(OPERATOR, json!({"name": "Production API"})).await;
    for name in ["Same name", "Same name"] {
        plane.key(OPERATOR, json!({"name": name})).await;
    }
    let shown = command(&url, OPERATOR, &["keys", "show", "Production API"]).await.unwrap();
    assert!(shown.contains(&id), "{shown}");
    command(&url, OPERATOR, &["keys", "disable", "Production API"]).await.unwrap();
    assert_eq!(plane.state(&secret).await, "disabled");
    let told = command(&url, OPERATOR, &["keys", "enable", "Same name"]).await.unwrap_err();
    assert!(told.contains("several keys") && told.matches("key_").count() == 2, "{told}");
    let told = command(&url, OPERATOR, &["keys", "delete", "No such key"]).await.unwrap_err();
    assert!(told.contains("`No such key`") && told.contains("keymeter keys list"), "{told}");
    command(&url, OPERATOR, &["keys", "delete", "Production API"]).await.unwrap();
    plane.look_up(&secret).await.refused(404, "not_found");
}

async fn teams_and_wallets_are_listed_to_whoever_may_see_them(plane: &Plane) {
    let (ada, bob, url) = (plane.user("ada").await, plane.user("bob").await, plane.url(""));
    plane.team("research", "ada").await;
    plane.team("batch", "bob").await;
    plane.credit("research", "2.50", "first").await;
    let list = async |token: &str, what: &str| {
        let rows = command(&url, token, &[what, "list", "--output", "json"]).await.unwrap();
        let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
        let name = if what == "teams" { "id" } else { "owner" };
        rows.iter().map(|row| row[name].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list(OPERATOR, "teams").await, ["batch", "research"]);
    assert_eq!(list(&bob, "teams").await, ["batch"]);
    assert_eq!(list(OPERATOR, "wallets").await, ["ada", "batch", "bob", "research"]);
    assert_eq!(list(&ada, "wallets").await, ["ada", "research"]);
    assert!(command(&url, &ada, &["wallets", "list"]).await.unwrap().contains("research  2.5"));
    let first = plane.get(OPERATOR, "/api/v1/teams?limit=1").await.with(200);
    let next = first["next_cursor"].as_str().unwrap();
    let second = plane.get(OPERATOR, &format!("/api/v1/teams?cursor={next}")).await.with(200);
    assert_eq!((&first["data"][0]["id"], &second["data"][0]["id"]), (&json!("batch"), &json!("research")));
}

async fn a_token_is_rotated_and_the_one_before_is_over(plane: &Plane) {
    let (ada, bob, url) = (plane.user("ada").await, plane.user("bob").await, plane.url(""));
    let mut browser = Browser::signed_in(plane, &ada).await;
    browser.get("/").await.with(200);
    let second = command(&url, OPERATOR, &["users", "rotate-token", "ada"]).await.unwrap();
    let second = second.trim();
    plane.get(&ada, "/api/v1/keys").await.refused(401, "invalid_token");
    plane.get(second, "/api/v1/keys").await.with(200);
    browser.get("/").await.leads_to("/sign-in");
    let third = plane.call(second, "POST", "/api/v1/users/ada/token", Value::Null).await.with(200);
    let third = third["token"].as_str().unwrap();
    plane.get(second, "/api/v1/keys").await.refused(401, "invalid_token");
    plane.get(third, "/api/v1/keys").await.with(200);
    plane.call(&bob, "POST", "/api/v1/users/ada/token", Value::Null).await.refused(404, "not_found");
    plane.operate("POST", "/api/v1/users/none/token", Value::Null).await.refused(404, "not_found");
    let audit = plane.get(OPERATOR, "/api/v1/audit").await.with(200);
    let rotations = audit["data"].as_array().unwrap().iter().filter(|entry| entry["action"] == "user.token");
    let actors: Vec<_> = rotations.map(|entry| entry["actor"].as_str().unwrap()).collect();
    assert_eq!(actors, ["ada", "operator"]);
    for token in [second, third] {
        let hash = Secret::new(token).hash().to_hex();
        assert!(!audit.to_string().contains(token) && !audit.to_string().contains(&hash));
    }
}

async fn dates_stand_for_their_beginning(plane: &Plane) {
    let url = plane.url("");
    let words = ["keys", "create", "--name", "Some key", "--expires-at", "2099-01-01"];
    let secret = command(&url, OPERATOR, &words).await.unwrap();
    assert_eq!(plane.look_up(secret.trim()).await.with(200)["expires_at"], "2099-01-01T00:00:00Z");
    let (id, _) = plane.key(OPERATOR, json!({"name": "Other key", "expires_at": "2099-02-01"})).await;
    let path = format!("/api/v1/keys/{id}");
    assert_eq!(plane.get(OPERATOR, &path).await.with(200)["expires_at"], "2099-02-01T00:00:00Z");
    plane.operate("PATCH", &path, json!({"expires_at": "2099-03-01"})).await.with(200);
    assert_eq!(plane.get(OPERATOR, &path).await.with(200)["expires_at"], "2099-03-01T00:00:00Z");
    let refused = plane.operate("PATCH", &path, json!({"expires_at": "2099-02-30"})).await;
    assert_eq!(refused.refused(400, "invalid_value"), "expires_at");
    let quota = json!({"usd": "5", "per": "month", "carried": "1", "until": "2099-04-01"});
    let key = plane.operate("PATCH", &path, json!({"limits": {"quotas": [quota]}})).await.with(200);
    assert_eq!(key["limits"]["quotas"][0]["until"], "2099-04-01T00:00:00Z");
    plane.operate("PATCH", &path, json!({"expires_at": null})).await.with(200);
    plane.get(OPERATOR, "/api/v1/usage?from=2026-11-01&to=2026-12-01").await.with(200);
    command(&url, OPERATOR, &["usage", "--from", "2026-11-01", "--to", "2026-12-01"]).await.unwrap();
    let told = command(&url, OPERATOR, &["usage", "--from", "november"]).await.unwrap_err();
    assert!(told.contains("2027-01-01"), "{told}");
}

async fn ids_and_names_of_users_and_teams_are_short_and_dashed(plane: &Plane) {
    plane.operate("POST", "/api/v1/users", json!({"id": "ada-l", "name": "A"})).await.with(201);
    let team = json!({"id": "r-and-d", "name": "R", "owner": "ada-l"});
    plane.operate("POST", "/api/v1/teams", team).await.with(201);
    plane.credit("r-and-d", "1", "first").await;
    let (_, secret) = plane.key(OPERATOR, json!({"name": "Some key", "team": "r-and-d"})).await;
    assert_eq!(plane.look_up(&secret).await.with(200)["team"], "r-and-d");
    for (body, field) in [
        (json!({"id": "Ada", "name": "Ada"}), "id"),
        (json!({"id": "a.b", "name": "Ada"}), "id"),
        (json!({"id": "a".repeat(65), "name": "Ada"}), "id"),
        (json!({"id": "", "name": "Ada"}), "id"),
        (json!({"id": "a", "name": ""}), "name"),
        (json!({"id": "a", "name": " a"}), "name"),
        (json!({"id": "a", "name": "a".repeat(51)}), "name"),
    ] {
        assert_eq!(plane.operate("POST", "/api/v1/users", body).await.refused(400, "invalid_value"), field);
    }
}
