//! The state of one partition of `signals`.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use ahash::AHashMap;
use schemas::{IncidentChange, Micros, Signal, SignalBatch, Stream, Watermark, flags, incident_id};
use uuid::Uuid;

use super::chain::Forwarded;
use super::change::{About, merged, whole_state};
use super::episode::Episode;
use super::groups::{Groups, Limits, State};
use super::key;
use super::mark::{Details, Held, Mark, Place};
use super::seen::Seen;
use super::slots::{Counted, Slots};
use super::track::{Outcome, Track};
use super::watermark::Watermarks;
use super::{ALERT_BUCKET, ALLOWED_LATENESS, EVIDENCE_EACH_END};
use crate::link::Link;
use crate::rule::{Correlation, Kind};
use crate::rules::{Known, Rules, reach};

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
    /// Incidents that go on under another id.
    pub moved: u64,
    /// Groups that were dropped to make room.
    pub evicted: u64,
}

impl std::ops::AddAssign for Applied {
    fn add_assign(&mut self, other: Self) {
        self.counted += other.counted;
        self.replayed += other.replayed;
        self.retried += other.retried;
        self.late += other.late;
        self.unknown += other.unknown;
        self.fired += other.fired;
        self.moved += other.moved;
        self.evicted += other.evicted;
    }
}

/// Which incidents to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Those that have never been published under the id they have. To be published after every batch: a process that
    /// reads the batch again after a crash then gives the same ids, and merges all of them.
    Fired,
    /// Those that have changed since they were published.
    Changed,
}

/// Correlates the signals of one partition. Pure: clocks are given to it.
pub struct Correlator {
    pub(super) rules: Arc<Rules>,
    pub(super) slots: Slots,
    pub(super) groups: Groups,
    /// Raw offset of the last batch, by stream, raw topic id and raw partition.
    high_water: AHashMap<(Stream, Uuid, i32), i64>,
    watermarks: Watermarks,
    /// How far event time has got; the least there is until that is known.
    watermark: i64,
    /// Windows are being rebuilt: the watermark waits until they are, for of some sources it may not have been read yet.
    rebuilding: bool,
    /// How far it is then.
    pending: i64,
    /// Groups that wait for the watermark, by when it decides about them.
    due: BTreeSet<(i64, Box<[u8]>)>,
    seen: Seen,
    fired: Vec<Box<[u8]>>,
    changed: Vec<Box<[u8]>>,
    /// Tells values apart. Its keys are the process's own, so that nobody can choose values that look alike.
    pub(super) hasher: RandomState,
    /// A group's key in the making.
    key: Vec<u8>,
}

impl Correlator {
    /// A correlator without state.
    pub fn new(rules: Arc<Rules>) -> Self {
        Self {
            rules,
            slots: Slots::default(),
            groups: Groups::new(),
            high_water: AHashMap::new(),
            watermarks: Watermarks::default(),
            watermark: i64::MIN,
            rebuilding: false,
            pending: i64::MIN,
            due: BTreeSet::new(),
            seen: Seen::new(SEEN_UIDS),
            fired: Vec::new(),
            changed: Vec::new(),
            hasher: RandomState::new(),
            key: Vec::new(),
        }
    }

    /// How much state it may hold from now on.
    pub fn limit(&mut self, limits: Limits) {
        self.groups.limits = limits;
    }

    /// Groups with state.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Memory of that state, bytes, about.
    pub fn state_bytes(&self) -> usize {
        self.groups.bytes()
    }

    /// How far event time has got, by the watermarks so far.
    pub fn event_time(&self) -> Option<Micros> {
        (self.watermark > i64::MIN).then_some(Micros(self.watermark))
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
        self.watermarks.signals(stream, source.partition, appended_ms);
        let mark = self.high_water.entry((stream, source.topic_id, source.partition)).or_insert(i64::MIN);
        if source.offset <= *mark {
            applied.replayed = batch.signals.len() as u64;
            return applied;
        }
        *mark = source.offset;
        for signal in &batch.signals {
            let place =
                Place { stream, partition: source.partition, offset: source.offset, index: signal.index };
            match self.take(signal, place, appended_ms, &mut applied) {
                Some(Outcome::Counted { .. } | Outcome::Loose) => applied.counted += 1,
                Some(Outcome::Repeat) => applied.retried += 1,
                Some(Outcome::Late) => applied.late += 1,
                None => applied.unknown += 1,
            }
        }
        applied
    }

