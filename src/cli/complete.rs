//! What a shell offers at the tabulator: commands, options, and the ids of keys, users and teams. `keymeter completions` prints
//! the lines that make a shell ask; it asks by calling `keymeter` with [`VARIABLE`] set and the line that is being written.

use std::{
    env,
    ffi::OsStr,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Command, ValueEnum as _};
use clap_complete::{
    CompleteEnv, Shell,
    engine::{ArgValueCompleter, CompletionCandidate},
    env::Shells,
};
use serde_json::Value;

use super::remote::{CONTROL_URL, Remote};

/// Says which shell asks. No other program sets it, so that no command of ours is taken for a question.
const VARIABLE: &str = "KEYMETER_COMPLETE";

/// Somebody waits for the answer with a line half written.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers a shell's question, if this process was called for one.
///
/// # Errors
/// When the shell is unknown, or does not listen.
pub(super) fn answer(command: fn() -> Command) -> Result<bool, clap::Error> {
    let directory = env::current_dir().ok();
    CompleteEnv::with_factory(command).var(VARIABLE).try_complete(env::args_os(), directory.as_deref())
}

/// Prints the lines that make a shell ask.
///
/// # Errors
/// When standard output cannot be written.
pub(super) fn script(shell: Shell) -> io::Result<()> {
    let name = shell.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let shells = Shells::builtins();
    let completer = shells.completer(&name).ok_or_else(|| io::Error::other(format!("{name} is not supported")))?;
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, "keymeter", "keymeter", "keymeter", &mut script)?;
    match io::stdout().write_all(&script) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Offers the ids of keys.
pub(super) fn key_ids() -> ArgValueCompleter {
    offers(|line| match &line.file {
        Some(file) => in_file(file),
        None => line.listed("/api/v1/keys", "id"),
    })
}

/// Offers the ids of users.
pub(super) fn user_ids() -> ArgValueCompleter {
    offers(|line| line.listed("/api/v1/users", "id"))
}

/// Offers the ids of teams.
pub(super) fn team_ids() -> ArgValueCompleter {
    offers(|line| line.listed("/api/v1/teams", "id"))
}

/// Offers the ids of those who have a wallet.
pub(super) fn wallet_owners() -> ArgValueCompleter {
    offers(|line| line.listed("/api/v1/wallets", "owner"))
}

/// Offers the ids of teams or of users, for what either may have.
pub(super) fn holder_ids() -> ArgValueCompleter {
    offers(|line| {
        let path = if line.words.iter().any(|word| word == "teams") { "/api/v1/teams" } else { "/api/v1/users" };
        line.listed(path, "id")
    })
}

/// An id, and the name of what has it.
pub(super) type Offer = (String, String);

fn offers(known: fn(&Line) -> Vec<Offer>) -> ArgValueCompleter {
    ArgValueCompleter::new(move |current: &OsStr| {
        let current = current.to_string_lossy();
        let fitting = known(&Line::read()).into_iter().filter(|(id, _)| id.starts_with(&*current));
        let offer = |(id, name): Offer| {
            let help = (!name.is_empty()).then(|| name.into());
            CompletionCandidate::new(id).help(help)
        };
        fitting.map(offer).collect::<Vec<_>>()
    })
}

/// The line that is being written.
struct Line {
    words: Vec<String>,
    file: Option<PathBuf>,
}

impl Line {
    /// The shell gives it behind `--`.
    fn read() -> Self {
        let words: Vec<_> = env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
        let words: Vec<_> = words.into_iter().skip_while(|word| word != "--").skip(1).collect();
        let file = option(&words, "--file").map(PathBuf::from);
        Self { words, file }
    }

    /// What a list of the control plane has, if it can be asked. A shell has no place for errors.
    fn listed(&self, path: &str, id: &str) -> Vec<Offer> {
        let url = option(&self.words, "--control").or_else(|| env::var(CONTROL_URL).ok()).filter(|url| !url.is_empty());
        let ca = option(&self.words, "--ca").map(PathBuf::from);
        let rows = url.and_then(|url| Remote::with_timeout(&url, ca.as_ref(), PATIENCE).ok()?.list(path).ok());
        let text = |row: &Value, name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        rows.unwrap_or_default().iter().map(|row| (text(row, id), text(row, "name"))).collect()
    }
}

/// The keys of a file, whose variables may stand for anything here. A shell has no place for errors.
fn in_file(file: &Path) -> Vec<Offer> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let any = |name: &str| env::var(name).ok().or_else(|| Some(format!("unset-{name}")));
    let records = keymeter_config::keys::parse(&text, file, false, &any).unwrap_or_default();
    records.iter().map(|record| (record.id.to_string(), record.name.as_str().to_owned())).collect()
}

/// The value of an option in a line, as `--name value` or `--name=value`.
fn option(words: &[String], name: &str) -> Option<String> {
    let joined = words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let apart = words.iter().zip(words.iter().skip(1)).find(|(word, _)| *word == name).map(|(_, value)| value.as_str());
    joined.or(apart).filter(|value| !value.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_in_both_forms() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (line, expected) in [
            ("keymeter keys show --file keys.yaml key", Some("keys.yaml")),
            ("keymeter keys show --file=keys.yaml key", Some("keys.yaml")),
            ("keymeter keys show --files keys.yaml", None),
            ("keymeter keys show --file", None),
            ("keymeter keys show --file ", None),
        ] {
            assert_eq!(option(&words(line), "--file").as_deref(), expected, "{line}");
        }
    }
}
