//! Signals on their way: from events, through detect's placement, to the correlators of all partitions.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use schemas::{Event, EventBatch, Micros, SignalBatch, Source, Stream};
use uuid::Uuid;

use super::Incidents;
use crate::testing::plain_event;
use crate::{Correlator, Rules, Taxonomy, When, load_documents};

pub(super) const SECOND: i64 = 1_000_000;
/// Of events, microseconds.
pub(super) const START: i64 = 1_700_000_000 * SECOND;

/// Detections that match by `kind`: `a`, `b`, `c`.
const DETECTIONS: &str = "title: a\nid: a\nlevel: low\nlogsource: {category: test}\ndetection: {s: {kind: a}, condition: s}\n---\n\
     title: b\nid: b\nlevel: low\nlogsource: {category: test}\ndetection: {s: {kind: b}, condition: s}\n---\n\
     title: c\nid: c\nlevel: low\nlogsource: {category: test}\ndetection: {s: {kind: c}, condition: s}\n---\n";

/// The rules of these correlations over `a`, `b` and `c`.
pub(super) fn rules(correlations: &str) -> Arc<Rules> {
    let taxonomy = Taxonomy::shipped().unwrap();
    let text =
        DETECTIONS.replace("logsource: {category: test}", "logsource: {product: linux, service: sshd}");
    let loaded = load_documents(Path::new("test.yml"), &format!("{text}{correlations}"), &taxonomy);
    assert_eq!(loaded.defects, [], "{correlations}");
    Arc::new(loaded.rules)
}

/// An event. Its place in the list is its identity.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// Microseconds.
    pub time: i64,
    pub kind: char,
    pub address: usize,
    pub user: usize,
    pub host: usize,
    pub weight: i32,
}

fn event(index: usize, seen: &Seen) -> Event<'static> {
    Event {
        index: i32::try_from(index).unwrap(),
        time: Micros(seen.time),
        received_at: Micros(seen.time),
        severity_id: 2,
        host: Some(format!("h{}", seen.host).into()),
        user: Some(format!("u{}", seen.user).into()),
        src_ip: Some(format!("192.0.2.{}", seen.address).into()),
        source_type: "sshd".into(),
        repeat: seen.weight,
        attributes: Some(format!(r#"{{"kind":"{}"}}"#, seen.kind).into()),
        ..plain_event()
    }
}

/// A record of `signals`: which raw record it is of, and its encoded batch.
type Logged = (usize, Vec<u8>);

/// Records of `signals` of each raw record, by partition. `borders` says how many events each raw record holds; each is in a
/// source partition of its own, so that they may come in any order.
pub(super) fn placed(rules: &Rules, events: &[Seen], borders: &[usize]) -> Vec<BTreeMap<i32, Logged>> {
    let mut rest = events;
    let mut all = Vec::new();
    let mut sizes = borders.iter().copied();
    while !rest.is_empty() {
        let (these, after) = rest.split_at(sizes.next().unwrap_or(1).clamp(1, rest.len()));
        rest = after;
        let number = all.len();
        let partition = i32::try_from(number).unwrap();
        let source = Source { topic_id: Uuid::from_u128(7), partition, from: 0, offset: 0 };
        let events = these.iter().enumerate().map(|(index, seen)| event(index, seen)).collect();
        let batch = EventBatch { source: source.clone(), events, rejects: vec![], pushes: vec![] };
        let batches = rules.signals(&batch).into_batches(Stream::Events, &source);
        let encoded = batches.map(|(partition, batch)| {
            let mut payload = Vec::new();
            schemas::encode(&batch, &mut payload);
            (partition, (number, payload))
        });
        all.push(encoded.collect());
    }
    all
}

/// What goes into a partition of `signals`.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    Signals(Vec<u8>),
    /// Event time has got so far.
    Watermark(i64),
}

/// A guard that a control takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Without {
    Nothing,
    /// A raw record that comes again is told from a new one.
    HighWater,
    /// After a restart, windows are rebuilt before anything is published.
    Rebuild,
    /// What goes on under another id is published at once, not once a round.
    AtOnce,
}

/// One partition of `signals` being read.
pub(super) struct Lane {
    rules: Arc<Rules>,
    correlator: Correlator,
    log: Vec<Entry>,
    /// What the entries before it changed has been published.
    committed: usize,
    pub without: Without,
}

impl Lane {
    pub(super) fn new(rules: Arc<Rules>, without: Without) -> Self {
        Self { correlator: Correlator::new(rules.clone()), rules, log: Vec::new(), committed: 0, without }
    }

    fn take(&mut self, entry: &Entry) {
        match entry {
            Entry::Signals(payload) => {
                let mut batch: SignalBatch<'_> = schemas::decode(payload).unwrap();
                if self.without == Without::HighWater {
                    batch.source.offset = i64::try_from(self.log.len()).unwrap();
                }
                let applied = self.correlator.apply(&batch, 0);
                assert_eq!(applied.unknown, 0);
            }
            Entry::Watermark(time) => {
                self.correlator.advance(Micros(*time));
            }
        }
    }

    pub(super) fn append(&mut self, entry: Entry, incidents: &mut Incidents) {
        self.take(&entry);
        self.log.push(entry);
        self.fired(incidents);
    }

    fn fired(&mut self, incidents: &mut Incidents) {
        if self.without != Without::AtOnce {
            self.correlator.publish(When::Fired, Micros(0), &mut |change| incidents.merge(change));
        }
    }

    /// Publishes what has changed; the position may be committed after that.
    pub(super) fn round(&mut self, commit: bool, incidents: &mut Incidents) {
        self.correlator.publish(When::Changed, Micros(0), &mut |change| incidents.merge(change));
        if commit {
            self.committed = self.log.len();
        }
    }

    /// Another process goes on: what was read before the committed position is read again for the windows alone, the rest as
    /// if it were new.
    pub(super) fn restart(&mut self, incidents: &mut Incidents) {
        self.correlator = Correlator::new(self.rules.clone());
        self.correlator.rebuild();
        let log = std::mem::take(&mut self.log);
        let (before, after) = log.split_at(self.committed);
        if self.without != Without::Rebuild {
            for entry in before {
                self.take(entry);
            }
        }
        self.correlator.settle();
        for entry in after {
            self.take(entry);
            self.fired(incidents);
        }
        self.log = log;
    }
}
