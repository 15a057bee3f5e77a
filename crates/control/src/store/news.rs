//! Notifications between the instances of a control plane over their shared database: a key changed, or one gateway needs
//! what others were granted of a wallet. With SQLite the only instance notifies itself.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use keymeter_config::Database;
use sqlx::postgres::PgListener;
use thiserror::Error;
use tokio::sync::{broadcast, watch};

use super::{Engine, Store, StoreError, Tx};

/// What was told.
#[derive(Clone)]
pub(super) struct News {
    /// Moved on when something was kept.
    changed: Arc<watch::Sender<u64>>,
    /// Wallets of which one gateway needs what others were granted and do not use.
    recalled: broadcast::Sender<String>,
    is_listening: Arc<AtomicBool>,
}

/// Recalls that a slow listener may be behind. One that is lost is made again when the gateway asks again.
const RECALLS: usize = 1024;

/// The channel of PostgreSQL that it is told on, and what is said: that keys changed, or a wallet's name after a word.
const CHANNEL: &str = "keymeter";
const CHANGED: &str = "changed";
const RECALLED: &str = "recalled ";
const IS_ALIVE: &str = "alive";

/// How often an instance makes sure that it still hears.
const ALIVE: Duration = Duration::from_secs(1);

/// How long until a connection is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// How long until somebody who waits looks by themselves: while nothing is heard, and else, to be safe.
const UNTOLD: Duration = Duration::from_millis(50);
const TOLD: Duration = Duration::from_secs(10);

impl News {
    pub(super) fn new() -> Self {
        let (changed, recalled) = (Arc::new(watch::Sender::new(0)), broadcast::Sender::new(RECALLS));
        Self { changed, recalled, is_listening: Arc::default() }
    }

    /// Something was kept.
    pub(super) fn tell_changed(&self) {
        self.changed.send_modify(|times| *times += 1);
    }

    fn tell_recalled(&self, wallet: &str) {
        // Without a listener there is nobody who holds anything.
        let _ = self.recalled.send(wallet.to_owned());
    }

    fn receive(&self, said: &str) {
        match said.strip_prefix(RECALLED) {
            Some(wallet) => self.tell_recalled(wallet),
            None if said == IS_ALIVE => {}
            None => self.tell_changed(),
        }
    }
}

/// Why an instance does not hear the others.
#[derive(Debug, Error)]
enum ListenError {
    /// The database does not answer.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The connection was lost.
    #[error("the connection was lost")]
    Lost,
    /// What it said itself did not come back.
    #[error("nothing is heard (a pooler must be in session mode for LISTEN)")]
    Silent,
}

/// Tells all instances that keys changed, once the transaction is kept.
///
/// # Errors
/// When the database does not answer.
pub(super) async fn tell_all(tx: &mut Tx) -> Result<(), StoreError> {
    if tx.backend_name() == "PostgreSQL" {
        sqlx::query("SELECT 1 FROM pg_notify($1, $2)").bind(CHANNEL).bind(CHANGED).execute(&mut **tx).await?;
    }
    Ok(())
}

impl Store {
    /// Moves on whenever something was kept.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.news.changed.subscribe()
    }

    /// Wallets of which gateways are to give back what they do not use.
    #[must_use]
    pub fn recalls(&self) -> broadcast::Receiver<String> {
        self.news.recalled.subscribe()
    }

    /// Asks the gateways of all instances to give back what they do not use of a wallet.
    pub async fn recall(&self, wallet: &str) {
        if self.engine == Engine::Postgres {
            let sql = "SELECT 1 FROM pg_notify($1, $2)";
            let said = format!("{RECALLED}{wallet}");
            match sqlx::query(sql).bind(CHANNEL).bind(said).execute(self.reader()).await {
                Ok(_) if self.news.is_listening.load(Ordering::Acquire) => return,
                Ok(_) => {}
                Err(error) => tracing::warn!("other instances were not told of a wallet's recall: {error}"),
            }
        }
        self.news.tell_recalled(wallet);
    }

    /// How long whoever waits for news may do so before they look by themselves; `None`: for ever.
    #[must_use]
    pub fn longest_wait(&self) -> Option<Duration> {
        match self.engine {
            Engine::Sqlite => None,
            Engine::Postgres if self.news.is_listening.load(Ordering::Acquire) => Some(TOLD),
            Engine::Postgres => Some(UNTOLD),
        }
    }

    /// Listens to what other instances tell, for as long as it runs.
    pub async fn listen(&self, database: &Database) {
        let Database::Postgres(url) = database else { return };
        loop {
            let Err(error) = self.listen_on(url).await;
            if self.news.is_listening.swap(false, Ordering::AcqRel) {
                // Whoever waits for news has to look from now on.
                self.news.tell_changed();
                tracing::warn!("other instances of the control plane are not heard for now: {error}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn listen_on(&self, url: &str) -> Result<Infallible, ListenError> {
        let mut listener = PgListener::connect(url).await?;
        // A connection that is lost is found out here, and not made again behind our back.
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        let (mut asked, mut heard) = (Instant::now(), Instant::now());
        self.say_alive().await?;
        loop {
            match tokio::time::timeout(ALIVE, listener.try_recv()).await {
                Ok(told) => {
                    self.news.receive(told?.ok_or(ListenError::Lost)?.payload());
                    heard = Instant::now();
                    if !self.news.is_listening.swap(true, Ordering::AcqRel) {
                        // What was told before is not told again.
                        self.news.tell_changed();
                    }
                }
                Err(_) if heard < asked => return Err(ListenError::Silent),
                Err(_) => {}
            }
            if asked.elapsed() >= ALIVE {
                asked = Instant::now();
                self.say_alive().await?;
            }
        }
    }

    /// Says something that this instance has to hear itself: connections break without a word, and some poolers take a
    /// `LISTEN` and forget it.
    async fn say_alive(&self) -> Result<(), sqlx::Error> {
        let sql = "SELECT 1 FROM pg_notify($1, $2)";
        sqlx::query(sql).bind(CHANNEL).bind(IS_ALIVE).execute(self.reader()).await.map(|_| ())
    }
}
