//! Changes of the assignment: asked of the owner, then made.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};

use super::assignment::named;
use super::context::{Change, Context};
use super::input::{ConsumeError, Input, Reply, Start, StartAt};
use super::worker::{End, REQUEST_TIMEOUT, Worker};
use crate::error::Error;
use crate::record::{TopicPartition, list, offsets, partitions_of};

/// How soon a stop is noticed while the owner thinks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Makes a change with the owner's consent. On an error the client is left for [`make_silently`] and the end.
pub(super) fn make(worker: &mut Worker, change: Change) -> Result<(), End> {
    worker.shared.counters.rebalanced();
    match change {
        Change::Assign(partitions) => {
            let assigned = assign(worker, &partitions);
            if assigned.is_err() {
                make_silently(&worker.client, Change::Assign(partitions));
            }
            assigned
        }
        Change::Revoke(partitions) => {
            let revoked = revoke(worker, &partitions);
            if revoked.is_err() {
                make_silently(&worker.client, Change::Revoke(partitions));
            }
            revoked
        }
    }
}

/// Satisfies librdkafka, which waits for an answer to every change even on the way out.
pub(super) fn make_silently(client: &BaseConsumer<Context>, change: Change) {
    let made = match change {
        Change::Assign(_) => client.incremental_assign(&TopicPartitionList::new()),
        Change::Revoke(partitions) => client.incremental_unassign(&partitions),
    };
    if made.is_err()
        && let Err(error) = client.unassign()
    {
        tracing::debug!(%error, "giving up the assignment failed");
    }
}

fn assign(worker: &mut Worker, assigned: &TopicPartitionList) -> Result<(), End> {
    let partitions = partitions_of(assigned);
    let deadline = Instant::now() + worker.options.reply_timeout;
    let positions = if partitions.is_empty() {
        // Nothing new; the protocol wants to be told nevertheless.
        Vec::new()
    } else {
        tracing::info!(partitions = named(&partitions), "assigned");
        let (reply, answer) = Reply::new();
        let question = Input::Assigned { partitions: partitions.clone(), reply };
        if !worker.shared.queue.insist(question, 0) {
            return Err(End::Stopped);
        }
        let Some(starts) = wait(worker, &answer, deadline)? else {
            return Err(ConsumeError::OwnerSilent { partitions: named(&partitions) }.into());
        };
        resolve(worker, &partitions, starts, deadline)?
    };
    let action = || format!("starting to read {}", named(&partitions));
    let from = offsets(&positions).map_err(|error| Error::new(action(), &error))?;
    // The starts are part of the assignment: a seek after it may be lost (librdkafka issue 1767).
    worker.client.incremental_assign(&from).map_err(|error| Error::new(action(), &error))?;
    worker.shared.assignment.add(partitions);
    worker.reading.assign(positions);
    Ok(())
}

fn revoke(worker: &mut Worker, revoked: &TopicPartitionList) -> Result<(), End> {
    let partitions = partitions_of(revoked);
    if !partitions.is_empty() {
        let lost = worker.client.assignment_lost();
        tracing::info!(partitions = named(&partitions), lost, "revoked");
        let (done, answer) = Reply::new();
        let question = Input::Revoked { partitions: partitions.clone(), lost, done };
        if !worker.shared.queue.insist(question, 0) {
            return Err(End::Stopped);
        }
        let deadline = Instant::now() + worker.options.reply_timeout;
        if wait(worker, &answer, deadline)?.is_none() {
            tracing::error!(
                partitions = named(&partitions),
                "a revocation was not acknowledged; the partitions are given up all the same"
            );
        }
    }
    worker.shared.assignment.remove(&partitions);
    worker.shared.unconfirmed.lock().retain(|partition, _| !partitions.contains(partition));
    worker.shared.notes.lock().retain(|partition, _| !partitions.contains(partition));
    worker.reading.revoke(&partitions);
    let action = || format!("giving up {}", named(&partitions));
    worker.client.incremental_unassign(revoked).map_err(|error| Error::new(action(), &error))?;
    Ok(())
}

