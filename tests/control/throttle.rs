//! Wrong tokens: so many of an address a minute, and then none is heard, wherever it is sent. A right one always is.

use serde_json::{Value, json};

use super::page::Browser;
use crate::support::control::{GATEWAYS, OPERATOR, Plane};

/// As many as an address may send.
const MOST: usize = 20;

const CALLS: [&str; 4] = [
    "/api/v1/keys",
    "/api/v1/audit",
    "/v1/keys/0000000000000000000000000000000000000000000000000000000000000000",
    "/v1/keys/events",
];

/// Sends a wrong token to one of the paths after another, with this header.
async fn guess(plane: &Plane, number: usize, forwarded: &str) -> u16 {
    let (token, path) = (format!("kmu-wrong-{number}"), CALLS[number % CALLS.len()]);
    let answer = plane.call_with(&token, "GET", path, Value::Null, &[("x-forwarded-for", forwarded)]).await;
    if answer.status == 429 {
        assert_eq!(answer.headers["retry-after"], "60");
        assert_eq!(answer.json()["error"]["code"], "rate_limit_exceeded");
    }
    answer.status.as_u16()
}

#[tokio::test]
async fn guesses_by_calls_of_both_kinds_and_by_the_page_count_together() {
    let plane = Plane::sqlite().await;
    let ada = plane.user("ada").await;
    let mut browser = Browser::new(&plane);
    for number in 0..MOST - 5 {
        assert_eq!(guess(&plane, number, "").await, 401);
    }
    for _ in 0..5 {
        browser.sign_in("wrong").await.with(400);
    }
    for number in 0..CALLS.len() {
        assert_eq!(guess(&plane, number, "").await, 429);
    }
    let refused = browser.sign_in("wrong").await.with(429);
    assert_eq!(refused.headers["retry-after"], "60");
    // Whoever guesses behind the same address locks out nobody.
    plane.get(OPERATOR, "/api/v1/keys").await.with(200);
    plane.get(&ada, "/api/v1/keys").await.with(200);
    plane.get(GATEWAYS, CALLS[2]).await.refused(404, "not_found");
    for token in [OPERATOR, &ada] {
        Browser::new(&plane).sign_in(token).await.leads_to("/");
    }
}

#[tokio::test]
async fn what_is_no_guess_is_not_counted() {
    let plane = Plane::sqlite().await;
    let ada = plane.user("ada").await;
    let mut browser = Browser::signed_in(&plane, &ada).await;
    plane.operate("DELETE", "/api/v1/users/ada", Value::Null).await.with(204);
    for _ in 0..=MOST {
        // Known tokens in the wrong place, none at all, and sessions whose user is gone.
        plane.get(GATEWAYS, CALLS[0]).await.refused(401, "invalid_token");
        plane.get(OPERATOR, CALLS[2]).await.refused(401, "invalid_token");
        let response = reqwest::Client::builder().no_proxy().build().unwrap().get(plane.url(CALLS[0])).send().await;
        assert_eq!(response.unwrap().status(), 401);
        browser.get("/").await.leads_to("/sign-in");
    }
    assert_eq!(guess(&plane, 0, "").await, 401);
}

#[tokio::test]
async fn a_header_is_believed_of_nobody_unless_it_is_said_of_whom() {
    let plane = Plane::sqlite().await;
    for number in 0..MOST {
        assert_eq!(guess(&plane, number, &format!("192.0.2.{number}")).await, 401);
    }
    assert_eq!(guess(&plane, 0, "192.0.2.200").await, 429, "another address is of no use");
    let named = [("x-forwarded-for", "192.0.2.7")];
    plane.call_with(OPERATOR, "POST", "/api/v1/users", json!({"id": "eve", "name": "Eve"}), &named).await.with(201);
    let audit = plane.get(OPERATOR, "/api/v1/audit").await.with(200);
    assert_eq!(audit["data"][0]["address"], "127.0.0.1", "nor does the audit believe it");
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_subscriber_is_counted_by_itself() {
    let plane = Plane::with("client_address: {header: x-forwarded-for, trusted: [127.0.0.0/8]}").await;
    for number in 0..MOST {
        // The proxy adds the last one; what is before it is the guesser's own.
        assert_eq!(guess(&plane, number, &format!("192.0.2.{number}, 2001:db8:1:2::{number:x}")).await, 401);
    }
    assert_eq!(guess(&plane, 0, "2001:db8:1:2:ffff::1").await, 429, "the same subscriber's");
    for other in ["2001:db8:1:3::1", "192.0.2.1", "::ffff:192.0.2.2"] {
        assert_eq!(guess(&plane, 0, other).await, 401, "{other}");
    }
    for number in 0..MOST - 1 {
        assert_eq!(guess(&plane, number, "198.51.100.1").await, 401);
    }
    assert_eq!(guess(&plane, 0, "::ffff:198.51.100.1").await, 401);
    assert_eq!(guess(&plane, 0, "198.51.100.1").await, 429, "it is the same address");
    let named = [("x-forwarded-for", "192.0.2.7")];
    plane.call_with(OPERATOR, "POST", "/api/v1/users", json!({"id": "eve", "name": "Eve"}), &named).await.with(201);
    let audit = plane.get(OPERATOR, "/api/v1/audit").await.with(200);
    assert_eq!(audit["data"][0]["address"], "192.0.2.7");
}
