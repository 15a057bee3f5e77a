//! The program that a process runs, and its successor.

use std::{
    ffi::OsString,
    path::PathBuf,
    process::{Child, Command},
};

use crate::server::handover::HandoverError;

/// The program that this process runs, found at the start: later its file may be another, which is the point.
pub(super) struct Program {
    file: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    pub fn of_this_process() -> std::io::Result<Self> {
        let without_upgrade = std::env::args_os().skip(1).filter(|argument| argument != UPGRADE);
        Ok(Self { file: called().map_or_else(std::env::current_exe, Ok)?, arguments: without_upgrade.collect() })
    }

    /// Starts the program that is now in that file, to take over from this process.
    pub fn start_anew(&self, is_foreseen: bool) {
        if !is_foreseen {
            tracing::warn!("{}", HandoverError::Unconfigured);
            return;
        }
        let file = self.file.display();
        match Command::new(&self.file).args(&self.arguments).arg(UPGRADE).spawn() {
            Ok(child) => {
                tracing::info!("starting {file} anew, process {}, to take over", child.id());
                std::thread::spawn(move || watch(child));
            }
            Err(fault) => tracing::error!("cannot start {file} anew: {fault}"),
        }
    }
}

/// The file by the name under which it was called, be that a link: tomorrow it may lead to another version.
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

/// Waits for the end of a process that was to outlive this one.
fn watch(mut child: Child) {
    match child.wait() {
        Ok(status) => tracing::warn!("process {}, which was to take over, has ended: {status}", child.id()),
        Err(fault) => tracing::warn!("process {} cannot be watched: {fault}", child.id()),
    }
}
