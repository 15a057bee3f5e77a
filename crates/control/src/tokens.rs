//! The operator's token and the gateways', where the configuration names none: they are made at the first start and kept
//! beside the database, readable by its owner alone. The control plane reads them when it starts.

use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use keymeter_config::{Control, Credential, Database};
use keymeter_core::key::Secret;
use thiserror::Error;

/// What the operator's token stands in, beside the database.
pub const OPERATOR_FILE: &str = "operator.token";
const GATEWAYS_FILE: &str = "gateways.token";

/// Who may call.
pub(crate) struct Tokens {
    /// The operator's.
    pub operator: Credential,
    /// The gateways'; `None`: no gateway may.
    pub gateways: Option<Credential>,
}

impl Tokens {
    /// Those of `settings`. What is not named there is read from its file, which is made where it is missing. Over PostgreSQL,
    /// which several machines share, there are no files.
    pub fn new(settings: &Control) -> Result<Self, TokenError> {
        let folder = match &settings.database {
            Database::Sqlite(path) => path.parent(),
            Database::Postgres(_) => None,
        };
        let kept = |file: &str| folder.map(|folder| kept(&folder.join(file))).transpose();
        let operator = match &settings.token {
            Some(token) => token.clone(),
            None => kept(OPERATOR_FILE)?.ok_or(TokenError::Missing)?,
        };
        let gateways = match &settings.gateway_token {
            Some(token) => Some(token.clone()),
            None => kept(GATEWAYS_FILE)?,
        };
        Ok(Self { operator, gateways })
    }
}

/// Why a token cannot be had.
#[derive(Debug, Error)]
pub enum TokenError {
    /// Its file cannot be made or read.
    #[error("cannot make or read the token in {}: {error}; let the process write there, or name tokens in `control`", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Its file holds none.
    #[error("{} holds no token of {LEAST} characters or more; delete it, and another one is made", .0.display())]
    Short(PathBuf),
    /// There is neither a token nor a folder for one.
    #[error("`control.token` is missing; `openssl rand -hex 32` makes one")]
    Missing,
}

/// Characters of a token, as in the configuration.
const LEAST: usize = 32;

/// The token in a file, which is made if it is not there.
fn kept(path: &Path) -> Result<Credential, TokenError> {
    let error = |error| TokenError::File { path: path.to_owned(), error };
    let text = match fs::read_to_string(path) {
        Err(missing) if missing.kind() == ErrorKind::NotFound => {
            make(path).map_err(error)?;
            fs::read_to_string(path)
        }
        read => read,
    };
    let text = text.map_err(error)?;
    let token = text.trim();
    if token.chars().count() < LEAST {
        return Err(TokenError::Short(path.to_owned()));
    }
    Ok(Credential(Secret::new(token)))
}

/// Writes a new token. Of two processes that do, the first one's stays, and nobody sees half of one.
fn make(path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let (mut token, mut name) = ([0; 32], [0; 8]);
    getrandom::fill(&mut token).and_then(|()| getrandom::fill(&mut name)).map_err(std::io::Error::other)?;
    let written = path.with_extension(format!("token.{}", hex::encode(name)));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&written)?;
    let done = writeln!(file, "{}", hex::encode(token)).and_then(|()| file.sync_all());
    let linked = done.and_then(|()| match fs::hard_link(&written, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    fs::remove_file(&written)?;
    linked
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_is_made_once_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data").join(OPERATOR_FILE);
        let made: Vec<_> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..8).map(|_| scope.spawn(|| kept(&path).unwrap())).collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        let again = kept(&path).unwrap();
        assert!(made.iter().all(|token| *token == again), "each has the same");
        assert_eq!(again.0.reveal().len(), 64);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_file_without_a_token_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(GATEWAYS_FILE);
        fs::write(&path, "short\n").unwrap();
        let error = kept(&path).unwrap_err().to_string();
        assert!(error.contains("gateways.token holds no token of 32 characters or more; delete it"), "{error}");
        let below_a_file = kept(&path.join("x")).unwrap_err().to_string();
        assert!(below_a_file.starts_with("cannot make or read the token in "), "{below_a_file}");
    }
}
