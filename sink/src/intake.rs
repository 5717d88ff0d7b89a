//! Partitions that are held, and the batch that fills with their records.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::batch::{Batch, Incoming, Limits};
use crate::position::{Halt, PartitionKey, Position};
use crate::write::{Epochs, Held};

/// Records that wait because the batch is full: more than this is not taken from the consumer.
const MAX_WAITING_BYTES: usize = 4 << 20;
/// A partition that another sink has taken is taken away by the group too, after the session's timeout. One that is not
/// is in two groups' hands.
const FENCED_PATIENCE: Duration = Duration::from_secs(60);

/// A partition assigned to this sink.
#[derive(Debug)]
struct Owned {
    /// Which assignment this is.
    generation: u64,
    epoch: i64,
    /// After everything taken so far.
    position: Position,
    /// Another sink has a newer epoch: nothing more is taken or written.
    fenced: Option<Instant>,
}

/// Takes records into batches.
#[derive(Debug)]
pub struct Intake {
    limits: Limits,
    linger: Duration,
    owned: BTreeMap<PartitionKey, Owned>,
    generation: u64,
    waiting: VecDeque<(PartitionKey, Incoming)>,
    waiting_bytes: usize,
    filling: Batch,
    halt: Option<Halt>,
}

impl Intake {
    /// Nothing held yet.
    pub fn new(limits: Limits, linger: Duration) -> Self {
        Self {
            limits,
            linger,
            owned: BTreeMap::new(),
            generation: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            filling: Batch::default(),
            halt: None,
        }
    }

    /// Partitions that have been taken over in the database.
    pub fn assign(&mut self, held: &BTreeMap<PartitionKey, Held>) {
        self.generation += 1;
        for (partition, Held { epoch, position }) in held {
            let owned =
                Owned { generation: self.generation, epoch: *epoch, position: *position, fenced: None };
            self.owned.insert(*partition, owned);
        }
    }

    /// Partitions that are another sink's now: what is here of them and not being written is dropped.
    pub fn revoke(&mut self, partitions: &[PartitionKey]) {
        self.owned.retain(|partition, _| !partitions.contains(partition));
        self.drop_records(partitions);
    }

    /// Partitions of a batch that another sink has taken in the database. Those that have been assigned here once more
    /// since the batch was built are held under a newer epoch, and stay.
    pub fn fence(&mut self, batch: &Batch, partitions: &[PartitionKey]) -> Vec<PartitionKey> {
        let mut fenced = Vec::new();
        for partition in partitions {
            if let (Some(owned), Some(range)) = (self.owned.get_mut(partition), batch.ranges().get(partition))
                && owned.generation == range.generation
            {
                owned.fenced.get_or_insert_with(Instant::now);
                fenced.push(*partition);
            }
        }
        self.drop_records(&fenced);
        fenced
    }

    fn drop_records(&mut self, partitions: &[PartitionKey]) {
        self.filling.remove(partitions);
        self.waiting.retain(|(partition, _)| !partitions.contains(partition));
        self.waiting_bytes = self.waiting.iter().map(|(_, incoming)| incoming.payload.len()).sum();
    }

    /// Takes a record; of a partition that is not held it is another sink's.
    pub fn take(&mut self, partition: PartitionKey, incoming: Incoming) {
        self.waiting_bytes += incoming.payload.len();
        self.waiting.push_back((partition, incoming));
    }

    /// Moves what waits into the batch until it is full, or a record says that the sink must stop.
    pub fn fill(&mut self) {
        while self.halt.is_none() && self.filling.full(&self.limits).is_none() {
            let Some((partition, incoming)) = self.waiting.pop_front() else { return };
            self.waiting_bytes = self.waiting_bytes.saturating_sub(incoming.payload.len());
            let Some(owned) = self.owned.get_mut(&partition).filter(|owned| owned.fenced.is_none()) else {
                continue;
            };
            if let Err(halt) = self.filling.take(partition, owned.generation, &mut owned.position, incoming) {
                self.halt = Some(halt);
            }
        }
    }

