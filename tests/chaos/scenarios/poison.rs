//! Records that are no good, among those that are.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::session::{RATE, Session};
use crate::system::{System, Wishes};

/// Single records that end in quarantine or are refused by index, each pushed among good neighbours.
fn poison() -> Vec<Vec<u8>> {
    let nested = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let texts = [
        r#"{"message":"NUL \u0000 escaped","host":"h","more":{"a":"\u0000"}}"#.to_owned(),
        r#"{"message":"lone surrogate \ud800","host":"h"}"#.to_owned(),
        r#"{"time":"1970-01-01T00:00:00Z","message":"old"}"#.to_owned(),
        r#"{"time":"2100-01-01T00:00:00Z","message":"to come"}"#.to_owned(),
        r#"{"message":"numbers","class_uid":99999999999999999999,"src_port":70000,"severity_id":-1e400}"#
            .to_owned(),
        r#"{"message":"numbers","class_uid":-9223372036854775808,"src_ip":"999.1.1.1"}"#.to_owned(),
        format!("{{\"message\":\"nested\",\"deep\":{nested}}}"),
        format!("{{\"message\":\"{}\"}}", "\\u0001".repeat(40_000)),
        "not json at all {".to_owned(),
        format!("{{\"message\":\"{REFUSED}\"}}"),
    ];
    let mut poison: Vec<Vec<u8>> = texts.into_iter().map(String::into_bytes).collect();
    poison.push(b"{\"message\":\"bytes \xff\xfe\",\"host\":\"h\"}".to_vec());
    poison
}

/// A message that only the server refuses, for want of a rule of ours that would.
const REFUSED: &str = "refused by the server alone";

async fn refuse(system: &System) -> Result<()> {
    let constraint =
        format!("ALTER TABLE events ADD CONSTRAINT no_poison CHECK (message <> '{REFUSED}') NOT VALID");
    system.database().await?.batch_execute(&constraint).await.context("adding a constraint")
}

/// Among the input of everybody else: one by one in quarantine, neighbours stored, nobody dies.
pub async fn among_neighbours(session: &Session) -> Result<()> {
    let mut system = session.system(Wishes::default()).await?;
    refuse(&system).await?;
    let feed = system.feed(&session.input, RATE)?;
    let (url, token) = (system.services().ingest_url(), system.deployment.tokens().ingest.clone());
    let client = reqwest::Client::new();
    let mut neighbours = 0i64;
    for (number, record) in poison().into_iter().enumerate() {
        let mut body = Vec::new();
        for line in [
            format!("{{\"message\":\"neighbour\",\"n\":{number}}}").as_bytes(),
            &record,
            format!("{{\"message\":\"neighbour\",\"n\":{number}}}").as_bytes(),
        ] {
            body.extend_from_slice(line);
            body.push(b'\n');
        }
        let push = client
            .post(format!("{url}/v1/events"))
            .bearer_auth(&token)
            .header("content-type", "application/x-ndjson")
            .body(body);
        let status = push.send().await.context("pushing poison")?.status();
        ensure!(status.is_success(), "ingest answered {status} to poison {number} with good neighbours");
        neighbours += 2;
    }
    let (kafka, raw, enriched) = (system.kafka(), system.name("events.raw"), system.name("events"));
    tokio::task::spawn_blocking(move || produce_garbage(&kafka.brokers, &raw, &enriched)).await??;
    session.conclude(&mut system, feed).await?;
    let database = system.database().await?;
    let stored: i64 =
        database.query_one("SELECT count(*) FROM events WHERE message = 'neighbour'", &[]).await?.get(0);
    ensure!(stored == neighbours, "{stored} of {neighbours} neighbours of poison are stored");
    let held: i64 = database.query_one("SELECT count(*) FROM quarantine", &[]).await?.get(0);
    ensure!(held >= 5, "only {held} records are in quarantine");
    ensure!(system.deaths.is_empty(), "services died of it: {:?}", system.deaths);
    println!("    {held} records in quarantine");
    system.stop().await
}