    fn take(
        &mut self,
        signal: &Signal<'_>,
        place: Place,
        appended_ms: i64,
        applied: &mut Applied,
    ) -> Option<Outcome> {
        let rule_id = signal.correlation_id.as_ref().unwrap_or(&signal.base_rule_id);
        let root_id = signal.chain_id.as_ref().unwrap_or(rule_id);
        let number = self.slots.number(rule_id, root_id, &self.rules)?;
        let counted = self.slots.get(number)?.counted;
        let value = match counted {
            Counted::Windows { index, .. } => self.value(signal, self.rules.correlation(index)?)?,
            Counted::Alerts | Counted::Gone => 0,
        };
        let mut key = std::mem::take(&mut self.key);
        let org = self.groups.org(&signal.org);
        match counted {
            Counted::Windows { .. } => {
                key::write(&mut key, number, org, signal.group_key.iter().map(|pair| pair.value.as_ref()));
            }
            Counted::Alerts | Counted::Gone => {
                let texts =
                    signal.group_key.iter().flat_map(|pair| [pair.name.as_ref(), pair.value.as_ref()]);
                key::write(&mut key, number, org, texts);
            }
        }
        let uid = signal.event_uid.map_or(0, |uid| self.hasher.hash_one(uid).max(1));
        let outcome = if let Some(uid) = signal.event_uid
            && !self.seen.enter(self.hasher.hash_one((&key, value)), uid)
        {
            Some(Outcome::Repeat)
        } else {
            let mark = Mark { time: signal.event_time.0, place, value, uid, weight: signal.weight.max(1) };
            let held = Held { mark, details: Details::of(&signal.entities, signal.flags) };
            self.enter(&key, number, held, appended_ms, applied)
        };
        self.key = key;
        outcome
    }

    /// What tells a signal apart among those of its correlation; none if it is none of the correlation's.
    fn value(&self, signal: &Signal<'_>, known: Known<'_>) -> Option<u64> {
        let Known::Correlation(rule, link) = known else { return None };
        match rule.kind {
            Kind::EventCount => Some(0),
            Kind::ValueCount(_) => signal.value.as_ref().map(|value| self.hasher.hash_one(value.as_ref())),
            Kind::Temporal | Kind::TemporalOrdered => {
                let rule = link.members.iter().position(|member| **member == *signal.base_rule_id);
                rule.and_then(|rule| u64::try_from(rule).ok())
            }
        }
    }

    /// Enters an event with its group, and what follows from it with the groups of the chain.
    fn enter(
        &mut self,
        key: &[u8],
        number: u32,
        held: Held,
        appended_ms: i64,
        applied: &mut Applied,
    ) -> Option<Outcome> {
        let mut matches = Vec::new();
        let outcome = self.insert(key, number, held, appended_ms, &mut matches, applied)?;
        let mut forwarded = Vec::new();
        self.forward(key, number, matches, &mut forwarded);
        while let Some(Forwarded { key, number, held }) = forwarded.pop() {
            let mut matches = Vec::new();
            self.insert(&key, number, held, appended_ms, &mut matches, applied);
            self.forward(&key, number, matches, &mut forwarded);
        }
        Some(outcome)
    }

    fn insert(
        &mut self,
        key: &[u8],
        number: u32,
        held: Held,
        appended_ms: i64,
        matches: &mut Vec<Held>,
        applied: &mut Applied,
    ) -> Option<Outcome> {
        let counted = self.slots.get(number)?.counted;
        if let Counted::Windows { threshold, .. } = counted
            && threshold.waits()
            && held.mark.time < self.watermark.saturating_sub(ALLOWED_LATENESS)
        {
            return Some(Outcome::Late);
        }
        if !self.groups.contains(key) {
            let (state, keep_ms) = match counted {
                Counted::Gone => return None,
                Counted::Alerts => (State::Alerts(Vec::new()), ALERT_BUCKET / 1_000),
                Counted::Windows { threshold, .. } => {
                    (State::Windows(Track::default()), threshold.horizon / 1_000)
                }
            };
            applied.evicted += self.groups.add(key, state, appended_ms, keep_ms) as u64;
        }
        let (due, now_fired, now_changed) = (&mut self.due, &mut self.fired, &mut self.changed);
        self.groups.with(key, |group| {
            group.touched = group.touched.max(appended_ms);
            let outcome = match (&mut group.state, counted) {
                (State::Windows(track), Counted::Windows { threshold, .. }) => {
                    let outcome = track.insert(held, &threshold, matches);
                    if threshold.waits()
                        && let Some(next) = track.next_due(&threshold).filter(|&next| next < group.scheduled)
                    {
                        group.scheduled = next;
                        due.insert((next, key.into()));
                    }
                    outcome
                }
                (State::Alerts(buckets), _) => alert(buckets, held),
                (State::Windows(_), _) => return None,
            };
            if let Outcome::Counted { fired, moved } = outcome {
                if counted.is_published() {
                    applied.fired += u64::from(fired);
                    applied.moved += u64::from(moved);
                    if fired || moved {
                        now_fired.push(key.into());
                    }
                    if !group.queued {
                        group.queued = true;
                        now_changed.push(key.into());
                    }
                } else if let State::Windows(track) = &mut group.state {
                    track.episodes.iter_mut().for_each(|episode| episode.dirty = false);
                }
            }
            Some(outcome)
        })?
    }

