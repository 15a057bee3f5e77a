//! The errors of `keymeter import`.

use std::{io, path::PathBuf};

use keymeter_config::{
    ConfigError,
    keyfile::{EditError, FileError},
};
use thiserror::Error;

use crate::{cli::remote::RemoteError, server::plugin::lines};

/// Why the command fails. Nothing has been written then, unless it says otherwise.
#[derive(Debug, Error)]
pub enum ImportError {
    /// A file cannot be read.
    #[error("cannot read {}: {}", .0.display(), .1)]
    Unreadable(PathBuf, io::Error),
    /// A dump is no CSV with a header.
    #[error("{0}: {1}; write it by psql's `\\copy \"{2}\" to file csv header`")]
    Dump(String, String, &'static str),
    /// There is neither a dump nor a database.
    #[error("where are the keys? name a dump by --dump, or the database in the variable DATABASE_URL")]
    NoSource,
    /// There is nowhere to take keys to.
    #[error(
        "where do the keys go? name a keys file with --file, or a control plane with --control or in KEYMETER_CONTROL_URL"
    )]
    NoTarget,
    /// The control plane cannot be called. What was taken before stays; run it again for the rest.
    #[error("{0}; what was taken before stays, and the same command takes the rest")]
    Remote(#[from] RemoteError),
    /// The database cannot be read. Its URL may hold a password, and is not repeated.
    #[error("cannot read the database of DATABASE_URL: {0}")]
    Database(String),
    /// The other gateway's configuration cannot be read.
    #[error("cannot read the models of {}: {}", .0.display(), .1)]
    Models(PathBuf, String),
    /// The keys file cannot be read or replaced.
    #[error(transparent)]
    File(#[from] FileError),
    /// The keys file is faulty, and must be corrected first.
    #[error("{}", lines(.0))]
    Faulty(Vec<ConfigError>),
    /// What would be written is faulty.
    #[error("what would be written is faulty, so nothing was: {}", lines(.0))]
    WouldBreak(Vec<ConfigError>),
    /// The keys file cannot be edited.
    #[error("{}: {}", .0.display(), .1)]
    Edit(PathBuf, EditError),
    /// There is another file where the configuration was to be written.
    #[error("{} is there already and says something else; name a file that is not there", .0.display())]
    Exists(PathBuf),
    /// The configuration cannot be written. Keys have been.
    #[error("cannot write {}: {}; the keys are in their file", .0.display(), .1)]
    Unwritten(PathBuf, io::Error),
    /// The operating system gives no randomness.
    #[error("the operating system gives no randomness: {0}")]
    NoRandomness(#[from] getrandom::Error),
    /// What was done cannot be told.
    #[error("cannot use standard output: {0}")]
    Stream(#[from] io::Error),
}
