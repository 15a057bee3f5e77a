//! The `keymeter` program. What it does is in the library; this parses its arguments.

use std::process::ExitCode;

/// Less of the processor's time with many keys, and more memory: see docs/performance.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keymeter::cli::run()
}
