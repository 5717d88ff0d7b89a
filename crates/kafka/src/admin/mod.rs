//! Topics, their ids and ends, and the offsets of groups.

mod groups;
mod scan;
mod tail;
mod topics;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::AdminClient;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use tokio_util::sync::CancellationToken;

use crate::args::KafkaArgs;
use crate::brokers::Failures;
use crate::context::Quiet;
use crate::error::{Class, Error};
use crate::native;

pub use groups::Committed;
pub use topics::{TopicSpec, TopicState};

/// One question to a broker.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// One question is repeated for so long.
const ASK_PATIENCE: Duration = Duration::from_secs(5);
/// Whether Kafka is there: asked again and again.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Administration: every call asks the brokers anew, on a thread that may block, and ends within seconds. Clones share
/// their connections.
#[derive(Clone)]
pub struct Admin {
    inner: Arc<Inner>,
}

struct Inner {
    args: KafkaArgs,
    admin: AdminClient<Quiet>,
    /// Without a group: asks for metadata and offsets.
    reader: BaseConsumer<Quiet>,
    failures: Failures,
}

impl Admin {
    /// Makes the clients. Needs no broker yet.
    ///
    /// # Errors
    /// The configuration does not fit together.
    pub fn new(args: &KafkaArgs) -> Result<Self, Error> {
        let failed = |error| Error::new("making the administration client", &error);
        let config = args.client_config("tidewatch-admin");
        let admin = config.create_with_context(Quiet::default()).map_err(failed)?;
        let mut config = config.clone();
        // The end of a partition is what a consumer can read, not what an open transaction has written.
        config.set("isolation.level", "read_committed");
        let reader = config.create_with_context(Quiet::default()).map_err(failed)?;
        Ok(Self {
            inner: Arc::new(Inner { args: args.clone(), admin, reader, failures: Failures::default() }),
        })
    }

    /// Waits until a broker answers; false when `shutdown` was cancelled first. `on_wait` is given the reason of every
    /// failed attempt. Everything is waited for, a wrong address too.
    pub async fn wait_until_ready(&self, shutdown: &CancellationToken, on_wait: impl FnMut(&str)) -> bool {
        self.wait_for_topics(&[], shutdown, on_wait).await
    }

    /// [`wait_until_ready`](Self::wait_until_ready) that also waits for topics, by their full names, to exist with a
    /// leader for every partition.
    pub async fn wait_for_topics(
        &self,
        topics: &[&str],
        shutdown: &CancellationToken,
        mut on_wait: impl FnMut(&str),
    ) -> bool {
        let topics: Vec<String> = topics.iter().map(ToString::to_string).collect();
        let attempts = async {
            let mut pause = FIRST_PAUSE;
            loop {
                let topics = topics.clone();
                let missing =
                    self.blocking("asking for topics", move |inner| Ok(inner.missing(&topics))).await;
                match missing.unwrap_or_else(|error| Some(error.to_string())) {
                    None => return,
                    Some(reason) => on_wait(&reason),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        };
        shutdown.run_until_cancelled(attempts).await.is_some()
    }

    /// Asks where blocking is allowed; again while the answer is of the kind that passes, as it is for a moment after a
    /// topic was made or a leader has moved. That a topic does not exist is an answer.
    async fn ask<T: Send + 'static>(
        &self,
        action: &'static str,
        question: impl Fn(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.blocking(action, move |inner| {
            let deadline = Instant::now() + ASK_PATIENCE;
            loop {
                match question(inner) {
                    Err(error)
                        if error.is_retriable() && !error.is_unknown_topic() && Instant::now() < deadline =>
                    {
                        std::thread::sleep(FIRST_PAUSE);
                    }
                    answer => {
                        if answer.as_ref().is_err_and(Error::is_retriable) {
                            inner.mend();
                        }
                        return answer;
                    }
                }
            }
        })
        .await
    }

    /// Runs what blocks where it may.
    async fn blocking<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || {
            let result = work(&inner);
            // Here, because the last one waits for the client's threads.
            drop(inner);
            result
        })
        .await
        .map_err(|error| Error::other(action, error, Class::Transient))?
    }
}

impl Inner {
    /// After a failure: the clients may know no broker any more.
    fn mend(&self) {
        if self.failures.due() {
            native::add_brokers(self.admin.inner(), &self.args.brokers);
            native::add_brokers(self.reader.client(), &self.args.brokers);
        }
    }

    /// Why the brokers or topics are not ready.
    fn missing(&self, topics: &[String]) -> Option<String> {
        let metadata = match self.reader.fetch_metadata(None, PROBE_TIMEOUT) {
            Ok(metadata) => metadata,
            Err(error) => {
                self.mend();
                return Some(Error::new("asking for topics", &error).to_string());
            }
        };
        if metadata.brokers().is_empty() {
            return Some("no broker is up".into());
        }
        topics.iter().find_map(|name| {
            let found = metadata.topics().iter().find(|topic| topic.name() == name);
            let Some(topic) = found.filter(|topic| topic.error().is_none() && !topic.partitions().is_empty())
            else {
                return Some(format!("no topic {name}; run tidewatch-partitions topics"));
            };
            let leaderless = topic.partitions().iter().find(|partition| partition.leader() < 0)?;
            Some(format!("{name}[{}] has no leader", leaderless.id()))
        })
    }
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("brokers", &self.inner.args.brokers).finish_non_exhaustive()
    }
}
