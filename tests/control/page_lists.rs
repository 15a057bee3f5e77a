//! Lists of the page: searched, filtered, sorted and cut into pages by the database.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    money::{record, used},
    over_both,
    page::{Browser, Page},
};
use crate::support::control::{OPERATOR, Plane};

over_both! {
    keys_are_searched_and_filtered
    keys_are_sorted_by_what_they_used_this_month
    a_list_shows_what_its_reader_may_see_and_no_more
    a_key_is_switched_where_it_is_listed
    the_overview_is_of_a_team_or_of_all
    a_wallet_tells_what_came_and_went
    what_was_used_before_an_upgrade_sorts_lists_after_it
}

/// The names of keys on a page, in their order.
fn names(page: &Page) -> Vec<String> {
    let rows = page.text.split("role=\"rowheader\"").skip(1);
    let name = |row: &str| row.split_once("\">").and_then(|(_, rest)| rest.split_once('<')).unwrap().0.to_owned();
    rows.map(|row| name(row.split_once("<a ").unwrap().1)).collect()
}

async fn listed(browser: &mut Browser<'_>, query: &str) -> Vec<String> {
    names(&browser.get(&format!("/?{query}")).await.with(200))
}

/// Usage of a key at a time.
fn used_at(id: &str, key: &str, cost: &str, time: Timestamp) -> Value {
    let mut record = record(id, key, "ada", cost);
    record["time"] = json!(time.to_string());
    record
}

async fn keys_are_searched_and_filtered(plane: &Plane) {
    let ada = plane.user("ada").await;
    plane.user("bob").await;
    plane.team("research", "bob").await;
    for wallet in ["ada", "research"] {
        plane.credit(wallet, "1", "first").await;
    }
    let (adas, secret) = plane.key(&ada, json!({"name": "Ada's 100%_key!"})).await;
    plane.key(OPERATOR, json!({"name": "Team's", "team": "research"})).await;
    plane.key(OPERATOR, json!({"name": "Nobody's"})).await;
    plane.key(OPERATOR, json!({"name": "Over", "expires_at": "2020-01-01T00:00:00Z"})).await;
    let (off, _) = plane.key(OPERATOR, json!({"name": "Off"})).await;
    plane.operate("PATCH", &format!("/api/v1/keys/{off}"), json!({"enabled": false})).await.with(200);
    let (gone, _) = plane.key(OPERATOR, json!({"name": "Gone"})).await;
    plane.operate("DELETE", &format!("/api/v1/keys/{gone}"), Value::Null).await.with(204);

    let mut browser = Browser::signed_in(plane, OPERATOR).await;
    assert_eq!(listed(&mut browser, "").await, ["Ada's 100%_key!", "Nobody's", "Off", "Over", "Team's"]);
    for (query, found) in [
        ("q=ADA%27S", vec!["Ada's 100%_key!"]),
        ("q=%25", vec!["Ada's 100%_key!"]),
        ("q=_key!", vec!["Ada's 100%_key!"]),
        ("q=0_k", vec![]),
        ("q=resea", vec!["Team's"]),
        ("owner=research", vec!["Team's"]),
        ("owner=ada", vec!["Ada's 100%_key!"]),
        ("owner=%28nobody%29", vec!["Nobody's", "Off", "Over"]),
        ("state=active", vec!["Ada's 100%_key!", "Nobody's", "Team's"]),
        ("state=disabled", vec!["Off"]),
        ("state=expired", vec!["Over"]),
        ("state=deleted", vec!["Gone"]),
        ("state=no_balance", vec![]),
        ("owner=%28nobody%29&state=expired", vec!["Over"]),
        ("sort=-name&state=active", vec!["Team's", "Nobody's", "Ada's 100%_key!"]),
        ("sort=-made&state=active", vec!["Nobody's", "Team's", "Ada's 100%_key!"]),
    ] {
        assert_eq!(listed(&mut browser, query).await, found, "{query}");
    }
    assert_eq!(listed(&mut browser, &format!("q={adas}")).await, ["Ada's 100%_key!"]);
    assert_eq!(listed(&mut browser, &format!("q={}", &secret[..8])).await, ["Ada's 100%_key!"]);
    browser.get("/?q=nothing-like-it").await.with(200).says("No key is like that.");
    browser.get("/?page=9").await.with(200).says("There are no more keys.");
    browser.get("/?q=%00").await.with(400);

    used(plane, &[used_at("r1", &adas, "0.99", Timestamp::now())]).await;
    assert_eq!(listed(&mut browser, "state=no_balance").await, ["Ada's 100%_key!"]);
    plane.operate("PUT", "/api/v1/teams/research/members/ada", json!({"role": "member"})).await.with(200);
    assert_eq!(listed(&mut browser, "state=archived").await, ["Ada's 100%_key!"]);
    assert!(listed(&mut browser, "state=no_balance").await.is_empty());
}

