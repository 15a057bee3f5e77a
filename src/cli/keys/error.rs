//! The errors of `keymeter keys`.

use std::{io, path::PathBuf};

use keymeter_config::{
    ConfigError,
    keyfile::{EditError, FileError},
};
use keymeter_core::key::KeyId;
use thiserror::Error;

use crate::{cli::remote::RemoteError, server::plugin::lines};

/// Why the command fails. Unless said otherwise, nothing has been changed.
#[derive(Debug, Error)]
pub enum KeysError {
    /// The file cannot be read or replaced.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file cannot be read.
    #[error("cannot read {}: {}", .0.display(), .1)]
    Unreadable(PathBuf, io::Error),
    /// There is no file.
    #[error("there is no file {path}; `keymeter keys create --file {path}` makes one", path = .0.display())]
    Missing(PathBuf),
    /// The file is invalid, and must be corrected first.
    #[error("{}", lines(.0))]
    Faulty(Vec<ConfigError>),
    /// The change would make the file invalid.
    #[error("the change would make the file invalid, so nothing was changed: {}", messages(.0))]
    WouldBreak(Vec<ConfigError>),
    /// The change cannot be made.
    #[error("{}:{}{}", .0.display(), separator(.1), .1)]
    Edit(PathBuf, EditError),
    /// The key's secret is in a variable or in the file itself, where it cannot be replaced by a hash.
    #[error(
        "{}: the secret of key `{}` is given by its field `secret`; change it where that field takes it from, or replace the \
         field by `hash` (see `keymeter keys hash`)", .0.display(), .1
    )]
    GivesSecret(PathBuf, KeyId),
    /// Neither a file nor a control plane is named.
    #[error(
        "where are the keys? name a keys file with --file, or a control plane with --control or in KEYMETER_CONTROL_URL"
    )]
    NoSource,
    /// There is no key of that id or name.
    #[error("there is no key with the id or the name `{0}`; `keymeter keys list` shows all")]
    NoSuchKey(String),
    /// Several keys have that name.
    #[error("several keys are called `{0}`; name one by its id: {1}")]
    Ambiguous(String, String),
    /// No option names a change.
    #[error("nothing to change in key `{0}`; add an option such as --name or --clear (see --help)")]
    NothingToChange(KeyId),
    /// No option names a change of a user.
    #[error("nothing to change in user `{0}`; add an option such as --name or --sign-in (see --help)")]
    NothingToChangeOfUser(String),
    /// No option names a limit.
    #[error("nothing to change in the limits of `{0}`; add an option such as --quota or --clear (see --help)")]
    NoLimit(String),
    /// A field is both set and cleared.
    #[error("a field is both set and named by --clear; leave out one of them")]
    SetAndCleared,
    /// There is nothing on standard input, or far more than a secret.
    #[error("no secret on standard input; pass it there, for example: keymeter keys hash < file-with-the-secret")]
    NoSecret,
    /// What is on standard input is no text.
    #[error("the value of the claim on standard input is not UTF-8, as each claim of a token is")]
    NoHolder,
    /// The operating system gives no randomness.
    #[error("the operating system gives no randomness: {0}")]
    NoRandomness(#[from] getrandom::Error),
    /// The result cannot be printed, or the secret not be read.
    #[error("cannot use the standard streams: {0}")]
    Stream(#[from] io::Error),
    /// The key has a new secret that could not be printed: nobody has it.
    #[error(
        "{}: key `{}` has a new secret, but it could not be printed: {}; create another by `keymeter keys regenerate`",
        .0.display(), .1, .2
    )]
    SecretLost(PathBuf, KeyId, io::Error),
    /// The call to the control plane failed.
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

/// Without the places: they are those of a text that is not written.
fn messages(errors: &[ConfigError]) -> String {
    let messages: Vec<&str> = errors.iter().map(|error| error.message.as_str()).collect();
    messages.join("; ")
}

/// What stands between a file's name and an error, which may begin with a line's number.
fn separator(error: &EditError) -> &'static str {
    if matches!(error, EditError::Syntax(_) | EditError::ByHand { .. }) { "" } else { " " }
}
