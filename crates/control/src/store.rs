//! The store: SQLite, or PostgreSQL where several machines share it. The SQL is the same for both. What a caller may do
//! is decided elsewhere; what always holds of the data is ensured here.

pub mod audit;
pub mod changes;
mod files;
pub mod holders;
pub mod invitations;
pub mod key_list;
pub mod keys;
pub mod limits;
pub mod membership;
mod news;
pub mod operations;
pub mod page;
pub mod people;
pub mod refusals;
pub mod usage;
pub mod wallets;

use std::{borrow::Cow, path::PathBuf, time::Duration};

use jiff::Timestamp;
use keymeter_config::Database;
use sqlx::{
    Any, AnyPool, Row, Transaction,
    any::{AnyPoolOptions, AnyRow},
    migrate::{Migration, MigrationType, Migrator},
};
use thiserror::Error;

use self::news::News;

/// An open transaction. Dropped, it is taken back.
pub type Tx = Transaction<'static, Any>;

/// The database.
#[derive(Clone)]
pub struct Store {
    write: AnyPool,
    read: AnyPool,
    engine: Engine,
    news: News,
}

/// Which database it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// In a file beside us, with one writer at a time.
    Sqlite,
    /// A server.
    Postgres,
}

const READERS: u32 = 8;
const WRITERS_OF_A_SERVER: u32 = 16;
const PATIENCE: Duration = Duration::from_secs(10);

impl Store {
    /// Opens the database, makes it if it is new, and brings its tables up to date.
    ///
    /// # Errors
    /// When it cannot be opened, or is of a later version.
    pub async fn open(database: &Database) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let (engine, url) = match database {
            Database::Sqlite(path) => (Engine::Sqlite, files::prepared(path)?),
            Database::Postgres(url) => (Engine::Postgres, url.to_string()),
        };
        let writers = if engine == Engine::Sqlite { 1 } else { WRITERS_OF_A_SERVER };
        let write = pool(engine, writers).connect(&url).await?;
        migrator(engine).run(&write).await.map_err(StoreError::Migration)?;
        let read = pool(engine, READERS).connect(&url).await?;
        Ok(Self { write, read, engine, news: News::new() })
    }

    /// Which database it is.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Begins to change something.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        Ok(match self.engine {
            // So that it never has to be taken back because another has written since it began to read.
            Engine::Sqlite => self.write.begin_with("BEGIN IMMEDIATE").await?,
            Engine::Postgres => self.write.begin().await?,
        })
    }

    /// Keeps what was changed, and tells those who wait for changes of keys.
    ///
    /// # Errors
    /// When the database does not answer: then nobody knows whether it was kept.
    pub async fn commit(&self, tx: Tx) -> Result<(), StoreError> {
        tx.commit().await?;
        self.news.tell_changed();
        Ok(())
    }

    /// For looking only.
    #[must_use]
    pub fn reader(&self) -> &AnyPool {
        &self.read
    }

    /// Waits for what is under way, and closes the database.
    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}

fn pool(engine: Engine, connections: u32) -> AnyPoolOptions {
    let options = AnyPoolOptions::new().max_connections(connections).acquire_timeout(PATIENCE);
    options.after_connect(move |connection, _| {
        Box::pin(async move {
            if engine == Engine::Sqlite {
                // What is acknowledged must survive a power failure: each transaction is flushed to the disk.
                for pragma in ["journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 10000"]
                {
                    sqlx::query(&format!("PRAGMA {pragma}")).execute(&mut *connection).await?;
                }
            }
            Ok(())
        })
    })
}

