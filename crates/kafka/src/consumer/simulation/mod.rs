//! A member of a group, from librdkafka's queue to its owner, one step at a time: who gets which record, who may commit,
//! who is paused.

mod client;
mod owner;
mod thread;

use std::sync::Arc;

use parking_lot::Mutex;
use simulation::{Schedule, Simulation};

use super::Shared;
use super::assignment::Assignment;
use super::stats::Counters;
use crate::brokers::Brokers;
use crate::queue::Queue;
use crate::record::TopicPartition;
use client::{Change, Client};
use owner::Owner;
use thread::Thread;

const SIMULATION: Simulation = Simulation::new("assignment", 100_000);

/// What is taken away to see whether it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// A record is handed over wherever reading is.
    Positions,
    /// Positions outlive their assignment.
    Revocation,
    /// A rebalance overtakes what was read before it.
    Order,
    /// The end of backpressure resumes what the owner has paused.
    Pauses,
    /// Everything asked for is committed.
    Filter,
}

fn at(number: i32) -> TopicPartition {
    TopicPartition::new(if number % 2 == 0 { "events" } else { "findings" }, number / 2)
}

fn member(schedule: &mut Schedule, without: Without) -> Result<(), String> {
    let partitions: Vec<_> = (0..1 + schedule.within(0, 4) as i32).map(at).collect();
    let limit = 200 * (1 + schedule.below(8));
    let shared = Shared {
        queue: Arc::new(Queue::new(limit)),
        unconfirmed: Mutex::default(),
        notes: Mutex::default(),
        assignment: Assignment::default(),
        counters: Counters::default(),
        brokers: Brokers::default(),
        stop: false.into(),
    };
    let client = Client::new(schedule, &partitions);
    let mut thread = Thread::new(1 + schedule.below(4), without);
    let mut owner = Owner::new(without);
    for _ in 0..40 + schedule.below(80) {
        match schedule.below(12) {
            0 => rebalance(schedule, &client, &partitions),
            1..=3 => client.fetch(schedule),
            4 => owner.pause_or_resume(schedule, &client, &shared, &partitions)?,
            5 => owner.commit(schedule, &client, &shared, &partitions)?,
            6..=8 => owner.take(schedule, &client, &shared)?,
            _ => thread.step(schedule, &client, &shared)?,
        }
        owner.check_pauses(&client, &shared)?;
    }
    if thread.failed() {
        return Ok(());
    }

    // Nothing more happens to it: everything that there is reaches the owner.
    owner.settle();
    for _ in 0..2_000 {
        client.fetch(schedule);
        thread.step(schedule, &client, &shared)?;
        owner.resume_all(&client, &shared, &partitions)?;
        owner.take(schedule, &client, &shared)?;
        if thread.failed() || thread.is_quiet() && owner.is_quiet() && client.is_quiet() {
            break;
        }
    }
    if thread.failed() { Ok(()) } else { owner.check_all_read(&client) }
}

/// The group decides something. It waits for one answer before the next decision.
fn rebalance(schedule: &mut Schedule, client: &Client, partitions: &[TopicPartition]) {
    let mut client = client.borrow_mut();
    if !client.is_settled() {
        return;
    }
    let assigns = schedule.chance(50);
    let could = |at: &&TopicPartition| client.assigned.contains_key(*at) != assigns;
    let mut chosen: Vec<_> = partitions.iter().filter(could).cloned().collect();
    schedule.shuffle(&mut chosen);
    chosen.truncate(1 + schedule.below(chosen.len()));
    if !chosen.is_empty() {
        let change = if assigns {
            Change::Assign(chosen)
        } else {
            Change::Revoke { partitions: chosen, lost: schedule.chance(30) }
        };
        schedule.step(|| format!("group: {change:?}"));
        client.changes.push_back(change);
    }
}

#[test]
fn records_reach_the_owner_once_an_assignment_and_only_then() {
    SIMULATION.holds(|schedule| member(schedule, Without::Nothing));
}

#[test]
fn without_its_guards_it_would_not_hold() {
    for without in [Without::Positions, Without::Revocation, Without::Order, Without::Pauses, Without::Filter]
    {
        SIMULATION.breaks(&format!("without {without:?}"), |schedule| member(schedule, without));
    }
}
