//! Limits of keys, of models within a key, of teams and of owners.

use super::*;

#[test]
fn quotas_networks_and_a_mode_are_set_shown_and_cleared() {
    let mut desk = Desk::with(FILE);
    desk.run("update key_a --quota usd=100/month@Europe/Berlin --quota requests=1000/5h --mode observe --allow-from 10.0.0.0/8")
        .unwrap();
    let terms = desk.records()[0].terms.clone().unwrap();
    let quotas: Vec<_> = terms.quotas.iter().map(ToString::to_string).collect();
    assert_eq!(quotas, ["usd=100/month@Europe/Berlin", "requests=1000/5h"]);
    assert!(terms.allow_from.len() == 1 && terms.mode == Some(keymeter_core::limit::LimitMode::Observe));
    desk.run("update key_a --quota usd=50/month").unwrap();
    desk.run("show key_a").unwrap();
    for line in ["mode                 observe", "quota                usd=50/month", "allow_from           10.0.0.0/8"]
    {
        assert!(desk.printed.lines().any(|printed| printed == line), "{line}: {}", desk.printed);
    }
    desk.run("show key_a --output json").unwrap();
    let shown: serde_json::Value = serde_json::from_str(&desk.printed).unwrap();
    assert_eq!(shown["quotas"][0], serde_json::json!({"usd": "50", "per": "month"}));
    desk.run("update key_a --clear quotas,mode,allow_from").unwrap();
    assert_eq!(desk.text(), FILE);
    let wrong = desk.error("update key_a --quota coins=1/month");
    assert!(wrong.contains("coins=1/month"), "{wrong}");
}

#[test]
fn what_was_used_elsewhere_is_set_with_a_quota_and_stays_until_another_says_something_of_it() {
    let mut desk = Desk::with(FILE);
    let line = "usd=100/month@Europe/Berlin,carried=12.5,until=2027-01-01T00:00:00Z";
    desk.run(&format!("update key_a --quota {line}")).unwrap();
    let written = "{usd: \"100\", per: month, zone: \"Europe/Berlin\", carried: \"12.5\", until: 2027-01-01T00:00:00Z}";
    assert!(desk.text().contains(written), "{}", desk.text());
    desk.run("update key_a --quota usd=200/month@Europe/Berlin").unwrap();
    desk.run("show key_a").unwrap();
    let shown = format!("quota                {}\n", line.replace("=100/", "=200/"));
    assert!(desk.printed.contains(&shown), "{}", desk.printed);
    desk.run("update key_a --quota usd=200/month,carried=0,until=2027-01-01").unwrap();
    desk.run("show key_a --output json").unwrap();
    let quota = &serde_json::from_str::<serde_json::Value>(&desk.printed).unwrap()["quotas"][0];
    let expected = serde_json::json!({"usd": "200", "per": "month", "carried": "0", "until": "2027-01-01T00:00:00Z"});
    assert_eq!(*quota, expected);
    let half = desk.error("update key_a --quota usd=5/month,carried=1");
    assert!(half.contains("`carried` without `until`: add when that use counts no longer"), "{half}");
}

#[test]
fn limits_of_models_are_set_shown_and_cleared() {
    let mut desk = Desk::with(FILE);
    let lines =
        ["llama3:8b:concurrent_requests=2", "text-embedding-*:requests_per_minute=3000", "text-embedding-*:usd=5/day"];
    let options = lines.map(|line| format!("--model-limit {line}")).join(" ");
    desk.run(&format!("update key_a {options}")).unwrap();
    let models = "models: {\"llama3:8b\": {concurrent_requests: 2}, \
                  \"text-embedding-*\": {requests_per_minute: 3000, quotas: [{usd: \"5\", per: day}]}}}";
    let expected = FILE.replace("tokens_per_minute: unlimited}", &format!("tokens_per_minute: unlimited, {models}"));
    assert_eq!(desk.text(), expected);
    desk.run("show key_a").unwrap();
    let shown: Vec<_> =
        desk.printed.lines().filter_map(|line| line.strip_prefix("model_limit")).map(str::trim).collect();
    assert_eq!(shown, lines);
    desk.run("show key_a --output json").unwrap();
    let limits = &serde_json::from_str::<serde_json::Value>(&desk.printed).unwrap()["limits"];
    let of_models = serde_json::json!({
        "llama3:8b": {"concurrent_requests": 2},
        "text-embedding-*": {"requests_per_minute": 3000, "quotas": [{"usd": "5", "per": "day"}]},
    });
    assert_eq!((&limits["models"], &limits["requests_per_minute"]), (&of_models, &60.into()));
    desk.run("update key_a --clear model_limits --model-limit llama3:8b:tokens_per_minute=7").unwrap();
    let one = "models: {\"llama3:8b\": {tokens_per_minute: 7}}}";
    assert!(desk.text().contains(&format!("tokens_per_minute: unlimited, {one}")), "{}", desk.text());
    desk.run("update key_a --clear model_limits").unwrap();
    assert_eq!(desk.text(), FILE);
    desk.run(&format!("create --name New~key --id new {options}")).unwrap();
    assert_eq!(desk.records()[2].terms.as_ref().unwrap().models.len(), 2);
    for (wrong, why) in [
        ("gpt-4o=5", "a limit of models is written as GLOB:LIMIT"),
        ("gpt-4o:coins=5/day", "there is no limit `coins` of models"),
        ("gpt-4o:requests_per_minute=0", "leave them out of those that it may call"),
    ] {
        let told = desk.error(&format!("update key_a --model-limit {wrong}"));
        assert!(told.contains(why) && told.contains("--model-limit <GLOB:LIMIT>"), "{told}");
    }
}

#[test]
fn limits_of_teams_and_owners_are_set_and_cleared() {
    #[derive(Parser)]
    struct Limits {
        #[command(flatten)]
        args: SharedLimitsArgs,
    }
    let mut desk = Desk::with(FILE);
    let set = |of: fn(String) -> Holder, line: &str| {
        let file = ["--file", desk.path().to_str().unwrap()].map(str::to_owned);
        let words = std::iter::once("limits".to_owned()).chain(line.split(' ').map(str::to_owned)).chain(file);
        let args = Limits::try_parse_from(words).unwrap().args;
        let (mut stdin, mut stdout, mut stderr) = (&b""[..], Vec::new(), Vec::new());
        let mut io = Io {
            stdin: &mut stdin,
            stdout: &mut stdout,
            stderr: &mut stderr,
            environment: &|_| None,
            now: NOW.parse().unwrap(),
        };
        set_limits(of, "", args, &mut io).map_err(|error| error.to_string())
    };
    set(Holder::Team, "research --quota usd=500/month --requests-per-minute 6000").unwrap();
    set(Holder::Owner, "ada --concurrent-requests 20").unwrap();
    let nothing = set(Holder::Team, "research").unwrap_err();
    assert_eq!(
        nothing,
        "nothing to change in the limits of `research`; add an option such as --quota or --clear (see --help)"
    );
    let team = desk.records()[0].terms.clone().unwrap().team.unwrap();
    assert_eq!((team.quotas.len(), team.minute.requests_per_minute.number()), (1, Some(6000)));
    desk.run("show key_a").unwrap();
    assert!(
        desk.printed.contains("team_limits          requests_per_minute=6000, usd=500/month\n"),
        "{}",
        desk.printed
    );
}
