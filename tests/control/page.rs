//! Keys in a browser, as a browser without a script sees them.

use reqwest::{Client, StatusCode, header::HeaderMap, redirect::Policy};
use serde_json::{Value, json};

use super::{
    money::{record, used},
    over_both,
};
use crate::support::{
    client::PATIENCE,
    control::{GATEWAYS, OPERATOR, Plane},
};

over_both! {
    a_key_is_made_once_and_its_secret_shown_once
    a_form_sent_twice_at_once_makes_one_key
    a_secret_is_replaced_once_for_each_form
    a_role_reaches_as_far_as_by_calls
    an_invitation_is_answered_where_it_is_seen
    the_operator_does_everything_to_a_team
    what_a_key_used_is_drawn_and_told
    a_deleted_users_session_ends_at_once
    a_session_is_known_to_all_instances
    wallets_are_shown_and_credited_once
}

/// Somebody's browser.
pub(super) struct Browser<'plane> {
    plane: &'plane Plane,
    client: Client,
    /// The session's.
    cookie: Option<String>,
    /// That of an attempt to sign in by an issuer.
    pub(super) attempt: Option<String>,
}

/// What it shows.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Page {
    /// Itself, if it has this status.
    pub(super) fn with(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    pub(super) fn leads_to(&self, path: &str) {
        assert_eq!(self.status, 303, "{}", self.text);
        assert_eq!(self.headers["location"], path);
    }

    pub(super) fn says(self, words: &str) -> Self {
        assert!(self.text.contains(words), "no {words:?} in {}", self.text);
        self
    }

    pub(super) fn lacks(self, words: &str) -> Self {
        assert!(!self.text.contains(words), "{words:?} in {}", self.text);
        self
    }

    /// What a hidden field bears.
    pub(super) fn hidden(&self, name: &str) -> String {
        let start = format!("name=\"{name}\" value=\"");
        let (_, rest) = self.text.split_once(&start).unwrap_or_else(|| panic!("no {name} in {}", self.text));
        rest.split_once('"').unwrap().0.to_owned()
    }

    pub(super) fn secret(&self) -> String {
        let (_, rest) = self.text.split_once("data-secret>").unwrap_or_else(|| panic!("no secret in {}", self.text));
        rest.split_once('<').unwrap().0.to_owned()
    }
}

impl<'plane> Browser<'plane> {
    pub(super) fn new(plane: &'plane Plane) -> Self {
        let client = Client::builder().no_proxy().timeout(PATIENCE).redirect(Policy::none()).build().unwrap();
        Self { plane, client, cookie: None, attempt: None }
    }

    pub(super) async fn signed_in(plane: &'plane Plane, token: &str) -> Self {
        let mut browser = Self::new(plane);
        browser.sign_in(token).await.leads_to("/");
        browser
    }

    /// The session's cookie, to be copied.
    pub(super) fn cookie(&self) -> String {
        self.cookie.clone().unwrap()
    }

    /// Another browser, with a copy of a session's cookie.
    pub(super) fn with_cookie(self, cookie: &str) -> Self {
        Self { cookie: Some(cookie.to_owned()), ..self }
    }

    pub(super) async fn sign_in(&mut self, token: &str) -> Page {
        let form = self.get("/sign-in").await.hidden("form_token");
        self.send("/sign-in", &[("token", token), ("form_token", &form)]).await
    }

    pub(super) async fn get(&mut self, path: &str) -> Page {
        self.ask("GET", path, &[], &[]).await
    }

    pub(super) async fn send(&mut self, path: &str, fields: &[(&str, &str)]) -> Page {
        self.ask("POST", path, fields, &[]).await
    }

    /// Sends a form of the page at `from`, with what is hidden in it, to `path`.
    pub(super) async fn fill_in(&mut self, from: &str, path: &str, fields: &[(&str, &str)]) -> Page {
        let token = self.get(from).await.hidden("form_token");
        self.send(path, &[fields, &[("form_token", token.as_str())]].concat()).await
    }

