//! Who it is that an issuer names: users who are found by a value, or made, and how long they stay signed in.

use serde_json::{Value, json};

use super::{super::page::Browser, over_both_by, user};
use crate::{
    control::upgrade::as_version_9,
    support::{
        control::{OPERATOR, Plane},
        process::keymeter,
        provider::Provider,
    },
};

over_both_by! {
    nobody_is_let_in_whom_nobody_knows("")
    a_user_is_made_at_the_first_sign_in("create_users: true")
    several_who_come_at_once_are_one_user("create_users: true")
    a_session_ends_with_what_it_began_with("")
    a_value_is_one_users("")
    a_value_is_set_by_command_and_on_the_page("")
    where_it_is_no_address_the_case_matters("claim: sub, create_users: true")
    users_of_an_earlier_version_sign_in_by_nothing("")
}

async fn users(plane: &Plane) -> Vec<Value> {
    plane.get(OPERATOR, "/api/v1/users").await.with(200)["data"].as_array().unwrap().clone()
}

async fn nobody_is_let_in_whom_nobody_knows(plane: &Plane, issuer: &Provider) {
    plane.user("ada").await;
    let mut browser = Browser::new(plane);
    let page = browser.comes_by(issuer, "ada@example.com").await.with(403);
    page.says("Nobody here signs in as “ada@example.com”").says("ask the operator");
    browser.get("/").await.leads_to("/sign-in");
    assert_eq!(users(plane).await.len(), 1);
    user(plane, "bob", "bob@example.com").await;
    plane.operate("DELETE", "/api/v1/users/bob", Value::Null).await.with(204);
    Browser::new(plane).comes_by(issuer, "bob@example.com").await.with(403);
    for strange in ["<script>alert(1)</script>", "a\u{0}b", " ada@example.com"] {
        let page = Browser::new(plane).comes_as(issuer, &json!({"email": strange})).await.with(403);
        page.lacks("<script>alert").says("ask the operator");
    }
}

async fn a_user_is_made_at_the_first_sign_in(plane: &Plane, issuer: &Provider) {
    // Neither a user's id nor a team's is given again, nor the operator's name.
    plane.user("ada").await;
    plane.team("ada-2", "ada").await;
    for (email, name, id, called) in [
        ("Ada@example.com", json!("Ada L."), "ada-3", "Ada L."),
        ("operator@example.com", json!(null), "operator-2", "operator@example.com"),
        ("grace.hopper@example.com", json!("Grace \u{202e}Hopper"), "grace-hopper", "Grace Hopper"),
    ] {
        let mut browser = Browser::new(plane);
        browser.comes_as(issuer, &json!({"email": email, "name": name})).await.with(200);
        browser.get("/").await.with(200);
        let made = plane.get(OPERATOR, &format!("/api/v1/users/{id}")).await.with(200);
        assert_eq!((&made["name"], &made["sign_in"]), (&json!(called), &json!(email)));
        // They are users as others are, and no more.
        browser.get("/users").await.with(403);
        browser.get(&format!("/users/{id}")).await.with(200);
        Browser::new(plane).comes_by(issuer, &email.to_uppercase()).await.with(200);
    }
    assert_eq!(users(plane).await.len(), 4, "whoever comes again is the same");
    let audit = plane.get(OPERATOR, "/api/v1/audit").await.with(200);
    let made = audit["data"]
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["target"] == "ada-3" && entry["action"] == "user.create");
    let made = made.unwrap();
    assert_eq!((&made["actor"], &made["detail"]["sign_in"]), (&json!("ada-3"), &json!("Ada@example.com")));
    let long = format!("{}@example.com", "a".repeat(300));
    Browser::new(plane).comes_by(issuer, &long).await.with(403);
    assert_eq!(users(plane).await.len(), 4);
}

async fn several_who_come_at_once_are_one_user(plane: &Plane, issuer: &Provider) {
    let second = plane.beside().await;
    let browsers = (0..8).map(|number| Browser::new(if number % 2 == 0 { plane } else { &second }));
    let coming = browsers.map(|mut browser| async move {
        browser.comes_by(issuer, "ada@example.com").await.with(200);
        browser.get("/users/ada").await.with(200);
    });
    futures_util::future::join_all(coming).await;
    assert_eq!(users(plane).await.len(), 1);
}

