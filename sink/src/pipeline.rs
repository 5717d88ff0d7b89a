//! The stages between the intake and the database: one batch is prepared while another is written.

use std::collections::VecDeque;

use anyhow::Context as _;
use schemas::Micros;
use service::metrics;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::batch::Batch;
use crate::intake::Intake;
use crate::position::PartitionKey;
use crate::prepare::{Prepared, Preparer};
use crate::write::{Work, WriteError, Writer, Written};

/// A batch that is closed and not being written.
enum Stage {
    Closed(Batch),
    Preparing,
    Prepared(Batch, Box<Prepared>),
}

type Preparing = JoinHandle<(Preparer, Batch, Prepared)>;
type Writing = JoinHandle<(Writer, Work, Result<Written, WriteError>)>;

/// Whoever works, or waits for work.
enum Worker<T, H> {
    Idle(T),
    Busy(H),
    /// Between the two, within one call.
    Away,
}

impl<T, H> Worker<T, H> {
    fn take_idle(&mut self) -> Option<T> {
        match std::mem::replace(self, Worker::Away) {
            Worker::Idle(worker) => Some(worker),
            other => {
                *self = other;
                None
            }
        }
    }
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

/// Prepares and writes batches in the order in which they were closed.
pub struct Pipeline {
    stages: VecDeque<Stage>,
    preparer: Worker<Preparer, Preparing>,
    writer: Worker<Writer, Writing>,
    /// Of batches past: their memory.
    spare: Vec<Prepared>,
}

impl Pipeline {
    /// Nothing under way.
    pub fn new(writer: Writer) -> Self {
        Self {
            stages: VecDeque::new(),
            preparer: Worker::Idle(Preparer::default()),
            writer: Worker::Idle(writer),
            spare: Vec::new(),
        }
    }

    /// Whether everything given has been written.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty() && !self.is_writing()
    }

    /// Whether a transaction is under way.
    pub fn is_writing(&self) -> bool {
        matches!(self.writer, Worker::Busy(_))
    }

    /// Closes the intake's batch if there is room for it, and moves batches on as far as they go. With `stopping`,
    /// whatever the intake has is closed.
    pub fn advance(&mut self, intake: &mut Intake, stopping: bool) {
        loop {
            if self.stages.is_empty()
                && let Some((batch, trigger)) = intake.close(stopping)
            {
                metrics::SINK_FLUSHES.with([trigger]).add(1);
                self.stages.push_back(Stage::Closed(batch));
            }
            let moved = self.prepare(intake);
            if !self.write(intake) && !moved {
                return;
            }
        }
    }

    /// Prepares the first batch that is not, if nothing is being prepared. Returns whether something moved.
    fn prepare(&mut self, intake: &Intake) -> bool {
        let Some(at) = self.stages.iter().position(|stage| matches!(stage, Stage::Closed(_))) else {
            return false;
        };
        let Some(preparer) = self.preparer.take_idle() else { return false };
        let batch = match self.stages.remove(at) {
            Some(Stage::Closed(mut batch)) => {
                batch.remove(&intake.stale(&batch));
                batch
            }
            _ => Batch::default(),
        };
        if batch.is_empty() {
            self.preparer = Worker::Idle(preparer);
            return true;
        }
        self.stages.insert(at, Stage::Preparing);
        let recycled = self.spare.pop().unwrap_or_default();
        self.preparer = Worker::Busy(spawn_blocking(move || {
            let mut preparer = preparer;
            let prepared = preparer.prepare(&batch, Micros::now(), recycled);
            (preparer, batch, prepared)
        }));
        true
    }

    /// Writes the first batch if it is prepared and nothing is being written. Returns whether something moved.
    fn write(&mut self, intake: &Intake) -> bool {
        if !matches!(self.stages.front(), Some(Stage::Prepared(..))) {
            return false;
        }
        let Some(mut writer) = self.writer.take_idle() else { return false };
        let Some(Stage::Prepared(mut batch, prepared)) = self.stages.pop_front() else { return false };
        let stale = intake.stale(&batch);
        if !stale.is_empty() {
            // Rows of theirs are in it: it is prepared again without.
            self.writer = Worker::Idle(writer);
            self.spare.push(*prepared);
            batch.remove(&stale);
            self.stages.push_front(Stage::Closed(batch));
            return true;
        }
        let epochs = intake.epochs(&batch);
        let mut work = Work { batch, prepared: *prepared, epochs };
        self.writer = Worker::Busy(tokio::spawn(async move {
            let written = writer.write(&mut work).await;
            (writer, work, written)
        }));
        true
    }

    /// Waits for what is under way; for ever when nothing is. May be dropped at any await.
    ///
    /// # Errors
    /// A batch cannot be written, and never will be.
    pub async fn next(&mut self, intake: &mut Intake) -> anyhow::Result<Event> {
        tokio::select! {
            done = finished(&mut self.preparer) => {
                let (preparer, batch, prepared) = done.context("preparing a batch")?;
                self.preparer = Worker::Idle(preparer);
                if let Some(stage) = self.stages.iter_mut().find(|stage| matches!(stage, Stage::Preparing)) {
                    *stage = Stage::Prepared(batch, Box::new(prepared));
                }
                Ok(Event::Prepared)
            }
            done = finished(&mut self.writer) => {
                let (writer, work, written) = done.context("writing a batch")?;
                self.writer = Worker::Idle(writer);
                Ok(self.written(work, written?, intake))
            }
        }
    }

    fn written(&mut self, work: Work, written: Written, intake: &mut Intake) -> Event {
        let Work { mut batch, prepared, epochs } = work;
        intake.set_epochs(&batch, &epochs);
        self.spare.push(prepared);
        match written {
            Written::Committed => Event::Committed(batch),
            Written::GivenUp => Event::GivenUp,
            Written::Known(known) => {
                batch.learn(known);
                self.stages.push_front(Stage::Closed(batch));
                Event::Known
            }
            Written::Fenced(partitions) => {
                let fenced = intake.fence(&batch, &partitions);
                batch.remove(&partitions);
                if !batch.is_empty() {
                    // Before everything else: what follows it continues it.
                    self.stages.push_front(Stage::Closed(batch));
                }
                Event::Fenced(fenced)
            }
        }
    }
}

/// The end of what a worker does; never while it is idle.
async fn finished<T, R>(worker: &mut Worker<T, JoinHandle<R>>) -> Result<R, tokio::task::JoinError> {
    match worker {
        Worker::Busy(handle) => handle.await,
        _ => std::future::pending().await,
    }
}
