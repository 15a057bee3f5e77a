//! Quotas of keys, limits of models, teams and users, and networks: who sets them, and what their gateways are told.

use std::time::Instant;

use keymeter_config::keys::parse_record;
use keymeter_core::limit::{Limit, LimitMode, Limits};
use serde_json::{Value, json};

use super::{
    gateways::gateway_of,
    money::{record, used},
    over_both,
    page::Browser,
};
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
    a_key_has_all_limits_that_a_record_may_have
    those_of_teams_and_users_reach_each_of_their_keys
    teams_and_users_are_the_operators_to_limit
    what_is_wrong_is_named
    what_a_key_has_stands_in_no_changes_way
    a_running_gateway_holds_a_team_to_them
    commands_set_and_clear_them
    commands_set_limits_of_models_and_what_was_used_elsewhere
    the_page_sets_them_and_shows_what_is_used
}

fn limits() -> Value {
    json!({
        "requests_per_minute": 60, "mode": "observe",
        "quotas": [
            {"usd": "100", "per": "month", "zone": "Europe/Berlin", "carried": "12.50", "until": "2027-01-01T00:00:00Z"},
            {"tokens": 50_000_000, "per": "day"}, {"requests": 1000, "per": "5h"},
        ],
        "models": {"text-embedding-*": {"tokens_per_minute": 1000, "quotas": [{"output_tokens": 5, "per": "week"}]}},
    })
}

async fn a_key_has_all_limits_that_a_record_may_have(plane: &Plane) {
    let body = json!({"name": "Some key", "limits": limits(), "allow_from": ["10.0.0.0/8", "2001:db8::/32"]});
    let (id, secret) = plane.key(OPERATOR, body).await;
    let path = format!("/api/v1/keys/{id}");
    let key = plane.get(OPERATOR, &path).await.with(200);
    assert_eq!((&key["limits"], &key["allow_from"]), (&limits(), &json!(["10.0.0.0/8", "2001:db8::/32"])));
    let record = plane.look_up(&secret).await.with(200);
    let (read, _) = parse_record(record.to_string().as_bytes()).unwrap();
    let terms = read.terms.unwrap();
    assert_eq!(terms.quotas.len(), 3, "as gateways read it");
    assert_eq!((terms.models.len(), terms.allow_from.len(), terms.mode), (1, 2, Some(LimitMode::Observe)));
    assert!(terms.quotas[0].carried.is_some());

    let told = plane.store().last_change().await.unwrap();
    plane.operate("PATCH", &path, json!({"limits": limits(), "allow_from": key["allow_from"]})).await.with(200);
    assert_eq!(plane.store().last_change().await.unwrap(), told, "nobody is told of what is so already");
    let none = json!({"limits": {"quotas": null, "models": null}, "allow_from": null});
    let key = plane.operate("PATCH", &path, none).await.with(200);
    assert_eq!((&key["limits"], &key["allow_from"]), (&json!({}), &Value::Null));
    let record = plane.look_up(&secret).await.with(200);
    assert!(record.get("allow_from").is_none(), "a gateway of an earlier version takes it: {record}");
    let audit = plane.get(OPERATOR, "/api/v1/audit?limit=2").await.with(200);
    assert_eq!(audit["data"][0]["detail"], json!({"limits": {}, "allow_from": null}));
    assert_eq!(audit["data"][1]["detail"]["limits"], limits());
    let description = plane.get("", "/api/v1/openapi.json").await.with(200);
    for schema in ["KeyLimits", "ScopeLimits", "QuotaLimit"] {
        assert!(description["components"]["schemas"][schema]["properties"].is_object(), "{schema}");
    }
}

