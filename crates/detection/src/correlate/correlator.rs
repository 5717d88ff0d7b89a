//! The state of one partition of `signals`.

use std::borrow::Cow;
use std::sync::Arc;

use ahash::{AHashMap, RandomState};
use schemas::{IncidentChange, Micros, Pair, Signal, SignalBatch, Stream, incident_id};
use uuid::Uuid;

use super::change::{merged, whole_state};
use super::episode::{Details, Episode, Mark, Place};
use super::seen::Seen;
use super::track::{Outcome, Threshold, Track};
use super::{ALERT_BUCKET, ALLOWED_LATENESS, EVIDENCE_EACH_END};
use crate::rule::Correlation;
use crate::rules::{Known, Rules};

/// Uids of keyed events remembered, of all groups together.
const SEEN_UIDS: usize = 1 << 14;

/// What became of a batch of signals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Signals that counted.
    pub counted: u64,
    /// Signals of a raw record that was seen before.
    pub replayed: u64,
    /// Signals of an event that was counted before, under another raw record: a client's retry.
    pub retried: u64,
    /// Signals too late for the state of their group.
    pub late: u64,
    /// Signals for rules that are not there.
    pub unknown: u64,
    /// Incidents that fired.
    pub fired: u64,
}

/// Which incidents to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Those that have never been published.
    Fired,
    /// Those that have changed since they were published.
    Changed,
}

/// Correlates the signals of one partition. Pure: clocks are given to it.
pub struct Correlator {
    rules: Arc<Rules>,
    groups: AHashMap<Arc<[u8]>, Group>,
    /// Raw offset of the last batch, by stream, raw topic id and raw partition.
    high_water: AHashMap<(Stream, Uuid, i32), i64>,
    seen: Seen,
    fired: Vec<Arc<[u8]>>,
    changed: Vec<Arc<[u8]>>,
    hasher: RandomState,
    /// A group's key in the making.
    key: Vec<u8>,
}

struct Group {
    state: State,
    /// In [`Correlator::changed`].
    queued: bool,
    /// When its last signal was appended to the log, milliseconds.
    touched: i64,
}

enum State {
    Threshold(Track),
    /// Alerts of a single rule, by bucket of event time, ascending.
    Alerts(Vec<(i64, Episode)>),
}

impl Correlator {
    /// A correlator without state.
    pub fn new(rules: Arc<Rules>) -> Self {
        Self {
            rules,
            groups: AHashMap::new(),
            high_water: AHashMap::new(),
            seen: Seen::new(SEEN_UIDS),
            fired: Vec::new(),
            changed: Vec::new(),
            hasher: RandomState::with_seeds(1, 2, 3, 4),
            key: Vec::new(),
        }
    }

