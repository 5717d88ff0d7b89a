//! The consumer's thread, which blocks, cut into steps that do not: the order is that of [`super::super::worker`] and
//! [`super::super::rebalance`], and what decides is the real [`Reading`], [`Assignment`](super::Assignment) and queue.

use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use simulation::Schedule;

use super::Without;
use super::client::{Change, Client};
use crate::consumer::input::{Input, Reply, Start, StartAt};
use crate::consumer::reading::Reading;
use crate::consumer::{Shared, rebalance};
use crate::queue::Refused;
use crate::record::{Record, TimestampKind, TopicPartition};

pub struct Thread {
    reading: Reading,
    max_records: usize,
    state: State,
    without: Without,
    /// Read without being asked about: see [`Without::Positions`].
    unasked: Vec<Record>,
}

enum State {
    Polling,
    HandingOver {
        input: Input,
        weight: usize,
        paused: bool,
    },
    /// Everything read is handed over.
    Changing,
    Assigning(Vec<TopicPartition>, Receiver<Vec<StartAt>>),
    Revoking(Vec<TopicPartition>, Receiver<()>),
    Failed,
}

impl Thread {
    pub fn new(max_records: usize, without: Without) -> Self {
        Self { reading: Reading::default(), max_records, state: State::Polling, without, unasked: Vec::new() }
    }

    pub fn failed(&self) -> bool {
        matches!(self.state, State::Failed)
    }

    pub fn is_quiet(&self) -> bool {
        matches!(self.state, State::Polling) && self.reading.is_empty()
    }

    /// One step.
    pub fn step(&mut self, schedule: &mut Schedule, client: &Client, shared: &Shared) -> Result<(), String> {
        self.state = match std::mem::replace(&mut self.state, State::Failed) {
            State::Polling => self.poll(schedule, client),
            State::HandingOver { input, weight, paused } => {
                self.hand_over(schedule, client, shared, input, weight, paused)?
            }
            State::Changing => self.change(schedule, client, shared)?,
            State::Assigning(partitions, answer) => match answer.try_recv() {
                Ok(starts) => {
                    let positions = resolve(client, &partitions, starts)?;
                    client.incremental_assign(&positions);
                    shared.assignment.add(partitions);
                    self.reading.assign(positions);
                    State::Changing
                }
                Err(TryRecvError::Empty) => State::Assigning(partitions, answer),
                // The owner is silent: the consumer fails.
                Err(TryRecvError::Disconnected) => State::Failed,
            },
            State::Revoking(partitions, answer) => match answer.try_recv() {
                Err(TryRecvError::Empty) if !schedule.chance(3) => State::Revoking(partitions, answer),
                _ => {
                    shared.assignment.remove(&partitions);
                    if self.without != Without::Revocation {
                        self.reading.revoke(&partitions);
                    }
                    client.incremental_unassign(&partitions, schedule.chance(50));
                    State::Changing
                }
            },
            State::Failed => State::Failed,
        };
        Ok(())
    }

    fn poll(&mut self, schedule: &mut Schedule, client: &Client) -> State {
        if let Some((at, offset)) = client.poll() {
            self.take(schedule, &at, offset);
            if !self.reading.is_full(self.max_records, 1 << 20) {
                return State::Polling;
            }
        }
        if self.reading.is_empty() && self.unasked.is_empty() { State::Changing } else { self.next_batch() }
    }

    fn take(&mut self, schedule: &mut Schedule, at: &TopicPartition, offset: i64) {
        let make = |topic, position_before| record(topic, at.partition, offset, position_before);
        let taken = self.reading.take(&at.topic, at.partition, offset, make);
        if !taken && self.without == Without::Positions {
            self.unasked.push(record(at.topic.clone(), at.partition, offset, offset));
        }
        schedule
            .step(|| format!("thread: {at} offset {offset}: {}", if taken { "taken" } else { "dropped" }));
    }

    fn next_batch(&mut self) -> State {
        let (mut records, weight) = self.reading.batch();
        records.append(&mut self.unasked);
        State::HandingOver { input: Input::Records(records), weight, paused: false }
    }

    fn hand_over(
        &mut self,
        schedule: &mut Schedule,
        client: &Client,
        shared: &Shared,
        input: Input,
        weight: usize,
        mut paused: bool,
    ) -> Result<State, String> {
        if client.has_change() && self.without == Without::Order {
            let state = self.change(schedule, client, shared)?;
            shared.queue.insist(input, weight);
            return Ok(state);
        }
        match shared.queue.push(input, weight, Duration::ZERO) {
            Ok(()) => {}
            Err(Refused::Abandoned) => return Err("the queue is abandoned".into()),
            Err(Refused::Full(input)) => {
                if !paused {
                    let set = shared.assignment.set_backpressure(client, true);
                    set.map_err(|error| error.to_string())?;
                    schedule.tell(|| "thread: backpressure".to_owned());
                    paused = true;
                }
                if let Some((at, offset)) = client.poll() {
                    self.take(schedule, &at, offset);
                }
                if !client.has_change() {
                    return Ok(State::HandingOver { input, weight, paused });
                }
                shared.queue.insist(input, weight);
            }
        }
        if paused {
            let set = shared.assignment.set_backpressure(client, false);
            set.map_err(|error| error.to_string())?;
            if self.without == Without::Pauses {
                client.borrow_mut().assigned.values_mut().for_each(|one| one.paused = false);
            }
        }
        Ok(if self.reading.is_empty() { State::Changing } else { self.next_batch() })
    }

    fn change(&mut self, schedule: &mut Schedule, client: &Client, shared: &Shared) -> Result<State, String> {
        let Some(change) = client.next_change() else { return Ok(State::Polling) };
        schedule.step(|| format!("thread: asks about {change:?}"));
        let (question, state) = match change {
            Change::Assign(partitions) => {
                let (reply, answer) = Reply::new();
                (
                    Input::Assigned { partitions: partitions.clone(), reply },
                    State::Assigning(partitions, answer),
                )
            }
            Change::Revoke { partitions, lost } => {
                let (done, answer) = Reply::new();
                (
                    Input::Revoked { partitions: partitions.clone(), lost, done },
                    State::Revoking(partitions, answer),
                )
            }
        };
        if shared.queue.insist(question, 0) { Ok(state) } else { Err("the queue is abandoned".into()) }
    }
}

fn resolve(
    client: &Client,
    partitions: &[TopicPartition],
    starts: Vec<StartAt>,
) -> Result<Vec<(TopicPartition, i64)>, String> {
    rebalance::check(partitions, &starts)?;
    let state = client.borrow_mut();
    let first = |at: &TopicPartition| state.logs.get(at).and_then(|log| log.first()).copied().unwrap_or(0);
    let position = |StartAt { at, start }: StartAt| match start {
        Start::Offset(offset) => (at, offset),
        _ => {
            let first = first(&at);
            (at, first)
        }
    };
    Ok(starts.into_iter().map(position).collect())
}

fn record(topic: std::sync::Arc<str>, partition: i32, offset: i64, position_before: i64) -> Record {
    Record {
        topic,
        partition,
        offset,
        timestamp_ms: 0,
        timestamp_kind: TimestampKind::Create,
        key: None,
        headers: Vec::new(),
        payload: Vec::new(),
        position_before,
    }
}