    /// Takes in how far event time has got in a source, as appended to the log at `appended_ms`. Returns how many incidents
    /// fired.
    pub fn watermark(&mut self, watermark: &Watermark<'_>, appended_ms: i64) -> u64 {
        let Some(stream) = Stream::from_name(&watermark.stream) else { return 0 };
        self.watermarks.tell(stream, watermark, appended_ms);
        self.watermarks.time().map_or(0, |time| self.advance(Micros(time)))
    }

    /// No event of before `time`, allowed lateness aside, is expected any more: decides what has waited for that. Returns
    /// how many incidents fired.
    pub fn advance(&mut self, time: Micros) -> u64 {
        if self.rebuilding {
            self.pending = time.0;
            return 0;
        }
        self.watermark = self.watermark.max(time.0);
        let mut fired = 0;
        while self.due.first().is_some_and(|(due, _)| *due < self.watermark) {
            let Some((_, key)) = self.due.pop_first() else { break };
            let counted =
                key::owner(&key).and_then(|(number, _)| self.slots.get(number)).map(|slot| slot.counted);
            let Some(Counted::Windows { threshold, .. }) = counted else { continue };
            let watermark = self.watermark;
            let (now_fired, now_changed) = (&mut self.fired, &mut self.changed);
            let next = self.groups.with(&key, |group| {
                let State::Windows(track) = &mut group.state else { return i64::MAX };
                let decided = track.close(watermark, &threshold);
                group.scheduled = track.next_due(&threshold).unwrap_or(i64::MAX);
                if decided {
                    fired += 1;
                    now_fired.push(key.clone());
                    if !group.queued {
                        group.queued = true;
                        now_changed.push(key.clone());
                    }
                }
                group.scheduled
            });
            if let Some(next) = next.filter(|&next| next < i64::MAX) {
                self.due.insert((next, key));
            }
        }
        fired
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
            let Some((number, org)) = key::owner(&key) else { continue };
            let Some(slot) = self.slots.get(number) else { continue };
            let Some(org) = self.groups.org_name(org).map(str::to_owned) else { continue };
            let (meta, bucket, waits, names, told_apart) = match (rules.known(&slot.id), slot.counted) {
                (Some(Known::Alert(meta)), Counted::Alerts) => (meta, ALERT_BUCKET, false, None, None),
                (Some(Known::Correlation(rule, link)), Counted::Windows { threshold, .. }) => {
                    let told_apart = (threshold.rules > 0).then_some(link.members.as_slice());
                    let names = Some(rule.group_by.as_slice());
                    (&rule.meta, rule.timespan, threshold.waits(), names, told_apart)
                }
                _ => continue,
            };
            let own = rules.orgs.stance(&org, &meta.id);
            let off = own.is_some_and(|stance| !stance.enabled);
            let severity_id = own.map_or(meta.severity_id, |stance| stance.severity_id);
            let group_key = key::group(&key, names);
            self.groups.with(&key, |group| {
                if when == When::Changed {
                    group.queued = false;
                }
                if off {
                    return;
                }
                let thinned = matches!(&group.state, State::Windows(track) if track.thinned);
                let cut = if group.cut || thinned { flags::STATE_CUT } else { 0 };
                let mut hand_over = |episode: &mut Episode| {
                    if !episode.dirty || (waits && !episode.closed) {
                        return;
                    }
                    let id = incident_id(&org, &slot.id, &group_key, episode.fires.div_euclid(bucket));
                    if when == When::Fired && episode.published == [id] {
                        return;
                    }
                    episode.flags |= cut;
                    let group_key = group_key.clone();
                    let about = About { org: &org, meta, severity_id, group_key, rules: told_apart };
                    publish(&whole_state(episode, id, about, now));
                    for &before in episode.published.iter().filter(|&&before| before != id) {
                        publish(&merged(before, id, &org, now));
                    }
                    episode.published.clear();
                    episode.published.push(id);
                    episode.dirty = false;
                };
                match &mut group.state {
                    State::Windows(track) => track.episodes.iter_mut().for_each(&mut hand_over),
                    State::Alerts(buckets) => buckets.iter_mut().for_each(|(_, episode)| hand_over(episode)),
                }
            });
        }
    }

    /// What comes until [`Correlator::settle`] has been published before a restart.
    pub fn rebuild(&mut self) {
        self.rebuilding = true;
    }

    /// Takes everything so far for published: the changes that signals before a restart made.
    pub fn settle(&mut self) {
        self.rebuilding = false;
        self.advance(Micros(self.pending));
        self.publish(When::Changed, Micros(0), &mut |_| {});
    }

    /// Drops the groups whose last signal was appended longer before `now_ms` than any signal of theirs may be late; of a
    /// source that is behind, more may come as much later. Returns the event time from which on signals may still matter, a
    /// timespan and allowed lateness aside: the watermark, or where an episode begins that waits for it. None while windows are
    /// rebuilt, and before the first watermark.
    pub fn expire(&mut self, now_ms: i64) -> Option<Micros> {
        let mut waiting_since = i64::MAX;
        let behind_ms = match self.watermark {
            i64::MIN => 0,
            time => now_ms.saturating_sub(time / 1_000).max(0),
        };
        let (rules, slots) = (&self.rules, &self.slots);
        self.groups.retain(|glance| {
            let timespan = match slots.get(glance.slot).map(|slot| slot.counted) {
                None | Some(Counted::Gone) => return false,
                Some(Counted::Alerts) => ALERT_BUCKET,
                Some(Counted::Windows { index, .. }) => match rules.correlation(index) {
                    Some(Known::Correlation(rule, link)) => reach(rule, link),
                    _ => return false,
                },
            };
            let keep_ms = (timespan.saturating_add(ALLOWED_LATENESS) / 1_000).saturating_add(behind_ms);
            waiting_since = waiting_since.min(glance.undecided.unwrap_or(i64::MAX));
            glance.queued || glance.undecided.is_some() || now_ms.saturating_sub(glance.touched) <= keep_ms
        });
        (self.watermark > i64::MIN).then(|| Micros(self.watermark.min(waiting_since)))
    }

    /// Goes on with other rules. Groups of rules that are gone, or that ask for something else now, are dropped and start
    /// afresh.
    pub fn replace_rules(&mut self, rules: Arc<Rules>) {
        let before = std::mem::replace(&mut self.rules, rules);
        let changed = self.slots.replace_rules(&before, &self.rules);
        self.groups.retain(|glance| !changed.contains(&glance.slot));
    }

    pub(super) fn linked(&self, index: usize) -> Option<(&Correlation, &Link)> {
        match self.rules.correlation(index)? {
            Known::Correlation(rule, link) => Some((rule, link)),
            Known::Alert(_) => None,
        }
    }
}

