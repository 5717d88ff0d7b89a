//! What a record costs to produce and to consume, in CPU of this process and in wall time:
//!
//! ```text
//! tidewatch with-stack -- sh -c \
//!     'cargo run --release -p tidewatch-kafka --example cost -- --kafka-brokers $TIDEWATCH_TEST_KAFKA_BROKERS'
//! ```
#![allow(clippy::print_stdout, reason = "it is its purpose")]

use std::error::Error;
use std::time::{Duration, Instant};

use clap::Parser;
use tidewatch_kafka::{
    Admin, Consumer, ConsumerOptions, Input, KafkaArgs, Outgoing, Producer, ProducerOptions, SendError,
    Start, StartAt, TopicSpec,
};

/// Produces and consumes records and says what each cost.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    kafka: KafkaArgs,
    /// Bytes of a record
    #[arg(long, default_value_t = 100_000)]
    bytes: usize,
    /// Records
    #[arg(long, default_value_t = 5_000)]
    records: usize,
}

const PARTITIONS: i32 = 4;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let Options { kafka, bytes, records } = Options::parse();
    let topic = kafka.topic(&format!("cost-{}", uuid::Uuid::new_v4().simple()));
    let admin = Admin::new(&kafka)?;
    let config = vec![("max.message.bytes".into(), (8 << 20).to_string())];
    let spec = TopicSpec { name: topic.clone(), partitions: PARTITIONS, replication: None, config };
    admin.ensure_topics(&[spec]).await?;

    let producer = Producer::new(&kafka, ProducerOptions::new("cost"))?;
    let payload = payload(bytes);
    let start = Spent::now()?;
    for number in 0..records {
        let partition = i32::try_from(number % 4)?;
        let record = Outgoing { topic: &topic, partition, key: None, headers: &[], payload: &payload };
        loop {
            match producer.send(record, Box::new(drop)) {
                Ok(()) => break,
                Err(SendError::QueueFull) => producer.room(payload.len()).await?,
                Err(error) => return Err(error.into()),
            }
        }
    }
    producer.flush(Duration::from_secs(60)).await?;
    start.tell("produced", records, payload.len())?;

    let options = ConsumerOptions::new("cost", kafka.group("cost"), vec![topic.clone()]);
    let consumer = Consumer::start(&kafka, options)?;
    let (mut start, mut seen, mut batches) = (Spent::now()?, 0, 0);
    while seen < records {
        match consumer.next().await.ok_or("ended")? {
            Input::Assigned { partitions, reply } => {
                // Joining a group is not the record's cost.
                start = Spent::now()?;
                let start = Start::Beginning;
                reply.send(partitions.into_iter().map(|at| StartAt { at, start }).collect());
            }
            Input::Records(records) => {
                seen += records.len();
                batches += 1;
            }
            Input::Revoked { done, .. } => done.send(()),
            Input::Failed(error) => return Err(error.into()),
        }
    }
    start.tell("consumed", records, payload.len())?;
    println!("in {batches} batches");
    consumer.close().await;
    admin.delete_topics(&[&topic]).await?;
    Ok(())
}

/// Log lines with much in common and something of their own, as a batch of events has them.
fn payload(bytes: usize) -> Vec<u8> {
    let mut text = String::with_capacity(bytes + 256);
    let mut number = 1_u64;
    while text.len() < bytes {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str("{\"time\":\"2026-01-01T00:00:00Z\",\"host\":\"web-");
        text.push_str(&format!(
            "{}\",\"src_ip\":\"10.{}.7.{}\",",
            number % 97,
            number >> 56,
            number >> 40 & 255
        ));
        text.push_str(&format!("\"message\":\"request {number:x} took {} ms\"}}\n", number >> 33 & 1023));
    }
    text.truncate(bytes);
    text.into_bytes()
}

struct Spent {
    cpu: Duration,
    at: Instant,
}

impl Spent {
    fn now() -> Result<Self, Box<dyn Error>> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        let fields = stat.rsplit_once(')').ok_or("stat")?.1;
        // utime and stime, in hundredths of a second.
        let ticks =
            fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        Ok(Self { cpu: Duration::from_millis(ticks * 10), at: Instant::now() })
    }

    fn tell(&self, what: &str, records: usize, bytes: usize) -> Result<(), Box<dyn Error>> {
        let now = Self::now()?;
        let (cpu, wall) = (now.cpu - self.cpu, now.at - self.at);
        let each = |time: Duration| time.as_secs_f64() * 1e6 / records as f64;
        println!(
            "{what} {records} records of {bytes} bytes: {:.1} µs of CPU and {:.1} µs of time each, {:.0} MB/s",
            each(cpu),
            each(wall),
            (records * bytes) as f64 / 1e6 / wall.as_secs_f64()
        );
        Ok(())
    }
}
