//! Writing a batch: one transaction, repeated until it is committed, or until it is known that it must not be.

mod acquire;
mod bisect;
mod blocks;
mod closing;
mod failure;
mod keys;
mod session;

use std::time::{Duration, Instant};

use bytes::Bytes;
use postgres::{Class, DatabaseUrl};
use service::{Dependency, Shutdown, metrics};

use crate::batch::Batch;
use crate::clock;
use crate::encode::audit;
use crate::encode::time::Planned;
use crate::incidents;
use crate::position::PartitionKey;
use crate::prepare::pushes::Known;
use crate::prepare::{Prepared, Tally, set_aside};

pub use acquire::{Held, acquire};
use acquire::{Settled, settle};
use bisect::Budget;
use blocks::OrgNumbers;
pub use closing::Epochs;
use failure::Failure;
pub use session::settings;
use session::{OpenError, Session, Target};

/// First and longest pause before a repetition: of what was nobody's fault, and of what the server lacks something for.
const TRANSIENT_PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
const SATURATION_PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// A batch on its way into the database.
pub struct Work {
    /// Its records.
    pub batch: Batch,
    /// What they come to.
    pub prepared: Prepared,
    /// The epochs to write it under. Newer ones afterwards if they had to be taken anew.
    pub epochs: Epochs,
}

/// How writing ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// It is in the database, all of it.
    Committed,
    /// None of it is: another sink holds these partitions. To be written again without them.
    Fenced(Vec<PartitionKey>),
    /// None of it is: the database has these keyed pushes. To be prepared again, knowing them.
    Known(Known),
    /// None of it is, as far as is known, and the process is stopping.
    GivenUp,
}

/// Writing cannot go on; says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WriteError(String);

/// Writes batches, one at a time.
pub struct Writer {
    url: DatabaseUrl,
    postgres: Dependency,
    schema: Dependency,
    shutdown: Shutdown,
    session: Option<Session>,
    /// The last transaction may have been committed or not.
    in_doubt: bool,
    budget: Budget,
    org_numbers: OrgNumbers,
}

impl Writer {
    /// Connects when there is something to write. The dependencies are reported on.
    pub fn new(url: DatabaseUrl, postgres: Dependency, schema: Dependency, shutdown: Shutdown) -> Self {
        Self {
            url,
            postgres,
            schema,
            shutdown,
            session: None,
            in_doubt: false,
            budget: Budget::default(),
            org_numbers: OrgNumbers::default(),
        }
    }

    /// Writes a batch.
    ///
    /// # Errors
    /// Something that repeating would not mend. The batch is not in the database.
    pub async fn write(&mut self, work: &mut Work) -> Result<Written, WriteError> {
        let started = Instant::now();
        let mut careful = self.budget.expects_refusals(&work.prepared.org_names, started);
        let (mut transient, mut saturation) = (Pauses::new(TRANSIENT_PAUSES), Pauses::new(SATURATION_PAUSES));
        loop {
            let failure = match self.attempt(work, careful).await {
                Ok(Written::Committed) => {
                    committed(work, started.elapsed());
                    return Ok(Written::Committed);
                }
                Ok(written) => return Ok(written),
                Err(failure) => failure,
            };
            let pause = match failure {
                Failure::Fenced(partitions) => {
                    self.roll_back().await;
                    return Ok(fenced(partitions));
                }
                Failure::KeysTaken(detail) => {
                    self.roll_back().await;
                    tracing::debug!("pushes were stored by another sink in this moment: {detail}");
                    transient.next()
                }
                Failure::Data if !careful => {
                    self.roll_back().await;
                    careful = true;
                    continue;
                }
                Failure::Data => {
                    return Err(WriteError(
                        "Postgres refuses a value outside of the rows that were looked through; its log has the statement".into(),
                    ));
                }
                Failure::NoPartition(table) if !careful && table != Target::Quarantine.name() => {
                    // Perhaps for a row that none is planned for.
                    self.roll_back().await;
                    careful = true;
                    continue;
                }
                Failure::NoPartition(table) => {
                    self.roll_back().await;
                    careful = false;
                    metrics::SINK_ERRORS.with([Class::Fatal.name()]).add(1);
                    self.schema.down(format!(
                        "a partition of {table} for the months of these events; run `tidewatch-partitions apply`"
                    ));
                    saturation.next()
                }
                Failure::InDoubt(class, reason) => {
                    self.session = None;
                    self.in_doubt = true;
                    metrics::SINK_ERRORS.with([class.name()]).add(1);
                    self.postgres.down(&reason);
                    if class == Class::Saturation { saturation.next() } else { transient.next() }
                }
                Failure::Fatal(reason) => {
                    metrics::SINK_ERRORS.with([Class::Fatal.name()]).add(1);
                    return Err(WriteError(reason));
                }
            };
            metrics::SINK_BATCHES.with(["retried"]).add(1);
            if self.shutdown.unless_requested(tokio::time::sleep(pause)).await.is_none() {
                return Ok(Written::GivenUp);
            }
        }
    }