async fn a_session_ends_with_what_it_began_with(plane: &Plane, issuer: &Provider) {
    user(plane, "ada", "ada@example.com").await;
    let signed_in = async || {
        let mut browser = Browser::new(plane);
        browser.comes_by(issuer, "ada@example.com").await.with(200);
        browser.get("/").await.with(200);
        browser
    };
    let mut browser = signed_in().await;
    // Another name or another spelling ends nothing.
    plane.operate("PATCH", "/api/v1/users/ada", json!({"name": "Ada", "sign_in": "ADA@example.com"})).await.with(200);
    browser.get("/").await.with(200);
    plane.operate("POST", "/api/v1/users/ada/token", Value::Null).await.with(200);
    browser.get("/").await.leads_to("/sign-in");

    let mut browser = signed_in().await;
    plane.operate("PATCH", "/api/v1/users/ada", json!({"sign_in": "ada@elsewhere.example"})).await.with(200);
    browser.get("/").await.leads_to("/sign-in");
    plane.operate("PATCH", "/api/v1/users/ada", json!({"sign_in": "ada@example.com"})).await.with(200);

    let mut browser = signed_in().await;
    plane.operate("DELETE", "/api/v1/users/ada", Value::Null).await.with(204);
    browser.get("/").await.leads_to("/sign-in");
    // Their value may be another's now; a session that is left is not theirs.
    user(plane, "ada2", "ada@example.com").await;
    browser.get("/").await.leads_to("/sign-in");
    signed_in().await.get("/users/ada2").await.with(200);
}

async fn a_value_is_one_users(plane: &Plane, _: &Provider) {
    user(plane, "ada", "ada@example.com").await;
    plane.user("bob").await;
    let refused =
        plane.operate("POST", "/api/v1/users", json!({"id": "eve", "name": "Eve", "sign_in": "ADA@example.com"})).await;
    assert_eq!(refused.refused(409, "conflict"), "sign_in");
    for value in ["ada@example.com", "Ada@Example.Com"] {
        let refused = plane.operate("PATCH", "/api/v1/users/bob", json!({"sign_in": value})).await;
        assert_eq!(refused.refused(409, "conflict"), "sign_in");
    }
    for value in ["", " a", "a\u{0}b", &"a".repeat(256)] {
        for (method, path, body) in [
            ("PATCH", "/api/v1/users/bob", json!({"sign_in": value})),
            ("POST", "/api/v1/users", json!({"id": "eve", "name": "Eve", "sign_in": value})),
        ] {
            assert_eq!(plane.operate(method, path, body).await.refused(400, "invalid_value"), "sign_in");
        }
    }
    let bob = plane.get(OPERATOR, "/api/v1/users/bob").await.with(200);
    assert_eq!(bob["sign_in"], Value::Null);
    plane.operate("PATCH", "/api/v1/users/ada", json!({"sign_in": null})).await.with(200);
    plane.operate("PATCH", "/api/v1/users/ada", json!({"name": "Ada"})).await.with(200);
    plane.operate("PATCH", "/api/v1/users/bob", json!({"sign_in": "ada@example.com"})).await.with(200);
    let audit = plane.get(OPERATOR, "/api/v1/audit?limit=1").await.with(200)["data"][0].clone();
    assert_eq!((&audit["action"], &audit["detail"]["sign_in"]), (&json!("user.update"), &json!("ada@example.com")));
    // Letters beyond ASCII that look like others are others: K is the sign of the kelvin.
    plane.operate("PATCH", "/api/v1/users/bob", json!({"sign_in": "k@example.com"})).await.with(200);
    plane.operate("PATCH", "/api/v1/users/ada", json!({"sign_in": "\u{212a}@example.com"})).await.with(200);
}

