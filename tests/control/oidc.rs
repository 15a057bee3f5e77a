//! Signing in to the page by an issuer (OpenID Connect), as a browser without a script sees it.

mod refused;
mod users;

use serde_json::{Value, json};

use super::page::{Browser, Page};
use crate::support::{
    control::{OPERATOR, Plane},
    provider::{Asked, PAGE, Provider},
};

/// One test over each database, with more in the section that names the issuer.
macro_rules! over_both_by {
    ($($name:ident($more:expr))+) => {
        mod sqlite {
            use crate::support::{control::Plane, provider::Provider};
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() {
                let issuer = Provider::start().await;
                super::$name(&Plane::with(&issuer.section($more)).await, &issuer).await;
            })+
        }
        mod postgres {
            use crate::support::{control::Plane, provider::Provider};
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() {
                let issuer = Provider::start().await;
                super::$name(&Plane::postgres_with(&issuer.section($more)).await, &issuer).await;
            })+
        }
    };
}
use over_both_by;

over_both_by! {
    a_user_signs_in_by_the_issuer("")
    an_operators_value_signs_in_as_the_operator("operators: ['Ops@example.com']")
    an_answer_counts_once_at_all_instances("")
}

impl Browser<'_> {
    /// Begins to sign in, and is sent to the issuer.
    async fn begins(&mut self) -> Asked {
        let sent = self.get("/sign-in/oidc").await;
        assert_eq!(sent.status, 303, "{}", sent.text);
        Asked::read(sent.headers["location"].to_str().unwrap())
    }

    /// Signs in as somebody of whom the issuer says this.
    async fn comes_as(&mut self, issuer: &Provider, claims: &Value) -> Page {
        let asked = self.begins().await;
        self.get(&issuer.lets_in(&asked, claims)).await
    }

    /// Signs in as the user with this address.
    async fn comes_by(&mut self, issuer: &Provider, email: &str) -> Page {
        self.comes_as(issuer, &json!({"email": email, "email_verified": true})).await
    }
}

/// Makes a user who signs in by this, and gives their token.
async fn user(plane: &Plane, id: &str, sign_in: &str) -> String {
    let user = json!({"id": id, "name": format!("User {id}"), "sign_in": sign_in});
    let made = plane.operate("POST", "/api/v1/users", user).await.with(201);
    assert_eq!(made["sign_in"], sign_in);
    made["token"].as_str().unwrap().to_owned()
}

/// What the audit says of the last sign-in.
async fn last_sign_in(plane: &Plane) -> (String, String, Value) {
    let audit = plane.get(OPERATOR, "/api/v1/audit").await.with(200);
    let entry = audit["data"].as_array().unwrap().iter().find(|entry| entry["action"] == "session.begin").unwrap();
    let text = |name: &str| entry[name].as_str().unwrap().to_owned();
    (text("actor"), text("actor_kind"), entry["detail"]["sign_in"].clone())
}

async fn a_user_signs_in_by_the_issuer(plane: &Plane, issuer: &Provider) {
    user(plane, "ada", "Ada@Example.com").await;
    let mut browser = Browser::new(plane);
    let host = issuer.name().strip_prefix("http://").unwrap().to_owned();
    let link = format!("href=\"{PAGE}/sign-in/oidc\"");
    browser.get("/sign-in").await.with(200).says(&link).says(&format!("Sign in with {host}")).says("name=\"token\"");

    let asked = browser.begins().await;
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", "keymeter"),
        ("scope", "openid email profile"),
        ("code_challenge_method", "S256"),
        ("tenant", "tests"),
        ("redirect_uri", &format!("{PAGE}/sign-in/callback")),
    ] {
        assert_eq!(asked.field(name), value);
    }
    assert!(asked.field("state").len() == 43 && asked.field("nonce").len() == 43);
    let page = browser.get(&issuer.lets_in(&asked, &json!({"email": "ada@example.com"}))).await.with(200);
    // A redirect would not take the new session along: it would be a part of what another site began.
    let page = page.says("http-equiv=\"refresh\" content=\"0;url=/\"").says("href=\"/\"").lacks("code");
    let set: Vec<_> = page.headers.get_all("set-cookie").iter().map(|set| set.to_str().unwrap().to_owned()).collect();
    assert!(set[0].starts_with("keymeter=") && set[0].contains("; HttpOnly; SameSite=Strict"), "{set:?}");
    assert!(set[1].starts_with("keymeter-sign-in=; Path=/; Max-Age=0"), "{set:?}");
    assert!(!set[0].contains('@') && browser.attempt.is_none());
    browser.get("/").await.with(200).says("href=\"/users/ada\"");
    assert_eq!(last_sign_in(plane).await, ("ada".to_owned(), "user".to_owned(), json!("ada@example.com")));

    browser.fill_in("/", "/sign-out", &[]).await.leads_to("/sign-in");
    browser.get("/").await.leads_to("/sign-in");
    // What was learned of the issuer is remembered, and a sign-in costs one question.
    browser.comes_by(issuer, "ADA@EXAMPLE.COM").await.with(200);
    browser.get("/").await.with(200);
    let count = |path| issuer.asked(path).len();
    assert_eq!((count("/.well-known/openid-configuration"), count("/jwks"), count("/token")), (1, 1, 2));
}

