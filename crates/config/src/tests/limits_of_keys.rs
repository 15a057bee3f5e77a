//! Limits of keys, of their models, of teams and of owners: what they mean, and what is said of faulty ones.

use keymeter_core::limit::{Quota, QuotaName, ScopeLimits};

use super::*;

fn parse(text: &str) -> Vec<KeyRecord> {
    keys::parse(text, Path::new("k"), false, &variable).unwrap_or_else(|faults| panic!("{faults:?}\n{text}"))
}

fn of(text: &str) -> Vec<String> {
    let faults = keys::parse(text, Path::new("k"), false, &variable).expect_err(text);
    faults.iter().map(ConfigError::to_string).collect()
}

/// A keys file with one key that has these fields too.
fn with(fields: &str) -> String {
    format!("keys:\n- {{id: a, name: First, hash: '{HASH}'}}\n- id: b\n  name: Second\n  secret: x\n{fields}")
}

fn quota(line: &str) -> Quota {
    line.parse().unwrap()
}

fn limit(number: u64) -> Limit {
    Limit::at(number).unwrap()
}

const EVERYTHING: &str = "
  team: research
  owner: ada
  allow_from: ['10.1.2.3/8', '2001:db8::/32', '::ffff:192.0.2.7']
  limits:
    requests_per_minute: 600
    mode: observe
    quotas:
      - {tokens: 50_000_000, per: day}
      - {usd: '100', per: month, zone: Europe/Berlin, carried: '12.50', until: 2027-01-01T00:00:00Z}
      - {requests: '${FOUR}', per: 5h}
      - {output_tokens: 7, per: week, carried: 3, until: 2027-01-01T00:00:00Z}
    models:
      'text-embedding-*': {requests_per_minute: 3000, tokens_per_minute: 1000000, quotas: [{usd: 5, per: 90m}]}
      gpt-4: {concurrent_requests: 2}
      o3: {}
      o4:
";

#[test]
fn everything_of_a_key_is_read() {
    let [plain, key] = &parse(&with(EVERYTHING))[..] else { panic!("two keys") };
    assert_eq!(plain.terms, None);
    let terms = key.terms.as_ref().unwrap();
    assert_eq!((terms.mode, &terms.team, &terms.owner), (Some(LimitMode::Observe), &None, &None));
    let until = "2027-01-01T00:00:00Z".parse().unwrap();
    let [day, month, hours, week] = &terms.quotas[..] else { panic!("{:?}", terms.quotas) };
    assert_eq!((day, hours), (&quota("tokens=50000000/day"), &quota("requests=4/5h")));
    let carried = |amount| Some(keymeter_core::limit::Carried { amount, until });
    let expected = Quota { carried: carried(12_500_000_000), ..quota("usd=100/month@Europe/Berlin") };
    assert_eq!((month, week.carried), (&expected, carried(3)));
    let [gpt, embedding] = &terms.models[..] else { panic!("what limits nothing is left out: {:?}", terms.models) };
    assert_eq!((gpt.models.as_str(), gpt.limits.minute.concurrent_requests), ("gpt-4", limit(2)));
    assert_eq!(gpt.limits.minute.tokens_per_minute, Limit::Unlimited);
    assert_eq!(
        (embedding.models.as_str(), &embedding.limits.quotas[..]),
        ("text-embedding-*", &[quota("usd=5/90m")][..])
    );
    for (address, may) in [("10.9.9.9", true), ("::ffff:10.9.9.9", true), ("192.0.2.7", true), ("192.0.2.8", false)] {
        assert_eq!(key.may_come_from(address.parse().unwrap()), may, "{address}");
    }
    assert!(plain.may_come_from("192.0.2.8".parse().unwrap()));
}

#[test]
fn what_says_nothing_takes_no_memory() {
    for fields in
        ["  limits: {requests_per_minute: 5, quotas: [], models: {}}", "  team: t\nteams: [{id: t, limits: {}}]"]
    {
        assert_eq!(parse(&with(fields))[1].terms, None, "{fields}");
    }
    assert_eq!(parse(&with("  limits: {mode: enforce}"))[1].terms.as_ref().unwrap().mode, Some(LimitMode::Enforce));
}

