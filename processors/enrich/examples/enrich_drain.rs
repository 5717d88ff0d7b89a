//! Fills `events.raw` of a private Kafka and measures how fast the service drains it.
//!
//! `target/release/tidewatch with-stack -- cargo run --release -p tidewatch-enrich --example enrich_drain -- [EVENTS]`
#![allow(clippy::print_stdout, reason = "prints for people")]

use std::time::{Duration, Instant};

use anyhow::Context as _;
use kafka::{Admin, KafkaArgs, Outgoing, Producer, ProducerOptions, SendError, TopicPartition, TopicSpec};
use schemas::{Micros, RawBatchWriter, RunHead, Stream};
use service::{Context, ServiceArgs};
use tidewatch_enrich::Config;

const PARTITIONS: i32 = 4;
const BATCH_EVENTS: usize = 500;

/// Lines of every kind, some 270 B on average.
fn line(number: usize) -> String {
    match number % 5 {
        0 => format!(
            r#"{{"time":"2025-11-21T08:30:20.{:06}Z","class_uid":3002,"activity_id":1,"severity_id":1,"src_ip":"192.0.2.{}","src_port":50122,"user":"alice","host":"web-1","message":"login ok for alice from the office","run":"r-1","seq":{number},"session":"8c1f0a","outcome":"success","region":"eu-1"}}"#,
            number % 1_000_000,
            number % 250
        ),
        1 => format!(
            r#"{{"@timestamp":"2025-11-21T08:30:20.966Z","source":{{"ip":"192.0.2.{}","port":50122}},"user":{{"name":"alice"}},"host":{{"name":"web-1"}},"event":{{"category":["web"],"outcome":"success"}},"url":{{"path":"/index.html","query":"a={number}"}},"http":{{"request":{{"method":"GET"}}}},"message":"GET /index.html"}}"#,
            number % 250
        ),
        2 => format!(
            "<38>Nov 21 08:00:00 web-1 sshd[{number}]: Failed password for invalid user admin from 192.0.2.{} port 50122 ssh2",
            number % 250
        ),
        3 => format!(
            r#"192.0.2.{} - - [21/Nov/2025:08:00:00 +0000] "GET /index.php?id={number} HTTP/1.1" 200 2326 "https://example.com/" "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Safari/537.36""#,
            number % 250
        ),
        _ => format!(
            r#"{{"EventID":1,"Channel":"Microsoft-Windows-Sysmon/Operational","Computer":"WS1","UtcTime":"2025-11-21 08:30:20.964","Image":"C:\\Windows\\System32\\cmd.exe","CommandLine":"cmd.exe /c whoami {number}","ParentImage":"C:\\Windows\\explorer.exe","User":"EXAMPLE\\alice","ProcessId":{number}}}"#
        ),
    }
}

/// CPU time of this process, seconds.
fn cpu_seconds() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0);
    Ok((ticks(11) + ticks(12)) / 100.0)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let events: usize = std::env::args().nth(1).map_or(Ok(1_000_000), |text| text.parse())?;
    let brokers =
        std::env::var("TIDEWATCH_TEST_KAFKA_BROKERS").context("run it through tidewatch with-stack")?;
    let args = KafkaArgs::new(brokers).with_prefix("drain-".parse()?);
    let admin = Admin::new(&args)?;
    let names: Vec<_> = Stream::ALL.iter().flat_map(|stream| [stream.raw_topic(), stream.name()]).collect();
    let specs: Vec<_> = names
        .iter()
        .map(|name| TopicSpec {
            name: args.topic(name),
            partitions: PARTITIONS,
            replication: None,
            config: vec![("max.message.bytes".into(), (8 << 20).to_string())],
        })
        .collect();
    admin.ensure_topics(&specs).await?;

    let producer = Producer::new(&args, ProducerOptions::new("drain"))?;
    let topic = args.topic(Stream::Events.raw_topic());
    let mut bytes = 0;
    for (batch, first) in (0..events).step_by(BATCH_EVENTS).enumerate() {
        let lines: Vec<String> = (first..(first + BATCH_EVENTS).min(events)).map(line).collect();
        bytes += lines.iter().map(String::len).sum::<usize>();
        let mut writer = RawBatchWriter::new();
        let head = RunHead { org: "demo", protocol: "http", format: "json", key: None };
        writer.push_run(head, Micros::now(), "sender", lines.iter().map(String::as_bytes));
        let payload = writer.finish();
        let partition = i32::try_from(batch)? % PARTITIONS;
        loop {
            let outgoing = Outgoing { topic: &topic, partition, key: None, headers: &[], payload: &payload };
            match producer.send(outgoing, Box::new(drop)) {
                Ok(()) => break,
                Err(SendError::QueueFull) => producer.room(payload.len()).await?,
                Err(error) => return Err(error.into()),
            }
        }
    }
    producer.flush(Duration::from_secs(60)).await?;
    println!("{events} events, {} B on average", bytes / events.max(1));

    let partitions: Vec<_> =
        (0..PARTITIONS).map(|number| TopicPartition::new(topic.as_str(), number)).collect();
    let mut ends = 0;
    for partition in 0..PARTITIONS {
        ends += admin.watermarks(&topic, partition).await?.1;
    }
    let config = Config {
        kafka: args.clone(),
        default_org: None,
        assets: None,
        threat_lists: Vec::new(),
        service: ServiceArgs::default(),
    };
    let context = Context::for_test();
    let (started, cpu) = (Instant::now(), cpu_seconds()?);
    let running = tokio::spawn(tidewatch_enrich::run(config, context.clone()));
    loop {
        let mut enriched = 0;
        for partition in 0..PARTITIONS {
            enriched += admin.watermarks(&args.topic(Stream::Events.name()), partition).await?.1;
        }
        if enriched >= ends {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (took, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
    context.shutdown.request();
    running.await??;
    let committed: i64 = admin
        .committed(&args.group("tidewatch-enrich-events.raw"), &partitions)
        .await?
        .into_iter()
        .filter_map(|(_, offset)| offset)
        .sum();
    let memory = std::fs::read_to_string("/proc/self/status")?;
    let peak = memory.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    println!(
        "{took:.1} s, {:.0} events/s, {:.2} µs of CPU an event, {peak}; committed {committed} of {ends}",
        events as f64 / took,
        cpu * 1e6 / events as f64
    );
    Ok(())
}