async fn those_of_teams_and_users_reach_each_of_their_keys(plane: &Plane) {
    let (ada, bob) = (plane.user("ada").await, plane.user("bob").await);
    plane.team("research", "bob").await;
    for wallet in ["ada", "research"] {
        plane.credit(wallet, "1", "first").await;
    }
    let mut secrets = Vec::new();
    for number in 0..3 {
        secrets.push(plane.key(&ada, json!({"name": format!("Ada's {number}")})).await.1);
    }
    let (_, of_team) = plane.key(&bob, json!({"name": "The team's", "team": "research"})).await;
    let first = plane.look_up(&secrets[0]).await;
    let tag = first.headers["etag"].clone();
    let record = first.with(200);
    assert!(record.get("owner_limits").is_none() && record.get("team_limits").is_none(), "{record}");

    let told = plane.store().last_change().await.unwrap();
    let limits = json!({"concurrent_requests": 20, "quotas": [{"usd": "5", "per": "day"}]});
    let user = plane.operate("PATCH", "/api/v1/users/ada", json!({"limits": limits})).await.with(200);
    assert_eq!((&user["limits"], &user["name"]), (&limits, &json!("User ada")));
    assert_eq!(plane.store().last_change().await.unwrap(), told + 3, "an event for each of her keys");
    for secret in &secrets {
        let answer = plane.look_up(secret).await;
        assert_ne!(answer.headers["etag"], tag);
        let record = answer.with(200);
        assert_eq!(record["owner_limits"], limits);
        let (read, _) = parse_record(record.to_string().as_bytes()).unwrap();
        assert_eq!(read.terms.unwrap().owner.unwrap().quotas.len(), 1);
    }
    let body = json!({"limits": {"requests_per_minute": 6000}, "name": "Research and more"});
    let team = plane.operate("PATCH", "/api/v1/teams/research", body.clone()).await.with(200);
    assert_eq!((&team["limits"], &team["name"]), (&body["limits"], &body["name"]));
    assert_eq!(plane.look_up(&of_team).await.with(200)["team_limits"], body["limits"]);
    assert_eq!(plane.store().last_change().await.unwrap(), told + 4);
    plane.operate("PATCH", "/api/v1/teams/research", body.clone()).await.with(200);
    assert_eq!(plane.store().last_change().await.unwrap(), told + 4, "nobody is told of what is so already");
    for (token, path) in [(&ada, "/api/v1/users/ada"), (&bob, "/api/v1/teams/research")] {
        assert!(plane.get(token, path).await.with(200)["limits"].get("quotas").is_some() == (path.contains("users")));
    }
    plane.operate("PATCH", "/api/v1/users/ada", json!({"limits": {}})).await.with(200);
    assert!(plane.look_up(&secrets[1]).await.with(200).get("owner_limits").is_none());
    let audit = plane.get(OPERATOR, "/api/v1/audit?limit=3").await.with(200);
    let noted = |index: usize| (audit["data"][index]["action"].clone(), audit["data"][index]["target"].clone());
    assert_eq!(noted(0), (json!("user.update"), json!("ada")));
    assert_eq!(noted(1), (json!("team.update"), json!("research")));
    assert_eq!(audit["data"][1]["detail"], body);
}

