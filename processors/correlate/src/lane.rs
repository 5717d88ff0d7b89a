//! A partition of `signals` being read: its windows, and which of its changes are still under way.

use std::collections::VecDeque;
use std::sync::Arc;

use detection::{Correlator, Rules, When};
use schemas::Micros;

use crate::publish::{Encoded, encode};
use crate::resume::Resume;

/// Tells a change's lane, of which assignment, and after which checkpoint it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// Partition of `signals`.
    pub partition: i32,
    /// The assignment; a partition may be lost and come back while changes are under way.
    pub generation: u64,
    round: u64,
}

/// Changes sent between two checkpoints.
#[derive(Debug, Default)]
struct Round {
    under_way: usize,
    /// Set when the round is over: everything before this position has been published.
    position: Option<Position>,
}

/// A position to commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Next offset to read.
    pub offset: i64,
    /// Signals of before this time are of no use any more to who goes on from there, a horizon aside; if it is known.
    pub since_ms: Option<i64>,
}

/// One partition.
pub struct Lane {
    /// Its windows.
    pub correlator: Correlator,
    /// The assignment.
    pub generation: u64,
    partition: i32,
    /// Nothing is published before this position has been read.
    rebuild_until: Option<i64>,
    /// Next offset to read.
    position: i64,
    /// Time of the last record, milliseconds.
    clock_ms: i64,
    /// Rounds not yet committed; the last one is open.
    rounds: VecDeque<Round>,
    /// Number of the first of them.
    first_round: u64,
    committed: i64,
    since_ms: Option<i64>,
}

impl Lane {
    /// A lane without windows that starts as `resume` says.
    pub fn new(rules: Arc<Rules>, resume: &Resume, generation: u64) -> Self {
        let rebuild_until = (resume.start < resume.committed).then_some(resume.committed);
        let mut correlator = Correlator::new(rules);
        if rebuild_until.is_some() {
            correlator.rebuild();
        }
        Self {
            correlator,
            generation,
            partition: resume.at.partition,
            rebuild_until,
            position: resume.start,
            clock_ms: i64::MIN,
            rounds: VecDeque::from([Round::default()]),
            first_round: 0,
            committed: resume.committed,
            since_ms: resume.since_ms,
        }
    }

    /// Whether its windows are still being rebuilt.
    pub fn is_rebuilding(&self) -> bool {
        self.rebuild_until.is_some()
    }

    /// Before the record at `offset` is applied.
    pub fn before(&mut self, offset: i64) {
        if self.rebuild_until.is_some_and(|until| offset >= until) {
            self.rebuilt();
        }
    }

    /// After a record, whose end is `position`, has been applied.
    pub fn after(&mut self, position: i64, timestamp_ms: i64) {
        self.position = position;
        self.clock_ms = self.clock_ms.max(timestamp_ms);
        if self.rebuild_until.is_some_and(|until| position >= until) {
            self.rebuilt();
        }
    }

    fn rebuilt(&mut self) {
        self.correlator.settle();
        self.rebuild_until = None;
    }

    /// Encoded changes to send now; [`Lane::sent`] is to be told of each.
    pub fn changes(&mut self, when: When) -> Vec<Encoded> {
        let mut changes = Vec::new();
        if !self.is_rebuilding() {
            self.correlator.publish(when, Micros::now(), &mut |change| changes.push(encode(change)));
        }
        changes
    }

    /// A change is under way.
    pub fn sent(&mut self) -> Ticket {
        if let Some(open) = self.rounds.back_mut() {
            open.under_way += 1;
        }
        let round = self.first_round + self.rounds.len() as u64 - 1;
        Ticket { partition: self.partition, generation: self.generation, round }
    }

    /// A change has been acknowledged.
    pub fn delivered(&mut self, ticket: &Ticket) {
        let index = ticket.round.checked_sub(self.first_round).and_then(|index| usize::try_from(index).ok());
        if let Some(round) = index.and_then(|index| self.rounds.get_mut(index)) {
            round.under_way = round.under_way.saturating_sub(1);
        }
    }

