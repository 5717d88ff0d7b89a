//! Whether the database and the broker are there, for /readyz and the log.

use std::sync::Arc;
use std::time::Duration;

use kafka::{Admin, KafkaArgs};
use postgres::{PostgresArgs, describe, wait_until_migrated};
use schemas::INCIDENTS_TOPIC;
use service::{Context, Tasks};

use crate::Api;

/// How often each is asked.
const EVERY: Duration = Duration::from_secs(5);
/// An answer that takes longer is none.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Tables that the API reads; `sink_partition` is there when all migrations that it relies on are.
const TABLES: &[&str] = &[
    "token",
    "events",
    "findings",
    "scans",
    "incidents",
    "counts",
    "incident_counts",
    "scan_counts",
    "audit_log",
];

/// Watches both in the background.
///
/// # Errors
/// The administration client cannot be made.
pub(crate) fn start(
    tasks: &mut Tasks,
    context: &Context,
    postgres: PostgresArgs,
    kafka: KafkaArgs,
    api: Arc<Api>,
) -> Result<(), kafka::Error> {
    let shutdown = context.shutdown.token();
    let dependency = context.health.dependency("postgres").at(postgres.database_url.address());
    let broker = context.health.dependency("kafka").at(&kafka.brokers);

    let stopping = shutdown.clone();
    tasks.background(async move {
        loop {
            let ready = wait_until_migrated(&postgres, TABLES, &stopping, |reason| dependency.down(reason));
            let Some(client) = ready.await else { return };
            dependency.up();
            // One connection of its own: a busy pool is not a database that is away.
            let reason = loop {
                tokio::time::sleep(EVERY).await;
                api.store.report();
                match tokio::time::timeout(ANSWER_WITHIN, client.batch_execute("SELECT 1")).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => break describe(&error),
                    Err(_) => break format!("no answer within {} s", ANSWER_WITHIN.as_secs()),
                }
            };
            dependency.down(reason);
        }
    });

    let admin = Admin::new(&kafka)?;
    let topic = kafka.topic(INCIDENTS_TOPIC);
    tasks.background(async move {
        while admin.wait_for_topics(&[&topic], &shutdown, |reason| broker.down(reason)).await {
            broker.up();
            tokio::time::sleep(EVERY).await;
        }
    });
    Ok(())
}