    pub(super) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        headers: &[(&str, &str)],
    ) -> Page {
        let mut request = self.client.request(method.parse().unwrap(), self.plane.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let cookies: Vec<&str> = self.cookie.iter().chain(&self.attempt).map(String::as_str).collect();
        if !cookies.is_empty() {
            request = request.header("cookie", cookies.join("; "));
        }
        if method == "POST" {
            request = request.form(fields);
        }
        let response = request.send().await.unwrap();
        for set in response.headers().get_all("set-cookie") {
            let cookie = set.to_str().unwrap().split(';').next().unwrap().to_owned();
            if cookie.contains("keymeter-sign-in=") {
                self.attempt = Some(cookie).filter(|cookie| !cookie.ends_with('='));
            } else {
                self.cookie = Some(cookie);
            }
        }
        let (status, headers) = (response.status(), response.headers().clone());
        Page { status, headers, text: response.text().await.unwrap() }
    }
}

async fn a_key_is_made_once_and_its_secret_shown_once(plane: &Plane) {
    let mut browser = Browser::signed_in(plane, OPERATOR).await;
    let form = browser.get("/keys/new").await;
    let (token, once) = (form.hidden("form_token"), form.hidden("once"));
    let fields = [
        ("form_token", token.as_str()),
        ("once", &once),
        ("name", "Production API"),
        ("models", "llama-3*\r\nqwen, phi"),
        ("limits.requests_per_minute", "60"),
        ("limits.tokens_per_minute", "unlimited"),
        ("expires_at", "2099-12-01T10:00"),
    ];
    let made = browser.send("/keys/new", &fields).await.with(201);
    assert_eq!(made.headers["cache-control"], "no-store");
    let secret = made.secret();
    assert_eq!(plane.state(&secret).await, "active");
    browser.send("/keys/new", &fields).await.with(200).says("was made before").lacks(&secret);
    let other = [&fields[..2], &[("name", "Another")]].concat();
    browser.send("/keys/new", &other).await.with(409).says("Another key was made under this").lacks(&secret);
    let keys = plane.get(OPERATOR, "/api/v1/keys").await.with(200)["data"].as_array().unwrap().clone();
    assert_eq!(keys.len(), 1);
    let key = &keys[0];
    assert_eq!(key["models"], json!(["llama-3*", "qwen", "phi"]));
    assert_eq!(key["limits"], json!({"requests_per_minute": 60, "tokens_per_minute": "unlimited"}));
    assert_eq!(key["expires_at"], "2099-12-01T10:00:00Z");
    let (path, masked) = (format!("/keys/{}", key["id"].as_str().unwrap()), key["masked"].as_str().unwrap());
    for path in ["/", &path, &format!("{path}/secret"), &format!("{path}/delete")] {
        browser.get(path).await.with(200).says(masked).lacks(&secret);
    }
    browser
        .fill_in(&path, &format!("{path}/enabled"), &[("enabled", "false")])
        .await
        .leads_to(&format!("{path}?done=disabled"));
    assert_eq!(plane.state(&secret).await, "disabled");
    browser.get(&format!("{path}?done=disabled")).await.says("The key is disabled.").says("Enable");
    browser
        .fill_in(&path, &format!("{path}/enabled"), &[("enabled", "true")])
        .await
        .leads_to(&format!("{path}?done=enabled"));
    assert_eq!(plane.state(&secret).await, "active");
    browser.fill_in(&path, &format!("{path}/delete"), &[]).await.leads_to("/?done=deleted");
    plane.look_up(&secret).await.refused(404, "not_found");
    browser.get("/").await.lacks("Production API");
    plane.key(OPERATOR, json!({"name": "Some key", "expires_at": "2020-01-01T00:00:00Z"})).await;
    browser.get("/").await.says("expired").lacks("state active");
    browser.get(&path).await.with(200).says("deleted").lacks("Disable");
    browser.get(&format!("{path}/delete")).await.with(404);
}

