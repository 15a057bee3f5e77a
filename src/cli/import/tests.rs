use std::{fs, path::Path};

use keymeter_config::keys;
use keymeter_core::key::{KeyHash, KeyRecord, KeyState};

use super::{table::Table, *};

const NOW: &str = "2026-12-01T00:00:00Z";

const KEYS: &str = r#"token,key_name,key_alias,spend,expires,models,aliases,user_id,team_id,max_parallel_requests,blocked,tpm_limit,rpm_limit,max_budget,budget_duration,budget_reset_at,metadata,budget_id,allowed_routes
HASH1,sk-...aaaa,prod app,12.345678901,2027-01-01 00:00:00,"{gpt-4o,""llama 3""}",{},ada,t-1,5,,100000,60,100,30d,2026-12-15 00:00:00,{},,{}
HASH2,sk-...bbbb,,0.5,,{},"{""a"": ""b""}",default_user_id,,,t,,,,,,"{""model_rpm_limit"": {""m"": 5}}",,{}
HASH3,sk-...cccc,ab,3,,{all-team-models},{},,t-1,,f,,0,10,,,{},,{}
HASH4,sk-...dddd,gone team,0,,{all-team-models},{},,t-9,,,,,,,,{},,{}
nonsense,sk-...eeee,bad,0,,{},{},,,,,,,,,,{},,{}
HASH6,sk-...ffff,page,0,,{},{},ada,litellm-dashboard,,,,,0.25,24h,,{},,{}
HASH7,sk-...gggg,of a budget,1e-3,,{gpt-4o-mini},{},,t-2,,,,,,,2026-12-02 00:00:00,{},b-1,"{/chat/completions}"
"#;

const TEAMS: &str = r#"team_id,team_alias,models,max_budget,spend,budget_duration,budget_reset_at,tpm_limit,rpm_limit,max_parallel_requests,blocked,model_max_budget
t-1,research,"{gpt-4*,""llama 3""}",500,20,1mo,2026-12-20 00:00:00,,600,,f,{}
t-2,stopped,{},,,,,,,,t,{}
"#;

const BUDGETS: &str = "budget_id,max_budget,budget_duration,rpm_limit,tpm_limit,max_parallel_requests\nb-1,2,1d,7,,\n";

/// With real hashes in it.
fn keys_text() -> String {
    (1..8).fold(KEYS.to_owned(), |text, number| text.replace(&format!("HASH{number}"), &hash(number).to_hex()))
}

fn hash(number: usize) -> KeyHash {
    KeyHash::digest(format!("sk-{number}").as_bytes())
}

fn table(text: &str) -> Table {
    Table::parse(text.as_bytes()).unwrap()
}

fn litellm() -> Plan {
    let tables = litellm::Tables::new(table(&keys_text()), Some(table(TEAMS)), Some(table(BUDGETS)));
    litellm::plan(&tables, NOW.parse().unwrap())
}

/// What was told, and the keys that a file has then.
fn written(plan: Plan, path: &Path, dry_run: bool) -> (Vec<String>, Vec<KeyRecord>) {
    let rows = write::keys(plan, path, dry_run).unwrap();
    let text = fs::read_to_string(path).unwrap_or_else(|_| "keys: []\n".to_owned());
    let records = keys::parse(&text, path, false, &|_| None).unwrap();
    (rows.iter().map(ToString::to_string).collect(), records)
}

