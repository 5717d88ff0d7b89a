//! Where to start reading a partition so that its windows can be rebuilt.

use detection::{ALERT_BUCKET, ALLOWED_LATENESS, Rules};
use futures::future::try_join_all;
use kafka::{Admin, Committed, Error, TopicPartition};
use schemas::Micros;

/// Where reading a partition starts, and where publishing does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// The partition.
    pub at: TopicPartition,
    /// First offset to read.
    pub start: i64,
    /// The committed position: what the signals before it changed has been published.
    pub committed: i64,
    /// What the last owner noted beside it: signals of before this time were of no use any more, a horizon aside.
    pub since_ms: Option<i64>,
}

const SINCE: &str = "since_ms=";

/// The text beside a committed position that says so.
pub fn note(since_ms: i64) -> String {
    format!("{SINCE}{since_ms}")
}

fn since_ms(note: &str) -> Option<i64> {
    note.strip_prefix(SINCE)?.parse().ok()
}

/// How far before the committed position signals may still matter, milliseconds.
pub fn horizon_ms(rules: &Rules) -> i64 {
    rules.longest_timespan().max(ALERT_BUCKET).saturating_add(ALLOWED_LATENESS) / 1_000
}

/// Starts of these partitions of `signals`.
///
/// # Errors
/// No broker answered.
pub async fn starts(
    admin: &Admin,
    group: &str,
    partitions: &[TopicPartition],
    horizon_ms: i64,
) -> Result<Vec<Resume>, Error> {
    let committed = admin.committed_with_metadata(group, partitions).await?;
    try_join_all(committed.into_iter().map(|(at, committed)| start(admin, at, committed, horizon_ms))).await
}

async fn start(
    admin: &Admin,
    at: TopicPartition,
    committed: Option<Committed>,
    horizon_ms: i64,
) -> Result<Resume, Error> {
    let since_ms = committed.as_ref().and_then(|committed| since_ms(&committed.metadata));
    let (low, high) = admin.watermarks(&at.topic, at.partition).await?;
    // A partition that was never committed is read, and published, from its beginning. So is one that retention has
    // overtaken: what is gone is gone.
    let Some(committed) =
        committed.map(|committed| committed.offset.clamp(low, high)).filter(|&offset| offset > low)
    else {
        return Ok(Resume { at, start: low, committed: low, since_ms: None });
    };
    let start = match before_committed(admin, &at, committed).await? {
        Some(time_ms) => {
            // No signal is appended before its event has happened.
            let time_ms = since_ms.map_or(time_ms, |since_ms| time_ms.min(since_ms));
            let found =
                admin.offset_for_time(&at.topic, at.partition, time_ms.saturating_sub(horizon_ms)).await?;
            found.unwrap_or(committed).clamp(low, committed)
        }
        None => low,
    };
    Ok(Resume { at, start, committed, since_ms })
}

/// How far back the last committed record's time is looked for: seconds, each step this many times as far.
const FIRST_STEP_MS: i64 = 10_000;
const STEP_FACTOR: i64 = 4;
const STEPS: u32 = 9;

/// A time not after that of the last record before `committed`, and not much before it: there is a record of that time or
/// later before the committed position. None if it is older than a week or so.
async fn before_committed(admin: &Admin, at: &TopicPartition, committed: i64) -> Result<Option<i64>, Error> {
    let now_ms = Micros::now().0 / 1_000;
    for step in 0..STEPS {
        let time_ms = now_ms - FIRST_STEP_MS * STEP_FACTOR.pow(step);
        let found = admin.offset_for_time(&at.topic, at.partition, time_ms).await?;
        if found.is_some_and(|offset| offset < committed) {
            return Ok(Some(time_ms));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        for ms in [0, -5, 1_700_000_000_000] {
            assert_eq!(since_ms(&note(ms)), Some(ms));
        }
        for other in ["", "since_ms=", "since_ms=x", "accepted by op"] {
            assert_eq!(since_ms(other), None);
        }
    }
}
