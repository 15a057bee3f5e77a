//! A key's priority: the operator's to set, everybody's to see, and what its gateways go by.

use std::time::Instant;

use serde_json::{Value, json};

use super::{gateways::gateway_of, over_both, page::Browser};
use crate::{
    sources::{answering, ask},
    support::{
        client::PATIENCE,
        control::{OPERATOR, Plane},
        gateway::config,
        process::keymeter,
    },
};

over_both! {
    it_is_kept_told_and_noted
    it_is_the_operators_to_set
    a_priority_that_is_none_is_named
    it_reaches_a_running_gateway
    commands_set_show_and_clear_it
    the_page_shows_it_to_all_and_sets_it_for_the_operator
}

async fn it_is_kept_told_and_noted(plane: &Plane) {
    let (plain, of_plain) = plane.key(OPERATOR, json!({"name": "Some key"})).await;
    assert_eq!(plane.get(OPERATOR, &format!("/api/v1/keys/{plain}")).await.with(200)["priority"], 0);
    let record = plane.look_up(&of_plain).await.with(200);
    assert!(record.get("priority").is_none(), "a gateway that knows of none takes no other record: {record}");
    let made = plane.operate("POST", "/api/v1/keys", json!({"name": "First of all", "priority": -100})).await.with(201);
    assert_eq!(made["priority"], -100);
    let (path, secret) = (format!("/api/v1/keys/{}", made["id"].as_str().unwrap()), made["secret"].as_str().unwrap());
    let record = plane.look_up(secret).await;
    let tag = record.headers["etag"].clone();
    assert_eq!(record.with(200)["priority"], -100);

    let told = async || plane.store().last_change().await.unwrap();
    let before = told().await;
    let body = json!({"priority": 100, "limits": {"requests_per_minute": 5}});
    assert_eq!(plane.operate("PATCH", &path, body).await.with(200)["priority"], 100);
    assert_eq!(told().await, before + 1, "gateways are told");
    let record = plane.look_up(secret).await;
    assert_ne!(record.headers["etag"], tag);
    assert_eq!(record.with(200)["priority"], 100);
    for body in [json!({"priority": 100}), json!({})] {
        plane.operate("PATCH", &path, body).await.with(200);
    }
    assert_eq!(told().await, before + 1, "of what is so already nobody is told");
    plane.operate("PATCH", &path, json!({"name": "Another name", "enabled": true})).await.with(200);
    let second = plane.operate("POST", &format!("{path}/regenerate"), json!({"grace": "1h"})).await.with(200);
    assert_eq!(second["priority"], 100, "it stays with the key");
    for secret in [secret, second["secret"].as_str().unwrap()] {
        assert_eq!(plane.look_up(secret).await.with(200)["priority"], 100);
    }
    assert_eq!(plane.operate("PATCH", &path, json!({"priority": null})).await.with(200)["priority"], 0);
    let listed = plane.get(OPERATOR, "/api/v1/keys").await.with(200);
    assert!(listed["data"].as_array().unwrap().iter().all(|key| key["priority"] == 0), "{listed}");

    let audit = plane.get(OPERATOR, "/api/v1/audit").await.with(200);
    let priorities: Vec<_> =
        audit["data"].as_array().unwrap().iter().map(|entry| &entry["detail"]["priority"]).collect();
    assert_eq!(priorities, [&json!(0), &Value::Null, &Value::Null, &json!(100), &json!(-100), &json!(0)]);
    let description = plane.get("", "/api/v1/openapi.json").await.with(200);
    for schema in ["Key", "CreateKey", "UpdateKey"] {
        let priority = &description["components"]["schemas"][schema]["properties"]["priority"];
        assert_eq!((&priority["minimum"], &priority["maximum"]), (&json!(-100), &json!(100)), "{schema}: {priority}");
    }
}

