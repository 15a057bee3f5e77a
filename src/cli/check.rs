//! `keymeter check`: loads what `serve` would, and prints a line for each fault, or for each surprise and what was read.

use std::{path::Path, process::ExitCode};

use keymeter_config::{self as config, Loaded, Source};

use crate::server;

pub(super) fn run(path: &Path) -> ExitCode {
    match config::load(path, &config::environment) {
        Ok(loaded) => match server::rehearse(&loaded.config) {
            Ok(()) => {
                for warning in config::warnings(&loaded) {
                    let config::ConfigError { file, line, column, message } = warning;
                    println!("{}:{line}:{column}: warning: {message}", file.display());
                }
                println!("ok: {}", contents(&loaded));
                ExitCode::SUCCESS
            }
            Err(error) => {
                println!("{}: {error}", path.display());
                ExitCode::FAILURE
            }
        },
        Err(faults) => {
            for error in faults {
                println!("{error}");
            }
            ExitCode::FAILURE
        }
    }
}

/// What was read, in numbers: `2 upstreams (3 replicas), 4 keys, 2 prices`.
fn contents(Loaded { config, keys, .. }: &Loaded) -> String {
    let replicas: usize = config.upstreams.iter().map(|upstream| upstream.replicas.len()).sum();
    let upstreams = counted(config.upstreams.len(), "upstream");
    let keys = match &config.keys.source {
        Source::Yaml { .. } => counted(keys.len(), "key"),
        Source::Http(_) => "keys of a service".to_owned(),
    };
    let prices = config.models.iter().filter(|model| !model.price.is_absent()).count();
    format!("{upstreams} ({}), {keys}, {}", counted(replicas, "replica"), counted(prices, "price"))
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
