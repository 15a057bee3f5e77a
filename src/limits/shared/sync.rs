//! Keeps the server up to date: connects, renews the permits of running requests, sends settlements, and finds out when a
//! lost server is available again. Permits are renewed apart from settlements, so that neither waits for the other.

use std::{collections::HashSet, convert::Infallible, sync::Arc, time::Duration};

use futures_util::future::try_join_all;
use keymeter_core::{
    clock::{MonotonicTime, Now},
    limit::Limit,
};
use tokio::time::Instant;

use super::{
    Failed, SharedLimits,
    health::{BETWEEN_TRIALS, TRIALS},
    link::{LinkError, ServerConnection},
    permits::RunningRequests,
    quota_lease::QuotaLease,
    recovery::EPOCH,
    script::number,
    settlements::{Ending, Settlement, SettlementBatch},
    subject::{GATEWAYS, Subject},
};
use crate::drain::drain;

/// How often expired leases are looked for.
const TICK: Duration = Duration::from_millis(100);
/// The ticks after which subjects that are no longer used are forgotten.
const FORGET: u32 = 100;

/// How long settlements are collected before they are sent.
const LINGER: Duration = Duration::from_millis(1);
/// The pauses between two attempts to reach a lost server.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// The most permits, and settlements, of one call.
const PERMITS_PER_CALL: usize = 500;
const SETTLEMENTS_PER_CALL: usize = 200;
/// The most calls at once.
const AT_ONCE: usize = 64;

