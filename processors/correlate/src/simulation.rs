//! Windows through crashes: signals that come late and twice, changes that are acknowledged in any order or lost with the
//! process, positions committed behind them, and windows rebuilt from there. The incidents must be those of a process that
//! read every signal once and never stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use detection::{ALLOWED_LATENESS, Rules, Taxonomy, When, load_documents};
use kafka::TopicPartition;
use schemas::{IncidentChange, Micros, Pair, Signal, SignalBatch, Source};
use simulation::{Schedule, Simulation};
use uuid::Uuid;

use crate::lane::{Lane, Ticket};
use crate::resume::{Resume, horizon_ms};

const SIMULATION: Simulation = Simulation::new("windows", 5_000);
const SECOND: i64 = 1_000_000;
const BEGIN: i64 = 1_700_000_000 * SECOND;
const BURST: &str = "burst";
const ALARM: &str = "alarm";
const GROUPS: i64 = 3;
/// Partitions of the stream that the signals come from.
const SOURCES: usize = 3;
/// Changes under way are more than this only if nothing is ever acknowledged.
const MOST_STEPS: usize = 5_000;

/// What is taken away to see whether it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// Reading starts at the committed position, with no windows.
    Rebuilding,
    /// Positions are committed before the changes are acknowledged.
    Acknowledgement,
    /// A source record that detect has emitted twice has a new offset.
    SourceOffsets,
}

fn rules() -> Arc<Rules> {
    static RULES: OnceLock<Arc<Rules>> = OnceLock::new();
    let load = || {
        let text = format!(
            "title: base\nid: base\nlogsource: {{category: c}}\nlevel: low\n\
             detection: {{s: {{a: b}}, condition: s}}\n---\n\
             title: alarm\nid: {ALARM}\nlogsource: {{category: c}}\nlevel: high\n\
             detection: {{s: {{a: c}}, condition: s}}\n---\n\
             title: burst\nid: {BURST}\nlevel: high\ncorrelation:\n  type: event_count\n  rules: [base]\n  \
             group-by: [src_ip]\n  timespan: 10m\n  condition: {{gte: 4}}\n"
        );
        let loaded = load_documents(Path::new("simulation.yml"), &text, &Taxonomy::default());
        assert_eq!(loaded.defects, []);
        Arc::new(loaded.rules)
    };
    Arc::clone(RULES.get_or_init(load))
}

/// A record of `signals`.
#[derive(Debug, Clone)]
struct Entry {
    appended_ms: i64,
    batch: SignalBatch<'static>,
    /// Emitted once more by a detect that had not committed.
    repeat: bool,
}

fn signal(index: usize, time: i64, group: i64, alarm: bool) -> Signal<'static> {
    let pair = |name: &'static str, value: String| Pair { name: name.into(), value: value.into() };
    Signal {
        index: i32::try_from(index).unwrap(),
        org: "demo".into(),
        correlation_id: (!alarm).then(|| BURST.into()),
        chain_id: None,
        base_rule_id: if alarm { ALARM } else { "base" }.into(),
        rule_hash: "".into(),
        group_key: vec![pair("src_ip", format!("192.0.2.{group}"))],
        event_time: Micros(time),
        received_at: Micros(time),
        event_uid: None,
        value: None,
        weight: 1,
        severity_id: 2,
        entities: vec![pair("user", format!("user{}", index % 3))],
        flags: 0,
    }
}

/// The log: hours of activity that comes and goes, each signal behind its event by less than what is allowed, and the
/// last records of a source now and then once more.
fn log(schedule: &mut Schedule, without: Without) -> Vec<Entry> {
    let mut times = Vec::new();
    let mut time = BEGIN;
    for _ in 0..3 + schedule.below(5) {
        time += schedule.within(60, 5_400) * SECOND;
        for _ in 0..2 + schedule.below(9) {
            time += schedule.within(0, 240) * SECOND;
            times.push(time);
        }
    }
    // A second of room: horizons are in whole milliseconds.
    let lateness = ALLOWED_LATENESS - SECOND;
    let mut late: Vec<(i64, i64)> =
        times.into_iter().map(|time| (time + schedule.within(0, lateness), time)).collect();
    late.sort_unstable();

    let mut next = [0i64; SOURCES];
    let mut log: Vec<Entry> = Vec::new();
    let mut late = late.as_slice();
    while let Some((appended, _)) = late.first() {
        let (now, later) = late.split_at((1 + schedule.below(3)).min(late.len()));
        late = later;
        let appended_ms = now.last().map_or(*appended, |(appended, _)| *appended) / 1_000;
        let source = schedule.below(SOURCES);
        let signals = now
            .iter()
            .enumerate()
            .map(|(index, (_, time))| signal(index, *time, schedule.within(1, GROUPS), schedule.chance(15)))
            .collect();
        log.push(entry(appended_ms, source, &mut next, signals));
        if schedule.chance(12) {
            repeat(schedule, &mut log, source, without, &mut next);
        }
    }
    log
}

