use std::{fs, path::Path};

use clap::Parser;
use keymeter_config::keys;
use keymeter_core::key::{KeyHash, KeyRecord, Secret, is_well_formed};
use tempfile::TempDir;

use super::*;

mod limits;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    keys: KeysArgs,
}

/// A directory with a keys file, and what the last command printed.
struct Desk {
    directory: TempDir,
    stdin: &'static str,
    printed: String,
    told: String,
}

const NOW: &str = "2026-11-23T12:00:00.25Z";

const FILE: &str = "# our keys
keys:
  - id: key_a # mine
    name: First key
    hash: \"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"
    team: research
    models: [\"llama-*\", qwen3]
    limits: {requests_per_minute: 60, tokens_per_minute: unlimited}
    retiring: [{hash: \"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\", not_after: 2026-11-23T12:00:00Z}]
  - {id: key_b, name: Второй ключ, secret: \"${B_KEY}\", enabled: false} # theirs
";

impl Desk {
    fn empty() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), stdin: "", printed: String::new(), told: String::new() }
    }

    fn with(text: &str) -> Self {
        let desk = Self::empty();
        fs::write(desk.path(), text).unwrap();
        desk
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("keys.yaml")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }

    fn records(&self) -> Vec<KeyRecord> {
        keys::parse(&self.text(), Path::new("keys.yaml"), false, &|_| Some("b's secret".to_owned()))
            .or_else(|_| keys::parse(&self.text(), Path::new("keys.yaml"), false, &|_| Some("b".to_owned())))
            .unwrap()
    }

    /// Runs a command on the file, given as one line, in which a `~` stands for a space in a word.
    fn run(&mut self, line: &str) -> Result<(), String> {
        let path = self.path().to_str().unwrap().to_owned();
        let words = line.split(' ').map(|word| word.replace('~', " "));
        let file = if line.starts_with("hash") { vec![] } else { vec!["--file".to_owned(), path] };
        let words = std::iter::once("keys".to_owned()).chain(words).chain(file);
        let args = Line::try_parse_from(words).map_err(|error| error.to_string())?.keys;
        let (mut stdin, mut stdout, mut stderr) = (self.stdin.as_bytes(), Vec::new(), Vec::new());
        let mut io = Io {
            stdin: &mut stdin,
            stdout: &mut stdout,
            stderr: &mut stderr,
            environment: &|_| None,
            now: NOW.parse().unwrap(),
        };
        let result = run(args, &mut io);
        (self.printed, self.told) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
        result.map_err(|error| error.to_string().replace(self.directory.path().to_str().unwrap(), "DIR"))
    }

    fn error(&mut self, line: &str) -> String {
        let before = fs::read(self.path()).ok();
        let error = self.run(line).unwrap_err();
        assert_eq!(fs::read(self.path()).ok(), before, "the file has changed");
        error
    }

    /// The one line that a command printed, a secret that is well formed.
    fn secret(&self) -> Secret {
        let secret = self.printed.strip_suffix('\n').unwrap();
        assert!(is_well_formed(secret), "{secret}");
        assert!(!self.told.contains(secret) && !self.text().contains(secret));
        Secret::new(secret)
    }
}

#[test]
fn create_makes_the_file_and_shows_the_secret_once() {
    let mut desk = Desk::empty();
    desk.run("create --name Production~API").unwrap();
    let record = desk.records().pop().unwrap();
    assert_eq!(record.hash, desk.secret().hash());
    assert_eq!(record.name.as_str(), "Production API");
    assert_eq!(desk.told, format!("created {}; this secret is shown once\n", record.id));
    let expected = format!("keys:\n  - id: {}\n    name: Production API\n    hash: \"{}\"\n", record.id, record.hash);
    assert_eq!(desk.text(), expected);
}

#[test]
fn create_writes_every_option() {
    let mut desk = Desk::with(FILE);
    let options = "--owner ada --team ${T} --model * --model qwen3 --requests-per-minute 5 --tokens-per-minute unlimited \
                   --concurrent-requests 2 --priority -5 --expires-at 2027-01-01T01:00:00+01:00";
    desk.run(&format!("create --name yes --id key_new {options}")).unwrap();
    let hash = desk.secret().hash();
    let item = format!(
        "  - id: key_new\n    name: \"yes\"\n    hash: \"{hash}\"\n    owner: ada\n    team: \"$${{T}}\"\n    \
         models: [\"*\", qwen3]\n    limits: {{requests_per_minute: 5, tokens_per_minute: unlimited, \
         concurrent_requests: 2}}\n    priority: -5\n    expires_at: 2027-01-01T00:00:00Z\n"
    );
    assert_eq!(desk.text(), format!("{FILE}{item}"));
    assert_eq!(desk.records()[2].team.as_deref(), Some("${T}"));
}

#[test]
fn arguments_are_held_to_their_form() {
    let mut desk = Desk::with(FILE);
    assert!(desk.error("create --name ab").contains("a name is 3 to 50 characters"));
    assert!(desk.error(&format!("create --name {}", "a".repeat(51))).contains("this one has 51"));
    assert!(desk.error("create --name abc --id Key").contains("an id is 1 to 64 characters"));
    assert!(desk.error("create --name abc --owner ").contains("1 to 64 characters"));
    assert!(desk.error("create --name abc --requests-per-minute 0").contains("invalid value '0'"));
    for priority in ["-101", "101", "1.5", "high"] {
        let error = desk.error(&format!("create --name abc --priority {priority}"));
        assert!(error.contains("a priority is a whole number from -100 to 100"), "{error}");
    }
    assert!(desk.error("create --name abc --expires-at tomorrow").contains("RFC 3339"));
    assert!(desk.error("regenerate key_a --grace 1w").contains("such as 24h"));
    assert!(desk.error("regenerate key_a --grace 366d").contains("365d at most"));
    assert!(desk.error("create").contains("--name <NAME>"));
}

#[test]
fn what_cannot_be_done_is_said_and_changes_nothing() {
    let mut desk = Desk::with(FILE);
    let unknown = "DIR/keys.yaml: no key has the id `key_c`; `keymeter keys list` shows all ids";
    for command in ["show", "enable", "delete", "regenerate", "regenerate --grace 1h", "update --team x"] {
        assert_eq!(desk.error(&format!("{command} key_c")), unknown);
    }
    let taken = "DIR/keys.yaml: a key has the id `key_a` already; each needs one of its own";
    assert_eq!(desk.error("create --name abc --id key_a"), taken);
    let given = desk.error("regenerate key_b");
    assert!(given.starts_with("DIR/keys.yaml: the secret of key `key_b` is given by its field `secret`; "), "{given}");
    assert!(desk.error("update key_a").starts_with("nothing to change in key `key_a`; add an option such as --name"));
    assert!(desk.error("update key_a --team x --clear team").starts_with("a field is both set and named by --clear"));
    let missing = Desk::empty().error("list");
    assert_eq!(missing, "there is no file DIR/keys.yaml; `keymeter keys create --file DIR/keys.yaml` makes one");
    assert_eq!(Desk::empty().error("delete key_a"), missing);
}

#[test]
fn a_faulty_file_is_not_changed_but_named_with_its_places() {
    let mut desk = Desk::with("keys:\n- id: key_a\n  nam: First\n  name: First\n  secret: abc\n");
    let error = desk.error("create --name abc");
    assert!(error.starts_with("DIR/keys.yaml:3:3: ") && error.contains("nam"), "{error}");
    assert!(desk.error("list").starts_with("DIR/keys.yaml:3:3: "));
    assert!(Desk::with("keys: [").error("list").starts_with("DIR/keys.yaml:2:1: "));
    assert!(Desk::with("keys: [").error("delete a").starts_with("DIR/keys.yaml:2:1: "));
    desk.run("delete key_a").unwrap();
    assert_eq!(desk.text(), "keys: []\n", "the fault is gone with the key");
}

#[test]
fn update_sets_and_clears() {
    let mut desk = Desk::with(FILE);
    desk.run("update key_a --name 1.0 --model * --clear limits --clear team --concurrent-requests 7").unwrap();
    assert_eq!((desk.printed.as_str(), desk.told.as_str()), ("", "updated key_a\n"));
    let expected = FILE
        .replace("First key", "\"1.0\"")
        .replace("    team: research\n", "")
        .replace("[\"llama-*\", qwen3]", "[\"*\"]")
        .replace("limits: {requests_per_minute: 60, tokens_per_minute: unlimited}", "limits: {concurrent_requests: 7}");
    assert_eq!(desk.text(), expected);
    desk.run("update key_b --clear models,expires_at").unwrap();
    assert_eq!(desk.text(), expected, "what is not there need not be cleared");
}

#[test]
fn a_priority_is_set_shown_where_it_is_not_0_and_cleared() {
    let mut desk = Desk::with(FILE);
    let list = |desk: &mut Desk| {
        desk.run("list").unwrap();
        desk.printed.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let (before, titles) = (list(&mut desk), "CONCURRENT  PRIORITY  EXPIRES");
    desk.run("show key_a").unwrap();
    assert!(!before[0].contains("PRIORITY") && !desk.printed.contains("priority"), "{before:?} {}", desk.printed);
    desk.run("update key_a --priority -5").unwrap();
    assert!(desk.text().contains("tokens_per_minute: unlimited}\n    priority: -5\n    retiring"), "{}", desk.text());
    assert_eq!(desk.records()[0].priority.number(), -5);
    let after = list(&mut desk);
    assert!(after[0].ends_with(titles) && after[1].ends_with("default     -5        -"), "{after:?}");
    assert!(after[2].ends_with("default     0         -"), "{after:?}");
    desk.run("show key_a").unwrap();
    assert!(desk.printed.contains("\npriority             -5\nexpires_at"), "{}", desk.printed);
    for (id, priority) in [("key_a", -5), ("key_b", 0)] {
        desk.run(&format!("show {id} --output json")).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&desk.printed).unwrap()["priority"], priority);
    }
    assert!(desk.error("update key_a --priority 5 --clear priority").starts_with("a field is both set and named"));
    desk.run("update key_a --clear priority").unwrap();
    assert_eq!((desk.text().as_str(), list(&mut desk)), (FILE, before));
}