/// What a foreign producer may write: framing of an unknown schema, truncated Avro, empty values, a record without org, and
/// records on the enriched topic that enrich never wrote.
fn produce_garbage(brokers: &str, raw: &str, enriched: &str) -> Result<()> {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let unknown = b"\xc3\x01\x00\x11\x22\x33\x44\x55\x66\x77rest".to_vec();
    let truncated = {
        let mut writer = schemas::RawBatchWriter::new();
        let head = schemas::RunHead { org: "demo", protocol: "http", format: "json", key: None };
        let records = [b"{\"message\":\"cut\"}".as_slice()];
        writer.push_run(head, schemas::Micros::now(), "me", records.into_iter());
        let mut bytes = writer.finish();
        bytes.truncate(bytes.len() - 4);
        bytes
    };
    for (topic, payload) in [
        (raw, unknown.clone()),
        (raw, truncated.clone()),
        (raw, Vec::new()),
        (raw, vec![0; 100_000]),
        (enriched, unknown),
        (enriched, truncated),
        (enriched, b"{}".to_vec()),
    ] {
        for partition in 0..4 {
            let headers = OwnedHeaders::new().insert(Header { key: "org", value: Some("demo") });
            let record =
                BaseRecord::<(), [u8]>::to(topic).partition(partition).payload(&payload).headers(headers);
            producer.send(record).map_err(|(error, _)| error)?;
            let anonymous = BaseRecord::<(), [u8]>::to(topic).partition(partition).payload(&payload);
            producer.send(anonymous).map_err(|(error, _)| error)?;
        }
    }
    producer.flush(Duration::from_secs(20))?;
    Ok(())
}

/// Events whose storing is timed.
const BESIDE_POISON: u64 = 200_000;

/// How long many events take to be stored while another org sends nothing but poison, against how long it takes while that
/// org sends as much that is good.
pub async fn does_not_slow_others(session: &Session) -> Result<()> {
    let beside_good = time_to_store(session, "nothing wrong with it").await?;
    let beside_poison = time_to_store(session, REFUSED).await?;
    println!(
        "    {:.1} s beside good records, {:.1} s beside poison",
        beside_good.as_secs_f32(),
        beside_poison.as_secs_f32()
    );
    ensure!(
        beside_poison < beside_good * 2,
        "poison slows the others down from {beside_good:?} to {beside_poison:?}"
    );
    Ok(())
}

async fn time_to_store(session: &Session, message: &str) -> Result<Duration> {
    let mut system = session.system(Wishes::default()).await?;
    refuse(&system).await?;
    let other = other_org(&system, message).await?;
    let begun = Instant::now();
    system.generate(BESIDE_POISON).await?;
    let database = system.database().await?;
    let query = "SELECT coalesce(sum(n), 0)::bigint FROM counts WHERE org = 'demo' AND stream = 'events'";
    let stored = async {
        while database.query_one(query, &[]).await?.get::<_, i64>(0) < BESIDE_POISON as i64 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    };
    system.supervise(stored).await?;
    let took = begun.elapsed();
    other.abort();
    system.stop().await?;
    Ok(took)
}

/// An org that pushes events with this message, so many a second.
async fn other_org(system: &System, message: &str) -> Result<tokio::task::JoinHandle<()>> {
    let tokens = system.deployment.add_org("other").await?;
    let url = system.deployment.services.ingest_url();
    let event = format!("{{\"message\":\"{message}\",\"host\":\"h\"}}");
    let body = vec![event; 200].join("\n");
    let mut pushes = tokio::time::interval(Duration::from_millis(20));
    Ok(tokio::spawn(async move {
        let client = reqwest::Client::new();
        loop {
            pushes.tick().await;
            let push = client
                .post(format!("{url}/v1/events"))
                .bearer_auth(&tokens.ingest)
                .header("content-type", "application/x-ndjson")
                .body(body.clone());
            // Taken or not: it goes on.
            let _ = push.send().await;
        }
    }))
}