async fn teams_and_users_are_the_operators_to_limit(plane: &Plane) {
    let (ada, bob) = (plane.user("ada").await, plane.user("bob").await);
    plane.team("research", "bob").await;
    plane.credit("ada", "1", "first").await;
    let body = json!({"limits": {"requests_per_minute": 5}});
    for (token, path) in [(&ada, "/api/v1/users/ada"), (&bob, "/api/v1/teams/research"), (&ada, "/api/v1/users/none")] {
        plane.call(token, "PATCH", path, body.clone()).await.refused(403, "forbidden");
    }
    for path in ["/api/v1/users/none", "/api/v1/teams/none"] {
        plane.operate("PATCH", path, body.clone()).await.refused(404, "not_found");
    }
    plane.get(&ada, "/api/v1/users/bob").await.refused(404, "not_found");

    // Whether a key's limits refuse is the operator's to say too; quotas are the user's own.
    let quotas = json!({"quotas": [{"usd": "5", "per": "day"}]});
    let attempt = json!({"name": "Some key", "limits": {"mode": "observe"}});
    let refused = plane.call(&ada, "POST", "/api/v1/keys", attempt).await;
    assert_eq!(refused.refused(403, "forbidden"), "limits.mode");
    let (id, secret) = plane.key(&ada, json!({"name": "Some key", "limits": quotas})).await;
    let path = format!("/api/v1/keys/{id}");
    plane.operate("PATCH", &path, json!({"limits": {"mode": "observe"}})).await.with(200);
    let key = plane.call(&ada, "PATCH", &path, json!({"limits": quotas})).await.with(200);
    assert_eq!(key["limits"]["mode"], "observe", "it stays as the operator has set it");
    let kept = json!({"limits": {"mode": "observe", "requests_per_minute": 5}, "allow_from": ["127.0.0.1"]});
    plane.call(&ada, "PATCH", &path, kept).await.with(200);
    let refused = plane.call(&ada, "PATCH", &path, json!({"limits": {"mode": "enforce"}})).await;
    assert_eq!(refused.refused(403, "forbidden"), "limits.mode");
    let record = plane.look_up(&secret).await.with(200);
    assert_eq!((&record["limits"]["mode"], &record["allow_from"]), (&json!("observe"), &json!(["127.0.0.1"])));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_gave_stays_beside_what_a_user_changes() {
    let most = Limits { requests_per_minute: Limit::at(600).unwrap(), ..Limits::UNLIMITED };
    let plane = Plane::limited(most).await;
    let ada = plane.user("ada").await;
    plane.credit("ada", "1", "first").await;
    let (id, _) = plane.key(&ada, json!({"name": "Some key"})).await;
    let path = format!("/api/v1/keys/{id}");
    let more = json!({"requests_per_minute": 6000, "quotas": [{"usd": "5", "per": "day"}]});
    let change = |limits: &Value| plane.call(&ada, "PATCH", &path, json!({"limits": limits}));
    assert_eq!(change(&more).await.refused(400, "invalid_value"), "limits.requests_per_minute");
    plane.operate("PATCH", &path, json!({"limits": {"requests_per_minute": 6000}})).await.with(200);
    assert_eq!(change(&more).await.with(200)["limits"], more);
    assert_eq!(
        change(&json!({"requests_per_minute": 6001})).await.refused(400, "invalid_value"),
        "limits.requests_per_minute"
    );
    change(&json!({"requests_per_minute": 5})).await.with(200);
    assert_eq!(change(&more).await.refused(400, "invalid_value"), "limits.requests_per_minute", "given up is given up");
}

/// A key that is full to the brim can be disabled.
async fn what_a_key_has_stands_in_no_changes_way(plane: &Plane) {
    let ada = plane.user("ada").await;
    plane.credit("ada", "1", "first").await;
    let (id, _) = plane.key(&ada, json!({"name": "Some key"})).await;
    let path = format!("/api/v1/keys/{id}");
    let mut tx = plane.store().begin().await.unwrap();
    let full = json!(vec!["m".repeat(250); 200]).to_string();
    sqlx::query("UPDATE keys SET models = $1").bind(full).execute(&mut *tx).await.unwrap();
    plane.store().commit(tx).await.unwrap();
    assert_eq!(plane.call(&ada, "PATCH", &path, json!({"enabled": false})).await.with(200)["state"], "disabled");
    let refused = plane.operate("PATCH", &path, json!({"allow_from": ["10.0.0.0/8"]})).await;
    assert_eq!(refused.refused(400, "invalid_value"), "models");
}

async fn what_is_wrong_is_named(plane: &Plane) {
    plane.user("ada").await;
    let (id, _) = plane.key(OPERATOR, json!({"name": "Some key"})).await;
    let quota = |quota: Value| json!({"quotas": [{"requests": 1, "per": "day"}, quota]});
    for (limits, field) in [
        (quota(json!({"usd": "5", "per": "fortnight"})), "limits.quotas[1].per"),
        (quota(json!({"usd": "5", "per": "day", "zone": "Europe/Atlantis"})), "limits.quotas[1].zone"),
        (quota(json!({"usd": "0", "per": "day"})), "limits.quotas[1].usd"),
        (quota(json!({"usd": 0.5, "per": "day"})), "limits.quotas[1].usd"),
        (quota(json!({"usd": "5"})), "limits.quotas[1]"),
        (quota(json!({"per": "day"})), "limits.quotas[1]"),
        (quota(json!({"usd": "5", "tokens": 5, "per": "day"})), "limits.quotas[1].usd"),
        (quota(json!({"requests": 7, "per": "day"})), "limits.quotas[1]"),
        (quota(json!({"usd": "5", "per": "day", "carried": "1"})), "limits.quotas[1]"),
        (json!({"requests_per_minute": 0}), "limits.requests_per_minute"),
        (json!({"tokens_per_minute": "many"}), "limits.tokens_per_minute"),
        (json!({"concurrent_requests": -1}), "limits.concurrent_requests"),
        (json!({"requests_per_hour": 5}), "limits.requests_per_hour"),
    ] {
        for path in [format!("/api/v1/keys/{id}"), "/api/v1/users/ada".to_owned()] {
            let refused = plane.operate("PATCH", &path, json!({"limits": limits})).await;
            let text = refused.text.clone();
            let named = refused.refused(400, "invalid_value");
            let named = named.as_str().unwrap();
            // What the JSON itself has wrong is told of the object that has it.
            assert!(named == field || field.starts_with(named) && named.len() > 5, "{named} for {limits}: {text}");
        }
    }
    for (body, field) in [
        (json!({"limits": {"models": {"": {}}}}), "limits.models."),
        (json!({"limits": {"models": {"a-*": {"requests_per_minute": 0}}}}), "limits.models.a-*.requests_per_minute"),
        (json!({"allow_from": []}), "allow_from"),
        (json!({"allow_from": ["10.0.0.0/33"]}), "allow_from[0]"),
        (json!({"allow_from": vec!["10.0.0.0/8"; 257]}), "allow_from"),
    ] {
        let refused = plane.operate("PATCH", &format!("/api/v1/keys/{id}"), body.clone()).await;
        assert_eq!(refused.refused(400, "invalid_value"), field, "{body}");
    }
    let long: serde_json::Map<_, _> =
        (0..200).map(|number| (format!("{number}-{}", "m".repeat(240)), json!({"requests_per_minute": 1}))).collect();
    let refused = plane.operate("PATCH", &format!("/api/v1/keys/{id}"), json!({"limits": {"models": long}})).await;
    assert_eq!(refused.refused(400, "invalid_value"), "limits", "no gateway reads so long a record");
}

async fn a_running_gateway_holds_a_team_to_them(plane: &Plane) {
    let upstream = answering().await;
    let gateway = gateway_of(&config(&upstream, ""), plane).await;
    plane.user("ada").await;
    plane.team("research", "ada").await;
    plane.credit("research", "1", "first").await;
    let mut secrets = Vec::new();
    for number in 0..2 {
        let body = json!({"name": format!("Key {number}"), "team": "research"});
        secrets.push(plane.key(OPERATOR, body).await.1);
    }
    let mut client = gateway.connect().await;
    for secret in &secrets {
        assert_eq!(ask(&mut client, secret).await.status, 200);
    }
    let set = |limits: Value| plane.operate("PATCH", "/api/v1/teams/research", json!({"limits": limits}));
    set(json!({"quotas": [{"requests": 5, "per": "month"}]})).await.with(200);
    let start = Instant::now();
    let mut answered = 0;
    let refused = loop {
        // Each key in turn: they have one room.
        let answer = ask(&mut client, &secrets[answered % 2]).await;
        if answer.status == 429 {
            break answer;
        }
        answered += 1;
        assert!(start.elapsed() < PATIENCE && answered < 100, "the limit does not arrive");
    };
    let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("team research") && message.contains('5'), "{message}");
    set(json!({})).await.with(200);
    let start = Instant::now();
    while ask(&mut client, &secrets[0]).await.status != 200 {
        assert!(start.elapsed() < PATIENCE, "the limit stays");
    }
}

