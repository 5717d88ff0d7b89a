//! A database of its own for every test, and enriched records to put into it.
#![allow(dead_code, reason = "not every test uses all of it")]

use std::collections::BTreeMap;

use postgres::{Client, DatabaseUrl};
use schemas::{
    Event, EventBatch, Finding, FindingBatch, IncidentChange, Micros, Push, Reject, ScanActivity, Source,
};
use service::Context;
use tidewatch_sink::batch::{Batch, Incoming};
use tidewatch_sink::position::{PartitionKey, Position, Topic};
use tidewatch_sink::prepare::pushes::Known;
use tidewatch_sink::prepare::{Prepared, Preparer};
use tidewatch_sink::write::{Epochs, Held, Work, WriteError, Writer, Written, acquire};
use uuid::Uuid;

const MIGRATIONS: [&str; 3] = [
    include_str!("../../../schemas/migrations/V1__tables.sql"),
    include_str!("../../../schemas/migrations/V2__sink_commit.sql"),
    include_str!("../../../schemas/migrations/V4__push_keys.sql"),
];

pub const TOPIC_ID: Uuid = Uuid::from_u128(0x7e57);

pub struct Database {
    pub url: DatabaseUrl,
    pub client: Client,
}

impl Database {
    /// A new database without any tables.
    pub async fn empty() -> Self {
        let server: DatabaseUrl = std::env::var("TIDEWATCH_TEST_DATABASE_URL")
            .expect("TIDEWATCH_TEST_DATABASE_URL: run through make test")
            .parse()
            .unwrap();
        let name = format!("t_{}", Uuid::new_v4().simple());
        let admin = postgres::connect(&server).await.unwrap();
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let url = server.with_database(&name);
        let client = postgres::connect(&url).await.unwrap();
        Self { url, client }
    }

    pub async fn migrate(&self) {
        for migration in MIGRATIONS {
            self.client.batch_execute(migration).await.unwrap();
        }
        for table in ["events", "findings", "quarantine", "audit_log"] {
            for month in -6..=3 {
                self.add_month(table, month).await;
            }
        }
    }

    /// A new database with tables, and partitions for the planned months.
    pub async fn new() -> Self {
        let database = Self::empty().await;
        database.migrate().await;
        database
    }

    /// A partition for the month that many months from now.
    pub async fn add_month(&self, table: &str, month: i32) {
        let sql = format!(
            "DO $$ DECLARE s timestamptz := date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + make_interval(months => {month});
             BEGIN EXECUTE format('CREATE TABLE %I PARTITION OF {table} FOR VALUES FROM (%L) TO (%L)',
                '{table}_' || to_char(s, 'YYYYMM'), s, s + interval '1 month'); END $$"
        );
        self.client.batch_execute("SET TimeZone = 'UTC'").await.unwrap();
        self.client.batch_execute(&sql).await.unwrap();
    }

    pub async fn number(&self, query: &str) -> i64 {
        self.client.query_one(query, &[]).await.unwrap().get(0)
    }

    pub async fn text(&self, query: &str) -> String {
        self.client.query_one(query, &[]).await.unwrap().get(0)
    }