async fn it_is_the_operators_to_set(plane: &Plane) {
    let [ada, admin, bob] = [plane.user("ada").await, plane.user("admin").await, plane.user("bob").await];
    plane.team("research", "ada").await;
    for (wallet, user, role) in [("research", "admin", "admin"), ("bob", "", "")] {
        plane.credit(wallet, "1", "first").await;
        if !user.is_empty() {
            let path = format!("/api/v1/teams/research/members/{user}");
            plane.operate("PUT", &path, json!({"role": role})).await.with(200);
        }
    }
    for (user, team) in [(&ada, json!("research")), (&admin, json!("research")), (&bob, Value::Null)] {
        let attempt = |priority: i64| {
            let body = json!({"name": "Some key", "team": team, "priority": priority});
            async move { plane.call(user, "POST", "/api/v1/keys", body).await }
        };
        let refused = attempt(-1).await;
        assert!(refused.text.contains("only the operator sets `priority`"), "{}", refused.text);
        assert_eq!(refused.refused(403, "forbidden"), "priority");
        let made = attempt(0).await.with(201);
        let path = format!("/api/v1/keys/{}", made["id"].as_str().unwrap());
        let change = |body: Value| plane.call(user, "PATCH", &path, body);
        change(json!({"priority": 0, "name": "As it is"})).await.with(200);
        assert_eq!(change(json!({"priority": 7})).await.refused(403, "forbidden"), "priority");
        plane.operate("PATCH", &path, json!({"priority": 9})).await.with(200);
        for other in [json!(8), json!(0), Value::Null] {
            let body = json!({"name": "Not so", "priority": other});
            assert_eq!(change(body).await.refused(403, "forbidden"), "priority");
        }
        let key = change(json!({"priority": 9, "enabled": false})).await.with(200);
        assert_eq!((&key["priority"], &key["name"], &key["enabled"]), (&json!(9), &json!("As it is"), &json!(false)));
        let renewed = plane.call(user, "POST", &format!("{path}/regenerate"), Value::Null).await.with(200);
        assert_eq!(renewed["priority"], 9);
    }
}

async fn a_priority_that_is_none_is_named(plane: &Plane) {
    let (id, _) = plane.key(OPERATOR, json!({"name": "Some key", "priority": null})).await;
    for wrong in [json!(101), json!(-101), json!(1.5), json!(1e30), json!("5"), json!(true), json!([5])] {
        let make = plane.operate("POST", "/api/v1/keys", json!({"name": "Some key", "priority": wrong})).await;
        let change = plane.operate("PATCH", &format!("/api/v1/keys/{id}"), json!({"priority": wrong})).await;
        for refused in [make, change] {
            assert_eq!(refused.refused(400, "invalid_value"), "priority", "{wrong}");
        }
    }
    let refused = plane.operate("PATCH", &format!("/api/v1/keys/{id}"), json!({"priority": 500})).await;
    assert!(refused.text.contains("a whole number from -100 to 100"), "{}", refused.text);
}

async fn it_reaches_a_running_gateway(plane: &Plane) {
    let upstream = answering().await;
    let configuration = config(&upstream, "").replace("name: scripted", "name: scripted, send_priority: true");
    let gateway = gateway_of(&configuration, plane).await;
    let (id, secret) = plane.key(OPERATOR, json!({"name": "Some key"})).await;
    let path = format!("/api/v1/keys/{id}");
    let mut client = gateway.connect().await;
    for priority in [json!(0), json!(-7), json!(100), Value::Null] {
        plane.operate("PATCH", &path, json!({"priority": priority})).await.with(200);
        let start = Instant::now();
        loop {
            assert_eq!(ask(&mut client, &secret).await.status, 200);
            let sent = upstream.received().last().unwrap().json()["priority"].clone();
            if sent == priority.as_i64().unwrap_or(0) {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{sent} does not become {priority}");
        }
    }
}

/// What a command printed, or what it said of why it failed.
async fn command(plane: &Plane, token: &str, words: &[&str]) -> Result<String, String> {
    let mut command = keymeter(&["keys"]);
    command.args(words).args(["--control", &plane.url("")]).env("KEYMETER_CONTROL_TOKEN", token);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

async fn commands_set_show_and_clear_it(plane: &Plane) {
    let run = |words: &'static str| async move {
        command(plane, OPERATOR, &words.split(' ').collect::<Vec<_>>()).await.unwrap_or_else(|error| panic!("{error}"))
    };
    let ada = plane.user("ada").await;
    plane.credit("ada", "1", "first").await;
    run("create --name Plain --owner ada").await;
    assert!(!run("list").await.contains("PRIORITY"), "there are none");
    let secret = run("create --name Urgent --owner ada --priority -5").await;
    let record = plane.look_up(secret.trim()).await.with(200);
    assert_eq!(record["priority"], -5);
    let listed = run("list").await;
    let titles: Vec<_> = listed.lines().next().unwrap().split_whitespace().collect();
    assert!(titles.ends_with(&["CONCURRENT", "PRIORITY", "EXPIRES"]), "{listed}");
    let id = record["id"].as_str().unwrap();
    let of_key = |words: &'static str, token: &str| {
        let (token, id) = (token.to_owned(), id.to_owned());
        async move { command(plane, &token, &[&words.split(' ').collect::<Vec<_>>()[..], &[&id]].concat()).await }
    };
    assert!(of_key("show", OPERATOR).await.unwrap().contains("priority               -5\n"));
    of_key("update --priority 3 --requests-per-minute 5", OPERATOR).await.unwrap();
    assert_eq!(plane.look_up(secret.trim()).await.with(200)["priority"], 3);
    for words in ["update --priority 7", "update --clear priority"] {
        let refused = of_key(words, &ada).await.unwrap_err();
        assert_eq!(refused, "priority: only the operator sets `priority`; leave it out, ada (403)\n");
    }
    for both in ["update --priority 7 --clear priority", "update --model m --clear models"] {
        let refused = of_key(both, OPERATOR).await.unwrap_err();
        assert!(refused.starts_with("a field is both set and named by --clear"), "{refused}");
    }
    of_key("update --clear priority", OPERATOR).await.unwrap();
    assert!(plane.look_up(secret.trim()).await.with(200).get("priority").is_none());
    assert!(!of_key("show", OPERATOR).await.unwrap().contains("priority"));
    assert!(of_key("show --output json", OPERATOR).await.unwrap().contains("\"priority\": 0"));
}

