//! From matches to signals, sorted by the partition of `signals` they belong to.

use std::borrow::Cow;

use schemas::{
    Event, EventBatch, Finding, FindingBatch, KEYED_PARTITIONS, Micros, Pair, ScanActivity, Signal,
    SignalBatch, Stream, flags, partition_of,
};
use uuid::Uuid;

use crate::rule::{Detection, Feed, Kind};
use crate::rules::Rules;
use crate::view::{FieldId, Subject, View};

/// Signals of one enriched record by target partition, each list in (index, rule) order.
#[derive(Debug)]
pub struct Partitioned<'a> {
    partitions: Vec<Vec<Signal<'a>>>,
    matches: usize,
}

impl Default for Partitioned<'_> {
    fn default() -> Self {
        Self { partitions: (0..KEYED_PARTITIONS).map(|_| Vec::new()).collect(), matches: 0 }
    }
}

impl<'a> Partitioned<'a> {
    /// How many times a rule matched an event.
    pub fn matches(&self) -> usize {
        self.matches
    }

    fn push(&mut self, partition: i32, signal: Signal<'a>) {
        if let Some(signals) = usize::try_from(partition).ok().and_then(|at| self.partitions.get_mut(at)) {
            signals.push(signal);
        }
    }

    /// Whether nothing is to be sent.
    pub fn is_empty(&self) -> bool {
        self.partitions.iter().all(Vec::is_empty)
    }

    /// A batch for every partition that has signals, by partition.
    pub fn into_batches(
        self,
        stream: Stream,
        source: &schemas::Source,
    ) -> impl Iterator<Item = (i32, SignalBatch<'a>)> {
        (0i32..).zip(self.partitions).filter(|(_, signals)| !signals.is_empty()).map(
            move |(partition, signals)| {
                (partition, SignalBatch { stream: stream.name().into(), source: source.clone(), signals })
            },
        )
    }
}

/// The partition of `signals` for a rule or correlation and its group values; for what a chain of correlations counts, its
/// last correlation and that one's group values.
pub fn signal_partition(org: &str, rule: &str, group_key: &[Pair<'_>]) -> i32 {
    partition(org, rule, group_key.iter())
}

fn partition<'p>(org: &str, rule: &str, group: impl Iterator<Item = &'p Pair<'p>>) -> i32 {
    let mut parts: Vec<&[u8]> = Vec::with_capacity(8);
    parts.push(org.as_bytes());
    parts.push(rule.as_bytes());
    parts.extend(group.map(|pair| pair.value.as_bytes()));
    partition_of(&parts, KEYED_PARTITIONS)
}

/// What several fields hold together.
fn joined<'a>(values: Vec<Pair<'a>>) -> Option<Cow<'a, str>> {
    match values.len() {
        0 => None,
        1 => values.into_iter().next().map(|pair| pair.value),
        _ => Some(Cow::Owned(join(values.iter().map(|pair| pair.value.as_ref())))),
    }
}

/// Several values as one text that no others make.
pub(crate) fn join<'v>(values: impl Iterator<Item = &'v str>) -> String {
    let mut text = String::new();
    for value in values {
        text.push_str(&value.len().to_string());
        text.push(':');
        text.push_str(value);
    }
    text
}

