//! Forms of the page: making and changing keys, teams and users, by role; tokens; and what is said once.

use serde_json::{Value, json};

use super::{over_both, page::Browser};
use crate::support::control::{OPERATOR, Plane};

over_both! {
    a_key_is_renamed_and_changed_by_whoever_manages_it
    limits_of_models_are_set_by_whoever_manages_the_key
    an_owner_is_chosen_from_those_who_can_pay
    a_team_is_made_by_the_operator_or_for_oneself
    a_user_is_made_given_another_token_and_deleted
}

async fn a_key_is_renamed_and_changed_by_whoever_manages_it(plane: &Plane) {
    let (ada, bob) = (plane.user("ada").await, plane.user("bob").await);
    plane.team("research", "ada").await;
    plane.credit("research", "1", "first").await;
    plane.operate("PUT", "/api/v1/teams/research/members/bob", json!({"role": "member"})).await.with(200);
    let body = json!({
        "name": "Some key", "team": "research", "models": ["a,b", "c"], "expires_at": "2099-01-02T03:04:05.678Z",
        "limits": {"requests_per_minute": 5, "models": {"c": {"tokens_per_minute": 9}}},
    });
    let (id, _) = plane.key(OPERATOR, body).await;
    let (path, edit, call) = (format!("/keys/{id}"), format!("/keys/{id}/edit"), format!("/api/v1/keys/{id}"));
    let before = plane.get(OPERATOR, &call).await.with(200);
    let mut owner = Browser::signed_in(plane, &ada).await;
    let form = owner.get(&edit).await.with(200).says("a,b\nc</textarea>").says("value=\"2099-01-02T03:04:05\"");
    assert!(!form.text.contains("name=\"priority\"") && !form.text.contains("name=\"limits.mode\""));
    let as_it_is = [
        ("name", "Some key"),
        ("models", "a,b\r\nc"),
        ("limits.requests_per_minute", "5"),
        ("expires_at", "2099-01-02T03:04:05"),
    ];
    owner.fill_in(&edit, &edit, &as_it_is).await.leads_to(&format!("{path}?done=saved"));
    assert_eq!(plane.get(OPERATOR, &call).await.with(200), before, "what a form cannot say of a key stays");
    let changed = [("name", "Renamed"), ("models", "d"), ("expires_at", ""), ("allow_from", "10.0.0.0/8")];
    owner.fill_in(&edit, &edit, &changed).await.leads_to(&format!("{path}?done=saved"));
    let after = plane.get(OPERATOR, &call).await.with(200);
    assert_eq!(
        (&after["name"], &after["models"], &after["expires_at"]),
        (&json!("Renamed"), &json!(["d"]), &Value::Null)
    );
    assert_eq!(after["limits"], json!({"models": {"c": {"tokens_per_minute": 9}}}), "limits of models stay");
    assert_eq!(after["allow_from"], json!(["10.0.0.0/8"]));
    owner.get(&format!("{path}?done=saved")).await.says("The changes are saved.").says("Renamed");
    let refused = owner.fill_in(&edit, &edit, &[("name", "x"), ("models", "kept")]).await.with(400);
    assert_eq!(refused.text.matches("A name is 3 to 50 characters").count(), 1, "an error is told once");
    refused.says("kept</textarea>").says("autofocus").says("<title>Error: ");
    let mut member = Browser::signed_in(plane, &bob).await;
    member.get(&path).await.with(200).lacks(&edit);
    member.get(&edit).await.with(403);
    member.fill_in("/", &edit, &changed).await.with(403);
}