async fn the_page_shows_it_to_all_and_sets_it_for_the_operator(plane: &Plane) {
    let ada = plane.user("ada").await;
    plane.credit("ada", "1", "first").await;
    let mut operator = Browser::signed_in(plane, OPERATOR).await;
    let fields = [("once", "1"), ("name", "Urgent"), ("owner", "ada"), ("priority", "-5")];
    operator.fill_in("/keys/new", "/keys/new", &fields).await.with(201);
    let key = plane.get(OPERATOR, "/api/v1/keys").await.with(200)["data"][0].clone();
    assert_eq!(key["priority"], -5);
    let path = format!("/keys/{}", key["id"].as_str().unwrap());
    let set = format!("{path}/edit");
    let with = |priority: &'static str| [("name", "Urgent"), ("priority", priority)];
    operator.get(&path).await.with(200).says("<dt>Priority</dt><dd>−5");
    operator.get(&set).await.with(200).says("name=\"priority\" type=\"text\" value=\"-5\"");
    operator.fill_in(&path, &set, &with("7")).await.leads_to(&format!("{path}?done=saved"));
    operator.get(&format!("{path}?done=saved")).await.says("The changes are saved.").says("<dt>Priority</dt><dd>7");
    operator
        .fill_in(&path, &set, &with("101"))
        .await
        .with(400)
        .says("id=\"field-priority-fault\"")
        .says("A priority is a whole number from -100 to 100.")
        .says("value=\"101\"");

    let mut user = Browser::signed_in(plane, &ada).await;
    user.get(&path).await.with(200).says("<dt>Priority</dt><dd>7");
    for form in [&set, "/keys/new"] {
        user.get(form).await.with(200).lacks("field-priority");
    }
    for priority in ["8", ""] {
        user.fill_in(&path, &set, &with(priority)).await.with(403).says("Only the operator sets `priority`");
    }
    user.fill_in(&path, &set, &[("name", "Renamed")]).await.leads_to(&format!("{path}?done=saved"));
    user.get(&path).await.says("<dt>Priority</dt><dd>7").says("Renamed");
    let fields = [("once", "2"), ("name", "Urgent too"), ("priority", "-1")];
    user.fill_in("/keys/new", "/keys/new", &fields).await.with(403).says("Only the operator sets `priority`");
    operator.fill_in(&path, &set, &with("")).await.leads_to(&format!("{path}?done=saved"));
    user.get(&path).await.says("<dt>Priority</dt><dd>0");
    operator.fill_in(&path, &format!("{path}/delete"), &[]).await.leads_to("/?done=deleted");
    operator.get(&path).await.with(200).lacks("field-priority");
    operator.fill_in("/", &set, &with("1")).await.with(404);
}
