//! Reads tables from the database that the variable `DATABASE_URL` names, so that no password is on a command line.

use std::{env, str::FromStr};

use futures_util::TryStreamExt;
use sqlx::{ConnectOptions, postgres::PgConnectOptions};

use super::ImportError;

/// A whole table, as CSV with a header; `None` where the database has no such table.
pub(super) fn copy(table: &str) -> Result<Option<Vec<u8>>, ImportError> {
    let url = env::var("DATABASE_URL").ok().filter(|url| !url.is_empty()).ok_or(ImportError::NoSource)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(read(&url, table)).map_err(|error| ImportError::Database(error.to_string()))
}

async fn read(url: &str, table: &str) -> Result<Option<Vec<u8>>, sqlx::Error> {
    let mut connection = PgConnectOptions::from_str(url)?.connect().await?;
    let is_there = sqlx::query_scalar::<_, bool>("SELECT to_regclass($1) IS NOT NULL");
    if !is_there.bind(format!("\"{table}\"")).fetch_one(&mut connection).await? {
        return Ok(None);
    }
    let mut stream = connection.copy_out_raw(&format!("COPY \"{table}\" TO STDOUT (FORMAT csv, HEADER)")).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = stream.try_next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(Some(bytes))
}
