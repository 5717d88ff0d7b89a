//! How far event time has got in each source partition, as correlate is told.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use kafka::TopicPartition;
use schemas::{Micros, Source, Stream, Watermark};
use uuid::Uuid;

/// How often a partition's watermark is told while it moves.
const TELL_INTERVAL: Duration = Duration::from_secs(5);
/// A partition is idle when it has been read to its end and nothing has come for so long; said again as often.
const IDLE_AFTER: Duration = Duration::from_secs(30);
/// A process that has not looked for so long stood still: what it takes for silence may wait to be read.
const STOOD_STILL: Duration = Duration::from_secs(5);

struct Partition {
    stream: Stream,
    /// The last record taken into account.
    source: Source,
    event_time: Option<Micros>,
    /// It has moved since it was told.
    moved: bool,
    told: Option<Instant>,
    last_record: Instant,
}

/// The partitions that are read.
pub struct Watermarks {
    partitions: HashMap<TopicPartition, Partition>,
    looked: Option<Instant>,
}

/// A watermark to tell, and what to mark as told once it is.
#[derive(Debug)]
pub struct Due {
    at: TopicPartition,
    /// The record.
    pub watermark: Watermark<'static>,
}

impl Watermarks {
    /// No partitions.
    pub fn new() -> Self {
        Self { partitions: HashMap::new(), looked: None }
    }

    /// A partition is read from now on.
    pub fn assign(&mut self, at: TopicPartition, stream: Stream, now: Instant) {
        // Before the first record nothing is known of where it came from.
        let source = Source { topic_id: Uuid::nil(), partition: at.partition, from: -1, offset: -1 };
        let partition =
            Partition { stream, source, event_time: None, moved: false, told: None, last_record: now };
        self.partitions.insert(at, partition);
    }

    /// A partition is not read any more.
    pub fn remove(&mut self, at: &TopicPartition) {
        self.partitions.remove(at);
    }

    /// The signals of a record, whose events go up to `event_time`, are on their way.
    pub fn seen(&mut self, at: &TopicPartition, source: Source, event_time: Option<Micros>, now: Instant) {
        let Some(partition) = self.partitions.get_mut(at) else { return };
        partition.source = source;
        partition.last_record = now;
        partition.moved = true;
        partition.event_time = partition.event_time.max(event_time);
    }

    /// What is to be told now, that it is `clock` on the wall. `read_to_end` says whether a partition has been.
    pub fn due(
        &mut self,
        now: Instant,
        clock: Micros,
        read_to_end: impl Fn(&TopicPartition) -> bool,
    ) -> Vec<Due> {
        let stood_still = self.looked.is_some_and(|looked| now.duration_since(looked) > STOOD_STILL);
        self.looked = Some(now);
        let mut due = Vec::new();
        for (at, partition) in &mut self.partitions {
            if stood_still {
                partition.last_record = now;
            }
            let since = partition.told.map(|told| now.duration_since(told));
            let silent = now.duration_since(partition.last_record);
            let (event_time, idle) = if partition.moved && since.is_none_or(|since| since >= TELL_INTERVAL) {
                match partition.event_time {
                    Some(event_time) => (event_time, false),
                    None => continue,
                }
            } else if silent >= IDLE_AFTER && since.is_none_or(|since| since >= IDLE_AFTER) && read_to_end(at)
            {
                (clock, true)
            } else {
                continue;
            };
            let stream = partition.stream.name().into();
            let watermark = Watermark { stream, source: partition.source.clone(), event_time, idle };
            due.push(Due { at: at.clone(), watermark });
        }
        due
    }

    /// Those who read have been told.
    pub fn told(&mut self, due: &Due, now: Instant) {
        if let Some(partition) = self.partitions.get_mut(&due.at) {
            partition.told = Some(now);
            partition.moved = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(watermarks: &mut Watermarks, now: Instant, read_to_end: bool) -> Vec<(i64, bool)> {
        let due = watermarks.due(now, Micros(1_000_000), |_| read_to_end);
        due.iter().for_each(|due| watermarks.told(due, now));
        due.iter().map(|due| (due.watermark.event_time.0, due.watermark.idle)).collect()
    }

    #[test]
    fn event_time_is_told_while_it_moves_and_idleness_when_it_does_not() {
        let at = TopicPartition::new("events", 0);
        let source = Source { topic_id: Uuid::nil(), partition: 0, from: 0, offset: 0 };
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut watermarks = Watermarks::new();
        watermarks.assign(at.clone(), Stream::Events, start);
        assert_eq!(told(&mut watermarks, start, true), []);
        watermarks.seen(&at, source.clone(), Some(Micros(70)), after(1));
        assert_eq!(told(&mut watermarks, after(1), true), [(70, false)]);
        watermarks.seen(&at, source, Some(Micros(60)), after(2));
        assert_eq!(told(&mut watermarks, after(2), true), [], "not so often");
        assert_eq!(told(&mut watermarks, after(6), true), [(70, false)], "it never goes back");
        for second in 7..36 {
            assert_eq!(told(&mut watermarks, after(second), false), []);
        }
        assert_eq!(told(&mut watermarks, after(36), false), [], "there is more to read");
        assert_eq!(told(&mut watermarks, after(37), true), [(1_000_000, true)]);
        assert_eq!(told(&mut watermarks, after(38), true), []);
        assert_eq!(told(&mut watermarks, after(100), true), [], "the process stood still");
    }
}