async fn a_form_sent_twice_at_once_makes_one_key(plane: &Plane) {
    let mut browser = Browser::signed_in(plane, OPERATOR).await;
    let form = browser.get("/keys/new").await;
    let (token, once) = (form.hidden("form_token"), form.hidden("once"));
    let fields = [("form_token", token.as_str()), ("once", &once), ("name", "Some key")];
    let sent = (0..5).map(|_| {
        let mut window =
            Browser { plane, client: browser.client.clone(), cookie: browser.cookie.clone(), attempt: None };
        async move { window.send("/keys/new", &fields).await }
    });
    let pages = futures_util::future::join_all(sent).await;
    assert_eq!(pages.iter().filter(|page| page.status == 201).count(), 1, "{pages:?}");
    assert_eq!(pages.iter().filter(|page| page.text.contains("data-secret")).count(), 1);
    assert_eq!(plane.get(OPERATOR, "/api/v1/keys").await.with(200)["data"].as_array().unwrap().len(), 1);
}

async fn a_secret_is_replaced_once_for_each_form(plane: &Plane) {
    let (id, first) = plane.key(OPERATOR, json!({"name": "Some key"})).await;
    let path = format!("/keys/{id}/secret");
    let mut browser = Browser::signed_in(plane, OPERATOR).await;
    let form = browser.get(&path).await;
    let (token, seen) = (form.hidden("form_token"), form.hidden("seen"));
    let fields = [("form_token", token.as_str()), ("seen", &seen), ("grace", "1h")];
    let wrong = [fields[0], fields[1], ("grace", "soon")];
    browser.send(&path, &wrong).await.with(400).says("id=\"field-grace-fault\"").says("value=\"soon\"");
    let second = browser.send(&path, &fields).await.with(200).secret();
    assert_ne!(first, second);
    browser.send(&path, &fields).await.with(409).says("regenerated meanwhile").lacks(&second);
    for secret in [&first, &second] {
        assert_eq!(plane.state(secret).await, "active");
    }
    browser.get(&format!("/keys/{id}")).await.says("Old secret").lacks(&second);
}

