//! The `keymeter` program. What it does is in the library; this parses its arguments.

use std::process::ExitCode;

/// A fifth of a request's instructions are the allocator's: see docs/performance.md.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keymeter::cli::run()
}