#[test]
fn keys_and_teams_of_litellm_are_taken_and_the_rest_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.yaml");
    let (told, none) = written(litellm(), &path, true);
    assert!(none.is_empty() && !path.exists(), "a dry run does nothing");
    let (again, records) = written(litellm(), &path, false);
    assert_eq!(told, again);
    assert_eq!(
        told,
        [
            "team 2: taken: research",
            "team 3: taken: stopped; it is blocked: its keys are disabled",
            "key 2: taken: prod app",
            "key 3: taken: sk-...bbbb; aliases is not taken: `rename` of an upstream does it for all keys; \
             metadata.model_rpm_limit is not taken",
            "key 4: taken: ab; a name has 3 to 50 characters: it is called `key ab`; rpm_limit lets nothing through: it is \
             disabled; $7 is left of its budget: that is a wallet's balance, which a control plane keeps and a file \
             does not",
            "key 5: not taken: gone team; it may call its team's models, and its team is not in LiteLLM_TeamTable: name the \
             dump by --teams",
            "key 6: not taken: bad; its token is no SHA-256 in hexadecimal digits",
            "key 7: not taken: page; it is a session of LiteLLM's page",
            "key 8: taken: of a budget; allowed_routes is not taken",
        ]
    );
    let text = fs::read_to_string(&path).unwrap();
    let first = &records[0];
    assert_eq!((first.hash, first.name.as_str()), (hash(1), "prod app"));
    assert_eq!((first.owner.as_deref(), first.team.as_deref()), (Some("ada"), Some("research")));
    assert_eq!(first.expires_at.unwrap().to_string(), "2027-01-01T00:00:00Z");
    for line in [
        "    models: [gpt-4o, llama 3]\n",
        "    limits: {requests_per_minute: 60, tokens_per_minute: 100000, concurrent_requests: 5, quotas: [{usd: \"100\", per: \
         month, carried: \"12.345678901\", until: 2026-12-15T00:00:00Z}]}\n",
        "teams:\n  - id: research\n    limits: {requests_per_minute: 600, quotas: [{usd: \"500\", per: month, carried: \"20\", \
         until: 2026-12-20T00:00:00Z}]}\n",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert_eq!(
        records.iter().map(|key| key.state).collect::<Vec<_>>(),
        [KeyState::Active, KeyState::Disabled, KeyState::Disabled, KeyState::Disabled]
    );
    assert_eq!(records[2].models.as_ref().unwrap().len(), 2, "its team's models");
    assert!(text.contains("requests_per_minute: 7, quotas: [{usd: \"2\", per: day, carried: \"0.001\""), "{text}");
    let (told, _) = written(litellm(), &path, false);
    assert_eq!(fs::read_to_string(&path).unwrap(), text, "the second time nothing is changed");
    assert_eq!(told.iter().filter(|row| row.contains("here already")).count(), 5, "{told:#?}");
}

#[test]
fn tokens_of_one_api_are_hashed_as_their_clients_send_them() {
    let tokens = "id,user_id,key,status,name,expired_time,remain_quota,unlimited_quota,used_quota,models,subnet\n\
                  1,1,abcdef,1,prod,-1,1250000,f,0,\"gpt-4o,llama-3\",\"10.0.0.0/8,192.0.2.1\"\n\
                  2,2,ghijkl,2,off,1900000000,0,t,0,,\n\
                  3,9,mnopqr,4,,0,0,f,0,,\n\
                  4,1,,1,none,-1,0,t,0,,\n";
    let users = "id,username,status\n1,ada,1\n2,bob,2\n";
    let plan = || one_api::plan(&one_api::Tables::new(table(tokens), Some(table(users))));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.yaml");
    fs::write(&path, "# ours\nkeys:\n  - {id: a, name: ours, hash: \"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"}\n").unwrap();
    let (told, records) = written(plan(), &path, false);
    assert_eq!(
        told,
        [
            "key 2: taken: prod; $2.5 is left of its budget: that is a wallet's balance, which a control plane keeps and a file does not",
            "key 3: taken: off; its user is disabled: so is it",
            "key 4: taken: token 3; its quota is used up: it is disabled",
            "key 5: not taken: none; it has no key",
        ]
    );
    assert_eq!(records.len(), 4);
    assert_eq!(records[1].hash, KeyHash::digest(b"sk-abcdef"));
    assert_eq!(records[1].owner.as_deref(), Some("ada"));
    assert_eq!(records[3].owner.as_deref(), Some("user-9"));
    assert!(
        !records[1].may_come_from("11.0.0.1".parse().unwrap())
            && records[1].may_come_from("192.0.2.1".parse().unwrap())
    );
    assert_eq!(records[2].expires_at.unwrap().as_second(), 1_900_000_000);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("# ours\nkeys:\n  - {id: a,") && !text.contains("abcdef"), "{text}");
    written(plan(), &path, false);
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn a_list_of_new_api_counts_where_its_flag_says_so() {
    let tokens = "id,user_id,key,status,name,expired_time,remain_quota,unlimited_quota,model_limits_enabled,model_limits,allow_ips,group,deleted_at\n\
                  1,1,abc,1,one,-1,0,t,t,\"gpt-4o,gpt-4\",,default,\n\
                  2,1,def,1,two,-1,0,t,f,\"gpt-4o\",\"10.1.2.3\n10.1.2.4\",vip,\n\
                  3,1,ghi,1,three,-1,0,t,f,,,,2026-01-01 00:00:00+00\n";
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.yaml");
    let (told, records) = written(one_api::plan(&one_api::Tables::new(table(tokens), None)), &path, false);
    assert_eq!(records[0].models.as_ref().map(|models| models.len()), Some(2));
    assert!(records[1].models.is_none() && !records[1].may_come_from("10.1.2.5".parse().unwrap()));
    assert!(told[1].contains("group `vip` is not taken"), "{told:?}");
    assert_eq!(told[2], "key 4: not taken: three; it is deleted");
}

