//! `keymeter keys`: creates and changes keys in a keys file, which may also be edited by hand. A new secret is printed once,
//! alone on standard output; all messages go to standard error.

mod change;
mod defaults;
mod error;
mod limits;
mod names;
mod options;
mod read;
mod remote;
mod show;

use std::{
    env,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use keymeter_config::{Environment, keyfile::Holder};
use keymeter_core::key::{KeyHash, KeyId, KeyName};

pub use self::error::KeysError;
use self::options::{Clearable, ClearableLimit, Grace, LimitOptions, Options, parse_name};
pub(super) use self::options::{quota as quota_json, time};
use super::{
    complete,
    remote::{CONTROL_URL, Output, Remote, segment},
};

/// Create, change and delete keys.
#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a key; its secret is printed once
    Create(Create),
    /// List all keys, without their hashes
    List(List),
    /// Show everything about one key
    Show(Show),
    /// Change a key's name, limits, models or other fields
    Update(Update),
    /// Enable a key
    Enable(One),
    /// Disable a key until it is enabled again
    Disable(One),
    /// Regenerate a key's secret; the new one is printed once, and the id stays
    Regenerate(Regenerate),
    /// Delete a key for good
    Delete(One),
    /// Print the hash of the secret on standard input, as keys files contain it; or that of the holder of an issuer's tokens
    Hash(Hash),
}

#[derive(Clone, Debug, Args)]
struct Source {
    /// The keys file
    #[arg(long, value_name = "FILE", conflicts_with = "control")]
    file: Option<PathBuf>,
    /// The control plane, such as <http://127.0.0.1:9091> [default: that of `KEYMETER_CONTROL_URL`]; the token comes from
    /// `KEYMETER_CONTROL_TOKEN`
    #[arg(long, value_name = "URL")]
    control: Option<String>,
    /// A PEM file of certificates to trust for the control plane instead of the system's
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    ca: Option<PathBuf>,
}

/// Where the keys of a command are.
enum Place<'source> {
    /// In a file.
    File(&'source Path),
    /// On a control plane.
    Control(String),
}

impl Source {
    /// The file or the control plane that is named, or else the control plane of the environment.
    fn place(&self, environment: &Environment<'_>) -> Result<Place<'_>, KeysError> {
        match (&self.file, &self.control) {
            (Some(file), _) => Ok(Place::File(file)),
            (None, Some(url)) => Ok(Place::Control(url.clone())),
            (None, None) => {
                let url = environment(CONTROL_URL).filter(|url| !url.is_empty());
                url.map(Place::Control).ok_or(KeysError::NoSource)
            }
        }
    }

    /// The keys file. Without a control plane there is one.
    fn file(&self) -> &Path {
        self.file.as_deref().unwrap_or(Path::new(""))
    }
}

#[derive(Debug, Args)]
struct Create {
    #[command(flatten)]
    source: Source,
    /// The key's name: 3 to 50 characters
    #[arg(long, value_parser = parse_name)]
    name: KeyName,
    /// The key's permanent, public id: 1 to 64 characters of a-z, 0-9 and _ [default: a random one]
    #[arg(long)]
    id: Option<KeyId>,
    /// The hash of a secret that was made elsewhere, or of the holder of an issuer's tokens, as `keymeter keys hash` prints it:
    /// no secret is made then
    #[arg(long, value_name = "HASH")]
    hash: Option<KeyHash>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    source: Source,
    /// The output format
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Args)]
struct Show {
    #[command(flatten)]
    key: One,
    /// The output format
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Args)]
struct Update {
    #[command(flatten)]
    key: One,
    /// The key's new name: 3 to 50 characters
    #[arg(long, value_parser = parse_name)]
    name: Option<KeyName>,
    #[command(flatten)]
    options: Options,
    /// A field to remove, so that the default applies; may be repeated
    #[arg(long, value_enum, value_name = "FIELD", value_delimiter = ',')]
    clear: Vec<Clearable>,
}

impl Update {
    /// Refuses to both set and clear a field.
    fn must_make_sense(&self) -> Result<(), KeysError> {
        let settings = self.options.clone().settings();
        let mut cleared = self.clear.iter().map(|cleared| cleared.field());
        let is_both = cleared.any(|field| settings.iter().any(|setting| field.is_set_by(setting)));
        if is_both { Err(KeysError::SetAndCleared) } else { Ok(()) }
    }
}

#[derive(Debug, Args)]
struct Regenerate {
    #[command(flatten)]
    key: One,
    /// How long the old secret continues to work, such as 24h [default: not at all]
    #[arg(long)]
    grace: Option<Grace>,
}

#[derive(Debug, Args)]
struct Hash {
    /// The issuer of tokens (JWT), as they say it in `iss`: then standard input has the value of the claim that names their
    /// holder, and the hash is that of the holder's key
    #[arg(long, value_name = "URL", value_parser = issuer)]
    jwt_issuer: Option<String>,
}

/// The name of an issuer, in which no space may be.
fn issuer(text: &str) -> Result<String, &'static str> {
    let is_plain =
        !text.is_empty() && !text.chars().any(|character| character.is_whitespace() || character.is_control());
    if is_plain { Ok(text.to_owned()) } else { Err("the issuer as its tokens say it in `iss`, without spaces") }
}

#[derive(Debug, Args)]
struct One {
    /// The key's id, or its name where no other key has it
    #[arg(value_name = "ID|NAME", add = complete::key_ids())]
    id: String,
    #[command(flatten)]
    source: Source,
}

