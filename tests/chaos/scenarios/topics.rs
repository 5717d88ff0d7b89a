//! Topics that are made anew, and records that are gone before they were read. Going on alone would lose or double
//! something, so services stop and name a command; an operator runs what they name, and nothing else.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use schemas::{EventBatch, RawBatch};
use tidewatch_dev::Service;

use crate::input::Input;
use crate::operator::Operator;
use crate::session::{RATE, Session};
use crate::system::{System, Wishes};
use crate::verdict;

/// Partitions that lose something.
const EXPIRING: [i32; 2] = [0, 1];
const KAFKA_PATIENCE: Duration = Duration::from_secs(20);

fn admin(system: &System) -> Result<AdminClient<DefaultClientContext>> {
    Ok(ClientConfig::new().set("bootstrap.servers", &system.kafka().brokers).create()?)
}

/// Deletes a topic and makes it anew.
async fn make_anew(system: &System, topic: &str) -> Result<()> {
    let topic = system.name(topic);
    let answers = admin(system)?.delete_topics(&[&topic], &AdminOptions::new()).await?;
    for answer in answers {
        answer.map_err(|(name, code)| anyhow::anyhow!("deleting {name}: {code}"))?;
    }
    let deadline = std::time::Instant::now() + KAFKA_PATIENCE;
    // Deletion is answered before it is done everywhere: until then the topic is there already.
    while !system.deployment.partitions(&["topics"]).await?.contains(&format!("made {topic},")) {
        ensure!(std::time::Instant::now() < deadline, "{topic} is still there");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// What the operator was told, and that everything was among these.
fn heeded(system: &System, allowed: &[&str]) -> Result<()> {
    let heeded = system.operator.as_ref().map(|operator| operator.heeded.as_slice()).unwrap_or_default();
    println!("    heeded: {}", heeded.join("; "));
    ensure!(!heeded.is_empty(), "nobody named a command");
    let other = heeded.iter().find(|command| !allowed.iter().any(|begin| command.starts_with(begin)));
    ensure!(other.is_none(), "a service named {other:?}, which is no way out here");
    Ok(())
}

/// Everything was stored before, so nothing is lost with the topic. What comes after is stored too.
pub async fn raw_anew(session: &Session) -> Result<()> {
    let mut system = session.system(Wishes::default()).await?;
    let feed = system.feed(&session.input, RATE * 4)?;
    session.conclude(&mut system, feed).await?;
    system.operator = Some(Operator::default());

    make_anew(&system, "events.raw").await?;
    let second = Input::write_as(session.seed + 1, "after-")?;
    let feed = system.feed(&second, RATE * 4)?;
    let acknowledged = session.end(&mut system, feed).await?;
    verdict::judge_both(&system, &[&session.input, &second], &acknowledged).await?;
    heeded(&system, &["accept --new-topic events.raw/", "accept --new-topic events/"])?;
    system.stop().await
}

/// The raw topic has all of it still, so all of it is stored.
pub async fn enriched_anew(session: &Session) -> Result<()> {
    let mut system = session.system(Wishes::default()).await?;
    system.operator = Some(Operator::default());
    let feed = system.feed(&session.input, RATE)?;
    system.until_stored(3_000).await?;
    make_anew(&system, "events").await?;
    let acknowledged = session.end(&mut system, feed).await?;
    verdict::judge(&system, &session.input, &acknowledged, None).await?;
    heeded(&system, &["accept --new-topic events/"])?;
    system.stop().await
}

pub async fn raw_expired(session: &Session) -> Result<()> {
    expired(session, Service::Enrich, "events.raw", &["accept --gap events.raw/", "accept --gap events/"])
        .await
}

pub async fn enriched_expired(session: &Session) -> Result<()> {
    expired(session, Service::Sink, "events", &["accept --gap events/"]).await
}

/// A service is away while all of the input arrives, and half of what it has not read of two partitions is removed. What
/// is lost is exactly that.
async fn expired(session: &Session, service: Service, topic: &str, allowed: &[&str]) -> Result<()> {
    let mut system = session.system(Wishes::default()).await?;
    let mut feed = system.feed(&session.input, RATE)?;
    system.until_stored(1_000).await?;
    system.services().kill(service.name()).await?;
    let acknowledged = system.supervise(feed.finish()).await?;
    let removed = remove_half(&system, topic).await?;
    system.operator = Some(Operator::default());
    system.services().revive_one(service.name())?;
    system.drain().await?;
    let lost = verdict::judge_with_loss(&system, &session.input, &acknowledged).await?;
    ensure!(lost == removed, "{removed} records were removed, and {lost} are not stored");
    heeded(&system, allowed)?;
    system.stop().await
}

/// Removes the first half of what has not been read of some partitions; returns how many events that were.
async fn remove_half(system: &System, topic: &str) -> Result<usize> {
    let (kafka, name) = (system.admin()?, system.name(topic));
    let mut cuts = Vec::new();
    for partition in EXPIRING {
        let position = position(system, topic, partition).await?;
        let (_, end) = kafka.watermarks(&name, partition).await?;
        ensure!(end - position >= 4, "{name}[{partition}] has only {} records to read", end - position);
        cuts.push((partition, position, position + (end - position) / 2));
    }
    let (brokers, of) = (system.kafka().brokers, name.clone());
    let ranges = cuts.clone();
    let events = tokio::task::spawn_blocking(move || count(&brokers, &of, &ranges)).await??;
    let mut list = TopicPartitionList::new();
    for (partition, _, cut) in cuts {
        list.add_partition_offset(&name, partition, Offset::Offset(cut))?;
    }
    admin(system)?.delete_records(&list, &AdminOptions::new()).await.context("removing records")?;
    Ok(events)
}

/// What the reader of a topic has come to: what follows the last enriched record, or what the sink has.
async fn position(system: &System, topic: &str, partition: i32) -> Result<i64> {
    if topic == "events" {
        let query = "SELECT next_offset FROM sink_partition WHERE topic = 'events' AND kpart = $1";
        return Ok(system.database().await?.query_one(query, &[&partition]).await?.get(0));
    }
    let last = system.admin()?.last_records(&system.name("events"), &[partition]).await?;
    let Some((_, Some(last))) = last.into_iter().next() else { return Ok(0) };
    let body = schemas::current_body::<EventBatch<'_>>(&last.payload)?;
    Ok(schemas::decode_body::<EventBatch<'_>>(&body)?.source.offset + 1)
}

/// Events in these ranges of offsets.
fn count(brokers: &str, topic: &str, ranges: &[(i32, i64, i64)]) -> Result<usize> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", format!("{topic}-count"))
        .set("enable.auto.commit", "false")
        .create()?;
    let mut events = 0;
    for (partition, from, to) in ranges {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, *partition, Offset::Offset(*from))?;
        consumer.assign(&list)?;
        let mut next = *from;
        while next < *to {
            let message = consumer.poll(KAFKA_PATIENCE).context("a topic cannot be read")??;
            next = message.offset() + 1;
            if next <= *to {
                events += events_in(message.payload().unwrap_or_default())?;
            }
        }
    }
    Ok(events)
}

fn events_in(payload: &[u8]) -> Result<usize> {
    if let Ok(body) = schemas::current_body::<RawBatch<'_>>(payload) {
        return Ok(schemas::decode_body::<RawBatch<'_>>(&body)?
            .runs
            .iter()
            .map(|run| run.records.len())
            .sum());
    }
    let body = schemas::current_body::<EventBatch<'_>>(payload)?;
    let batch = schemas::decode_body::<EventBatch<'_>>(&body)?;
    Ok(batch.events.len() + batch.rejects.len())
}
