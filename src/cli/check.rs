//! `keymeter check`: loads what `serve` would and prints a line for each fault.

use std::{path::Path, process::ExitCode};

use crate::config;

pub(super) fn run(path: &Path) -> ExitCode {
    match config::load(path, &config::environment) {
        Ok(_) => {
            println!("ok");
            ExitCode::SUCCESS
        }
        Err(faults) => {
            for fault in faults {
                println!("{fault}");
            }
            ExitCode::FAILURE
        }
    }
}