    /// What holds after any number of transactions: the ledger adds up without gaps, and counts are those of the rows.
    pub async fn assert_consistent(&self) {
        let checks = [
            ("ledger adds up", "SELECT count(*) FROM sink_ledger WHERE received <> stored + quarantined + duplicates"),
            (
                "ledger is contiguous",
                "SELECT count(*) FROM (SELECT first_offset, lag(next_offset) OVER (PARTITION BY topic, kpart ORDER BY first_offset)
                    AS before FROM sink_ledger) AS l WHERE before <> first_offset",
            ),
            (
                "ledger ends at the position",
                "SELECT count(*) FROM sink_partition p WHERE next_offset > 0 AND next_offset <>
                    (SELECT max(next_offset) FROM sink_ledger l WHERE l.topic = p.topic AND l.kpart = p.kpart)",
            ),
            (
                "quarantined rows are in quarantine",
                "SELECT (SELECT coalesce(sum(quarantined), 0) FROM sink_ledger)::bigint - (SELECT count(*) FROM quarantine)",
            ),
            (
                "identities are distinct",
                "SELECT count(*) - count(DISTINCT (kpart, koffset, kindex)) FROM events",
            ),
            (
                "counts are those of the rows",
                "SELECT count(*) FROM (
                    (SELECT org, hour, stream, class_uid, severity_id, sum(n)::bigint AS n FROM counts GROUP BY 1, 2, 3, 4, 5
                     EXCEPT ALL
                     (SELECT org, date_trunc('hour', time), 'events', class_uid, severity_id, count(*) FROM events GROUP BY 1, 2, 3, 4, 5
                      UNION ALL
                      SELECT org, date_trunc('hour', time), 'findings', class_uid, severity_id, count(*) FROM findings GROUP BY 1, 2, 3, 4, 5))
                ) AS d",
            ),
            (
                "counted rows are all rows",
                "SELECT (SELECT coalesce(sum(n), 0) FROM counts)::bigint - (SELECT count(*) FROM events) - (SELECT count(*) FROM findings)",
            ),
            (
                "incident counts are those of the rows",
                "SELECT count(*) FROM (
                    SELECT org, status, severity_id, sum(n)::bigint FROM incident_counts GROUP BY 1, 2, 3 HAVING sum(n) <> 0
                    EXCEPT ALL SELECT org, status, severity_id, count(*) FROM incidents GROUP BY 1, 2, 3) AS d",
            ),
            (
                "scan counts are those of the rows",
                "SELECT count(*) FROM (
                    SELECT org, state, sum(n)::bigint FROM scan_counts GROUP BY 1, 2 HAVING sum(n) <> 0
                    EXCEPT ALL SELECT org, state, count(*) FROM scans GROUP BY 1, 2) AS d",
            ),
        ];
        for (what, query) in checks {
            assert_eq!(self.number(query).await, 0, "{what}");
        }
    }
}

/// A sink without Kafka: records go straight into batches.
pub struct Sink {
    pub writer: Writer,
    pub preparer: Preparer,
    pub held: BTreeMap<PartitionKey, Held>,
    pub batch: Batch,
    pub context: Context,
}

impl Sink {
    /// One that has taken these partitions.
    pub async fn taking(database: &Database, partitions: &[PartitionKey]) -> Self {
        let context = Context::for_test();
        let dependency = |name: &str| context.health.dependency(name);
        let writer = Writer::new(
            database.url.clone(),
            dependency("postgres"),
            dependency("schema"),
            context.shutdown.clone(),
        );
        let held = acquire(&database.client, partitions).await.unwrap();
        Self { writer, preparer: Preparer::default(), held, batch: Batch::default(), context }
    }

    pub fn position(&self, partition: PartitionKey) -> Position {
        self.held[&partition].position
    }

    /// Takes a record at the partition's next offset.
    pub fn feed(&mut self, partition: PartitionKey, payload: Vec<u8>) {
        let position = &mut self.held.get_mut(&partition).unwrap().position;
        let (offset, timestamp) = (position.next_offset, Micros::now());
        let incoming = Incoming { offset, read_from: offset, timestamp, payload };
        self.batch.take(partition, 1, position, incoming).unwrap();
    }

    /// What it has been fed so far, ready to be written.
    pub fn work(&mut self) -> Work {
        let batch = std::mem::take(&mut self.batch);
        let prepared = self.preparer.prepare(&batch, Micros::now(), Prepared::default());
        let epochs: Epochs = self.held.iter().map(|(partition, held)| (*partition, held.epoch)).collect();
        Work { batch, prepared, epochs }
    }

    /// Writes what it has been fed, prepared again as often as the database has pushes of it.
    pub async fn flush(&mut self) -> Result<Written, WriteError> {
        let mut work = self.work();
        let written = loop {
            match self.writer.write(&mut work).await {
                Ok(Written::Known(known)) => self.learn(&mut work, known),
                written => break written,
            }
        };
        for (partition, epoch) in work.epochs {
            self.held.get_mut(&partition).unwrap().epoch = epoch;
        }
        written
    }

    /// Prepares again what holds pushes that are stored.
    pub fn learn(&mut self, work: &mut Work, known: Known) {
        work.batch.learn(known);
        let recycled = std::mem::take(&mut work.prepared);
        work.prepared = self.preparer.prepare(&work.batch, Micros::now(), recycled);
    }

    pub async fn commit(&mut self) {
        assert_eq!(self.flush().await.unwrap(), Written::Committed);
    }
}

pub const fn events(partition: i32) -> PartitionKey {
    PartitionKey { topic: Topic::Events, partition }
}

pub const fn findings(partition: i32) -> PartitionKey {
    PartitionKey { topic: Topic::Findings, partition }
}

