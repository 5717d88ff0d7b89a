//! Faults of the brokers and of what is in them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use rand::Rng;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tidewatch_dev::Service;

use crate::session::{RATE, Session};
use crate::system::{System, Wishes};

/// Partitions of a topic that had four.
const GROWN: i32 = 8;
const TRANSACTION_PATIENCE: Duration = Duration::from_secs(20);

pub async fn killed(session: &Session) -> Result<()> {
    let name = "kafka-killed";
    let mut rng = session.rng(name);
    let mut own = session.own(name).await?;
    let mut system = session.system_on(&own, name, Wishes::default()).await?;
    let feed = system.feed(&session.input, RATE)?;
    for _ in 0..2 {
        system.pass(Duration::from_millis(rng.random_range(1_000..3_000))).await?;
        own.kafka.kill().await?;
        let restart = own.kafka.restart();
        system.supervise(restart).await?;
    }
    session.conclude(&mut system, feed).await?;
    deaths_explained(&system)?;
    system.stop().await
}

/// What a broker that comes back may do to an instance, which says so, ends, and is started again: a coordinator that has
/// lost its memory, or reads a request that its sender has given up, takes it for its own double; or its client has been told
/// that no broker is alive, and never connects again. Nothing else has died.
pub fn deaths_explained(system: &System) -> Result<()> {
    for name in &system.deaths {
        let log = std::fs::read_to_string(system.log(name)).context("reading the log of what has died")?;
        let known =
            ["Static consumer fenced", "answers a new client"].iter().any(|reason| log.contains(reason));
        ensure!(known, "services died of it: {:?}", system.deaths);
    }
    Ok(())
}

pub async fn paused(session: &Session) -> Result<()> {
    let name = "kafka-paused";
    let own = session.own(name).await?;
    let mut system = session.system_on(&own, name, Wishes::default()).await?;
    let feed = system.feed(&session.input, RATE)?;
    system.until_stored(1_000).await?;
    own.kafka.process().signal(Signal::SIGSTOP)?;
    system.pass(Duration::from_secs(20)).await?;
    own.kafka.process().signal(Signal::SIGCONT)?;
    session.conclude(&mut system, feed).await?;
    deaths_explained(&system)?;
    system.stop().await
}

pub async fn partitions_added(session: &Session) -> Result<()> {
    let environment = vec![(Service::Ingest, "TIDEWATCH_PARTITION_REFRESH", "1s".to_owned())];
    let mut system = session.system(Wishes { environment, ..Wishes::default() }).await?;
    let feed = system.feed(&session.input, RATE)?;
    system.until_stored(1_000).await?;
    let admin = system.admin()?;
    // The enriched topics first: a raw record goes to the partition of the same number.
    for topic in ["events", "findings", "events.raw", "findings.raw"] {
        admin.add_partitions(&system.name(topic), GROWN).await?;
    }
    session.conclude(&mut system, feed).await?;
    let database = system.database().await?;
    let query = "SELECT count(*) FROM sink_partition WHERE topic = 'events' AND kpart >= 4 AND next_source_offset > 0";
    let used: i64 = database.query_one(query, &[]).await?.get(0);
    ensure!(used > 0, "nothing has gone through the new partitions");
    ensure!(system.deaths.is_empty(), "services died of it: {:?}", system.deaths);
    system.stop().await
}

/// A topic that takes only small records for a moment: the broker refuses a large one and takes its neighbours.
pub async fn one_undelivered(session: &Session) -> Result<()> {
    let mut system = session.system(Wishes::default()).await?;
    let feed = system.feed(&session.input, RATE)?;
    system.until_stored(1_000).await?;
    let topic = system.name("events");
    // Batches of a hundred events come to some 20 KB, those of the findings stay below.
    limit(&system.kafka().brokers, &topic, 12_000).await?;
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !system.deaths.iter().any(|name| name == "enrich") {
        ensure!(std::time::Instant::now() < deadline, "enrich lives on although its record was refused");
        system.pass(Duration::from_millis(50)).await?;
    }
    limit(&system.kafka().brokers, &topic, 8 << 20).await?;
    session.conclude(&mut system, feed).await?;
    ensure!(
        system.deaths.iter().all(|name| name == "enrich"),
        "others than enrich died: {:?}",
        system.deaths
    );
    system.stop().await
}

async fn limit(brokers: &str, topic: &str, bytes: u32) -> Result<()> {
    use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};

    let admin: AdminClient<rdkafka::client::DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let bytes = bytes.to_string();
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("max.message.bytes", &bytes);
    let answers = admin.alter_configs([&change], &AdminOptions::new()).await.context("limiting a topic")?;
    for answer in answers {
        answer.map_err(|(resource, code)| anyhow::anyhow!("limiting {resource:?}: {code}"))?;
    }
    Ok(())
}

pub async fn transactions(session: &Session) -> Result<()> {
    let mut rng = session.rng("transactional-producer");
    let mut system = session.system(Wishes::default()).await?;
    let feed = system.feed(&session.input, RATE)?;
    system.until_stored(1).await?;
    let topic = system.name("events.raw");
    let kafka = system.kafka();
    let plan: Vec<(i32, bool, u32)> =
        (0..40).map(|_| (rng.random_range(0..4), rng.random_bool(0.5), rng.random_range(1..20))).collect();
    let committed: u32 = plan.iter().filter(|(_, commit, _)| *commit).map(|(_, _, records)| records).sum();
    let produced = tokio::task::spawn_blocking(move || produce(&kafka.brokers, &topic, &plan));
    system.supervise(async { produced.await? }).await?;
    session.conclude(&mut system, feed).await?;
    let database = system.database().await?;
    let count = "SELECT count(*) FROM events WHERE message LIKE 'in a transaction%'";
    let stored: i64 = database.query_one(count, &[]).await?.get(0);
    ensure!(
        stored == i64::from(committed),
        "{committed} records of transactions were committed, {stored} are stored"
    );
    let aborted = "SELECT count(*) FROM events WHERE message LIKE 'aborted%'";
    let stored: i64 = database.query_one(aborted, &[]).await?.get(0);
    ensure!(stored == 0, "{stored} records of aborted transactions are stored");
    ensure!(system.deaths.is_empty(), "services died of it: {:?}", system.deaths);
    system.stop().await
}

/// Transactions one after the other: partition, whether it is committed, records.
fn produce(brokers: &str, topic: &str, plan: &[(i32, bool, u32)]) -> Result<()> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("transactional.id", format!("{topic}-foreign"))
        .create()?;
    producer.init_transactions(TRANSACTION_PATIENCE)?;
    for (partition, commit, records) in plan {
        producer.begin_transaction()?;
        for number in 0..*records {
            let words = if *commit { "in a transaction" } else { "aborted" };
            let payload = format!("{{\"message\":\"{words} {number}\",\"host\":\"db-1\"}}");
            let headers = OwnedHeaders::new().insert(Header { key: "org", value: Some("demo") });
            let record =
                BaseRecord::<(), str>::to(topic).partition(*partition).payload(&payload).headers(headers);
            producer.send(record).map_err(|(error, _)| error)?;
        }
        producer.flush(TRANSACTION_PATIENCE)?;
        match commit {
            true => producer.commit_transaction(TRANSACTION_PATIENCE)?,
            false => producer.abort_transaction(TRANSACTION_PATIENCE)?,
        }
    }
    Ok(())
}
