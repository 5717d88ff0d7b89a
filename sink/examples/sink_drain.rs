//! Measures the sink on a private Kafka and Postgres: preparing alone, COPY alone, and the sink draining a filled topic in
//! turn without exactly-once and counts, with the first, with both, and with nothing but keyed pushes.
//!
//! `target/release/tidewatch with-stack -- cargo run --release -p tidewatch-sink --example sink_drain -- [EVENTS] [ORGS]`
#![allow(clippy::print_stdout, reason = "prints for people")]

use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use futures::SinkExt;
use kafka::{Admin, KafkaArgs, Outgoing, Producer, ProducerOptions, SendError, TopicSpec};
use postgres::{Client, DatabaseUrl, PostgresArgs};
use schemas::{Event, EventBatch, Micros, Push, Source};
use service::Context;
use tidewatch_sink::batch::{Batch, Incoming, Limits};
use tidewatch_sink::encode::{HEADER, TRAILER, event};
use tidewatch_sink::position::{PartitionKey, Position, Topic};
use tidewatch_sink::prepare::{Prepared, Preparer};
use tidewatch_sink::{Config, run};
use uuid::Uuid;

const PARTITIONS: i32 = 4;
const BATCH_EVENTS: usize = 500;
const MIGRATIONS: [&str; 3] = [
    include_str!("../../schemas/migrations/V1__tables.sql"),
    include_str!("../../schemas/migrations/V2__sink_commit.sql"),
    include_str!("../../schemas/migrations/V4__push_keys.sql"),
];
/// Times that each pipe is measured, in turn.
const ROUNDS: usize = 3;

/// What is drained, and how much of `sink_commit` there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pipe {
    /// Only COPY and COMMIT: no epochs, positions, ledger or counts.
    Bare,
    /// With epochs, positions and ledger.
    Fenced,
    /// With counts too: the sink as it is.
    Whole,
    /// The sink as it is, each raw record a push with a key.
    Keyed,
}

impl Pipe {
    const ALL: [Pipe; 4] = [Pipe::Bare, Pipe::Fenced, Pipe::Whole, Pipe::Keyed];

    /// Takes out of the database what this pipe has not.
    async fn prepare(self, client: &Client) -> anyhow::Result<()> {
        let query = "SELECT pg_get_functiondef('sink_commit'::regproc)";
        let whole: String = client.query_one(query, &[]).await?.get(0);
        let (head, body) = whole.split_once("AS $function$").context("sink_commit has a body")?;
        let function = match self {
            Pipe::Whole | Pipe::Keyed => return Ok(()),
            Pipe::Bare => format!(
                "{head}AS $function$ BEGIN
                     INSERT INTO drained SELECT sum(received) FROM json_to_recordset(p_partitions) AS b (received bigint);
                 END $function$"
            ),
            Pipe::Fenced => {
                let (before, counts) = body.split_once("INSERT INTO count_block").context("sink_commit counts")?;
                let (_, after) = counts.split_once(';').context("the statement that counts ends")?;
                format!("{head}AS $function${before}{after}")
            }
        };
        Ok(client.batch_execute(&function).await?)
    }

    /// Counts the events committed.
    fn committed(self) -> &'static str {
        match self {
            Pipe::Bare => "SELECT coalesce(sum(n), 0)::bigint FROM drained",
            _ => "SELECT coalesce(sum(stored), 0)::bigint FROM sink_ledger",
        }
    }
}

/// One of several kinds, 270 B as JSON.
fn event(number: usize, org: &str, now: Micros) -> Event<'static> {
    let ip = format!("192.0.{}.{}", number / 250 % 250, number % 250);
    let (class_uid, source_type, message) = match number % 3 {
        0 => (3002, "sshd", format!("Failed password for invalid user admin from {ip} port 50122 ssh2")),
        1 => (4002, "web_access", format!("GET /index.php?id={number} HTTP/1.1 200 2326")),
        _ => (1007, "windows", format!(r"C:\Windows\System32\cmd.exe /c whoami {number}")),
    };
    Event {
        index: (number % BATCH_EVENTS) as i32,
        time: Micros(now.0 - (number * 7 % 2_000_000) as i64),
        received_at: now,
        org: org.to_owned().into(),
        class_uid,
        activity_id: 1,
        severity_id: 1 + number.is_multiple_of(7) as i32,
        host: Some(format!("host-{}", number % 400).into()),
        user: number.is_multiple_of(2).then(|| format!("user-{}", number % 900).into()),
        src_ip: Some(ip.into()),
        dst_ip: None,
        src_port: Some(50122),
        dst_port: None,
        source_type: source_type.into(),
        message: Some(message.into()),
        repeat: 1,
        labels: if number.is_multiple_of(10) { vec!["dmz".into()] } else { vec![] },
        attributes: Some(
            format!(r#"{{"run":"r-1","seq":{number},"session":"8c1f0a77","outcome":"failure","path":"C:\\temp\\{number}"}}"#).into(),
        ),
        flags: 0,
        event_uid: None,
    }
}

