//! Looks after the server: connects, says which places go on, hands in what has ended, and finds out when a server
//! that was lost is of use again. Places are renewed apart from what is handed in, so that neither waits for the other.

use std::{
    collections::HashSet,
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::try_join_all;
use keymeter_core::{clock::MonotonicTime, key::KeyId, limit::Limit};

use super::{
    SharedLimits,
    admission::number,
    health::{BETWEEN_TRIALS, TRIALS},
    keys_of,
    link::{Connection, LinkError},
    permits::Statement,
    quota_lease::QuotaLease,
    running_of,
    settlements::{Batch, Ending, Settlement},
};

/// How often stocks are looked through for those whose time is over.
const TICK: Duration = Duration::from_millis(100);
/// After so many ticks the server hears which places go on. Those of a gateway that is silent for 10 s are free.
const RENEW: u32 = 20;
/// After so many, keys that are not used any more are forgotten.
const FORGET: u32 = 100;

/// How long what has ended is collected before it is handed in.
const LINGER: Duration = Duration::from_millis(1);
/// How long a server that was lost is left alone.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// Places, and settlements, of one call.
const PLACES: usize = 500;
const SETTLEMENTS: usize = 200;
/// Calls at once, where each key needs its own.
const AT_ONCE: usize = 64;

/// The set of the gateways that were heard of.
const GATEWAYS: &str = "keymeter:{gateways}";

impl SharedLimits {
    /// Keeps the limits shared, for as long as the process runs.
    pub async fn keep(&self) {
        let (mut pause, mut is_first) = (PAUSES.0, true);
        loop {
            match self.restored(is_first).await {
                Ok(()) => {
                    pause = PAUSES.0;
                    let why = self.kept().await;
                    self.lose(&why);
                }
                Err(fault) if is_first => self.say_lost(&fault),
                Err(fault) => tracing::debug!("the server of the shared limits: {fault}"),
            }
            is_first = false;
            self.mode.know();
            self.link.cut();
            self.due.all_lost();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Gives back what was taken in advance, and waits until all that has ended is handed in, `limit` at most: for a
    /// process that is about to end.
    pub async fn finish(&self, limit: Duration) {
        self.give_back_stocks(|_| true, MonotonicTime::now());
        let handed_in = async {
            while self.mode.is_reachable() && !self.due.is_empty() {
                tokio::time::sleep(LINGER).await;
            }
        };
        // What is not handed in by then leaves the minute by itself.
        let _ = tokio::time::timeout(limit, handed_in).await;
    }

    /// Brings the server up to date, and trusts it if it answers in time.
    async fn restored(&self, is_first: bool) -> Result<(), LinkError> {
        let mut connection = self.link.connected().await?;
        if is_first {
            warn_of_evictions(&mut connection).await;
        }
        self.renew(&mut connection, MonotonicTime::now()).await?;
        self.hand_in(&mut connection).await?;
        let trials = if is_first { 1 } else { TRIALS };
        for trial in 0..trials {
            if trial > 0 {
                tokio::time::sleep(BETWEEN_TRIALS).await;
            }
            let asked = self.count_gateways(&mut connection, MonotonicTime::now());
            let answer = tokio::time::timeout(self.terms.timeout, asked).await;
            answer.map_err(|_| LinkError::Slow(self.terms.timeout))??;
        }
        // While it was being tried, more may have ended.
        self.renew(&mut connection, MonotonicTime::now()).await?;
        self.mode.restore();
        self.series.reachable(true);
        let gateways = self.mode.gateways();
        tracing::info!("limits are shared with {} other gateways", gateways - 1);
        Ok(())
    }

    /// Keeps everything up to date until the server is of no use, and says why.
    async fn kept(&self) -> LinkError {
        let Some(connection) = self.link.current() else { return LinkError::Cut };
        // Apart, so that however much has ended, places are renewed in time.
        let ended = tokio::select! {
            () = self.mode.lost() => return LinkError::Cut,
            renewed = self.renew_on(connection.clone()) => renewed,
            handed_in = self.hand_in_on(connection) => handed_in,
        };
        match ended {
            Err(fault) => fault,
        }
    }

    async fn renew_on(&self, mut connection: Connection) -> Result<Infallible, LinkError> {
        let mut ticks: u32 = 0;
        loop {
            tokio::time::sleep(TICK).await;
            ticks = ticks.wrapping_add(1);
            let now = MonotonicTime::now();
            self.give_back_stocks(|stock| stock.is_over(now), now);
            if ticks.is_multiple_of(RENEW) {
                self.renew(&mut connection, now).await?;
            }
            if ticks.is_multiple_of(FORGET) {
                self.seen.forget(now);
            }
        }
    }

    async fn hand_in_on(&self, mut connection: Connection) -> Result<Infallible, LinkError> {
        loop {
            self.due.arrived().await;
            // More may end meanwhile, or be taken along by an admission.
            tokio::time::sleep(LINGER).await;
            self.hand_in(&mut connection).await?;
        }
    }

    /// Gives back what was taken in advance and not used.
    pub(super) fn give_back_stocks(&self, is_over: impl Fn(&QuotaLease) -> bool, now: MonotonicTime) {
        for (key, stock) in self.seen.stocks_over(is_over, now) {
            self.due.push(&key, stock.into_settlement());
        }
    }

    async fn count_gateways(&self, connection: &mut Connection, now: MonotonicTime) -> Result<(), LinkError> {
        let mut call = self.scripts.gateways.on(&[GATEWAYS]);
        call.arg(&*self.gateway);
        let gateways = call.run(connection).await?;
        self.mode.saw(gateways, now);
        self.series.gateways(self.mode.gateways());
        Ok(())
    }

    /// Says which places go on, and takes those again that were freed meanwhile.
    pub(super) async fn renew(&self, connection: &mut Connection, now: MonotonicTime) -> Result<(), LinkError> {
        self.count_gateways(connection, now).await?;
        let mut statements = self.places.state();
        statements.extend(self.due.unsent().into_iter().map(|(key, name)| Statement {
            key,
            limit: Limit::Unlimited,
            names: vec![name],
        }));
        let pieces: Vec<_> = statements.iter().flat_map(pieces).collect();
        let groups = self.grouped(&pieces, |piece| piece.names.len(), PLACES);
        let mut freed = HashSet::new();
        for groups in groups.chunks(AT_ONCE) {
            let mut calls = Vec::with_capacity(groups.len());
            for group in groups {
                calls.push(self.renew_group(group, connection.clone()));
            }
            freed.extend(try_join_all(calls).await?.into_iter().flatten());
        }
        if !freed.is_empty() {
            for pieces in pieces.chunks(AT_ONCE) {
                let mut calls = Vec::with_capacity(pieces.len());
                for piece in pieces {
                    calls.push(self.retake(piece, &freed, connection.clone()));
                }
                try_join_all(calls).await?;
            }
        }
        self.heard.store(now.as_nanos(), Ordering::Relaxed);
        Ok(())
    }

    /// Returns the names of those that were freed.
    async fn renew_group(&self, group: &[Piece<'_>], mut connection: Connection) -> Result<Vec<String>, LinkError> {
        let keys: Vec<_> = group.iter().map(|piece| running_of(piece.key)).collect();
        let mut call = self.scripts.renew.on(&keys);
        for piece in group {
            call.arg(piece.names.len());
            call.args(piece.names);
        }
        Ok(call.run(&mut connection).await?)
    }

    /// Takes the places of a key again that were freed although their requests run.
    async fn retake(
        &self,
        piece: &Piece<'_>,
        freed: &HashSet<String>,
        mut connection: Connection,
    ) -> Result<(), LinkError> {
        let runs = |name: &str| self.places.has(piece.key, name) || self.due.is_unsent(piece.key, name);
        let names: Vec<_> = piece.names.iter().filter(|name| freed.contains(&***name) && runs(name)).collect();
        if names.is_empty() {
            return Ok(());
        }
        let mut call = self.scripts.retake.on(&[running_of(piece.key)]);
        call.arg(number(piece.limit)).arg(names.len());
        call.args(names.iter().copied());
        self.series.excess(call.run(&mut connection).await?);
        for name in names.into_iter().filter(|name| !runs(name)) {
            // It ended meanwhile, and that may have been said before its place was taken again.
            let settlement = Settlement { name: name.clone(), slot: 0, tokens: 0, ending: Ending::Dropped };
            self.due.push(piece.key, settlement);
        }
        Ok(())
    }

    /// Hands in what has ended.
    pub(super) async fn hand_in(&self, connection: &mut Connection) -> Result<(), LinkError> {
        loop {
            let batches = self.due.all(SETTLEMENTS * AT_ONCE, SETTLEMENTS);
            let groups = self.grouped(&batches, |batch| batch.settlements.len(), SETTLEMENTS);
            for groups in groups.chunks(AT_ONCE) {
                let mut calls = Vec::with_capacity(groups.len());
                for group in groups {
                    calls.push(self.hand_in_group(group, connection.clone()));
                }
                try_join_all(calls).await?;
            }
            if batches.is_empty() {
                return Ok(());
            }
        }
    }

    async fn hand_in_group(&self, group: &[Batch], mut connection: Connection) -> Result<(), LinkError> {
        let keys: Vec<_> = group.iter().flat_map(|batch| keys_of(&batch.key)).collect();
        let mut call = self.scripts.settle.on(&keys);
        for batch in group {
            call.arg(batch.settlements.len());
            for settlement in &batch.settlements {
                settlement.write(&mut call);
            }
        }
        let sent = || group.iter().for_each(|batch| self.due.sent(batch));
        call.run_once_sent::<()>(&mut connection, sent).await?;
        for batch in group {
            self.due.done(batch);
        }
        Ok(())
    }

    /// What goes into one call each: `most` altogether, or one key where each may be on another server.
    fn grouped<'items, T>(&self, items: &'items [T], size: impl Fn(&T) -> usize, most: usize) -> Vec<&'items [T]> {
        let (mut groups, mut rest) = (Vec::new(), items);
        while !rest.is_empty() {
            let mut sum = 0;
            let fits = rest.iter().take_while(|item| {
                sum += size(item);
                sum <= most
            });
            let count = if self.link.takes_many_keys() { fits.count().max(1) } else { 1 };
            let (group, others) = rest.split_at(count);
            groups.push(group);
            rest = others;
        }
        groups
    }
}

/// A server that makes room by itself forgets what keys used. Some users may not ask for that: then nothing is said.
async fn warn_of_evictions(connection: &mut Connection) {
    let Ok(said) = redis::cmd("INFO").arg("memory").query_async::<String>(connection).await else { return };
    let value = |name: &str| said.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
    if let (Some(memory), Some(policy)) = (value("maxmemory"), value("maxmemory_policy"))
        && memory != "0"
        && policy != "noeviction"
    {
        tracing::warn!(
            "the server of the shared limits forgets keys when it is full (maxmemory-policy {policy}), and with them what \
             they used: set it to noeviction"
        );
    }
}

/// Some of the places of one key.
struct Piece<'statement> {
    key: &'statement KeyId,
    limit: Limit,
    names: &'statement [Arc<str>],
}

fn pieces(statement: &Statement) -> impl Iterator<Item = Piece<'_>> {
    let Statement { key, limit, names } = statement;
    names.chunks(PLACES).map(|names| Piece { key, limit: *limit, names })
}