    /// One transaction. After a failure the session is as it is: aborted, or gone.
    async fn attempt(&mut self, work: &mut Work, careful: bool) -> Result<Written, Failure> {
        if self.session.is_none() {
            let session = Session::open(&self.url).await.map_err(|error| match error {
                OpenError::Connect(error) if error.class() == Class::Fatal => {
                    Failure::InDoubt(Class::Saturation, error.to_string())
                }
                OpenError::Connect(error) => Failure::InDoubt(error.class(), error.to_string()),
                OpenError::Prepare(error) => Failure::of(&error),
            })?;
            self.session = Some(session);
        }
        let Some(session) = &self.session else {
            return Err(Failure::InDoubt(Class::Transient, "no session".into()));
        };
        if self.in_doubt {
            let settled = settle(session.client(), &work.batch, &mut work.epochs).await?;
            self.in_doubt = false;
            match settled {
                Settled::Stored => return Ok(Written::Committed),
                Settled::Fenced(partitions) => return Ok(fenced(partitions)),
                Settled::NotStored => {}
            }
        }
        self.postgres.up();
        let learnt = self.org_numbers.learn(session.client(), session.org_numbers(), &work.prepared).await;
        learnt.map_err(|error| Failure::of(&error))?;
        if !work.prepared.pushes.is_empty() {
            let known =
                keys::look_up(session.client(), session.look_up_keys(), &work.batch, &work.prepared).await;
            let known = known.map_err(|error| Failure::of(&error))?;
            if !known.is_empty() {
                metrics::SINK_BATCHES.with(["rebuilt"]).add(1);
                return Ok(Written::Known(known));
            }
        }
        transaction(session, work, careful, &mut self.budget, &self.org_numbers).await?;
        self.schema.up();
        Ok(Written::Committed)
    }

    async fn roll_back(&mut self) {
        if let Some(session) = &self.session
            && session.execute("ROLLBACK").await.is_err()
        {
            self.session = None;
        }
    }
}

async fn transaction(
    session: &Session,
    work: &mut Work,
    careful: bool,
    budget: &mut Budget,
    org_numbers: &OrgNumbers,
) -> Result<(), Failure> {
    let planned = Planned::at(clock::now());
    service::failpoint("sink.begins");
    session.execute("BEGIN").await.map_err(|error| Failure::of(&error))?;
    if service::guard_is_off("sink.locks_last") {
        let lock = "SELECT FROM sink_partition FOR UPDATE";
        session.execute(lock).await.map_err(|error| Failure::of(&error))?;
    }

    let changes = if work.prepared.changes.is_empty() {
        None
    } else {
        let load =
            incidents::load(session.client(), session.load_incidents(), &work.batch, &work.prepared.changes);
        Some(load.await.map_err(|error| Failure::of(&error))?)
    };
    for target in [Target::Events, Target::Findings] {
        if careful {
            copy_what_is_taken(session, target, work, &planned, budget).await?;
        } else {
            let table = table_of(&work.prepared, target);
            copy(session, target, table.bytes(0..table.rows().len())).await?;
        }
    }
    copy(session, Target::Quarantine, Bytes::copy_from_slice(&work.prepared.quarantine.bytes)).await?;
    if let Some(changes) = &changes {
        let mut rows = Vec::new();
        changes.audit.iter().for_each(|row| audit::put(row, &planned, &mut rows));
        copy(session, Target::Audit, Bytes::from(rows)).await?;
    }

    let blocks = org_numbers.blocks(&work.prepared);
    let blocks = blocks.ok_or_else(|| Failure::Fatal("sink_org_numbers left out an org".into()))?;
    let message = closing::message(&work.batch, &work.prepared, &blocks, changes.as_ref(), &work.epochs);
    service::failpoint("sink.copied");
    if service::guard_is_off("sink.one_transaction") {
        session.execute("COMMIT; BEGIN").await.map_err(|error| Failure::of(&error))?;
        service::failpoint("sink.rows_committed");
    }
    let started = Instant::now();
    session.execute(&message).await.map_err(|error| match Failure::of(&error) {
        Failure::Data => Failure::Fatal(format!("sink_commit: {}", postgres::describe(&error))),
        failure => failure,
    })?;
    service::failpoint("sink.committed");
    metrics::SINK_COMMIT_DURATION.record_duration(started.elapsed());
    for (kind, n) in changes.iter().flat_map(|changes| &changes.kinds) {
        metrics::SINK_CHANGES.with([kind]).add(*n);
    }
    Ok(())
}