async fn keys_are_sorted_by_what_they_used_this_month(plane: &Plane) {
    let mut ids = Vec::new();
    for name in ["One", "Two", "Three"] {
        ids.push(plane.key(OPERATOR, json!({"name": name})).await.0);
    }
    let now = Timestamp::now();
    let before: Timestamp = "2026-01-15T00:00:00Z".parse().unwrap();
    let ahead = now.checked_add(jiff::ToSpan::hours(24 * 60)).unwrap();
    used(plane, &[used_at("a", &ids[0], "0.50", now), used_at("b", &ids[1], "0.30", now)]).await;
    // What was used in another month counts in none but that, in whichever order it comes; a clock that is ahead counts as now.
    used(plane, &[used_at("c", &ids[1], "5", before), used_at("d", &ids[2], "9", before)]).await;
    used(plane, &[used_at("e", &ids[1], "0.30", ahead)]).await;
    let mut browser = Browser::signed_in(plane, OPERATOR).await;
    assert_eq!(listed(&mut browser, "sort=-cost").await, ["Two", "One", "Three"]);
    assert_eq!(listed(&mut browser, "sort=cost").await, ["Three", "One", "Two"]);
    assert_eq!(listed(&mut browser, "sort=-requests").await[0], "Two");
    assert_eq!(listed(&mut browser, "sort=used").await[0], "Three");
    for sort in ["-input", "-output", "owner", "-used", "-made", "made", "nonsense"] {
        assert_eq!(listed(&mut browser, &format!("sort={sort}")).await.len(), 3, "{sort}");
    }
}

async fn a_list_shows_what_its_reader_may_see_and_no_more(plane: &Plane) {
    let (ada, bob, eve) = (plane.user("ada").await, plane.user("bob").await, plane.user("eve").await);
    plane.team("research", "bob").await;
    for wallet in ["ada", "research", "eve"] {
        plane.credit(wallet, "1", "first").await;
    }
    plane.key(&ada, json!({"name": "Ada's own"})).await;
    plane.key(&bob, json!({"name": "Research key", "team": "research"})).await;
    plane.key(OPERATOR, json!({"name": "Nobody's key"})).await;
    let mut ada = Browser::signed_in(plane, &ada).await;
    let mut eve = Browser::signed_in(plane, &eve).await;
    let mut bob = Browser::signed_in(plane, &bob).await;
    for query in ["", "owner=ada", "owner=research", "owner=%28nobody%29", "q=key", "state=active", "sort=-cost"] {
        assert!(listed(&mut eve, query).await.is_empty(), "{query}");
    }
    assert_eq!(listed(&mut bob, "").await, ["Research key"]);
    assert_eq!(listed(&mut ada, "q=own").await.len(), 1);
    ada.get("/").await.lacks("research").lacks("Charged to nobody");
    for path in ["/overview?team=research", "/teams/research", "/wallets/research", "/users/bob", "/users/bob/token"] {
        ada.get(path).await.with(404);
    }
    for path in ["/users/new", "/users/ada/edit", "/users/ada/delete", "/teams/research/edit"] {
        ada.get(path).await.with(403).says("Only the operator may do this.").says("aria-label=\"Pages\"");
    }
}