/// Counts an alert into the episode of its bucket. One for a bucket that was dropped already starts it again: an alert
/// is never lost for being late.
fn alert(buckets: &mut Vec<(i64, Episode)>, held: Held) -> Outcome {
    let bucket = held.mark.time.div_euclid(ALERT_BUCKET);
    match buckets.binary_search_by_key(&bucket, |(known, _)| *known) {
        Ok(at) => {
            let Some((_, episode)) = buckets.get_mut(at) else { return Outcome::Late };
            if episode.holds(&held.mark) {
                return Outcome::Repeat;
            }
            episode.add(&held, None);
            Outcome::COUNTED
        }
        Err(at) => {
            let mut episode = Episode::new(EVIDENCE_EACH_END);
            episode.add(&held, None);
            episode.fires = bucket.saturating_mul(ALERT_BUCKET);
            buckets.insert(at, (bucket, episode));
            let newest = buckets.last().map_or(bucket, |(newest, _)| *newest);
            let over = |start: i64| {
                newest.saturating_sub(start).saturating_sub(1).saturating_mul(ALERT_BUCKET) > ALLOWED_LATENESS
            };
            buckets.retain(|(start, episode)| episode.dirty || !over(*start));
            Outcome::Counted { fired: true, moved: false }
        }
    }
}