#[test]
fn a_teams_limits_are_those_of_all_its_keys() {
    let text = "teams:
- {id: research, limits: {requests_per_minute: 6000, quotas: [{usd: '500', per: month}]}}
- id: '${FOUR}'
  limits: {tokens_per_minute: unlimited}
- {id: nobodys}
owners: [{id: research, limits: {concurrent_requests: 20}}]
keys:
- {id: a, name: First, secret: a, team: research}
- {id: b, name: Second, secret: b, team: research, owner: research}
- {id: c, name: Third, secret: c, team: '4', owner: ada}
";
    let [first, second, third] = &parse(text)[..] else { panic!("three keys") };
    let [of_first, of_second] = [first, second].map(|key| key.terms.as_ref().unwrap());
    let (team, owner) = (of_first.team.as_ref().unwrap(), of_second.owner.as_ref().unwrap());
    let minute = Limits { requests_per_minute: limit(6000), ..Limits::UNLIMITED };
    assert_eq!((team.minute, &team.quotas[..]), (minute, &[quota("usd=500/month")][..]));
    assert!(Arc::ptr_eq(team, of_second.team.as_ref().unwrap()), "there is one of them for all keys");
    assert_eq!(of_first.owner, None);
    assert_eq!(**owner, ScopeLimits::from(Limits { concurrent_requests: limit(20), ..Limits::UNLIMITED }));
    assert_eq!(third.terms, None, "a team that is not limited, and an owner whom nobody lists");
}

