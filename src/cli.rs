//! The commands, one in each file. An error is one line on standard error and exit code 1.

mod app;
mod check;
mod check_source;
mod complete;
mod demo;
mod describe;
mod examples;
mod import;
pub mod keys;
mod money;
mod people;
mod program;
pub mod remote;
mod serve;
mod service_manager;

use std::{fmt::Display, path::PathBuf, process::ExitCode, time::Duration};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::observe::process_log;

/// Meters and limits API keys in front of inference servers.
#[derive(Parser)]
#[command(name = "keymeter", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway.
    Serve {
        /// The configuration file.
        #[arg(long, value_name = "FILE", default_value = "conf/keymeter.yaml")]
        config: PathBuf,
        /// Take over the sockets of the running process, which ends once its open connections are closed.
        #[arg(long)]
        upgrade: bool,
    },
    /// Check the configuration and the keys as `serve` would load them; or examine a key service.
    Check {
        /// The configuration file.
        #[arg(value_name = "FILE", conflicts_with_all = ["config", "source"])]
        file: Option<PathBuf>,
        /// The same, as `serve` takes it.
        #[arg(long, value_name = "FILE", default_value = "conf/keymeter.yaml", conflicts_with = "source")]
        config: PathBuf,
        #[command(flatten)]
        source: Option<check_source::SourceArgs>,
    },
    /// Run a gateway with one new key and an upstream that answers with canned text, on loopback.
    Demo {
        /// The port for clients; 0 for any free port.
        #[arg(long, default_value_t = 8080)]
        port: u16,
        /// The port for operators; 0 for any free port.
        #[arg(long, default_value_t = 9090)]
        admin_port: u16,
        /// The port of the control plane and its page; 0 for any free port.
        #[arg(long, default_value_t = 0)]
        control_port: u16,
    },
    /// Create, list, show, update and delete keys, in a YAML file or on a control plane.
    Keys(keys::KeysArgs),
    /// Take over the keys of LiteLLM, one-api or new-api: every client goes on with the key that it has.
    Import(import::ImportArgs),
    /// Create, list and delete users, on a control plane, and set owners' limits in a keys file.
    Users(people::UsersArgs),
    /// Create, show and delete teams, and manage their members and invitations, on a control plane; set teams' limits in a keys
    /// file.
    Teams(people::TeamsArgs),
    /// Show and credit wallets, on a control plane.
    Wallets(money::WalletsArgs),
    /// Show usage, from a control plane.
    Usage(money::UsageArgs),
    /// Show the audit log of a control plane.
    Audit(money::AuditArgs),
    /// Print the JSON Schema of the configuration file, for editors.
    Schema(describe::SchemaArgs),
    /// Print the lines by which a shell completes commands, options and ids: `source <(keymeter completions bash)`.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page, or write one for each command into a directory.
    Man {
        /// The directory.
        #[arg(long, value_name = "DIRECTORY")]
        directory: Option<PathBuf>,
    },
}

/// What the process was called with. Where that is nothing that can be run, it ends with what is wrong, or with the help.
fn arguments() -> Arguments {
    let matches = examples::with_examples(Arguments::command()).get_matches();
    Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Runs the command that the process was called with.
#[must_use]
pub fn run() -> ExitCode {
    match complete::answer(Arguments::command) {
        Ok(false) => {}
        Ok(true) => return ExitCode::SUCCESS,
        Err(error) => error.exit(),
    }
    let ended = match arguments().command {
        Command::Serve { config, upgrade } => exit_code(serve::run(config, upgrade)),
        Command::Check { source: Some(service), .. } => exit_code(check_source::run(&service)),
        Command::Check { file, config, source: None } => check::run(&file.unwrap_or(config)),
        Command::Demo { port, admin_port, control_port } => {
            exit_code(demo::run::run(demo::Ports { api: port, admin: admin_port, control: control_port }))
        }
        Command::Keys(arguments) => keys::main(arguments),
        Command::Import(arguments) => import::main(arguments),
        Command::Users(arguments) => exit_code(people::users(arguments)),
        Command::Teams(arguments) => exit_code(people::teams(arguments)),
        Command::Wallets(arguments) => exit_code(money::wallets(arguments)),
        Command::Usage(arguments) => exit_code(money::usage(arguments)),
        Command::Audit(arguments) => exit_code(money::audit(arguments)),
        Command::Schema(arguments) => exit_code(describe::schema(&arguments)),
        Command::Completions { shell } => exit_code(complete::script(shell)),
        Command::Man { directory } => {
            exit_code(describe::manual(examples::with_examples(Arguments::command()), directory.as_deref()))
        }
    };
    process_log::flush(LAST_LINES);
    ended
}

/// How long the last log lines may take to be written.
const LAST_LINES: Duration = Duration::from_millis(500);

fn exit_code(result: Result<(), impl Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
