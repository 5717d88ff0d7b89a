//! The last records of partitions.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message;
use rdkafka::util::Timeout;
use rdkafka::{Offset, TopicPartitionList};

use super::{Admin, Inner};
use crate::context::Quiet;
use crate::error::Error;
use crate::record::Record;

/// Reading back over everything that is not a record.
const TAIL_PATIENCE: Duration = Duration::from_secs(30);
/// Records at the end of a partition read to begin with. Few, for they may be large, and brokers send whole batches
/// anyway.
const FIRST_DISTANCE: i64 = 4;
const POLL_INTERVAL: Duration = Duration::from_millis(100);

impl Admin {
    /// The last record of each of these partitions that a consumer can read, in their order; `None` where there is none.
    /// Whatever else a log ends with (markers of transactions, records of aborted ones, holes of compaction) is read over.
    ///
    /// # Errors
    /// No broker answered, there is no such partition, or one grows faster than it can be read.
    pub async fn last_records(
        &self,
        topic: &str,
        partitions: &[i32],
    ) -> Result<Vec<(i32, Option<Record>)>, Error> {
        let (topic, partitions) = (topic.to_owned(), partitions.to_vec());
        self.ask("reading the last records", move |inner| inner.last_records(&topic, &partitions)).await
    }
}

/// The search in one partition: back from the end, each time further. What was read over before holds no record and
/// costs little.
struct Tail {
    partition: i32,
    low: i64,
    high: i64,
    distance: i64,
    /// Where reading began this time.
    start: i64,
    last: Option<Record>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    /// Nothing between `start` and the end: to be read from further back.
    Empty,
    Done,
}

impl Tail {
    fn new(partition: i32, (low, high): (i64, i64)) -> Self {
        let state = if low < high { State::Empty } else { State::Done };
        Self { partition, low, high, distance: FIRST_DISTANCE, start: high, last: None, state }
    }

    /// Where to begin next.
    fn step_back(&mut self) -> i64 {
        self.start = self.high.saturating_sub(self.distance).max(self.low);
        self.distance = self.distance.saturating_mul(FIRST_DISTANCE);
        self.state = State::Reading;
        self.start
    }

    fn read(&mut self, record: Record) {
        // The end is known beforehand: where a record is the last thing there, nothing is waited for.
        if record.position_after() >= self.high {
            self.state = State::Done;
        }
        self.last = Some(record);
    }

    fn end(&mut self) {
        let found = self.last.is_some() || self.start == self.low;
        self.state = if found { State::Done } else { State::Empty };
    }
}

impl Inner {
    fn last_records(&self, topic: &str, partitions: &[i32]) -> Result<Vec<(i32, Option<Record>)>, Error> {
        let failed = |error: KafkaError| Error::new(format!("reading the last records of {topic}"), &error);
        let mut tails = Vec::with_capacity(partitions.len());
        for partition in partitions {
            tails.push(Tail::new(*partition, self.watermarks(topic, *partition)?));
        }
        let deadline = Instant::now() + TAIL_PATIENCE;
        let mut reader = None;
        while tails.iter().any(|tail| tail.state != State::Done) {
            let mut list = TopicPartitionList::with_capacity(tails.len());
            for tail in tails.iter_mut().filter(|tail| tail.state == State::Empty) {
                let start = Offset::Offset(tail.step_back());
                list.add_partition_offset(topic, tail.partition, start).map_err(failed)?;
            }
            let reader = match &reader {
                Some(reader) => reader,
                None => reader.insert(self.tail_reader().map_err(failed)?),
            };
            reader.assign(&list).map_err(failed)?;
            while tails.iter().any(|tail| tail.state == State::Reading) {
                if Instant::now() > deadline {
                    return Err(failed(KafkaError::MessageConsumption(Code::OperationTimedOut)));
                }
                poll(reader, &mut tails, failed)?;
            }
        }
        Ok(tails.into_iter().map(|tail| (tail.partition, tail.last)).collect())
    }

    /// A reader of partitions that are assigned by hand.
    pub(super) fn tail_reader(&self) -> Result<BaseConsumer<Quiet>, KafkaError> {
        let mut config = self.args.client_config("tidewatch-admin");
        config
            // Assigning asks for a group; nothing is committed and none is joined.
            .set("group.id", self.args.group("tidewatch-tail"))
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("fetch.queue.backoff.ms", "1")
            .set("fetch.wait.max.ms", "10");
        config.create_with_context(Quiet::default())
    }
}

fn reading(tails: &mut [Tail], partition: i32) -> Option<&mut Tail> {
    tails.iter_mut().find(|tail| tail.partition == partition && tail.state == State::Reading)
}

fn poll(
    reader: &BaseConsumer<Quiet>,
    tails: &mut [Tail],
    failed: impl Fn(KafkaError) -> Error,
) -> Result<(), Error> {
    match reader.poll(Timeout::After(POLL_INTERVAL)) {
        Some(Ok(message)) => {
            if let Some(tail) = reading(tails, message.partition()) {
                let before = tail.last.as_ref().map_or(tail.start, Record::position_after);
                tail.read(Record::from_message(&message, message.topic().into(), before));
            }
        }
        Some(Err(KafkaError::PartitionEOF(partition))) => {
            if let Some(tail) = reading(tails, partition) {
                tail.end();
            }
        }
        Some(Err(error)) => {
            let error = failed(error);
            if !error.is_retriable() {
                return Err(error);
            }
        }
        None => {}
    }
    Ok(())
}
