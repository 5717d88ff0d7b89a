//! How far event time has got in each source partition, as correlate is told.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use kafka::TopicPartition;
use schemas::{Micros, Source, Stream, Watermark};
use uuid::Uuid;

/// How often a partition's watermark is told while it moves.
const TELL_INTERVAL: Duration = Duration::from_secs(5);
/// A partition is idle when it has been read to its end, nothing has come for so long, and nothing is on its way; said
/// again as often.
const IDLE_AFTER: Duration = Duration::from_secs(30);
/// When it is asked whether something is on its way.
const ASK_AFTER: Duration = Duration::from_secs(20);
/// What was there at the answer has been read so long after it, or the end of the partition is known to be further on.
const SETTLE: Duration = Duration::from_secs(5);
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
    complete: Option<Complete>,
}

/// Everything that had been accepted at a time on the wall was in the partition when the answer came.
struct Complete {
    clock: Micros,
    answered: Instant,
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
        let partition = Partition {
            stream,
            source,
            event_time: None,
            moved: false,
            told: None,
            last_record: now,
            complete: None,
        };
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
        partition.complete = None;
        partition.event_time = partition.event_time.max(event_time);
    }

    /// The partitions that may be idle soon: whether something is on its way to them is to be found out.
    pub fn silent(&self, now: Instant) -> Vec<TopicPartition> {
        let silent = self.partitions.iter().filter(|(_, partition)| {
            let since = partition.told.map(|told| now.duration_since(told));
            partition.complete.is_none()
                && now.duration_since(partition.last_record) >= ASK_AFTER
                && since.is_none_or(|since| since >= ASK_AFTER)
        });
        silent.map(|(at, _)| at.clone()).collect()
    }

    /// It was found out, asked at `clock`, that everything is there.
    pub fn complete(&mut self, at: &TopicPartition, clock: Micros, now: Instant) {
        if let Some(partition) = self.partitions.get_mut(at) {
            partition.complete = Some(Complete { clock, answered: now });
        }
    }

    /// What is to be told now, that it is `clock` on the wall; event time is never ahead of that, though another host's
    /// clock may be. `read_to_end` says whether a partition has been.
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
                partition.complete = None;
            }
            let since = partition.told.map(|told| now.duration_since(told));
            let silent = now.duration_since(partition.last_record);
            let (event_time, idle) = if partition.moved && since.is_none_or(|since| since >= TELL_INTERVAL) {
                match partition.event_time {
                    Some(event_time) => (event_time.min(clock), false),
                    None => continue,
                }
            } else if silent >= IDLE_AFTER
                && since.is_none_or(|since| since >= IDLE_AFTER)
                && let Some(complete) = &partition.complete
                && now.duration_since(complete.answered) >= SETTLE
                && read_to_end(at)
            {
                (complete.clock, true)
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
            partition.complete = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: Micros = Micros(1_000_000);

    struct World {
        watermarks: Watermarks,
        at: TopicPartition,
        start: Instant,
    }

    impl World {
        fn new() -> Self {
            let (mut watermarks, start) = (Watermarks::new(), Instant::now());
            let at = TopicPartition::new("events", 0);
            watermarks.assign(at.clone(), Stream::Events, start);
            Self { watermarks, at, start }
        }

        fn after(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        fn seen(&mut self, seconds: u64, event_time: i64) {
            let source = Source { topic_id: Uuid::nil(), partition: 0, from: 0, offset: 0 };
            let now = self.after(seconds);
            self.watermarks.seen(&self.at, source, Some(Micros(event_time)), now);
        }

        fn told(&mut self, seconds: u64, read_to_end: bool) -> Vec<(i64, bool)> {
            let now = self.after(seconds);
            let due = self.watermarks.due(now, CLOCK, |_| read_to_end);
            due.iter().for_each(|due| self.watermarks.told(due, now));
            due.iter().map(|due| (due.watermark.event_time.0, due.watermark.idle)).collect()
        }

        /// Asks if it is time to; everything is there.
        fn ask(&mut self, seconds: u64, clock: i64) -> bool {
            let now = self.after(seconds);
            let silent = self.watermarks.silent(now);
            silent.iter().for_each(|at| self.watermarks.complete(at, Micros(clock), now));
            !silent.is_empty()
        }
    }

    #[test]
    fn event_time_is_told_while_it_moves_and_idleness_when_it_does_not() {
        let mut world = World::new();
        assert_eq!(world.told(0, true), []);
        world.seen(1, 70);
        assert_eq!(world.told(1, true), [(70, false)]);
        world.seen(2, 60);
        assert_eq!(world.told(2, true), [], "not so often");
        assert_eq!(world.told(6, true), [(70, false)], "it never goes back");
        for second in 7..26 {
            assert_eq!(world.told(second, true), []);
            assert!(!world.ask(second, 0));
        }
        assert!(world.ask(26, 900_000));
        for second in 26..36 {
            assert_eq!(world.told(second, true), []);
        }
        assert_eq!(world.told(36, false), [], "there is more to read");
        assert_eq!(world.told(37, true), [(900_000, true)], "what it was when it was asked");
        assert_eq!(world.told(38, true), []);
        assert_eq!(world.told(100, true), [], "the process stood still");
    }

    #[test]
    fn a_partition_is_not_idle_while_something_is_on_its_way_to_it() {
        let mut world = World::new();
        for second in 0..100 {
            assert_eq!(world.told(second, true), [], "nobody said that everything is there");
        }
        assert!(world.ask(100, 900_000));
        world.seen(101, 70);
        assert_eq!(world.told(101, true), [(70, false)]);
        for second in 102..140 {
            assert_eq!(world.told(second, true), [], "that was before the record came");
        }
        assert!(world.ask(140, 910_000));
        for second in 140..145 {
            assert_eq!(world.told(second, true), [], "it may not have been read yet");
        }
        assert_eq!(world.told(145, true), [(910_000, true)]);
    }

    #[test]
    fn event_time_is_not_ahead_of_the_clock() {
        let mut world = World::new();
        world.seen(1, CLOCK.0 + 7);
        assert_eq!(world.told(1, true), [(CLOCK.0, false)]);
    }
}
