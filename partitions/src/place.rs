//! A partition that the sink reads, as its messages name it: `events/3`.

use std::fmt;
use std::str::FromStr;

use schemas::{INCIDENTS_TOPIC, Stream};
use serde::{Serialize, Serializer};

/// A topic that the sink reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// An enriched stream.
    Stream(Stream),
    /// Changes of incidents.
    Incidents,
}

impl Topic {
    /// All of them.
    pub const ALL: [Topic; 3] =
        [Topic::Stream(Stream::Events), Topic::Stream(Stream::Findings), Topic::Incidents];

    /// Its name without the topic prefix, as in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Topic::Stream(stream) => stream.name(),
            Topic::Incidents => INCIDENTS_TOPIC,
        }
    }

    /// The topic of that name.
    pub fn from_name(name: &str) -> Option<Topic> {
        Self::ALL.into_iter().find(|topic| topic.name() == name)
    }

    /// The stream that it carries.
    pub const fn stream(self) -> Option<Stream> {
        match self {
            Topic::Stream(stream) => Some(stream),
            Topic::Incidents => None,
        }
    }
}

/// A partition of one of the topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Its topic.
    pub topic: Topic,
    /// Its number.
    pub partition: i32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic.name(), self.partition)
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text names no partition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no partition such as events/3, findings/0 or incidents/17")]
pub struct InvalidPlace;

impl FromStr for Place {
    type Err = InvalidPlace;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (topic, partition) = text.split_once('/').ok_or(InvalidPlace)?;
        let topic = Topic::from_name(topic).ok_or(InvalidPlace)?;
        let partition = partition.parse::<u16>().map_err(|_| InvalidPlace)?;
        Ok(Self { topic, partition: partition.into() })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("events/0")]
    #[case("findings/12")]
    #[case("incidents/31")]
    fn a_partition_is_named_as_it_is_shown(#[case] text: &str) {
        assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
    }

    #[rstest]
    #[case("events")]
    #[case("events/-1")]
    #[case("events.raw/1")]
    #[case("signals/1")]
    #[case("events/1/2")]
    fn what_the_sink_does_not_read_is_refused(#[case] text: &str) {
        assert!(text.parse::<Place>().is_err());
    }
}