/// The versions of the tables. A new version is a new file; none is ever changed.
fn migrator(engine: Engine) -> Migrator {
    let (append_only, key_usage) = match engine {
        Engine::Sqlite => (include_str!("store/append_only_sqlite.sql"), include_str!("store/schema_9_sqlite.sql")),
        Engine::Postgres => {
            (include_str!("store/append_only_postgres.sql"), include_str!("store/schema_9_postgres.sql"))
        }
    };
    let versions = [
        (1, "tables", include_str!("store/schema_1.sql")),
        (2, "the audit is only added to", append_only),
        (3, "sessions of the page", include_str!("store/schema_3.sql")),
        (4, "sessions that were ended", include_str!("store/schema_4.sql")),
        (5, "invitations to teams", include_str!("store/schema_5.sql")),
        (6, "changes of users, kinds of actors", include_str!("store/schema_6.sql")),
        (7, "priorities of keys", include_str!("store/schema_7.sql")),
        (8, "limits of teams and users, networks of keys", include_str!("store/schema_8.sql")),
        (9, "usage of keys of late, and what was refused", key_usage),
        (10, "by what users sign in", include_str!("store/schema_10.sql")),
    ];
    let migrations = versions.map(|(version, name, sql)| {
        Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, Cow::Borrowed(sql), false)
    });
    Migrator { migrations: Cow::Owned(migrations.to_vec()), ..Migrator::DEFAULT }
}

/// Takes the next number of a series. Whoever takes it holds up the others until the transaction ends, so that numbers
/// are kept in their order.
async fn next_number(tx: &mut Tx, series: &str) -> Result<i64, StoreError> {
    let sql = "UPDATE counters SET value = value + 1 WHERE name = $1 RETURNING value";
    Ok(sqlx::query(sql).bind(series).fetch_one(&mut **tx).await?.try_get(0)?)
}

/// Microseconds since 1970.
fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

fn timestamp(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX)
}

/// A column that may be empty.
fn optional<T>(row: &AnyRow, column: &str) -> Result<Option<T>, StoreError>
where
    T: for<'row> sqlx::Decode<'row, Any> + sqlx::Type<Any>,
{
    Ok(row.try_get(column)?)
}

/// Why the store did not do what it was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The folder of the file cannot be made.
    #[error(
        "cannot make the folder {folder} of `control.database`: {1}; let the process write there, or name another path",
        folder = .0.display()
    )]
    Folder(PathBuf, std::io::Error),
    /// The file cannot be made, or kept from others.
    #[error(
        "cannot make the file {file} of `control.database`, readable by its owner only: {1}; let the process write there, or \
         name another path",
        file = .0.display()
    )]
    File(PathBuf, std::io::Error),
    /// The file's path is not UTF-8.
    #[error("the path {path} of `control.database` is not UTF-8", path = .0.display())]
    Path(PathBuf),
    /// The tables could not be brought up to date.
    #[error(
        "the tables of `control.database` cannot be brought up to date: {0}; where a newer version ran before, start that one or \
         restore a copy"
    )]
    Migration(sqlx::migrate::MigrateError),
    /// The database refuses or does not answer.
    #[error("`control.database` reports an error: {0}")]
    Database(#[from] sqlx::Error),
    /// It holds what cannot be.
    #[error("`control.database` holds an impossible value: {0}")]
    Corrupt(String),
    /// A secret that it is to keep cannot be made.
    #[error("the operating system gives no randomness: {0}")]
    Randomness(getrandom::Error),
}

impl StoreError {
    /// Whether there is another of that name already.
    #[must_use]
    pub fn is_duplicate(&self) -> bool {
        matches!(self, Self::Database(sqlx::Error::Database(error)) if error.is_unique_violation())
    }

    /// Whether it is due to what was to be kept, so that trying again is of no use.
    #[must_use]
    pub fn is_of_data(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::Database(error)) => error.code().is_some_and(|code| is_code_of_data(&code)),
            _ => false,
        }
    }
}

/// Of PostgreSQL the classes of data exceptions, of violated constraints and of exceeded limits; of SQLite the codes of
/// what is too big, violates a constraint or is of another type.
fn is_code_of_data(code: &str) -> bool {
    match code.parse::<u32>() {
        Ok(number) if code.len() < 5 => matches!(number & 0xff, 18..=20),
        _ => ["22", "23", "54"].iter().any(|class| code.len() == 5 && code.starts_with(class)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_data_are_told_from_those_of_the_database() {
        for code in ["22021", "22003", "23505", "54000", "18", "19", "20", "1811", "2067", "275"] {
            assert!(is_code_of_data(code), "{code}");
        }
        for code in ["57P01", "40001", "40P01", "53300", "08006", "5", "13", "8714", "11", ""] {
            assert!(!is_code_of_data(code), "{code}");
        }
    }
}