#[test]
fn models_of_one_name_become_one_upstream() {
    let models = model_list::parse(
        r"
model_list:
  - {model_name: llama, litellm_params: {model: hosted_vllm/meta/llama-3, api_base: 'http://10.0.0.1:8000/v1', weight: 2}, model_info: {input_cost_per_token: 1.5e-07, output_cost_per_token: 0.0000006}}
  - {model_name: llama, litellm_params: {model: openai/meta/llama-3, api_base: 'http://10.0.0.1:8001', api_key: secret, rpm: 10}}
  - {model_name: gpt-4o, litellm_params: {model: gpt-4o, api_key: os.environ/OPENAI_API_KEY}}
  - {model_name: claude, litellm_params: {model: anthropic/claude-sonnet-4, api_key: os.environ/ANTHROPIC_API_KEY}}
  - {model_name: llama, litellm_params: {model: anthropic/claude-sonnet-4}}
  - {model_name: bed, litellm_params: {model: bedrock/anthropic.claude}}
  - {model_name: bare, litellm_params: {model: something}}
router_settings: {routing_strategy: least-busy}
",
    )
    .unwrap();
    let told: Vec<_> = models.rows.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "model 1: taken: llama",
            "model 2: taken: llama; its api_key is not copied: give it in the variable LLAMA_API_KEY; rpm is not taken",
            "model 3: taken: gpt-4o",
            "model 4: taken: claude; its clients have to speak the API `anthropic`: nothing is translated",
            "model 5: not taken: llama; others of its name speak the API `openai`",
            "model 6: not taken: bed; its API is its provider's own, and keymeter translates none: put a server that speaks \
             OpenAI's before it",
            "model 7: not taken: bare; it says neither where `something` is nor whose it is",
            "section 2: not taken: router_settings; what of it is wanted is written by hand: see docs/moving-from-litellm.md",
        ]
    );
    let config = keymeter_config::parse(&models.text, Path::new("f"), &|_| Some("sk-x".to_owned())).unwrap();
    assert_eq!(
        config.upstreams.iter().map(|upstream| &*upstream.name).collect::<Vec<_>>(),
        ["llama", "gpt-4o", "claude"]
    );
    assert_eq!(config.upstreams[0].replicas.len(), 2);
    assert_eq!(config.models.len(), 1);
    assert!(models.text.contains("input: '0.15'") && models.text.contains("output: '0.6'"), "{}", models.text);
    assert!(!models.text.contains("secret"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keymeter.yaml");
    let mut told = Vec::new();
    write::configuration(&models, &path, true, &mut told).unwrap();
    assert!(!path.exists());
    for _ in 0..2 {
        write::configuration(&models, &path, false, &mut told).unwrap();
    }
    fs::write(&path, "other").unwrap();
    let refused = write::configuration(&models, &path, false, &mut told).unwrap_err();
    assert!(refused.to_string().ends_with("is there already and says something else; name a file that is not there"));
}