fn entry(
    appended_ms: i64,
    partition: usize,
    next: &mut [i64; SOURCES],
    signals: Vec<Signal<'static>>,
) -> Entry {
    let offset = next[partition];
    next[partition] += 1;
    let partition = i32::try_from(partition).unwrap();
    let source = Source { topic_id: Uuid::from_u128(7), partition, from: offset, offset };
    Entry { appended_ms, batch: SignalBatch { stream: "events".into(), source, signals }, repeat: false }
}

/// detect has died before its commit: the last records of a source are emitted again, in their order.
fn repeat(
    schedule: &mut Schedule,
    log: &mut Vec<Entry>,
    source: usize,
    without: Without,
    next: &mut [i64; SOURCES],
) {
    let partition = i32::try_from(source).unwrap();
    let appended_ms = log.last().map_or(0, |last| last.appended_ms);
    let of_source = |entry: &&Entry| entry.batch.source.partition == partition && !entry.repeat;
    let mut again: Vec<Entry> =
        log.iter().rev().filter(of_source).take(1 + schedule.below(3)).cloned().collect();
    again.reverse();
    for mut entry in again {
        (entry.appended_ms, entry.repeat) = (appended_ms, true);
        if without == Without::SourceOffsets {
            entry.batch.source.offset = next[source];
            next[source] += 1;
        }
        log.push(entry);
    }
}

/// An incident as the sink unites it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Incident {
    first: i64,
    last: i64,
    count: i64,
    evidence: BTreeSet<(i64, i32, i64, i32)>,
}

/// What the changes on the topic come to.
#[derive(Debug, Default)]
struct Incidents {
    open: BTreeMap<Uuid, Incident>,
    merged: BTreeSet<Uuid>,
}

impl Incidents {
    fn take(&mut self, payload: &[u8]) {
        let body = schemas::current_body::<IncidentChange<'_>>(payload).unwrap();
        let change = schemas::decode_body::<IncidentChange<'_>>(&body).unwrap();
        if change.merged_into.is_some() {
            self.merged.insert(change.incident_id);
        }
        let Some(window) = change.window else { return };
        let evidence =
            window.evidence.iter().map(|event| (event.time.0, event.partition, event.offset, event.index));
        let new = Incident {
            first: window.first_time.0,
            last: window.last_time.0,
            count: window.count,
            evidence: evidence.collect(),
        };
        let held = self.open.entry(change.incident_id).or_insert_with(|| new.clone());
        held.first = held.first.min(new.first);
        held.last = held.last.max(new.last);
        held.count = held.count.max(new.count);
        held.evidence.extend(new.evidence);
    }

    fn standing(&self) -> BTreeMap<Uuid, Incident> {
        self.open
            .iter()
            .filter(|(id, _)| !self.merged.contains(*id))
            .map(|(id, one)| (*id, one.clone()))
            .collect()
    }
}

fn resume(start: usize, committed: usize) -> Resume {
    let offset = |place: usize| i64::try_from(place).unwrap();
    Resume {
        at: TopicPartition::new("signals", 0),
        start: offset(start),
        committed: offset(committed),
        since_ms: None,
    }
}

fn read(lane: &mut Lane, offset: usize, entry: &Entry) -> bool {
    let offset = i64::try_from(offset).unwrap();
    lane.before(offset);
    let applied = lane.correlator.apply(&entry.batch, entry.appended_ms);
    lane.after(offset + 1, entry.appended_ms);
    applied.fired > 0
}

/// The incidents of a process that reads every record once and publishes once.
fn undisturbed(log: &[Entry]) -> BTreeMap<Uuid, Incident> {
    let mut lane = Lane::new(rules(), &resume(0, 0), 0);
    let mut incidents = Incidents::default();
    for (offset, entry) in log.iter().enumerate().filter(|(_, entry)| !entry.repeat) {
        read(&mut lane, offset, entry);
        for change in lane.changes(When::Changed) {
            incidents.take(&change.payload);
        }
    }
    incidents.standing()
}

/// correlate on one partition, its commits and what it has sent.
struct Process<'a> {
    log: &'a [Entry],
    without: Without,
    lane: Lane,
    next: usize,
    committed: usize,
    generation: u64,
    under_way: Vec<(Ticket, Vec<u8>)>,
    topic: Incidents,
}

