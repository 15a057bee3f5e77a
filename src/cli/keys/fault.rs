//! Why `keymeter keys` did not do what it was asked to.

use std::{
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
};

use keymeter_config::{
    ConfigError,
    keyfile::{EditError, FileError},
};
use keymeter_core::key::KeyId;

use crate::cli::remote::RemoteError;

/// Why the command fails. Unless said otherwise, nothing has been changed.
#[derive(Debug)]
pub enum KeysError {
    /// The file cannot be read or replaced.
    File(FileError),
    /// The file cannot be read.
    Unreadable(PathBuf, io::Error),
    /// There is no file.
    Missing(PathBuf),
    /// The file has faults, which are to be mended first.
    Faulty(Vec<ConfigError>),
    /// The change would give the file faults.
    WouldBreak(Vec<ConfigError>),
    /// The change cannot be made.
    Edit(PathBuf, EditError),
    /// The key's secret is in a variable or in the file itself, where it cannot be replaced by a hash.
    GivesSecret(PathBuf, KeyId),
    /// No option says what is to be changed.
    NothingToChange(KeyId),
    /// One field is to be set and taken away.
    SetAndCleared,
    /// There is nothing on standard input, or far more than a secret.
    NoSecret,
    /// The operating system gives no randomness.
    NoRandomness(getrandom::Error),
    /// The result cannot be printed, or the secret not be read.
    Stream(io::Error),
    /// The key has a new secret that could not be printed: nobody has it.
    SecretLost(PathBuf, KeyId, io::Error),
    /// The control plane did not do it.
    Remote(RemoteError),
}

impl fmt::Display for KeysError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(fault) => fault.fmt(formatter),
            Self::Unreadable(path, error) => write!(formatter, "cannot read {}: {error}", path.display()),
            Self::Missing(path) => {
                let path = path.display();
                write!(formatter, "there is no file {path}; `keymeter keys create --file {path}` makes one")
            }
            Self::Faulty(faults) => lines(formatter, faults),
            Self::WouldBreak(faults) => would_break(formatter, faults),
            Self::Edit(path, fault) => edit(formatter, path, fault),
            Self::GivesSecret(path, id) => write!(
                formatter,
                "{}: the secret of key `{id}` is given by its field `secret`; change it where that takes it from, \
                 or replace the field by `hash` (see `keymeter keys hash`)",
                path.display()
            ),
            Self::NothingToChange(id) => {
                write!(formatter, "nothing to change of key `{id}`; say what, such as --name or --clear (see --help)")
            }
            Self::SetAndCleared => {
                formatter.write_str("a field is both set and named by --clear; leave one of them out")
            }
            Self::NoSecret => formatter.write_str(
                "no secret on standard input; pass it there, such as by: keymeter keys hash < file-with-the-secret",
            ),
            Self::NoRandomness(error) => write!(formatter, "the operating system gives no randomness: {error}"),
            Self::Stream(error) => write!(formatter, "cannot use the standard streams: {error}"),
            Self::Remote(fault) => fault.fmt(formatter),
            Self::SecretLost(path, id, error) => write!(
                formatter,
                "{}: key `{id}` has a new secret, but it could not be printed: {error}; \
                 make another by `keymeter keys regenerate`",
                path.display()
            ),
        }
    }
}

fn lines(formatter: &mut fmt::Formatter<'_>, faults: &[ConfigError]) -> fmt::Result {
    let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    formatter.write_str(&lines.join("\n"))
}

/// Without the places: they are those of a text that is not written.
fn would_break(formatter: &mut fmt::Formatter<'_>, faults: &[ConfigError]) -> fmt::Result {
    let messages: Vec<&str> = faults.iter().map(|fault| fault.message.as_str()).collect();
    write!(formatter, "the file would no longer be right, so it was not changed: {}", messages.join("; "))
}

fn edit(formatter: &mut fmt::Formatter<'_>, path: &Path, fault: &EditError) -> fmt::Result {
    let blank = if matches!(fault, EditError::Syntax(_) | EditError::ByHand { .. }) { "" } else { " " };
    write!(formatter, "{}:{blank}{fault}", path.display())
}

impl Error for KeysError {}

impl From<RemoteError> for KeysError {
    fn from(fault: RemoteError) -> Self {
        Self::Remote(fault)
    }
}

impl From<FileError> for KeysError {
    fn from(fault: FileError) -> Self {
        Self::File(fault)
    }
}

impl From<getrandom::Error> for KeysError {
    fn from(error: getrandom::Error) -> Self {
        Self::NoRandomness(error)
    }
}

impl From<io::Error> for KeysError {
    fn from(error: io::Error) -> Self {
        Self::Stream(error)
    }
}
