//! Which raw partitions are read, and how far each has been delivered.

use std::collections::HashMap;

use kafka::{Ledger, Overlap, Record, TopicPartition};

/// Told apart because a partition may be lost and come back while its records are still under way.
pub type Generation = u64;

/// A record under way.
#[derive(Debug, Clone)]
pub struct Ticket {
    /// Its partition.
    pub at: TopicPartition,
    /// The assignment it was read under.
    pub generation: Generation,
    /// The reader's position before it.
    pub from: i64,
    /// And after it.
    pub to: i64,
    /// Size of its payload.
    pub bytes: usize,
}

struct Lane {
    generation: Generation,
    /// Begins at the first record's position.
    ledger: Option<Ledger>,
    committed: Option<i64>,
    under_way: usize,
}

/// The partitions assigned.
#[derive(Default)]
pub struct Lanes {
    lanes: HashMap<TopicPartition, Lane>,
    next_generation: Generation,
    under_way_records: usize,
    under_way_bytes: usize,
}

impl Lanes {
    /// These partitions are read from now on.
    pub fn assign(&mut self, partitions: &[TopicPartition]) {
        for at in partitions {
            self.next_generation += 1;
            let generation = self.next_generation;
            self.lanes.insert(at.clone(), Lane { generation, ledger: None, committed: None, under_way: 0 });
        }
    }

    /// These partitions are not read any more.
    pub fn remove(&mut self, partitions: &[TopicPartition]) {
        for at in partitions {
            self.lanes.remove(at);
        }
    }

    /// A record goes under way; none if its partition is not assigned.
    pub fn begin(&mut self, record: &Record) -> Option<Ticket> {
        let at = record.topic_partition();
        let lane = self.lanes.get_mut(&at)?;
        lane.ledger.get_or_insert_with(|| Ledger::start(record.position_before));
        lane.under_way += 1;
        self.under_way_records += 1;
        self.under_way_bytes += record.payload.len();
        Some(Ticket {
            at,
            generation: lane.generation,
            from: record.position_before,
            to: record.position_after(),
            bytes: record.payload.len(),
        })
    }

    /// A record has been delivered.
    ///
    /// # Errors
    /// It had been before: a defect.
    pub fn finish(&mut self, ticket: &Ticket) -> Result<(), Overlap> {
        self.under_way_records = self.under_way_records.saturating_sub(1);
        self.under_way_bytes = self.under_way_bytes.saturating_sub(ticket.bytes);
        let lane = self.lanes.get_mut(&ticket.at).filter(|lane| lane.generation == ticket.generation);
        let Some(lane) = lane else { return Ok(()) };
        lane.under_way = lane.under_way.saturating_sub(1);
        match &mut lane.ledger {
            Some(ledger) => ledger.finish(ticket.from, ticket.to).map(drop),
            None => Ok(()),
        }
    }

    /// Records under way, of partitions given away too.
    pub fn under_way(&self) -> usize {
        self.under_way_records
    }

    /// Their bytes.
    pub fn under_way_bytes(&self) -> usize {
        self.under_way_bytes
    }

    /// Whether nothing of these partitions is under way.
    pub fn idle(&self, partitions: &[TopicPartition]) -> bool {
        partitions.iter().all(|at| self.lanes.get(at).is_none_or(|lane| lane.under_way == 0))
    }

    /// Positions that have moved since they were taken last, of these partitions or of all.
    pub fn take_moved(&mut self, partitions: Option<&[TopicPartition]>) -> Vec<(TopicPartition, i64)> {
        let mut positions = Vec::new();
        for (at, lane) in &mut self.lanes {
            let next = lane.ledger.as_ref().map(Ledger::next);
            if let Some(next) = next.filter(|_| partitions.is_none_or(|wanted| wanted.contains(at)))
                && lane.committed.is_none_or(|committed| committed < next)
            {
                lane.committed = Some(next);
                positions.push((at.clone(), next));
            }
        }
        positions
    }

    /// Partitions read of a topic.
    pub fn of_topic(&self, topic: &str) -> usize {
        self.lanes.keys().filter(|at| *at.topic == *topic).count()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kafka::TimestampKind;

    use super::*;

    fn record(offset: i64, position_before: i64) -> Record {
        Record {
            topic: Arc::from("events.raw"),
            partition: 0,
            offset,
            timestamp_ms: 0,
            timestamp_kind: TimestampKind::Create,
            key: None,
            headers: Vec::new(),
            payload: vec![0; 10],
            position_before,
        }
    }

    #[test]
    fn only_what_was_delivered_without_a_hole_is_committed() {
        let at = TopicPartition::new("events.raw", 0);
        let mut lanes = Lanes::default();
        assert!(lanes.begin(&record(5, 5)).is_none());
        lanes.assign(std::slice::from_ref(&at));
        let first = lanes.begin(&record(5, 5)).unwrap();
        let second = lanes.begin(&record(9, 6)).unwrap();
        assert_eq!((lanes.under_way(), lanes.under_way_bytes()), (2, 20));
        lanes.finish(&second).unwrap();
        assert_eq!(lanes.take_moved(None), [(at.clone(), 5)]);
        assert!(!lanes.idle(std::slice::from_ref(&at)));
        lanes.finish(&first).unwrap();
        assert!(lanes.idle(std::slice::from_ref(&at)));
        assert_eq!(lanes.take_moved(None), [(at.clone(), 10)]);
        assert_eq!(lanes.take_moved(None), []);
    }

    #[test]
    fn deliveries_of_an_assignment_that_was_lost_count_for_nothing() {
        let at = TopicPartition::new("events.raw", 0);
        let mut lanes = Lanes::default();
        lanes.assign(std::slice::from_ref(&at));
        let old = lanes.begin(&record(5, 5)).unwrap();
        lanes.remove(std::slice::from_ref(&at));
        lanes.assign(std::slice::from_ref(&at));
        let new = lanes.begin(&record(5, 5)).unwrap();
        lanes.finish(&old).unwrap();
        assert_eq!(lanes.take_moved(None), [(at.clone(), 5)]);
        lanes.finish(&new).unwrap();
        assert_eq!(lanes.take_moved(None), [(at, 6)]);
        assert_eq!((lanes.under_way(), lanes.under_way_bytes()), (0, 0));
    }
}
