//! Incidents are a function of the set of signals: checked against a slow and plain reference, over every kind of
//! disorder that Kafka and restarts can make of a set.

mod disorder;
mod limits;
mod plain;
mod told;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use schemas::{EventRef, IncidentChange, Micros, Pair, Signal, SignalBatch, Source, Watermark, Window};
use uuid::Uuid;

use super::{ALLOWED_LATENESS, Correlator, EVIDENCE_EACH_END, When};
use crate::{Rules, Taxonomy, load_documents};

const SECOND: i64 = 1_000_000;
const SIGNAL_RULE: &str = "base";
const BURST: &str = "burst";
const ALARM: &str = "alarm";

fn rules(timespan: &str, threshold: i64) -> Arc<Rules> {
    let text = format!(
        "title: base\nid: {SIGNAL_RULE}\nlogsource: {{category: c}}\nlevel: low\n\
         detection: {{s: {{a: b}}, condition: s}}\n---\n\
         title: alarm\nid: {ALARM}\nlogsource: {{category: c}}\nlevel: high\n\
         detection: {{s: {{a: c}}, condition: s}}\n---\n\
         title: burst\nid: {BURST}\nlevel: high\ncorrelation:\n  type: event_count\n  rules: [{SIGNAL_RULE}]\n  \
         group-by: [src_ip]\n  timespan: {timespan}\n  condition: {{gte: {threshold}}}\n"
    );
    let loaded = load_documents(Path::new("test.yml"), &text, &Taxonomy::default());
    assert_eq!(loaded.defects, []);
    Arc::new(loaded.rules)
}

/// An event of one group. Its position in the list is its identity.
#[derive(Debug, Clone, Copy)]
struct Seen {
    time: i64,
    weight: i32,
    group: u8,
    user: u8,
}

fn signal(event: &Seen, correlation: Option<&'static str>) -> Signal<'static> {
    let pair = |name: &'static str, value: String| Pair { name: name.into(), value: value.into() };
    Signal {
        index: 0,
        org: "demo".into(),
        correlation_id: correlation.map(Into::into),
        chain_id: None,
        base_rule_id: if correlation.is_some() { SIGNAL_RULE } else { ALARM }.into(),
        rule_hash: "".into(),
        group_key: vec![pair("src_ip", format!("192.0.2.{}", event.group))],
        event_time: Micros(event.time),
        received_at: Micros(event.time),
        event_uid: None,
        value: None,
        weight: event.weight,
        severity_id: 2,
        entities: vec![pair("user", format!("user{:02}", event.user))],
        flags: 0,
    }
}

/// The signal of an event that is not alone in its raw record.
fn numbered(number: usize, event: &Seen) -> Signal<'static> {
    Signal { index: i32::try_from(number).unwrap(), ..signal(event, Some(BURST)) }
}

