//! Whoever is not let in: what an issuer must say, who may bring it, and what becomes of an issuer that fails.

use serde_json::{Value, json};

use super::{super::page::Browser, over_both_by, user};
use crate::support::{
    control::{OPERATOR, Plane},
    provider::{Asked, PAGE, Provider},
    script::Script,
    signer::{Signer, unsigned, with_secret},
};

over_both_by! {
    an_id_token_that_cannot_be_believed_lets_nobody_in("")
    an_answer_counts_in_the_browser_that_asked("")
}

/// Attempts that fail before an address has to wait.
const MOST: usize = 20;

/// Makes a token that must not be believed.
type Forged<'all> = Box<dyn Fn(&Asked) -> String + 'all>;

/// Somebody with one fault in the ID token is let in by nobody.
async fn an_id_token_that_cannot_be_believed_lets_nobody_in(plane: &Plane, issuer: &Provider) {
    user(plane, "ada", "ada@example.com").await;
    let now = jiff::Timestamp::now().as_second();
    let ada = json!({"email": "ada@example.com"});
    let with = |others: Value| {
        let mut claims = ada.clone();
        claims.as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
        claims
    };
    let signed = |asked: &Asked, others: Value| issuer.signer.token(&issuer.claims(asked, &with(others)));
    let jwk = issuer.signer.jwk();
    let modulus = jwk["n"].as_str().unwrap().to_owned();
    let forged: Vec<(&str, Forged<'_>)> = vec![
        ("another nonce", Box::new(|asked| signed(asked, json!({"nonce": "another"})))),
        ("no nonce", Box::new(|asked| signed(asked, json!({"nonce": null})))),
        ("another audience", Box::new(|asked| signed(asked, json!({"aud": "another"})))),
        ("several audiences", Box::new(|asked| signed(asked, json!({"aud": ["keymeter", "another"]})))),
        ("another party", Box::new(|asked| signed(asked, json!({"azp": "another"})))),
        ("another issuer", Box::new(|asked| signed(asked, json!({"iss": "https://evil.example"})))),
        ("a longer issuer", Box::new(|asked| signed(asked, json!({"iss": format!("{}/", issuer.name())})))),
        ("it has expired", Box::new(move |asked| signed(asked, json!({"exp": now - 61})))),
        ("it is not valid yet", Box::new(move |asked| signed(asked, json!({"nbf": now + 100})))),
        ("it was made later", Box::new(move |asked| signed(asked, json!({"iat": now + 100})))),
        ("it says not when", Box::new(|asked| signed(asked, json!({"iat": null})))),
        (
            "the address is not verified, and told elsewhere",
            Box::new(|asked| signed(asked, json!({"email": null, "email_verified": false}))),
        ),
        ("the address is not verified", Box::new(|asked| signed(asked, json!({"email_verified": false})))),
        ("nobody is named", Box::new(|asked| signed(asked, json!({"email": ""})))),
        ("alg none", Box::new(|asked| unsigned(&json!({"alg": "none"}), &issuer.claims(asked, &ada)))),
        (
            "HMAC with the public key",
            Box::new(|asked| {
                let head = json!({"alg": "HS256", "kid": "first"});
                with_secret(modulus.as_bytes(), &head, &issuer.claims(asked, &ada))
            }),
        ),
        ("another's key", Box::new(|asked| Signer::ec("first").token(&issuer.claims(asked, &ada)))),
        ("no token", Box::new(|_| "a.b.c".to_owned())),
    ];
    assert!(forged.len() < MOST);
    for (fault, forge) in forged {
        let mut browser = Browser::new(plane);
        let asked = browser.begins().await;
        let code = issuer.code_for(&asked, forge(&asked));
        let page = browser.get(&asked.back(&format!("code={code}"))).await;
        assert_eq!(page.status, 403, "{fault}: {}", page.text);
        assert!(!page.text.contains(&code) && browser.attempt.is_none(), "{fault}");
        browser.get("/").await.leads_to("/sign-in");
    }
    for good in [json!({}), json!({"aud": ["another", "keymeter"], "azp": "keymeter"}), json!({"exp": now - 30})] {
        Browser::new(plane).comes_as(issuer, &with(good)).await.with(200);
    }
}

