//! Nobody is put on a team, or made to own one, who has not said yes, but by the operator.

use std::time::Duration;

use keymeter_control::store::{invitations, people};
use serde_json::{Value, json};

use super::over_both;
use crate::support::control::{Answer, OPERATOR, Plane};

over_both! {
    nobody_is_put_on_a_team_who_has_not_said_yes
    whoever_accepts_is_on_the_team_and_whoever_declines_is_left_alone
    being_made_owner_is_accepted_too
    an_offer_of_ownership_ends_with_its_makers_own
    an_invitation_stands_as_long_as_whoever_made_it_may_make_it
    whoever_is_on_a_team_leaves_before_they_accept_another
    an_invitation_is_seen_and_withdrawn_by_whoever_leads_the_team
    an_invitation_that_was_changed_is_not_accepted_unseen
    there_are_only_so_many_invitations
    who_is_deleted_is_invited_no_more
    an_invitation_is_answered_once
}

fn member(team: &str, user: &str) -> String {
    format!("/api/v1/teams/{team}/members/{user}")
}

async fn put(plane: &Plane, token: &str, team: &str, user: &str, role: &str) -> Answer {
    plane.call(token, "PUT", &member(team, user), json!({"role": role})).await
}

pub(super) async fn answer(plane: &Plane, token: &str, team: &str, accept: bool) -> Answer {
    plane.call(token, "POST", &format!("/api/v1/teams/{team}/invitation"), json!({"accept": accept})).await
}

async fn invitations_of(plane: &Plane, token: &str) -> Value {
    plane.get(token, "/api/v1/invitations").await.with(200)["data"].clone()
}

/// The user's own team and role, as the operator sees them.
async fn place_of(plane: &Plane, user: &str) -> (Value, Value) {
    let users = plane.get(OPERATOR, "/api/v1/users").await.with(200)["data"].clone();
    let found = users.as_array().unwrap().iter().find(|one| one["id"] == user).unwrap().clone();
    (found["team"].clone(), found["role"].clone())
}

/// What the operator finds in the audit, the latest first.
pub(super) async fn audited(plane: &Plane) -> Vec<(String, String, String)> {
    let entries = plane.get(OPERATOR, "/api/v1/audit").await.with(200)["data"].clone();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap().to_owned();
    let entry = |entry: &Value| (text(entry, "actor"), text(entry, "action"), text(entry, "target"));
    entries.as_array().unwrap().iter().map(entry).collect()
}

async fn nobody_is_put_on_a_team_who_has_not_said_yes(plane: &Plane) {
    let (mallory, grace) = (plane.user("mallory").await, plane.user("grace").await);
    plane.credit("grace", "5", "first").await;
    let (id, secret) = plane.key(&grace, json!({"name": "Production"})).await;
    let changes = plane.store().last_change().await.unwrap();
    plane
        .call(&mallory, "POST", "/api/v1/teams", json!({"id": "trap", "name": "Trap", "owner": "mallory"}))
        .await
        .with(201);
    for role in ["member", "admin", "owner", "owner", "member"] {
        let invited = put(plane, &mallory, "trap", "grace", role).await.with(202);
        assert_eq!((&invited["state"], &invited["role"]), (&json!("invited"), &json!(role)));
        assert_eq!(plane.state(&secret).await, "active");
        assert_eq!(place_of(plane, "grace").await, (Value::Null, Value::Null));
    }
    assert_eq!(plane.store().last_change().await.unwrap(), changes, "no gateway was told anything");
    let team = plane.get(&mallory, "/api/v1/teams/trap").await.with(200);
    assert_eq!(team["members"], json!([{"user": "mallory", "role": "owner"}]));
    let path = format!("/api/v1/keys/{id}");
    plane.call(&grace, "PATCH", &path, json!({"name": "Still mine"})).await.with(200);
    plane.call(&grace, "POST", &format!("{path}/regenerate"), Value::Null).await.with(200);
    plane.key(&grace, json!({"name": "Another"})).await;
    for path in ["/api/v1/teams/trap", "/api/v1/keys?team=trap", "/api/v1/wallets/trap"] {
        plane.get(&grace, path).await.refused(404, "not_found");
    }
    put(plane, &mallory, "trap", "nobody", "member").await.refused(404, "not_found");
    // A team of one's own can be made all the same.
    plane
        .call(&grace, "POST", "/api/v1/teams", json!({"id": "mine", "name": "Mine", "owner": "grace"}))
        .await
        .with(201);
}