async fn a_role_reaches_as_far_as_by_calls(plane: &Plane) {
    let [owner, admin, member, stranger] = [
        plane.user("owner").await,
        plane.user("admin").await,
        plane.user("member").await,
        plane.user("stranger").await,
    ];
    plane.team("research", "owner").await;
    plane.credit("research", "10", "first").await;
    let (id, secret) = plane.key(OPERATOR, json!({"name": "Team's key", "team": "research"})).await;
    let (path, members) = (format!("/keys/{id}"), "/teams/research/members");

    let mut owner = Browser::signed_in(plane, &owner).await;
    owner
        .fill_in("/teams/research", members, &[("user", "admin"), ("role", "admin")])
        .await
        .leads_to("/teams/research?done=invited");
    owner.get("/teams/research?done=invited").await.says("nothing changes until they accept").says("Withdraw");
    owner
        .fill_in("/teams/research", members, &[("user", "nobody"), ("role", "admin")])
        .await
        .with(404)
        .says("id=\"field-user-fault\"")
        .says("There is no user `nobody`")
        .says("value=\"nobody\"");
    let mut admin = Browser::signed_in(plane, &admin).await;
    accept(&mut admin, "admin").await;
    admin
        .fill_in("/teams/research", members, &[("user", "member"), ("role", "member")])
        .await
        .leads_to("/teams/research?done=invited");
    admin.get("/teams/research").await.lacks("hand over");
    admin
        .fill_in("/teams/research", members, &[("user", "admin"), ("role", "owner")])
        .await
        .with(403)
        .says("hands it over");
    let made = admin.fill_in("/keys/new", "/keys/new", &[("once", "1"), ("name", "Made by admin")]).await.with(201);
    assert_eq!(plane.look_up(&made.secret()).await.with(200)["team"], "research");

    let mut member = Browser::signed_in(plane, &member).await;
    accept(&mut member, "member").await;
    member.get("/").await.with(200).says("Team's key").lacks("Make a key");
    member.get(&path).await.with(200).lacks("Disable").lacks("Delete");
    member.get("/keys/new").await.with(403);
    member.get("/teams").await.leads_to("/teams/research");
    member.get("/teams/research").await.with(200).lacks("Invite somebody");
    for (target, fields) in [
        (format!("{path}/enabled"), vec![("enabled", "false")]),
        (format!("{path}/secret"), vec![("seen", "")]),
        (format!("{path}/delete"), vec![]),
        ("/keys/new".to_owned(), vec![("once", "1"), ("name", "Not mine to make")]),
        (members.to_owned(), vec![("user", "stranger"), ("role", "member")]),
        (format!("{members}/admin/remove"), vec![]),
        ("/wallets/research".to_owned(), vec![("usd", "5"), ("idempotency_key", "mine")]),
    ] {
        member.fill_in("/", &target, &fields).await.with(403);
    }
    let mut stranger = Browser::signed_in(plane, &stranger).await;
    stranger.get("/").await.with(200).says("no keys yet");
    for target in [path.as_str(), "/teams/research", "/wallets/research"] {
        stranger.get(target).await.with(404);
    }
    stranger.fill_in("/", &format!("{path}/delete"), &[]).await.with(404);
    assert_eq!(plane.state(&secret).await, "active");
    assert_eq!(plane.balance("research").await, "10");
    stranger
        .fill_in("/keys/new", "/keys/new", &[("once", "1"), ("name", "No money")])
        .await
        .with(402)
        .says("not above $0");

    member.fill_in("/", &format!("{members}/member/remove"), &[]).await.leads_to("/");
    member.get("/teams/research").await.with(404);
    admin.fill_in(&path, &format!("{path}/delete"), &[]).await.leads_to("/?done=deleted");
}

/// Accepts the one invitation that somebody has, to the team `research`.
async fn accept(browser: &mut Browser<'_>, role: &str) {
    let page = browser.get("/").await.with(200).says("You are invited").says("/invitations/research");
    assert_eq!(page.hidden("role"), role);
    let fields = [("form_token", page.hidden("form_token")), ("role", role.to_owned()), ("accept", "true".to_owned())];
    let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    browser.send("/invitations/research", &fields).await.leads_to("/teams/research?done=accepted");
    browser.get("/teams/research?done=accepted").await.with(200).says("You accepted the invitation.");
    browser.get("/").await.lacks("You are invited");
}

