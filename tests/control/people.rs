//! Users, teams, and what a role may do.

use keymeter_core::limit::{Limit, Limits};
use serde_json::{Value, json};

use super::{invitations::answer, over_both};
use crate::support::control::{OPERATOR, Plane};

over_both! {
    a_role_reaches_so_far_and_no_further
    personal_keys_are_archived_while_their_owner_is_on_a_team
    a_team_is_handed_over_before_its_owner_leaves
    a_deleted_user_is_gone_with_their_keys
}

async fn a_role_reaches_so_far_and_no_further(plane: &Plane) {
    let [owner, admin, member, stranger] = [
        plane.user("owner").await,
        plane.user("admin").await,
        plane.user("member").await,
        plane.user("stranger").await,
    ];
    plane.team("research", "owner").await;
    plane.credit("research", "10", "first").await;
    let put = |token: &str, user: &str, role: &str| {
        let (token, path) = (token.to_owned(), format!("/api/v1/teams/research/members/{user}"));
        let body = json!({"role": role});
        async move { plane.call(&token, "PUT", &path, body).await }
    };
    for (token, user, role, accepts) in [(&owner, "admin", "admin", &admin), (&admin, "member", "member", &member)] {
        put(token, user, role).await.with(202);
        answer(plane, accepts, "research", true).await.with(200);
    }
    put(&stranger, "stranger", "member").await.refused(404, "not_found");
    put(&member, "stranger", "member").await.refused(403, "forbidden");
    put(&member, "member", "admin").await.refused(403, "forbidden");
    put(&admin, "admin", "owner").await.refused(403, "forbidden");
    put(&admin, "owner", "member").await.refused(409, "conflict");

    let key = json!({"name": "Team's key", "team": "research"});
    let (id, secret) = plane.key(&admin, key.clone()).await;
    plane.call(&member, "POST", "/api/v1/keys", key.clone()).await.refused(403, "forbidden");
    plane.call(&stranger, "POST", "/api/v1/keys", key.clone()).await.refused(404, "not_found");
    plane
        .call(&owner, "POST", "/api/v1/keys", json!({"name": "Gift", "owner": "stranger"}))
        .await
        .refused(403, "forbidden");
    let path = format!("/api/v1/keys/{id}");
    for (token, seen, changed) in [(&owner, 200, 200), (&admin, 200, 200), (&member, 200, 403), (&stranger, 404, 404)] {
        assert_eq!(plane.get(token, &path).await.status, seen);
        assert_eq!(plane.call(token, "PATCH", &path, json!({"enabled": true})).await.status, changed);
        assert_eq!(
            plane.call(token, "POST", &format!("{path}/regenerate"), json!({"grace": "1h"})).await.status,
            changed
        );
        assert_eq!(plane.get(token, "/api/v1/wallets/research").await.status, seen);
        assert_eq!(plane.get(token, "/api/v1/teams/research").await.status, seen);
        assert_eq!(plane.get(token, "/api/v1/keys?team=research").await.status, seen);
        plane.get(token, "/api/v1/users").await.refused(403, "forbidden");
        plane.get(token, "/api/v1/audit").await.refused(403, "forbidden");
        let credit = json!({"usd": "5", "idempotency_key": "mine"});
        plane.call(token, "POST", "/api/v1/wallets/research/credits", credit).await.refused(403, "forbidden");
        plane.call(token, "POST", "/api/v1/users", json!({"id": "eve", "name": "Eve"})).await.refused(403, "forbidden");
        plane.call(token, "DELETE", "/api/v1/users/stranger", Value::Null).await.refused(403, "forbidden");
    }
    assert_eq!(plane.call(&member, "DELETE", &path, Value::Null).await.status, 403);
    assert_eq!(plane.state(&secret).await, "active");
    assert_eq!(plane.get(&stranger, "/api/v1/keys").await.with(200)["data"], json!([]));
    assert_eq!(plane.get(&member, "/api/v1/keys").await.with(200)["data"][0]["id"], json!(id));
}

async fn personal_keys_are_archived_while_their_owner_is_on_a_team(plane: &Plane) {
    let (_, bob) = (plane.user("ada").await, plane.user("bob").await);
    plane.credit("bob", "1", "first").await;
    let (id, secret) = plane.key(&bob, json!({"name": "Personal"})).await;
    plane.team("research", "ada").await;
    plane.operate("PUT", "/api/v1/teams/research/members/bob", json!({"role": "member"})).await.with(200);
    assert_eq!(plane.state(&secret).await, "archived");
    plane.call(&bob, "POST", "/api/v1/keys", json!({"name": "Personal"})).await.refused(409, "conflict");
    plane.call(&bob, "POST", &format!("/api/v1/keys/{id}/regenerate"), Value::Null).await.refused(409, "conflict");
    plane
        .team("other", &{
            plane.user("eve").await;
            "eve".to_owned()
        })
        .await;
    plane.operate("PUT", "/api/v1/teams/other/members/bob", json!({"role": "member"})).await.refused(409, "conflict");
    let another = json!({"id": "bobs", "name": "Bob's team", "owner": "bob"});
    plane.operate("POST", "/api/v1/teams", another).await.refused(409, "conflict");
    plane.call(&bob, "DELETE", "/api/v1/teams/research/members/bob", Value::Null).await.with(204);
    assert_eq!(plane.state(&secret).await, "active");
}