async fn whoever_accepts_is_on_the_team_and_whoever_declines_is_left_alone(plane: &Plane) {
    let (ada, grace) = (plane.user("ada").await, plane.user("grace").await);
    plane.credit("grace", "5", "first").await;
    let (_, secret) = plane.key(&grace, json!({"name": "Production"})).await;
    plane.team("research", "ada").await;
    answer(plane, &grace, "research", true).await.refused(404, "not_found");
    answer(plane, &grace, "nothing", true).await.refused(404, "not_found");
    assert_eq!(invitations_of(plane, &grace).await, json!([]));
    put(plane, &ada, "research", "grace", "admin").await.with(202);
    let invited = invitations_of(plane, &grace).await[0].clone();
    assert_eq!(
        (&invited["team"], &invited["team_name"], &invited["role"], &invited["state"], &invited["invited_by"]),
        (&json!("research"), &json!("Team research"), &json!("admin"), &json!("invited"), &json!("ada"))
    );
    answer(plane, OPERATOR, "research", true).await.refused(403, "forbidden");
    answer(plane, &ada, "research", true).await.refused(404, "not_found");
    let path = "/api/v1/teams/research/invitation";
    assert_eq!(plane.call(&grace, "POST", path, json!({})).await.refused(400, "invalid_value"), "accept");
    assert_eq!(answer(plane, &grace, "research", false).await.with(200)["state"], "declined");
    assert_eq!(invitations_of(plane, &grace).await, json!([]));
    assert_eq!(plane.state(&secret).await, "active");
    answer(plane, &grace, "research", true).await.refused(404, "not_found");
    put(plane, &ada, "research", "grace", "member").await.refused(409, "conflict");
    plane.call(&ada, "DELETE", &member("research", "grace"), Value::Null).await.refused(404, "not_found");
    put(plane, &ada, "research", "grace", "member").await.refused(409, "conflict");

    // After a week they may ask again.
    let week = jiff::Timestamp::now() - invitations::DECLINED_FOR;
    for (declined, status) in [(week + Duration::from_mins(1), 409), (week, 202)] {
        let mut tx = plane.store().begin().await.unwrap();
        invitations::invite(&mut tx, "research", "grace", people::Role::Admin, "ada", declined).await.unwrap();
        invitations::decline(&mut tx, "research", "grace", declined).await.unwrap();
        plane.store().commit(tx).await.unwrap();
        put(plane, &ada, "research", "grace", "member").await.with(status);
    }
    answer(plane, &grace, "research", false).await.with(200);
    assert_eq!(plane.store().forget_declined(week).await.unwrap(), 0);
    assert_eq!(plane.store().forget_declined(jiff::Timestamp::now()).await.unwrap(), 1);
    put(plane, &ada, "research", "grace", "member").await.with(202);
    assert_eq!(answer(plane, &grace, "research", true).await.with(200)["state"], "accepted");
    assert_eq!(place_of(plane, "grace").await, (json!("research"), json!("member")));
    assert_eq!(plane.state(&secret).await, "archived");
    plane.get(&grace, "/api/v1/teams/research").await.with(200);
    // Among members a role is a matter of the team's.
    for role in ["admin", "member"] {
        put(plane, &ada, "research", "grace", role).await.with(200);
        assert_eq!(place_of(plane, "grace").await.1, role);
    }
    plane.call(&grace, "DELETE", &member("research", "grace"), Value::Null).await.with(204);
    assert_eq!(plane.state(&secret).await, "active");
    let expected = [
        ("grace", "team.leave"),
        ("ada", "team.member"),
        ("ada", "team.member"),
        ("grace", "team.accept"),
        ("ada", "team.invite"),
        ("grace", "team.decline"),
        ("ada", "team.invite"),
    ];
    let found = audited(plane).await;
    for ((actor, action), entry) in expected.into_iter().zip(found) {
        assert_eq!(entry, (actor.to_owned(), action.to_owned(), "research".to_owned()));
    }
}