impl<'a> Process<'a> {
    fn start(log: &'a [Entry], without: Without) -> Self {
        Self {
            log,
            without,
            lane: Lane::new(rules(), &resume(0, 0), 0),
            next: 0,
            committed: 0,
            generation: 0,
            under_way: Vec::new(),
            topic: Incidents::default(),
        }
    }

    fn publish(&mut self, when: When) {
        for change in self.lane.changes(when) {
            let ticket = self.lane.sent();
            if self.without == Without::Acknowledgement {
                self.lane.delivered(&ticket);
            }
            self.under_way.push((ticket, change.payload));
        }
        if when == When::Changed {
            self.lane.checkpoint();
        }
    }

    fn acknowledge(&mut self, place: usize) {
        let (ticket, payload) = self.under_way.swap_remove(place);
        self.topic.take(&payload);
        if self.without != Without::Acknowledgement {
            self.lane.delivered(&ticket);
        }
    }

    fn commit(&mut self) {
        if let Some(position) = self.lane.take_moved() {
            self.committed = usize::try_from(position.offset).unwrap();
        }
    }

    /// The process dies. Of what it had sent some has reached the topic.
    fn crash(&mut self, schedule: &mut Schedule) {
        for (_, payload) in self.under_way.drain(..) {
            if schedule.chance(50) {
                self.topic.take(&payload);
            }
        }
        let last = self.committed.checked_sub(1).and_then(|last| self.log.get(last));
        let oldest_ms = last.map_or(i64::MIN, |last| last.appended_ms - horizon_ms(&rules()));
        let start = self.log.partition_point(|entry| entry.appended_ms < oldest_ms).min(self.committed);
        let start = if self.without == Without::Rebuilding { self.committed } else { start };
        self.generation += 1;
        self.lane = Lane::new(rules(), &resume(start, self.committed), self.generation);
        self.next = start;
        let (committed, next) = (self.committed, self.next);
        schedule.tell(|| format!("it starts again at {next}, committed was {committed}"));
    }

    fn step(&mut self, schedule: &mut Schedule) {
        match schedule.below(100) {
            0..55 => {
                let Some(entry) = self.log.get(self.next) else { return };
                schedule.step(|| format!("read {}: {:?}", self.next, entry.batch.source));
                let fired = read(&mut self.lane, self.next, entry);
                self.next += 1;
                if fired && !self.lane.is_rebuilding() {
                    self.publish(When::Fired);
                }
            }
            55..65 => {
                schedule.step(|| "a round is published".to_owned());
                self.publish(When::Changed);
            }
            65..85 => {
                if !self.under_way.is_empty() {
                    let place = schedule.below(self.under_way.len());
                    schedule.step(|| format!("acknowledged: {:?}", self.under_way[place].0));
                    self.acknowledge(place);
                }
            }
            85..94 => self.commit(),
            94..97 => self.lane.expire(),
            _ => {
                schedule.step(|| "crash".to_owned());
                self.crash(schedule);
            }
        }
    }

    /// Nothing fails any more.
    fn finish(&mut self) {
        while let Some(entry) = self.log.get(self.next) {
            read(&mut self.lane, self.next, entry);
            self.next += 1;
        }
        self.publish(When::Changed);
        while !self.under_way.is_empty() {
            self.acknowledge(0);
        }
        self.commit();
    }
}

fn windows(schedule: &mut Schedule, without: Without) -> Result<(), String> {
    let log = log(schedule, without);
    let expected = undisturbed(&log);
    let mut process = Process::start(&log, without);
    let mut steps = 0;
    while process.next < log.len() && steps < MOST_STEPS {
        process.step(schedule);
        steps += 1;
    }
    process.finish();
    if process.committed != log.len() {
        return Err(format!("all is published, and {} of {} is committed", process.committed, log.len()));
    }
    let found = process.topic.standing();
    if found == expected {
        return Ok(());
    }
    let missing: Vec<_> = expected.iter().filter(|(id, one)| found.get(*id) != Some(one)).collect();
    let others: Vec<_> = found.iter().filter(|(id, one)| expected.get(*id) != Some(one)).collect();
    Err(format!("other incidents: expected {missing:?}, found {others:?}"))
}

#[test]
fn simulation_of_windows() {
    SIMULATION.holds(|schedule| windows(schedule, Without::Nothing));
}

#[test]
fn simulation_of_windows_notices() {
    for without in [Without::Rebuilding, Without::Acknowledgement, Without::SourceOffsets] {
        SIMULATION.breaks(&format!("{without:?}"), |schedule| windows(schedule, without));
    }
}
