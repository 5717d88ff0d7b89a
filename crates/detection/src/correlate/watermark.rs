//! How far event time has got, over all sources.

use ahash::AHashMap;
use schemas::{Stream, Watermark};

/// A source whose last word is older than this, by the log's own time, holds nobody back any more.
const GONE_MS: i64 = 3_600_000;

/// What is known of each source partition.
#[derive(Debug, Default)]
pub(super) struct Watermarks {
    sources: AHashMap<(Stream, i32), Source>,
    /// When the last record was appended to the log, milliseconds.
    newest_ms: i64,
}

#[derive(Debug, Clone, Copy)]
struct Source {
    /// None until its first watermark.
    time: Option<i64>,
    idle: bool,
    /// When its last record was appended to the log.
    appended_ms: i64,
}

impl Watermarks {
    /// Signals of a source have come. One that has not told its watermark yet holds all others back until it does.
    pub(super) fn signals(&mut self, stream: Stream, partition: i32, appended_ms: i64) {
        self.newest_ms = self.newest_ms.max(appended_ms);
        let fresh = Source { time: None, idle: false, appended_ms };
        let source = self.sources.entry((stream, partition)).or_insert(fresh);
        source.appended_ms = source.appended_ms.max(appended_ms);
    }

    /// A source tells its watermark.
    pub(super) fn tell(&mut self, stream: Stream, watermark: &Watermark<'_>, appended_ms: i64) {
        self.newest_ms = self.newest_ms.max(appended_ms);
        let source = Source { time: Some(watermark.event_time.0), idle: watermark.idle, appended_ms };
        self.sources.insert((stream, watermark.source.partition), source);
    }

    /// The least event time of all sources that are not idle; of idle ones alone the greatest. None while a source has
    /// not told its own.
    pub(super) fn time(&self) -> Option<i64> {
        let live = self.sources.values().filter(|source| self.newest_ms - source.appended_ms <= GONE_MS);
        let (idle, busy): (Vec<&Source>, Vec<&Source>) = live.partition(|source| source.idle);
        if busy.is_empty() {
            return idle.iter().filter_map(|source| source.time).max();
        }
        busy.iter().map(|source| source.time).min().flatten()
    }
}

#[cfg(test)]
mod tests {
    use schemas::{Micros, Source};
    use uuid::Uuid;

    use super::*;

    fn tell(watermarks: &mut Watermarks, partition: i32, time: i64, idle: bool, appended_ms: i64) {
        let source = Source { topic_id: Uuid::nil(), partition, from: 0, offset: 0 };
        let watermark = Watermark { stream: "events".into(), source, event_time: Micros(time), idle };
        watermarks.tell(Stream::Events, &watermark, appended_ms);
    }

    #[test]
    fn event_time_is_as_far_as_the_slowest_source_that_is_not_idle() {
        let mut watermarks = Watermarks::default();
        assert_eq!(watermarks.time(), None);
        tell(&mut watermarks, 0, 70, false, 0);
        tell(&mut watermarks, 1, 50, false, 0);
        assert_eq!(watermarks.time(), Some(50));
        tell(&mut watermarks, 1, 90, true, 0);
        assert_eq!(watermarks.time(), Some(70), "an idle one holds nobody back");
        tell(&mut watermarks, 0, 80, true, 0);
        assert_eq!(watermarks.time(), Some(90), "time goes on where nothing happens");
        watermarks.signals(Stream::Findings, 0, 0);
        assert_eq!(watermarks.time(), None, "nobody knows how far that one is");
        tell(&mut watermarks, 0, 100, false, GONE_MS + 1);
        assert_eq!(watermarks.time(), Some(100), "it has gone");
    }
}
