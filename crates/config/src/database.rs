//! The location of the control plane's database. The URL of a server may hold a password, so it is never printed.

use std::{fmt, path::PathBuf, sync::Arc};

/// Where the data is.
#[derive(Clone, PartialEq, Eq)]
pub enum Database {
    /// In this file.
    Sqlite(PathBuf),
    /// On this server: a URL, which may hold a password.
    Postgres(Arc<str>),
}

impl fmt::Debug for Database {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Sqlite(_) => "Database::Sqlite",
            Self::Postgres(_) => "Database::Postgres",
        })
    }
}