/// Nobody is signed in by an answer that was another's (login CSRF).
async fn an_answer_counts_in_the_browser_that_asked(plane: &Plane, issuer: &Provider) {
    user(plane, "eve", "eve@example.com").await;
    let mut eve = Browser::new(plane);
    let asked = eve.begins().await;
    let back = issuer.lets_in(&asked, &json!({"email": "eve@example.com"}));
    // A browser that did not begin, and one that began something else.
    let mut ada = Browser::new(plane);
    ada.get(&back).await.with(403).says("did not begin in this browser");
    ada.begins().await;
    ada.get(&back).await.with(403).says("did not begin in this browser");
    ada.get("/").await.leads_to("/sign-in");
    // Without a state, or with one that is nearly right, it is nobody's.
    let code = back.split(['=', '&']).nth(1).unwrap();
    for state in ["", &asked.field("state")[1..], &format!("{}a", asked.field("state"))] {
        let mut copy = Browser::new(plane);
        copy.attempt.clone_from(&eve.attempt);
        copy.get(&format!("/sign-in/callback?code={code}&state={state}")).await.with(403);
    }
    assert!(issuer.asked("/token").is_empty(), "the issuer is not bothered");
    // A cookie that was changed is none.
    let mut copy = Browser::new(plane);
    copy.attempt = eve.attempt.as_ref().map(|cookie| cookie.replace(asked.field("nonce"), asked.field("state")));
    copy.get(&back).await.with(403);
    eve.get(&back).await.with(200);
    // Whoever is signed in stays so: their browser sends no session from another site, and gets none.
    let page = Browser::new(plane).get("/sign-in/callback?code=a&state=b").await.with(403);
    let set: Vec<_> = page.headers.get_all("set-cookie").iter().map(|set| set.to_str().unwrap()).collect();
    assert!(set.len() == 1 && set[0].starts_with("keymeter-sign-in=;"), "{set:?}");
    let page = Browser::new(plane).ask("GET", "/sign-in", &[], &[("sec-fetch-site", "cross-site")]).await.with(200);
    assert!(page.headers.get("set-cookie").is_none() && page.text.contains("content=\"0;url=/sign-in\""));
}

#[tokio::test]
async fn a_code_that_is_anothers_is_of_no_use() {
    let issuer = Provider::start().await;
    let plane = Plane::with(&issuer.section("")).await;
    user(&plane, "ada", "ada@example.com").await;
    let (mut ada, mut eve) = (Browser::new(&plane), Browser::new(&plane));
    let (hers, own) = (ada.begins().await, eve.begins().await);
    let token = issuer.signer.token(&issuer.claims(&hers, &json!({"email": "ada@example.com"})));
    let code = issuer.code_for(&hers, token);
    // The issuer knows by the challenge that it was made for another attempt (PKCE).
    eve.get(&own.back(&format!("code={code}"))).await.with(403).says("did not take what it sent you back with");
    // Had the issuer not looked at it, the nonce would have told.
    let token = issuer.signer.token(&issuer.claims(&hers, &json!({"email": "ada@example.com"})));
    let own = eve.begins().await;
    let code = issuer.code_for(&own, token);
    eve.get(&own.back(&format!("code={code}"))).await.with(403).says("cannot be believed");
    eve.get("/").await.leads_to("/sign-in");
}

#[tokio::test]
async fn whoever_comes_back_without_a_code_is_told() {
    let issuer = Provider::start().await;
    let plane = Plane::with(&issuer.section("")).await;
    for (answer, words) in [
        ("error=access_denied&error_description=<b>Evil</b>", "did not let you sign in"),
        ("error=<b>evil</b>", "without a code"),
        ("code=", "without a code"),
        ("iss=https%3A%2F%2Fevil.example&code=a", "Another issuer answered"),
    ] {
        let mut browser = Browser::new(&plane);
        let asked = browser.begins().await;
        browser.get(&asked.back(answer)).await.with(403).says(words).says("href=\"/sign-in\"").lacks("vil</b>");
    }
    assert!(issuer.asked("/token").is_empty());
}

#[tokio::test]
async fn nobody_decides_where_a_code_goes_or_where_the_way_ends() {
    let issuer = Provider::start().await;
    let plane = Plane::with(&issuer.section("")).await;
    user(&plane, "ada", "ada@example.com").await;
    let names = [("host", "localhost"), ("x-forwarded-host", "evil.example"), ("forwarded", "host=evil.example")];
    for path in ["/sign-in/oidc", "/sign-in/oidc?redirect_uri=https://evil.example&next=https://evil.example"] {
        let sent = Browser::new(&plane).ask("GET", path, &[], &names).await;
        let location = sent.headers["location"].to_str().unwrap();
        assert!(!location.contains("evil"), "{location}");
        assert_eq!(Asked::read(location).field("redirect_uri"), format!("{PAGE}/sign-in/callback"));
    }
    // The host that is configured may be said, and no other.
    for (host, status) in [("keys.example", 303), ("evil.example", 403)] {
        let sent = Browser::new(&plane).ask("GET", "/sign-in/oidc", &[], &[("host", host)]).await;
        assert_eq!(sent.status, status, "{host}");
    }
    let mut browser = Browser::new(&plane);
    let asked = browser.begins().await;
    let back = issuer.lets_in(&asked, &json!({"email": "ada@example.com"}));
    let page = browser.get(&format!("{back}&next=https://evil.example&redirect=//evil.example")).await.with(200);
    page.says("content=\"0;url=/\"").lacks("evil");
    // Another site may lead to the page that asks, and no further.
    for site in ["cross-site", "same-site"] {
        let sent = Browser::new(&plane).ask("GET", "/sign-in/oidc", &[], &[("sec-fetch-site", site)]).await;
        sent.leads_to("/sign-in");
    }
    for site in ["same-origin", "none"] {
        let sent = Browser::new(&plane).ask("GET", "/sign-in/oidc", &[], &[("sec-fetch-site", site)]).await;
        assert!(sent.headers["location"].to_str().unwrap().starts_with(&issuer.name()));
    }
}

