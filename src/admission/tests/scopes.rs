//! Limits of teams, owners and models, quotas, and limits that only count.

use std::sync::Arc;

use keymeter_core::{
    key::Terms,
    limit::{LimitMode, Limits, ModelLimits, Quota, Quotas, Scope, ScopeLimits, Zone},
};

use super::*;

fn quota(name: &str, amount: u64) -> Quota {
    Quota { name: name.parse().unwrap(), amount: amount.try_into().unwrap(), zone: Zone::UTC, carried: None }
}

fn quotas(quotas: impl IntoIterator<Item = Quota>) -> Quotas {
    Quotas::new(quotas.into_iter().collect()).unwrap()
}

fn requests(number: u64) -> ScopeLimits {
    Limits { requests_per_minute: Limit::at(number).unwrap(), ..Limits::UNLIMITED }.into()
}

/// Keys of one owner and one team, each with these terms.
fn keys(ids: &[&str], terms: &Terms) -> Vec<KeyRecord> {
    let of = |id: &&str| KeyRecord {
        owner: Some("ada".into()),
        team: Some("research".into()),
        terms: Some(Box::new(terms.clone())),
        ..record(id)
    };
    ids.iter().map(of).collect()
}

fn end(mut request: Box<ActiveRequest>) {
    answer(&mut request);
    request.settle(&Outcome { status: Some(200), complete: true, ..Outcome::default() }, now());
}

async fn refused(fixture: &Fixture, secret: &str, body: &'static str) -> Rejection {
    fixture.ask(secret, body, now()).await.err().unwrap()
}

#[tokio::test]
async fn an_owners_limit_holds_for_all_keys_together() {
    let terms = Terms { owner: Some(Arc::new(requests(60))), ..Terms::default() };
    let fixture = Fixture::new(keys(&["key_a", "key_b", "key_c"], &terms), "", 1000);
    for number in 0..60 {
        end(fixture.ask(["sk-key_a", "sk-key_b", "sk-key_c"][number % 3], CHAT, now()).await.ok().unwrap());
    }
    for (secret, key) in [("sk-key_a", "key_a"), ("sk-key_b", "key_b"), ("sk-key_c", "key_c")] {
        let rejection = refused(&fixture, secret, CHAT).await;
        let start = format!("the owner ada of the API key {key} made 60 of the 60 requests");
        assert!(rejection.message().starts_with(&start), "{}", rejection.message());
        assert_eq!((rejection.code().as_str(), rejection.kind()), ("rate_limit_exceeded", "requests"));
    }
}

#[tokio::test]
async fn a_team_and_an_owner_of_one_name_have_counters_of_their_own() {
    let limits = || Some(Arc::new(requests(1)));
    let terms = Terms { team: limits(), owner: limits(), ..Terms::default() };
    let [one, other] = ["key_a", "key_b"].map(|id| keys(&[id], &terms).remove(0));
    let one = KeyRecord { owner: None, team: Some("ada".into()), ..one };
    let other = KeyRecord { owner: Some("ada".into()), team: None, ..other };
    let fixture = Fixture::new(vec![one, other], "", 1000);
    for secret in ["sk-key_a", "sk-key_b"] {
        end(fixture.ask(secret, CHAT, now()).await.ok().unwrap());
        let expected = if secret == "sk-key_a" { Scope::Team } else { Scope::Owner };
        assert_eq!(refused(&fixture, secret, CHAT).await.scope(), Some(expected));
    }
}

#[tokio::test]
async fn a_team_that_may_run_one_runs_one_whatever_its_keys_are() {
    let once = Limits { concurrent_requests: Limit::at(1).unwrap(), ..Limits::UNLIMITED };
    let terms = Terms { team: Some(Arc::new(once.into())), ..Terms::default() };
    let fixture = Fixture::new(keys(&["key_a", "key_b"], &terms), "", 1000);
    let first = fixture.ask("sk-key_a", CHAT, now()).await.ok().unwrap();
    let rejection = refused(&fixture, "sk-key_b", CHAT).await;
    assert!(
        rejection.message().starts_with("the team research of the API key key_b has 1 of the 1"),
        "{}",
        rejection.message()
    );
    drop(first);
    end(fixture.ask("sk-key_b", CHAT, now()).await.ok().unwrap());
}

const TEXT: &str = r#"{"model":"text-1","messages":[]}"#;
const OTHER: &str = r#"{"model":"x","messages":[]}"#;

#[tokio::test]
async fn each_pattern_of_models_has_room_of_its_own() {
    let of_model = |pattern: &str, number| ModelLimits { models: Glob::new(pattern), limits: requests(number) };
    let terms = Terms { models: [of_model("m", 1), of_model("text-*", 2)].into(), ..Terms::default() };
    let fixture = Fixture::new(keys(&["key_a"], &terms), "", 1000);
    for (body, admitted) in
        [(CHAT, true), (CHAT, false), (TEXT, true), (TEXT, true), (TEXT, false), (OTHER, true), (OTHER, true)]
    {
        match fixture.ask("sk-key_a", body, now()).await {
            Ok(request) => {
                assert!(admitted, "{body}");
                end(request);
            }
            Err(rejection) => {
                assert!(!admitted, "{body}");
                let names = rejection.message().starts_with("the API key key_a, for the model ");
                assert!(names, "{}", rejection.message());
            }
        }
    }
}