impl One {
    fn id(&self) -> Result<KeyId, KeysError> {
        self.id.parse().map_err(|_| KeysError::NoSuchKey(self.id.clone()))
    }
}

/// The limits of a team or an owner, of all their keys together.
#[derive(Debug, Args)]
pub(super) struct SharedLimitsArgs {
    /// The team's or the owner's id
    #[arg(add = complete::holder_ids())]
    id: String,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    limits: LimitOptions,
    /// A limit to remove; may be repeated
    #[arg(long, value_enum, value_name = "LIMIT", value_delimiter = ',')]
    clear: Vec<ClearableLimit>,
}

impl SharedLimitsArgs {
    /// Refuses to do nothing, and to both set and clear a limit.
    fn must_make_sense(&self) -> Result<(), KeysError> {
        if self.limits.are_none() && self.clear.is_empty() {
            return Err(KeysError::NoLimit(self.id.clone()));
        }
        let settings = self.limits.clone().settings();
        let mut cleared = self.clear.iter().map(|cleared| cleared.field());
        let is_both = cleared.any(|field| settings.iter().any(|setting| field.is_set_by(setting)));
        if is_both { Err(KeysError::SetAndCleared) } else { Ok(()) }
    }
}

/// Sets the limits of a team or an owner: in a keys file, or on a control plane, where `list` is the call for all of them.
///
/// # Errors
/// As those of [`run`].
pub(super) fn limits_of(of: fn(String) -> Holder, list: &str, args: SharedLimitsArgs) -> Result<(), KeysError> {
    with_io(|io| set_limits(of, list, args, io))
}

fn set_limits(of: fn(String) -> Holder, list: &str, args: SharedLimitsArgs, io: &mut Io<'_>) -> Result<(), KeysError> {
    args.must_make_sense()?;
    let SharedLimitsArgs { id, source, limits, clear } = args;
    match source.place(io.environment)? {
        Place::Control(url) => {
            let remote = Remote::new(&url, source.ca.as_ref())?;
            limits::set(&remote, &format!("{list}/{}", segment(&id)), &limits, &clear)?;
        }
        Place::File(path) => change::limits(&of(id.clone()), path, limits, &clear, io)?,
    }
    Ok(writeln!(io.stderr, "updated the limits of {id}")?)
}

/// What a command reads, writes and knows of the world.
pub struct Io<'world> {
    /// Where a secret is read from.
    pub stdin: &'world mut dyn Read,
    /// For results: a new secret, a list.
    pub stdout: &'world mut dyn Write,
    /// For what has been done.
    pub stderr: &'world mut dyn Write,
    /// Looks up the variables that the file refers to.
    pub environment: &'world Environment<'world>,
    /// The time of day.
    pub now: Timestamp,
}

/// Runs the command with this process's standard streams and environment, and says on standard error what went
/// wrong; then the exit code is 1.
#[must_use]
pub fn main(args: KeysArgs) -> ExitCode {
    match with_io(|io| run(args, io)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where standard error is closed there is nobody to tell.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command with this process's standard streams and environment.
fn with_io(command: impl FnOnce(&mut Io<'_>) -> Result<(), KeysError>) -> Result<(), KeysError> {
    let mut io = Io {
        stdin: &mut io::stdin().lock(),
        stdout: &mut io::stdout().lock(),
        stderr: &mut io::stderr(),
        environment: &|name| env::var(name).ok(),
        now: Timestamp::now(),
    };
    command(&mut io)
}

/// Runs the command.
///
/// # Errors
/// When it cannot do what it is for. The keys file is as it was then, unless the fault says otherwise.
pub fn run(args: KeysArgs, io: &mut Io<'_>) -> Result<(), KeysError> {
    let mut command = args.command;
    if let Some(source) = command.source().cloned() {
        match source.place(io.environment)? {
            Place::Control(url) => return remote::run(command, &url, &source),
            Place::File(path) => {
                if let Some(key) = command.key() {
                    names::find_in_file(key, path, io)?;
                }
            }
        }
    }
    match command {
        Command::Create(create) => change::create(create, io),
        Command::List(list) => show::list(list.source.file(), list.output, io),
        Command::Show(show) => show::show(show.key.source.file(), &show.key.id()?, show.output, io),
        Command::Update(update) => change::update(update, io),
        Command::Enable(key) => change::enable(&key, true, io),
        Command::Disable(key) => change::enable(&key, false, io),
        Command::Regenerate(regenerate) => change::regenerate(&regenerate, io),
        Command::Delete(key) => change::delete(&key, io),
        Command::Hash(hash) => show::hash(hash.jwt_issuer.as_deref(), io),
    }
}

impl Command {
    /// The one key that the command is about, if it is about one that there is.
    fn key(&mut self) -> Option<&mut One> {
        match self {
            Self::Show(show) => Some(&mut show.key),
            Self::Update(update) => Some(&mut update.key),
            Self::Enable(key) | Self::Disable(key) | Self::Delete(key) => Some(key),
            Self::Regenerate(regenerate) => Some(&mut regenerate.key),
            Self::Create(_) | Self::List(_) | Self::Hash(_) => None,
        }
    }

    fn source(&self) -> Option<&Source> {
        match self {
            Self::Create(create) => Some(&create.source),
            Self::List(list) => Some(&list.source),
            Self::Show(show) => Some(&show.key.source),
            Self::Update(update) => Some(&update.key.source),
            Self::Enable(key) | Self::Disable(key) | Self::Delete(key) => Some(&key.source),
            Self::Regenerate(regenerate) => Some(&regenerate.key.source),
            Self::Hash(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