async fn an_invitation_is_answered_where_it_is_seen(plane: &Plane) {
    let (ada, grace) = (plane.user("ada").await, plane.user("grace").await);
    let hostile = "<script>alert(1)</script>";
    plane.operate("POST", "/api/v1/teams", json!({"id": "research", "name": hostile, "owner": "ada"})).await.with(201);
    let mut owner = Browser::signed_in(plane, &ada).await;
    let mut browser = Browser::signed_in(plane, &grace).await;
    browser.get("/teams").await.leads_to("/invitations");
    browser.get("/invitations").await.with(200).says("no open invitations");
    let members = "/teams/research/members";
    let invite = |role: &'static str| [("user", "grace"), ("role", role)];
    owner.fill_in("/teams/research", members, &invite("member")).await.leads_to("/teams/research?done=invited");
    for path in ["/", "/invitations"] {
        browser.get(path).await.with(200).says("&lt;script&gt;").lacks("<script>alert").says("keys are archived");
    }
    // An offer that became another while it was looked at is not taken for the first.
    owner.fill_in("/teams/research", members, &invite("owner")).await.leads_to("/teams/research?done=invited");
    let (path, accept) = ("/invitations/research", [("accept", "true"), ("role", "member")]);
    browser.send(path, &accept).await.with(403).says("not of your session");
    browser.fill_in("/", path, &accept).await.with(409).says("says owner by now");
    browser.fill_in("/", path, &[("accept", "perhaps")]).await.with(400);
    browser.fill_in("/", path, &[("accept", "false")]).await.leads_to("/invitations?done=declined");
    browser.get("/invitations?done=declined").await.says("does not invite you again for a week");
    browser.fill_in("/", path, &accept).await.with(404);
    owner.fill_in("/teams/research", members, &invite("member")).await.with(409).says("declined an invitation");
    plane.user("bob").await;
    let bob = [("user", "bob"), ("role", "member")];
    owner.fill_in("/teams/research", members, &bob).await.leads_to("/teams/research?done=invited");
    let remove = "/teams/research/members/bob/remove";
    owner.get(remove).await.with(200).says("Withdraw the invitation of bob?");
    owner.fill_in(remove, remove, &[]).await.leads_to("/teams/research?done=removed");
    owner.get(remove).await.with(404);
}

async fn the_operator_does_everything_to_a_team(plane: &Plane) {
    let ada = plane.user("ada").await;
    plane.user("bob").await;
    plane.team("research", "ada").await;
    plane.credit("research", "10", "first").await;
    let mut owner = Browser::signed_in(plane, &ada).await;
    owner.get("/teams/research").await.with(200).lacks("/teams/research/delete").lacks("/ada/remove");
    owner.get("/teams/research/delete").await.with(403);
    owner.fill_in("/", "/teams/research/delete", &[]).await.with(403);
    let mut browser = Browser::signed_in(plane, OPERATOR).await;
    let remove = "/teams/research/members/ada/remove";
    browser.get("/teams/research").await.with(200).says("/teams/research/delete").says(remove);
    browser.get(remove).await.with(200).says("has no owner then");
    browser.fill_in(remove, remove, &[]).await.leads_to("/teams/research?done=removed");
    let bob = [("user", "bob"), ("role", "owner")];
    let put = browser.fill_in("/teams/research", "/teams/research/members", &bob).await;
    put.leads_to("/teams/research?done=member");
    let delete = "/teams/research/delete";
    browser.get(delete).await.with(200).says("$10.00").says("Its members (1) leave");
    let refused = browser.fill_in(delete, delete, &[("refund_to", "nobody")]).await.with(404);
    refused.says("id=\"field-refund_to-fault\"").says("There is no user or team `nobody`");
    browser.fill_in(delete, delete, &[("refund_to", "ada")]).await.leads_to("/teams?done=deleted");
    browser.get("/teams?done=deleted").await.with(200).says("The team is deleted.").says("There are no teams.");
    browser.get(delete).await.with(404);
    assert_eq!(plane.balance("ada").await, "10");
}

async fn what_a_key_used_is_drawn_and_told(plane: &Plane) {
    let (id, _) = plane.key(OPERATOR, json!({"name": "Some key"})).await;
    let (other, _) = plane.key(OPERATOR, json!({"name": "Other key"})).await;
    let mut browser = Browser::signed_in(plane, OPERATOR).await;
    browser.get(&format!("/keys/{id}")).await.with(200).says("Nothing was used.");
    let today = jiff::Timestamp::now().to_string();
    let at = |id: &str, cost: &str, model: &str| {
        let mut record = record(id, &other, "ada", cost);
        record["time"] = json!(today);
        record["model"] = json!(model);
        record
    };
    used(plane, &[at("r1", "0.5", "<m>"), at("r2", "0.75", "n")]).await;
    let page = browser.get(&format!("/keys/{other}")).await.with(200);
    assert_eq!(page.text.matches("<rect").count(), 3 * 30, "cost, requests and tokens of thirty days");
    page.says("$1.25</span></strong>").says("at most 2 requests").says("&lt;m&gt;").says("$0.75").lacks("<m>");
    for (span, days) in [("7", 7), ("90", 90), ("365", 365), ("8", 30), ("x", 30)] {
        let page = browser.get(&format!("/keys/{other}?span={span}")).await.with(200);
        assert_eq!(page.text.matches("<rect").count(), 3 * days, "{span}");
    }
    browser.get("/").await.with(200).says("$1.25").says("never");
    browser.get(&format!("/keys/{id}")).await.says("Nothing was used.");
}