#[test]
fn keys_are_disabled_enabled_and_deleted() {
    let mut desk = Desk::with(FILE);
    desk.run("disable key_a").unwrap();
    assert_eq!(desk.told, "disabled key_a\n");
    assert!(desk.text().contains("    enabled: false\n    team: research"));
    desk.run("enable key_b").unwrap();
    assert!(desk.text().contains("secret: \"${B_KEY}\", enabled: true} # theirs"));
    desk.run("delete key_a").unwrap();
    assert_eq!(
        desk.text(),
        format!("# our keys\nkeys:\n{}", FILE.lines().last().unwrap().replace("false", "true") + "\n")
    );
}

#[test]
fn a_new_secret_ends_the_old_one_at_once_or_after_the_grace() {
    let mut desk = Desk::with(FILE);
    let old = desk.records()[0].hash;
    desk.run("regenerate key_a --grace 24h").unwrap();
    let (first, record) = (desk.secret().hash(), desk.records().remove(0));
    assert_eq!(desk.told, "regenerated key_a; this secret is shown once\n");
    assert_eq!((record.hash, record.retiring.len()), (first, 1), "the one that had ended is gone");
    assert_eq!(
        (record.retiring[0].hash, record.retiring[0].not_after.to_string()),
        (old, "2026-11-24T12:00:01Z".into())
    );
    desk.run("regenerate key_a").unwrap();
    let (second, record) = (desk.secret().hash(), desk.records().remove(0));
    assert_eq!((record.hash, record.retiring.len()), (second, 1));
    assert!(record.retiring[0].hash == old && !desk.text().contains(&first.to_string()));
}

