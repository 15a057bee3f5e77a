//! The files of an SQLite database. Only their owner can read them, as they hold usage and the secret that signs
//! sessions.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions, Permissions},
    io::ErrorKind,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::StoreError;

/// What SQLite keeps beside a database. It gives these the mode of the database when it makes them.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Makes the file and its folder where they are missing, takes the files of an earlier version from everybody else, and
/// gives the URL by which SQLite is to open it.
pub(super) fn prepared(path: &Path) -> Result<String, StoreError> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(|error| StoreError::Folder(folder.to_owned(), error))?;
    }
    let text = path.to_str().ok_or_else(|| StoreError::Path(path.to_owned()))?;
    make(path).map_err(|error| StoreError::File(path.to_owned(), error))?;
    for file in std::iter::once(path.to_owned()).chain(BESIDE.map(|ending| beside(path, ending))) {
        keep_from_others(&file).map_err(|error| StoreError::File(file, error))?;
    }
    let escaped = text.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    Ok(format!("sqlite://{escaped}?mode=rwc"))
}

/// An empty file is a database without tables.
fn make(path: &Path) -> std::io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

/// An operator who gave the file to another user on purpose is told and obeyed.
fn keep_from_others(path: &Path) -> std::io::Result<()> {
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mode = found.permissions().mode() & 0o7777;
    if !found.is_file() || mode & !0o600 == 0 {
        return Ok(());
    }
    match fs::set_permissions(path, Permissions::from_mode(mode & 0o600)) {
        // Another process has the database open, and has just taken the file away.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            tracing::warn!("others may read {} of `control.database`, and it is not ours to change", path.display());
            Ok(())
        }
        other => other,
    }
}
