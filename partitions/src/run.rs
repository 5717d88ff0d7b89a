//! The service: partitions every hour, summaries every few seconds, old keys of pushes forgotten beside them.

use std::time::Duration;

use jiff::Timestamp;
use postgres::{Client, PostgresArgs, Session, connect_with, wait_until_migrated};
use service::{Context, Dependency, metrics};
use tokio::time::Instant;

use crate::apply::{State, TABLES, apply_tables};
use crate::forget::forget_pushes;
use crate::plan::Horizon;
use crate::summarise::{LOCK_TIMEOUT, Summariser};

const APPLY_EVERY: Duration = Duration::from_secs(3600);
/// After a plan that could not be carried out: somebody may be about to clear the way.
const APPLY_AGAIN: Duration = Duration::from_secs(60);
const FORGET_EVERY: Duration = Duration::from_secs(10);

/// What the service is told.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) postgres: PostgresArgs,
    pub(crate) horizon: Horizon,
    pub(crate) summarise_every: Duration,
}

/// Runs until a stop is asked for. A lost connection is made again; a plan that cannot be carried out is reported by
/// log, metric and /readyz, and tried again, since BRIN ranges want summaries all the same.
pub(crate) async fn run(settings: Settings, context: Context) -> anyhow::Result<()> {
    let postgres = context.health.dependency("postgres").at(settings.postgres.database_url.address());
    let partitions = context.health.dependency("partitions");
    let shutdown = context.shutdown.token();
    let tables: Vec<&str> = TABLES.iter().map(|table| table.name).chain(["push_key"]).collect();
    let (summariser, now) = (Summariser::default(), Instant::now());
    let mut work = Work { settings, partitions, summariser, apply_at: now, forget_at: now };
    loop {
        let ready =
            wait_until_migrated(&work.settings.postgres, &tables, &shutdown, |reason| postgres.down(reason));
        if ready.await.is_none() {
            return Ok(());
        }
        let session = Session { lock_timeout: Some(LOCK_TIMEOUT), ..Session::default() };
        let failed = match connect_with(&work.settings.postgres.database_url, &session).await {
            Ok(client) => {
                postgres.up();
                match shutdown.run_until_cancelled(work.repeat(client)).await {
                    None => return Ok(()),
                    Some(error) => format!("{error:#}"),
                }
            }
            Err(error) => error.to_string(),
        };
        postgres.down(failed);
    }
}

struct Work {
    settings: Settings,
    partitions: Dependency,
    summariser: Summariser,
    apply_at: Instant,
    forget_at: Instant,
}

impl Work {
    /// Goes on until the connection is of no more use.
    async fn repeat(&mut self, mut client: Client) -> anyhow::Error {
        let mut tick = tokio::time::interval(self.settings.summarise_every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if Instant::now() >= self.apply_at {
                self.apply(&mut client).await;
            }
            if let Err(error) = self.summarise(&client).await {
                return error.into();
            }
            if Instant::now() >= self.forget_at {
                self.forget_at = Instant::now() + FORGET_EVERY;
                if let Err(error) = forget(&client).await {
                    return error.into();
                }
            }
        }
    }

    async fn apply(&mut self, client: &mut Client) {
        match apply_tables(client, Timestamp::now(), self.settings.horizon).await {
            Ok(states) => {
                metrics::PARTITIONS_APPLIES.with(["ok"]).add(1);
                states.iter().for_each(report);
                self.partitions.up();
                self.apply_at = Instant::now() + APPLY_EVERY;
            }
            Err(error) => {
                metrics::PARTITIONS_APPLIES.with(["failed"]).add(1);
                self.partitions.down(format!("{error:#}"));
                // At once on a new connection, when this one is what failed.
                self.apply_at =
                    if client.is_closed() { Instant::now() } else { Instant::now() + APPLY_AGAIN };
            }
        }
    }

    async fn summarise(&mut self, client: &Client) -> Result<(), tokio_postgres::Error> {
        for done in self.summariser.summarise(client).await? {
            let ranges = u64::try_from(done.ranges).unwrap_or(0);
            metrics::PARTITIONS_SUMMARISED.with([&done.table]).add(ranges);
            metrics::PARTITIONS_SUMMARISE_DURATION.with([&done.table]).record_duration(done.took);
            tracing::debug!(partition = done.partition, ranges, took = ?done.took, "summarised");
        }
        Ok(())
    }
}

async fn forget(client: &Client) -> Result<(), tokio_postgres::Error> {
    let pushes = forget_pushes(client).await?;
    metrics::PARTITIONS_FORGOTTEN.add(pushes.forgotten);
    metrics::PARTITIONS_PUSH_KEYS.set(pushes.kept as f64);
    Ok(())
}

fn report(state: &State) {
    for created in &state.created {
        tracing::info!(table = state.table, partition = created.name, "partition made");
    }
    metrics::PARTITIONS_CREATED.with([state.table]).add(state.created.len() as u64);
    metrics::PARTITIONS_PRESENT.with([state.table]).set(state.partitions as f64);
    let ahead = state.end.map_or(f64::INFINITY, |end| end.duration_since(Timestamp::now()).as_secs_f64());
    metrics::PARTITIONS_AHEAD.with([state.table]).set(ahead);
}
