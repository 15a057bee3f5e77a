//! Looks after the server: connects, says which places go on, hands in what has ended, and finds out when a server
//! that was lost is of use again. One task does all of that, in this order.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::try_join_all;

use super::{
    SharedLimits,
    admission::number,
    due::{Batch, Ending, Settlement},
    keys_of,
    link::{Connection, LinkFault},
    mode::{BETWEEN_TRIALS, TRIALS},
    places::Statement,
    running_of,
};
use crate::{
    key::KeyId,
    limit::{Limit, Moment},
};

/// How often the server hears which places go on. Those of a gateway that is silent for 10 s are free.
const RENEW: Duration = Duration::from_secs(2);
/// How often stocks are looked through for those whose time is over.
const SWEEP: Duration = Duration::from_millis(100);
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
        let mut pause = PAUSES.0;
        let mut is_first = true;
        loop {
            match self.restored(is_first).await {
                Ok(()) => {
                    pause = PAUSES.0;
                    let why = self.kept().await;
                    self.lose(&why);
                }
                Err(fault) if std::mem::take(&mut is_first) => self.say_lost(&fault),
                Err(fault) => tracing::debug!("the server of the shared limits: {fault}"),
            }
            is_first = false;
            self.mode.know();
            self.link.cut();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Brings the server up to date, and trusts it if it answers in time.
    async fn restored(&self, is_first: bool) -> Result<(), LinkFault> {
        let mut connection = self.link.connected().await?;
        self.renew(&mut connection, Moment::now()).await?;
        self.hand_in(&mut connection).await?;
        let trials = if is_first { 1 } else { TRIALS };
        for trial in 0..trials {
            if trial > 0 {
                tokio::time::sleep(BETWEEN_TRIALS).await;
            }
            let asked = self.count_gateways(&mut connection);
            tokio::time::timeout(self.terms.timeout, asked)
                .await
                .map_err(|_| LinkFault::Slow(self.terms.timeout))??;
        }
        // While it was being tried, more may have ended.
        self.renew(&mut connection, Moment::now()).await?;
        self.mode.restore();
        self.series.reachable(true);
        let gateways = self.mode.gateways();
        tracing::info!("limits are shared with {} other gateways", gateways - 1);
        Ok(())
    }

    /// Keeps everything up to date until the server is of no use, and says why.
    async fn kept(&self) -> LinkFault {
        let Some(mut connection) = self.link.current() else { return LinkFault::Cut };
        let mut renew = tokio::time::interval_at(tokio::time::Instant::now() + RENEW, RENEW);
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            let done = tokio::select! {
                () = self.mode.lost() => {
                    if !self.mode.is_reachable() {
                        return LinkFault::Cut;
                    }
                    Ok(())
                }
                _ = renew.tick() => self.renew(&mut connection, Moment::now()).await,
                _ = sweep.tick() => {
                    self.sweep(Moment::now());
                    Ok(())
                }
                () = self.due.arrived() => self.hand_in(&mut connection).await,
            };
            if let Err(fault) = done {
                return fault;
            }
        }
    }

    /// Gives back what was taken in advance and not used in time.
    pub(super) fn sweep(&self, now: Moment) {
        for (key, stock) in self.seen.sweep(now) {
            self.due.push(&key, stock.into_settlement());
        }
    }

    async fn count_gateways(&self, connection: &mut Connection) -> Result<(), LinkFault> {
        let mut call = self.scripts.gateways.on(&[GATEWAYS]);
        call.arg(&*self.gateway);
        let gateways = call.run(connection).await?;
        self.mode.saw(gateways);
        self.series.gateways(gateways);
        Ok(())
    }

    /// Says which places go on, and takes those again that were freed meanwhile.
    pub(super) async fn renew(&self, connection: &mut Connection, now: Moment) -> Result<(), LinkFault> {
        self.count_gateways(connection).await?;
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
            for piece in &pieces {
                self.retake(piece, &freed, connection).await?;
            }
        }
        self.heard.store(now.as_nanos(), Ordering::Relaxed);
        Ok(())
    }

    /// Returns the names of those that were freed.
    async fn renew_group(&self, group: &[Piece<'_>], mut connection: Connection) -> Result<Vec<String>, LinkFault> {
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
        connection: &mut Connection,
    ) -> Result<(), LinkFault> {
        let runs = |name: &str| self.places.has(piece.key, name) || self.due.is_unsent(piece.key, name);
        let names: Vec<_> = piece.names.iter().filter(|name| freed.contains(&***name) && runs(name)).collect();
        if names.is_empty() {
            return Ok(());
        }
        let mut call = self.scripts.retake.on(&[running_of(piece.key)]);
        call.arg(number(piece.limit)).arg(names.len());
        call.args(names.iter().copied());
        self.series.excess(call.run(connection).await?);
        for name in names.into_iter().filter(|name| !runs(name)) {
            // It ended meanwhile, and that may have been said before its place was taken again.
            let settlement = Settlement { name: name.clone(), slot: 0, tokens: 0, ending: Ending::Dropped };
            self.due.push(piece.key, settlement);
        }
        Ok(())
    }

    /// Hands in all that has ended.
    pub(super) async fn hand_in(&self, connection: &mut Connection) -> Result<(), LinkFault> {
        loop {
            let batches = self.due.all(SETTLEMENTS * AT_ONCE);
            if batches.is_empty() {
                return Ok(());
            }
            let groups = self.grouped(&batches, |batch| batch.settlements.len(), SETTLEMENTS);
            for groups in groups.chunks(AT_ONCE) {
                let mut calls = Vec::with_capacity(groups.len());
                for group in groups {
                    calls.push(self.hand_in_group(group, connection.clone()));
                }
                try_join_all(calls).await?;
            }
        }
    }

    async fn hand_in_group(&self, group: &[Batch], mut connection: Connection) -> Result<(), LinkFault> {
        let keys: Vec<_> = group.iter().flat_map(|batch| keys_of(&batch.key)).collect();
        let mut call = self.scripts.settle.on(&keys);
        for batch in group {
            call.arg(batch.settlements.len());
            for settlement in &batch.settlements {
                settlement.write(&mut call);
            }
        }
        call.run::<()>(&mut connection).await?;
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
