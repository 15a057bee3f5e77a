//! The `keymeter` program. What it does is in the library; this parses its arguments.

use std::process::ExitCode;

fn main() -> ExitCode {
    keymeter::cli::run()
}