async fn a_deleted_users_session_ends_at_once(plane: &Plane) {
    let ada = plane.user("ada").await;
    let mut browser = Browser::signed_in(plane, &ada).await;
    let token = browser.get("/keys/new").await.with(200).hidden("form_token");
    plane.operate("DELETE", "/api/v1/users/ada", Value::Null).await.with(204);
    browser.get("/").await.leads_to("/sign-in");
    let fields = [("form_token", token.as_str()), ("once", "1"), ("name", "Too late")];
    browser.send("/keys/new", &fields).await.leads_to("/sign-in");
    browser.sign_in(&ada).await.with(400).says("neither the operator");
}

async fn a_session_is_known_to_all_instances(plane: &Plane) {
    let beside = plane.beside().await;
    let mut here = Browser::signed_in(plane, OPERATOR).await;
    let mut there = Browser { plane: &beside, client: here.client.clone(), cookie: here.cookie.clone(), attempt: None };
    let token = here.get("/keys/new").await.hidden("form_token");
    let made = there.send("/keys/new", &[("form_token", token.as_str()), ("once", "1"), ("name", "Some key")]).await;
    made.with(201);
    beside.control.stop().await;
}

async fn wallets_are_shown_and_credited_once(plane: &Plane) {
    let ada = plane.user("ada").await;
    let mut browser = Browser::signed_in(plane, OPERATOR).await;
    let fields = [("usd", "1234.5"), ("idempotency_key", "order-1")];
    for _ in 0..2 {
        browser.fill_in("/wallets/ada", "/wallets/ada", &fields).await.leads_to("/wallets/ada?done=credited");
    }
    assert_eq!(plane.balance("ada").await, "1234.5");
    for (field, value, words) in
        [("usd", "much", "decimal number"), ("usd", "-1", "more than $0"), ("idempotency_key", "", "1 to 128")]
    {
        let fields = [("usd", "1"), ("idempotency_key", "order-2"), (field, value)];
        let refused = browser.fill_in("/wallets/ada", "/wallets/ada", &fields).await.with(400);
        refused.says(words).says(&format!("id=\"field-{field}-fault\""));
    }
    browser.get("/wallets").await.with(200).says("$1,234.50");
    let mut ada = Browser::signed_in(plane, &ada).await;
    ada.get("/wallets/ada").await.with(200).says("$1,234.50").lacks("Credit it");
    ada.get("/wallets/nobody").await.with(404);
}

#[tokio::test]
async fn a_token_signs_in_and_a_session_is_no_token() {
    let plane = Plane::sqlite().await;
    let ada = plane.user("ada").await;
    let mut browser = Browser::new(&plane);
    for path in ["/", "/keys/new", "/keys/key_1", "/teams", "/wallets"] {
        browser.get(path).await.leads_to("/sign-in");
    }
    for wrong in ["", "x", GATEWAYS] {
        browser.sign_in(wrong).await.with(400).says("aria-invalid=\"true\"").lacks(GATEWAYS);
        browser.get("/").await.leads_to("/sign-in");
    }
    for (token, name) in [(OPERATOR, "operator"), (ada.as_str(), "ada")] {
        let signed = browser.sign_in(token).await;
        signed.leads_to("/");
        let set = signed.headers["set-cookie"].to_str().unwrap().to_owned();
        assert!(
            set.starts_with("keymeter=") && set.ends_with("; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict"),
            "{set}"
        );
        assert!(!set.contains(token));
        browser.get("/").await.with(200).says(name);
        browser.get("/sign-in").await.leads_to("/");
        let call = browser.get("/api/v1/keys").await.with(401);
        assert!(call.text.starts_with("{\"error\""), "{}", call.text);
        let copied = browser.cookie.clone();
        browser.fill_in("/", "/sign-out", &[]).await.leads_to("/sign-in");
        assert_eq!(browser.cookie.as_deref(), Some("keymeter="));
        browser.get("/").await.leads_to("/sign-in");
        browser.cookie = copied;
        browser.get("/").await.leads_to("/sign-in");
        browser.cookie = None;
    }
}