async fn limits_of_models_are_set_by_whoever_manages_the_key(plane: &Plane) {
    let ada = plane.user("ada").await;
    plane.credit("ada", "1", "first").await;
    let mut owner = Browser::signed_in(plane, &ada).await;
    let lines = "gpt-4o*: usd=5/day,carried=0.5,until=2099-01-01T00:00:00Z\r\nllama3:8b: requests_per_minute=60";
    let wrong = [("once", "1"), ("name", "Some key"), ("limits.models", "m: usd=1/day\r\nllama3:8b")];
    owner
        .fill_in("/keys/new", "/keys/new", &wrong)
        .await
        .with(400)
        .says("id=\"field-limits-models-fault\"")
        .says("Line 2: a limit of models is written as GLOB:LIMIT");
    let fields = [("once", "1"), ("name", "Some key"), ("limits.models", lines)];
    owner.fill_in("/keys/new", "/keys/new", &fields).await.with(201);
    let key = plane.get(&ada, "/api/v1/keys").await.with(200)["data"][0].clone();
    let day = json!({"usd": "5", "per": "day", "carried": "0.5", "until": "2099-01-01T00:00:00Z"});
    let models = json!({"gpt-4o*": {"quotas": [day]}, "llama3:8b": {"requests_per_minute": 60}});
    assert_eq!(key["limits"], json!({"models": models}));
    let path = format!("/keys/{}", key["id"].as_str().unwrap());
    let (edit, call, saved) = (format!("{path}/edit"), format!("/api/v1{path}"), format!("{path}?done=saved"));
    owner
        .get(&path)
        .await
        .with(200)
        .says("Of <code>llama3:8b</code>")
        .says("<code>requests_per_minute=60</code>")
        .says("<code>usd=5/day,carried=0.5,until=2099-01-01T00:00:00Z</code>");
    owner.get(&edit).await.with(200).says(&format!("{}</textarea>", lines.replace('\r', "")));
    let fields = [("name", "Renamed"), ("limits.requests_per_minute", "7"), ("limits.models", lines)];
    owner.fill_in(&edit, &edit, &fields).await.leads_to(&saved);
    let limits = plane.get(&ada, &call).await.with(200)["limits"].clone();
    assert_eq!(limits, json!({"requests_per_minute": 7, "models": models}), "other fields leave them alone");
    let fields = [("name", "Renamed"), ("limits.models", "gpt-4o*: usd=6/day")];
    owner.fill_in(&edit, &edit, &fields).await.leads_to(&saved);
    let day = json!({"usd": "6", "per": "day", "carried": "0.5", "until": "2099-01-01T00:00:00Z"});
    let limits = plane.get(&ada, &call).await.with(200)["limits"].clone();
    assert_eq!(limits, json!({"models": {"gpt-4o*": {"quotas": [day]}}}), "what was used elsewhere stays");
    let fields = [("name", "Renamed"), ("limits.models", "")];
    owner.fill_in(&edit, &edit, &fields).await.leads_to(&saved);
    assert_eq!(plane.get(&ada, &call).await.with(200)["limits"], json!({}));
}

async fn an_owner_is_chosen_from_those_who_can_pay(plane: &Plane) {
    let ada = plane.user("ada").await;
    plane.user("bob").await;
    plane.team("research", "bob").await;
    plane.credit("research", "2.5", "first").await;
    let mut browser = Browser::signed_in(plane, OPERATOR).await;
    browser
        .get("/keys/new")
        .await
        .with(200)
        .says("Charged to nobody")
        .says("<option value=\"research\">Team research (research) · $2.50</option>")
        .says("<option value=\"ada\" disabled>User ada (ada) · its wallet is empty</option>")
        .lacks("value=\"bob\"");
    for (once, owner, owned) in [("1", "", json!([null, null])), ("2", "research", json!(["research", null]))] {
        let fields = [("once", once), ("name", "Some key"), ("owner", owner)];
        let made = browser.fill_in("/keys/new", "/keys/new", &fields).await.with(201);
        let record = plane.look_up(&made.secret()).await.with(200);
        assert_eq!(json!([record["team"], record["owner"]]), owned);
    }
    for (owner, status, words) in [("none", 404, "There is no user `none`"), ("ada", 402, "not above $0")] {
        let fields = [("once", "3"), ("name", "Some key"), ("owner", owner)];
        let refused = browser.fill_in("/keys/new", "/keys/new", &fields).await.with(status);
        assert_eq!(refused.text.matches(words).count(), 1, "{}", refused.text);
        refused.says("id=\"field-owner-fault\"");
    }
    let mut ada = Browser::signed_in(plane, &ada).await;
    let broke = ada.get("/keys/new").await.with(200).says("The wallet of ada is empty").lacks("field-name");
    broke.lacks("harged to nobody").lacks("research");
    plane.credit("ada", "1", "first").await;
    ada.get("/keys/new").await.with(200).says("field-name").lacks("harged to nobody").lacks("field-owner");
    let fields = [("once", "4"), ("name", "Some key"), ("owner", "bob")];
    ada.fill_in("/keys/new", "/keys/new", &fields).await.with(403).says("Only the operator sets `owner`");
}

