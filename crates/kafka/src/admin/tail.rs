//! The last record of a partition.

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
    /// The last record of a partition that a consumer can read; `None` when there is none. Whatever else the log ends
    /// with (markers of transactions, records of aborted ones, holes of compaction) is read over.
    ///
    /// # Errors
    /// No broker answered, there is no such partition, or it grows faster than it can be read.
    pub async fn last_record(&self, topic: &str, partition: i32) -> Result<Option<Record>, Error> {
        let topic = topic.to_owned();
        self.ask("reading the last record", move |inner| inner.last_record(&topic, partition)).await
    }
}

impl Inner {
    fn last_record(&self, topic: &str, partition: i32) -> Result<Option<Record>, Error> {
        let action = || format!("reading the last record of {topic}[{partition}]");
        let failed = |error: KafkaError| Error::new(action(), &error);
        let (low, high) = self.watermarks(topic, partition)?;
        if low >= high {
            return Ok(None);
        }
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
        let reader: BaseConsumer<Quiet> = config.create_with_context(Quiet::default()).map_err(failed)?;
        let deadline = Instant::now() + TAIL_PATIENCE;
        // Back from the end, each time further: what was read over before holds no record and costs little.
        let mut distance = FIRST_DISTANCE;
        loop {
            let start = high.saturating_sub(distance).max(low);
            let mut list = TopicPartitionList::with_capacity(1);
            list.add_partition_offset(topic, partition, Offset::Offset(start)).map_err(failed)?;
            reader.assign(&list).map_err(failed)?;
            let last = read_to_end(&reader, start, deadline, failed)?;
            if last.is_some() || start == low {
                return Ok(last);
            }
            if Instant::now() > deadline {
                return Err(failed(KafkaError::MessageConsumption(Code::OperationTimedOut)));
            }
            distance = distance.saturating_mul(FIRST_DISTANCE);
        }
    }
}

fn read_to_end(
    reader: &BaseConsumer<Quiet>,
    start: i64,
    deadline: Instant,
    failed: impl Fn(KafkaError) -> Error,
) -> Result<Option<Record>, Error> {
    let mut last: Option<Record> = None;
    loop {
        match reader.poll(Timeout::After(POLL_INTERVAL)) {
            Some(Ok(message)) => {
                let before = last.as_ref().map_or(start, Record::position_after);
                last = Some(Record::from_message(&message, message.topic().into(), before));
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(last),
            Some(Err(error)) => {
                let error = failed(error);
                if !error.is_retriable() {
                    return Err(error);
                }
            }
            None => {}
        }
        if Instant::now() > deadline {
            return Err(failed(KafkaError::MessageConsumption(Code::OperationTimedOut)));
        }
    }
}