/// The owner's answer; `None` when there is none and will be none.
fn wait<T>(worker: &Worker, answer: &Receiver<T>, deadline: Instant) -> Result<Option<T>, End> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match answer.recv_timeout(left.min(LOOK_INTERVAL)) {
            Ok(answer) => return Ok(Some(answer)),
            Err(RecvTimeoutError::Disconnected) => {
                return if worker.shared.stopping() { Err(End::Stopped) } else { Ok(None) };
            }
            Err(RecvTimeoutError::Timeout) if worker.shared.stopping() => return Err(End::Stopped),
            Err(RecvTimeoutError::Timeout) if left.is_zero() => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Turns every start into an offset, so that the position before the first record is known.
fn resolve(
    worker: &Worker,
    partitions: &[TopicPartition],
    starts: Vec<StartAt>,
    deadline: Instant,
) -> Result<Vec<(TopicPartition, i64)>, End> {
    check(partitions, &starts).map_err(ConsumeError::WrongStarts)?;
    let wants = |start: &Start| matches!(start, Start::Committed | Start::CommittedOrBeginning);
    let asked: Vec<_> =
        starts.iter().filter(|start| wants(&start.start)).map(|start| start.at.clone()).collect();
    let committed = if asked.is_empty() {
        TopicPartitionList::new()
    } else {
        let question = list(&asked);
        retry(worker, deadline, "asking for committed offsets", || {
            let answer = worker.client.committed_offsets(question.clone(), REQUEST_TIMEOUT)?;
            answer.elements().iter().try_for_each(|element| element.error())?;
            Ok(answer)
        })?
    };
    let committed = |at: &TopicPartition| match committed
        .find_partition(&at.topic, at.partition)
        .map(|element| element.offset())
    {
        Some(Offset::Offset(offset)) => Some(offset),
        _ => None,
    };
    let marks = |at: &TopicPartition| {
        retry(worker, deadline, "asking for the ends of a partition", || {
            worker.client.fetch_watermarks(&at.topic, at.partition, REQUEST_TIMEOUT)
        })
    };
    starts
        .into_iter()
        .map(|StartAt { at, start }| {
            let offset = match (start, committed(&at)) {
                (Start::Offset(offset), _)
                | (Start::Committed | Start::CommittedOrBeginning, Some(offset)) => offset,
                (Start::CommittedOrBeginning, None) | (Start::Beginning, _) => marks(&at)?.0,
                (Start::End, _) => marks(&at)?.1,
                (Start::Committed, None) => {
                    let group = worker.options.group.clone();
                    return Err(ConsumeError::NoCommittedOffset { group, partition: at }.into());
                }
            };
            Ok((at, offset))
        })
        .collect()
}

/// Every partition assigned has one start, and no other has any.
pub(super) fn check(partitions: &[TopicPartition], starts: &[StartAt]) -> Result<(), String> {
    for partition in partitions {
        let count = starts.iter().filter(|start| start.at == *partition).count();
        if count != 1 {
            return Err(format!("{count} starts for {partition}"));
        }
    }
    for StartAt { at, start } in starts {
        if !partitions.contains(at) {
            return Err(format!("{at} was not assigned"));
        }
        if matches!(start, Start::Offset(..0)) {
            return Err(format!("{start:?} for {at}"));
        }
    }
    Ok(())
}

/// Asks the broker until it answers, as long as the errors are of the kind that passes.
fn retry<T>(
    worker: &Worker,
    deadline: Instant,
    action: &str,
    ask: impl Fn() -> KafkaResult<T>,
) -> Result<T, End> {
    loop {
        let error = match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) => Error::new(action, &error),
        };
        if worker.shared.stopping() {
            return Err(End::Stopped);
        }
        if !error.is_retriable() || Instant::now() > deadline {
            return Err(error.into());
        }
        std::thread::sleep(RETRY_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(partition: i32) -> TopicPartition {
        TopicPartition::new("t", partition)
    }

    fn start(partition: i32, start: Start) -> StartAt {
        StartAt { at: at(partition), start }
    }

    #[test]
    fn starts_must_fit_the_assignment() {
        let assigned = [at(0), at(1)];
        let beginning = |partition| start(partition, Start::Beginning);
        assert!(check(&assigned, &[beginning(1), beginning(0)]).is_ok());
        assert!(check(&assigned, &[beginning(0)]).is_err());
        assert!(check(&assigned, &[beginning(0), beginning(1), beginning(1)]).is_err());
        assert!(check(&assigned, &[beginning(0), beginning(1), beginning(2)]).is_err());
        assert!(check(&assigned, &[beginning(0), start(1, Start::Offset(-1))]).is_err());
    }
}