    /// Whether the consumer may be asked for more.
    pub fn has_room(&self) -> bool {
        self.halt.is_none() && self.waiting_bytes < MAX_WAITING_BYTES
    }

    /// Why the sink must stop, once what came before is written.
    pub fn halt(&self) -> Option<&Halt> {
        self.halt.as_ref()
    }

    /// When the batch is due even if it is not full.
    pub fn due(&self) -> Option<Instant> {
        self.filling.opened().map(|opened| opened + self.linger)
    }

    /// The batch, if it is to be written now, and why. With `stopping`, whatever is in it.
    pub fn close(&mut self, stopping: bool) -> Option<(Batch, &'static str)> {
        self.fill();
        let trigger = match self.filling.full(&self.limits) {
            Some(limit) => limit,
            None if self.filling.is_empty() => return None,
            None if stopping || self.halt.is_some() => "stopping",
            None if self.due().is_some_and(|due| due <= Instant::now()) => "time",
            None => return None,
        };
        let batch = std::mem::take(&mut self.filling);
        self.fill();
        Some((batch, trigger))
    }

    /// Whether nothing of what was taken is left here to be closed. What follows a halt never will be.
    pub fn is_empty(&self) -> bool {
        self.filling.is_empty() && (self.waiting.is_empty() || self.halt.is_some())
    }

    /// Bytes that wait here.
    pub fn bytes(&self) -> usize {
        self.filling.bytes() + self.waiting_bytes
    }

    /// Partitions of a batch that are not held as they were when it was built.
    pub fn stale(&self, batch: &Batch) -> Vec<PartitionKey> {
        let held = |partition: &PartitionKey, generation: u64| {
            self.owned
                .get(partition)
                .is_some_and(|owned| owned.generation == generation && owned.fenced.is_none())
        };
        let stale = batch.ranges().iter().filter(|(partition, range)| !held(partition, range.generation));
        stale.map(|(partition, _)| *partition).collect()
    }

    /// The epochs to write a batch under.
    pub fn epochs(&self, batch: &Batch) -> Epochs {
        let epochs = batch
            .ranges()
            .keys()
            .filter_map(|partition| Some((*partition, self.owned.get(partition)?.epoch)));
        epochs.collect()
    }

    /// Epochs as they are after a batch was written.
    pub fn set_epochs(&mut self, batch: &Batch, epochs: &Epochs) {
        for (partition, range) in batch.ranges() {
            if let (Some(owned), Some(epoch)) = (self.owned.get_mut(partition), epochs.get(partition))
                && owned.generation == range.generation
            {
                owned.epoch = *epoch;
            }
        }
    }

    /// Partitions held of each topic.
    pub fn held(&self) -> impl Iterator<Item = &PartitionKey> {
        self.owned.keys()
    }

    /// A partition that another sink took long ago and that the group still leaves here.
    pub fn fenced_for_long(&self) -> Option<PartitionKey> {
        let long = |owned: &Owned| owned.fenced.is_some_and(|since| since.elapsed() >= FENCED_PATIENCE);
        self.owned.iter().find(|(_, owned)| long(owned)).map(|(partition, _)| *partition)
    }
}

#[cfg(test)]
mod tests {
    use schemas::{EventBatch, Micros, Source};
    use uuid::Uuid;

    use super::*;
    use crate::position::Topic;

    fn key(partition: i32) -> PartitionKey {
        PartitionKey { topic: Topic::Events, partition }
    }

    fn intake(rows: usize, partitions: &[i32]) -> Intake {
        let mut intake = Intake::new(Limits { rows, bytes: 1 << 20 }, Duration::ZERO);
        assign(&mut intake, partitions, 1);
        intake
    }

    fn assign(intake: &mut Intake, partitions: &[i32], epoch: i64) {
        let held = partitions.iter().map(|p| (key(*p), Held { epoch, position: Position::START })).collect();
        intake.assign(&held);
    }