async fn a_team_is_handed_over_before_its_owner_leaves(plane: &Plane) {
    let (ada, bob) = (plane.user("ada").await, plane.user("bob").await);
    plane
        .call(&ada, "POST", "/api/v1/teams", json!({"id": "research", "name": "Research", "owner": "ada"}))
        .await
        .with(201);
    plane
        .call(&ada, "POST", "/api/v1/teams", json!({"id": "more", "name": "More", "owner": "bob"}))
        .await
        .refused(403, "forbidden");
    let member = |user: &str| format!("/api/v1/teams/research/members/{user}");
    plane.call(&ada, "PUT", &member("bob"), json!({"role": "member"})).await.with(202);
    answer(plane, &bob, "research", true).await.with(200);
    plane.call(&ada, "DELETE", &member("ada"), Value::Null).await.refused(409, "conflict");
    plane.operate("DELETE", "/api/v1/users/ada", Value::Null).await.refused(409, "conflict");
    plane.call(&ada, "PUT", &member("bob"), json!({"role": "owner"})).await.with(202);
    plane.call(&ada, "DELETE", &member("ada"), Value::Null).await.refused(409, "conflict");
    answer(plane, &bob, "research", true).await.with(200);
    let team = plane.get(&ada, "/api/v1/teams/research").await.with(200);
    assert_eq!(team["members"], json!([{"user": "ada", "role": "admin"}, {"user": "bob", "role": "owner"}]));
    plane.call(&ada, "DELETE", &member("ada"), Value::Null).await.with(204);
    plane.get(&ada, "/api/v1/teams/research").await.refused(404, "not_found");
    assert_eq!(plane.get(&bob, "/api/v1/teams/research").await.with(200)["members"][0]["user"], "bob");
}

async fn a_deleted_user_is_gone_with_their_keys(plane: &Plane) {
    let ada = plane.user("ada").await;
    plane.credit("ada", "1", "first").await;
    let (_, secret) = plane.key(&ada, json!({"name": "Personal"})).await;
    plane.operate("POST", "/api/v1/users", json!({"id": "ada", "name": "Another"})).await.refused(409, "conflict");
    plane
        .operate("POST", "/api/v1/users", json!({"id": "Ada!", "name": "Another"}))
        .await
        .refused(400, "invalid_value");
    assert_eq!(plane.operate("GET", "/api/v1/users", Value::Null).await.with(200)["data"][0]["id"], "ada");
    plane.operate("DELETE", "/api/v1/users/ada", Value::Null).await.with(204);
    plane.look_up(&secret).await.refused(404, "not_found");
    plane.get(&ada, "/api/v1/keys").await.refused(401, "invalid_token");
    plane.operate("DELETE", "/api/v1/users/ada", Value::Null).await.refused(404, "not_found");
    plane.operate("POST", "/api/v1/users", json!({"id": "ada", "name": "Another"})).await.refused(409, "conflict");
}

#[tokio::test]
async fn a_user_gives_no_key_more_than_the_operator_gave_all() {
    let at = |number| Limit::at(number).unwrap();
    let limits =
        Limits { requests_per_minute: at(60), tokens_per_minute: at(1000), concurrent_requests: Limit::Unlimited };
    let plane = Plane::limited(limits).await;
    let ada = plane.user("ada").await;
    plane.credit("ada", "1", "first").await;
    let with = |limits: Value| json!({"name": "Some key", "limits": limits});
    for (limits, field) in [
        (json!({"requests_per_minute": 61}), "limits.requests_per_minute"),
        (json!({"tokens_per_minute": "unlimited"}), "limits.tokens_per_minute"),
    ] {
        let refused = plane.call(&ada, "POST", "/api/v1/keys", with(limits.clone())).await;
        assert_eq!(refused.refused(400, "invalid_value"), field);
        plane.call(OPERATOR, "POST", "/api/v1/keys", with(limits)).await.with(201);
    }
    let (id, _) = plane.key(&ada, with(json!({"requests_per_minute": 60, "concurrent_requests": "unlimited"}))).await;
    let more = json!({"limits": {"requests_per_minute": 61}});
    plane.call(&ada, "PATCH", &format!("/api/v1/keys/{id}"), more).await.refused(400, "invalid_value");
}
