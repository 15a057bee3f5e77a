//! The files that a configuration names, relative to the file that names them.

use std::path::{Path, PathBuf};

use super::{
    read,
    report::{ConfigError, Place},
};

/// Where `name`, written in `file`, is.
pub(super) fn beside(file: &Path, name: &str) -> PathBuf {
    file.parent().map_or_else(|| PathBuf::from(name), |directory| directory.join(name))
}

/// A file in PEM form (RFC 7468) that holds a `label`; reports at the place one that is not there or holds none.
pub(super) fn pem(place: &Place<'_>, file: &Path, name: &str, label: &str) -> Option<PathBuf> {
    let path = beside(file, name);
    let content = std::fs::read(&path);
    let content = content.map_err(|error| place.error(format!("cannot read {}: {error}", path.display()))).ok()?;
    let text = String::from_utf8_lossy(&content);
    let found = text.lines().any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(label));
    if !found {
        place.error(format!("{} holds no `-----BEGIN … {label}` (PEM)", path.display()));
    }
    found.then_some(path)
}

/// The text of the configuration file itself.
pub(super) fn configuration(file: &Path) -> Result<String, Vec<ConfigError>> {
    read::text_of(file).map_err(|why| {
        let message = format!("cannot read the configuration: {why}; write it, or name another with `--config`");
        vec![ConfigError::of_file(file, message)]
    })
}