#[tokio::test]
async fn an_ended_session_is_remembered_as_long_as_its_cookie_is_good() {
    let plane = Plane::sqlite().await;
    let (store, now) = (plane.store(), jiff::Timestamp::from_second(1_800_000_000).unwrap());
    for (nonce, until) in [("old", 1_800_000_000), ("young", 1_800_000_001)] {
        store.end_session(nonce, until).await.unwrap();
        store.end_session(nonce, until).await.unwrap();
        assert!(store.is_session_ended(nonce).await.unwrap());
    }
    assert_eq!(store.forget_sessions(now).await.unwrap(), 1);
    assert!(!store.is_session_ended("old").await.unwrap());
    assert!(store.is_session_ended("young").await.unwrap());
}

#[tokio::test]
async fn by_https_a_cookie_is_this_hosts_and_secure() {
    let plane = Plane::sqlite().await;
    let mut browser = Browser::new(&plane);
    let https = [("x-forwarded-proto", "https")];
    let form = browser.ask("GET", "/sign-in", &[], &https).await.hidden("form_token");
    let fields = [("token", OPERATOR), ("form_token", form.as_str())];
    let signed = browser.ask("POST", "/sign-in", &fields, &https).await;
    signed.leads_to("/");
    let set = signed.headers["set-cookie"].to_str().unwrap();
    assert!(set.starts_with("__Host-keymeter=") && set.ends_with("; SameSite=Strict; Secure"), "{set}");
    browser.ask("GET", "/", &[], &https).await.with(200);
    browser.get("/").await.leads_to("/sign-in");
}

#[tokio::test]
async fn a_form_that_is_not_the_sessions_is_refused() {
    let plane = Plane::sqlite().await;
    let mut browser = Browser::signed_in(&plane, OPERATOR).await;
    let mut other = Browser::signed_in(&plane, OPERATOR).await;
    let (own, others) = (browser.get("/").await.hidden("form_token"), other.get("/").await.hidden("form_token"));
    let made = [("once", "1"), ("name", "Some key")];
    browser.send("/keys/new", &made).await.with(403);
    for (token, site) in
        [("", "same-origin"), (&*others, "same-origin"), (&own, "cross-site"), (&own, "same-site"), (&own, "none")]
    {
        let fields = [made[0], made[1], ("form_token", token)];
        browser
            .ask("POST", "/keys/new", &fields, &[("sec-fetch-site", site)])
            .await
            .with(403)
            .says("not of your session");
    }
    assert_eq!(plane.get(OPERATOR, "/api/v1/keys").await.with(200)["data"], json!([]));
    let long = "x".repeat(100_000);
    let fields = [made[0], ("form_token", own.as_str()), ("name", long.as_str())];
    browser.send("/keys/new", &fields).await.with(400);
    let fields = [made[0], made[1], ("form_token", own.as_str())];
    browser.ask("POST", "/keys/new", &fields, &[("sec-fetch-site", "same-origin")]).await.with(201);
    // Nobody is signed in by another's form either.
    let form = Browser::new(&plane).get("/sign-in").await.hidden("form_token");
    let mut victim = Browser::new(&plane);
    let fields = [("token", OPERATOR), ("form_token", form.as_str())];
    victim.send("/sign-in", &fields).await.with(403);
    victim.get("/sign-in").await.with(200);
    victim.send("/sign-in", &fields).await.with(403);
    victim.get("/").await.leads_to("/sign-in");
}

