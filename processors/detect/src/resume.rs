//! Where reading an enriched partition goes on.

use std::collections::BTreeSet;

use kafka::{Admin, Error, Start, StartAt, TopicPartition};

/// Where to start. What Kafka has removed unread cannot be matched any more; detect keeps no position that somebody could
/// accept, so it says what is missing and goes on. A topic that was made anew is read from its beginning: correlate drops
/// signals of raw records that it has seen.
fn start(at: &TopicPartition, committed: Option<i64>, (low, high): (i64, i64)) -> Start {
    match committed {
        None => Start::Beginning,
        Some(next) if next < low => {
            tracing::error!(
                partition = %at,
                "offsets {next} to {low} were removed before they were matched (retention ran out): what happened there \
                 makes no incident"
            );
            Start::Offset(low)
        }
        Some(next) if next > high => {
            tracing::error!(
                partition = %at,
                "offset {next} was due, but the topic ends at {high}: it was made anew and is read from its beginning"
            );
            Start::Offset(low)
        }
        Some(next) => Start::Offset(next),
    }
}

/// Where to start these partitions.
///
/// # Errors
/// Kafka did not answer.
pub async fn starts(
    admin: &Admin,
    group_of: impl Fn(&str) -> String,
    partitions: &[TopicPartition],
) -> Result<Vec<StartAt>, Error> {
    let topics: BTreeSet<&str> = partitions.iter().map(|at| &*at.topic).collect();
    let mut starts = Vec::with_capacity(partitions.len());
    for topic in topics {
        let of_topic: Vec<_> = partitions.iter().filter(|at| *at.topic == *topic).cloned().collect();
        for (at, committed) in admin.committed(&group_of(topic), &of_topic).await? {
            let ends = admin.watermarks(&at.topic, at.partition).await?;
            let start = start(&at, committed, ends);
            starts.push(StartAt { at, start });
        }
    }
    Ok(starts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_goes_on_at_the_committed_offset_or_at_what_is_left() {
        let at = TopicPartition::new("events", 2);
        for (committed, expected) in [
            (None, Start::Beginning),
            (Some(29), Start::Offset(30)),
            (Some(30), Start::Offset(30)),
            (Some(60), Start::Offset(60)),
            (Some(61), Start::Offset(30)),
        ] {
            assert_eq!(start(&at, committed, (30, 60)), expected);
        }
    }
}