/// Copies all that Postgres takes and sets the rest aside; for good, so that a repetition need not look again.
async fn copy_what_is_taken(
    session: &Session,
    target: Target,
    work: &mut Work,
    planned: &Planned,
    budget: &mut Budget,
) -> Result<(), Failure> {
    let table = table_of(&work.prepared, target);
    if table.rows().is_empty() {
        return Ok(());
    }
    metrics::SINK_BISECTS.with([target.name()]).add(1);
    let refused = bisect::copy(session, target, table, &work.prepared.org_names, planned, budget).await?;
    for (row, refusal) in &refused {
        set_aside(&mut work.prepared, &work.batch, *row, refusal, planned);
    }
    if let Some((row, refusal)) = refused.first() {
        let org = work.prepared.org_names.get(row.org as usize).map_or("", |name| name);
        tracing::warn!(
            rows = refused.len(),
            org,
            reason = refusal.reason(),
            "quarantined rows of {} that Postgres refuses, the first one: {refusal}",
            target.name()
        );
    }
    match target {
        Target::Findings => work.prepared.findings.remove(refused.iter().map(|(row, _)| row)),
        _ => work.prepared.events.remove(refused.iter().map(|(row, _)| row)),
    }
    Ok(())
}

fn table_of(prepared: &Prepared, target: Target) -> &crate::prepare::table::Table {
    match target {
        Target::Findings => &prepared.findings,
        _ => &prepared.events,
    }
}

async fn copy(session: &Session, target: Target, rows: Bytes) -> Result<(), Failure> {
    if rows.is_empty() {
        return Ok(());
    }
    let started = Instant::now();
    session.copy(target, rows).await.map_err(|error| Failure::of(&error))?;
    metrics::SINK_COPY_DURATION.with([target.name()]).record_duration(started.elapsed());
    Ok(())
}

fn fenced(partitions: Vec<PartitionKey>) -> Written {
    let names: Vec<String> = partitions.iter().map(ToString::to_string).collect();
    tracing::error!(
        "{} taken by another sink: the transaction is refused, nothing of it is stored; what is still held here is \
         written again",
        names.join(", ")
    );
    metrics::SINK_FENCED.add(partitions.len() as u64);
    metrics::SINK_BATCHES.with(["fenced"]).add(1);
    Written::Fenced(partitions)
}

fn committed(work: &Work, took: Duration) {
    let Prepared { events, findings, quarantine, tallies, pushes, retried, oldest, .. } = &work.prepared;
    let total = tallies.values().fold(Tally::default(), |total, tally| Tally {
        received: total.received + tally.received,
        stored: total.stored + tally.stored,
        quarantined: total.quarantined + tally.quarantined,
        duplicates: total.duplicates + tally.duplicates,
    });
    let count = |n: i64| u64::try_from(n).unwrap_or(0);
    metrics::SINK_BATCHES.with(["committed"]).add(1);
    metrics::SINK_FLUSH_DURATION.record_duration(took);
    metrics::SINK_BATCH_SIZE.record(work.prepared.bytes() as f64);
    metrics::SINK_BATCH_ROWS.record((total.stored + total.quarantined) as f64);
    for (table, rows) in [
        ("events", events.rows().len() as u64),
        ("findings", findings.rows().len() as u64),
        ("quarantine", count(total.quarantined)),
        ("scans", work.prepared.scans.rows().len() as u64),
        ("push_key", pushes.len() as u64),
    ] {
        if rows > 0 {
            metrics::SINK_ROWS.with([table]).add(rows);
        }
    }
    for (reason, rows) in &quarantine.reasons {
        metrics::SINK_QUARANTINED.with([reason]).add(*rows);
    }
    for (kind, events) in [("replay", total.duplicates - retried), ("key", *retried)] {
        if events > 0 {
            metrics::SINK_DUPLICATES.with([kind]).add(count(events));
        }
    }
    let now = clock::now();
    for (stream, received_at) in ["events", "findings"].into_iter().zip(oldest) {
        if let Some(received_at) = received_at {
            metrics::SINK_DELAY.with([stream]).record(now.seconds_since(*received_at).max(0.0));
        }
    }
    tracing::debug!(
        stored = total.stored,
        quarantined = total.quarantined,
        duplicates = total.duplicates,
        millis = took.as_millis() as u64,
        "committed a batch"
    );
}

/// Growing pauses, spread so that several sinks do not come back together.
struct Pauses {
    next: Duration,
    longest: Duration,
}

impl Pauses {
    fn new((first, longest): (Duration, Duration)) -> Self {
        Self { next: first, longest }
    }

    fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause.mul_f64(0.5 + 0.5 * rand::random::<f64>())
    }
}
