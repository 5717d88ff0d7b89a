//! Records on their way to one transaction.

use std::collections::BTreeMap;
use std::time::Instant;

use schemas::avro::{Field, Reader};
use schemas::framing::Record;
use schemas::{EventBatch, FindingBatch, Micros, Source, current_body};

use crate::position::{Halt, PartitionKey, Position, Topic, Verdict};
use crate::prepare::pushes::Known;

/// A record that has been judged.
#[derive(Debug)]
pub struct Taken {
    /// Where it is from.
    pub partition: PartitionKey,
    /// Its offset there.
    pub offset: i64,
    /// Kafka's time of it.
    pub timestamp: Micros,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Its bytes.
    pub payload: Vec<u8>,
}

/// What a batch covers of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Which assignment of the partition the records came with: a partition may go and come back.
    pub generation: u64,
    /// Where the database must be before.
    pub first: Position,
    /// Where it is after.
    pub next: Position,
}

/// When a batch is full.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Rows, as far as they can be told beforehand.
    pub rows: usize,
    /// Bytes of payload.
    pub bytes: usize,
}

/// Records of one transaction, with the positions they lead from and to. A record is never split.
#[derive(Debug, Default)]
pub struct Batch {
    records: Vec<Taken>,
    ranges: BTreeMap<PartitionKey, Range>,
    rows: usize,
    bytes: usize,
    opened: Option<Instant>,
    known: Known,
}

/// A record as it was read.
#[derive(Debug)]
pub struct Incoming {
    /// Its offset.
    pub offset: i64,
    /// The consumer's position before it.
    pub read_from: i64,
    /// Kafka's time of it.
    pub timestamp: Micros,
    /// Its bytes.
    pub payload: Vec<u8>,
}

impl Batch {
    /// Judges a record at its partition's position, steps past it and appends it.
    ///
    /// # Errors
    /// The partition must not go on; neither the position nor the batch has changed.
    pub fn take(
        &mut self,
        partition: PartitionKey,
        generation: u64,
        position: &mut Position,
        incoming: Incoming,
    ) -> Result<(), Halt> {
        let Incoming { offset, read_from, timestamp, payload } = incoming;
        let Glance { source, rows } = glance(partition.topic, &payload);
        let before = *position;
        let verdict = position.step(partition, offset, read_from, source.as_ref())?;
        let record = Taken { partition, offset, timestamp, verdict, payload };
        self.push(record, generation, before, *position, rows);
        Ok(())
    }

    /// Appends a record that leads its partition from one position to another. `rows` is how many it may hold.
    fn push(&mut self, record: Taken, generation: u64, before: Position, after: Position, rows: usize) {
        let range =
            self.ranges.entry(record.partition).or_insert(Range { generation, first: before, next: after });
        range.next = after;
        self.rows += rows;
        self.bytes += record.payload.len();
        self.opened.get_or_insert_with(Instant::now);
        self.records.push(record);
    }

    /// Takes the records of some partitions out again.
    pub fn remove(&mut self, partitions: &[PartitionKey]) {
        self.ranges.retain(|partition, _| !partitions.contains(partition));
        self.records.retain(|record| !partitions.contains(&record.partition));
        self.bytes = self.records.iter().map(|record| record.payload.len()).sum();
        if self.records.is_empty() {
            *self = Self::default();
        }
    }

    /// Keyed pushes that the database has, as far as it has been asked.
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// Adds to them; the batch is to be prepared again.
    pub fn learn(&mut self, known: Known) {
        self.known.extend(known);
    }

    /// The records in the order in which they were read.
    pub fn records(&self) -> &[Taken] {
        &self.records
    }

    /// What it covers.
    pub fn ranges(&self) -> &BTreeMap<PartitionKey, Range> {
        &self.ranges
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Payload bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the first record came.
    pub fn opened(&self) -> Option<Instant> {
        self.opened
    }

    /// Which limit it has reached, as the metric names it.
    pub fn full(&self, limits: &Limits) -> Option<&'static str> {
        if self.rows >= limits.rows {
            Some("rows")
        } else if self.bytes >= limits.bytes {
            Some("bytes")
        } else {
            None
        }
    }
}

/// What can be told of a record at a glance.
#[derive(Debug, Clone, PartialEq)]
pub struct Glance {
    /// What it was made from; none where that cannot be read.
    pub source: Option<Source>,
    /// How many rows it may hold: what its first array says. For a batch's size, not to be relied on.
    pub rows: usize,
}