#[test]
fn the_list_shows_no_hash() {
    let mut desk = Desk::with(FILE);
    desk.run("list").unwrap();
    let expected = "\
ID     NAME         STATE     OWNER  TEAM      MODELS         REQUESTS/MIN  TOKENS/MIN  CONCURRENT  EXPIRES
key_a  First key    active    -      research  llama-*,qwen3  60            unlimited   default     -
key_b  Второй ключ  disabled  -      -         all            default       default     default     -
";
    assert_eq!(desk.printed, expected);
    desk.run("list --output json").unwrap();
    assert!(!desk.printed.contains("sha256"));
    let list: serde_json::Value = serde_json::from_str(&desk.printed).unwrap();
    assert_eq!(list[0]["limits"]["requests_per_minute"], 60);
    assert_eq!(list[0]["limits"]["tokens_per_minute"], "unlimited");
    assert!(list[0]["limits"]["concurrent_requests"].is_null() && list[1]["models"].is_null());
    assert_eq!((&list[1]["name"], &list[1]["state"]), (&"Второй ключ".into(), &"disabled".into()));
}

#[test]
fn what_steers_a_terminal_is_not_shown_to_it() {
    let mut desk = Desk::with("keys: [{id: a, name: abc, secret: x, models: [\"a\\u202e2J\"]}]");
    desk.run("list").unwrap();
    assert!(desk.printed.contains("2J") && !desk.printed.contains('\u{202e}'), "{}", desk.printed);
    let mut desk = Desk::with("keys: [{id: a, name: abc, secret: x, models: [\"a\\e[2J\"]}]");
    assert!(desk.run("list").is_err_and(|error| error.contains("no control characters")));
}

