//! Reading a partition from an offset on.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::util::Timeout;
use rdkafka::{Message as _, Offset, TopicPartitionList};

use super::{Admin, Inner};
use crate::error::Error;
use crate::record::Record;

/// Without a record for so long, the broker does not answer.
const RECORD_PATIENCE: Duration = Duration::from_secs(15);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

impl Admin {
    /// Gives `step` the records of a partition from `start` on, in order, until it breaks or the log ends where it ended
    /// when reading began; returns the state. No group is joined and nothing committed.
    ///
    /// # Errors
    /// No broker answered, there is no such partition, or it begins after `start`.
    pub async fn scan<S: Send + 'static>(
        &self,
        topic: &str,
        partition: i32,
        start: i64,
        state: S,
        step: impl FnMut(&mut S, Record) -> ControlFlow<()> + Send + 'static,
    ) -> Result<S, Error> {
        let topic = topic.to_owned();
        self.blocking("reading a partition", move |inner| inner.scan(&topic, partition, start, state, step))
            .await
    }
}

impl Inner {
    fn scan<S>(
        &self,
        topic: &str,
        partition: i32,
        start: i64,
        mut state: S,
        mut step: impl FnMut(&mut S, Record) -> ControlFlow<()>,
    ) -> Result<S, Error> {
        let failed = |error: KafkaError| {
            Error::new(format!("reading {topic}[{partition}] from offset {start} on"), &error)
        };
        let (_, end) = self.watermarks(topic, partition)?;
        if start >= end {
            return Ok(state);
        }
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(topic, partition, Offset::Offset(start)).map_err(failed)?;
        let reader = self.tail_reader().map_err(failed)?;
        reader.assign(&list).map_err(failed)?;
        let mut position = start;
        let mut heard = Instant::now();
        while position < end {
            match reader.poll(Timeout::After(POLL_INTERVAL)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let record = Record::from_message(&message, message.topic().into(), position);
                    position = record.position_after();
                    if step(&mut state, record).is_break() {
                        break;
                    }
                }
                // What is left holds no record.
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(error)) => {
                    let error = failed(error);
                    if !error.is_retriable() {
                        return Err(error);
                    }
                }
                None => {}
            }
            if heard.elapsed() > RECORD_PATIENCE {
                return Err(failed(KafkaError::MessageConsumption(Code::OperationTimedOut)));
            }
        }
        Ok(state)
    }
}
