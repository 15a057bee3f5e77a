//! The records to be sent: this process's own and, in turn with them, those of processes that have ended.

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
    /// Whose records come next.
    next: Owner,
}

/// Whose records a batch contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// This process's.
    Own,
    /// Those of a process that has ended.
    Ended,
}

/// The most records that are sent together.
pub(super) const MOST: usize = 500;

impl Backlog {
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        let own = ledger.outbox.reader();
        Self { ledger, own, orphans: Vec::new(), next: Owner::Ended }
    }

    /// Takes over the records of processes that have ended. It may read a lot.
    pub(super) async fn adopt(&mut self) {
        let ledger = self.ledger.clone();
        match tokio::task::spawn_blocking(move || ledger.outbox.adopt()).await {
            Ok(Ok(orphans)) => {
                for orphan in orphans {
                    let count = orphan.count();
                    if count > 0 {
                        tracing::info!("sending {count} records of a gateway that has ended");
                    }
                    self.ledger.adopted.fetch_add(count, Ordering::Relaxed);
                    self.orphans.push(orphan);
                }
            }
            Ok(Err(error)) => tracing::warn!("cannot look for records of gateways that have ended: {error}"),
            // The runtime is stopping.
            Err(_) => {}
        }
    }

    /// The next records; `None` if there are none for now.
    pub(super) fn next(&mut self) -> io::Result<Option<(Owner, Batch)>> {
        for _ in 0..2 {
            let owner = self.next;
            let batch = match owner {
                Owner::Own => self.own.next(MOST)?,
                Owner::Ended => self.next_of_orphan()?,
            };
            self.next = if owner == Owner::Own { Owner::Ended } else { Owner::Own };
            if !batch.payloads.is_empty() {
                return Ok(Some((owner, batch)));
            }
        }
        Ok(None)
    }

    /// Further records of this process, to be sent with those that are not yet acknowledged.
    pub(super) fn more(&mut self) -> io::Result<Batch> {
        self.own.next(MOST)
    }

    /// Whether there may be more records of processes that have ended.
    pub(super) fn has_orphans(&self) -> bool {
        !self.orphans.is_empty()
    }

    /// Marks records as taken: they are no longer kept.
    pub(super) fn acknowledge(&mut self, owner: Owner, batch: &Batch) -> io::Result<()> {
        match (owner, self.orphans.last_mut()) {
            (Owner::Ended, Some(orphan)) => {
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

/// When the first record of a batch was made.
pub(super) fn oldest(batch: &Batch) -> Option<Timestamp> {
    batch.payloads.first().and_then(|json| Record::parse(json).ok()).map(|record| record.time)
}