/// A batch in a source partition of its own, so that batches may come in any order.
fn batch(number: usize, signals: Vec<Signal<'static>>) -> SignalBatch<'static> {
    let partition = i32::try_from(number).unwrap();
    let source = Source { topic_id: Uuid::from_u128(7), partition, from: 0, offset: 0 };
    SignalBatch { stream: "events".into(), source, signals }
}

/// Incidents as the sink merges them.
#[derive(Debug, Default)]
struct Incidents {
    open: BTreeMap<Uuid, Window<'static>>,
    merged: BTreeMap<Uuid, Uuid>,
    changes: usize,
}

impl Incidents {
    fn merge(&mut self, change: &IncidentChange<'_>) {
        self.changes += 1;
        if let Some(into) = change.merged_into {
            self.merged.insert(change.incident_id, into);
        }
        let Some(window) = &change.window else { return };
        let bytes = {
            let mut bytes = Vec::new();
            schemas::avro::Field::put(window, &mut bytes);
            bytes
        };
        let window: Window<'static> = {
            let bytes: &'static [u8] = bytes.leak();
            schemas::avro::Field::take(&mut schemas::avro::Reader::new(bytes)).unwrap()
        };
        match self.open.entry(change.incident_id) {
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(window);
            }
            std::collections::btree_map::Entry::Occupied(mut held) => {
                let held = held.get_mut();
                held.first_time = held.first_time.min(window.first_time);
                held.last_time = held.last_time.max(window.last_time);
                held.count = held.count.max(window.count);
                held.evidence_truncated |= window.evidence_truncated;
                held.evidence = ends(held.evidence.iter().chain(&window.evidence));
                let all: BTreeSet<(String, String)> = held
                    .entities
                    .iter()
                    .chain(&window.entities)
                    .map(|pair| (pair.name.to_string(), pair.value.to_string()))
                    .collect();
                held.entities = all
                    .into_iter()
                    .take(super::MAX_ENTITIES)
                    .map(|(name, value)| Pair { name: name.into(), value: value.into() })
                    .collect();
            }
        }
    }

    fn standing(&self) -> Vec<(Uuid, Window<'static>)> {
        let stands = |id: &Uuid| !self.merged.contains_key(id);
        self.open.iter().filter(|(id, _)| stands(id)).map(|(id, window)| (*id, window.clone())).collect()
    }
}

/// The first and last evidence and the first of each rule, oldest first.
fn ends<'a>(all: impl Iterator<Item = &'a EventRef<'static>>) -> Vec<EventRef<'static>> {
    let sorted: BTreeMap<_, EventRef<'static>> = all
        .map(|event| ((event.time.0, event.partition, event.index, event.rule.clone()), event.clone()))
        .collect();
    let all: Vec<EventRef<'static>> = sorted.into_values().collect();
    let last = all.len().saturating_sub(EVIDENCE_EACH_END);
    let mut rules = BTreeSet::new();
    let kept = all.iter().enumerate().filter(|(at, event)| {
        let first_of_rule = event.rule.as_ref().is_some_and(|rule| rules.insert(rule.clone()));
        *at < EVIDENCE_EACH_END || *at >= last || first_of_rule
    });
    kept.map(|(_, event)| event.clone()).collect()
}

/// (group, first, last, count) of every incident, by definition: unions of overlapping windows that weigh enough.
fn reference(events: &[Seen], timespan: i64, threshold: i64) -> BTreeSet<(u8, i64, i64, i64)> {
    let mut found = BTreeSet::new();
    for group in events.iter().map(|event| event.group).collect::<BTreeSet<_>>() {
        let mut events: Vec<&Seen> = events.iter().filter(|event| event.group == group).collect();
        events.sort_by_key(|event| event.time);
        let within = |from: i64, to: i64| {
            let inside = events.iter().filter(move |event| (from..=to).contains(&event.time));
            inside.map(|event| i64::from(event.weight)).sum::<i64>()
        };
        let mut hulls: Vec<(i64, i64)> = Vec::new();
        for event in &events {
            let reach = event.time + timespan;
            let end = events.iter().map(|e| e.time).filter(|&time| time <= reach).max().unwrap();
            if within(event.time, end) < threshold {
                continue;
            }
            match hulls.last_mut() {
                Some(last) if event.time <= last.1 => last.1 = last.1.max(end),
                _ => hulls.push((event.time, end)),
            }
        }
        found.extend(hulls.into_iter().map(|(from, to)| (group, from, to, within(from, to))));
    }
    found
}

fn summary(incidents: &Incidents) -> BTreeSet<(u8, i64, i64, i64)> {
    let group = |window: &Window<'_>| window.group_key[0].value.rsplit('.').next().unwrap().parse().unwrap();
    let standing = incidents.standing();
    standing.iter().map(|(_, w)| (group(w), w.first_time.0, w.last_time.0, w.count)).collect()
}