async fn being_made_owner_is_accepted_too(plane: &Plane) {
    let (ada, grace, eve) = (plane.user("ada").await, plane.user("grace").await, plane.user("eve").await);
    plane.team("research", "ada").await;
    put(plane, OPERATOR, "research", "grace", "member").await.with(200);
    assert_eq!(put(plane, &ada, "research", "grace", "owner").await.with(202)["role"], "owner");
    assert_eq!(place_of(plane, "grace").await.1, "member");
    assert_eq!(place_of(plane, "ada").await.1, "owner");
    answer(plane, &grace, "research", false).await.with(200);
    assert_eq!(place_of(plane, "grace").await, (json!("research"), json!("member")), "who declines stays a member");
    plane.call(&grace, "DELETE", &member("research", "grace"), Value::Null).await.with(204);
    // Somebody from outside may be offered it too.
    put(plane, &ada, "research", "eve", "owner").await.with(202);
    answer(plane, &eve, "research", true).await.with(200);
    let team = plane.get(&eve, "/api/v1/teams/research").await.with(200);
    assert_eq!(team["members"], json!([{"user": "ada", "role": "admin"}, {"user": "eve", "role": "owner"}]));
    plane.call(&ada, "DELETE", &member("research", "ada"), Value::Null).await.with(204);
    plane.call(&eve, "DELETE", &member("research", "eve"), Value::Null).await.refused(409, "conflict");
}

async fn an_offer_of_ownership_ends_with_its_makers_own(plane: &Plane) {
    let tokens = [plane.user("ada").await, plane.user("grace").await, plane.user("eve").await];
    let [ada, grace, eve] = &tokens;
    plane.team("research", "ada").await;
    for user in ["grace", "eve"] {
        put(plane, OPERATOR, "research", user, "member").await.with(200);
        put(plane, ada, "research", user, "owner").await.with(202);
    }
    answer(plane, eve, "research", true).await.with(200);
    answer(plane, grace, "research", true).await.refused(404, "not_found");
    // The operator names another while an offer is open.
    put(plane, eve, "research", "grace", "owner").await.with(202);
    put(plane, OPERATOR, "research", "ada", "owner").await.with(200);
    answer(plane, grace, "research", true).await.refused(404, "not_found");
    let roles = [place_of(plane, "ada").await.1, place_of(plane, "grace").await.1, place_of(plane, "eve").await.1];
    assert_eq!(roles, ["owner", "member", "admin"]);
    // One that the owner thinks better of.
    put(plane, ada, "research", "grace", "owner").await.with(202);
    put(plane, ada, "research", "grace", "admin").await.with(200);
    answer(plane, grace, "research", true).await.refused(404, "not_found");
    // One whose maker is taken off.
    put(plane, ada, "research", "grace", "owner").await.with(202);
    plane.operate("DELETE", &member("research", "ada"), Value::Null).await.with(204);
    answer(plane, grace, "research", true).await.refused(404, "not_found");
    // One who leaves is not offered it any more.
    put(plane, OPERATOR, "research", "eve", "owner").await.with(200);
    put(plane, eve, "research", "grace", "owner").await.with(202);
    plane.call(grace, "DELETE", &member("research", "grace"), Value::Null).await.with(204);
    assert_eq!(invitations_of(plane, grace).await, json!([]));
}

async fn an_invitation_stands_as_long_as_whoever_made_it_may_make_it(plane: &Plane) {
    let (ada, bob, eve) = (plane.user("ada").await, plane.user("bob").await, plane.user("eve").await);
    plane.team("research", "ada").await;
    for end in ["demoted", "removed", "deleted"] {
        if end != "removed" {
            put(plane, OPERATOR, "research", "bob", "admin").await.with(200);
        }
        put(plane, OPERATOR, "research", "bob", "admin").await.with(200);
        put(plane, &bob, "research", "eve", "admin").await.with(202);
        match end {
            "demoted" => drop(put(plane, &ada, "research", "bob", "member").await.with(200)),
            "removed" => drop(plane.call(&ada, "DELETE", &member("research", "bob"), Value::Null).await.with(204)),
            _ => drop(plane.operate("DELETE", "/api/v1/users/bob", Value::Null).await.with(204)),
        }
        answer(plane, &eve, "research", true).await.refused(404, "not_found");
    }
    put(plane, &ada, "research", "eve", "member").await.with(202);
    answer(plane, &eve, "research", true).await.with(200);
}

