//! Notices that a file of the configuration changed. Directories are watched and not files,
//! because editors and Kubernetes put a new file in the old one's place.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use thiserror::Error;
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::timeout,
};

use super::Reloader;

/// Reloads when a file changes, as long as it is awaited.
pub struct Watcher {
    reloader: Arc<Reloader>,
    notifier: RecommendedWatcher,
    changes: UnboundedReceiver<()>,
    watched: BTreeSet<PathBuf>,
}

/// A file that is being written is read when nothing has happened for this long.
const QUIET: Duration = Duration::from_millis(50);
/// Where something happens all the time, it is read after this long.
const LONGEST: Duration = Duration::from_millis(500);

/// Why files cannot be watched.
#[derive(Debug, Error)]
#[error("cannot watch the configuration's directories: {0}; reload with SIGHUP or POST /-/reload")]
pub struct WatchError(notify::Error);

impl Watcher {
    /// Begins to watch the files of `reloader`.
    ///
    /// # Errors
    /// When the operating system does not let us watch.
    pub fn new(reloader: Arc<Reloader>) -> Result<Self, WatchError> {
        let (sender, changes) = unbounded_channel();
        let notifier = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file is no change of it. Nobody to tell: nobody is watching any more.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                let _ = sender.send(());
            }
        });
        let notifier = notifier.map_err(WatchError)?;
        let mut watcher = Self { reloader, notifier, changes, watched: BTreeSet::new() };
        watcher.watch_directories().map_err(WatchError)?;
        Ok(watcher)
    }

    /// Reloads on every change since the files were last read, for ever.
    pub async fn run(mut self) {
        loop {
            self.catch_up().await;
            if self.changes.recv().await.is_none() {
                return;
            }
            // In a directory that is never quiet, a change must be found all the same.
            let quiet = async { while let Ok(Some(())) = timeout(QUIET, self.changes.recv()).await {} };
            let _ = timeout(LONGEST, quiet).await;
        }
    }

    /// Reloads until nothing has changed. It watches before it looks, because a file that is newly
    /// named may have changed before its directory was watched.
    async fn catch_up(&mut self) {
        loop {
            if let Err(error) = self.watch_directories() {
                tracing::warn!("{}", WatchError(error));
            }
            let reloader = self.reloader.clone();
            // A reload that was faulty has said so itself.
            let reload = tokio::task::spawn_blocking(move || reloader.reload_if_changed().is_some());
            if !reload.await.unwrap_or(false) {
                return;
            }
        }
    }

    /// Watches the directory of each file, and of the file that it links to. A directory that is gone
    /// by now was replaced, and that is seen where its link stands.
    fn watch_directories(&mut self) -> notify::Result<()> {
        let files = self.reloader.files();
        let targets = files.iter().filter_map(|file| file.canonicalize().ok());
        let wanted: BTreeSet<_> = files.iter().cloned().chain(targets).map(|file| directory(&file)).collect();
        self.watched.retain(|directory| {
            let stays = wanted.contains(directory);
            if !stays {
                // A directory that is gone is no longer watched anyway.
                let _ = self.notifier.unwatch(directory);
            }
            stays
        });
        for new in wanted {
            if self.watched.contains(&new) {
                continue;
            }
            match self.notifier.watch(&new, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.watched.insert(new)),
                Err(error) if matches!(error.kind, ErrorKind::PathNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn directory(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
