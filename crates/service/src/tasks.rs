//! The tasks of a service and the order in which it stops.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::timeout;

use crate::shutdown::Shutdown;

type Step = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// Runs a service's tasks until a stop is asked for or one of them fails, then stops in order:
///
/// 1. critical tasks end by themselves, each watching the [`Shutdown`] (listeners drain, consumers finish a batch);
/// 2. background tasks are aborted;
/// 3. the steps run, one after the other, each within its bound (flush the producer, close the pool).
///
/// All of it happens within the time that the shutdown leaves ([`Shutdown::remaining`]); what did not end is aborted
/// and named in the error.
pub struct Tasks {
    shutdown: Shutdown,
    critical: JoinSet<anyhow::Result<()>>,
    background: JoinSet<()>,
    names: HashMap<Id, String>,
    steps: Vec<(String, Duration, Step)>,
}

impl Tasks {
    /// No tasks yet; they stop with `shutdown`.
    pub fn new(shutdown: &Shutdown) -> Self {
        Self {
            shutdown: shutdown.clone(),
            critical: JoinSet::new(),
            background: JoinSet::new(),
            names: HashMap::new(),
            steps: Vec::new(),
        }
    }

    /// Starts a task that the service cannot do without. Its end before a stop was asked for, with an error or
    /// without, stops the service with that error.
    pub fn critical<F>(&mut self, name: impl Into<String>, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let id = self.critical.spawn(task).id();
        self.names.insert(id, name.into());
    }

    /// Starts a task that may end at any time and is aborted when the critical ones have ended.
    pub fn background<F>(&mut self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.background.spawn(task);
    }

    /// Adds a step to the end of the shutdown. It runs also after a failure, and after a step before it failed.
    pub fn then<F>(&mut self, name: impl Into<String>, bound: Duration, step: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.steps.push((name.into(), bound, Box::pin(step)));
    }

    /// Runs until everything has stopped.
    ///
    /// # Errors
    /// The first failure: of a critical task, of the draining, or of a step. Later ones are logged.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut outcome = Outcome::default();
        tokio::select! {
            () = self.shutdown.requested() => {}
            Some(ended) = self.critical.join_next_with_id() => self.ended(ended, &mut outcome),
        }
        self.shutdown.request();

        let drained = timeout(self.shutdown.remaining(), async {
            while let Some(ended) = self.critical.join_next_with_id().await {
                Self::named(&mut self.names, ended, true, &mut outcome);
            }
        })
        .await;
        if drained.is_err() {
            let mut left: Vec<_> = self.names.into_values().collect();
            left.sort_unstable();
            outcome.failed(anyhow!("did not stop in time: {}", left.join(", ")));
            self.critical.shutdown().await;
        }
        self.background.shutdown().await;

        for (name, bound, step) in self.steps {
            let bound = bound.min(self.shutdown.remaining());
            match timeout(bound, step).await {
                Ok(Ok(())) => tracing::debug!(step = name, "stopped"),
                Ok(Err(error)) => outcome.failed(error.context(format!("cannot {name}"))),
                Err(_) => outcome.failed(anyhow!("cannot {name}: not done within {bound:?}")),
            }
        }
        outcome.into_result()
    }

    fn ended(&mut self, ended: Ended, outcome: &mut Outcome) {
        let stopping = self.shutdown.is_requested();
        Self::named(&mut self.names, ended, stopping, outcome);
    }

    fn named(names: &mut HashMap<Id, String>, ended: Ended, stopping: bool, outcome: &mut Outcome) {
        let (id, result) = match ended {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(error).context("panicked")),
        };
        let name = names.remove(&id).unwrap_or_default();
        match result {
            Ok(()) if stopping => tracing::debug!(task = name, "stopped"),
            Ok(()) => outcome.failed(anyhow!("{name} ended although nobody asked it to")),
            Err(error) => outcome.failed(error.context(name)),
        }
    }
}

type Ended = Result<(Id, anyhow::Result<()>), JoinError>;

#[derive(Default)]
struct Outcome {
    first: Option<anyhow::Error>,
}

impl Outcome {
    fn failed(&mut self, error: anyhow::Error) {
        tracing::error!("{error:#}");
        self.first.get_or_insert(error);
    }

    fn into_result(self) -> anyhow::Result<()> {
        self.first.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_failed_critical_task_stops_the_others_and_is_the_error() {
        let shutdown = Shutdown::new();
        let mut tasks = Tasks::new(&shutdown);
        let stopping = shutdown.requested();
        tasks.critical("listener", async move {
            stopping.await;
            Ok(())
        });
        tasks.critical("consumer", async { Err(anyhow!("fenced")) });
        let error = tasks.run().await.unwrap_err();
        assert_eq!(format!("{error:#}"), "consumer: fenced");
        assert!(shutdown.is_requested());
    }

    #[tokio::test]
    async fn a_critical_task_that_just_ends_is_an_error() {
        let mut tasks = Tasks::new(&Shutdown::new());
        tasks.critical("consumer", async { Ok(()) });
        let error = tasks.run().await.unwrap_err();
        assert_eq!(format!("{error:#}"), "consumer ended although nobody asked it to");
    }

    #[tokio::test]
    async fn steps_run_in_order_after_the_critical_tasks_even_when_one_fails() {
        let shutdown = Shutdown::new();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Tasks::new(&shutdown);
        let (stopping, log) = (shutdown.requested(), seen.clone());
        tasks.critical("consumer", async move {
            stopping.await;
            tokio::task::yield_now().await;
            log.lock().unwrap().push("consumer");
            Ok(())
        });
        tasks.background(std::future::pending());
        let log = seen.clone();
        tasks.then("flush the producer", SECOND, async move {
            log.lock().unwrap().push("flush");
            Err(anyhow!("broker is away"))
        });
        let log = seen.clone();
        tasks.then("close the pool", SECOND, async move {
            log.lock().unwrap().push("close");
            Ok(())
        });
        shutdown.request();
        let error = tasks.run().await.unwrap_err();
        assert_eq!(format!("{error:#}"), "cannot flush the producer: broker is away");
        assert_eq!(*seen.lock().unwrap(), ["consumer", "flush", "close"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_stop_in_time_is_named_and_left() {
        let shutdown = Shutdown::new();
        let mut tasks = Tasks::new(&shutdown);
        tasks.critical("stuck", std::future::pending());
        shutdown.request();
        let error = tasks.run().await.unwrap_err();
        assert_eq!(error.to_string(), "did not stop in time: stuck");
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_ends_at_its_bound() {
        let shutdown = Shutdown::new();
        let mut tasks = Tasks::new(&shutdown);
        tasks.then("flush", SECOND, std::future::pending());
        shutdown.request();
        assert_eq!(tasks.run().await.unwrap_err().to_string(), "cannot flush: not done within 1s");
    }
}
