//! Measures `tidewatch-partitions doctor` on a private Postgres that is filled by SQL.
//!
//! `target/release/tidewatch with-stack -- cargo run --release -p tidewatch-partitions --example doctor -- [EVENTS] [ORGS]`
#![allow(clippy::print_stdout, reason = "prints for people")]

use std::time::Instant;

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use postgres::{Client, DatabaseUrl};
use tidewatch_partitions::{Horizon, Options, apply, doctor, migrate};
use uuid::Uuid;

/// Events of a raw record, raw records of a range of the ledger, partitions: a transaction is of 10,000 events.
const PER_RECORD: i64 = 500;
const RECORDS: i64 = 5;
const PARTITIONS: i64 = 4;
const PER_RANGE: i64 = PER_RECORD * RECORDS;

/// Events of the last 60 days, one in 50 of them a day late; as long as real ones, in the order of the sink's commits.
const EVENTS: &str = r#"
    INSERT INTO events (time, received_at, org, class_uid, activity_id, severity_id, host, "user", src_ip, src_port,
        source_type, message, repeat, attributes, flags, kpart, koffset, kindex)
    SELECT at - CASE WHEN n % 50 = 0 THEN interval '20 hours' ELSE interval '0' END, at,
        'org-' || lpad((place * $orgs / $per_range)::text, 5, '0'), (ARRAY[3002, 4002, 1007])[1 + n % 3], 1,
        1 + (n % 7 = 0)::integer, 'host-' || n % 400, CASE WHEN n % 2 = 0 THEN 'user-' || n % 900 END,
        ('192.0.2.' || n % 250)::inet, 50122, 'sshd',
        'Failed password for invalid user admin from 192.0.2.' || n % 250 || ' port 50122 ssh2', 1,
        format('{"run":"r-1","seq":%s,"session":"8c1f0a77","outcome":"failure","path":"C:\\temp\\%s"}', n, n)::json, 0,
        n / $per_range % $partitions, n / ($per_range * $partitions) * $records + place / $per_record, place % $per_record
    FROM (SELECT n, n % $per_range AS place, now() - interval '60 days' + interval '60 days' * (n::float8 / $events) AS at
          FROM generate_series(0, $events - 1) AS n) AS numbered"#;

/// The rest of what the sink would have written: one in 2,501 quarantined.
const REST: &[&str] = &[
    "INSERT INTO quarantine (received_at, stream, kpart, koffset, kindex, reason, detail, payload)
     SELECT now(), 'events', range % $partitions, range / $partitions * $records, $per_record, 'invalid_json', '', ''
     FROM generate_series(0, $events / $per_range - 1) AS range",
    "INSERT INTO sink_ledger (topic, kpart, first_offset, next_offset, first_source, next_source, epoch, received, stored,
         quarantined, duplicates, committed_at)
     SELECT 'events', range % $partitions, first, first + $records, first, first + $records, 1, $per_range + 1, $per_range, 1, 0,
         now() - interval '60 days' + interval '60 days' * (range::float8 * $per_range / $events)
     FROM (SELECT range, range / $partitions * $records AS first FROM generate_series(0, $events / $per_range - 1) AS range) AS r",
    "INSERT INTO sink_partition (topic, kpart, epoch, next_offset, source_topic_id, next_source_offset)
     SELECT topic, kpart, 1, max(next_offset), gen_random_uuid(), max(next_source) FROM sink_ledger GROUP BY 1, 2",
    "INSERT INTO count_org (org) SELECT DISTINCT org FROM events ORDER BY 1",
    "INSERT INTO count_block (block, hour, stream, class_uid, severity_id, slot, n)
     SELECT block, hour, 'events', class_uid, severity_id, 0,
         (SELECT array_agg(coalesce((places ->> place::text)::bigint, 0) ORDER BY place) FROM generate_series(0, 63) AS place)
     FROM (SELECT block, hour, class_uid, severity_id, jsonb_object_agg(place, n) AS places
           FROM (SELECT number / 64 AS block, number % 64 AS place, date_trunc('hour', time) AS hour, class_uid, severity_id,
                     count(*) AS n
                 FROM events JOIN count_org USING (org) GROUP BY 1, 2, 3, 4, 5) AS counted
           GROUP BY 1, 2, 3, 4) AS blocks",
    "INSERT INTO incidents (org, id, rule_id, rule_hash, title, description, severity_id, tags, reference_urls,
         false_positives, group_key, entities, first_time, last_time, event_count, evidence, evidence_truncated, flags,
         created_at, updated_at)
     SELECT min(org), gen_random_uuid(), 'r', 'h', 't', 'd', 3, '{}', '{}', '{}', '[]', '[]', min(time), max(time), count(*),
         jsonb_agg(jsonb_build_object('stream', 'events', 'partition', kpart, 'offset', koffset, 'index', kindex, 'time',
             (extract(epoch FROM time) * 1000000)::bigint)), false, 0, now(), now()
     FROM events WHERE kindex < 100 AND koffset % 20 = 0 GROUP BY kpart, koffset",
    "INSERT INTO incident_counts SELECT org, status, severity_id, 0, count(*) FROM incidents GROUP BY 1, 2, 3",
];

async fn database() -> anyhow::Result<(Client, DatabaseUrl)> {
    let server: DatabaseUrl = std::env::var("TIDEWATCH_TEST_DATABASE_URL")
        .context("run it through tidewatch with-stack")?
        .parse()?;
    let name = format!("doctor_{}", Uuid::new_v4().simple());
    postgres::connect(&server).await?.batch_execute(&format!("CREATE DATABASE {name}")).await?;
    let url = server.with_database(&name);
    let mut client = postgres::connect(&url).await?;
    migrate(&mut client).await?;
    apply(&mut client, Timestamp::now(), Horizon::default()).await?;
    client.batch_execute("SET TimeZone = 'UTC'; SET synchronous_commit = off").await?;
    Ok((client, url))
}

fn peak_mib() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("?").trim().to_owned()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let events: i64 = args.next().map_or(Ok(20_000_000), |text| text.parse())?;
    let orgs: i64 = args.next().map_or(Ok(50), |text| text.parse())?;
    let events = events / (PER_RANGE * PARTITIONS) * PER_RANGE * PARTITIONS;
    let (client, url) = database().await?;
    let started = Instant::now();
    for statement in std::iter::once(&EVENTS).chain(REST) {
        let mut sql = (*statement).to_owned();
        for (name, value) in [
            ("$events", events),
            ("$orgs", orgs),
            ("$per_range", PER_RANGE),
            ("$per_record", PER_RECORD),
            ("$records", RECORDS),
            ("$partitions", PARTITIONS),
        ] {
            sql = sql.replace(name, &value.to_string());
        }
        client.batch_execute(&sql).await?;
    }
    let bytes =
        "SELECT sum(pg_table_size(inhrelid))::bigint FROM pg_inherits WHERE inhparent = 'events'::regclass";
    let bytes: i64 = client.query_one(bytes, &[]).await?.get(0);
    println!(
        "{events} events of {orgs} orgs, {:.1} GB, made in {:.0} s",
        bytes as f64 / 1e9,
        started.elapsed().as_secs_f64()
    );
    for connections in [1, 2] {
        let options = Options { connections, ..Options::default() };
        let report = doctor(&url, &options, &|_| {}).await?;
        for check in report.checks.iter().filter(|check| !check.is_ok()) {
            println!("{}: {:?}", check.name, check.problems);
        }
        ensure!(report.ok, "not everything adds up");
        println!("{connections} connections: {:.1} s, peak {}", report.seconds, peak_mib());
    }
    Ok(())
}
