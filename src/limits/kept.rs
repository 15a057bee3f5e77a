//! The store of quotas as the gateway uses it: it is opened when the first quota is met, so that whoever has none needs no
//! directory, or at the start, where there is something in it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use keymeter_core::clock::{MonotonicTime, Now};
use parking_lot::Mutex;

use super::store::{QuotaStore, StoreError};

/// Where quotas are kept.
pub struct KeptQuotas {
    /// `None`: nowhere.
    directory: Option<PathBuf>,
    /// Whether a server counts too, and may lose what it counts.
    is_shared: bool,
    store: OnceLock<Arc<QuotaStore>>,
    /// When it could not be opened.
    failed: Mutex<Option<MonotonicTime>>,
}

/// How long until a store that could not be opened is tried again.
const PAUSE: Duration = Duration::from_secs(1);

impl KeptQuotas {
    /// In `directory`, which is not touched yet; beside a server that counts too, if they `are_shared`.
    #[must_use]
    pub fn new(directory: PathBuf, are_shared: bool) -> Self {
        Self { directory: Some(directory), is_shared: are_shared, ..Self::nowhere() }
    }

    /// In memory only, by a process that keeps nothing.
    #[must_use]
    pub fn nowhere() -> Self {
        Self { directory: None, is_shared: false, store: OnceLock::new(), failed: Mutex::default() }
    }

    /// Opens the store if its directory is there, or is `needed`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_at_start(&self, needed: bool, now: Now) -> Result<(), StoreError> {
        if let Some(directory) = self.directory.as_ref().filter(|directory| needed || directory.exists()) {
            let store = self.open(directory, now)?;
            let _ = self.store.set(Arc::new(store));
        }
        Ok(())
    }

    /// Whether a request with quotas may run now: what it comes to can be kept, or need not be.
    #[must_use]
    pub fn takes_requests(&self, now: Now) -> bool {
        let Some(directory) = &self.directory else { return true };
        let store = self.store.get().or_else(|| self.try_open(directory, now));
        store.is_some_and(|store| store.has_room())
    }

    /// The store, if it is open.
    #[must_use]
    pub fn opened(&self) -> Option<&Arc<QuotaStore>> {
        self.store.get()
    }

    fn open(&self, directory: &Path, now: Now) -> Result<QuotaStore, StoreError> {
        if self.is_shared {
            QuotaStore::open_beside_server(directory, now.date)
        } else {
            QuotaStore::open(directory, now.date)
        }
    }

    fn try_open(&self, directory: &Path, now: Now) -> Option<&Arc<QuotaStore>> {
        // Another opens it, which takes milliseconds, unless a third process holds its lock: then nobody else waits for that.
        let Some(mut failed) = self.failed.try_lock_for(PAUSE) else { return self.store.get() };
        if self.store.get().is_none() && failed.is_none_or(|failed| now.moment.saturating_since(failed) >= PAUSE) {
            match self.open(directory, now) {
                Ok(store) => drop(self.store.set(Arc::new(store))),
                Err(error) => {
                    tracing::error!("{error}; requests of whoever has a quota are refused");
                    *failed = Some(now.moment);
                }
            }
        }
        self.store.get()
    }
}