async fn an_operators_value_signs_in_as_the_operator(plane: &Plane, issuer: &Provider) {
    let mut browser = Browser::new(plane);
    browser.comes_by(issuer, "ops@example.com").await.with(200);
    browser.get("/users").await.with(200).says("operator");
    assert_eq!(last_sign_in(plane).await, ("operator".to_owned(), "operator".to_owned(), json!("ops@example.com")));
    let cookie = browser.cookie();

    // An instance whose configuration does not name them any more, or names another issuer, does not know the session.
    for section in [
        issuer.section("operators: [others@example.com]"),
        String::new(),
        issuer.section("claim: sub, operators: ['ops@example.com']"),
    ] {
        let later = plane.beside_with(&section).await;
        Browser::new(&later).with_cookie(&cookie).get("/users").await.leads_to("/sign-in");
    }
    let later = plane.beside_with(&issuer.section("operators: [others@example.com, OPS@EXAMPLE.COM]")).await;
    Browser::new(&later).with_cookie(&cookie).get("/users").await.with(200);
}

async fn an_answer_counts_once_at_all_instances(plane: &Plane, issuer: &Provider) {
    user(plane, "ada", "ada@example.com").await;
    let mut browser = Browser::new(plane);
    let asked = browser.begins().await;
    let attempt = browser.attempt.clone();
    let back = issuer.lets_in(&asked, &json!({"email": "ada@example.com"}));
    browser.get(&back).await.with(200);
    let second = plane.beside().await;
    for plane in [plane, &second] {
        let mut copy = Browser::new(plane);
        copy.attempt.clone_from(&attempt);
        copy.get(&back).await.with(403).says("was answered before");
        copy.get("/").await.leads_to("/sign-in");
    }
    assert_eq!(issuer.asked("/token").len(), 1, "the issuer is not bothered");
}

#[tokio::test]
async fn without_an_issuer_nothing_is_different() {
    let plane = Plane::sqlite().await;
    let mut browser = Browser::new(&plane);
    browser.get("/sign-in").await.with(200).lacks("/sign-in/oidc");
    for path in ["/sign-in/oidc", "/sign-in/callback?code=a&state=b"] {
        browser.get(path).await.with(404);
    }
    browser.sign_in(OPERATOR).await.leads_to("/");
    browser.get("/").await.with(200);
}

#[tokio::test]
async fn tokens_sign_in_as_they_did() {
    let issuer = Provider::start().await;
    issuer.fail_at("/.well-known/openid-configuration", crate::support::script::Script::hang());
    let plane = Plane::with(&issuer.section("operators: [ops@example.com]")).await;
    let ada = user(&plane, "ada", "ada@example.com").await;
    for token in [OPERATOR, &ada] {
        let mut browser = Browser::signed_in(&plane, token).await;
        browser.get("/").await.with(200);
        // By a token it does not matter by what its holder signs in.
        plane.operate("PATCH", "/api/v1/users/ada", json!({"sign_in": "a@example.com"})).await.with(200);
        browser.get("/").await.with(200);
    }
    assert!(issuer.asked("/.well-known/openid-configuration").is_empty(), "nobody has begun to sign in by it");
}

#[tokio::test]
async fn an_issuer_is_told_the_secret_as_it_takes_it() {
    let issuer = Provider::start().await;
    issuer.says(json!({"token_endpoint_auth_methods_supported": ["client_secret_post"]}));
    let plane = Plane::with(&issuer.section("")).await;
    user(&plane, "ada", "ada@example.com").await;
    Browser::new(&plane).comes_by(&issuer, "ada@example.com").await.with(200);

    let issuer = Provider::start().await;
    let plane = Plane::with(&issuer.public_section()).await;
    user(&plane, "ada", "ada@example.com").await;
    Browser::new(&plane).comes_by(&issuer, "ada@example.com").await.with(200);
}

#[tokio::test]
async fn what_only_the_user_information_says_is_taken_from_there() {
    let issuer = Provider::start().await;
    let plane = Plane::with(&issuer.section("")).await;
    user(&plane, "ada", "ada@example.com").await;
    issuer.informs(json!({"sub": "0123", "email": "ada@example.com", "email_verified": "true"}));
    let mut browser = Browser::new(&plane);
    browser.comes_as(&issuer, &json!({})).await.with(200);
    browser.get("/").await.with(200);
    for (information, words) in [
        (json!({"sub": "another", "email": "ada@example.com"}), "cannot be believed"),
        (json!({"email": "ada@example.com"}), "cannot be believed"),
        (json!({"sub": "0123"}), "does not say who you are"),
        (json!({"sub": "0123", "email": "ada@example.com", "email_verified": "false"}), "not verified"),
    ] {
        issuer.informs(information);
        Browser::new(&plane).comes_as(&issuer, &json!({})).await.with(403).says(words);
    }
    issuer.fail_at("/userinfo", crate::support::script::Script::json(500, &json!({})));
    Browser::new(&plane).comes_as(&issuer, &json!({})).await.with(503).says("does not answer as it must");
}

#[tokio::test]
async fn behind_tls_both_cookies_are_this_hosts() {
    let issuer = Provider::start().await;
    let section = issuer.section("").replace("http://keys.example", "https://keys.example");
    let plane = Plane::with(&section).await;
    user(&plane, "ada", "ada@example.com").await;
    let mut browser = Browser::new(&plane);
    let asked = browser.begins().await;
    assert!(browser.attempt.as_ref().unwrap().starts_with("__Host-keymeter-sign-in="));
    assert_eq!(asked.field("redirect_uri"), "https://keys.example/sign-in/callback");
    let token = issuer.signer.token(&issuer.claims(&asked, &json!({"email": "ada@example.com"})));
    // The fixture takes the other address only: here the way back is what matters.
    let back = format!("/sign-in/callback?code={}&state={}", issuer.code_for(&asked, token), asked.field("state"));
    let page = browser.ask("GET", &back, &[], &[("x-forwarded-proto", "https")]).await;
    let set: Vec<_> = page.headers.get_all("set-cookie").iter().map(|set| set.to_str().unwrap()).collect();
    assert!(set.iter().any(|set| set.starts_with("__Host-keymeter-sign-in=;") && set.ends_with("; Secure")), "{set:?}");
}
