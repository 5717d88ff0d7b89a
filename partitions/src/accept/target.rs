//! What an operator names: a partition that the sink reads, or a raw one.

use std::fmt;
use std::str::FromStr;

use schemas::Stream;

use crate::place::Place;

/// A partition whose position can be moved; shown as `events/2` or `events.raw/2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// The sink's position in a partition that it reads.
    Sink(Place),
    /// enrich's position in a raw partition.
    Raw {
        /// The stream of the raw topic.
        stream: Stream,
        /// The partition's number.
        partition: i32,
    },
}

impl Target {
    /// Name of its topic, without prefix.
    pub const fn topic(self) -> &'static str {
        match self {
            Target::Sink(place) => place.topic.name(),
            Target::Raw { stream, .. } => stream.raw_topic(),
        }
    }

    /// Number of the partition.
    pub const fn partition(self) -> i32 {
        match self {
            Target::Sink(place) => place.partition,
            Target::Raw { partition, .. } => partition,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic(), self.partition())
    }
}

/// A text names no such partition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no partition such as events/2, findings/0, incidents/17, events.raw/2 or findings.raw/0 (without topic prefix)"
)]
pub struct InvalidTarget;

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(place) = text.parse() {
            return Ok(Self::Sink(place));
        }
        let (topic, partition) = text.split_once('/').ok_or(InvalidTarget)?;
        let stream =
            Stream::ALL.into_iter().find(|stream| stream.raw_topic() == topic).ok_or(InvalidTarget)?;
        let partition = partition.parse::<u16>().map_err(|_| InvalidTarget)?;
        Ok(Self::Raw { stream, partition: partition.into() })
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
    #[case("events.raw/2")]
    #[case("findings.raw/0")]
    fn a_partition_is_named_as_it_is_shown(#[case] text: &str) {
        assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
    }

    #[rstest]
    #[case("events")]
    #[case("events.raw")]
    #[case("events.raw/-1")]
    #[case("signals/1")]
    #[case("incidents.raw/1")]
    #[case("events/1/2")]
    #[case("t.events/1")]
    fn anything_else_is_refused(#[case] text: &str) {
        assert_eq!(text.parse::<Target>(), Err(InvalidTarget));
    }
}
