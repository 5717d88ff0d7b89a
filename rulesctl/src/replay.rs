//! `replay`: normalise, match and correlate recorded events as production would.
//!
//! Signals go to as many correlators as `signals` has partitions. A correlator keeps of an incident's events only the first and
//! last few; here every event that it counted is kept by group, and those between an incident's first and last are its
//! events, as in the correlator. To what is built upon correlations no events are counted directly: its events are the ones
//! that the correlator kept.

use std::cmp::{max, min};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ahash::AHashMap;
use detection::{ALERT_BUCKET, ALLOWED_LATENESS, Correlator, Rules, When};
use normalise::{FindingRecord, Input};
use schemas::{
    Event, EventBatch, Finding, FindingBatch, IncidentChange, KEYED_PARTITIONS, Micros, Pair, Reject,
    SignalBatch, Source, Stream,
};
use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::clock::Clock;
use crate::events::{Batch, Shape};
use crate::matches::input;

/// Groups with events of which some may be dropped, from which on it is worth looking for them.
const MANY_GROUPS: usize = 100_000;

/// An incident, single alerts included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Incident {
    /// The correlation's id, or of an alert the rule's.
    pub rule_id: String,
    /// Names and values of the group.
    pub group_key: BTreeMap<String, String>,
    /// Time of the first event.
    #[serde(serialize_with = "rfc3339")]
    pub first: Micros,
    /// Time of the last event.
    #[serde(serialize_with = "rfc3339")]
    pub last: Micros,
    /// Weight of its events: a line "message repeated N times" weighs N.
    pub count: i64,
    /// Ordinals of its events, ascending.
    pub events: Vec<u64>,
}

fn rfc3339<S: Serializer>(time: &Micros, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&crate::output::time(*time))
}

/// Rule and group values.
type Group = (String, Vec<(String, String)>);

/// An event that counted: its time and its ordinal.
type Mark = (i64, u64);

/// An incident's latest state.
struct State {
    group: Group,
    first: i64,
    last: i64,
    count: i64,
    evidence: BTreeSet<u64>,
}

/// A replay under way.
pub struct Replay {
    rules: Arc<Rules>,
    correlators: Vec<Correlator>,
    marks: AHashMap<Group, Vec<Mark>>,
    prune_at: usize,
    incidents: BTreeMap<Uuid, State>,
    newest: i64,
    late: u64,
}

impl Replay {
    /// A replay that has seen nothing yet.
    pub fn new(rules: Arc<Rules>) -> Self {
        let correlators = (0..KEYED_PARTITIONS).map(|_| Correlator::new(rules.clone())).collect();
        Self {
            rules,
            correlators,
            marks: AHashMap::new(),
            prune_at: MANY_GROUPS,
            incidents: BTreeMap::new(),
            newest: i64::MIN,
            late: 0,
        }
    }

    /// Signals so far that came too late for the windows of their group, as in production.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Takes in events, whose `index` says which of `ordinals` is theirs.
    pub fn events(&mut self, events: Vec<Event<'_>>, ordinals: &[u64]) {
        let newest = events.iter().map(|event| event.time.0).max();
        let batch = EventBatch { source: source(0), events, rejects: vec![], pushes: vec![] };
        let rules = self.rules.clone();
        let batches = rules.signals(&batch).into_batches(Stream::Events, &batch.source);
        self.take(batches, newest, ordinals);
    }

    /// The same for findings.
    pub fn findings(&mut self, findings: Vec<Finding<'_>>, ordinals: &[u64]) {
        let newest = findings.iter().map(|finding| finding.time.0).max();
        let batch =
            FindingBatch { source: source(0), findings, scans: vec![], rejects: vec![], pushes: vec![] };
        let rules = self.rules.clone();
        let batches = rules.finding_signals(&batch).into_batches(Stream::Findings, &batch.source);
        self.take(batches, newest, ordinals);
    }

    fn take<'a>(
        &mut self,
        batches: impl Iterator<Item = (i32, SignalBatch<'a>)>,
        newest: Option<i64>,
        ordinals: &[u64],
    ) {
        self.newest = max(self.newest, newest.unwrap_or(i64::MIN));
        let appended_ms = self.newest / 1_000;
        for (partition, batch) in batches {
            let Some(correlator) =
                usize::try_from(partition).ok().and_then(|at| self.correlators.get_mut(at))
            else {
                continue;
            };
            // An event at a time, so that it is known which of them counted.
            let ordinal = |index: i32| usize::try_from(index).ok().and_then(|at| ordinals.get(at)).copied();
            for signals in batch.signals.chunk_by(|one, next| one.index == next.index) {
                let Some(ordinal) = signals.first().and_then(|signal| ordinal(signal.index)) else {
                    continue;
                };
                let signals = SignalBatch {
                    stream: batch.stream.clone(),
                    source: source(i64::try_from(ordinal).unwrap_or(i64::MAX)),
                    signals: signals.to_vec(),
                };
                let applied = correlator.apply(&signals, appended_ms);
                self.late += applied.late;
                if applied.counted == 0 {
                    continue;
                }
                for signal in &signals.signals {
                    let rule = signal.correlation_id.as_ref().unwrap_or(&signal.base_rule_id);
                    let group = (rule.to_string(), owned(&signal.group_key));
                    self.marks.entry(group).or_default().push((signal.event_time.0, ordinal));
                }
            }
            if correlator.has_changes() {
                let incidents = &mut self.incidents;
                correlator.publish(When::Changed, Micros(0), &mut |change| note(incidents, change));
            }
        }
        if self.marks.len() >= self.prune_at {
            self.prune();
        }
    }

