//! What a consumer tells its owner, and what it is answered.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::error::Error;
use crate::record::{Record, TopicPartition};

/// What happens, in order: records read before a revocation come before it.
#[derive(Debug)]
pub enum Input {
    /// These partitions are this member's from now on, besides those it has. Reading starts when the answer names a
    /// start for every one of them, within [`ConsumerOptions::reply_timeout`](crate::ConsumerOptions::reply_timeout);
    /// dropping the reply is [`ConsumeError::OwnerSilent`].
    Assigned {
        /// The new partitions; never empty.
        partitions: Vec<TopicPartition>,
        /// Where each starts.
        reply: Reply<Vec<StartAt>>,
    },
    /// These partitions are about to be another member's: finish or drop what is under way, commit, then answer. Without
    /// an answer in time they are given up all the same.
    Revoked {
        /// Some or all of those assigned; never empty.
        partitions: Vec<TopicPartition>,
        /// They are another's already: a commit would be refused or would harm.
        lost: bool,
        /// Answered when nothing is under way any more.
        done: Reply<()>,
    },
    /// Records in order per partition, all of partitions assigned; never empty.
    Records(Vec<Record>),
    /// Nothing more will come: the consumer has left its group.
    Failed(ConsumeError),
}

/// Where reading a partition starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartAt {
    /// The partition.
    pub at: TopicPartition,
    /// The position.
    pub start: Start,
}

/// A position to start at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Start {
    /// This offset; one that the log does not have is [`ConsumeError::OffsetOutOfRange`].
    Offset(i64),
    /// The group's committed offset; none is [`ConsumeError::NoCommittedOffset`].
    Committed,
    /// The group's committed offset, or the beginning where it has none.
    CommittedOrBeginning,
    /// The first record there is.
    Beginning,
    /// After the last record there is.
    End,
}

/// A consumer cannot go on. All of them are fatal: somebody has to look, or another process has to start afresh.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConsumeError {
    /// [`Start::Committed`] without a committed offset.
    #[error(
        "group {group} has no committed offset for {partition}: name a start, or set the offset of the group"
    )]
    NoCommittedOffset {
        /// The group.
        group: String,
        /// The partition.
        partition: TopicPartition,
    },
    /// Reading was to go on at an offset that the log does not have: retention has overtaken the reader, or the topic
    /// is another one than before.
    #[error(
        "{partition} holds offsets {low} to {high}, reading was to go on at {position}: records are missing"
    )]
    OffsetOutOfRange {
        /// The partition.
        partition: TopicPartition,
        /// The reader's position.
        position: i64,
        /// First offset there is.
        low: i64,
        /// The offset after the last.
        high: i64,
    },
    /// The answer to [`Input::Assigned`] did not come in time, or never will.
    #[error("nobody said where to start reading {partitions}")]
    OwnerSilent {
        /// What was assigned.
        partitions: String,
    },
    /// The answer to [`Input::Assigned`] leaves out a partition, names another or a negative offset.
    #[error("the starts given do not fit the partitions assigned: {0}")]
    WrongStarts(String),
    /// The client failed for good.
    #[error(transparent)]
    Client(#[from] Error),
}

/// An answer that somebody waits for.
#[derive(Debug)]
pub struct Reply<T> {
    sender: SyncSender<T>,
}

impl<T> Reply<T> {
    pub(super) fn new() -> (Self, Receiver<T>) {
        let (sender, receiver) = sync_channel(1);
        (Self { sender }, receiver)
    }

    /// A pair for tests of owners: what is sent can be received from the second.
    pub fn for_test() -> (Self, Receiver<T>) {
        Self::new()
    }

    /// Answers. Without effect when the consumer has not waited so long.
    pub fn send(self, answer: T) {
        // Nobody may be waiting any more.
        let _ = self.sender.try_send(answer);
    }
}
