//! What has been accepted and does not stand in an enriched topic yet. It may have been read to its end while enrich is
//! behind; what comes then is older than what time it is.

use std::time::{Duration, Instant};

use kafka::{Admin, ConsumerOptions, Error, KafkaArgs, TopicPartition};
use schemas::start::ENRICH_GROUP;
use schemas::{Micros, Stream};
use tokio::task::JoinHandle;

/// How often it is asked at most.
const ASK_INTERVAL: Duration = Duration::from_secs(5);

/// Partitions in which everything is that had been accepted at this time.
pub type Complete = (Micros, Vec<TopicPartition>);

/// Finds out in the background what enrich has still to bring.
pub struct Upstreams {
    admin: Admin,
    upstreams: [Upstream; 2],
    asked: Instant,
    answer: Option<JoinHandle<Complete>>,
}

impl Upstreams {
    /// Those of all streams.
    pub fn new(kafka: &KafkaArgs, admin: Admin) -> Self {
        let upstreams = Stream::ALL.map(|stream| Upstream::new(kafka, stream));
        Self { admin, upstreams, asked: Instant::now(), answer: None }
    }

    /// Finds out which of these partitions are complete, unless that is being done or was not long ago.
    pub fn ask(&mut self, silent: Vec<TopicPartition>) {
        if self.answer.is_some() || silent.is_empty() || self.asked.elapsed() < ASK_INTERVAL {
            return;
        }
        self.asked = Instant::now();
        let (admin, upstreams) = (self.admin.clone(), self.upstreams.clone());
        self.answer = Some(tokio::spawn(async move {
            let clock = Micros::now();
            let mut complete = Vec::new();
            for upstream in upstreams {
                match upstream.complete(&admin, &silent).await {
                    Ok(partitions) => complete.extend(partitions),
                    // It is asked again.
                    Err(error) => {
                        tracing::debug!(%error, "whether {} is complete is not known", upstream.enriched)
                    }
                }
            }
            (clock, complete)
        }));
    }

    /// The answer, once there is one. May be dropped at any await without losing it.
    pub async fn answer(&mut self) -> Complete {
        let Some(answer) = &mut self.answer else { return std::future::pending().await };
        let answered = answer.await;
        self.answer = None;
        answered.unwrap_or_else(|_| (Micros(0), Vec::new()))
    }
}

/// Where a stream's enriched topic comes from.
#[derive(Debug, Clone)]
struct Upstream {
    /// Full name of the enriched topic.
    enriched: String,
    /// Full name of the raw topic, whose partitions are those of the enriched one.
    raw: String,
    /// Full name of the group that reads it.
    group: String,
}

impl Upstream {
    fn new(kafka: &KafkaArgs, stream: Stream) -> Self {
        let topics = Stream::ALL.map(|stream| kafka.topic(stream.raw_topic())).to_vec();
        let options = ConsumerOptions::new("tidewatch-detect", kafka.group(ENRICH_GROUP), topics);
        let raw = kafka.topic(stream.raw_topic());
        Self { enriched: kafka.topic(stream.name()), group: options.group_of(kafka, &raw), raw }
    }

    /// Of these partitions those of its enriched topic whose raw records have all been enriched. One that ends in what no
    /// consumer is given, the end of a foreign transaction, is not among them until more comes.
    ///
    /// # Errors
    /// No broker answered, or there is no raw topic.
    async fn complete(&self, admin: &Admin, asked: &[TopicPartition]) -> Result<Vec<TopicPartition>, Error> {
        let own: Vec<&TopicPartition> = asked.iter().filter(|at| *at.topic == *self.enriched).collect();
        let raw: Vec<TopicPartition> =
            own.iter().map(|at| TopicPartition::new(self.raw.as_str(), at.partition)).collect();
        let mut ends = Vec::with_capacity(raw.len());
        for at in &raw {
            ends.push(admin.watermarks(&at.topic, at.partition).await?);
        }
        let committed = admin.committed(&self.group, &raw).await?;
        let complete =
            own.into_iter().zip(committed).zip(ends).filter(|((_, (_, committed)), (low, high))| {
                low == high || committed.is_some_and(|committed| committed >= *high)
            });
        Ok(complete.map(|((at, _), _)| at.clone()).collect())
    }
}