impl Rules {
    /// Signals of an event batch. Backfilled events raise none.
    pub fn signals<'a>(&'a self, batch: &'a EventBatch<'a>) -> Partitioned<'a> {
        let mut out = Partitioned::default();
        for event in &batch.events {
            if event.flags & flags::BACKFILL == 0 {
                self.match_one(&Seen::event(event), Subject::Event(event), &mut out);
            }
        }
        out
    }

    /// Signals of a finding batch, of its findings and its scans in the order in which they came.
    pub fn finding_signals<'a>(&'a self, batch: &'a FindingBatch<'a>) -> Partitioned<'a> {
        let mut out = Partitioned::default();
        let mut scans = batch.scans.iter().peekable();
        for finding in &batch.findings {
            while let Some(scan) = scans.next_if(|scan| scan.index < finding.index) {
                self.match_one(&Seen::scan(scan), Subject::Scan(scan), &mut out);
            }
            if finding.flags & flags::BACKFILL == 0 {
                self.match_one(&Seen::finding(finding), Subject::Finding(finding), &mut out);
            }
        }
        for scan in scans {
            self.match_one(&Seen::scan(scan), Subject::Scan(scan), &mut out);
        }
        out
    }

    fn match_one<'a>(&'a self, seen: &Seen<'a>, subject: Subject<'a>, out: &mut Partitioned<'a>) {
        let view = self.view(subject);
        let mut counted = Vec::new();
        for rule in self.matching(&view) {
            out.matches += 1;
            let stance = self.orgs.stance(seen.org, &rule.meta.id);
            for feed in &rule.feeds {
                self.feed(seen, rule, feed, &view, &mut counted, out);
            }
            if stance.map_or(rule.alerts, |stance| stance.alerts) {
                let group_key = self.alert_group(&view);
                let partition = signal_partition(seen.org, &rule.meta.id, &group_key);
                let severity_id = stance.map_or(rule.meta.severity_id, |stance| stance.severity_id);
                let signal = seen.signal(rule, group_key, self.entities(&view));
                out.push(partition, Signal { severity_id, ..signal });
            }
        }
    }

    /// A signal for a correlation, unless the event lacks one of its group values, or of what it counts: it then belongs
    /// to no group. An `event_count` counts an event once, whichever of its rules match.
    fn feed<'a>(
        &'a self,
        seen: &Seen<'a>,
        rule: &'a Detection,
        feed: &'a Feed,
        view: &View<'a>,
        counted: &mut Vec<(usize, usize, Vec<Pair<'a>>)>,
        out: &mut Partitioned<'a>,
    ) {
        let Some(correlation) = self.correlations.get(feed.correlation) else { return };
        let Some(root) = self.correlations.get(feed.root) else { return };
        if [correlation, root].iter().any(|rule| !self.orgs.enabled(seen.org, &rule.meta.id)) {
            return;
        }
        let named = correlation.group_by.iter().zip(&feed.group_by);
        let group_key: Option<Vec<Pair<'a>>> =
            named.map(|(name, &field)| pair(name.as_str(), field, view)).collect();
        let value: Option<Vec<Pair<'a>>> = feed.value.iter().map(|&field| pair("", field, view)).collect();
        let (Some(group_key), Some(value)) = (group_key, value) else { return };
        if correlation.kind == Kind::EventCount && correlation.rules.len() > 1 {
            let before = |(known, of, group): &(usize, usize, Vec<Pair<'a>>)| {
                (*known, *of) == (feed.correlation, feed.root) && *group == group_key
            };
            if counted.iter().any(before) {
                return;
            }
            counted.push((feed.correlation, feed.root, group_key.clone()));
        }
        let root_group = feed.root_group.iter().filter_map(|&at| group_key.get(at));
        let partition = partition(seen.org, &root.meta.id, root_group);
        let signal = Signal {
            correlation_id: Some(Cow::Borrowed(&correlation.meta.id)),
            chain_id: (feed.root != feed.correlation).then_some(Cow::Borrowed(&root.meta.id)),
            value: joined(value),
            ..seen.signal(rule, group_key, self.entities(view))
        };
        out.push(partition, signal);
    }

    /// Alerts of a single rule are grouped by whichever of host, user and source address the event has; a finding with
    /// none of them by its scan.
    fn alert_group<'a>(&'a self, view: &View<'a>) -> Vec<Pair<'a>> {
        let fields = &self.alert_fields;
        let group: Vec<Pair<'a>> = [("host", fields.host), ("user", fields.user), ("src_ip", fields.src_ip)]
            .into_iter()
            .filter_map(|(name, field)| pair(name, field, view))
            .collect();
        if group.is_empty() { pair("scan_id", fields.scan_id, view).into_iter().collect() } else { group }
    }

    fn entities<'a>(&'a self, view: &View<'a>) -> Vec<Pair<'a>> {
        let fields = &self.alert_fields;
        [("host", fields.host), ("user", fields.user), ("ip", fields.src_ip)]
            .into_iter()
            .filter_map(|(name, field)| pair(name, field, view))
            .collect()
    }
}

fn pair<'a>(name: &'a str, field: FieldId, view: &View<'a>) -> Option<Pair<'a>> {
    let value = view.text(field).filter(|text| !text.is_empty())?;
    Some(Pair { name: Cow::Borrowed(name), value })
}

/// What a signal says of its event, whichever stream it is of.
struct Seen<'a> {
    index: i32,
    org: &'a str,
    event_time: Micros,
    received_at: Micros,
    event_uid: Option<Uuid>,
    weight: i32,
    flags: i32,
}

impl<'a> Seen<'a> {
    fn event(event: &'a Event<'a>) -> Self {
        Self {
            index: event.index,
            org: &event.org,
            event_time: event.time,
            received_at: event.received_at,
            event_uid: event.event_uid,
            weight: event.repeat.max(1),
            flags: event.flags,
        }
    }

    fn finding(finding: &'a Finding<'a>) -> Self {
        Self {
            index: finding.index,
            org: &finding.org,
            event_time: finding.time,
            received_at: finding.received_at,
            event_uid: finding.event_uid,
            weight: 1,
            flags: finding.flags,
        }
    }

    fn scan(scan: &'a ScanActivity<'a>) -> Self {
        Self {
            index: scan.index,
            org: &scan.org,
            event_time: scan.time,
            received_at: scan.received_at,
            event_uid: None,
            weight: 1,
            flags: 0,
        }
    }

    fn signal(&self, rule: &'a Detection, group_key: Vec<Pair<'a>>, entities: Vec<Pair<'a>>) -> Signal<'a> {
        Signal {
            index: self.index,
            org: Cow::Borrowed(self.org),
            correlation_id: None,
            chain_id: None,
            base_rule_id: Cow::Borrowed(&rule.meta.id),
            rule_hash: Cow::Borrowed(&rule.meta.hash),
            group_key,
            event_time: self.event_time,
            received_at: self.received_at,
            event_uid: self.event_uid,
            value: None,
            weight: self.weight,
            severity_id: rule.meta.severity_id,
            entities,
            flags: self.flags,
        }
    }
}
