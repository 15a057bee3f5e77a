//! Everything that the tests make keymeter write, for a search for secrets afterwards (tests/secrets.py). With
//! `KEYMETER_CANARY` naming a directory, gateways and programs log at `trace`, through the program's own filters, into it.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::PathBuf,
    process::Command,
    sync::{Mutex, Once},
};

use keymeter::observe::levels;
use tracing_subscriber::{filter::filter_fn, prelude::*};

/// Where what is written goes, if anybody wants to know.
fn directory() -> Option<PathBuf> {
    std::env::var_os("KEYMETER_CANARY").map(PathBuf::from)
}

/// Lets this process log as the program does at `trace`.
pub fn watch() {
    static ONCE: Once = Once::new();
    let Some(file) = file("log") else { return };
    ONCE.call_once(|| {
        let trace = tracing_subscriber::EnvFilter::new("trace");
        let lines = tracing_subscriber::fmt::layer().with_writer(Mutex::new(file)).with_ansi(false);
        let subscriber = tracing_subscriber::registry().with(trace).with(filter_fn(levels::is_discreet)).with(lines);
        subscriber.try_init().expect("a test's process has no other log");
        levels::forbid_heads();
    });
}

/// Lets a program log at `trace`.
pub fn turn_up(command: &mut Command) {
    if directory().is_some() {
        command.env("RUST_LOG", "trace");
    }
}

/// Keeps `bytes`, of which `kind` says what they are.
pub fn keep(kind: &str, bytes: &[u8]) {
    if let Some(mut file) = file(kind) {
        file.write_all(bytes).expect("there is room");
    }
}

fn file(kind: &str) -> Option<File> {
    let directory = directory()?;
    std::fs::create_dir_all(&directory).expect("the directory can be made");
    // Each test has a process of its own.
    let path = directory.join(format!("{}.{kind}", std::process::id()));
    Some(OpenOptions::new().create(true).append(true).open(path).expect("the file can be written"))
}
