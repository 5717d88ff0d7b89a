//! Which enriched partitions are read, and up to where all signals have been delivered.

use std::collections::HashMap;

use kafka::{Ledger, Overlap, Record, TopicPartition};

/// A record whose signals are under way.
#[derive(Debug, Clone)]
pub struct Ticket {
    at: TopicPartition,
    /// The assignment it was read under: a partition may be lost and come back while its signals are under way.
    generation: u64,
    from: i64,
    to: i64,
}

impl Ticket {
    /// Where the record stands, for messages.
    pub fn place(&self) -> String {
        format!("{} offset {}", self.at, self.to - 1)
    }
}

struct Lane {
    generation: u64,
    /// Begins at the first record's position.
    ledger: Option<Ledger>,
    committed: Option<i64>,
    under_way: usize,
}

/// The partitions assigned.
#[derive(Default)]
pub struct Lanes {
    lanes: HashMap<TopicPartition, Lane>,
    next_generation: u64,
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

    /// A record is matched; none if its partition is not assigned any more.
    pub fn begin(&mut self, record: &Record) -> Option<Ticket> {
        let at = record.topic_partition();
        let lane = self.lanes.get_mut(&at)?;
        lane.ledger.get_or_insert_with(|| Ledger::start(record.position_before));
        lane.under_way += 1;
        let generation = lane.generation;
        Some(Ticket { at, generation, from: record.position_before, to: record.position_after() })
    }

    /// All signals of a record have been delivered.
    ///
    /// # Errors
    /// They had been before: a defect.
    pub fn finish(&mut self, ticket: &Ticket) -> Result<(), Overlap> {
        let lane = self.lanes.get_mut(&ticket.at).filter(|lane| lane.generation == ticket.generation);
        let Some(lane) = lane else { return Ok(()) };
        lane.under_way = lane.under_way.saturating_sub(1);
        match &mut lane.ledger {
            Some(ledger) => ledger.finish(ticket.from, ticket.to).map(drop),
            None => Ok(()),
        }
    }

    /// Whether nothing of these partitions, or of any, is under way.
    pub fn idle(&self, partitions: Option<&[TopicPartition]>) -> bool {
        self.lanes
            .iter()
            .filter(|(at, _)| partitions.is_none_or(|wanted| wanted.contains(at)))
            .all(|(_, lane)| lane.under_way == 0)
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
