//! What the operator may do to a team: everything, its end included.

use serde_json::{Value, json};

use super::{
    gateways::{becomes, gateway},
    invitations::audited,
    money::{record, used},
    over_both,
};
use crate::{
    sources::answering,
    support::control::{GATEWAYS, OPERATOR, Plane},
};

over_both! {
    the_operator_takes_off_an_owner_and_names_another
    a_deleted_team_is_gone_with_its_keys_and_its_members_have_theirs_back
    only_the_operator_deletes_a_team
    what_is_in_a_deleted_teams_wallet_goes_to_whom_the_operator_names
    a_refund_to_whom_there_is_not_changes_nothing
    the_money_of_a_deleted_team_adds_up
    gateways_follow_the_end_of_a_team
    no_key_is_made_for_a_team_while_it_is_deleted
}

fn member(user: &str) -> String {
    format!("/api/v1/teams/research/members/{user}")
}

async fn the_operator_takes_off_an_owner_and_names_another(plane: &Plane) {
    let (ada, bob) = (plane.user("ada").await, plane.user("bob").await);
    plane.credit("ada", "1", "first").await;
    let (_, secret) = plane.key(&ada, json!({"name": "Personal"})).await;
    plane.team("research", "ada").await;
    assert_eq!(plane.state(&secret).await, "archived");
    plane.call(&ada, "DELETE", &member("ada"), Value::Null).await.refused(409, "conflict");
    plane.operate("DELETE", &member("ada"), Value::Null).await.with(204);
    assert_eq!(plane.state(&secret).await, "active");
    let team = plane.get(OPERATOR, "/api/v1/teams/research").await.with(200);
    assert_eq!(team["members"], json!([]));
    plane.get(&ada, "/api/v1/teams/research").await.refused(404, "not_found");
    // Whom the operator names need not be on it before.
    for (user, members) in [
        ("bob", json!([{"user": "bob", "role": "owner"}])),
        ("ada", json!([{"user": "ada", "role": "owner"}, {"user": "bob", "role": "admin"}])),
    ] {
        let team = plane.operate("PUT", &member(user), json!({"role": "owner"})).await.with(200);
        assert_eq!(team["members"], members);
    }
    plane.operate("PUT", &member("ada"), json!({"role": "member"})).await.with(200);
    plane.call(&bob, "PUT", &member("ada"), json!({"role": "admin"})).await.with(200);
    plane.operate("DELETE", "/api/v1/teams/research/members/nobody", Value::Null).await.refused(404, "not_found");
    plane.operate("PUT", "/api/v1/teams/nothing/members/ada", json!({"role": "owner"})).await.refused(404, "not_found");
}

