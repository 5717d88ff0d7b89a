//! The owner of the consumer: takes inputs, answers late or never, pauses, commits. It notices whatever is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use simulation::Schedule;

use super::Without;
use super::client::Client;
use crate::consumer::Shared;
use crate::consumer::input::{Input, Reply, Start, StartAt};
use crate::record::{Record, TopicPartition};

pub struct Owner {
    /// Partitions held, with the position in each.
    held: BTreeMap<TopicPartition, Option<i64>>,
    paused: BTreeSet<TopicPartition>,
    /// A revocation not answered yet.
    revoked: Option<Reply<()>>,
    /// An assignment not answered yet.
    assigned: Option<(Vec<StartAt>, Reply<Vec<StartAt>>)>,
    /// From now on it answers.
    settled: bool,
    /// There was nothing to take.
    idle: bool,
    without: Without,
}

impl Owner {
    pub fn new(without: Without) -> Self {
        Self {
            held: BTreeMap::new(),
            paused: BTreeSet::new(),
            revoked: None,
            assigned: None,
            settled: false,
            idle: false,
            without,
        }
    }

    pub fn settle(&mut self) {
        self.settled = true;
    }

    pub fn is_quiet(&self) -> bool {
        self.idle && self.revoked.is_none() && self.assigned.is_none()
    }

    /// Answers what waits, or takes the next input.
    pub fn take(&mut self, schedule: &mut Schedule, client: &Client, shared: &Shared) -> Result<(), String> {
        if let Some((starts, reply)) = self.assigned.take() {
            if self.settled || schedule.chance(60) {
                reply.send(starts);
            } else if schedule.chance(97) {
                self.assigned = Some((starts, reply));
            }
            return Ok(());
        }
        if self.settled || schedule.chance(40) {
            let silent = !self.settled && schedule.chance(10);
            self.revoked.take().filter(|_| !silent).into_iter().for_each(|done| done.send(()));
        }
        let popped = pin!(shared.queue.pop()).poll(&mut Context::from_waker(Waker::noop()));
        self.idle = popped.is_pending();
        match popped {
            Poll::Pending | Poll::Ready(None) => Ok(()),
            Poll::Ready(Some(input)) => self.input(schedule, client, input),
        }
    }

    fn input(&mut self, schedule: &mut Schedule, client: &Client, input: Input) -> Result<(), String> {
        schedule.step(|| format!("owner: {input:?}"));
        match input {
            Input::Records(records) if records.is_empty() => Err("no records are handed over".into()),
            Input::Records(records) => records.iter().try_for_each(|record| self.record(client, record)),
            Input::Assigned { partitions, reply } => {
                let mut starts = Vec::new();
                for at in partitions {
                    let start = match schedule.below(3) {
                        0 => Start::Beginning,
                        _ => Start::Offset(schedule.within(0, 14)),
                    };
                    let position = match start {
                        Start::Offset(offset) => Some(offset),
                        _ => None,
                    };
                    if self.held.insert(at.clone(), position).is_some() {
                        return Err(format!("{at} is assigned and was assigned already"));
                    }
                    starts.push(StartAt { at, start });
                }
                schedule.shuffle(&mut starts);
                self.assigned = Some((starts, reply));
                Ok(())
            }
            Input::Revoked { partitions, done, .. } => {
                for at in partitions {
                    self.paused.remove(&at);
                    if self.held.remove(&at).is_none() {
                        return Err(format!("{at} is revoked and was not assigned"));
                    }
                }
                self.revoked = Some(done);
                Ok(())
            }
            Input::Failed(error) => Err(error.to_string()),
        }
    }

    fn record(&mut self, client: &Client, record: &Record) -> Result<(), String> {
        let at = record.topic_partition();
        let Some(position) = self.held.get_mut(&at) else {
            return Err(format!("{record:?} is of a partition that is not assigned"));
        };
        let state = client.borrow_mut();
        let log = &state.logs[&at];
        let due = position.unwrap_or_else(|| log.first().copied().unwrap_or(0));
        if record.position_before != due {
            return Err(format!("{record:?}, but the position was {due}"));
        }
        if log.iter().find(|offset| **offset >= due) != Some(&record.offset) {
            return Err(format!("{record:?} is not the one that follows {due}"));
        }
        *position = Some(record.position_after());
        Ok(())
    }

    /// Commits whatever it likes: positions of partitions long gone, too.
    pub fn commit(
        &mut self,
        schedule: &mut Schedule,
        client: &Client,
        shared: &Shared,
        partitions: &[TopicPartition],
    ) -> Result<(), String> {
        let wanted: Vec<_> =
            partitions.iter().filter(|_| schedule.chance(60)).map(|at| (at.clone(), 1)).collect();
        let committed = match self.without {
            Without::Filter => wanted,
            _ => shared.assignment.only_assigned(&wanted),
        };
        let state = client.borrow_mut();
        match committed.iter().find(|(at, _)| !state.assigned.contains_key(at)) {
            Some((at, _)) => Err(format!("{at} is committed and not assigned")),
            None => Ok(()),
        }
    }

    pub fn pause_or_resume(
        &mut self,
        schedule: &mut Schedule,
        client: &Client,
        shared: &Shared,
        partitions: &[TopicPartition],
    ) -> Result<(), String> {
        let wanted: Vec<_> = partitions.iter().filter(|_| schedule.chance(50)).cloned().collect();
        let pauses = schedule.chance(50);
        client.refuse(schedule.chance(10));
        let result = if pauses {
            shared.assignment.pause(client, &wanted)
        } else {
            shared.assignment.resume(client, &wanted)
        };
        client.refuse(false);
        schedule.step(|| format!("owner: pauses {pauses} {wanted:?}: {result:?}"));
        if result.is_err() {
            return Ok(());
        }
        let state = client.borrow_mut();
        for at in wanted {
            if pauses && state.assigned.contains_key(&at) && self.held.contains_key(&at) {
                self.paused.insert(at);
            } else if !pauses {
                self.paused.remove(&at);
            }
        }
        Ok(())
    }

    pub fn resume_all(
        &mut self,
        client: &Client,
        shared: &Shared,
        partitions: &[TopicPartition],
    ) -> Result<(), String> {
        self.paused.clear();
        shared.assignment.resume(client, partitions).map_err(|error| error.to_string())
    }

    /// What the owner has paused is paused, whatever backpressure does; without it, nothing else is.
    pub fn check_pauses(&self, client: &Client, shared: &Shared) -> Result<(), String> {
        let backpressure = shared.assignment.backpressure();
        let state = client.borrow_mut();
        for (at, assigned) in &state.assigned {
            // Revoked, and the owner has heard of it.
            if !self.held.contains_key(at) {
                continue;
            }
            let expected = backpressure || self.paused.contains(at);
            if assigned.paused != expected {
                return Err(format!("{at} is paused: {}, it should be {expected}", assigned.paused));
            }
        }
        Ok(())
    }

    /// Every record of what is held has come.
    pub fn check_all_read(&self, client: &Client) -> Result<(), String> {
        let state = client.borrow_mut();
        for (at, position) in &self.held {
            let log = &state.logs[at];
            let position = position.unwrap_or_else(|| log.first().copied().unwrap_or(0));
            if let Some(offset) = log.iter().find(|offset| **offset >= position) {
                return Err(format!("offset {offset} of {at} never came"));
            }
        }
        Ok(())
    }
}