#[test]
fn faulty_quotas_are_named_with_their_places() {
    let text = with(
        "  limits:
    mode: watch
    quotas:
    - {tokens: 5, per: fortnight}
    - {tokens: 5, per: 90}
    - {tokens: 5, per: 32d}
    - {tokens: 5, per: day, zone: Europe/Atlantis}
    - {tokens: 5, per: 5h, zone: Europe/Berlin}
    - {tokens: 0, per: day}
    - {usd: '0.00', per: day}
    - {usd: 0.5, per: day}
    - {tokens: 1.5, per: day}
    - {tokens: many, per: day}
    - {per: day}
    - {tokens: 5, usd: '5', per: day}
    - {tokens: 5}
    - {tokens: 5, per: week, carried: 5}
    - {tokens: 5, per: month, until: 2027-01-01T00:00:00Z}
    - {tokens: 5, per: 1h, carried: '1.50', until: 2027-01-01T00:00:00Z}
    - {tokens: 5, per: 60m}
    - {requests: 5, per: 2h, carried: 1, until: soon}
    - {token: 5, per: 3h}
    - 5
    -
",
    );
    let span = "a quota's span is `day`, `week`, `month` or a length from 1m to 31d, such as `5h`";
    let zero = "a quota of 0 would allow nothing: to disable a key, write `enabled: false`";
    let amount = "a quota of money is an amount of US dollars such as `12.50`, and one of anything else a whole number";
    let none = "how many may be used; or `requests`, `output_tokens` or `usd` in its place";
    let expected = [
        "k:7:11: `watch` is not accepted here; accepted: enforce, observe".to_owned(),
        format!("k:9:24: {span}"),
        format!("k:10:24: {span}"),
        format!("k:11:24: {span}"),
        "k:12:35: the time zone is unknown: write one of the IANA database, such as `Europe/Berlin` or `UTC`".to_owned(),
        "k:13:34: a length such as `5h` slides, and no zone changes it: a zone goes with `day`, `week` and `month`".to_owned(),
        format!("k:14:16: {zero}"),
        format!("k:15:13: {zero}"),
        "k:16:13: money is never a floating-point number: write it in quotes, such as \"12.50\"".to_owned(),
        "k:17:16: a quota of requests or tokens is a whole number of at least 1".to_owned(),
        format!("k:18:16: {amount}"),
        format!("k:19:7: missing field `tokens` in keys[1].limits.quotas[10]: {none}"),
        "k:20:24: either `tokens` or `usd`, not both: each is a quota of its own".to_owned(),
        "k:21:7: missing field `per` in keys[1].limits.quotas[12]: `day`, `week`, `month` or a length from 1m to 31d, \
         such as `5h`"
            .to_owned(),
        "k:22:7: missing field `until` in keys[1].limits.quotas[13]: when what was used elsewhere counts no longer".to_owned(),
        "k:23:7: missing field `carried` in keys[1].limits.quotas[14]: what was used elsewhere, which counts until the \
         time in `until`"
            .to_owned(),
        format!("k:24:37: {amount}"),
        "k:25:7: there are two quotas `tokens_per_1h`: leave one of them out".to_owned(),
        "k:26:49: `soon` is not an RFC 3339 time, such as 2027-01-01T00:00:00Z, or a date, such as 2027-01-01".to_owned(),
        "k:27:8: unknown field `token` in keys[1].limits.quotas[18]; did you mean `tokens`? accepted: requests, tokens, \
         output_tokens, usd, per, zone, carried, until"
            .to_owned(),
        format!("k:27:7: missing field `tokens` in keys[1].limits.quotas[18]: {none}"),
        "k:28:7: expected the fields of a quota, such as `tokens` and `per`, found a single value".to_owned(),
        "k:29:6: the element has no value".to_owned(),
    ];
    let found = of(&text);
    for line in &expected {
        assert!(found.contains(line), "{line}\n{found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn faulty_lists_are_named_with_their_places() {
    let many: Vec<_> = (1..=17).map(|hours| format!("{{tokens: 1, per: {hours}h}}")).collect();
    let limits = |quotas: &[String]| with(&format!("  limits: {{quotas: [{}]}}", quotas.join(", ")));
    assert_eq!(parse(&limits(&many[1..]))[1].terms.as_ref().unwrap().quotas.len(), 16);
    assert_eq!(of(&limits(&many)), ["k:6:20: there are more than 16 quotas: leave some out"]);
    let text = with(
        "  allow_from: [10.0.0.0/8, 10.0.0.0/33, lan]
  limits: {models: {'': {requests_per_minute: 1}, \"a\\0\": {}, b: {quotas: [{tokens: 1}]}, c: {mode: observe}, d: 5}}
teams:
- {id: t, limits: {requests_per_minute: 0, mode: observe}}
- {id: t}
- {limits: {quotas: [{per: day}]}}
- t
-
owners: [{id: t}, {id: u, limit: {}}, {id: u, limits: {models: {}}}]
",
    );
    let pattern = "a model's name or pattern";
    let accepted = "accepted: requests_per_minute, tokens_per_minute, concurrent_requests, quotas";
    let network = "is not a network; accepted: CIDR notation, such as 10.0.0.0/8 or fd00::/8, or one IP address";
    let expected = [
        format!("k:6:28: `10.0.0.0/33` {network}"),
        format!("k:6:41: `lan` {network}"),
        format!("k:7:21: {pattern} must not be empty; `*` stands for all"),
        format!("k:7:51: {pattern} has 256 bytes at most and no control characters"),
        "k:7:75: missing field `per` in keys[1].limits.models.b.quotas[0]: `day`, `week`, `month` or a length from 1m to \
         31d, such as `5h`"
            .to_owned(),
        format!("k:7:94: unknown field `mode` in keys[1].limits.models.c; {accepted}"),
        "k:7:113: expected fields, such as `requests_per_minute`, found a single value".to_owned(),
        "k:9:41: a limit of 0 would allow nothing: to disable a key, write `enabled: false`".to_owned(),
        format!("k:9:44: unknown field `mode` in teams[0].limits; {accepted}"),
        "k:10:8: the team `t` is already given on line 9".to_owned(),
        "k:11:3: missing field `id` in teams[2]: what keys name it by".to_owned(),
        "k:11:22: missing field `tokens` in teams[2].limits.quotas[0]: how many may be used; or `requests`, \
         `output_tokens` or `usd` in its place"
            .to_owned(),
        "k:12:3: expected the fields `id` and `limits`, found a single value".to_owned(),
        "k:13:2: the element has no value".to_owned(),
        "k:14:27: unknown field `limit` in owners[1]; did you mean `limits`? accepted: id, limits".to_owned(),
        "k:14:44: the owner `u` is already given on line 14".to_owned(),
        format!("k:14:56: unknown field `models` in owners[2].limits; {accepted}"),
    ];
    assert_eq!(of(&text), expected);
    assert_eq!(
        of(&with("  allow_from: []")),
        ["k:6:15: at least one network is needed, such as 10.0.0.0/8; without the field the key may be used from all"]
    );
    let many: Vec<_> = (0..257).map(|number| format!("m{number}: {{}}")).collect();
    assert_eq!(
        of(&with(&format!("  limits: {{models: {{{}}}}}", many.join(", ")))),
        ["k:6:20: 257 models; a key limits 256 names and patterns at most"]
    );
    assert_eq!(of(&with("teams: {t: {}}")), ["k:6:8: expected a list in brackets, found fields"]);
}

#[test]
fn a_services_record_says_the_limits_of_team_and_owner() {
    let record = |more: &str| {
        let text = format!(r#"{{"id":"key_a","name":"Some key","hash":"{HASH}"{more}}}"#);
        keys::parse_record(text.as_bytes()).map(|(record, _)| record)
    };
    let key = record(
        r#","team":"research","owner":"ada","allow_from":["10.0.0.0/8"],
            "team_limits":{"requests_per_minute":5,"quotas":[{"usd":"500","per":"month","zone":"UTC"}]},
            "owner_limits":{"concurrent_requests":20,"tokens_per_minute":null},
            "limits":{"mode":"observe","quotas":[{"tokens":5,"per":"day","zone":null}],"models":{"m*":{"requests_per_minute":1}}}"#,
    );
    let terms = key.unwrap().terms.unwrap();
    assert_eq!(terms.team.as_ref().unwrap().quotas[..], [quota("usd=500/month")]);
    assert_eq!(terms.owner.as_ref().unwrap().minute.concurrent_requests, limit(20));
    assert_eq!((&terms.quotas[..], terms.models.len(), terms.allow_from.len()), (&[quota("tokens=5/day")][..], 1, 1));
    assert_eq!(terms.mode, Some(LimitMode::Observe));
    assert_eq!(record(r#","team":"t","team_limits":{},"owner_limits":{"quotas":[]}"#).unwrap().terms, None);
    for (more, expected) in [
        (r#","team":"t","team_limits":5"#, "team_limits: invalid type: integer `5`, expected fields"),
        (r#","team":"t","team_limits":[]"#, "team_limits: "),
        (r#","team":"t","team_limits":{"models":{}}"#, "team_limits: models: unknown field `models`"),
        (r#","team":"t","team_limits":{"mode":"observe"}"#, "team_limits: mode: unknown field `mode`"),
        (
            r#","owner":"t","owner_limits":{"quotas":[{"tokens":1,"per":"x"}]}"#,
            "owner_limits: quotas[0].per: a quota's span",
        ),
        (
            r#","owner":"t","owner_limits":{"quotas":[{"per":"day"}]}"#,
            "missing field `tokens` in owner_limits.quotas[0]",
        ),
        (r#","team_limits":{"requests_per_minute":5}"#, "`team_limits` without `team`"),
        (r#","limits":{"quotas":[{"tokens":"${FOUR}","per":"day"}]}"#, "limits.quotas[0].tokens: a quota of money"),
        (r#","limits":{"models":{"":{}}}"#, "a model's name or pattern must not be empty"),
        (r#","allow_from":["lan"]"#, "allow_from[0]: `lan` is not a network"),
        (r#","allow_from":[]"#, "at least one network is needed"),
        (r#","teams":[]"#, "unknown field `teams`"),
    ] {
        let error = record(more).unwrap_err();
        assert!(error.starts_with(expected), "{more}: {error}");
    }
}

proptest! {
    #[test]
    fn any_text_of_limits_is_read_or_refused_with_a_reason(parts in prop::collection::vec(0_usize..24, 0..16)) {
        const PARTS: [&str; 24] = [
            "limits:", "quotas:", "models:", "teams:", "owners:", "id: t", "\n", "\n  ", "\n- ", "- ", "{", "}", "[", "]",
            ", ", "tokens: 5", "usd: '1'", "per: ", "day", "5h", "zone: UTC", "carried: 5", "until: 2027-01-01T00:00:00Z", "'*': ",
        ];
        let text: String = parts.iter().map(|part| PARTS[*part]).collect();
        for text in [with(&format!("  {text}")), format!("keys: []\n{text}")] {
            let keys = keys::parse(&text, Path::new("k"), false, &variable);
            prop_assert!(!keys.is_err_and(|faults| faults.is_empty()), "{}", text);
        }
    }

    #[test]
    fn a_quota_is_read_from_the_file_as_from_a_line(unit in 0_usize..4, span in 0_usize..5, amount in 1_u64..1_000_000_000_000) {
        let unit = keymeter_core::limit::QuotaUnit::ALL[unit];
        let span = ["day", "week", "month", "90m", "31d"][span].parse().unwrap();
        let quota = Quota::new(QuotaName { unit, span }, amount.try_into().unwrap(), None).unwrap();
        let text = format!("  limits: {{quotas: [{{{}: '{}', per: {span}}}]}}", unit.as_str(), unit.written(amount));
        let keys = parse(&with(&text));
        prop_assert_eq!(&keys[1].terms.as_ref().unwrap().quotas[..], &[quota][..]);
    }
}