async fn a_deleted_team_is_gone_with_its_keys_and_its_members_have_theirs_back(plane: &Plane) {
    let (ada, bob) = (plane.user("ada").await, plane.user("bob").await);
    plane.credit("bob", "1", "first").await;
    let (_, personal) = plane.key(&bob, json!({"name": "Personal"})).await;
    plane.team("research", "ada").await;
    plane.credit("research", "10", "first").await;
    plane.operate("PUT", &member("bob"), json!({"role": "admin"})).await.with(200);
    let mut secrets = Vec::new();
    for token in [&ada, &bob, &ada] {
        secrets.push(plane.key(token, json!({"name": "Team's key", "team": "research"})).await);
    }
    let renewed = format!("/api/v1/keys/{}/regenerate", secrets[0].0);
    plane.call(&ada, "POST", &renewed, json!({"grace": "1h"})).await.with(200);
    used(plane, &[charged("r1", &secrets[0].0, "1.5")]).await;
    assert_eq!(plane.state(&personal).await, "archived");
    plane.operate("DELETE", "/api/v1/teams/research", Value::Null).await.with(204);
    for (id, secret) in &secrets {
        plane.look_up(secret).await.refused(404, "not_found");
        assert_eq!(plane.get(OPERATOR, &format!("/api/v1/keys/{id}")).await.with(200)["state"], "deleted");
        plane.get(&ada, &format!("/api/v1/keys/{id}")).await.refused(404, "not_found");
    }
    assert_eq!(plane.state(&personal).await, "active");
    let users = plane.get(OPERATOR, "/api/v1/users").await.with(200)["data"].clone();
    assert!(users.as_array().unwrap().iter().all(|user| user["team"].is_null() && user["role"].is_null()), "{users}");
    for token in [OPERATOR, &ada, &bob] {
        plane.get(token, "/api/v1/teams/research").await.refused(404, "not_found");
        plane.call(token, "PUT", &member("bob"), json!({"role": "member"})).await.refused(404, "not_found");
        let key = json!({"name": "Too late", "team": "research"});
        plane.call(token, "POST", "/api/v1/keys", key).await.refused(404, "not_found");
    }
    plane.operate("DELETE", "/api/v1/teams/research", Value::Null).await.refused(404, "not_found");
    // Its history and its id stay, so that nobody comes by either.
    let rows = plane.get(OPERATOR, "/api/v1/usage?team=research&group_by=team").await.with(200)["rows"].clone();
    assert_eq!(rows[0]["cost_usd"], "1.5");
    let again = json!({"id": "research", "name": "Research", "owner": "ada"});
    plane.call(&ada, "POST", "/api/v1/teams", again.clone()).await.refused(409, "conflict");
    plane.operate("POST", "/api/v1/teams", again).await.refused(409, "conflict");
    plane
        .operate("POST", "/api/v1/users", json!({"id": "research", "name": "Research"}))
        .await
        .refused(409, "conflict");
    assert_eq!(plane.get(&ada, "/api/v1/usage").await.with(200)["rows"], json!([]));
    // What was in its wallet stays there, and the audit says how much that is.
    assert_eq!(plane.balance("research").await, "8.5");
    let entry = plane.get(OPERATOR, "/api/v1/audit?limit=1").await.with(200)["data"][0].clone();
    let (action, detail) = (&entry["action"], &entry["detail"]);
    assert_eq!(
        (action, &detail["balance_usd"], &detail["refunded_usd"]),
        (&json!("team.delete"), &json!("8.5"), &json!("0"))
    );
    assert_eq!((&detail["members"], &detail["refund_to"]), (&json!(["ada", "bob"]), &Value::Null));
    assert_eq!(detail["keys"].as_array().unwrap().len(), 3);
    // Whoever was on it is free.
    plane.call(&ada, "POST", "/api/v1/teams", json!({"id": "next", "name": "Next", "owner": "ada"})).await.with(201);
}

/// A record of the team's.
fn charged(id: &str, key: &str, cost: &str) -> Value {
    let mut record = record(id, key, "research", cost);
    (record["team"], record["owner"]) = (json!("research"), Value::Null);
    record
}

async fn only_the_operator_deletes_a_team(plane: &Plane) {
    let (ada, bob) = (plane.user("ada").await, plane.user("bob").await);
    plane.team("research", "ada").await;
    for (token, team) in [(&ada, "research"), (&bob, "research"), (&bob, "nothing")] {
        plane.call(token, "DELETE", &format!("/api/v1/teams/{team}"), Value::Null).await.refused(403, "forbidden");
    }
    plane.operate("DELETE", "/api/v1/teams/nothing", Value::Null).await.refused(404, "not_found");
    plane.get(&ada, "/api/v1/teams/research").await.with(200);
}

