//! Taking partitions over, and finding out what became of a transaction whose end was not seen.

use std::collections::BTreeMap;

use tokio_postgres::{Client, Error};

use super::closing::Epochs;
use super::failure::Failure;
use crate::batch::Batch;
use crate::position::{PartitionKey, Position, Topic};

const ACQUIRE: &str = "SELECT topic, kpart, epoch, next_offset, source_topic_id, next_source_offset \
                       FROM sink_acquire($1, $2, $3)";

/// A partition that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Under this epoch.
    pub epoch: i64,
    /// With everything before this stored.
    pub position: Position,
}

/// Takes partitions under new epochs, whoever holds them.
///
/// # Errors
/// The query's.
pub async fn acquire(
    client: &Client,
    partitions: &[PartitionKey],
) -> Result<BTreeMap<PartitionKey, Held>, Error> {
    acquire_if(client, partitions.iter().map(|partition| (*partition, 0))).await
}

/// Takes partitions that are still at these epochs (0: whatever it is); others are missing from the result.
async fn acquire_if(
    client: &Client,
    partitions: impl Iterator<Item = (PartitionKey, i64)>,
) -> Result<BTreeMap<PartitionKey, Held>, Error> {
    let (mut topics, mut numbers, mut epochs) = (Vec::new(), Vec::new(), Vec::new());
    for (partition, epoch) in partitions {
        topics.push(partition.topic.name());
        numbers.push(partition.partition);
        epochs.push(epoch);
    }
    let mut held = BTreeMap::new();
    for row in client.query(ACQUIRE, &[&topics, &numbers, &epochs]).await? {
        let Some(topic) = Topic::from_name(row.try_get(0)?) else { continue };
        let position = Position {
            next_offset: row.try_get(3)?,
            source_topic_id: row.try_get(4)?,
            next_source: row.try_get::<_, Option<i64>>(5)?.unwrap_or(0),
        };
        let partition = PartitionKey { topic, partition: row.try_get(1)? };
        held.insert(partition, Held { epoch: row.try_get(2)?, position });
    }
    Ok(held)
}

/// What became of a transaction in doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// It was committed.
    Stored,
    /// It was not, and cannot be any more.
    NotStored,
    /// It was not, as far as the partitions go that are still ours; these are not.
    Fenced(Vec<PartitionKey>),
}

/// Takes a new epoch for each partition of the batch that is still held, after which the old transaction cannot commit,
/// and sees by the positions whether it had.
pub async fn settle(client: &Client, batch: &Batch, epochs: &mut Epochs) -> Result<Settled, Failure> {
    let wanted =
        batch.ranges().keys().map(|partition| (*partition, epochs.get(partition).copied().unwrap_or(0)));
    let held = acquire_if(client, wanted).await.map_err(|error| Failure::of(&error))?;
    let (mut stored, mut not_stored, mut fenced) = (0, 0, Vec::new());
    for (partition, range) in batch.ranges() {
        match held.get(partition) {
            None => fenced.push(*partition),
            Some(held) => {
                epochs.insert(*partition, held.epoch);
                if held.position == range.next {
                    stored += 1;
                } else if held.position == range.first {
                    not_stored += 1;
                } else {
                    return Err(Failure::Fatal(format!(
                        "{partition} is at {:?}, neither before nor after the batch that was being written; somebody \
                         changed sink_partition: compare it with sink_ledger",
                        held.position
                    )));
                }
            }
        }
    }
    match (stored, not_stored) {
        // A transaction is stored whole: a partition that has been taken since is stored too.
        (1.., 0) => Ok(Settled::Stored),
        (0, _) if fenced.is_empty() => Ok(Settled::NotStored),
        (0, _) => Ok(Settled::Fenced(fenced)),
        _ => Err(Failure::Fatal(
            "a transaction is stored in parts; compare sink_partition with sink_ledger".into(),
        )),
    }
}