impl SharedLimits {
    /// Keeps the server up to date for as long as the process runs.
    pub async fn run(&self) {
        let (mut pause, mut is_first) = (PAUSES.0, true);
        loop {
            match self.reconnect(is_first).await {
                Ok(()) => {
                    pause = PAUSES.0;
                    let why = self.synchronize().await;
                    self.mark_unavailable(Failed::Renewing, &why);
                }
                Err(error) if is_first => self.report_unavailable(Failed::Connecting, &error),
                Err(error) => {
                    tracing::debug!("the shared-limits server {} is still unavailable: {error}", self.terms.url);
                }
            }
            is_first = false;
            self.health.set_known();
            self.link.disconnect();
            self.settlements.mark_all_lost();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Returns leases, and waits until all settlements are sent, for `limit` at most. For a process that is about to end.
    pub async fn flush(&self, limit: Duration) {
        self.return_leases(|_| true, MonotonicTime::now());
        // What is not sent by then leaves the minute by itself.
        drain(limit, || !self.health.is_reachable() || self.settlements.is_empty()).await;
    }

    /// Connects and brings the server up to date, and trusts it if it answers in time.
    async fn reconnect(&self, is_first: bool) -> Result<(), LinkError> {
        let mut connection = self.link.connect_if_needed().await?;
        if is_first {
            self.warn_of_evictions(&mut connection).await;
        }
        self.renew(&mut connection, MonotonicTime::now()).await?;
        self.send_settlements(&mut connection).await?;
        let trials = if is_first { 1 } else { TRIALS };
        for trial in 0..trials {
            if trial > 0 {
                tokio::time::sleep(BETWEEN_TRIALS).await;
            }
            let mut patience = self.link.patience(self.terms.timeout);
            let counted = patience.wait_for(self.count_gateways(&mut connection, MonotonicTime::now())).await;
            counted.filter(|_| is_first || patience.is_in_time()).ok_or(LinkError::Slow(self.terms.timeout))??;
        }
        // More requests may have ended during the trials.
        self.renew(&mut connection, MonotonicTime::now()).await?;
        self.health.mark_reachable();
        self.series.reachable(true);
        let others = self.health.gateways_seen().saturating_sub(1);
        tracing::info!("limits are shared with {others} other gateways");
        Ok(())
    }

    /// Keeps the server up to date until it is unavailable, and returns why.
    async fn synchronize(&self) -> LinkError {
        let Some(connection) = self.link.current() else { return LinkError::Disconnected };
        // Apart, so that permits are renewed in time, however many requests have ended.
        let ended = tokio::select! {
            () = self.health.wait_until_lost() => return LinkError::Disconnected,
            renewed = self.run_renewals(connection.clone()) => renewed,
            handed_in = self.run_settlements(connection) => handed_in,
        };
        match ended {
            Err(error) => error,
        }
    }

    async fn run_renewals(&self, mut connection: ServerConnection) -> Result<Infallible, LinkError> {
        let mut ticks: u32 = 0;
        loop {
            let due = Instant::now() + TICK;
            tokio::select! {
                () = tokio::time::sleep_until(due) => self.link.record_due(due),
                () = self.health.wait_until_overdue() => {}
            }
            ticks = ticks.wrapping_add(1);
            let now = MonotonicTime::now();
            self.return_leases(|lease| lease.is_expired(now), now);
            if self.health.is_renewal_due(now) {
                self.renew(&mut connection, now).await?;
            }
            if ticks.is_multiple_of(FORGET) {
                let date = self.calendar.date(jiff::Timestamp::now());
                self.snapshots.forget(Now { moment: now, date });
                self.recovery.forget(date);
            }
        }
    }

    async fn run_settlements(&self, mut connection: ServerConnection) -> Result<Infallible, LinkError> {
        loop {
            self.settlements.wait_for_unsent().await;
            // More may end meanwhile, or be taken along by an admission.
            tokio::time::sleep(LINGER).await;
            self.send_settlements(&mut connection).await?;
        }
    }

    /// Returns what is left of leases.
    pub(super) fn return_leases(&self, is_expired: impl Fn(&QuotaLease) -> bool, now: MonotonicTime) {
        for (subject, lease) in self.snapshots.take_expired(is_expired, now) {
            self.settlements.push(&subject, lease.into_settlement());
        }
    }

    async fn count_gateways(&self, connection: &mut ServerConnection, now: MonotonicTime) -> Result<(), LinkError> {
        let mut call = self.scripts.gateways.on(&[GATEWAYS, EPOCH]);
        call.arg(&*self.gateway).arg(&*self.new_name());
        let (gateways, epoch): (u64, String) = self.link.answer(call.run(connection)).await?;
        self.recovery.check(&epoch, &self.settlements, self.calendar.date(jiff::Timestamp::now()));
        self.health.record_gateways(gateways, now);
        self.series.gateways(self.health.gateways_seen());
        Ok(())
    }

    /// Notes that the server has settlements.
    pub(super) fn acknowledge(&self, batch: &SettlementBatch) {
        self.recovery.record(&batch.subject, &self.settlements.remove(batch));
    }

    /// Renews the permits of running requests, and takes again those that were freed meanwhile.
    pub(super) async fn renew(&self, connection: &mut ServerConnection, now: MonotonicTime) -> Result<(), LinkError> {
        self.count_gateways(connection, now).await?;
        let mut statements = self.permits.by_subject();
        statements.extend(self.settlements.unsent().into_iter().map(|(subject, name)| RunningRequests {
            subject,
            limit: Limit::Unlimited,
            names: vec![name],
        }));
        let chunks: Vec<_> = statements.iter().flat_map(chunks_of).collect();
        let groups = grouped(&chunks, |chunk| chunk.names.len(), PERMITS_PER_CALL);
        let mut freed = HashSet::new();
        for groups in groups.chunks(AT_ONCE) {
            let mut calls = Vec::with_capacity(groups.len());
            for group in groups {
                calls.push(self.renew_group(group, connection.clone()));
            }
            freed.extend(try_join_all(calls).await?.into_iter().flatten());
        }
        if !freed.is_empty() {
            for chunks in chunks.chunks(AT_ONCE) {
                let mut calls = Vec::with_capacity(chunks.len());
                for chunk in chunks {
                    calls.push(self.retake(chunk, &freed, connection.clone()));
                }
                try_join_all(calls).await?;
            }
        }
        self.health.record_renewal(now);
        Ok(())
    }

    /// Renews a group of permits. Returns the names of those that were freed.
    async fn renew_group(
        &self,
        group: &[PermitChunk<'_>],
        mut connection: ServerConnection,
    ) -> Result<Vec<String>, LinkError> {
        let keys: Vec<_> = group.iter().map(|chunk| chunk.subject.running()).collect();
        let mut call = self.scripts.renew.on(&keys);
        for chunk in group {
            call.arg(chunk.names.len());
            call.args(chunk.names);
        }
        self.link.answer(call.run(&mut connection)).await
    }

    /// Takes permits of a subject again that were freed although their requests run.
    async fn retake(
        &self,
        chunk: &PermitChunk<'_>,
        freed: &HashSet<String>,
        mut connection: ServerConnection,
    ) -> Result<(), LinkError> {
        let runs =
            |name: &str| self.permits.contains(chunk.subject, name) || self.settlements.is_unsent(chunk.subject, name);
        let names: Vec<_> = chunk.names.iter().filter(|name| freed.contains(&***name) && runs(name)).collect();
        if names.is_empty() {
            return Ok(());
        }
        let mut call = self.scripts.retake.on(&[chunk.subject.running()]);
        call.arg(number(chunk.limit)).arg(names.len());
        call.args(names.iter().copied());
        self.series.excess(self.link.answer(call.run(&mut connection)).await?);
        for name in names.into_iter().filter(|name| !runs(name)) {
            // It ended meanwhile, and its settlement may have been sent before its permit was taken again.
            self.settlements.push(chunk.subject, Settlement::unknown(name.clone(), Ending::Dropped, false));
        }
        Ok(())
    }

    /// Sends all settlements.
    pub(super) async fn send_settlements(&self, connection: &mut ServerConnection) -> Result<(), LinkError> {
        loop {
            let batches = self.settlements.unsent_batches(SETTLEMENTS_PER_CALL * AT_ONCE, SETTLEMENTS_PER_CALL);
            let groups = grouped(&batches, |batch| batch.settlements.len(), SETTLEMENTS_PER_CALL);
            for groups in groups.chunks(AT_ONCE) {
                let mut calls = Vec::with_capacity(groups.len());
                for group in groups {
                    calls.push(self.send_settlement_group(group, connection.clone()));
                }
                try_join_all(calls).await?;
            }
            if batches.is_empty() {
                return Ok(());
            }
        }
    }

    async fn send_settlement_group(
        &self,
        group: &[SettlementBatch],
        mut connection: ServerConnection,
    ) -> Result<(), LinkError> {
        let keys: Vec<_> = group.iter().flat_map(|batch| batch.subject.data()).collect();
        let mut call = self.scripts.settle.on(&keys);
        for batch in group {
            call.arg(batch.settlements.len());
            for settlement in &batch.settlements {
                settlement.write(&mut call);
            }
        }
        let sent = || group.iter().for_each(|batch| self.settlements.mark_sent(batch));
        self.link.answer(call.run_once_sent::<()>(&mut connection, sent)).await?;
        for batch in group {
            self.acknowledge(batch);
        }
        Ok(())
    }

    /// Warns if the server may evict keys, and with them what they used. A user that may not run INFO gets no warning.
    async fn warn_of_evictions(&self, connection: &mut ServerConnection) {
        let mut call = redis::cmd("INFO");
        let asked = call.arg("memory").query_async::<String>(connection);
        let Ok(said) = self.link.answer(asked).await else { return };
        let value = |name: &str| said.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
        if let (Some(memory), Some(policy)) = (value("maxmemory"), value("maxmemory_policy"))
            && memory != "0"
            && policy != "noeviction"
        {
            tracing::warn!(
                "the shared-limits server {} evicts keys when it is full (maxmemory-policy {policy}), and their usage is lost: set \
                 maxmemory-policy to noeviction",
                self.terms.url
            );
        }
    }
}

/// Divides items into calls of `most` at most, but for single ones that are larger.
fn grouped<T>(items: &[T], size: impl Fn(&T) -> usize, most: usize) -> Vec<&[T]> {
    let (mut groups, mut rest) = (Vec::new(), items);
    while !rest.is_empty() {
        let mut sum = 0;
        let fits = rest.iter().take_while(|item| {
            sum += size(item);
            sum <= most
        });
        let (group, others) = rest.split_at(fits.count().max(1));
        groups.push(group);
        rest = others;
    }
    groups
}

/// Some of the permits of one subject.
struct PermitChunk<'statement> {
    subject: &'statement Subject,
    limit: Limit,
    names: &'statement [Arc<str>],
}

fn chunks_of(statement: &RunningRequests) -> impl Iterator<Item = PermitChunk<'_>> {
    let RunningRequests { subject, limit, names } = statement;
    names.chunks(PERMITS_PER_CALL).map(|names| PermitChunk { subject, limit: *limit, names })
}