async fn a_key_is_switched_where_it_is_listed(plane: &Plane) {
    let (id, secret) = plane.key(OPERATOR, json!({"name": "Some key"})).await;
    let mut browser = Browser::signed_in(plane, OPERATOR).await;
    let list = "/?q=some&sort=-cost";
    browser.get(list).await.with(200).says("name=\"back\" value=\"q=some&amp;sort=-cost\"").says("Disable");
    let path = format!("/keys/{id}/enabled");
    let fields = [("enabled", "false"), ("back", "q=some&sort=-cost")];
    browser.fill_in(list, &path, &fields).await.leads_to(&format!("/?q=some&sort=-cost&done=disabled#{id}"));
    assert_eq!(plane.state(&secret).await, "disabled");
    browser.get("/?q=some&sort=-cost&done=disabled").await.says("The key is disabled.").says("Enable");
    let fields = [("enabled", "true"), ("back", "//evil.example/")];
    browser.fill_in(list, &path, &fields).await.leads_to(&format!("/?done=enabled#{id}"));
    assert_eq!(plane.state(&secret).await, "active");
}

async fn the_overview_is_of_a_team_or_of_all(plane: &Plane) {
    let ada = plane.user("ada").await;
    plane.team("research", "ada").await;
    plane.credit("research", "10", "first").await;
    let (id, _) = plane.key(OPERATOR, json!({"name": "Team's", "team": "research"})).await;
    let (other, _) = plane.key(OPERATOR, json!({"name": "Nobody's"})).await;
    let mut browser = Browser::signed_in(plane, OPERATOR).await;
    browser.get("/overview").await.with(200).says("Nothing was used.").says("aria-current=\"page\">Overview");
    let mut of_team = used_at("r1", &id, "1.234567", Timestamp::now());
    of_team["team"] = json!("research");
    of_team["owner"] = Value::Null;
    of_team["wallet"] = json!("research");
    let mut of_nobody = used_at("r2", &other, "2", Timestamp::now());
    of_nobody["owner"] = Value::Null;
    of_nobody["wallet"] = Value::Null;
    of_nobody["model"] = json!("other");
    used(plane, &[of_team, of_nobody]).await;
    browser.get("/overview").await.with(200).says("title=\"$3.234567\">$3.23").says("By team").says("no team");
    let team = browser.get("/overview?team=research&span=7").await.with(200);
    team.says("$1.23")
        .lacks("$3.23")
        .says("team=research&amp;span=90")
        .says("Usage of the team research")
        .lacks("other");
    browser.get("/overview?team=none").await.with(404);
    let mut ada = Browser::signed_in(plane, &ada).await;
    ada.get("/overview").await.with(200).says("$1.23").lacks("$3.23").lacks("no team");
}

