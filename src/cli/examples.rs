//! An example for each command, at the end of its `--help`. A test parses every one of them.

use clap::Command;

/// A command's words, and a line to copy.
const EXAMPLES: &[(&str, &str)] = &[
    ("serve", "keymeter serve --config keymeter.yaml"),
    ("check", "keymeter check keymeter.yaml"),
    ("demo", "keymeter demo --port 8080 --control-port 9091"),
    ("keys create", "keymeter keys create --file keys.yaml --name \"Production API\" --quota usd=100/month"),
    ("keys list", "keymeter keys list --file keys.yaml"),
    ("keys show", "keymeter keys show --file keys.yaml \"Production API\""),
    (
        "keys update",
        "keymeter keys update --file keys.yaml key_prod --requests-per-minute 600 --model-limit \"gpt-4o*:usd=5/day\"",
    ),
    ("keys enable", "keymeter keys enable --file keys.yaml key_prod"),
    ("keys disable", "keymeter keys disable --control http://127.0.0.1:9091 key_prod"),
    ("keys regenerate", "keymeter keys regenerate --file keys.yaml key_prod --grace 24h"),
    ("keys delete", "keymeter keys delete --file keys.yaml key_prod"),
    ("keys hash", "keymeter keys hash < secret"),
    ("import litellm", "keymeter import litellm --dump keys.csv --teams teams.csv --file keys.yaml --dry-run"),
    ("import one-api", "keymeter import one-api --dump tokens.csv --file keys.yaml --dry-run"),
    ("users create", "keymeter users create ada --name \"Ada L.\" --control http://127.0.0.1:9091"),
    ("users update", "keymeter users update ada --sign-in ada@example.com --control http://127.0.0.1:9091"),
    ("users list", "keymeter users list --control http://127.0.0.1:9091"),
    ("users limits", "keymeter users limits ada --concurrent-requests 20 --control http://127.0.0.1:9091"),
    ("users rotate-token", "keymeter users rotate-token ada --control http://127.0.0.1:9091"),
    ("users delete", "keymeter users delete ada --control http://127.0.0.1:9091"),
    ("teams list", "keymeter teams list --control http://127.0.0.1:9091"),
    ("teams create", "keymeter teams create research --name Research --owner ada --control http://127.0.0.1:9091"),
    ("teams limits", "keymeter teams limits research --quota usd=500/month --file keys.yaml"),
    ("teams show", "keymeter teams show research --control http://127.0.0.1:9091"),
    ("teams add", "keymeter teams add research bob --role admin --control http://127.0.0.1:9091"),
    ("teams remove", "keymeter teams remove research bob --control http://127.0.0.1:9091"),
    ("teams invitations", "keymeter teams invitations --team research --control http://127.0.0.1:9091"),
    ("teams accept", "keymeter teams accept research --control http://127.0.0.1:9091"),
    ("teams decline", "keymeter teams decline research --control http://127.0.0.1:9091"),
    ("teams delete", "keymeter teams delete research --refund-to ada --control http://127.0.0.1:9091"),
    ("wallets list", "keymeter wallets list --control http://127.0.0.1:9091"),
    ("wallets show", "keymeter wallets show ada --control http://127.0.0.1:9091"),
    ("wallets credit", "keymeter wallets credit ada 25.00 --idempotency-key order-1 --control http://127.0.0.1:9091"),
    ("usage", "keymeter usage --by key,day --from 2026-11-01 --control http://127.0.0.1:9091"),
    ("audit", "keymeter audit --control http://127.0.0.1:9091"),
    ("schema", "keymeter schema > keymeter.schema.json"),
    ("completions", "keymeter completions bash"),
    ("man", "keymeter man --directory man1"),
];

/// The command with its examples.
pub(super) fn with_examples(command: Command) -> Command {
    EXAMPLES.iter().fold(command, |command, (words, example)| {
        let words: Vec<_> = words.split(' ').collect();
        with_example(command, &words, example)
    })
}