pub const fn incidents(partition: i32) -> PartitionKey {
    PartitionKey { topic: Topic::Incidents, partition }
}

pub fn source(partition: i32, offset: i64) -> Source {
    Source { topic_id: TOPIC_ID, partition, from: offset, offset }
}

pub fn event(org: &'static str, index: i32) -> Event<'static> {
    let now = Micros::now();
    Event {
        index,
        time: Micros(now.0 - i64::from(index) * 1_000_000),
        received_at: now,
        org: org.into(),
        class_uid: 3002,
        activity_id: 1,
        severity_id: 1 + index % 3,
        host: Some("web-1".into()),
        user: Some("root".into()),
        src_ip: Some("10.1.2.3".into()),
        dst_ip: None,
        src_port: Some(22),
        dst_port: None,
        source_type: "sshd".into(),
        message: Some("Failed password for root from 10.1.2.3 port 22 ssh2".into()),
        repeat: 1,
        labels: vec![],
        attributes: Some(r#"{"pid":4711}"#.into()),
        flags: 0,
        event_uid: None,
    }
}

pub fn reject(index: i32) -> Reject<'static> {
    Reject {
        index,
        received_at: Micros::now(),
        org: Some("demo".into()),
        reason: "invalid_json".into(),
        detail: "expected value".into(),
        bytes: b"{\0".as_slice().into(),
        digest: None,
    }
}

pub fn event_record(source: Source, events: Vec<Event<'_>>, rejects: Vec<Reject<'_>>) -> Vec<u8> {
    let mut payload = Vec::new();
    schemas::encode(&EventBatch { source, events, rejects, pushes: vec![] }, &mut payload);
    payload
}

/// A record of that many events, all fine.
pub fn plain_record(partition: i32, offset: i64, count: i32) -> Vec<u8> {
    event_record(source(partition, offset), (0..count).map(|index| event("demo", index)).collect(), vec![])
}

/// A share of a push: `rows` from `first_index`, of a push whose body is as the digest `body`.
pub fn push(key: &'static str, part: i32, body: u8, first_index: i32, rows: i32) -> Push<'static> {
    Push {
        org: "demo".into(),
        key: key.into(),
        digest: vec![body; 32].into(),
        part,
        first_index,
        count: rows,
    }
}

/// A record of events, all fine, with shares of pushes.
pub fn keyed_record(partition: i32, offset: i64, count: i32, pushes: Vec<Push<'_>>) -> Vec<u8> {
    let events = (0..count).map(|index| event("demo", index)).collect();
    let mut payload = Vec::new();
    let batch = EventBatch { source: source(partition, offset), events, rejects: vec![], pushes };
    schemas::encode(&batch, &mut payload);
    payload
}

pub fn finding(org: &'static str, index: i32) -> Finding<'static> {
    let now = Micros::now();
    Finding {
        index,
        time: now,
        received_at: now,
        org: org.into(),
        scan_id: Some("scan-1".into()),
        uid: "f-1".into(),
        scan_type: "code".into(),
        class_uid: 2002,
        severity_id: 5,
        kind: "secret".into(),
        title: Some("A key in the code".into()),
        resource: Some("src/main.rs".into()),
        risk: Some(90),
        host: None,
        user: None,
        message: None,
        labels: vec![],
        attributes: None,
        flags: 0,
        event_uid: None,
    }
}

pub fn scan(scan_id: &'static str, sequence: i64, state: &'static str) -> ScanActivity<'static> {
    let now = Micros::now();
    ScanActivity {
        index: sequence as i32,
        time: Micros(now.0 + sequence),
        received_at: now,
        org: "demo".into(),
        scan_id: scan_id.into(),
        scan_type: "code".into(),
        sequence,
        state: state.into(),
        progress: Some(10),
        queue_position: None,
        duration_ms: Some(5),
        target: Some("repo".into()),
        message: None,
        attributes: Some(r#"{"a":"it's \\ fine"}"#.into()),
    }
}

pub fn finding_record(source: Source, findings: Vec<Finding<'_>>, scans: Vec<ScanActivity<'_>>) -> Vec<u8> {
    let mut payload = Vec::new();
    schemas::encode(&FindingBatch { source, findings, scans, rejects: vec![], pushes: vec![] }, &mut payload);
    payload
}

pub fn change_record(change: &IncidentChange<'_>) -> Vec<u8> {
    let mut payload = Vec::new();
    schemas::encode(change, &mut payload);
    payload
}