async fn a_wallet_tells_what_came_and_went(plane: &Plane) {
    let ada = plane.user("ada").await;
    plane.user("bob").await;
    let mut browser = Browser::signed_in(plane, OPERATOR).await;
    browser.get("/wallets/ada").await.with(200).says("Nothing was credited or charged yet.").says("credit it");
    plane.credit("ada", "10", "order-<7>").await;
    let (id, _) = plane.key(&ada, json!({"name": "Some key"})).await;
    for (number, cost) in ["0.5", "0.25"].iter().enumerate() {
        used(plane, &[used_at(&format!("r{number}"), &id, cost, Timestamp::now())]).await;
    }
    let page = browser.get("/wallets/ada").await.with(200);
    assert_eq!(page.text.matches("Charges of the day").count(), 1, "one for all batches of a day");
    page.says("−$0.75").says("order-&lt;7&gt;").says("$10.00").lacks("Earlier");
    // Long ago there was one more.
    let mut tx = plane.store().begin().await.unwrap();
    let sql =
        "INSERT INTO wallet_entries (wallet, kind, reference, amount_nanos, at) VALUES ('ada', 'credit', 'old', 0, 1)";
    sqlx::query(sql).execute(&mut *tx).await.unwrap();
    plane.store().commit(tx).await.unwrap();
    let page = browser.get("/wallets/ada").await.with(200).lacks("<code>old</code>");
    let (_, next) = page.text.split_once("rel=\"next\" href=\"").unwrap();
    let earlier = browser.get(next.split_once('"').unwrap().0).await.with(200);
    earlier.says("<code>old</code>").says("Latest").lacks("order-");
    let mut ada = Browser::signed_in(plane, &ada).await;
    ada.get("/wallets/ada").await.with(200).says("order-").lacks("Credit it");
    ada.get("/wallets/bob").await.with(404);
    browser.get("/wallets").await.with(200).says("empty").says("pays");
}

/// What the tables of the version before have, the new one is filled with.
async fn what_was_used_before_an_upgrade_sorts_lists_after_it(plane: &Plane) {
    let mut ids = Vec::new();
    for name in ["One", "Two"] {
        ids.push(plane.key(OPERATOR, json!({"name": name})).await.0);
    }
    let (now, before) = (Timestamp::now(), "2026-01-31T23:59:59Z".parse().unwrap());
    let of = |id: &str, key: usize, cost: &str, time| used_at(id, &ids[key], cost, time);
    used(plane, &[of("a", 0, "1", now), of("b", 0, "1", before), of("c", 1, "1.5", now), of("d", 1, "0.25", now)])
        .await;
    let kept = kept(plane).await;
    super::upgrade::as_version_8(plane).await;
    let later = plane.beside().await;
    assert_eq!(self::kept(&later).await, kept);
    let mut browser = Browser::signed_in(&later, OPERATOR).await;
    assert_eq!(listed(&mut browser, "sort=-cost").await, ["Two", "One"]);
}

/// What lists are sorted by.
async fn kept(plane: &Plane) -> Vec<Vec<i64>> {
    let sql =
        "SELECT month, requests, input_tokens, output_tokens, cost_nanos, last_used_at FROM key_usage ORDER BY key_id";
    let rows =
        sqlx::query_as::<_, (i64, i64, i64, i64, i64, i64)>(sql).fetch_all(plane.store().reader()).await.unwrap();
    rows.into_iter().map(|(a, b, c, d, e, f)| vec![a, b, c, d, e, f]).collect()
}

#[tokio::test]
async fn what_is_too_much_to_add_up_is_said_and_all_else_is_shown() {
    let plane = Plane::sqlite().await;
    let ada = plane.user("ada").await;
    plane.credit("ada", "1", "first").await;
    let (id, _) = plane.key(&ada, json!({"name": "Some key"})).await;
    let day = 24 * 3_600_000_000_i64;
    let today = Timestamp::now().as_microsecond().div_euclid(day) * day;
    let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200001) \
               INSERT INTO usage_days (key_id, since, model, owner, team, key_name, requests, input_tokens, \
               cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nanos, last_used_at) \
               SELECT $1, $2, 'm' || i, 'ada', '', 'Some key', 1, 1, 0, 0, 1, 0, 1, $3 FROM n";
    let mut tx = plane.store().begin().await.unwrap();
    sqlx::query(sql).bind(&id).bind(today - 20 * day).bind(today).execute(&mut *tx).await.unwrap();
    plane.store().commit(tx).await.unwrap();
    let mut browser = Browser::signed_in(&plane, &ada).await;
    for path in ["/overview", "/users/ada", &format!("/keys/{id}")] {
        browser.get(path).await.with(200).says("This is too much to add up here.").says("span=7");
        browser.get(&format!("{path}?span=7")).await.with(200).says("Nothing was used.").lacks("too much");
    }
}