async fn a_team_is_made_by_the_operator_or_for_oneself(plane: &Plane) {
    let (ada, _) = (plane.user("ada").await, plane.user("bob").await);
    let mut browser = Browser::signed_in(plane, OPERATOR).await;
    browser.get("/teams").await.says("There are no teams.").says("/teams/new");
    browser.get("/teams/new").await.with(200).says("User bob (bob)");
    let of = |id: &'static str, owner: &'static str| [("id", id), ("name", "Team"), ("owner", owner)];
    browser.fill_in("/teams/new", "/teams/new", &of("bobs", "")).await.with(400).says("field-owner-fault");
    browser.fill_in("/teams/new", "/teams/new", &of("No", "bob")).await.with(400).says("field-id-fault");
    browser.fill_in("/teams/new", "/teams/new", &of("bobs", "bob")).await.leads_to("/teams/bobs?done=made");
    browser.fill_in("/teams/new", "/teams/new", &of("bobs", "ada")).await.with(409).says("already");
    browser.get("/teams").await.with(200).says("/teams/bobs").says("/users/bob");
    browser.get("/teams/new").await.with(200).lacks("User bob (bob)");
    let mut ada = Browser::signed_in(plane, &ada).await;
    ada.get("/invitations").await.with(200).says("/teams/new");
    ada.get("/teams/new").await.with(200).says("You will own it.").lacks("field-owner");
    // Whoever a user names, it is theirs.
    ada.fill_in("/teams/new", "/teams/new", &of("adas", "bob")).await.leads_to("/teams/adas?done=made");
    assert_eq!(plane.get(OPERATOR, "/api/v1/users/ada").await.with(200)["team"], "adas");
    ada.get("/teams/new").await.with(409).says("aria-label=\"Pages\"");
    browser
        .fill_in("/teams/adas/edit", "/teams/adas/edit", &[("name", "Ada's")])
        .await
        .leads_to("/teams/adas?done=saved");
    browser.get("/teams/adas").await.with(200).says("Ada's").says("/teams/adas/edit");
    ada.get("/teams/adas").await.with(200).lacks("/teams/adas/edit");
}

async fn a_user_is_made_given_another_token_and_deleted(plane: &Plane) {
    let mut browser = Browser::signed_in(plane, OPERATOR).await;
    browser.get("/users").await.says("There are no users.").says("/users/new");
    let fields = [("id", "ada"), ("name", "Ada L.")];
    let first = browser.fill_in("/users/new", "/users/new", &fields).await.with(201).secret();
    browser.fill_in("/users/new", "/users/new", &fields).await.with(409).says("already").lacks("kmu-");
    let refused = browser.fill_in("/users/new", "/users/new", &[("id", "operator"), ("name", "X")]).await.with(400);
    refused.says("field-id-fault");
    let mut ada = Browser::signed_in(plane, &first).await;
    ada.get("/users/ada").await.with(200).says("Ada L.").says("/users/ada/token").lacks("/users/ada/delete");
    ada.get("/users/new").await.with(403);
    ada.fill_in("/", "/users/new", &[("id", "eve"), ("name", "Eve")]).await.with(403);

    let form = ada.get("/users/ada/token").await.with(200);
    let fields = [("form_token", form.hidden("form_token")), ("seen", form.hidden("seen"))];
    let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
    ada.send("/users/ada/token", &[fields[0], ("seen", "else")]).await.with(409).lacks("kmu-");
    let second = ada.send("/users/ada/token", &fields).await.with(200).says("this session is over").secret();
    assert_ne!(first, second);
    ada.send("/users/ada/token", &fields).await.leads_to("/sign-in");
    let mut ada = Browser::signed_in(plane, &second).await;
    ada.get("/").await.with(200);

    ada.fill_in("/", "/users/ada/delete", &[]).await.with(403);
    browser.get("/users/ada/delete").await.with(200).says("Delete “Ada L.”?");
    browser.fill_in("/users/ada/delete", "/users/ada/delete", &[]).await.leads_to("/users?done=deleted");
    ada.get("/").await.leads_to("/sign-in");
    browser.get("/users/ada").await.with(404);
}