async fn whoever_is_on_a_team_leaves_before_they_accept_another(plane: &Plane) {
    let (ada, bob, eve) = (plane.user("ada").await, plane.user("bob").await, plane.user("eve").await);
    plane.team("research", "ada").await;
    plane.team("other", "bob").await;
    put(plane, OPERATOR, "other", "eve", "member").await.with(200);
    // Whoever invites is not told where somebody is.
    put(plane, &ada, "research", "eve", "member").await.with(202);
    put(plane, &ada, "research", "bob", "member").await.with(202);
    answer(plane, &eve, "research", true).await.refused(409, "conflict");
    answer(plane, &bob, "research", true).await.refused(409, "conflict");
    assert_eq!(place_of(plane, "eve").await.0, "other");
    put(plane, OPERATOR, "research", "eve", "member").await.refused(409, "conflict");
    plane.call(&eve, "DELETE", &member("other", "eve"), Value::Null).await.with(204);
    answer(plane, &eve, "research", true).await.with(200);
    answer(plane, &bob, "research", false).await.with(200);
}

async fn an_invitation_is_seen_and_withdrawn_by_whoever_leads_the_team(plane: &Plane) {
    let users = ["owner", "admin", "member", "stranger", "invited"];
    let mut tokens = Vec::new();
    for user in users {
        tokens.push(plane.user(user).await);
    }
    let [owner, admin, member_of, stranger, invited] = tokens.try_into().unwrap();
    plane.team("research", "owner").await;
    put(plane, OPERATOR, "research", "admin", "admin").await.with(200);
    put(plane, OPERATOR, "research", "member", "member").await.with(200);
    let (all, path) = ("/api/v1/invitations?team=research", member("research", "invited"));
    for (token, status) in [(&owner, 202), (&admin, 202), (&member_of, 403), (&stranger, 404), (&invited, 404)] {
        put(plane, token, "research", "invited", "member").await.with(status);
    }
    for (token, seen) in
        [(OPERATOR, 200), (&owner, 200), (&admin, 200), (&member_of, 403), (&stranger, 404), (&invited, 404)]
    {
        let listed = plane.get(token, all).await.with(seen);
        assert!(seen != 200 || listed["data"][0]["user"] == "invited", "{listed}");
    }
    plane.get(OPERATOR, "/api/v1/invitations?team=nothing").await.refused(404, "not_found");
    assert_eq!(invitations_of(plane, &stranger).await, json!([]));
    assert_eq!(invitations_of(plane, OPERATOR).await[0]["user"], "invited");
    for (token, status) in [(&member_of, 403), (&stranger, 404), (&invited, 404), (&admin, 204)] {
        plane.call(token, "DELETE", &path, Value::Null).await.with(status);
    }
    answer(plane, &invited, "research", true).await.refused(404, "not_found");
    assert_eq!(audited(plane).await[0].1, "team.withdraw");
    // What only the owner may offer, only the owner takes back.
    put(plane, &admin, "research", "invited", "owner").await.refused(403, "forbidden");
    put(plane, &owner, "research", "invited", "owner").await.with(202);
    put(plane, &admin, "research", "invited", "member").await.refused(403, "forbidden");
    plane.call(&admin, "DELETE", &path, Value::Null).await.refused(403, "forbidden");
    plane.call(OPERATOR, "DELETE", &path, Value::Null).await.with(204);
    plane.call(&owner, "DELETE", &path, Value::Null).await.refused(404, "not_found");
    // So it is with a member's: an admin gives them another role, and the offer stands.
    put(plane, &owner, "research", "member", "owner").await.with(202);
    put(plane, &admin, "research", "member", "admin").await.with(200);
    answer(plane, &member_of, "research", true).await.with(200);
    assert_eq!(place_of(plane, "member").await.1, "owner");
}

async fn an_invitation_that_was_changed_is_not_accepted_unseen(plane: &Plane) {
    let (ada, grace) = (plane.user("ada").await, plane.user("grace").await);
    plane.team("research", "ada").await;
    put(plane, &ada, "research", "grace", "member").await.with(202);
    put(plane, &ada, "research", "grace", "owner").await.with(202);
    let path = "/api/v1/teams/research/invitation";
    let seen = |role: &str| json!({"accept": true, "role": role});
    plane.call(&grace, "POST", path, seen("member")).await.refused(409, "conflict");
    assert_eq!(plane.call(&grace, "POST", path, seen("queen")).await.refused(400, "invalid_value"), "role");
    assert_eq!(place_of(plane, "grace").await.0, Value::Null);
    plane.call(&grace, "POST", path, seen("owner")).await.with(200);
}