async fn a_value_is_set_by_command_and_on_the_page(plane: &Plane, issuer: &Provider) {
    let url = plane.url("");
    let command = async |words: &[&str]| {
        let mut command = keymeter(words);
        command.env("KEYMETER_CONTROL_URL", &url).env("KEYMETER_CONTROL_TOKEN", OPERATOR);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let made = command(&["users", "create", "ada", "--name", "Ada", "--sign-in", "ada@example.com"]).await;
    assert!(made.0, "{made:?}");
    Browser::new(plane).comes_by(issuer, "ada@example.com").await.with(200);
    assert!(command(&["users", "update", "ada", "--sign-in", "a@example.com", "--name", "Ada L."]).await.0);
    let listed = command(&["users", "list"]).await.1;
    assert!(listed.contains("a@example.com") && listed.contains("Ada L."), "{listed}");
    assert!(command(&["users", "update", "ada", "--no-sign-in"]).await.0);
    Browser::new(plane).comes_by(issuer, "a@example.com").await.with(403);
    let nothing = command(&["users", "update", "ada"]).await;
    assert!(!nothing.0 && nothing.1.contains("nothing to change in user `ada`"), "{nothing:?}");
    assert!(!command(&["users", "update", "ada", "--no-sign-in", "--sign-in", "a"]).await.0);

    let mut browser = Browser::signed_in(plane, OPERATOR).await;
    let bob = [("id", "bob"), ("name", "Bob"), ("sign_in", "bob@example.com")];
    browser.fill_in("/users/new", "/users/new", &bob).await.with(201);
    let again = [("id", "eve"), ("name", "Eve"), ("sign_in", "Bob@example.com")];
    browser.fill_in("/users/new", "/users/new", &again).await.with(409).says("id=\"field-sign_in-fault\"");
    browser.get("/users/bob").await.with(200).says("Signs in as").says("bob@example.com");
    browser.get("/users/bob/edit").await.with(200).says("value=\"bob@example.com\"");
    let path = "/users/bob/edit";
    browser
        .fill_in(path, path, &[("name", "Bob"), ("sign_in", "b@example.com")])
        .await
        .leads_to("/users/bob?done=saved");
    Browser::new(plane).comes_by(issuer, "b@example.com").await.with(200);
    browser.fill_in(path, path, &[("name", "Bob B.")]).await.leads_to("/users/bob?done=saved");
    Browser::new(plane).comes_by(issuer, "b@example.com").await.with(200);
    browser.fill_in(path, path, &[("sign_in", "")]).await.leads_to("/users/bob?done=saved");
    Browser::new(plane).comes_by(issuer, "b@example.com").await.with(403);
    browser.get("/users/bob").await.with(200).lacks("Signs in as");
}

async fn where_it_is_no_address_the_case_matters(plane: &Plane, issuer: &Provider) {
    user(plane, "ada", "Subject-A").await;
    let mut browser = Browser::new(plane);
    browser.comes_as(issuer, &json!({"sub": "Subject-A", "email_verified": false})).await.with(200);
    browser.get("/users/ada").await.with(200);
    Browser::new(plane).comes_as(issuer, &json!({"sub": "subject-a"})).await.with(403);
    assert_eq!(users(plane).await.len(), 1);
    Browser::new(plane).comes_as(issuer, &json!({"sub": "auth0|5F7c"})).await.with(200);
    assert_eq!(plane.get(OPERATOR, "/api/v1/users/auth0-5f7c").await.with(200)["sign_in"], "auth0|5F7c");
}

async fn users_of_an_earlier_version_sign_in_by_nothing(plane: &Plane, issuer: &Provider) {
    let ada = plane.user("ada").await;
    as_version_9(plane).await;
    let later = plane.beside().await;
    later.get(&ada, "/api/v1/users/ada").await.with(200);
    assert_eq!(later.get(OPERATOR, "/api/v1/users/ada").await.with(200)["sign_in"], Value::Null);
    later.operate("PATCH", "/api/v1/users/ada", json!({"sign_in": "ada@example.com"})).await.with(200);
    Browser::new(&later).comes_by(issuer, "ada@example.com").await.with(200);
}