/// Delivers `order` (positions in `events`, repeats allowed) and publishes as production would; `publish_every` batches
/// everything that has changed, what fires at once. `restart_at` starts again from the first batch.
fn deliver(
    rules: &Arc<Rules>,
    events: &[Seen],
    order: &[usize],
    publish_every: usize,
    restart_at: Option<usize>,
) -> Incidents {
    let mut incidents = Incidents::default();
    let mut correlator = Correlator::new(rules.clone());
    for (step, &number) in order.iter().enumerate() {
        if restart_at == Some(step) {
            // What was committed had been published before.
            correlator.publish(When::Changed, Micros(0), &mut |change| incidents.merge(change));
            correlator = Correlator::new(rules.clone());
            for &number in &order[..step] {
                correlator.apply(&batch(number, vec![signal(&events[number], Some(BURST))]), 0);
            }
            correlator.settle();
        }
        correlator.apply(&batch(number, vec![signal(&events[number], Some(BURST))]), 0);
        correlator.publish(When::Fired, Micros(0), &mut |change| incidents.merge(change));
        if step % publish_every == 0 {
            correlator.publish(When::Changed, Micros(0), &mut |change| incidents.merge(change));
        }
    }
    correlator.publish(When::Changed, Micros(0), &mut |change| incidents.merge(change));
    incidents
}