    /// All changes so far have been sent: what was read can be committed once they are acknowledged.
    pub fn checkpoint(&mut self) {
        if self.is_rebuilding() || self.correlator.has_changes() {
            return;
        }
        let position = self.position;
        let ended = self.rounds.iter().rev().find_map(|round| round.position);
        if position <= ended.map_or(self.committed, |position| position.offset) {
            return;
        }
        if let Some(open) = self.rounds.back_mut() {
            open.position = Some(Position { offset: position, since_ms: self.since_ms });
        }
        self.rounds.push_back(Round::default());
    }

    /// The position to commit, if it has moved.
    pub fn take_moved(&mut self) -> Option<Position> {
        let mut moved = None;
        while let Some(Round { under_way: 0, position: Some(position) }) = self.rounds.front() {
            moved = Some(*position);
            self.rounds.pop_front();
            self.first_round += 1;
        }
        if let Some(position) = moved {
            self.committed = position.offset;
        }
        moved
    }

    /// Whether no change is under way.
    pub fn is_idle(&self) -> bool {
        self.rounds.iter().all(|round| round.under_way == 0)
    }

    /// Drops windows that nothing can reach any more, by the time of the log.
    pub fn expire(&mut self) {
        if let Some(since) = self.correlator.expire(self.clock_ms) {
            self.since_ms = Some((since.0 / 1_000).min(self.clock_ms));
        }
    }
}

#[cfg(test)]
mod tests {
    use kafka::TopicPartition;

    use super::*;

    fn lane(start: i64, committed: i64) -> Lane {
        let at = TopicPartition::new("signals", 3);
        let resume = Resume { at, start, committed, since_ms: Some(7) };
        Lane::new(Arc::new(Rules::empty()), &resume, 1)
    }

    fn moved(lane: &mut Lane) -> Option<i64> {
        lane.take_moved().map(|position| position.offset)
    }

    #[test]
    fn a_position_is_committed_when_the_changes_before_it_are_acknowledged() {
        let mut lane = lane(10, 10);
        lane.after(11, 0);
        let first = lane.sent();
        lane.checkpoint();
        lane.after(12, 0);
        let second = lane.sent();
        lane.checkpoint();
        lane.delivered(&second);
        assert_eq!(moved(&mut lane), None, "the first one is still under way");
        lane.delivered(&first);
        assert_eq!(moved(&mut lane), Some(12));
        assert!(lane.is_idle());
        lane.checkpoint();
        assert_eq!(moved(&mut lane), None, "nothing has moved");
        lane.after(20, 0);
        assert_eq!(moved(&mut lane), None, "no checkpoint");
        lane.checkpoint();
        assert_eq!(moved(&mut lane), Some(20));
    }

    #[test]
    fn nothing_is_committed_while_windows_are_rebuilt() {
        let mut lane = lane(10, 15);
        lane.before(10);
        lane.after(11, 0);
        lane.checkpoint();
        assert!(lane.is_rebuilding());
        assert_eq!(moved(&mut lane), None);
        // A hole at the committed position: the next record is beyond it.
        lane.before(17);
        assert!(!lane.is_rebuilding());
        lane.after(18, 0);
        lane.checkpoint();
        assert_eq!(moved(&mut lane), Some(18));
    }

    #[test]
    fn what_is_needed_from_before_is_noted_with_a_position_and_kept_until_more_is_known() {
        let mut lane = lane(10, 10);
        lane.after(11, 9_000);
        lane.expire();
        lane.checkpoint();
        assert_eq!(lane.take_moved(), Some(Position { offset: 11, since_ms: Some(7) }));
        for (position, time_ms, since_ms) in [(12, 8_000, 8_000), (13, 9_500, 9_000)] {
            lane.correlator.advance(Micros(time_ms * 1_000));
            lane.after(position, 9_000);
            lane.expire();
            lane.checkpoint();
            let expected = Position { offset: position, since_ms: Some(since_ms) };
            assert_eq!(lane.take_moved(), Some(expected));
        }
    }

    #[test]
    fn a_partition_with_nothing_to_rebuild_is_ready_at_once() {
        assert!(!lane(15, 15).is_rebuilding());
    }
}
