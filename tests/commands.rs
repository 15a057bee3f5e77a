//! The commands as somebody types them: what they print, and the code that they end with.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use keymeter_config::Source;
use keymeter_core::rejection::ErrorCode;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    client::{Client, events},
    control::{OPERATOR, Plane},
    gateway::{config, one_key},
    process::{Process, Signal, ask, keymeter, run},
    script::Script,
    upstream::ScriptedUpstream,
};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn check(path: &Path) -> (Option<i32>, String) {
    let output = run(&["check", "--config", path.to_str().unwrap()]);
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    (output.status.code(), text(&output.stdout))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn check_finds_nothing_wrong_with_the_examples() {
    let found = "ok: 1 upstream (1 replica), 0 keys, 2 prices\n";
    assert_eq!(check(&repository("conf/keymeter.yaml")), (Some(0), found.to_owned()));
    for words in [&["check"][..], &["check", "conf/keymeter.yaml"]] {
        let output = keymeter(words).current_dir(repository("")).output().unwrap();
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), found), "conf/ is the default");
    }
}

#[test]
fn check_says_what_will_surprise() {
    let folder = tempfile::tempdir().unwrap();
    let (file, keys) = (folder.path().join("keymeter.yaml"), folder.path().join("keys.yaml"));
    let configuration = r#"upstreams:
  - {name: all, url: "http://127.0.0.1:1", models: ["llama-*", mistral-7b]}
  - {name: behind, url: "http://127.0.0.1:2", models: ["llama-3*"]}
  - {name: beside, url: "http://127.0.0.1:3", apis: [ollama], models: ["llama-3*"]}
models:
  - {name: "llama-*", input: "1"}
  - {name: "lama-3*", input: "1"}
keys: {yaml: {path: keys.yaml}}
"#;
    let key = |id: &str, more: &str| format!("  - {{id: {id}, name: Some key, hash: \"sha256:{id:0>64}\"{more}}}\n");
    let usd = "limits: {quotas: [{usd: \"5\", per: day}]}";
    let of_keys = format!(
        "teams: [{{id: research, {usd}}}]\nkeys:\n{}{}{}{}{}",
        key("a1", ", models: [\"lama-3*\", mistral-7b]"),
        key("a2", &format!(", {usd}")),
        key("a3", &format!(", {usd}, models: [\"llama-3*\"]")),
        key("a4", ", team: research, models: [mistral-7b]"),
        key("a5", ", team: research, models: [llama-3]"),
    );
    std::fs::write(&file, configuration).unwrap();
    std::fs::write(&keys, &of_keys).unwrap();
    let (code, printed) = check(&file);
    let expected = [
        (&file, "2:64", "`mistral-7b` has no price, and costs $0"),
        (&file, "3:5", "`behind` is asked only while `all` has no replica"),
        (&file, "7:12", "no upstream serves a model that fits `lama-3*`"),
        (&keys, "3:", "no upstream serves a model that fits `lama-3*`"),
        (&keys, "4:5", "the key a2 has a quota in US dollars"),
        (&keys, "6:5", "the key a4 has a team with a quota in US dollars"),
    ];
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!((code, lines.len()), (Some(0), expected.len() + 1), "{printed}");
    for (line, (file, place, what)) in lines.iter().zip(expected) {
        let start = format!("{}:{place}", file.display());
        assert!(
            line.starts_with(&start) && line.contains(": warning: ") && line.contains(what),
            "{line} is not {start} {what}"
        );
    }
    assert_eq!(lines.last(), Some(&"ok: 3 upstreams (3 replicas), 5 keys, 2 prices"));
}