async fn there_are_only_so_many_invitations(plane: &Plane) {
    let (ada, grace) = (plane.user("ada").await, plane.user("grace").await);
    plane.team("research", "ada").await;
    let now = jiff::Timestamp::now();
    let mut tx = plane.store().begin().await.unwrap();
    for number in 0..100 {
        let (user, team) = (format!("user_{number:03}"), format!("team_{number:03}"));
        let token = keymeter_core::key::KeyHash::digest(user.as_bytes());
        people::create_user(&mut tx, (&user, "Some user"), None, &token, now).await.unwrap();
        people::create_team(&mut tx, &team, "Some team", &user, now).await.unwrap();
        invitations::invite(&mut tx, &team, "grace", people::Role::Member, &user, now).await.unwrap();
        invitations::invite(&mut tx, "research", &user, people::Role::Member, "ada", now).await.unwrap();
    }
    plane.store().commit(tx).await.unwrap();
    let bob = plane.user("bob").await;
    plane.team("other", "bob").await;
    put(plane, &ada, "research", "bob", "member").await.refused(409, "conflict");
    put(plane, &bob, "other", "grace", "member").await.refused(409, "conflict");
    // One that is there can be changed, and one that is answered makes room.
    put(plane, &ada, "research", "user_007", "admin").await.with(202);
    plane.call(&ada, "DELETE", &member("research", "user_007"), Value::Null).await.with(204);
    put(plane, &ada, "research", "bob", "member").await.with(202);
    answer(plane, &grace, "team_007", false).await.with(200);
    put(plane, &bob, "other", "grace", "member").await.with(202);
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = plane.get(&grace, &format!("/api/v1/invitations?limit=33{cursor}")).await.with(200);
        seen.extend(page["data"].as_array().unwrap().iter().map(|one| one["team"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen.len(), 100);
    assert!(seen.is_sorted() && seen.first().is_some_and(|team| team == "other"), "{seen:?}");
    let all = plane.get(OPERATOR, "/api/v1/invitations?limit=1000").await.with(200);
    assert_eq!(all["data"].as_array().unwrap().len(), 200);
}

async fn who_is_deleted_is_invited_no_more(plane: &Plane) {
    let (ada, grace, bob) = (plane.user("ada").await, plane.user("grace").await, plane.user("bob").await);
    plane.team("research", "ada").await;
    plane.team("other", "bob").await;
    for user in ["grace", "bob"] {
        put(plane, &ada, "research", user, "member").await.with(202);
    }
    put(plane, &bob, "other", "grace", "member").await.with(202);
    plane.operate("DELETE", "/api/v1/teams/other", Value::Null).await.with(204);
    let left = invitations_of(plane, &grace).await;
    assert_eq!(left.as_array().unwrap().len(), 1, "{left}");
    answer(plane, &grace, "other", true).await.refused(404, "not_found");
    plane.operate("DELETE", "/api/v1/users/grace", Value::Null).await.with(204);
    let listed = plane.get(&ada, "/api/v1/invitations?team=research").await.with(200);
    assert_eq!(listed["data"].as_array().unwrap().len(), 1, "bob's is left: {listed}");
    put(plane, &ada, "research", "grace", "member").await.refused(404, "not_found");
    answer(plane, &bob, "research", true).await.with(200);
}

async fn an_invitation_is_answered_once(plane: &Plane) {
    let (ada, grace, bob) = (plane.user("ada").await, plane.user("grace").await, plane.user("bob").await);
    plane.team("research", "ada").await;
    plane.team("other", "bob").await;
    put(plane, &ada, "research", "grace", "member").await.with(202);
    put(plane, &bob, "other", "grace", "member").await.with(202);
    let calls = (0..8).map(|number| answer(plane, &grace, if number % 2 == 0 { "research" } else { "other" }, true));
    let answers = futures_util::future::join_all(calls).await;
    let accepted = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(accepted, 1, "{answers:?}");
    assert!(answers.iter().all(|answer| matches!(answer.status.as_u16(), 200 | 404 | 409)), "{answers:?}");
}