#[test]
fn everything_of_one_key_is_shown() {
    let mut desk = Desk::with(FILE);
    desk.run("update key_a --expires-at 2026-11-23T12:00:00Z").unwrap();
    desk.run("show key_a").unwrap();
    assert!(desk.printed.contains("state                expired\n"), "{}", desk.printed);
    assert!(desk.printed.contains(&format!("hash                 {}\n", KeyHash::digest(b""))));
    assert!(
        desk.printed
            .contains(&format!("retiring             {} until 2026-11-23T12:00:00Z\n", KeyHash::digest(b"abc")))
    );
    desk.run("show key_a --output json").unwrap();
    let key: serde_json::Value = serde_json::from_str(&desk.printed).unwrap();
    assert_eq!(key["hash"], KeyHash::digest(b"").to_string());
    assert_eq!(key["retiring"][0]["hash"], KeyHash::digest(b"abc").to_string());
}

#[test]
fn a_hash_that_is_not_known_here_is_not_made_up() {
    let mut desk = Desk::with(FILE);
    desk.run("show key_b").unwrap();
    assert!(desk.printed.contains("hash                 of a secret whose variable is not set here\n"));
    desk.run("show key_b --output json").unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(&desk.printed).unwrap()["hash"].is_null());
}

#[test]
fn hash_reads_the_secret_from_standard_input() {
    let mut desk = Desk::empty();
    for stdin in ["abc", "abc\n", "abc\r\n"] {
        desk.stdin = stdin;
        desk.run("hash").unwrap();
        assert_eq!(
            (desk.printed.as_str(), desk.told.as_str()),
            (format!("{}\n", KeyHash::digest(b"abc")).as_str(), "")
        );
    }
    for stdin in ["", "\n"] {
        desk.stdin = stdin;
        assert!(desk.run("hash").unwrap_err().starts_with("no secret on standard input; "));
    }
}

#[test]
fn hash_of_a_tokens_holder_is_of_the_issuer_and_the_claim() {
    let mut desk = Desk::empty();
    desk.stdin = "ada lovelace\n";
    desk.run("hash --jwt-issuer https://login.example").unwrap();
    let expected = KeyHash::digest(b"jwt https://login.example ada lovelace");
    assert_eq!((desk.printed.as_str(), desk.told.as_str()), (format!("{expected}\n").as_str(), ""));
    for issuer in ["a~b", ""] {
        let refused = desk.run(&format!("hash --jwt-issuer={issuer}")).unwrap_err();
        assert!(refused.contains("without spaces") || refused.contains("value is required"), "{refused}");
    }
}

#[test]
fn a_secret_that_could_not_be_printed_is_not_passed_over() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let desk = Desk::with(FILE);
    let path = desk.path();
    let words = ["keys", "regenerate", "key_a", "--file", path.to_str().unwrap()];
    let args = Line::try_parse_from(words).unwrap().keys;
    let (stdin, stderr) = (&mut io::empty(), &mut io::sink());
    let mut io = Io { stdin, stdout: &mut Closed, stderr, environment: &|_| None, now: NOW.parse().unwrap() };
    let error = run(args, &mut io).unwrap_err();
    assert!(matches!(&error, KeysError::SecretLost(_, id, _) if id.as_str() == "key_a"));
    assert!(error.to_string().ends_with("create another by `keymeter keys regenerate`"), "{error}");
}
