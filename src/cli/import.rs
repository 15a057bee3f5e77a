//! `keymeter import`: takes over the keys of another gateway, so that every client goes on with the key that it has. Each row
//! is told with what became of it; keys that are here already stay as they are, so that it can be run again.

mod amounts;
mod control;
mod database;
mod error;
mod litellm;
mod model_list;
mod names;
mod one_api;
mod plan;
mod table;
mod write;

use std::{
    env,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use jiff::Timestamp;

pub use self::error::ImportError;
use self::plan::{Plan, Row};
use super::remote::{CONTROL_URL, Remote};

/// Take over keys from another gateway.
#[derive(Debug, Args)]
pub struct ImportArgs {
    #[command(subcommand)]
    from: From,
}

#[derive(Debug, Subcommand)]
enum From {
    /// Keys and teams of LiteLLM's database, and the models of its configuration
    Litellm(LiteLlm),
    /// Tokens of one-api, or of new-api
    OneApi(OneApi),
}

#[derive(Debug, Args)]
struct LiteLlm {
    /// The table `LiteLLM_VerificationToken`, as psql's `\copy … csv header` writes it [default: the database of `DATABASE_URL`]
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    /// The table `LiteLLM_TeamTable`, likewise
    #[arg(long, value_name = "FILE", requires = "dump")]
    teams: Option<PathBuf>,
    /// The table `LiteLLM_BudgetTable`, likewise
    #[arg(long, value_name = "FILE", requires = "dump")]
    budgets: Option<PathBuf>,
    /// LiteLLM's configuration, whose models become upstreams
    #[arg(long, value_name = "FILE", requires = "write")]
    config: Option<PathBuf>,
    /// Where the upstreams are written: a new file, as a configuration has them
    #[arg(long, value_name = "FILE", requires = "config")]
    write: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
struct OneApi {
    /// The table tokens, as psql's `\copy … csv header` writes it [default: the database of `DATABASE_URL`]
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    /// The table users, likewise
    #[arg(long, value_name = "FILE", requires = "dump")]
    users: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

/// Where keys go.
#[derive(Debug, Args)]
struct Target {
    /// The keys file; it is made where there is none
    #[arg(long, value_name = "FILE", conflicts_with = "control")]
    file: Option<PathBuf>,
    /// The control plane, such as <http://127.0.0.1:9091> [default: that of `KEYMETER_CONTROL_URL`]; the operator's token comes
    /// from `KEYMETER_CONTROL_TOKEN`
    #[arg(long, value_name = "URL")]
    control: Option<String>,
    /// A PEM file of certificates to trust for the control plane instead of the system's
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    ca: Option<PathBuf>,
    /// Tell what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Where keys go.
enum Place<'target> {
    File(&'target Path),
    Control(String),
}

impl Target {
    /// The file or the control plane that is named, or else the control plane of the environment.
    fn place(&self) -> Result<Place<'_>, ImportError> {
        if let Some(path) = &self.file {
            return Ok(Place::File(path));
        }
        let of_environment = || env::var(CONTROL_URL).ok().filter(|url| !url.is_empty());
        self.control.clone().or_else(of_environment).map(Place::Control).ok_or(ImportError::NoTarget)
    }
}

/// Runs the command, and says on standard error what went wrong; then the exit code is 1.
#[must_use]
pub fn main(args: ImportArgs) -> ExitCode {
    let mut told = io::stdout().lock();
    match run(args, Timestamp::now(), &mut told) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where standard error is closed there is nobody to tell.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: ImportArgs, now: Timestamp, told: &mut dyn Write) -> Result<(), ImportError> {
    match args.from {
        From::Litellm(args) => {
            let tables = litellm::Tables::read(args.dump.as_deref(), args.teams.as_deref(), args.budgets.as_deref())?;
            let models = args.config.zip(args.write).map(|(config, file)| (model_list::read(&config), file));
            // Whatever cannot be read is told before anything is written.
            let models = models.map(|(models, file)| models.map(|models| (models, file))).transpose()?;
            finish(litellm::plan(&tables, now), &args.target, told)?;
            if let Some((models, file)) = models {
                write::configuration(&models, &file, args.target.dry_run, told)?;
            }
            Ok(())
        }
        From::OneApi(args) => {
            let tables = one_api::Tables::read(args.dump.as_deref(), args.users.as_deref())?;
            finish(one_api::plan(&tables), &args.target, told)
        }
    }
}

/// Writes what is not there yet, and tells each row.
fn finish(plan: Plan, target: &Target, told: &mut dyn Write) -> Result<(), ImportError> {
    let rows = match target.place()? {
        Place::File(path) => write::keys(plan, path, target.dry_run)?,
        Place::Control(url) => control::keys(plan, &Remote::new(&url, target.ca.as_ref())?, target.dry_run)?,
    };
    for row in &rows {
        writeln!(told, "{row}")?;
    }
    let count = |outcome: &str| rows.iter().filter(|row| row.is_of_key && row.outcome() == outcome).count();
    let done = if target.dry_run { "would be taken" } else { "taken" };
    writeln!(
        told,
        "keys {done}: {}; here already: {}; not taken: {}",
        count(Row::TAKEN),
        count(Row::HERE),
        count(Row::NOT_TAKEN)
    )?;
    Ok(told.flush()?)
}

#[cfg(test)]
mod tests;