/// Records in turn over the partitions; `keyed`: each one is a push with a key.
fn records(events: usize, orgs: usize, keyed: bool) -> Vec<(i32, Vec<u8>)> {
    let names: Vec<String> = (0..orgs).map(|org| format!("org-{org:05}")).collect();
    let now = Micros::now();
    let record = |batch: usize| {
        let partition = (batch % PARTITIONS as usize) as i32;
        let offset = (batch / PARTITIONS as usize) as i64;
        let first = batch * BATCH_EVENTS;
        // Runs of an org, as a shipper's pushes make them, unless there are many orgs.
        let run = (BATCH_EVENTS / orgs).max(4);
        let org = |number: usize| names.get((number / run) % orgs).map_or("demo", String::as_str);
        let mut events: Vec<Event<'_>> = (first..(first + BATCH_EVENTS).min(events))
            .map(|number| event(number, org(number), now))
            .collect();
        let source = Source { topic_id: Uuid::from_u128(1), partition, from: offset, offset };
        let mut pushes = Vec::new();
        if keyed {
            events.iter_mut().for_each(|event| event.event_uid = Some(Uuid::new_v4()));
            pushes.push(Push {
                org: org(first).to_owned().into(),
                key: Uuid::new_v4().to_string().into(),
                digest: vec![7; 32].into(),
                part: 0,
                first_index: 0,
                count: events.len() as i32,
            });
        }
        let mut payload = Vec::new();
        schemas::encode(&EventBatch { source, events, rejects: vec![], pushes }, &mut payload);
        (partition, payload)
    };
    (0..events.div_ceil(BATCH_EVENTS)).map(record).collect()
}

fn batches(records: &[(i32, Vec<u8>)]) -> Vec<Batch> {
    let limits = Limits { rows: 20_000, bytes: 4 << 20 };
    let mut positions = [Position::START; PARTITIONS as usize];
    let (mut batches, mut batch) = (Vec::new(), Batch::default());
    for (partition, payload) in records {
        let Some(position) = positions.get_mut(*partition as usize) else { continue };
        let key = PartitionKey { topic: Topic::Events, partition: *partition };
        let offset = position.next_offset;
        let incoming =
            Incoming { offset, read_from: offset, timestamp: Micros::now(), payload: payload.clone() };
        if batch.take(key, 1, position, incoming).is_ok() && batch.full(&limits).is_some() {
            batches.push(std::mem::take(&mut batch));
        }
    }
    batches.push(batch);
    batches.retain(|batch| !batch.is_empty());
    batches
}

async fn database() -> anyhow::Result<(Client, DatabaseUrl)> {
    let server: DatabaseUrl = std::env::var("TIDEWATCH_TEST_DATABASE_URL")
        .context("run it through tidewatch with-stack")?
        .parse()?;
    let name = format!("drain_{}", Uuid::new_v4().simple());
    postgres::connect(&server).await?.batch_execute(&format!("CREATE DATABASE {name}")).await?;
    let url = server.with_database(&name);
    let client = postgres::connect(&url).await?;
    for migration in MIGRATIONS {
        client.batch_execute(migration).await?;
    }
    for table in ["events", "findings", "quarantine", "audit_log"] {
        let sql =
            "PARTITION OF {table} FOR VALUES FROM ('2020-01-01') TO ('2100-01-01')".replace("{table}", table);
        client.batch_execute(&format!("CREATE TABLE {table}_all {sql}")).await?;
    }
    Ok((client, url))
}

/// CPU seconds of a process.
fn cpu_of(pid: &str) -> Option<(f64, String)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit(") ").next()?.split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0);
    Some(((ticks(11) + ticks(12)) / 100.0, fields.get(1)?.to_string()))
}

/// CPU seconds of a server's processes, those that have ended aside.
fn cpu_of_children(parent: &str) -> f64 {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = processes.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter_map(|pid| cpu_of(&pid)).filter(|(_, of)| of == parent).map(|(seconds, _)| seconds).sum()
}