#[tokio::test]
async fn of_many_owners_the_first_are_proposed_and_all_can_be_typed() {
    let plane = Plane::sqlite().await;
    for number in 0..=200 {
        plane.user(&format!("user_{number:03}")).await;
    }
    plane.credit("user_200", "1", "first").await;
    let mut browser = Browser::signed_in(&plane, OPERATOR).await;
    let form = browser.get("/keys/new").await.with(200).says("placeholder=\"Charged to nobody\"").says("<datalist");
    assert!(!form.text.contains("<select id=\"field-owner\""));
    let fields = [("once", "1"), ("name", "Some key"), ("owner", "user_200")];
    let made = browser.fill_in("/keys/new", "/keys/new", &fields).await.with(201);
    assert_eq!(plane.look_up(&made.secret()).await.with(200)["owner"], "user_200");
    let list = browser.get("/?owner=user_200").await.with(200);
    list.says("<option value=\"(nobody)\">Charged to nobody</option>").says("Some key").says("value=\"user_200\"");
    browser.get("/?owner=user_199").await.with(200).says("No key is like that.");
}

#[tokio::test]
async fn a_secrets_page_says_how_to_use_it() {
    for (section, url) in [
        ("gateway_url: 'https://llm.example/v1/'", Some("https://llm.example/v1/")),
        ("gateway_url: 'http://LLM.example:8080/base'", Some("http://llm.example:8080/base/v1/")),
        ("", None),
    ] {
        let plane = Plane::with(section).await;
        let mut browser = Browser::signed_in(&plane, OPERATOR).await;
        let fields = [("once", "1"), ("name", "Some key"), ("models", "gpt*\nllama-3'")];
        let page = browser.fill_in("/keys/new", "/keys/new", &fields).await.with(201);
        let secret = page.secret();
        let Some(url) = url else {
            page.says("gateway_url").lacks("curl ");
            continue;
        };
        page.says(&format!("<code id=\"base-url\">{}</code>", url.trim_end_matches('/')))
            .says(&format!("curl {url}chat/completions"))
            .says(&format!("Authorization: Bearer {secret}"))
            .says(r"llama-3'\''");
        let fields = [("once", "2"), ("name", "Some key"), ("models", "gpt*")];
        let page = browser.fill_in("/keys/new", "/keys/new", &fields).await.with(201);
        page.says(&format!("curl {url}models")).lacks("chat/completions");
    }
}

#[tokio::test]
async fn where_there_is_nothing_the_ways_to_others_stay() {
    let plane = Plane::sqlite().await;
    let mut browser = Browser::signed_in(&plane, OPERATOR).await;
    for path in ["/keys/none", "/teams/none", "/users/none", "/wallets/none", "/keys/none/edit", "/users/none/token"] {
        browser.get(path).await.with(404).says("aria-label=\"Pages\"").says("Not found");
    }
    let html = [("accept", "text/html,*/*;q=0.8")];
    let page = browser.ask("GET", "/nothing/<b>", &[], &html).await.with(404);
    assert!(page.headers.contains_key("content-security-policy"));
    page.says("There is no page").says("aria-label=\"Pages\"").lacks("<b>");
    browser.ask("GET", "/api/v1/nothing", &[], &html).await.with(404).says("{\"error\"");
    browser.get("/nothing").await.with(404).says("{\"error\"");
    let mut stranger = Browser::new(&plane);
    stranger.ask("GET", "/nothing", &[], &html).await.with(404).lacks("aria-label=\"Pages\"");
}
