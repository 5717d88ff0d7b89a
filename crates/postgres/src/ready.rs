//! Waiting for a database that is not there yet.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::PostgresArgs;
use crate::classify::describe;
use crate::connect::connect;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Waits until a connection can be made and returns it; `None` when `shutdown` was cancelled first.
///
/// `on_wait` is given the reason of every failed attempt, without address and password. Everything is waited for, a
/// wrong password and a missing database too: whoever sets up the stack may be about to create them.
pub async fn wait_until_ready(
    args: &PostgresArgs,
    shutdown: &CancellationToken,
    on_wait: impl FnMut(&str),
) -> Option<Client> {
    wait_until_migrated(args, &[], shutdown, on_wait).await
}

/// [`wait_until_ready`] that also waits for tables (or views, or sequences) to exist, so that a service may be started
/// before the migrations have run. Names as in SQL, with a schema where it is not on the search path.
pub async fn wait_until_migrated(
    args: &PostgresArgs,
    tables: &[&str],
    shutdown: &CancellationToken,
    on_wait: impl FnMut(&str),
) -> Option<Client> {
    shutdown.run_until_cancelled(attempts(args, tables, on_wait)).await
}

async fn attempts(args: &PostgresArgs, tables: &[&str], mut on_wait: impl FnMut(&str)) -> Client {
    let mut pause = FIRST_PAUSE;
    loop {
        match attempt(args, tables).await {
            Ok(client) => return client,
            Err(reason) => on_wait(&reason),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn attempt(args: &PostgresArgs, tables: &[&str]) -> Result<Client, String> {
    let client = connect(&args.database_url).await.map_err(|error| error.to_string())?;
    if !tables.is_empty() {
        let missing = client
            .query_one(
                "SELECT string_agg(name, ', ') FROM unnest($1::text[]) AS name WHERE to_regclass(name) IS NULL",
                &[&tables],
            )
            .await
            .and_then(|row| row.try_get::<_, Option<String>>(0))
            .map_err(|error| describe(&error))?;
        if let Some(missing) = missing {
            return Err(format!("no table {missing}; run tidewatch-partitions migrate"));
        }
    }
    Ok(client)
}
