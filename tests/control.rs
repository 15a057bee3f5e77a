//! The control plane by itself: its calls, over SQLite and over PostgreSQL.

mod commands;
pub mod gateways;
mod instances;
mod invitations;
mod keys;
mod limits;
mod money;
mod oidc;
mod page;
mod page_forms;
mod page_lists;
mod people;
mod priority;
mod quotas;
mod refusals;
mod teams;
mod texts;
mod throttle;
mod upgrade;
mod usage;
mod version_4;

/// One test over each database.
macro_rules! over_both {
    (at $version:ident: $($name:ident)+) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() {
                let made = super::$version;
                super::$name(&crate::support::control::Plane::sqlite_of(made).await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() {
                let made = super::$version;
                super::$name(&crate::support::control::Plane::postgres_of(made).await).await;
            })+
        }
    };
    ($($name:ident)+) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() {
                super::$name(&crate::support::control::Plane::sqlite().await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() {
                super::$name(&crate::support::control::Plane::postgres().await).await;
            })+
        }
    };
}
use over_both;

use serde_json::Value;

use crate::support::control::{GATEWAYS, OPERATOR, Plane};

over_both! { what_is_asked_for_without_a_right_token_is_refused }

async fn what_is_asked_for_without_a_right_token_is_refused(plane: &Plane) {
    let user = plane.user("ada").await;
    for path in ["/api/v1/keys", "/api/v1/users", "/api/v1/usage", "/api/v1/audit", "/api/v1/wallets/ada"] {
        for token in ["", "x", GATEWAYS, "sk-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef2P40Ol"] {
            plane.get(token, path).await.refused(401, "invalid_token");
        }
    }
    let hash = "0".repeat(64);
    for token in ["", OPERATOR, user.as_str()] {
        plane.get(token, &format!("/v1/keys/{hash}")).await.refused(401, "invalid_token");
        plane.get(token, "/v1/keys/events").await.refused(401, "invalid_token");
        plane.call(token, "POST", "/v1/usage/records", Value::Null).await.refused(401, "invalid_token");
    }
    plane.get(GATEWAYS, &format!("/v1/keys/{hash}")).await.refused(404, "not_found");
    plane.get(GATEWAYS, "/v1/keys/no-hash").await.refused(404, "not_found");
}

#[tokio::test]
async fn every_call_is_described() {
    let plane = Plane::sqlite().await;
    let description = plane.get("", "/api/v1/openapi.json").await.with(200);
    let paths = description["paths"].as_object().unwrap();
    let calls: Vec<_> = paths
        .iter()
        .flat_map(|(path, methods)| methods.as_object().unwrap().keys().map(move |method| format!("{method} {path}")))
        .collect();
    assert_eq!(
        calls,
        [
            "get /api/v1/audit",
            "get /api/v1/invitations",
            "get /api/v1/keys",
            "post /api/v1/keys",
            "delete /api/v1/keys/{id}",
            "get /api/v1/keys/{id}",
            "patch /api/v1/keys/{id}",
            "get /api/v1/keys/{id}/refusals",
            "post /api/v1/keys/{id}/regenerate",
            "get /api/v1/limits",
            "get /api/v1/teams",
            "post /api/v1/teams",
            "delete /api/v1/teams/{id}",
            "get /api/v1/teams/{id}",
            "patch /api/v1/teams/{id}",
            "post /api/v1/teams/{id}/invitation",
            "delete /api/v1/teams/{id}/members/{user}",
            "put /api/v1/teams/{id}/members/{user}",
            "get /api/v1/usage",
            "get /api/v1/users",
            "post /api/v1/users",
            "delete /api/v1/users/{id}",
            "get /api/v1/users/{id}",
            "patch /api/v1/users/{id}",
            "post /api/v1/users/{id}/token",
            "get /api/v1/wallets",
            "get /api/v1/wallets/{owner}",
            "post /api/v1/wallets/{owner}/credits",
        ]
    );
    for (path, method) in [("/api/v1/nothing", "GET"), ("/nothing", "GET")] {
        plane.call(OPERATOR, method, path, Value::Null).await.refused(404, "unknown_url");
    }
    plane.call(OPERATOR, "DELETE", "/api/v1/keys", Value::Null).await.refused(405, "method_not_allowed");
}
