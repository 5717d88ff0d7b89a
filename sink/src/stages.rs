//! Which batch is prepared and which is written next, and what becomes of it: a pure state machine between the intake
//! and the database.
//!
//! [`Stages::step`] says what to do; whoever does it says when it is done. Batches are written in the order in which they
//! were closed, each on the epochs of its assignment; one that has lost partitions meanwhile is prepared again without
//! them.

use std::collections::VecDeque;

use crate::batch::Batch;
use crate::intake::Intake;
use crate::position::PartitionKey;
use crate::write::{Epochs, Written};

/// A batch that is closed and not being written.
enum Stage<P> {
    Closed(Batch),
    Preparing,
    Prepared(Batch, P),
}

/// Something to do.
#[derive(Debug)]
pub enum Step<Q, W, P> {
    /// Nothing: a batch was closed, for this reason.
    Closed(&'static str),
    /// Prepare a batch, then [`Stages::prepared`].
    Prepare {
        /// Whoever prepares.
        preparer: Q,
        /// The batch.
        batch: Batch,
    },
    /// Forget what a batch was prepared to: it is prepared again.
    Discard(P),
    /// Write a batch, then [`Stages::written`].
    Write {
        /// Whoever writes.
        writer: W,
        /// The batch.
        batch: Batch,
        /// What it was prepared to.
        prepared: P,
        /// The epochs to write it under.
        epochs: Epochs,
    },
}

/// What has happened, for the owner to act on.
#[derive(Debug)]
pub enum Event {
    /// A batch is prepared.
    Prepared,
    /// A batch is committed; what it covered.
    Committed(Batch),
    /// Some partitions of a batch are another sink's; it is written again without them.
    Fenced(Vec<PartitionKey>),
    /// Some pushes of a batch are in the database; it is prepared again without them.
    Known,
    /// The process is stopping and the database did not answer.
    GivenUp,
}

/// The batches under way, with a preparer and a writer, each of which does one thing at a time.
pub struct Stages<Q, W, P> {
    batches: VecDeque<Stage<P>>,
    /// None while it prepares.
    preparer: Option<Q>,
    /// None while it writes.
    writer: Option<W>,
}

impl<Q, W, P> Stages<Q, W, P> {
    /// Nothing under way.
    pub fn new(preparer: Q, writer: W) -> Self {
        Self { batches: VecDeque::new(), preparer: Some(preparer), writer: Some(writer) }
    }

    /// Whether everything given has been written.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty() && !self.is_writing()
    }

    /// Whether a transaction is under way.
    pub fn is_writing(&self) -> bool {
        self.writer.is_none()
    }

    /// What is to be done next; to be asked until there is nothing. With `stopping`, whatever the intake has is closed.
    pub fn step(&mut self, intake: &mut Intake, stopping: bool) -> Option<Step<Q, W, P>> {
        self.drop_stale(intake);
        if self.batches.is_empty()
            && let Some((batch, trigger)) = intake.close(stopping)
        {
            self.batches.push_back(Stage::Closed(batch));
            return Some(Step::Closed(trigger));
        }
        self.prepare().or_else(|| self.write(intake))
    }

    /// Takes out of the batches not prepared yet what is not held any more.
    fn drop_stale(&mut self, intake: &Intake) {
        self.batches.retain_mut(|stage| {
            let Stage::Closed(batch) = stage else { return true };
            let stale = intake.stale(batch);
            if !stale.is_empty() {
                batch.remove(&stale);
            }
            !batch.is_empty()
        });
    }

    /// Prepares the first batch that is not, if nothing is being prepared.
    fn prepare(&mut self) -> Option<Step<Q, W, P>> {
        let closed = self.batches.iter_mut().find(|stage| matches!(stage, Stage::Closed(_)))?;
        let preparer = self.preparer.take()?;
        match std::mem::replace(closed, Stage::Preparing) {
            Stage::Closed(batch) => Some(Step::Prepare { preparer, batch }),
            // It was found closed.
            Stage::Preparing | Stage::Prepared(..) => None,
        }
    }

    /// Writes the first batch if it is prepared and nothing is being written.
    fn write(&mut self, intake: &Intake) -> Option<Step<Q, W, P>> {
        if !matches!(self.batches.front(), Some(Stage::Prepared(..))) {
            return None;
        }
        let writer = self.writer.take()?;
        let Some(Stage::Prepared(mut batch, prepared)) = self.batches.pop_front() else { return None };
        let stale = intake.stale(&batch);
        if !stale.is_empty() {
            // Rows of theirs are in it.
            self.writer = Some(writer);
            batch.remove(&stale);
            self.batches.push_front(Stage::Closed(batch));
            return Some(Step::Discard(prepared));
        }
        let epochs = intake.epochs(&batch);
        Some(Step::Write { writer, batch, prepared, epochs })
    }

    /// The batch is prepared.
    pub fn prepared(&mut self, preparer: Q, batch: Batch, prepared: P) -> Event {
        self.preparer = Some(preparer);
        if let Some(stage) = self.batches.iter_mut().find(|stage| matches!(stage, Stage::Preparing)) {
            *stage = Stage::Prepared(batch, prepared);
        }
        Event::Prepared
    }

    /// Writing the batch has ended like this. `epochs` are those it was written under at last.
    pub fn written(
        &mut self,
        writer: W,
        mut batch: Batch,
        epochs: &Epochs,
        written: Written,
        intake: &mut Intake,
    ) -> Event {
        self.writer = Some(writer);
        intake.set_epochs(&batch, epochs);
        match written {
            Written::Committed => Event::Committed(batch),
            Written::GivenUp => Event::GivenUp,
            Written::Known(known) => {
                batch.learn(known);
                self.batches.push_front(Stage::Closed(batch));
                Event::Known
            }
            Written::Fenced(partitions) => {
                let fenced = intake.fence(&batch, &partitions);
                batch.remove(&partitions);
                if !batch.is_empty() {
                    // Before everything else: what follows it continues it.
                    self.batches.push_front(Stage::Closed(batch));
                }
                Event::Fenced(fenced)
            }
        }
    }
}