    fn record(partition: i32, from: i64, offset: i64) -> Incoming {
        let source = Source { topic_id: Uuid::nil(), partition, from, offset };
        let batch = EventBatch { source, events: vec![], rejects: vec![], pushes: vec![] };
        let mut payload = Vec::new();
        schemas::encode(&batch, &mut payload);
        Incoming { offset, read_from: offset, timestamp: Micros(0), payload }
    }

    fn offsets(batch: &Batch) -> Vec<(i32, i64)> {
        batch.records().iter().map(|record| (record.partition.partition, record.offset)).collect()
    }

    #[test]
    fn batches_follow_one_another_without_a_hole() {
        let mut intake = intake(3, &[0, 1]);
        for offset in 0..4 {
            intake.take(key(0), record(0, offset, offset));
            intake.take(key(1), record(1, offset, offset));
        }
        let (mut next, mut all) = (BTreeMap::new(), Vec::new());
        while let Some((batch, _)) = intake.close(true) {
            for (partition, range) in batch.ranges() {
                assert_eq!(next.insert(*partition, range.next).unwrap_or(Position::START), range.first);
            }
            all.extend(offsets(&batch));
        }
        assert_eq!(all.len(), 8);
        assert!(intake.is_empty() && intake.bytes() == 0);
    }

    #[test]
    fn a_revoked_partition_is_dropped_and_comes_back_as_another() {
        let mut intake = intake(100, &[0, 1]);
        intake.take(key(0), record(0, 0, 0));
        intake.take(key(1), record(1, 0, 0));
        let (written, _) = intake.close(true).unwrap();
        intake.take(key(0), record(0, 1, 1));
        intake.fill();
        intake.take(key(0), record(0, 2, 2));
        intake.revoke(&[key(0)]);
        assert!(intake.is_empty());
        assert_eq!(intake.stale(&written), [key(0)]);

        assign(&mut intake, &[0], 5);
        assert_eq!(intake.stale(&written), [key(0)], "the batch was built on an earlier assignment");
        assert_eq!(intake.fence(&written, &[key(0)]), [], "its fence is not this one's");
        intake.take(key(0), record(0, 0, 0));
        let (batch, _) = intake.close(true).unwrap();
        assert_eq!((offsets(&batch), intake.epochs(&batch)[&key(0)]), (vec![(0, 0)], 5));
    }

    #[test]
    fn a_fenced_partition_takes_nothing_more_and_the_others_go_on() {
        let mut intake = intake(100, &[0, 1]);
        intake.take(key(0), record(0, 0, 0));
        intake.take(key(1), record(1, 0, 0));
        let (mut batch, _) = intake.close(true).unwrap();
        intake.take(key(0), record(0, 1, 1));
        assert_eq!(intake.fence(&batch, &[key(0)]), [key(0)]);
        batch.remove(&intake.stale(&batch));
        assert_eq!(offsets(&batch), [(1, 0)]);
        intake.take(key(0), record(0, 2, 2));
        intake.take(key(1), record(1, 1, 1));
        assert_eq!(offsets(&intake.close(true).unwrap().0), [(1, 1)]);
        assert_eq!(intake.fenced_for_long(), None);
    }

    #[test]
    fn what_precedes_a_gap_is_still_written() {
        let mut intake = intake(100, &[0]);
        intake.take(key(0), record(0, 0, 0));
        intake.take(key(0), record(0, 5, 5));
        intake.take(key(0), record(0, 6, 6));
        assert_eq!(offsets(&intake.close(false).unwrap().0), [(0, 0)]);
        assert!(matches!(intake.halt(), Some(Halt::Gap { expected: 1, from: 5, .. })));
        assert!(intake.close(true).is_none() && intake.is_empty() && !intake.has_room());
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut intake = intake(1, &[0]);
        let mut offset = 0;
        while intake.has_room() {
            let mut incoming = record(0, offset, offset);
            incoming.payload.resize(1 << 20, 0);
            intake.take(key(0), incoming);
            intake.fill();
            offset += 1;
        }
        assert!(intake.bytes() <= MAX_WAITING_BYTES + (2 << 20));
    }
}
