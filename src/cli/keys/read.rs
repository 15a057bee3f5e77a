//! The keys of a file, for a command that runs where the variables that hold secrets may not be set.

use std::path::Path;

use keymeter_config::{ConfigError, Environment, keys};
use keymeter_core::key::KeyRecord;

/// The keys that a file's text gives.
pub(super) struct Known {
    /// In the order of the file.
    pub(super) records: Vec<KeyRecord>,
    /// Whether every variable that the file refers to is set. If not, the hash of a key that gives its `secret` says
    /// nothing.
    pub(super) complete: bool,
}

/// Reads and checks the text. Variables that are not set may stand for anything: the one who manages keys need not
/// have the secrets that the gateway is given.
pub(super) fn known(text: &str, path: &Path, environment: &Environment<'_>) -> Result<Known, Vec<ConfigError>> {
    let parse = |environment: &Environment<'_>| keys::parse(text, path, false, environment);
    let faults = match parse(environment) {
        Ok(records) => return Ok(Known { records, complete: true }),
        Err(faults) => faults,
    };
    // Unlike ones for unlike variables: two keys must not have one secret.
    let lenient =
        |name: &str| environment(name).filter(|set| !set.is_empty()).or_else(|| Some(format!("unset-{name}")));
    parse(&lenient).map(|records| Known { records, complete: false }).map_err(|_| faults)
}