fn with_example(command: Command, words: &[&str], example: &str) -> Command {
    match words.split_first() {
        Some((word, rest)) if command.find_subcommand(word).is_some() => {
            command.mut_subcommand(word, |command| with_example(command, rest, example))
        }
        // A word that is no command's is found by the test.
        Some(_) => command,
        None => command.after_help(format!("Example:\n  {example}")),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, path::Path};

    use clap::{CommandFactory as _, error::ErrorKind};

    use super::*;
    use crate::cli::Arguments;

    fn leaves(command: &Command, before: &str, found: &mut Vec<String>) {
        for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
            let words = format!("{before}{}", command.get_name());
            if command.has_subcommands() {
                leaves(command, &format!("{words} "), found);
            } else {
                found.push(words);
            }
        }
    }

    /// The words of a line as a shell gives them, without what it does with standard streams itself.
    fn words(line: &str) -> Vec<String> {
        let line = line.split(['<', '>']).next().unwrap();
        let parts = line.split('"').enumerate().flat_map(|(index, part)| match index % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect::<Vec<_>>(),
            _ => vec![part.to_owned()],
        });
        parts.collect()
    }

    /// The commands of ours in the blocks of a page, each in one line, with something in place of what a reader fills in.
    fn commands_of(page: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let mut is_of_a_shell = false;
        for line in page.lines().map(str::trim) {
            match line.strip_prefix("```") {
                Some(kind) => is_of_a_shell = matches!(kind, "sh" | "console"),
                None if is_of_a_shell => lines.push(line),
                None => {}
            }
        }
        let joined = lines.join("\n").replace("\\\n", " ");
        let parts = joined.lines().flat_map(|line| {
            let line = line.split(" #").next().unwrap_or_default();
            let line = line.strip_prefix("$ ").unwrap_or(line);
            line.split(['|', '&', ';', '(', ')', '`'])
        });
        let ours = parts.filter_map(|part| {
            let words: Vec<_> = part.split_whitespace().collect();
            let is_before = |word: &&str| *word == "sudo" || word.contains('=') || *word == "exec";
            let first = words.iter().position(|word| !is_before(word))?;
            let name = words.get(first)?;
            let is_ours = *name == "keymeter" || name.ends_with("/keymeter");
            is_ours.then(|| format!("keymeter {}", words[first + 1..].join(" ")))
        });
        let hash = format!("sha256:{:0>64}", "");
        let filled_in = |line: String| {
            let line = line.replace("sha256:…", &hash).replace("$hash", &hash);
            line.replace("key_…", "key_a").replace('\'', "\"")
        };
        ours.map(filled_in).collect()
    }

    #[test]
    fn every_command_in_the_pages_is_taken() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let pages = ["docs", ".", "conf/deploy"].into_iter().flat_map(|folder| {
            let entries = std::fs::read_dir(root.join(folder)).unwrap();
            entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|kind| kind == "md"))
        });
        let mut taken = 0;
        for page in pages {
            for line in commands_of(&std::fs::read_to_string(&page).unwrap()) {
                let arguments = Arguments::command().try_get_matches_from(words(&line));
                let refused = arguments.err().filter(|error| error.kind() != ErrorKind::DisplayVersion);
                assert!(refused.is_none(), "{}: {line}: {}", page.display(), refused.unwrap());
                taken += 1;
            }
        }
        assert!(taken >= 40, "only {taken} commands were found");
    }

    #[test]
    fn every_command_has_an_example_that_it_takes() {
        let mut commands = Vec::new();
        leaves(&Arguments::command(), "", &mut commands);
        let named: HashSet<_> = EXAMPLES.iter().map(|(words, _)| (*words).to_owned()).collect();
        assert_eq!(commands.into_iter().collect::<HashSet<_>>(), named);
        for (command, example) in EXAMPLES {
            assert!(example.starts_with(&format!("keymeter {command}")), "{example}");
            let taken = with_examples(Arguments::command()).try_get_matches_from(words(example));
            assert!(taken.is_ok(), "{example}: {}", taken.unwrap_err());
        }
        let mut keys = with_examples(Arguments::command());
        let help = keys.find_subcommand_mut("usage").unwrap().render_help().to_string();
        assert!(help.contains("Example:\n  keymeter usage --by key,day"), "{help}");
    }
}