/// What a command said of why it failed, if it did.
async fn command(plane: &Plane, token: &str, words: &str) -> Result<String, String> {
    let words: Vec<_> = words.split(' ').map(str::to_owned).collect();
    let mut command = keymeter(&[]);
    command.args(words).args(["--control", &plane.url("")]).env("KEYMETER_CONTROL_TOKEN", token);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

async fn commands_set_and_clear_them(plane: &Plane) {
    let ada = plane.user("ada").await;
    let run = async |words: &str| command(plane, OPERATOR, words).await.unwrap_or_else(|error| panic!("{error}"));
    let words =
        "keys create --name Some_key --quota usd=100/month@Europe/Berlin --mode observe --allow-from 10.0.0.0/8";
    let secret = run(words).await;
    let record = plane.look_up(secret.trim()).await.with(200);
    let month = json!({"usd": "100", "per": "month", "zone": "Europe/Berlin"});
    assert_eq!(record["limits"], json!({"mode": "observe", "quotas": [month]}));
    assert_eq!(record["allow_from"], json!(["10.0.0.0/8"]));
    let id = record["id"].as_str().unwrap();
    let change = async |options: &str| {
        run(&format!("keys update {options} {id}")).await;
        plane.look_up(secret.trim()).await.with(200)["limits"].clone()
    };
    let day = json!({"tokens": 5, "per": "day"});
    let limits = change("--quota tokens=5/day --requests-per-minute 7").await;
    assert_eq!(limits, json!({"mode": "observe", "requests_per_minute": 7, "quotas": [month, day]}));
    let limits = change("--quota usd=7/month --clear mode").await;
    assert_eq!(limits["quotas"][0], json!({"usd": "7", "per": "month"}), "it takes the place of the one of its name");
    assert!(limits.get("mode").is_none() && limits["requests_per_minute"] == 7, "{limits}");
    assert!(change("--clear quotas").await.get("quotas").is_none());

    run("users limits ada --quota requests=1000/5h --concurrent-requests 3").await;
    run("users limits ada --tokens-per-minute 9").await;
    let own = plane.get(&ada, "/api/v1/users/ada").await.with(200)["limits"].clone();
    let five_hours = json!({"requests": 1000, "per": "5h"});
    assert_eq!(own, json!({"concurrent_requests": 3, "tokens_per_minute": 9, "quotas": [five_hours]}));
    run("users limits ada --clear quotas,concurrent_requests").await;
    assert_eq!(plane.get(&ada, "/api/v1/users/ada").await.with(200)["limits"], json!({"tokens_per_minute": 9}));
    plane.team("research", "ada").await;
    run("teams limits research --quota usd=500/month").await;
    assert!(run("teams show research").await.contains("500"));
    run("teams limits research --clear limits").await;
    assert_eq!(plane.get(OPERATOR, "/api/v1/teams/research").await.with(200)["limits"], json!({}));
    let refused = command(plane, &ada, "teams limits research --quota usd=500/month").await.unwrap_err();
    assert_eq!(refused, "only the operator may do this (403)\n");
    let refused = command(plane, OPERATOR, "teams limits research").await.unwrap_err();
    assert!(refused.contains("--quota"), "{refused}");
}

async fn commands_set_limits_of_models_and_what_was_used_elsewhere(plane: &Plane) {
    let run = async |words: &str| command(plane, OPERATOR, words).await.unwrap_or_else(|error| panic!("{error}"));
    let words = "keys create --name Some_key --model-limit gpt-4o*:usd=5/day,carried=1.50,until=2099-01-01 \
                 --model-limit gpt-4o*:requests_per_minute=60 --model-limit llama3:8b:concurrent_requests=2";
    let secret = run(words).await;
    let record = plane.look_up(secret.trim()).await.with(200);
    let day = json!({"usd": "5", "per": "day", "carried": "1.5", "until": "2099-01-01T00:00:00Z"});
    let small = json!({"concurrent_requests": 2});
    let models = json!({"gpt-4o*": {"requests_per_minute": 60, "quotas": [day]}, "llama3:8b": small});
    assert_eq!(record["limits"], json!({"models": models}));
    let id = record["id"].as_str().unwrap();
    let change = async |options: &str| {
        run(&format!("keys update {options} {id}")).await;
        plane.look_up(secret.trim()).await.with(200)["limits"].clone()
    };
    let limits = change("--model-limit gpt-4o*:usd=6/day --quota usd=9/month,carried=2,until=2099-01-01").await;
    let day = json!({"usd": "6", "per": "day", "carried": "1.5", "until": "2099-01-01T00:00:00Z"});
    assert_eq!(limits["models"], json!({"gpt-4o*": {"requests_per_minute": 60, "quotas": [day]}, "llama3:8b": small}));
    let shown = run(&format!("keys show {id}")).await;
    let lines = [
        ("quota", "usd=9/month,carried=2,until=2099-01-01T00:00:00Z"),
        ("model_limit", "gpt-4o*:requests_per_minute=60"),
        ("model_limit", "gpt-4o*:usd=6/day,carried=1.5,until=2099-01-01T00:00:00Z"),
        ("model_limit", "llama3:8b:concurrent_requests=2"),
    ];
    let told: Vec<_> = shown.lines().filter_map(|line| line.split_once(' ')).collect();
    for (name, value) in lines {
        assert!(told.iter().any(|(known, words)| (*known, words.trim()) == (name, value)), "{name} {value}: {shown}");
    }
    let limits = change("--quota usd=9/month,carried=0,until=2099-01-01").await;
    assert_eq!(limits["quotas"][0]["carried"], "0", "what is stated takes the place of what was");
    let limits = change("--clear model_limits").await;
    assert!(limits.get("models").is_none() && limits["quotas"][0]["usd"] == "9", "{limits}");
}

async fn the_page_sets_them_and_shows_what_is_used(plane: &Plane) {
    let ada = plane.user("ada").await;
    plane.credit("ada", "1", "first").await;
    let mut user = Browser::signed_in(plane, &ada).await;
    let quotas = "usd=5/month@Europe/Berlin\r\nrequests=4/day";
    let fields = [("once", "1"), ("name", "Some key"), ("limits.quotas", quotas), ("allow_from", "10.0.0.0/8, ::1")];
    user.fill_in("/keys/new", "/keys/new", &fields).await.with(201);
    let key = plane.get(&ada, "/api/v1/keys").await.with(200)["data"][0].clone();
    let month = json!({"usd": "5", "per": "month", "zone": "Europe/Berlin"});
    assert_eq!(key["limits"], json!({"quotas": [month, {"requests": 4, "per": "day"}]}));
    assert_eq!(key["allow_from"], json!(["10.0.0.0/8", "::1"]));
    let id = key["id"].as_str().unwrap();
    let mut now = record("r1", id, "ada", "0.5");
    now["time"] = json!(jiff::Timestamp::now());
    used(plane, &[now]).await;
    let path = format!("/keys/{id}");
    let shown = user.get(&path).await.with(200);
    shown
        .says("<strong>$5.00</strong> a month")
        .says("of Europe/Berlin")
        .says("<meter min=\"0\" max=\"1000\"")
        .says("$0.50 of $5.00 used");
    let set = format!("{path}/edit");
    user.get(&set)
        .await
        .with(200)
        .says("usd=5/month@Europe/Berlin\nrequests=4/day</textarea>")
        .says("10.0.0.0/8\n::1</textarea>")
        .lacks("name=\"limits.mode\"");
    let name = ("name", "Some key");
    let fields = [name, ("limits.requests_per_minute", "7"), ("limits.quotas", "usd=6/month\nusd=7/month")];
    user.fill_in(&path, &set, &fields)
        .await
        .with(400)
        .says("id=\"field-limits-quotas-fault\"")
        .says("There are two quotas");
    let saved = format!("{path}?done=saved");
    let fields =
        [name, ("limits.requests_per_minute", "7"), ("limits.quotas", "usd=6/month"), ("limits.mode", "observe")];
    user.fill_in(&path, &set, &fields).await.leads_to(&saved);
    let key = plane.get(&ada, &format!("/api/v1/keys/{id}")).await.with(200);
    assert_eq!(key["limits"], json!({"requests_per_minute": 7, "quotas": [{"usd": "6", "per": "month"}]}));
    assert_eq!(key["allow_from"], Value::Null);

    let mut operator = Browser::signed_in(plane, OPERATOR).await;
    let refused = operator.fill_in(&path, &set, &[name, ("limits.quotas", "x")]).await.with(400);
    refused.says("field-limits-quotas-fault").says("name=\"priority\" type=\"text\" value=\"0\"");
    operator.fill_in(&path, &set, &[name, ("limits.mode", "observe")]).await.leads_to(&saved);
    operator.get(&path).await.says("requests are counted, and none is refused");
    operator.get("/users").await.with(200).says("href=\"/users/ada\"");
    let fields = [("limits.quotas", "usd=20/month"), ("limits.concurrent_requests", "3")];
    operator.fill_in("/users/ada", "/users/ada/edit", &fields).await.leads_to("/users/ada?done=saved");
    user.get("/users/ada").await.with(200).says("<strong>$20.00</strong> a month").lacks("/users/ada/edit");
    user.get("/users").await.with(403);
    user.get("/users/ada/edit").await.with(403);
    user.fill_in("/", "/users/ada/edit", &fields).await.with(403);
    let limits = plane.get(&ada, "/api/v1/users/ada").await.with(200)["limits"].clone();
    assert_eq!(limits, json!({"concurrent_requests": 3, "quotas": [{"usd": "20", "per": "month"}]}));

    plane.team("research", "ada").await;
    let fields = [("limits.quotas", "tokens=50/day")];
    operator.fill_in("/teams/research", "/teams/research/edit", &fields).await.leads_to("/teams/research?done=saved");
    user.get("/teams/research").await.with(200).says("<strong>50 tokens</strong> a day").lacks("/teams/research/edit");
    user.fill_in("/teams/research", "/teams/research/edit", &fields).await.with(403);
    operator
        .fill_in("/teams/research", "/teams/research/edit", &[("limits.quotas", "tokens=50/fortnight")])
        .await
        .with(400)
        .says("Line 1: a quota's span is");
}