    /// Groups with state.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Whether something waits to be published.
    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Ids of rules that signals of the batch are for and that are not there.
    pub fn missing<'b>(&'b self, batch: &'b SignalBatch<'_>) -> impl Iterator<Item = &'b str> {
        let ids = batch
            .signals
            .iter()
            .map(|signal| signal.correlation_id.as_deref().unwrap_or(signal.base_rule_id.as_ref()));
        ids.filter(|id| self.rules.known(id).is_none())
    }

    /// Takes in a batch that was appended to the log at `appended_ms`.
    pub fn apply(&mut self, batch: &SignalBatch<'_>, appended_ms: i64) -> Applied {
        let mut applied = Applied::default();
        let Some(stream) = Stream::from_name(&batch.stream) else {
            applied.unknown = batch.signals.len() as u64;
            return applied;
        };
        let source = &batch.source;
        let mark = self.high_water.entry((stream, source.topic_id, source.partition)).or_insert(i64::MIN);
        if source.offset <= *mark {
            applied.replayed = batch.signals.len() as u64;
            return applied;
        }
        *mark = source.offset;
        for signal in &batch.signals {
            let place =
                Place { stream, partition: source.partition, offset: source.offset, index: signal.index };
            match self.take(signal, place, appended_ms) {
                Some(Outcome::Counted { fired }) => {
                    applied.counted += 1;
                    applied.fired += u64::from(fired);
                }
                Some(Outcome::Loose) => applied.counted += 1,
                Some(Outcome::Repeat) => applied.retried += 1,
                Some(Outcome::Late) => applied.late += 1,
                None => applied.unknown += 1,
            }
        }
        applied
    }

    fn take(&mut self, signal: &Signal<'_>, place: Place, appended_ms: i64) -> Option<Outcome> {
        let rule_id = signal.correlation_id.as_ref().unwrap_or(&signal.base_rule_id);
        let threshold = match self.rules.known(rule_id)? {
            Known::Alert(_) => None,
            Known::Correlation(rule) => Some(threshold(rule)),
        };
        write_key(&mut self.key, &signal.org, rule_id, &signal.group_key);
        if let Some(uid) = signal.event_uid
            && !self.seen.enter(self.hasher.hash_one(&self.key), uid)
        {
            return Some(Outcome::Repeat);
        }
        if !self.groups.contains_key(self.key.as_slice()) {
            let state = match threshold {
                Some(_) => State::Threshold(Track::default()),
                None => State::Alerts(Vec::new()),
            };
            let group = Group { state, queued: false, touched: appended_ms };
            self.groups.insert(Arc::from(self.key.as_slice()), group);
        }
        let group = self.groups.get_mut(self.key.as_slice())?;
        group.touched = group.touched.max(appended_ms);
        let mark = Mark {
            time: signal.event_time.0,
            place,
            uid: signal.event_uid,
            weight: i64::from(signal.weight.max(1)),
        };
        let details = Details { entities: &signal.entities, flags: signal.flags };
        let outcome = match (&mut group.state, &threshold) {
            (State::Threshold(track), Some(threshold)) => track.insert(mark, &details, threshold),
            (State::Alerts(buckets), _) => alert(buckets, mark, &details),
            (State::Threshold(_), None) => return None,
        };
        if let Outcome::Counted { fired } = outcome
            && (fired || !group.queued)
        {
            let key: Arc<[u8]> = Arc::from(self.key.as_slice());
            if fired {
                self.fired.push(key.clone());
            }
            if !group.queued {
                group.queued = true;
                self.changed.push(key);
            }
        }
        Some(outcome)
    }

    /// Hands over the changes to publish, each with the whole state of its incident, and takes them for published.
    pub fn publish(&mut self, when: When, now: Micros, publish: &mut dyn FnMut(&IncidentChange<'_>)) {
        let keys = match when {
            When::Fired => std::mem::take(&mut self.fired),
            When::Changed => {
                self.fired.clear();
                std::mem::take(&mut self.changed)
            }
        };
        let rules = self.rules.clone();
        for key in keys {
            let Some(group) = self.groups.get_mut(&key) else { continue };
            if when == When::Changed {
                group.queued = false;
            }
            let Some((org, rule_id, group_key)) = read_key(&key) else { continue };
            let Some(known) = rules.known(rule_id) else { continue };
            let (meta, timespan, count) = match known {
                Known::Alert(meta) => (meta, ALERT_BUCKET, 1),
                Known::Correlation(rule) => (&rule.meta, rule.timespan, rule.threshold),
            };
            let mut hand_over = |episode: &mut Episode| {
                if !episode.dirty || (when == When::Fired && !episode.published.is_empty()) {
                    return;
                }
                let id = incident_id(org, rule_id, &group_key, episode.reaches(count).div_euclid(timespan));
                publish(&whole_state(episode, id, org, meta, group_key.clone(), now));
                for &before in episode.published.iter().filter(|&&before| before != id) {
                    publish(&merged(before, id, org, now));
                }
                episode.published.clear();
                episode.published.push(id);
                episode.dirty = false;
            };
            match &mut group.state {
                State::Threshold(track) => track.episodes.iter_mut().for_each(&mut hand_over),
                State::Alerts(buckets) => buckets.iter_mut().for_each(|(_, episode)| hand_over(episode)),
            }
        }
    }

    /// Takes everything so far for published: the changes that signals before a restart made.
    pub fn settle(&mut self) {
        self.publish(When::Changed, Micros(0), &mut |_| {});
    }

    /// Drops the groups whose last signal was appended longer before `now_ms` than any signal of theirs may be late.
    pub fn expire(&mut self, now_ms: i64) {
        let rules = self.rules.clone();
        self.groups.retain(|key, group| {
            let known = read_key(key).and_then(|(_, rule, _)| rules.known(rule));
            let timespan = match known {
                None => return false,
                Some(Known::Alert(_)) => ALERT_BUCKET,
                Some(Known::Correlation(rule)) => rule.timespan,
            };
            let keep_ms = timespan.saturating_add(ALLOWED_LATENESS) / 1_000;
            group.queued || now_ms.saturating_sub(group.touched) <= keep_ms
        });
    }

    /// Goes on with other rules. Groups of rules that are gone, or whose threshold or timespan is another, are dropped and
    /// start afresh.
    pub fn replace_rules(&mut self, rules: Arc<Rules>) {
        let before = std::mem::replace(&mut self.rules, rules.clone());
        self.groups.retain(|key, _| {
            let Some((_, id, _)) = read_key(key) else { return false };
            match (before.known(id), rules.known(id)) {
                (Some(Known::Correlation(old)), Some(Known::Correlation(new))) => {
                    (old.timespan, old.threshold) == (new.timespan, new.threshold)
                }
                (Some(Known::Alert(_)), Some(Known::Alert(_))) => true,
                _ => false,
            }
        });
    }
}

