//! Limits of models within a key.

use super::*;

const FILE: &str = "keys:
  - id: a # mine
    limits:
      requests_per_minute: 60
      models:
        # agreed on in May
        text-embedding-*: # cheap
          requests_per_minute: 3000 # fifty a second
          quotas:
            - {usd: \"5\", per: day, carried: \"0.5\", until: 2027-01-01T00:00:00Z}
        \"gpt-4o*\": {tokens_per_minute: 9}
  - {id: b, limits: {models: {\"llama3:8b\": {concurrent_requests: 2}}}}
  - id: c
    name: Third
";

fn model_limit(line: &str) -> Setting {
    Setting::ModelLimit(line.parse().unwrap())
}

#[test]
fn a_limit_of_models_is_changed_where_it_stands() {
    assert_edit(FILE, &set("a", model_limit("text-embedding-*:requests_per_minute=70")), &[("3000", "70")]);
    assert_edit(FILE, &set("a", model_limit("gpt-4o*:tokens_per_minute=unlimited")), &[(": 9", ": unlimited")]);
    assert_edit(FILE, &set("b", model_limit("llama3:8b:concurrent_requests=3")), &[("requests: 2", "requests: 3")]);
    assert_edit(FILE, &set("a", model_limit("text-embedding-*:usd=6/day")), &[("usd: \"5\"", "usd: \"6\"")]);
    assert_edit(
        FILE,
        &set("a", model_limit("text-embedding-*:usd=5/day,carried=0,until=2028-01-01")),
        &[("carried: \"0.5\", until: 2027", "carried: \"0\", until: 2028")],
    );
}

#[test]
fn a_limit_of_models_gets_a_place_of_its_own() {
    assert_edit(
        FILE,
        &set("a", model_limit("text-embedding-*:tokens_per_minute=5")),
        &[("# fifty a second", "# fifty a second\n          tokens_per_minute: 5")],
    );
    assert_edit(
        FILE,
        &set("a", model_limit("text-embedding-*:usd=9/month")),
        &[("00:00:00Z}\n", "00:00:00Z}\n            - {usd: \"9\", per: month}\n")],
    );
    assert_edit(
        FILE,
        &set("a", model_limit("gpt-4o*:usd=5/day")),
        &[("{tokens_per_minute: 9}", "{tokens_per_minute: 9, quotas: [{usd: \"5\", per: day}]}")],
    );
    let further = "9}\n        \"llama3:8b\": {requests_per_minute: 5}\n";
    assert_edit(FILE, &set("a", model_limit("llama3:8b:requests_per_minute=5")), &[("9}\n", further)]);
    assert_edit(
        FILE,
        &set("b", model_limit("${m}:usd=5/day")),
        &[("2}}}}", "2}, \"${m}\": {quotas: [{usd: \"5\", per: day}]}}}}")],
    );
    let new = "Third\n    limits: {models: {qwen3: {requests_per_minute: 5}}}\n";
    assert_edit(FILE, &set("c", model_limit("qwen3:requests_per_minute=5")), &[("Third\n", new)]);
    assert_edit(
        "keys: [{id: a, limits: {models: {m: }, mode: observe}}]",
        &set("a", model_limit("m:requests_per_minute=5")),
        &[("m: }", "m: {requests_per_minute: 5} }")],
    );
    assert_edit(
        "keys:\n- id: a\n  limits:\n    models:\n    mode: observe\n",
        &set("a", model_limit("m:usd=1/day")),
        &[("models:\n", "models: {m: {quotas: [{usd: \"1\", per: day}]}}\n")],
    );
}

#[test]
fn a_file_in_json_stays_so() {
    let json = "{\"keys\": [{\"id\": \"a\", \"limits\": {\"models\": {\"gpt-4o*\": {\"requests_per_minute\": 5}}}}]}";
    let lines = ["gpt-4o*:usd=5/day", "qwen3:requests_per_minute=5", "gpt-4o*:tokens_per_minute=5", "m*:usd=1/day"];
    let edited = apply(json, &lines.map(|line| set("a", model_limit(line)))).unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(&edited).is_ok(), "{edited}");
}

#[test]
fn other_limits_come_before_those_of_models() {
    let text =
        "keys:\n- id: a\n  limits:\n    requests_per_minute: 5\n    models:\n      m:\n        tokens_per_minute: 5\n";
    let before = "requests_per_minute: 5\n";
    let quotas = "requests_per_minute: 5\n    quotas: [{usd: \"1\", per: day}]\n";
    assert_edit(text, &set("a", Setting::Quota("usd=1/day".parse().unwrap())), &[(before, quotas)]);
}

#[test]
fn a_new_key_has_its_limits_of_models() {
    let settings = [
        "gpt-4o*:usd=5/day",
        "text-embedding-*:requests_per_minute=3000",
        "gpt-4o*:concurrent_requests=2",
        "gpt-4o*:usd=6/day",
    ];
    let create = Edit::Create { id: id("new"), settings: settings.map(model_limit).to_vec() };
    let limits = "limits: {models: {\"gpt-4o*\": {quotas: [{usd: \"6\", per: day}], concurrent_requests: 2}, \
                  \"text-embedding-*\": {requests_per_minute: 3000}}}";
    assert_edit(FILE, &create, &[("Third\n", &format!("Third\n  - id: new\n    {limits}\n"))]);
}

#[test]
fn limits_of_models_are_taken_away_all_together() {
    let (_, models) = FILE.split_once("      models:\n").unwrap();
    let (models, _) = models.split_once("  - {id: b").unwrap();
    assert_edit(FILE, &clear("a", Field::ModelLimits), &[(&format!("      models:\n{models}"), "")]);
    let limits = ", limits: {models: {\"llama3:8b\": {concurrent_requests: 2}}}";
    assert_edit(FILE, &clear("b", Field::ModelLimits), &[(limits, "")]);
    assert_edit(FILE, &clear("c", Field::ModelLimits), &[]);
    assert!(!Field::ModelLimits.is_set_by(&model_limit("m:usd=1/day")), "all may be cleared, and one set then");
    assert!(
        !Field::Quotas.is_set_by(&model_limit("m:usd=1/day")) && !Field::Models.is_set_by(&model_limit("m:usd=1/day"))
    );
}

#[test]
fn teams_have_none() {
    let of = || Holder::Team("t".to_owned());
    let text = "teams: [{id: t, limits: {requests_per_minute: 5}}]\nkeys: []\n";
    let set = Edit::SetLimit { of: of(), limit: model_limit("m:usd=1/day") };
    assert_eq!(error(text, &set), EditError::NoLimit);
    assert_eq!(error(text, &Edit::ClearLimit { of: of(), field: Field::ModelLimits }), EditError::NoLimit);
}

#[test]
fn what_is_written_strangely_is_left_to_people() {
    let limit = model_limit("m:requests_per_minute=5");
    for limits in ["{models: 5}", "{models: [m]}", "{models: {m: 5}}", "{models: &m {m: {}}}", "{models: {m: *x}}"] {
        let text = format!("x: &x {{}}\nkeys: [{{id: a, limits: {limits}}}]\n");
        let told = error(&text, &set("a", limit.clone()));
        assert!(matches!(told, EditError::ByHand { .. }), "{limits}: {told:?}");
    }
}