const PRICED: &str = r#"models: [{name: m, input: "1000", output: "10000"}]"#;

#[tokio::test]
async fn a_quota_of_money_is_reserved_and_settled() {
    // An answer of 7 tokens in and 5 out costs $0.057.
    let terms = Terms { quotas: quotas([quota("usd_per_month", 11_000_000_000)]), ..Terms::default() };
    let fixture = Fixture::new(keys(&["key_a"], &terms), PRICED, 1000);
    let first = fixture.admitted(CHAT).await;
    let rejection = refused(&fixture, "sk-key_a", CHAT).await;
    assert_eq!((rejection.code().as_str(), rejection.kind()), ("insufficient_quota", "insufficient_quota"));
    assert!(rejection.message().contains("; there is room in 30 d 0 h 0 min"), "{}", rejection.message());
    assert!(rejection.forbids_retry());
    end(first);
    let second = fixture.admitted(CHAT).await;
    let settings = fixture.gate.settings();
    let key = &second.admitted().key;
    let lines = fixture.gate.limit_lines(key, &settings.limits_of(key), now());
    assert_eq!(lines[0].name.to_string(), "usd_per_month");
    assert!(lines[0].used > 57_000_000, "what the first cost, and what the second reserves");
    end(second);
    let key = fixture.admitted(CHAT).await;
    drop(key);
}

#[tokio::test]
async fn the_worst_case_is_held_to_quotas_too() {
    for (name, amount, most) in
        [("tokens_per_day", 500, 500), ("output_tokens_per_day", 300, 300), ("usd_per_day", 5_000_000_000, 500)]
    {
        let terms = Terms { quotas: quotas([quota(name, amount)]), ..Terms::default() };
        let sections = format!("{WORST_CASE}\n{PRICED}");
        let fixture = Fixture::new(keys(&["key_a"], &terms), &sections, 1000);
        let request = fixture.admitted(CHAT).await;
        let maximum = request.change().maximum.unwrap();
        assert!(maximum > most / 2 && maximum <= most, "{name}: {maximum}");
        end(request);
    }
}

#[tokio::test]
async fn what_never_fits_a_quota_is_refused_for_good() {
    let terms = Terms { quotas: quotas([quota("tokens_per_day", 2)]), ..Terms::default() };
    let fixture = Fixture::new(keys(&["key_a"], &terms), "", 1000);
    let rejection = refused(&fixture, "sk-key_a", LONG_PROMPT).await;
    assert_eq!(rejection.code().as_str(), "request_too_large");
    assert!(rejection.message().contains("the API key key_a may use 2 per day"), "{}", rejection.message());
}

const LONG_PROMPT: &str = r#"{"model":"m","messages":[{"role":"user","content":"all work and no play makes a dull boy all work and no play makes a dull boy all work and no play makes a dull boy all work and no play makes a dull boy all work and no play makes a dull boy all work and no play makes a dull boy all work and no play makes a dull boy all work and no play makes a dull boy all work and no play makes a dull boy"}]}"#;

#[tokio::test]
async fn limits_that_only_count_refuse_nothing_and_say_what_they_would_have() {
    let terms = Terms {
        mode: Some(LimitMode::Observe),
        team: Some(Arc::new(requests(1))),
        quotas: quotas([quota("tokens_per_day", 2)]),
        ..Terms::default()
    };
    let fixture = Fixture::new(keys(&["key_a"], &terms), WORST_CASE, 1000);
    end(fixture.admitted(CHAT).await);
    let second = fixture.admitted(CHAT).await;
    assert_eq!(second.change().maximum, None, "and no maximum is lowered");
    end(second);
    end(fixture.admitted(LONG_PROMPT).await);
    let observed = |reason, scope| {
        format!(r#"keymeter_observed_rejections_total{{key_id="key_a",reason="{reason}",scope="{scope}"}}"#)
    };
    fixture.counts(&observed("requests_per_minute", "team"), "0");
    fixture.counts(&observed("tokens_quota", "key"), "2");
    fixture.counts(r#"keymeter_rejections_total{key_id="key_a",reason="tokens_quota",scope="key"}"#, "0");
    let lines = fixture.lines();
    assert_eq!(lines[0]["would_reject"], serde_json::Value::Null);
    assert_eq!(lines[1]["would_reject"], "tokens_quota");
}

#[tokio::test]
async fn a_key_is_used_from_its_networks_only() {
    let terms = |network: &str| Terms { allow_from: [network.parse().unwrap()].into(), ..Terms::default() };
    let records =
        [("key_a", "10.0.0.0/8"), ("key_b", "127.0.0.0/8")].map(|(id, network)| keys(&[id], &terms(network)).remove(0));
    let fixture = Fixture::new(records.into(), "", 1000);
    let rejection = fixture.identify("sk-key_a", now()).await.err().unwrap();
    assert_eq!(
        (rejection.status().as_u16(), rejection.code().as_str(), rejection.kind()),
        (403, "address_not_allowed", "permission_error")
    );
    assert!(fixture.identify("sk-key_b", now()).await.is_ok());
}