#[tokio::test]
async fn browsers_are_told_to_run_and_keep_nothing() {
    let plane = Plane::sqlite().await;
    let mut browser = Browser::signed_in(&plane, OPERATOR).await;
    let policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; form-action 'self'; \
                  frame-ancestors 'none'; base-uri 'none'";
    for path in ["/", "/keys/new", "/keys/nothing", "/wallets", "/sign-in"] {
        let page = browser.get(path).await;
        for (name, value) in [
            ("content-security-policy", policy),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(page.headers[name], value, "{path}");
        }
        for forbidden in [" style=", "<style", " onclick=", "javascript:"] {
            assert!(!page.text.contains(forbidden), "{forbidden} in {path}");
        }
    }
    let page = browser.get("/").await;
    let assets: Vec<_> = page.text.split('"').filter(|part| part.starts_with("/assets/")).collect();
    assert_eq!(assets.len(), 3);
    for path in assets {
        let asset = browser.get(path).await.with(200);
        assert_eq!(asset.headers["cache-control"], "public, max-age=31536000, immutable");
        assert_eq!(asset.headers["x-content-type-options"], "nosniff");
    }
    assert_ne!(browser.get("/assets/style-0000000000000000.css").await.with(404).headers["cache-control"], "public");
    let call = plane.get(OPERATOR, "/api/v1/keys").await;
    assert!(!call.headers.contains_key("content-security-policy") && !call.headers.contains_key("cache-control"));
}

#[tokio::test]
async fn what_people_call_things_is_text() {
    let plane = Plane::sqlite().await;
    plane.user("ada").await;
    let hostile = "<script>alert(1)</script>\"'&";
    let team = json!({"id": "research", "name": hostile, "owner": "ada"});
    plane.operate("POST", "/api/v1/teams", team).await.with(201);
    let key = json!({"name": hostile, "models": ["<img src=x onerror=alert(1)>"]});
    let (id, _) = plane.key(OPERATOR, key).await;
    let mut browser = Browser::signed_in(&plane, OPERATOR).await;
    let path = format!("/keys/{id}");
    for path in ["/", &path, &format!("{path}/secret"), &format!("{path}/delete"), "/teams", "/teams/research"] {
        browser.get(path).await.with(200).says("&lt;script&gt;alert(1)").lacks("<script>alert").lacks("<img");
    }
    let fields = [
        ("once", "1"),
        ("name", "\"><script>"),
        ("models", "</textarea><script>"),
        ("limits.requests_per_minute", "\"'<b>"),
    ];
    let refused = browser.fill_in("/keys/new", "/keys/new", &fields).await.with(400);
    refused
        .says("id=\"field-limits-requests_per_minute-fault\"")
        .lacks("\"><script>")
        .lacks("<b>")
        .lacks("</textarea><script>");
}

#[tokio::test]
async fn the_list_has_pages() {
    let plane = Plane::sqlite().await;
    for number in 0..30 {
        plane.key(OPERATOR, json!({"name": format!("Key number {number}")})).await;
    }
    let mut browser = Browser::signed_in(&plane, OPERATOR).await;
    let first = browser.get("/").await;
    assert_eq!(first.text.matches("rowheader").count(), 25);
    let (_, next) = first.text.split_once("rel=\"next\" href=\"").unwrap();
    let second = browser.get(next.split_once('"').unwrap().0).await;
    assert_eq!(second.text.matches("rowheader").count(), 5);
    second.says("First page").says("26–30 of 30 keys").lacks("Next page");
}