    /// Decides, as of `time`, what can be decided only when nothing else is expected.
    fn decide(&mut self, time: i64) {
        for correlator in &mut self.correlators {
            if correlator.advance(Micros(time)) > 0 {
                let incidents = &mut self.incidents;
                correlator.publish(When::Changed, Micros(0), &mut |change| note(incidents, change));
            }
        }
    }

    /// Drops what no window can hold any more, as production does.
    fn prune(&mut self) {
        self.decide(self.newest);
        for correlator in &mut self.correlators {
            correlator.expire(self.newest / 1_000);
        }
        let mut spans: AHashMap<&Group, Vec<(i64, i64)>> = AHashMap::new();
        for incident in self.incidents.values() {
            spans.entry(&incident.group).or_default().push((incident.first, incident.last));
        }
        let reach = max(self.rules.longest_timespan(), ALERT_BUCKET) + 2 * ALLOWED_LATENESS;
        let oldest = self.newest.saturating_sub(reach);
        self.marks.retain(|group, marks| {
            let held = spans.get(group).map_or(&[][..], Vec::as_slice);
            marks.retain(|(time, _)| {
                *time >= oldest || held.iter().any(|(first, last)| (first..=last).contains(&time))
            });
            !marks.is_empty()
        });
        self.prune_at = max(MANY_GROUPS, 2 * self.marks.len());
    }

    /// The incidents, by the time of their first event.
    pub fn finish(mut self) -> Vec<Incident> {
        self.decide(i64::MAX);
        let marks = &self.marks;
        let incident = |state: State| {
            let inside = |mark: &&Mark| (state.first..=state.last).contains(&mark.0);
            let marks = marks.get(&state.group).map_or(&[][..], Vec::as_slice);
            let mut events = state.evidence;
            events.extend(marks.iter().filter(inside).map(|(_, ordinal)| *ordinal));
            let (rule_id, pairs) = state.group;
            Incident {
                rule_id,
                group_key: pairs.into_iter().collect(),
                first: Micros(state.first),
                last: Micros(state.last),
                count: state.count,
                events: events.into_iter().collect(),
            }
        };
        let mut incidents: Vec<Incident> = self.incidents.into_values().map(incident).collect();
        let order =
            |incident: &Incident| (incident.first, incident.rule_id.clone(), incident.group_key.clone());
        incidents.sort_by_cached_key(order);
        incidents
    }
}

/// Merges a published state into what is known of the incident, as the sink does.
fn note(incidents: &mut BTreeMap<Uuid, State>, change: &IncidentChange<'_>) {
    if change.merged_into.is_some() {
        incidents.remove(&change.incident_id);
    }
    let Some(window) = &change.window else { return };
    let (first, last) = (window.first_time.0, window.last_time.0);
    let state = incidents.entry(change.incident_id).or_insert_with(|| State {
        group: (window.rule_id.to_string(), owned(&window.group_key)),
        first,
        last,
        count: 0,
        evidence: BTreeSet::new(),
    });
    state.first = min(state.first, first);
    state.last = max(state.last, last);
    state.count = max(state.count, window.count);
    state.evidence.extend(window.evidence.iter().filter_map(|event| u64::try_from(event.offset).ok()));
}

fn owned(pairs: &[Pair<'_>]) -> Vec<(String, String)> {
    pairs.iter().map(|pair| (pair.name.to_string(), pair.value.to_string())).collect()
}

fn source(offset: i64) -> Source {
    Source { topic_id: Uuid::nil(), partition: 0, from: offset, offset }
}

/// Takes the events of `batch` into `replay`; what is rejected is told, by ordinal and reason.
pub fn replay_lines(
    replay: &mut Replay,
    clock: &mut Clock,
    batch: &Batch,
    shape: Shape,
    stream: Stream,
    rejected: &mut dyn FnMut(u64, &Reject<'_>),
) {
    let mut ordinals = Vec::new();
    let (mut events, mut findings) = (Vec::new(), Vec::new());
    let received_at = Micros::now();
    for (line, position) in batch.lines().zip(0i32..) {
        ordinals.push(line.index);
        let result = match stream {
            Stream::Events => clock.event(&line, position).map(|event| events.push(event)),
            Stream::Findings => {
                let input = Input { index: position, ..input(&line, shape, received_at) };
                normalise::finding(&input).map(|record| match record {
                    FindingRecord::Finding(finding) => findings.push(finding),
                    FindingRecord::Scan(_) => {}
                })
            }
        };
        if let Err(reject) = result {
            rejected(line.index, &reject);
        }
    }
    if !events.is_empty() {
        replay.events(events, &ordinals);
    }
    if !findings.is_empty() {
        replay.findings(findings, &ordinals);
    }
}