/// Reads the beginning of a record. One of an older version is rewritten here, and again when it is decoded: rare, and
/// soon over.
pub fn glance(topic: Topic, payload: &[u8]) -> Glance {
    match topic {
        Topic::Events => glance_at::<EventBatch<'_>>(payload),
        Topic::Findings => glance_at::<FindingBatch<'_>>(payload),
        Topic::Incidents => Glance { source: None, rows: 1 },
    }
}

fn glance_at<'r, R: Record<'r>>(payload: &[u8]) -> Glance {
    let Ok(body) = current_body::<R>(payload) else { return Glance { source: None, rows: 1 } };
    let mut reader = Reader::new(body.as_ref());
    let source = Source::take(&mut reader).ok();
    // An array begins with the number of items in its first block, negative where the block's size follows.
    let items = source.as_ref().and_then(|_| i64::take(&mut reader).ok()).unwrap_or(1);
    let rows = usize::try_from(items.unsigned_abs()).unwrap_or(usize::MAX).clamp(1, payload.len());
    Glance { source, rows }
}

#[cfg(test)]
mod tests {
    use schemas::Reject;
    use uuid::Uuid;

    use super::*;

    fn record(partition: i32, offset: i64, bytes: usize) -> Taken {
        Taken {
            partition: PartitionKey { topic: Topic::Events, partition },
            offset,
            timestamp: Micros(0),
            verdict: Verdict::Apply,
            payload: vec![0; bytes],
        }
    }

    fn push(batch: &mut Batch, partition: i32, offset: i64, rows: usize) {
        let at = |offset| Position { next_offset: offset, ..Position::START };
        batch.push(record(partition, offset, 10), 1, at(offset), at(offset + 1), rows);
    }

    #[test]
    fn a_batch_knows_from_where_to_where_it_leads() {
        let mut batch = Batch::default();
        for (partition, offset) in [(0, 5), (1, 9), (0, 6), (0, 7)] {
            push(&mut batch, partition, offset, 1);
        }
        let ranges: Vec<_> = batch
            .ranges()
            .iter()
            .map(|(key, range)| (key.partition, range.first.next_offset, range.next.next_offset))
            .collect();
        assert_eq!(ranges, [(0, 5, 8), (1, 9, 10)]);
    }

    #[test]
    fn it_is_full_by_rows_or_bytes_with_whole_records() {
        let limits = Limits { rows: 100, bytes: 35 };
        let mut batch = Batch::default();
        push(&mut batch, 0, 0, 99);
        assert_eq!(batch.full(&limits), None);
        push(&mut batch, 0, 1, 500);
        assert_eq!((batch.full(&limits), batch.records().len()), (Some("rows"), 2));
        let mut batch = Batch::default();
        (0..4).for_each(|offset| push(&mut batch, 0, offset, 1));
        assert_eq!(batch.full(&limits), Some("bytes"));
    }

    #[test]
    fn a_removed_partition_leaves_the_others_whole() {
        let mut batch = Batch::default();
        for (partition, offset) in [(0, 5), (1, 9), (0, 6)] {
            push(&mut batch, partition, offset, 1);
        }
        batch.remove(&[PartitionKey { topic: Topic::Events, partition: 0 }]);
        assert_eq!(batch.records().iter().map(|record| record.offset).collect::<Vec<_>>(), [9]);
        assert_eq!((batch.ranges().len(), batch.bytes()), (1, 10));
        batch.remove(&[PartitionKey { topic: Topic::Events, partition: 1 }]);
        assert!(batch.is_empty() && batch.opened().is_none() && batch.ranges().is_empty());
    }

    #[test]
    fn a_glance_tells_source_and_rows() {
        let source = Source { topic_id: Uuid::from_u128(1), partition: 3, from: 5, offset: 9 };
        let batch = EventBatch {
            source: source.clone(),
            events: vec![],
            rejects: Vec::<Reject<'_>>::new(),
            pushes: vec![],
        };
        let mut payload = Vec::new();
        schemas::encode(&batch, &mut payload);
        assert_eq!(glance(Topic::Events, &payload), Glance { source: Some(source), rows: 1 });
        // A finding's fingerprint is another.
        assert_eq!(glance(Topic::Findings, &payload).source, None);
        assert_eq!(glance(Topic::Events, b"{}").source, None);
        assert_eq!(glance(Topic::Events, &payload[..20]).source, None);
    }
}
