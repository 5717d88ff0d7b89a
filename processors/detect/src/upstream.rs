//! What has been accepted and does not stand in an enriched topic yet. It may have been read to its end while enrich is
//! behind; what comes then is older than what time it is.

use kafka::{Admin, ConsumerOptions, Error, KafkaArgs, TopicPartition};
use schemas::Stream;
use schemas::start::ENRICH_GROUP;

/// Where a stream's enriched topic comes from.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Full name of the raw topic, whose partitions are those of the enriched one.
    raw: String,
    /// Full name of the group that reads it.
    group: String,
}

impl Upstream {
    /// That of `stream`.
    pub fn new(kafka: &KafkaArgs, stream: Stream) -> Self {
        let topics = Stream::ALL.map(|stream| kafka.topic(stream.raw_topic())).to_vec();
        let options = ConsumerOptions::new("tidewatch-detect", kafka.group(ENRICH_GROUP), topics);
        let raw = kafka.topic(stream.raw_topic());
        Self { group: options.group_of(kafka, &raw), raw }
    }

    /// Of these partitions those whose raw records have all been enriched. One that ends in what no consumer is given, the end of
    /// a foreign transaction, is not among them until more comes.
    ///
    /// # Errors
    /// No broker answered, or there is no raw topic.
    pub async fn complete(&self, admin: &Admin, partitions: &[i32]) -> Result<Vec<i32>, Error> {
        let raw = |partition: &i32| TopicPartition::new(self.raw.as_str(), *partition);
        let raw: Vec<TopicPartition> = partitions.iter().map(raw).collect();
        let mut ends = Vec::with_capacity(raw.len());
        for at in &raw {
            ends.push(admin.watermarks(&at.topic, at.partition).await?);
        }
        let committed = admin.committed(&self.group, &raw).await?;
        let complete = committed.iter().zip(ends).filter(|((_, committed), (low, high))| {
            low == high || committed.is_some_and(|committed| committed >= *high)
        });
        Ok(complete.map(|((at, _), _)| at.partition).collect())
    }
}
