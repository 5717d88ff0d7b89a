//! One connection and what is prepared on it.

use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt;
use postgres::{ConnectError, DatabaseUrl};
use tokio_postgres::{Client, Error, Statement};

use super::{blocks, keys};
use crate::encode::{HEADER, TRAILER, audit, event, finding, quarantine};
use crate::incidents;

/// A COPY of a full batch takes a tenth of a second; one that takes this long waits for a disk or a lock.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// A sink that is stopped in the middle of a transaction must not keep a successor waiting.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes handed to the connection at a time: large enough to cost nothing, small against a batch.
const CHUNK_BYTES: usize = 256 * 1024;

/// The tables that are written by COPY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// `events`.
    Events,
    /// `findings`.
    Findings,
    /// `quarantine`.
    Quarantine,
    /// `audit_log`.
    Audit,
}

impl Target {
    /// Name of the table.
    pub const fn name(self) -> &'static str {
        match self {
            Target::Events => "events",
            Target::Findings => "findings",
            Target::Quarantine => "quarantine",
            Target::Audit => "audit_log",
        }
    }
}

/// A connection that is ready to write.
pub struct Session {
    client: Client,
    events: Statement,
    findings: Statement,
    quarantine: Statement,
    audit: Statement,
    load_incidents: Statement,
    org_numbers: Statement,
    look_up_keys: Statement,
}

/// A session could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The tables or functions are not what this sink knows.
    #[error("{}", postgres::describe(.0))]
    Prepare(#[from] Error),
}

impl Session {
    /// Connects and prepares.
    ///
    /// # Errors
    /// No connection, or a schema that does not fit.
    pub async fn open(url: &DatabaseUrl) -> Result<Self, OpenError> {
        let client = postgres::connect_with(url, &settings()).await?;
        // The closing message holds literals with backslashes; a plan of sink_commit is never worth compiling.
        client
            .batch_execute("SET standard_conforming_strings = on; SET jit = off; SET TimeZone = 'UTC'")
            .await?;
        let (events, findings, quarantine, audit, load_incidents, org_numbers, look_up_keys) = tokio::try_join!(
            client.prepare(event::COPY),
            client.prepare(finding::COPY),
            client.prepare(quarantine::COPY),
            client.prepare(audit::COPY),
            client.prepare(incidents::LOAD),
            client.prepare(blocks::NUMBERS),
            client.prepare(keys::LOOKUP),
        )?;
        Ok(Self { client, events, findings, quarantine, audit, load_incidents, org_numbers, look_up_keys })
    }

    /// The connection.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// [`incidents::LOAD`], prepared.
    pub fn load_incidents(&self) -> &Statement {
        &self.load_incidents
    }

    /// [`blocks::NUMBERS`], prepared.
    pub fn org_numbers(&self) -> &Statement {
        &self.org_numbers
    }

    /// [`keys::LOOKUP`], prepared.
    pub fn look_up_keys(&self) -> &Statement {
        &self.look_up_keys
    }

    /// Runs commands that return nothing.
    ///
    /// # Errors
    /// The server's.
    pub async fn execute(&self, commands: &str) -> Result<(), Error> {
        self.client.batch_execute(commands).await
    }

    /// Copies encoded rows, given without header and trailer.
    ///
    /// # Errors
    /// The server's; the transaction is aborted then, or back at its savepoint's mercy.
    pub async fn copy(&self, target: Target, rows: Bytes) -> Result<u64, Error> {
        let statement = match target {
            Target::Events => &self.events,
            Target::Findings => &self.findings,
            Target::Quarantine => &self.quarantine,
            Target::Audit => &self.audit,
        };
        let sink = self.client.copy_in::<_, Bytes>(statement).await?;
        let mut sink = std::pin::pin!(sink);
        sink.feed(Bytes::from_static(HEADER)).await?;
        let mut rest = rows;
        while !rest.is_empty() {
            sink.feed(rest.split_to(CHUNK_BYTES.min(rest.len()))).await?;
        }
        sink.feed(Bytes::from_static(TRAILER)).await?;
        sink.finish().await
    }
}

/// Settings of every connection of the sink.
pub fn settings() -> postgres::Session {
    postgres::Session {
        statement_timeout: Some(STATEMENT_TIMEOUT),
        idle_in_transaction_timeout: Some(IDLE_IN_TRANSACTION_TIMEOUT),
        lock_timeout: Some(LOCK_TIMEOUT),
        ..postgres::Session::default()
    }
}
