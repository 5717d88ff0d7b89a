//! A model of librdkafka's consumer: what it fetches, and what it may hand out wrongly.

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};

use rdkafka::error::{KafkaError, KafkaResult};
use simulation::Schedule;

use crate::consumer::assignment::Fetcher;
use crate::record::TopicPartition;

/// As [`super::super::context::Change`].
#[derive(Debug, Clone)]
pub enum Change {
    Assign(Vec<TopicPartition>),
    Revoke { partitions: Vec<TopicPartition>, lost: bool },
}

#[derive(Debug)]
pub struct Assigned {
    next: i64,
    pub paused: bool,
}

#[derive(Debug)]
pub struct State {
    /// Offsets that hold a record.
    pub logs: BTreeMap<TopicPartition, Vec<i64>>,
    pub assigned: BTreeMap<TopicPartition, Assigned>,
    pub changes: VecDeque<Change>,
    /// The change that the thread is making.
    pub making: bool,
    fetched: VecDeque<(TopicPartition, i64)>,
    refuses: bool,
}

/// Pauses and is polled through a shared reference, as the real one.
pub struct Client(RefCell<State>);

impl Client {
    pub fn new(schedule: &mut Schedule, partitions: &[TopicPartition]) -> Self {
        let mut log = |at: &TopicPartition| {
            let mut offset = schedule.within(0, 3);
            let mut offsets = Vec::new();
            for _ in 0..schedule.below(12) {
                offsets.push(offset);
                // Control records and compaction leave holes.
                offset += if schedule.chance(25) { schedule.within(2, 5) } else { 1 };
            }
            (at.clone(), offsets)
        };
        Self(RefCell::new(State {
            logs: partitions.iter().map(&mut log).collect(),
            assigned: BTreeMap::new(),
            changes: VecDeque::new(),
            making: false,
            fetched: VecDeque::new(),
            refuses: false,
        }))
    }

    pub fn borrow_mut(&self) -> RefMut<'_, State> {
        self.0.borrow_mut()
    }

    /// A fetch has come back for one of the partitions that are read.
    pub fn fetch(&self, schedule: &mut Schedule) {
        let mut state = self.0.borrow_mut();
        let State { assigned, fetched, logs, .. } = &mut *state;
        let mut read: Vec<_> = assigned.iter_mut().filter(|(_, one)| !one.paused).collect();
        let chosen = schedule.below(read.len());
        let Some((at, one)) = read.get_mut(chosen) else { return };
        let log = logs.get(*at).map(Vec::as_slice).unwrap_or_default();
        if schedule.chance(8) {
            // A compressed batch begins before the offset that was asked for.
            fetched.extend(
                log.iter().rfind(|offset| **offset < one.next).map(|offset| ((*at).clone(), *offset)),
            );
        }
        let most = 1 + schedule.below(4);
        for offset in log.iter().copied().filter(|offset| *offset >= one.next).take(most).collect::<Vec<_>>()
        {
            fetched.push_back(((*at).clone(), offset));
            one.next = offset + 1;
        }
    }

    pub fn poll(&self) -> Option<(TopicPartition, i64)> {
        self.0.borrow_mut().fetched.pop_front()
    }

    pub fn next_change(&self) -> Option<Change> {
        let mut state = self.0.borrow_mut();
        let change = state.changes.pop_front();
        state.making |= change.is_some();
        change
    }

    pub fn has_change(&self) -> bool {
        !self.0.borrow().changes.is_empty()
    }

    pub fn incremental_assign(&self, starts: &[(TopicPartition, i64)]) {
        let mut state = self.0.borrow_mut();
        state.making = false;
        for (at, next) in starts {
            // Of an earlier assignment: told apart by librdkafka's versions.
            state.fetched.retain(|(of, _)| of != at);
            state.assigned.insert(at.clone(), Assigned { next: *next, paused: false });
        }
    }

    /// `forgets` what was fetched of them and not polled, or hands it out still.
    pub fn incremental_unassign(&self, partitions: &[TopicPartition], forgets: bool) {
        let mut state = self.0.borrow_mut();
        state.making = false;
        state.assigned.retain(|at, _| !partitions.contains(at));
        if forgets {
            state.fetched.retain(|(at, _)| !partitions.contains(at));
        }
    }

    /// Whether the next pause or resumption is refused.
    pub fn refuse(&self, refuses: bool) {
        self.0.borrow_mut().refuses = refuses;
    }

    pub fn is_quiet(&self) -> bool {
        let state = self.0.borrow();
        let end =
            |at: &TopicPartition| state.logs.get(at).and_then(|log| log.last()).map_or(0, |last| last + 1);
        state.is_settled()
            && state.fetched.is_empty()
            && state.assigned.iter().all(|(at, one)| one.next >= end(at))
    }

    fn set_paused(&self, partitions: &[TopicPartition], paused: bool) -> KafkaResult<()> {
        let mut state = self.0.borrow_mut();
        if std::mem::take(&mut state.refuses) {
            return Err(KafkaError::PauseResume("on purpose".to_owned()));
        }
        for at in partitions {
            if let Some(one) = state.assigned.get_mut(at) {
                one.paused = paused;
            }
        }
        Ok(())
    }
}

impl State {
    /// No change waits or is being made.
    pub fn is_settled(&self) -> bool {
        self.changes.is_empty() && !self.making
    }
}

impl Fetcher for Client {
    fn pause(&self, partitions: &[TopicPartition]) -> KafkaResult<()> {
        self.set_paused(partitions, true)
    }

    fn resume(&self, partitions: &[TopicPartition]) -> KafkaResult<()> {
        self.set_paused(partitions, false)
    }
}