fn threshold(rule: &Correlation) -> Threshold {
    let keep = usize::try_from(rule.threshold).unwrap_or(usize::MAX).max(EVIDENCE_EACH_END);
    Threshold { timespan: rule.timespan, count: rule.threshold, keep }
}

/// Counts an alert into the episode of its bucket. One for a bucket that was dropped already starts it again: an alert
/// is never lost for being late.
fn alert(buckets: &mut Vec<(i64, Episode)>, mark: Mark, details: &Details<'_>) -> Outcome {
    let bucket = mark.time.div_euclid(ALERT_BUCKET);
    match buckets.binary_search_by_key(&bucket, |(known, _)| *known) {
        Ok(at) => {
            let Some((_, episode)) = buckets.get_mut(at) else { return Outcome::Late };
            if episode.holds(&mark) {
                return Outcome::Repeat;
            }
            episode.add(mark, details);
            Outcome::Counted { fired: false }
        }
        Err(at) => {
            let mut episode = Episode::new(EVIDENCE_EACH_END);
            episode.add(mark, details);
            buckets.insert(at, (bucket, episode));
            let newest = buckets.last().map_or(bucket, |(newest, _)| *newest);
            let over = |start: i64| {
                newest.saturating_sub(start).saturating_sub(1).saturating_mul(ALERT_BUCKET) > ALLOWED_LATENESS
            };
            buckets.retain(|(start, episode)| episode.dirty || !over(*start));
            Outcome::Counted { fired: true }
        }
    }
}

/// A group's key: org, rule, then name and value of each group value, each preceded by its length.
fn write_key(key: &mut Vec<u8>, org: &str, rule: &str, group_key: &[Pair<'_>]) {
    key.clear();
    let mut add = |part: &str| {
        key.extend_from_slice(&(part.len() as u64).to_le_bytes());
        key.extend_from_slice(part.as_bytes());
    };
    add(org);
    add(rule);
    for pair in group_key {
        add(&pair.name);
        add(&pair.value);
    }
}

fn read_key(key: &[u8]) -> Option<(&str, &str, Vec<Pair<'_>>)> {
    let mut rest = key;
    let mut part = || {
        let (length, after) = rest.split_first_chunk::<8>()?;
        let (text, after) = after.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        rest = after;
        std::str::from_utf8(text).ok()
    };
    let (org, rule) = (part()?, part()?);
    let mut group_key = Vec::new();
    while let (Some(name), Some(value)) = (part(), part()) {
        group_key.push(Pair { name: Cow::Borrowed(name), value: Cow::Borrowed(value) });
    }
    Some((org, rule, group_key))
}