fn seen(seconds: std::ops::Range<i64>) -> impl Strategy<Value = Seen> {
    (seconds, prop_oneof![4 => Just(1), 1 => 2..5i32], 0..2u8, 0..60u8).prop_map(
        |(second, weight, group, user)| Seen {
            time: 1_700_000_000 * SECOND + second * SECOND,
            weight,
            group,
            user,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn order_repeats_and_restarts_do_not_show(
        events in prop::collection::vec(seen(0..300), 1..120),
        threshold in 1..12i64,
        timespan in 1..90i64,
        shuffle in prop::collection::vec(any::<u32>(), 240),
        repeats in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        publish_every in 1..20usize,
        restart in any::<prop::sample::Index>(),
    ) {
        let rules = rules(&format!("{timespan}s"), threshold);
        let in_order: Vec<usize> = (0..events.len()).collect();
        let mut order = in_order.clone();
        order.extend(repeats.iter().map(|index| index.index(events.len())));
        let mut keyed: Vec<(u32, usize)> = shuffle.iter().copied().zip(order).collect();
        keyed.sort_unstable();
        let order: Vec<usize> = keyed.into_iter().map(|(_, number)| number).collect();

        let plain = deliver(&rules, &events, &in_order, 1, None);
        prop_assert_eq!(summary(&plain), reference(&events, timespan * SECOND, threshold));
        let restart_at = Some(restart.index(order.len()));
        let disturbed = deliver(&rules, &events, &order, publish_every, restart_at);
        prop_assert_eq!(disturbed.standing(), plain.standing());
        for into in disturbed.merged.values() {
            prop_assert!(disturbed.open.contains_key(into));
        }
    }

    #[test]
    fn lateness_within_bounds_does_not_show(
        events in prop::collection::vec((seen(0..7200), 0..ALLOWED_LATENESS / SECOND), 1..150),
        threshold in 1..8i64,
        timespan in 1..900i64,
    ) {
        let rules = rules(&format!("{timespan}s"), threshold);
        let (events, late): (Vec<Seen>, Vec<i64>) = events.into_iter().unzip();
        let mut order: Vec<usize> = (0..events.len()).collect();
        order.sort_by_key(|&number| events[number].time + late[number] * SECOND);
        let incidents = deliver(&rules, &events, &order, 3, None);
        prop_assert_eq!(summary(&incidents), reference(&events, timespan * SECOND, threshold));
    }

    #[test]
    fn borders_of_batches_do_not_show(
        events in prop::collection::vec(seen(0..300), 1..60),
        sizes in prop::collection::vec(1..9usize, 60),
    ) {
        let rules = rules("30s", 4);
        let all: Vec<Signal<'static>> = events.iter().enumerate().map(|(n, event)| numbered(n, event)).collect();
        let run = |sizes: &mut dyn Iterator<Item = usize>| {
            let mut correlator = Correlator::new(rules.clone());
            let mut incidents = Incidents::default();
            let mut rest = all.clone();
            let mut number = 0;
            while !rest.is_empty() {
                let size = sizes.next().unwrap_or(1).min(rest.len());
                correlator.apply(&batch(number, rest.drain(..size).collect()), 0);
                number += 1;
            }
            correlator.publish(When::Changed, Micros(0), &mut |change| incidents.merge(change));
            summary(&incidents)
        };
        prop_assert_eq!(run(&mut sizes.into_iter()), run(&mut std::iter::once(events.len())));
    }
}

fn burst(count: usize, step: i64) -> Vec<Seen> {
    let at = |n: usize| 1_700_000_000 * SECOND + n as i64 * step * SECOND;
    (0..count).map(|n| Seen { time: at(n), weight: 1, group: 0, user: 0 }).collect()
}

#[test]
fn it_fires_at_once_and_is_extended_once_a_round() {
    let rules = rules("60s", 3);
    let events = burst(10_000, 1);
    let mut correlator = Correlator::new(rules);
    let mut published = Vec::new();
    for (number, event) in events.iter().enumerate() {
        correlator.apply(&batch(number, vec![signal(event, Some(BURST))]), 0);
        correlator.publish(When::Fired, Micros(1), &mut |change| {
            published.push((number, change.window.as_ref().unwrap().count));
        });
    }
    assert_eq!(published, [(2, 3)], "at the third event, and not again for each of the others");
    correlator.publish(When::Changed, Micros(2), &mut |change| {
        let window = change.window.as_ref().unwrap();
        assert_eq!((window.count, window.evidence.len()), (10_000, 2 * EVIDENCE_EACH_END));
        assert!(window.evidence_truncated);
    });
    assert!(!correlator.has_changes());
}

#[test]
fn a_late_event_that_moves_the_first_fire_merges_the_incident() {
    let rules = rules("60s", 3);
    // Fires at 120 s; the event before moves that to 70 s, into the bucket before.
    let mut events = burst(4, 50);
    events.remove(0);
    let early = Seen { time: events[0].time - 10 * SECOND, ..events[0] };
    let more = Seen { time: events[0].time + 5 * SECOND, ..events[0] };
    let all = [events[0], events[1], Seen { time: events[1].time + 5 * SECOND, ..events[1] }, early, more];
    let incidents = deliver(&rules, &all, &[0, 1, 2, 3, 4], 1, None);
    assert_eq!(incidents.standing().len(), 1);
    assert_eq!(summary(&incidents), reference(&all, 60 * SECOND, 3));
    let expected = deliver(&rules, &all, &[3, 0, 4, 1, 2], 1, None);
    assert_eq!(incidents.standing(), expected.standing());
}

#[test]
fn a_repeat_of_a_source_record_is_dropped() {
    let rules = rules("60s", 3);
    let mut correlator = Correlator::new(rules.clone());
    let events = burst(2, 1);
    let first = batch(0, events.iter().enumerate().map(|(n, event)| numbered(n, event)).collect());
    assert_eq!(correlator.apply(&first, 0).counted, 2);
    assert_eq!(correlator.apply(&first, 0).replayed, 2);
    let mut incidents = 0;
    correlator.publish(When::Changed, Micros(0), &mut |_| incidents += 1);
    assert_eq!(incidents, 0);

    // The same under another offset, as if it were news, does fire: the offset is what the guard goes by.
    let mut news = first.clone();
    news.source.offset = 1;
    correlator.apply(&news, 0);
    correlator.publish(When::Changed, Micros(0), &mut |_| incidents += 1);
    assert_eq!(incidents, 1);
}

#[test]
fn a_clients_retry_counts_once() {
    let rules = rules("60s", 3);
    let mut correlator = Correlator::new(rules);
    let events = burst(2, 1);
    let uid = |n: usize| Some(Uuid::from_u128(n as u128));
    for number in 0..10 {
        let signals = events
            .iter()
            .enumerate()
            .map(|(n, event)| Signal { event_uid: uid(n), ..numbered(n, event) })
            .collect();
        let applied = correlator.apply(&batch(number, signals), 0);
        assert_eq!(applied.retried, if number == 0 { 0 } else { 2 });
    }
    correlator.publish(When::Changed, Micros(0), &mut |change| panic!("{change:?}"));
}

#[test]
fn alerts_of_a_single_rule_are_one_incident_an_hour_and_group() {
    let rules = rules("60s", 3);
    let hour = 3_600 * SECOND;
    let start = 472_223 * hour;
    let at = |time: i64, group: u8| Seen { time, weight: 1, group, user: 0 };
    let events = [at(start, 0), at(start + hour - 1, 0), at(start + hour, 0), at(start, 1)];
    let run = |order: [usize; 4]| {
        let mut correlator = Correlator::new(rules.clone());
        let mut incidents = Incidents::default();
        for number in order {
            correlator.apply(&batch(number, vec![signal(&events[number], None)]), 0);
            correlator.publish(When::Fired, Micros(0), &mut |change| incidents.merge(change));
        }
        correlator.publish(When::Changed, Micros(0), &mut |change| incidents.merge(change));
        incidents.standing()
    };
    let incidents = run([0, 1, 2, 3]);
    assert_eq!(incidents.len(), 3);
    assert_eq!(incidents, run([3, 2, 1, 0]));
}

#[test]
fn groups_that_nothing_can_reach_any_more_are_dropped() {
    let rules = rules("60s", 3);
    let mut correlator = Correlator::new(rules);
    correlator.apply(&batch(0, vec![signal(&burst(1, 1)[0], Some(BURST))]), 1_000_000);
    correlator.expire(1_000_000 + (60 + 300) * 1_000);
    assert_eq!(correlator.groups(), 1);
    correlator.expire(1_000_001 + (60 + 300) * 1_000);
    assert_eq!(correlator.groups(), 0);
}

#[test]
fn groups_wait_for_a_source_that_is_behind() {
    let minutes = |minutes: i64| 1_700_000_000_000 + minutes * 60_000;
    let mut correlator = Correlator::new(rules("60s", 3));
    let tell = |correlator: &mut Correlator, partition: i32, event_ms: i64, appended_ms: i64| {
        let source = Source { topic_id: Uuid::from_u128(7), partition, from: 0, offset: 0 };
        let event_time = Micros(event_ms * 1_000);
        correlator
            .watermark(&Watermark { stream: "events".into(), source, event_time, idle: false }, appended_ms);
    };
    let at = |ms: i64| Seen { time: ms * 1_000, ..burst(1, 1)[0] };
    let early = vec![numbered(0, &at(minutes(0))), numbered(1, &at(minutes(0) + 1))];
    correlator.apply(&batch(0, early), minutes(0));
    tell(&mut correlator, 1, minutes(-1), minutes(9));
    tell(&mut correlator, 0, minutes(9), minutes(9));
    correlator.expire(minutes(9));
    let applied = correlator.apply(&batch(1, vec![numbered(2, &at(minutes(0) + 2))]), minutes(10));
    assert_eq!(applied.fired, 1, "{applied:?}");
    tell(&mut correlator, 1, minutes(17), minutes(17));
    tell(&mut correlator, 0, minutes(17), minutes(17));
    correlator.publish(When::Changed, Micros(0), &mut |_| {});
    correlator.expire(minutes(17));
    assert_eq!(correlator.groups(), 0);
}

#[test]
fn signals_for_rules_that_are_not_there_are_told() {
    let mut correlator = Correlator::new(Arc::new(Rules::empty()));
    let applied = correlator.apply(&batch(0, vec![signal(&burst(1, 1)[0], Some(BURST))]), 0);
    assert_eq!(applied.unknown, 1);
}
