//! `keymeter check`: loads what `serve` would and prints a line for each fault.

use std::{path::Path, process::ExitCode};

use keymeter_config::{self as config};

use crate::server;

pub(super) fn run(path: &Path) -> ExitCode {
    match config::load(path, &config::environment) {
        Ok(loaded) => match server::rehearse(&loaded.config) {
            Ok(()) => {
                println!("ok");
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