#[test]
fn check_says_where_signing_in_could_be_forged_on_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keymeter.yaml");
    for (page, issuer, warnings) in [
        ("https://keys.example", "https://login.example", vec![]),
        ("http://localhost:9091", "http://127.0.0.1:1", vec![]),
        (
            "https://keys.example",
            "http://login.example",
            vec!["2:18: warning: `http://login.example` is asked without TLS"],
        ),
        (
            "http://keys.example",
            "https://login.example",
            vec!["1:21: warning: `http://keys.example` is reached without TLS"],
        ),
    ] {
        let text = format!(
            "control: {{page_url: \"{page}\",\n  oidc: {{issuer: \"{issuer}\", client_id: keymeter}}}}\n\
             upstreams: [{{name: a, url: \"http://127.0.0.1:1\"}}]\nkeys: {{http: {{url: \"http://127.0.0.1:1/{{hash}}\"}}}}\n"
        );
        std::fs::write(&file, text).unwrap();
        let (code, printed) = check(&file);
        let found: Vec<_> = printed.lines().filter(|line| line.contains(": warning: ")).collect();
        assert_eq!((code, found.len()), (Some(0), warnings.len()), "{printed}");
        for (found, warning) in found.iter().zip(&warnings) {
            assert!(found.starts_with(&format!("{}:{}", file.display(), warning)), "{found}");
        }
    }
}

/// What stands in the README and in `conf/` is pasted by people who have set nothing yet.
#[test]
fn every_configuration_in_the_readme_and_in_conf_loads_with_nothing_set() {
    let check = |path: &Path| {
        let mut command = keymeter(&["check", path.to_str().unwrap()]);
        let output = command.env_clear().output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}: {}", path.display(), text(&output.stdout));
        text(&output.stdout)
    };
    let mut checked = 0;
    for entry in std::fs::read_dir(repository("conf")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with("keymeter") && path.extension().is_some_and(|kind| kind == "yaml") {
            check(&path);
            checked += 1;
        }
    }
    assert_eq!(checked, 3, "the examples in conf/");

    let folder = tempfile::tempdir().unwrap();
    let readme = std::fs::read_to_string(repository("README.md")).unwrap();
    let blocks: Vec<_> = readme.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 1, "a block of the README says its file's name in its first line");
    for block in blocks {
        let name = block.lines().next().unwrap().strip_prefix("# ").unwrap();
        std::fs::write(folder.path().join(name), block).unwrap();
    }
    // The keys file is made by the command that the README gives.
    let create = readme.lines().find(|line| line.starts_with("export KEY=$(keymeter keys create --file")).unwrap();
    let create = create.split(" #").next().unwrap().trim();
    let mut shell = Command::new("sh");
    let binary = Path::new(env!("CARGO_BIN_EXE_keymeter")).parent().unwrap().display().to_string();
    let made = shell.args(["-c", create]).current_dir(&folder).env("PATH", binary + ":/usr/bin:/bin").output().unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    let said = check(&folder.path().join("keymeter.yaml"));
    assert_eq!(said, "ok: 1 upstream (2 replicas), 1 key, 1 price\n");
}

#[test]
fn check_takes_the_example_with_a_control_plane_and_its_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let example = folder.path().join("keymeter-control.yaml");
    // As somebody has it who takes the comment signs away.
    let written = std::fs::read_to_string(repository("conf/keymeter-control.yaml")).unwrap();
    let written = written.replace("# token: ", "token: ").replace("# gateway_token: ", "gateway_token: ");
    std::fs::write(&example, written).unwrap();
    let check = |operator: &str, gateways: &str| {
        let mut command = keymeter(&["check", "--config", example.to_str().unwrap()]);
        let output = command.env("KEYMETER_CONTROL_TOKEN", operator).env("KEYS_TOKEN", gateways).output().unwrap();
        (output.status.code(), text(&output.stdout))
    };
    let [operator, gateways] = ["o", "g"].map(|letter| letter.repeat(32));
    let ok = "ok: 1 upstream (1 replica), keys of a service, 1 price\n";
    assert_eq!(check(&operator, &gateways), (Some(0), ok.to_owned()));
    assert!(check(&operator, &operator).1.contains("must differ from the operator's"));
    let short = check(&"o".repeat(31), "x1").1;
    assert!(
        short.lines().count() == 2 && short.contains(":28:10: a token of 31 characters could be guessed"),
        "{short}"
    );
    assert!(short.contains(":29:18: a token of 2 characters could be guessed: at least 32 are needed"), "{short}");
    assert!(short.contains("`openssl rand -hex 32` makes one"), "{short}");
    let loaded = keymeter_config::load(&example, &|name| Some(name.repeat(5))).unwrap();
    let control = loaded.config.control.unwrap();
    assert_eq!(control.usage_retention, Duration::from_hours(8760), "what is written is the default");
    assert_eq!((control.key_operations_per_hour, control.changes_per_hour), (15, 600));
}

