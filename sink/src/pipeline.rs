//! Does what the [`Stages`] say: prepares on a thread for work, writes in a task.

use anyhow::Context as _;
use service::metrics;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use crate::batch::Batch;
use crate::clock;
use crate::intake::Intake;
use crate::prepare::{Prepared, Preparer};
use crate::stages::{Event, Stages, Step};
use crate::write::{Work, WriteError, Writer, Written};

type Preparing = JoinHandle<(Preparer, Batch, Prepared)>;
type Writing = JoinHandle<(Writer, Work, Result<Written, WriteError>)>;

/// Prepares and writes batches, one while the other.
pub struct Pipeline {
    stages: Stages<Preparer, Writer, Box<Prepared>>,
    preparing: Option<Preparing>,
    writing: Option<Writing>,
    /// Of batches past: their memory.
    spare: Vec<Prepared>,
}

impl Pipeline {
    /// Nothing under way.
    pub fn new(writer: Writer) -> Self {
        Self {
            stages: Stages::new(Preparer::default(), writer),
            preparing: None,
            writing: None,
            spare: Vec::new(),
        }
    }

    /// Whether everything given has been written.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// Whether a transaction is under way.
    pub fn is_writing(&self) -> bool {
        self.stages.is_writing()
    }

    /// Closes the intake's batch if there is room for it, and moves batches on as far as they go. With `stopping`,
    /// whatever the intake has is closed.
    pub fn advance(&mut self, intake: &mut Intake, stopping: bool) {
        while let Some(step) = self.stages.step(intake, stopping) {
            match step {
                Step::Closed(trigger) => metrics::SINK_FLUSHES.with([trigger]).add(1),
                Step::Discard(prepared) => self.spare.push(*prepared),
                Step::Prepare { mut preparer, batch } => {
                    let recycled = self.spare.pop().unwrap_or_default();
                    self.preparing = Some(spawn_blocking(move || {
                        let prepared = preparer.prepare(&batch, clock::now(), recycled);
                        (preparer, batch, prepared)
                    }));
                }
                Step::Write { mut writer, batch, prepared, epochs } => {
                    let mut work = Work { batch, prepared: *prepared, epochs };
                    self.writing = Some(tokio::spawn(async move {
                        let written = writer.write(&mut work).await;
                        (writer, work, written)
                    }));
                }
            }
        }
    }

    /// Waits for what is under way; for ever when nothing is. May be dropped at any await.
    ///
    /// # Errors
    /// A batch cannot be written, and never will be.
    pub async fn next(&mut self, intake: &mut Intake) -> anyhow::Result<Event> {
        tokio::select! {
            done = finished(&mut self.preparing) => {
                let (preparer, batch, prepared) = done.context("preparing a batch")?;
                Ok(self.stages.prepared(preparer, batch, Box::new(prepared)))
            }
            done = finished(&mut self.writing) => {
                let (writer, work, written) = done.context("writing a batch")?;
                let Work { batch, prepared, epochs } = work;
                self.spare.push(prepared);
                Ok(self.stages.written(writer, batch, &epochs, written?, intake))
            }
        }
    }
}

/// The end of what is under way; never while nothing is.
async fn finished<R>(under_way: &mut Option<JoinHandle<R>>) -> Result<R, JoinError> {
    let Some(handle) = under_way else { return std::future::pending().await };
    let done = handle.await;
    *under_way = None;
    done
}