#[tokio::test]
async fn an_address_whose_attempts_fail_has_to_wait() {
    let issuer = Provider::start().await;
    let plane = Plane::with(&issuer.section("")).await;
    let ada = user(&plane, "ada", "ada@example.com").await;
    for _ in 0..MOST {
        Browser::new(&plane).get("/sign-in/callback?code=a&state=b").await.with(403);
    }
    let page = Browser::new(&plane).get("/sign-in/callback?code=a&state=b").await.with(429);
    assert_eq!(page.headers["retry-after"], "60");
    // Whoever fails behind the same address locks out nobody, neither here nor by tokens.
    let mut browser = Browser::new(&plane);
    browser.comes_by(&issuer, "ada@example.com").await.with(200);
    browser.get("/").await.with(200);
    Browser::new(&plane).sign_in("wrong").await.with(400);
    Browser::new(&plane).sign_in(&ada).await.leads_to("/");
    assert_eq!(issuer.asked("/token").len(), 1);
}

#[tokio::test]
async fn an_issuer_that_fails_is_told_and_tokens_go_on_to_work() {
    let issuer = Provider::start().await;
    let plane = Plane::with(&issuer.section("")).await;
    let ada = user(&plane, "ada", "ada@example.com").await;
    let huge = Script::json(200, &json!({"keys": ["a".repeat(70_000)]}));
    let unwell = [huge, Script::json(500, &json!({})), Script::json(302, &json!({})).with_header("location", "/jwks")];
    for script in unwell {
        for path in ["/token", "/jwks"] {
            issuer.fail_at(path, script.clone());
            let page = Browser::new(&plane).comes_by(&issuer, "ada@example.com").await;
            assert!([403, 503].contains(&page.status.as_u16()), "{path}: {}", page.text);
            issuer.recover();
        }
    }
    let mut browser = Browser::signed_in(&plane, &ada).await;
    browser.get("/").await.with(200);
}

#[tokio::test]
async fn an_issuer_that_is_away_holds_up_nobody_for_long() {
    let issuer = Provider::start().await;
    let plane = Plane::with(&issuer.section("")).await;
    let ada = user(&plane, "ada", "ada@example.com").await;
    issuer.fail_at("/.well-known/openid-configuration", Script::hang());
    let start = std::time::Instant::now();
    let began =
        (0..20).map(|_| {
            let mut browser = Browser::new(&plane);
            async move {
                browser.get("/sign-in/oidc").await.with(503).says("does not answer as it must").says("name=\"token\"")
            }
        });
    futures_util::future::join_all(began).await;
    // All wait for one question, and for a while nobody asks again.
    assert_eq!(issuer.asked("/.well-known/openid-configuration").len(), 1);
    assert!(start.elapsed().as_secs() < 9, "{:?}", start.elapsed());
    Browser::signed_in(&plane, &ada).await.get("/").await.with(200);
    issuer.recover();
    tokio::time::sleep(std::time::Duration::from_millis(5_100)).await;
    let mut browser = Browser::new(&plane);
    browser.comes_by(&issuer, "ada@example.com").await.with(200);

    // A token endpoint that says nothing is given up.
    issuer.fail_at("/token", Script::hang());
    let start = std::time::Instant::now();
    Browser::new(&plane).comes_by(&issuer, "ada@example.com").await.with(503);
    assert!(start.elapsed().as_secs() < 9, "{:?}", start.elapsed());
    plane.get(OPERATOR, "/api/v1/users").await.with(200);
}

#[tokio::test]
async fn another_issuers_word_of_itself_is_not_taken() {
    for metadata in [
        json!({"issuer": "https://evil.example"}),
        json!({"authorization_endpoint": "javascript:alert(1)"}),
        json!({"token_endpoint": 7}),
    ] {
        let issuer = Provider::start().await;
        issuer.says(metadata);
        let plane = Plane::with(&issuer.section("")).await;
        Browser::new(&plane).get("/sign-in/oidc").await.with(503);
    }
}

#[tokio::test]
async fn a_key_that_is_not_known_is_asked_for_but_rarely() {
    let issuer = Provider::start().await;
    let plane = Plane::with(&issuer.section("")).await;
    user(&plane, "ada", "ada@example.com").await;
    let mut browser = Browser::new(&plane);
    browser.comes_by(&issuer, "ada@example.com").await.with(200);
    let by = async |key: &Signer| {
        let mut browser = Browser::new(&plane);
        let asked = browser.begins().await;
        let token = key.token(&issuer.claims(&asked, &json!({"email": "ada@example.com"})));
        let code = issuer.code_for(&asked, token);
        browser.get(&asked.back(&format!("code={code}"))).await.status.as_u16()
    };
    let second = Signer::ec("second");
    issuer.show(vec![issuer.signer.jwk(), second.jwk()]);
    assert_eq!(by(&second).await, 200, "a new key is fetched");
    for number in 0..5 {
        assert_eq!(by(&Signer::ec(&format!("unknown-{number}"))).await, 403);
    }
    assert_eq!(issuer.asked("/jwks").len(), 2);
}