#[test]
fn a_control_plane_of_several_machines_without_a_token_is_refused_with_how_to_make_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keymeter.yaml");
    let base = "upstreams: [{name: a, url: 'http://127.0.0.1:1'}]\nkeys: {yaml: {path: keys.yaml}}\n";
    std::fs::write(directory.path().join("keys.yaml"), "keys: []").unwrap();
    for (section, expected) in [
        (
            "control: {database: 'postgres://a/b'}",
            "missing field `token` in control: the operator's; `openssl rand -hex 32` makes one",
        ),
        (
            "control: {token: 0123456789abcdef0123456789abcdef, database: 'mysql://a'}",
            "`sqlite://` and the path of a file, or `postgres://…`",
        ),
        (
            "control: {token: 0123456789abcdef0123456789abcdef, tokens: b}",
            "unknown field `tokens` in control; did you mean `token`?",
        ),
    ] {
        std::fs::write(&path, format!("{base}{section}")).unwrap();
        let output = run(&["check", "--config", path.to_str().unwrap()]);
        let said = text(&output.stdout);
        assert!(output.status.code() == Some(1) && said.contains(expected), "{said}");
    }
}

#[test]
fn check_takes_the_example_with_a_key_service_and_its_token() {
    let folder = tempfile::tempdir().unwrap();
    let of_service = folder.path().join("keymeter-http.yaml");
    let written = std::fs::read_to_string(repository("conf/keymeter-http.yaml")).unwrap();
    std::fs::write(&of_service, written.replace("# token: ", "token: ")).unwrap();
    let mut command = keymeter(&["check", "--config", of_service.to_str().unwrap()]);
    let output = command.env("KEYS_TOKEN", "token").output().unwrap();
    assert_eq!(
        (output.status.code(), text(&output.stdout).as_str()),
        (Some(0), "ok: 1 upstream (1 replica), keys of a service, 0 prices\n")
    );
    let output = command.env_remove("KEYS_TOKEN").output().unwrap();
    let said = text(&output.stdout);
    assert!(output.status.code() == Some(1) && said.contains("KEYS_TOKEN"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");

    let loaded = keymeter_config::load(&of_service, &|_| Some("token".to_owned())).unwrap();
    let Source::Http(service) = loaded.config.keys.source else { panic!("its keys are not a service's") };
    assert_eq!(service.events_url.as_deref(), Some("http://127.0.0.1:9092/v1/keys/events"));
    assert_eq!(service.url_with("0"), "http://127.0.0.1:9092/v1/keys/0", "where the example of a service listens");
}

#[test]
fn every_example_is_used_and_loads() {
    let load =
        |name: &str| serde_yaml::from_str::<Value>(&std::fs::read_to_string(repository("conf").join(name)).unwrap());
    let mut names: Vec<_> =
        std::fs::read_dir(repository("conf")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let expected = [
        "deploy",
        "grafana",
        "keymeter-control.yaml",
        "keymeter-http.yaml",
        "keymeter.schema.json",
        "keymeter.yaml",
        "keys.schema.json",
        "keys.yaml",
        "prometheus",
    ];
    assert_eq!(names, expected);
    let loaded = keymeter_config::load(&repository("conf/keymeter.yaml"), &|_| None).unwrap();
    assert!(loaded.files[1].ends_with("conf/keys.yaml"), "{:?}", loaded.files);
    assert_eq!(loaded.keys, []);

    let scraped = &load("prometheus/prometheus.yml").unwrap()["scrape_configs"][0]["static_configs"][0]["targets"][0];
    assert_eq!(scraped.as_str(), Some(loaded.config.admin.listen.to_string().as_str()));
    let help = text(&run(&["demo", "--help"]).stdout);
    let port = help.lines().skip_while(|line| !line.contains("--admin-port")).find(|line| line.contains("[default:"));
    let port = port.unwrap().rsplit("[default: ").next().unwrap().trim_end_matches(']').to_owned();
    assert_eq!(scraped.as_str(), Some(format!("127.0.0.1:{port}").as_str()), "the demo is not what is scraped");
}

/// What editors and readers are given is written by the program itself: `make docs` writes it anew.
#[test]
fn schemas_and_the_reference_are_as_the_program_writes_them() {
    for (file, arguments) in [
        ("conf/keymeter.schema.json", &["schema"][..]),
        ("conf/keys.schema.json", &["schema", "--keys"]),
        ("docs/configuration.md", &["schema", "--reference"]),
    ] {
        let output = run(arguments);
        assert!(output.status.success(), "{file}: {}", text(&output.stderr));
        let kept = std::fs::read_to_string(repository(file)).unwrap();
        assert!(kept == text(&output.stdout), "{file} is of another version: run `make docs`");
    }
}

#[test]
fn every_error_has_its_row_in_the_docs_and_every_page_is_in_the_index() {
    let errors = std::fs::read_to_string(repository("docs/errors.md")).unwrap();
    let rows: Vec<_> = errors.lines().filter(|line| line.starts_with("| ")).collect();
    for code in ErrorCode::ALL {
        let code = format!("`{}`", code.as_str());
        assert!(rows.iter().any(|row| row.contains(&code)), "docs/errors.md has no row with {code}");
    }
    let index = std::fs::read_to_string(repository("docs/README.md")).unwrap();
    for page in std::fs::read_dir(repository("docs")).unwrap() {
        let page = page.unwrap().path();
        let name = page.file_name().unwrap().to_str().unwrap();
        let is_page = page.extension().is_some_and(|kind| kind == "md") && name != "README.md";
        assert!(!is_page || index.contains(&format!("]({name})")), "docs/README.md does not name {name}");
    }
    let readme = std::fs::read_to_string(repository("README.md")).unwrap();
    assert!(readme.contains("](docs/README.md)"), "README.md does not lead to the index");
}

#[test]
fn an_example_names_its_schema_on_its_first_line() {
    for (file, schema) in [
        ("keymeter.yaml", "keymeter.schema.json"),
        ("keymeter-control.yaml", "keymeter.schema.json"),
        ("keymeter-http.yaml", "keymeter.schema.json"),
        ("keys.yaml", "keys.schema.json"),
    ] {
        let written = std::fs::read_to_string(repository("conf").join(file)).unwrap();
        assert_eq!(
            written.lines().next(),
            Some(format!("# yaml-language-server: $schema={schema}").as_str()),
            "{file}"
        );
    }
}

#[test]
fn shells_and_manuals_know_every_command() {
    let help = text(&run(&["--help"]).stdout);
    let listed = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let commands: Vec<_> =
        listed.map_while(|line| line.split_whitespace().next()).filter(|name| *name != "help").collect();
    assert!(commands.len() > 10, "{help}");
    let directory = tempfile::tempdir().unwrap();
    assert!(run(&["man", "--directory", directory.path().to_str().unwrap()]).status.success());
    let offered = completed(&["keymeter", ""], directory.path(), &[]);
    for command in commands {
        assert!(directory.path().join(format!("keymeter-{command}.1")).exists(), "{command} has no manual page");
        assert!(offered.contains(&command.to_owned()), "{command} is not completed");
    }
    assert!(text(&run(&["man"]).stdout).contains(".TH keymeter 1"));
    for shell in ["zsh", "fish"] {
        let script = text(&run(&["completions", shell]).stdout);
        assert!(script.contains("KEYMETER_COMPLETE") && script.contains("keymeter"), "{shell}: {script}");
    }
}

/// What bash offers for the last word of a line, by the script that we print.
fn completed(words: &[&str], folder: &Path, environment: &[(&str, &str)]) -> Vec<String> {
    let binary = Path::new(env!("CARGO_BIN_EXE_keymeter")).parent().unwrap();
    let script = "source <(keymeter completions bash); COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); COMP_TYPE=9; \
                  _clap_complete_keymeter keymeter \"${@: -1}\" keymeter; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    bash.args(["-c", script, "bash"]).args(words).current_dir(folder).envs(environment.iter().copied());
    let path = std::env::var("PATH").unwrap();
    let output = bash.env("PATH", format!("{}:{path}", binary.display())).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn shells_complete_ids_of_a_file_and_of_a_control_plane() {
    let folder = tempfile::tempdir().unwrap();
    let keys = "keys: [{id: key_prod, name: Production, secret: \"${UNSET}\"}, {id: other, name: Other, hash: \"sha256:HASH\"}]";
    std::fs::write(folder.path().join("keys.yaml"), keys.replace("HASH", &"0".repeat(64))).unwrap();
    let file = |words: &[&str]| completed(words, folder.path(), &[]);
    assert_eq!(file(&["keymeter", "keys", "show", "--file", "keys.yaml", "key_p"]), ["key_prod"]);
    assert_eq!(file(&["keymeter", "keys", "disable", "--file=keys.yaml", "o"]), ["other"]);
    assert_eq!(file(&["keymeter", "keys", "show", "--file", "none.yaml", "k"]), [""; 0], "errors are not told here");

    let plane = Plane::sqlite().await;
    plane.user("ada").await;
    let (id, _) = plane.key(OPERATOR, json!({"name": "Some key"})).await;
    let url = plane.url("");
    let environment = [("KEYMETER_CONTROL_URL", url.as_str()), ("KEYMETER_CONTROL_TOKEN", OPERATOR)];
    let remote = |words: &[&str]| {
        let (words, folder) =
            (words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>(), folder.path().to_owned());
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        tokio::task::spawn_blocking(move || {
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            completed(&words, &folder, &environment.each_ref().map(|(name, value)| (name.as_str(), value.as_str())))
        })
    };
    assert_eq!(remote(&["keymeter", "keys", "show", "key_"]).await.unwrap(), [id]);
    assert_eq!(remote(&["keymeter", "users", "rotate-token", "a"]).await.unwrap(), ["ada"]);
    assert_eq!(remote(&["keymeter", "wallets", "show", "a"]).await.unwrap(), ["ada"]);
    assert_eq!(remote(&["keymeter", "keys", "create", "--owner", "a"]).await.unwrap(), ["ada"]);
}

#[test]
fn promtool_takes_the_scrape_configuration() {
    let verdict =
        Command::new("promtool").arg("check").arg("config").arg(repository("conf/prometheus/prometheus.yml")).output();
    if verdict.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        eprintln!("SKIPPED: promtool is not installed (Debian: apt-get install prometheus)");
        return;
    }
    let verdict = verdict.unwrap();
    assert!(verdict.status.success(), "{}{}", text(&verdict.stdout), text(&verdict.stderr));
}

#[tokio::test]
async fn check_prints_a_line_for_each_fault_of_both_files() {
    let upstream = ScriptedUpstream::start(|_| Script::hang()).await;
    let directory = tempfile::tempdir().unwrap();
    let (file, keys) = (directory.path().join("keymeter.yaml"), directory.path().join("keys.yaml"));
    let good = config(&upstream, "");
    for (configuration, of_keys, places) in [
        (good.clone(), one_key(""), vec![]),
        (good.clone(), "keys: [{id: key_test}]\n".to_owned(), vec![(&keys, "1:8"), (&keys, "1:8")]),
        (format!("{good}limit: {{}}\n"), "keys: {}\n".to_owned(), vec![(&file, "7:1"), (&keys, "1:7")]),
        (good.replace("name: scripted, ", ""), one_key(""), vec![(&file, "4:13")]),
        ("- a\n".to_owned(), one_key(""), vec![(&file, "1:1")]),
    ] {
        std::fs::write(&file, &configuration).unwrap();
        std::fs::write(&keys, &of_keys).unwrap();
        let (code, printed) = check(&file);
        if places.is_empty() {
            assert_eq!((code, printed.as_str()), (Some(0), "ok: 1 upstream (1 replica), 1 key, 0 prices\n"));
            continue;
        }
        assert_eq!((code, printed.lines().count()), (Some(1), places.len()), "{printed}");
        for (line, (file, place)) in printed.lines().zip(places) {
            let start = format!("{}:{place}: ", file.display());
            assert!(line.starts_with(&start) && line.len() > start.len() + 10, "{line} does not start with {start}");
        }
    }
    let (code, printed) = check(&directory.path().join("no-such-file.yaml"));
    assert!(code == Some(1) && printed.contains("no-such-file.yaml"), "{printed}");
}

#[test]
fn wrong_arguments_are_explained() {
    for arguments in [&[][..], &["no-such-command"], &["serve", "--no-such-option"], &["demo", "--port", "x"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains("--help") || output.stderr.starts_with(b"Meters"), "{arguments:?}");
    }
    assert!(text(&run(&["--version"]).stdout).contains(env!("CARGO_PKG_VERSION")));
}

/// A demo on free ports, and what its introduction says.
struct Demo {
    process: Process,
    key: String,
    id: String,
    api: String,
    metrics: String,
    curl: String,
    directory: TempDir,
}

impl Demo {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = keymeter(&["demo", "--port", "0", "--admin-port", "0"]);
        command.current_dir(&directory).env("HOME", directory.path()).env("TMPDIR", directory.path());
        let process = Process::start(command);
        process.stdout.line("The key may make").await;
        let said = process.stdout.all();
        let line = |start: &str| {
            let line = said.iter().map(|line| line.trim()).find(|line| line.starts_with(start));
            line.unwrap_or_else(|| panic!("no {start} in {said:#?}"))
        };
        let last_word = |start| line(start).rsplit(' ').next().unwrap().to_owned();
        let (key, id) = (last_word("API key "), last_word("its id "));
        let (api, metrics) = (last_word("API  "), last_word("metrics "));
        Self { key, id, api, metrics, curl: line("curl -N ").to_owned(), process, directory }
    }

    fn address(&self) -> SocketAddr {
        self.api.strip_prefix("http://").unwrap().strip_suffix("/v1").unwrap().parse().unwrap()
    }

    async fn get(&self, url: &str) -> String {
        let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        ask(address.parse().unwrap(), "GET", &format!("/{path}")).await.text()
    }

    async fn metric(&self, series: &str) -> u64 {
        let metrics = self.get(&self.metrics).await;
        let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    async fn tokens(&self) -> [u64; 2] {
        let id = &self.id;
        let of = |kind: &str| format!(r#"keymeter_tokens_total{{key_id="{id}",model="qwen3-*",type="{kind}"}}"#);
        [self.metric(&of("input")).await, self.metric(&of("output")).await]
    }

    async fn tokens_become(&self, tokens: [u64; 2]) {
        let start = std::time::Instant::now();
        while self.tokens().await != tokens {
            assert!(start.elapsed().as_secs() < 10, "{:?} do not become {tokens:?}", self.tokens().await);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

/// Runs the line in a shell, or sends what it says by hand where there is no curl.
async fn paste(line: &str) -> String {
    let has_curl =
        Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    if has_curl {
        let line = line.to_owned();
        let shell = move || Command::new("sh").arg("-c").arg(line).output().unwrap();
        let Output { status, stdout, stderr } = tokio::task::spawn_blocking(shell).await.unwrap();
        assert!(status.success(), "{}", text(&stderr));
        return text(&stdout);
    }
    let quoted: Vec<_> = line.split('"').collect();
    let authorization = quoted[1].strip_prefix("Authorization: ").unwrap();
    let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap();
    let body = line.split('\'').nth(1).unwrap();
    let headers = [("authorization", authorization), ("content-type", "application/json")];
    let mut client = Client::connect(address.parse().unwrap()).await;
    client.request("POST", "/v1/chat/completions", &headers, body.as_bytes()).await.text()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demos_line_to_copy_streams_and_is_counted() {
    let demo = Demo::start().await;
    assert!(demo.key.starts_with("sk-") && demo.key.len() == 51, "{}", demo.key);
    assert!(demo.api.starts_with("http://127.0.0.1:") && demo.api.ends_with("/v1"), "{}", demo.api);
    let pasted = demo.curl.clone();
    let running = tokio::spawn(async move { paste(&pasted).await });
    // It takes a second or more, all of which it is seen to run.
    while demo.metric(&format!("keymeter_requests_in_flight{{key_id=\"{}\"}}", demo.id)).await == 0 {
        assert!(!running.is_finished(), "it did not stream");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let streamed = events(running.await.unwrap().as_bytes());
    assert!(streamed.len() > 20 && streamed.last().is_some_and(|event| event == "[DONE]"), "{streamed:#?}");
    assert!(streamed.iter().all(|event| !event.contains("\"usage\":{")), "{streamed:#?}");

    // The same request again, but asking what it used.
    let asking =
        demo.curl.replace("\"stream\": true", "\"stream\": true, \"stream_options\": {\"include_usage\": true}");
    assert_ne!(asking, demo.curl);
    let streamed = events(paste(&asking).await.as_bytes());
    let stated: Value = serde_json::from_str(&streamed[streamed.len() - 2]).unwrap();
    assert_eq!(stated["choices"], json!([]));
    let stated = ["prompt_tokens", "completion_tokens"].map(|kind| stated["usage"][kind].as_u64().unwrap());
    assert!(stated[0] > 0 && stated[1] > 20, "{stated:?}");
    demo.tokens_become(stated.map(|tokens| 2 * tokens)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_logs_a_line_a_request_and_keeps_nothing() {
    let mut demo = Demo::start().await;
    let mut client = Client::connect(demo.address()).await;
    let body =
        json!({"model": "llama-3.1-8b-instruct", "max_tokens": 3, "messages": [{"role": "user", "content": "a"}]});
    let answer = client.chat(&demo.key, &body).await;
    assert_eq!((answer.status, &answer.json()["usage"]["completion_tokens"]), (200, &json!(3)));
    let models = client.request("GET", "/v1/models", &[("x-api-key", &demo.key)], b"").await.json();
    let models: Vec<_> = models["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(models, ["demo-embedding", "llama-3.1-8b-instruct", "qwen3-8b"]);

    demo.process.signal(Signal::INT);
    assert!(demo.process.ended().await.0.success());
    let said = demo.process.stderr.to_the_end().await;
    assert!(!said.iter().any(|line| line.contains("ERROR")), "{said:#?}");
    let said = demo.process.stdout.to_the_end().await;
    let lines: Vec<Value> = said.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(lines.len(), 2, "{said:#?}");
    assert_eq!((&lines[0]["key_id"], &lines[0]["output_tokens"]), (&json!(demo.id), &json!(3)));
    assert_eq!(std::fs::read_dir(&demo.directory).unwrap().count(), 0, "it left something");
    assert!(demo.process.stderr.all().iter().all(|line| !line.contains(&demo.key)));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_demos_do_not_share_a_key() {
    let (one, other) = (Demo::start().await, Demo::start().await);
    assert_ne!(one.key, other.key);
    let answer =
        Client::connect(one.address()).await.request("GET", "/v1/models", &[("x-api-key", &other.key)], b"").await;
    assert_eq!(answer.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_whose_port_is_taken_says_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for taken in ["--port", "--admin-port", "--control-port"] {
        let of = |option: &str| if option == taken { port.clone() } else { "0".to_owned() };
        let (api, admin, control) = (of("--port"), of("--admin-port"), of("--control-port"));
        let arguments = ["demo", "--port", &api, "--admin-port", &admin, "--control-port", &control];
        let mut process = Process::start(keymeter(&arguments));
        assert_eq!(process.ended().await.0.code(), Some(1));
        let said = process.stderr.to_the_end().await.concat();
        assert!(said.contains(&port) && said.contains("--port 0"), "{said}");
    }
}