async fn what_is_in_a_deleted_teams_wallet_goes_to_whom_the_operator_names(plane: &Plane) {
    let ada = plane.user("ada").await;
    for (team, owner) in [("research", "ada"), ("other", "bob")] {
        if owner != "ada" {
            plane.user(owner).await;
        }
        plane.team(team, owner).await;
        plane.credit(team, "3.000000001", "first").await;
    }
    plane.credit("ada", "0.05", "first").await;
    let (_, personal) = plane.key(OPERATOR, json!({"name": "Team's key", "team": "other"})).await;
    plane.operate("DELETE", "/api/v1/teams/other", json!({"refund_to": "research"})).await.with(204);
    plane.look_up(&personal).await.refused(404, "not_found");
    assert_eq!((plane.balance("other").await, plane.balance("research").await), ("0".into(), "6.000000002".into()));
    plane.operate("DELETE", "/api/v1/teams/research", json!({"refund_to": "ada"})).await.with(204);
    assert_eq!((plane.balance("research").await, plane.balance("ada").await), ("0".into(), "6.050000002".into()));
    plane.key(&ada, json!({"name": "Paid for"})).await;
    plane.get(&ada, "/api/v1/wallets/research").await.refused(404, "not_found");
    assert_eq!(plane.store().unbalanced_wallets().await.unwrap(), Vec::<String>::new());
    // Who had run out goes on.
    plane.user("eve").await;
    plane.team("last", "eve").await;
    plane.credit("last", "1", "first").await;
    plane.credit("eve", "0.01", "first").await;
    let (_, poor) = {
        plane.operate("DELETE", "/api/v1/teams/last/members/eve", Value::Null).await.with(204);
        plane.key(OPERATOR, json!({"name": "Out of money", "owner": "eve"})).await
    };
    assert_eq!(plane.state(&poor).await, "no_balance");
    plane.operate("DELETE", "/api/v1/teams/last", json!({"refund_to": "eve"})).await.with(204);
    assert_eq!(plane.state(&poor).await, "active");
}

async fn a_refund_to_whom_there_is_not_changes_nothing(plane: &Plane) {
    let ada = plane.user("ada").await;
    plane.user("gone").await;
    plane.operate("DELETE", "/api/v1/users/gone", Value::Null).await.with(204);
    plane.user("rich").await;
    plane.credit("rich", "9223372035", "first").await;
    plane.team("research", "ada").await;
    plane.credit("research", "10", "first").await;
    let (_, secret) = plane.key(&ada, json!({"name": "Team's key", "team": "research"})).await;
    let changes = plane.store().last_change().await.unwrap();
    for (to, status, code) in [
        ("nobody", 404, "not_found"),
        ("gone", 404, "not_found"),
        ("", 404, "not_found"),
        ("research", 400, "invalid_value"),
        ("rich", 400, "invalid_value"),
    ] {
        let refused = plane.operate("DELETE", "/api/v1/teams/research", json!({"refund_to": to})).await;
        assert_eq!(refused.refused(status, code), "refund_to", "{to}");
    }
    let typo = plane.operate("DELETE", "/api/v1/teams/research", json!({"refund": "ada"})).await;
    assert_eq!(typo.refused(400, "invalid_value"), "refund");
    assert_eq!(plane.store().last_change().await.unwrap(), changes);
    assert_eq!(plane.state(&secret).await, "active");
    assert_eq!(plane.balance("research").await, "10");
    assert_eq!(plane.get(&ada, "/api/v1/teams/research").await.with(200)["members"][0]["role"], "owner");
}

