//! What is to be sent: this process's own records and, in turn with them, those of processes that are gone.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use jiff::Timestamp;
use keymeter_core::record::Record;

use super::{
    Ledger,
    outbox::{Batch, Orphan, Reader},
};

pub(super) struct Backlog {
    ledger: Arc<Ledger>,
    own: Reader,
    orphans: Vec<Orphan>,
    /// Whose turn it is.
    next: Owner,
}

/// Whose records a batch has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Own,
    Gone,
}

/// The most records that are sent together.
pub(super) const MOST: usize = 500;

impl Backlog {
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        let own = ledger.spool.reader();
        Self { ledger, own, orphans: Vec::new(), next: Owner::Gone }
    }

    /// Takes over what processes left that are gone. It may read a lot.
    pub(super) async fn adopt(&mut self) {
        let ledger = self.ledger.clone();
        match tokio::task::spawn_blocking(move || ledger.spool.adopt()).await {
            Ok(Ok(orphans)) => {
                for orphan in orphans {
                    let count = orphan.count();
                    if count > 0 {
                        tracing::info!("{count} records of a gateway that is gone are sent on");
                    }
                    self.ledger.adopted.fetch_add(count, Ordering::Relaxed);
                    self.orphans.push(orphan);
                }
            }
            Ok(Err(error)) => tracing::warn!("cannot look for records of gateways that are gone: {error}"),
            // The runtime is stopping.
            Err(_) => {}
        }
    }

    /// The next records; `None`: there are none for now.
    pub(super) fn next(&mut self) -> io::Result<Option<(Owner, Batch)>> {
        for _ in 0..2 {
            let owner = self.next;
            let batch = match owner {
                Owner::Own => self.own.next(MOST)?,
                Owner::Gone => self.next_of_orphan()?,
            };
            self.next = if owner == Owner::Own { Owner::Gone } else { Owner::Own };
            if !batch.payloads.is_empty() {
                return Ok(Some((owner, batch)));
            }
        }
        Ok(None)
    }

    /// The next records of this process, to go with those that were given before and are not acknowledged.
    pub(super) fn more(&mut self) -> io::Result<Batch> {
        self.own.next(MOST)
    }

    /// Whether there may be more of processes that are gone.
    pub(super) fn has_orphans(&self) -> bool {
        !self.orphans.is_empty()
    }

    /// These records need not be kept.
    pub(super) fn acknowledge(&mut self, owner: Owner, batch: &Batch) -> io::Result<()> {
        match (owner, self.orphans.last_mut()) {
            (Owner::Gone, Some(orphan)) => {
                let count = u64::try_from(batch.payloads.len()).unwrap_or(u64::MAX);
                self.ledger.adopted.fetch_sub(count, Ordering::Relaxed);
                orphan.acknowledge(batch)
            }
            _ => self.own.acknowledge(batch),
        }
    }

    fn next_of_orphan(&mut self) -> io::Result<Batch> {
        while let Some(orphan) = self.orphans.last_mut() {
            let batch = orphan.next(MOST)?;
            if !batch.payloads.is_empty() {
                return Ok(batch);
            }
            if let Some(orphan) = self.orphans.pop() {
                orphan.close();
            }
        }
        Ok(Batch::default())
    }
}

/// When the first of these records was made.
pub(super) fn oldest(batch: &Batch) -> Option<Timestamp> {
    batch.payloads.first().and_then(|json| Record::parse(json).ok()).map(|record| record.time)
}
