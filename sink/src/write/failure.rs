//! What an error of Postgres means for a batch.

use postgres::{Class, classify, describe};
use serde::Deserialize;
use tokio_postgres::Error;

use crate::position::{PartitionKey, Topic};

/// Why a transaction did not commit.
#[derive(Debug)]
pub enum Failure {
    /// `sink_commit` found other epochs on these partitions.
    Fenced(Vec<PartitionKey>),
    /// `sink_keys` found that other sinks have stored pushes of the batch since it looked.
    KeysTaken(String),
    /// The connection is gone or the server out of something: whether it committed is to be found out.
    InDoubt(Class, String),
    /// Postgres refuses a row.
    Data,
    /// No partition of this table holds a row of a month that should have one.
    NoPartition(String),
    /// Nothing that repeating would mend.
    Fatal(String),
}

/// `sink_commit`: another epoch.
const FENCED: &str = "TW001";
/// `sink_commit`: this epoch at another position.
const MOVED: &str = "TW002";
/// `sink_keys`: keys are taken.
const KEYS_TAKEN: &str = "TW003";

#[derive(Deserialize)]
struct Named {
    topic: String,
    kpart: i32,
}

impl Failure {
    /// Sorts an error.
    pub fn of(error: &Error) -> Failure {
        let Some(db) = error.as_db_error() else {
            return match classify(error) {
                Class::Fatal | Class::Data => Failure::Fatal(describe(error)),
                class => Failure::InDoubt(class, describe(error)),
            };
        };
        match db.code().code() {
            FENCED => {
                let partitions = named(db.detail().unwrap_or_default());
                if partitions.is_empty() {
                    return Failure::Fatal(format!("sink_commit names no partition: {}", db.message()));
                }
                return Failure::Fenced(partitions);
            }
            MOVED => {
                return Failure::Fatal(format!(
                    "{}: {}; somebody changed sink_partition, or a commit is lost: compare it with sink_ledger",
                    db.message(),
                    db.detail().unwrap_or_default()
                ));
            }
            KEYS_TAKEN => return Failure::KeysTaken(db.detail().unwrap_or_default().to_owned()),
            _ => {}
        }
        if lacks_partition(error) {
            return Failure::NoPartition(db.table().unwrap_or("a table").to_owned());
        }
        match classify(error) {
            Class::Data => Failure::Data,
            Class::Fatal => Failure::Fatal(describe(error)),
            class => Failure::InDoubt(class, describe(error)),
        }
    }
}

/// Whether a row has no partition to go to: a check violation without the name of a constraint.
pub fn lacks_partition(error: &Error) -> bool {
    error.as_db_error().is_some_and(|db| db.code().code() == "23514" && db.constraint().is_none())
}

fn named(detail: &str) -> Vec<PartitionKey> {
    let named: Vec<Named> = serde_json::from_str(detail).unwrap_or_default();
    let key =
        |Named { topic, kpart }| Some(PartitionKey { topic: Topic::from_name(&topic)?, partition: kpart });
    named.into_iter().filter_map(key).collect()
}
