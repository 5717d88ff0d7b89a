//! What a consumer is for.

use std::time::Duration;

use rdkafka::ClientConfig;

use crate::args::KafkaArgs;

/// What one consumer is for. [`ConsumerOptions::new`] has the defaults.
#[derive(Debug, Clone)]
pub struct ConsumerOptions {
    /// Its name in the broker's logs and quotas.
    pub client_id: String,
    /// Full name of the group ([`KafkaArgs::group`]), or what those of several topics begin with
    /// ([`ConsumerOptions::group_of`]).
    pub group: String,
    /// Full names of the topics: [`KafkaArgs::topic`].
    pub topics: Vec<String>,
    /// Bytes fetched and not yet taken by [`Consumer::next`](crate::Consumer::next), roughly: half of it in
    /// librdkafka, half of it here. One fetch may exceed it. Default: 32 MiB.
    pub max_buffered_bytes: usize,
    /// Bytes of one [`Input::Records`](crate::Input::Records) at most, or one record. Default: 4 MiB.
    pub max_batch_bytes: usize,
    /// Records of one [`Input::Records`](crate::Input::Records) at most. Default: 1,000.
    pub max_batch_records: usize,
    /// After this time without a heartbeat the group goes on without this member. Default: 10 s.
    pub session_timeout: Duration,
    /// How long the owner may take to answer a rebalance. Default: 60 s.
    pub reply_timeout: Duration,
    /// How often [`Consumer::stats`](crate::Consumer::stats) hears of lag and brokers. Default: 5 s.
    pub statistics_interval: Duration,
}

impl ConsumerOptions {
    /// The defaults for this group and these topics, by their full names.
    pub fn new(client_id: impl Into<String>, group: impl Into<String>, topics: Vec<String>) -> Self {
        Self {
            client_id: client_id.into(),
            group: group.into(),
            topics,
            max_buffered_bytes: 32 << 20,
            max_batch_bytes: 4 << 20,
            max_batch_records: 1_000,
            session_timeout: Duration::from_secs(10),
            reply_timeout: Duration::from_secs(60),
            statistics_interval: Duration::from_secs(5),
        }
    }

    /// Full name of the group that reads this topic: [`group`](Self::group) where it is the only one, `group-topic` where
    /// there are several.
    pub fn group_of(&self, args: &KafkaArgs, topic: &str) -> String {
        if self.topics.len() < 2 {
            return self.group.clone();
        }
        let prefix = args.topic("");
        format!("{}-{}", self.group, topic.strip_prefix(&prefix).unwrap_or(topic))
    }

    pub(super) fn client_config(&self, args: &KafkaArgs) -> ClientConfig {
        let fetch_bytes = (self.max_buffered_bytes / 4).clamp(1 << 20, 16 << 20);
        let session_ms = self.session_timeout.as_millis();
        let mut config = args.client_config(&self.client_id);
        config
            .set("group.id", &self.group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", session_ms.to_string())
            // Members learn of a rebalance from the answer to a heartbeat.
            .set("heartbeat.interval.ms", (session_ms / 10).clamp(1, 1_000).to_string())
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // An offset that the log does not have is never replaced silently.
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("queued.max.messages.kbytes", (self.max_buffered_bytes / 2048).max(1).to_string())
            // The default of a second stalls a reader that keeps its queue full.
            .set("fetch.queue.backoff.ms", "5")
            .set("fetch.message.max.bytes", (1 << 20).to_string())
            .set("fetch.max.bytes", fetch_bytes.to_string())
            // A partition that has just been assigned waits for the request under way.
            .set("fetch.wait.max.ms", "250")
            .set("fetch.error.backoff.ms", "100")
            .set("statistics.interval.ms", self.statistics_interval.as_millis().to_string());
        if let Some(instance_id) = &args.instance_id {
            config.set("group.instance.id", instance_id);
        }
        config
    }
}