/// What gateways were granted before, and what they hand in after.
async fn the_money_of_a_deleted_team_adds_up(plane: &Plane) {
    let ada = plane.user("ada").await;
    plane.team("research", "ada").await;
    plane.credit("research", "10", "first").await;
    let (id, secret) = plane.key(&ada, json!({"name": "Team's key", "team": "research"})).await;
    let hash = keymeter_core::key::Secret::new(secret).hash().to_hex();
    let headers = [("x-keymeter-gateway", "0123456789abcdef")];
    let met = plane.call_with(GATEWAYS, "GET", &format!("/v1/keys/{hash}"), Value::Null, &headers).await.with(200);
    assert_eq!(met["wallet"]["allowance"]["granted_usd"], "2.5");
    used(plane, &[charged("r1", &id, "0.250000001")]).await;
    plane.operate("DELETE", "/api/v1/teams/research", json!({"refund_to": "ada"})).await.with(204);
    assert_eq!(plane.balance("ada").await, "9.749999999");
    // Requests that ran when the team was deleted, told twice.
    for _ in 0..2 {
        used(plane, &[charged("r2", &id, "1.1"), charged("r3", &id, "0.000000002")]).await;
    }
    assert_eq!(plane.balance("ada").await, "9.749999999", "nobody pays for another's requests");
    assert_eq!(plane.balance("research").await, "-1.100000002");
    let request = json!({"id": "research", "version": 0, "wanted_usd": "5", "granted_usd": "0"});
    let batch = json!({"gateway": "aaaaaaaaaaaaaaaa", "wallets": [request]});
    let told = plane.call(GATEWAYS, "POST", "/v1/usage/records", batch).await.with(200);
    assert_eq!(told["wallets"][0]["allowance"]["granted_usd"], "0", "nothing more is granted");
    let total = plane.get(OPERATOR, "/api/v1/usage").await.with(200)["rows"][0]["cost_usd"].clone();
    let nanos = |text: &str| text.parse::<keymeter_core::money::Usd>().unwrap().nanos();
    let debt = -1_100_000_002;
    assert_eq!(nanos(total.as_str().unwrap()) + nanos("9.749999999") + debt, nanos("10"));
    assert_eq!(plane.store().unbalanced_wallets().await.unwrap(), Vec::<String>::new());
    // A debt is nobody's to inherit.
    plane.user("bob").await;
    plane.team("poor", "bob").await;
    used(plane, &[record("r4", "key_x", "poor", "2")]).await;
    plane.operate("DELETE", "/api/v1/teams/poor", json!({"refund_to": "ada"})).await.with(204);
    assert_eq!((plane.balance("poor").await, plane.balance("ada").await), ("-2".into(), "9.749999999".into()));
}

async fn gateways_follow_the_end_of_a_team(plane: &Plane) {
    let upstream = answering().await;
    let gateways = [gateway(&upstream, plane, "").await];
    let bob = plane.user("bob").await;
    plane.user("ada").await;
    plane.credit("bob", "1", "first").await;
    let (_, personal) = plane.key(&bob, json!({"name": "Personal"})).await;
    plane.team("research", "ada").await;
    plane.credit("research", "10", "first").await;
    let (_, secret) = plane.key(OPERATOR, json!({"name": "Team's key", "team": "research"})).await;
    let works = (200, Value::Null);
    let mut lags = Vec::new();
    becomes(&gateways, &personal, &works, &mut lags).await;
    becomes(&gateways, &secret, &works, &mut lags).await;
    plane.operate("PUT", &member("bob"), json!({"role": "member"})).await.with(200);
    becomes(&gateways, &personal, &(401, "api_key_archived".into()), &mut lags).await;
    plane.operate("DELETE", "/api/v1/teams/research", json!({"refund_to": "bob"})).await.with(204);
    becomes(&gateways, &secret, &(401, "invalid_api_key".into()), &mut lags).await;
    becomes(&gateways, &personal, &works, &mut lags).await;
    assert_eq!(audited(plane).await[0], ("operator".into(), "team.delete".into(), "research".into()));
}

async fn no_key_is_made_for_a_team_while_it_is_deleted(plane: &Plane) {
    let ada = plane.user("ada").await;
    plane.team("research", "ada").await;
    plane.credit("research", "10", "first").await;
    let (id, _) = plane.key(&ada, json!({"name": "Team's key", "team": "research"})).await;
    let path = format!("/api/v1/keys/{id}");
    let call = |number: usize| {
        let (ada, path) = (ada.clone(), path.clone());
        async move {
            match number {
                4 => plane.operate("DELETE", "/api/v1/teams/research", json!({"refund_to": "ada"})).await,
                number if number % 3 == 0 => plane.call(&ada, "PATCH", &path, json!({"name": "Renamed"})).await,
                number if number % 3 == 1 => plane.call(&ada, "POST", &format!("{path}/regenerate"), Value::Null).await,
                _ => plane.call(&ada, "POST", "/api/v1/keys", json!({"name": "New", "team": "research"})).await,
            }
        }
    };
    let answers = futures_util::future::join_all((0..12).map(call)).await;
    assert!(answers.iter().all(|answer| answer.status.as_u16() < 500), "{answers:?}");
    assert_eq!(answers[4].status, 204);
    let keys = plane.get(OPERATOR, "/api/v1/keys").await.with(200)["data"].clone();
    assert_eq!(keys, json!([]), "all that were made before are deleted with it");
}
