//! Starts a successor: the program that is now in this process's file.

use std::{
    ffi::OsString,
    path::PathBuf,
    process::{Child, Command},
};

use crate::server::handover::HandoverError;

/// The program that this process runs. Its path is found at the start, since an upgrade replaces the file.
pub(super) struct Program {
    file: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    pub fn current() -> std::io::Result<Self> {
        let without_upgrade = std::env::args_os().skip(1).filter(|argument| argument != UPGRADE);
        Ok(Self { file: called().map_or_else(std::env::current_exe, Ok)?, arguments: without_upgrade.collect() })
    }

    /// Starts the program that is now in that file, to take over from this process.
    pub fn start_successor(&self, is_configured: bool) {
        if !is_configured {
            tracing::warn!("{}", HandoverError::Unconfigured);
            return;
        }
        let file = self.file.display();
        match Command::new(&self.file).args(&self.arguments).arg(UPGRADE).spawn() {
            Ok(child) => {
                tracing::info!("started {file} as process {} to take over", child.id());
                std::thread::spawn(move || watch(child));
            }
            Err(error) => tracing::error!("cannot start {file} to take over: {error}"),
        }
    }
}

/// The file by the name under which it was called, even if that is a link: an upgrade may point it to another version.
fn called() -> Option<PathBuf> {
    let name = PathBuf::from(std::env::args_os().next()?);
    let candidates = if name.components().count() > 1 {
        vec![std::path::absolute(name).ok()?]
    } else {
        std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(&name)).collect()
    };
    let running = std::env::current_exe().ok()?;
    candidates.into_iter().find(|candidate| candidate.canonicalize().is_ok_and(|file| file == running))
}

const UPGRADE: &str = "--upgrade";

/// Waits for the end of a successor, which should outlive this process.
fn watch(mut child: Child) {
    match child.wait() {
        Ok(status) => tracing::warn!("process {} ended instead of taking over: {status}", child.id()),
        Err(error) => tracing::warn!("cannot watch process {}: {error}", child.id()),
    }
}