fn peak_mib() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("?").trim().to_owned()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let events: usize = args.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let orgs: usize = args.next().map_or(Ok(20), |text| text.parse())?;
    let per_event = |seconds: f64| seconds * 1e6 / events as f64;
    let records = records(events, orgs, false);
    let bytes: usize = records.iter().map(|(_, payload)| payload.len()).sum();
    println!("{events} events of {orgs} orgs, {} B each as Avro", bytes / events);

    let built = batches(&records);
    let (mut preparer, mut prepared) = (Preparer::default(), Prepared::default());
    let start = Instant::now();
    for batch in &built {
        prepared = preparer.prepare(batch, Micros::now(), prepared);
    }
    println!("prepare alone: {:.2} us CPU/event", per_event(start.elapsed().as_secs_f64()));

    let tables: Vec<Bytes> = built
        .iter()
        .map(|batch| {
            let prepared = preparer.prepare(batch, Micros::now(), Prepared::default());
            prepared.events.bytes(0..prepared.events.rows().len())
        })
        .collect();
    drop(built);
    let (client, _) = database().await?;
    let postmaster = parent_of_backend(&client).await?;
    let statement = client.prepare(event::COPY).await?;
    let (start, before) = (Instant::now(), cpu_of_children(&postmaster));
    for rows in tables {
        let sink = client.copy_in::<_, Bytes>(&statement).await?;
        let mut sink = std::pin::pin!(sink);
        for part in [Bytes::from_static(HEADER), rows, Bytes::from_static(TRAILER)] {
            sink.send(part).await?;
        }
        sink.finish().await?;
    }
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_of_children(&postmaster) - before);
    println!(
        "COPY alone: {:.0} rows/s, Postgres {:.2} us CPU/event",
        events as f64 / seconds,
        per_event(cpu)
    );

    drop(records);
    let mut rates = Pipe::ALL.map(|pipe| (pipe, Vec::new()));
    for _ in 0..ROUNDS {
        for (pipe, rates) in &mut rates {
            rates.push(drain(events, orgs, *pipe, &postmaster).await?);
        }
    }
    let mut before = None;
    for (pipe, mut rates) in rates {
        rates.sort_by(f64::total_cmp);
        let rate = rates.get(ROUNDS / 2).copied().unwrap_or_default();
        let change =
            before.map_or(String::new(), |before| format!(", {:+.1} %", (rate / before - 1.0) * 100.0));
        println!("{pipe:?}: median {rate:.0} rows/s{change}");
        before = Some(rate);
    }
    Ok(())
}

/// Drains topics of its own into a database of its own; rows a second from the first commit.
async fn drain(events: usize, orgs: usize, pipe: Pipe, postmaster: &str) -> anyhow::Result<f64> {
    let per_event = |seconds: f64| seconds * 1e6 / events as f64;
    let topics = fill(records(events, orgs, pipe == Pipe::Keyed)).await?;
    let (client, url) = database().await?;
    client.batch_execute("CREATE TABLE drained (n bigint)").await?;
    pipe.prepare(&client).await?;
    let config = Config::new(topics, PostgresArgs::new(url));
    let context = Context::for_test();
    let me = std::process::id().to_string();
    let own = || cpu_of(&me).map_or(0.0, |(seconds, _)| seconds);
    let (start, before, own_before) = (Instant::now(), cpu_of_children(postmaster), own());
    let sink = tokio::spawn(run(config, context.clone()));
    let mut first = None;
    loop {
        let stored: i64 = client.query_one(pipe.committed(), &[]).await?.get(0);
        if stored > 0 {
            first.get_or_insert_with(Instant::now);
        }
        if stored == events as i64 {
            break;
        }
        anyhow::ensure!(!sink.is_finished(), "the sink ended: {:?}", sink.await?);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let end = Instant::now();
    let (postgres, own) = (cpu_of_children(postmaster) - before, own() - own_before);
    let steady = first.map_or(end - start, |first| end - first).as_secs_f64();
    println!(
        "{pipe:?}: {:.0} rows/s from the first commit, sink {:.2} us, Postgres {:.2} us CPU/event, peak {}",
        events as f64 / steady,
        per_event(own),
        per_event(postgres),
        peak_mib(),
    );
    context.shutdown.request();
    sink.await??;
    let name: String = client.query_one("SELECT current_database()::text", &[]).await?.get(0);
    drop(client);
    let server: DatabaseUrl = std::env::var("TIDEWATCH_TEST_DATABASE_URL")?.parse()?;
    postgres::connect(&server).await?.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await?;
    Ok(events as f64 / steady)
}

async fn parent_of_backend(client: &Client) -> anyhow::Result<String> {
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    Ok(cpu_of(&pid.to_string()).context("Postgres is on another machine")?.1)
}

async fn fill(records: Vec<(i32, Vec<u8>)>) -> anyhow::Result<KafkaArgs> {
    let brokers =
        std::env::var("TIDEWATCH_TEST_KAFKA_BROKERS").context("run it through tidewatch with-stack")?;
    let args = KafkaArgs::new(brokers).with_prefix(format!("drain-{}.", Uuid::new_v4().simple()).parse()?);
    let specs = ["events", "findings", "incidents"].map(|name| TopicSpec {
        name: args.topic(name),
        partitions: PARTITIONS,
        replication: None,
        config: vec![("max.message.bytes".into(), (8 << 20).to_string())],
    });
    Admin::new(&args)?.ensure_topics(&specs).await?;
    let producer = Producer::new(&args, ProducerOptions::new("drain"))?;
    let topic = args.topic("events");
    for (partition, payload) in records {
        let outgoing = || Outgoing { topic: &topic, partition, key: None, headers: &[], payload: &payload };
        while let Err(error) = producer.send(outgoing(), Box::new(|_| {})) {
            anyhow::ensure!(matches!(error, SendError::QueueFull), "{error}");
            producer.room(payload.len()).await?;
        }
    }
    producer.flush(Duration::from_secs(60)).await?;
    Ok(args)
}
