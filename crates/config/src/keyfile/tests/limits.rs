//! Quotas and networks of keys, and the limits of teams and owners.

use super::*;

const FILE: &str = "teams:
  # the largest
  - id: research # all of it
    limits:
      requests_per_minute: 60
      quotas:
        # agreed on in May
        - usd: \"500\" # a month
          per: month
        - {tokens: 5, per: 60m}
  - {id: \"$${x}\", limits: {quotas: [{requests: 5, per: day}]}}
keys:
  - id: a
    limits: {quotas: [{tokens: 5, per: day}, {usd: \"1\", per: month, carried: \"0.5\", until: 2027-01-01T00:00:00Z}]}
  - id: b
    team: research
";

fn quota(line: &str) -> Setting {
    Setting::Quota(line.parse().unwrap())
}

fn named(name: &str) -> Field {
    Field::Quota(name.parse().unwrap())
}

fn team(id: &str) -> Holder {
    Holder::Team(id.to_owned())
}

fn set_limit(of: Holder, limit: Setting) -> Edit {
    Edit::SetLimit { of, limit }
}

fn clear_limit(of: Holder, field: Field) -> Edit {
    Edit::ClearLimit { of, field }
}

#[test]
fn a_quota_takes_the_place_of_the_one_of_its_name() {
    assert_edit(FILE, &set("a", quota("tokens=7/day")), &[("tokens: 5, per: day", "tokens: 7, per: day")]);
    assert_edit(
        FILE,
        &set("a", quota("tokens=7/day@Europe/Berlin")),
        &[("tokens: 5, per: day", "tokens: 7, per: day, zone: \"Europe/Berlin\"")],
    );
    assert_edit(FILE, &set("a", quota("usd=2.50/month")), &[("usd: \"1\"", "usd: \"2.5\"")]);
    let carried = "usd=2/month".parse::<Quota>().unwrap();
    let carried =
        Quota { carried: Some(Carried { amount: 7, until: "2028-01-01T00:00:00Z".parse().unwrap() }), ..carried };
    let (old, new) = (
        "usd: \"1\", per: month, carried: \"0.5\", until: 2027",
        "usd: \"2\", per: month, carried: \"0.000000007\", until: 2028",
    );
    assert_edit(FILE, &set("a", Setting::Quota(carried)), &[(old, new)]);
    let further = "00:00:00Z}, {output_tokens: 9, per: \"90m\"}]";
    assert_edit(FILE, &set("a", quota("output_tokens=9/90m")), &[("00:00:00Z}]", further)]);
    assert_edit(
        FILE,
        &set("b", quota("usd=3/week")),
        &[("team: research\n", "team: research\n    limits: {quotas: [{usd: \"3\", per: week}]}\n")],
    );
    assert_edit(
        "keys: [{id: a, limits: ~}]",
        &set("a", quota("tokens=1/day")),
        &[("~", "{quotas: [{tokens: 1, per: day}]}")],
    );
}

#[test]
fn quotas_are_taken_away_one_by_one_or_all() {
    assert_edit(FILE, &clear("a", named("tokens_per_day")), &[("{tokens: 5, per: day}, ", "")]);
    assert_edit(FILE, &clear("a", named("tokens_per_week")), &[]);
    assert_edit(FILE, &clear("b", named("tokens_per_week")), &[]);
    let (_, limits) = FILE.split_once("  - id: a\n").unwrap();
    let (limits, _) = limits.split_once("  - id: b").unwrap();
    assert_edit(FILE, &clear("a", Field::Quotas), &[(limits, "")]);
    let one = "keys: [{id: a, limits: {quotas: [{tokens: 5, per: 1h}], mode: observe}}]";
    assert_edit(one, &clear("a", named("tokens_per_60m")), &[("quotas: [{tokens: 5, per: 1h}], ", "")]);
    assert!(
        named("usd_per_day").is_set_by(&quota("usd=1/day")) && !named("usd_per_day").is_set_by(&quota("usd=1/week"))
    );
    assert!(!Field::Quotas.is_set_by(&quota("usd=1/day")), "all may be cleared, and one set then");
}

#[test]
fn a_mode_and_networks_are_fields_like_others() {
    let networks = Setting::AllowFrom(vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
    let written = "team: research\n    allow_from: [\"10.0.0.0/8\", \"2001:db8::/32\"]";
    assert_edit(FILE, &set("b", networks), &[("team: research\n", &format!("{written}\n"))]);
    assert_edit(
        FILE,
        &set("b", Setting::Mode(LimitMode::Observe)),
        &[("team: research\n", "team: research\n    limits: {mode: observe}\n")],
    );
    assert_edit(
        "keys: [{id: a, limits: {mode: observe}}]",
        &set("a", Setting::Mode(LimitMode::Enforce)),
        &[("observe", "enforce")],
    );
    assert_edit(
        "keys: [{id: a, limits: {mode: observe}}]",
        &clear("a", Field::Mode),
        &[(", limits: {mode: observe}", "")],
    );
    assert_edit("keys: [{id: a, allow_from: [lan]}]", &clear("a", Field::AllowFrom), &[(", allow_from: [lan]", "")]);
}

#[test]
fn a_new_key_has_its_quotas() {
    let settings =
        vec![quota("tokens=5/day"), quota("usd=1/month"), quota("tokens=7/day"), Setting::Mode(LimitMode::Enforce)];
    let create = Edit::Create { id: id("new"), settings };
    let limits = "limits: {quotas: [{tokens: 7, per: day}, {usd: \"1\", per: month}], mode: enforce}";
    assert_edit(FILE, &create, &[("team: research\n", &format!("team: research\n  - id: new\n    {limits}\n"))]);
}

#[test]
fn limits_of_teams_are_changed_where_they_stand() {
    let requests = Setting::RequestsPerMinute(limit("70"));
    assert_edit(FILE, &set_limit(team("research"), requests.clone()), &[("60", "70")]);
    let (old, new) = ("usd: \"500\" # a month\n          per: month", "{usd: \"600\", per: month}");
    assert_edit(FILE, &set_limit(team("research"), quota("usd=600/month")), &[(old, new)]);
    assert_edit(
        FILE,
        &set_limit(team("research"), quota("tokens=6/1h")),
        &[("{tokens: 5, per: 60m}", "{tokens: 6, per: \"1h\"}")],
    );
    assert_edit(
        FILE,
        &set_limit(team("research"), quota("requests=6/day")),
        &[("per: 60m}\n", "per: 60m}\n        - {requests: 6, per: day}\n")],
    );
    assert_edit(FILE, &set_limit(team("${x}"), requests), &[("day}]", "day}], requests_per_minute: 70")]);
    assert_edit(
        FILE,
        &clear_limit(team("research"), Field::RequestsPerMinute),
        &[("      requests_per_minute: 60\n", "")],
    );
    let gone = "        - usd: \"500\" # a month\n          per: month\n";
    assert_edit(FILE, &clear_limit(team("research"), named("usd_per_month")), &[(gone, "")]);
    assert_edit(FILE, &clear_limit(team("research"), Field::TokensPerMinute), &[]);
    assert_edit(FILE, &clear_limit(team("nobodys"), Field::Limits), &[]);
}

#[test]
fn a_team_without_limits_is_not_listed() {
    let (_, research) = FILE.split_once("  # the largest\n").unwrap();
    let (research, _) = research.split_once("  - {id: \"$$").unwrap();
    assert_edit(FILE, &clear_limit(team("research"), Field::Limits), &[(research, "")]);
    let other = "  - {id: \"$${x}\", limits: {quotas: [{requests: 5, per: day}]}}\n";
    for field in [Field::Limits, Field::Quotas, named("requests_per_day")] {
        assert_edit(FILE, &clear_limit(team("${x}"), field), &[(other, "")]);
    }
    let only = "keys: []\nowners:\n- id: ada\n  limits: {concurrent_requests: 5}\n";
    let ada = Holder::Owner("ada".to_owned());
    let gone = "- id: ada\n  limits: {concurrent_requests: 5}\n";
    assert_edit(only, &clear_limit(ada, Field::ConcurrentRequests), &[("owners:", "owners: []"), (gone, "")]);
}

#[test]
fn a_team_is_listed_when_it_gets_limits() {
    let (five, entry) = (Setting::RequestsPerMinute(limit("5")), "limits: {requests_per_minute: 5}");
    let next = format!("day}}]}}}}\n  - id: ops\n    {entry}\n");
    assert_edit(FILE, &set_limit(team("ops"), five.clone()), &[("day}]}}\n", &next)]);
    let ada = || set_limit(Holder::Owner("ada".to_owned()), five.clone());
    let added = |text: &str| {
        apply(text, &[ada()]).unwrap_or_else(|error| panic!("{error}: {text:?}")).strip_prefix(text).unwrap().to_owned()
    };
    let list = format!("owners:\n  - id: ada\n    {entry}\n");
    assert_eq!(added(FILE), list);
    assert_eq!(added("keys: []"), format!("\n{list}"));
    assert_eq!(added(""), format!("keys: []\n{list}"));
    assert_eq!(added("\u{feff}keys: []\n"), list);
    assert_eq!(added("  keys:\n  - id: a\n"), format!("  owners:\n    - id: ada\n      {entry}\n"));
    assert_eq!(added("keys: []\r\n"), list.replace('\n', "\r\n"));
    let flow = format!("[], owners: [{{id: ada, {entry}}}]");
    assert_edit("{keys: []}", &ada(), &[("[]", &flow)]);
    assert_edit("owners: []\nkeys: []\n", &ada(), &[(" []", &format!("\n  - id: ada\n    {entry}"))]);
    let json = apply("{\"keys\": [], \"owners\": []}", &[ada()]).unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json}");
}

#[test]
fn what_is_no_limit_or_ambiguous_is_refused() {
    let five = Setting::RequestsPerMinute(limit("5"));
    for setting in [Setting::Enabled(false), Setting::Mode(LimitMode::Observe), Setting::AllowFrom(Vec::new())] {
        assert_eq!(error(FILE, &set_limit(team("research"), setting)), EditError::NoLimit);
    }
    assert_eq!(error(FILE, &clear_limit(team("research"), Field::Models)), EditError::NoLimit);
    let twice = error("teams: [{id: t}, {id: t}]\nkeys: []", &set_limit(team("t"), five.clone()));
    assert_eq!(twice, EditError::ListedTwice { list: "teams", id: "t".to_owned() });
    assert_eq!(error("upstreams: []", &set_limit(team("t"), five.clone())), EditError::NoKeys);
    assert!(matches!(error("keys: []\nteams: 5\n", &set_limit(team("t"), five.clone())), EditError::ByHand { .. }));
    let shared = "keys: []\nteams:\n- &t {id: t, limits: {}}\n- {<<: *t, id: u}\n";
    assert!(matches!(error(shared, &set_limit(team("t"), five)), EditError::ByHand { .. }));
}
