//! Every type of correlation under every kind of disorder that Kafka, restarts and rebalances can make of a set of
//! signals: the same incidents, byte for byte after merging, and those of the plain definition.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rstest::rstest;
use simulation::{Schedule, Simulation};

use super::plain::{Asked, Count, Plain, Union, unions};
use super::world::{Entry, Lane, SECOND, START, Seen, Without, placed, rules};
use super::{ALLOWED_LATENESS, Incidents};
use crate::Rules;

/// Group, first and last time, count.
type Summary = BTreeSet<(String, i64, i64, i64)>;

type Expected = Box<dyn Fn(&[Seen]) -> Summary>;
/// Whether a count satisfies a condition with these bounds.
type Holds = fn(count: i64, low: i64, high: i64) -> bool;

/// A set of correlations, one of which is looked at, and what its incidents are by definition.
struct Case {
    documents: String,
    expected: Expected,
    /// Longest that an event's windows reach, seconds.
    reach: i64,
}

fn document(id: &str, fields: &str) -> String {
    format!("title: {id}\nid: {id}\nlevel: high\ncorrelation:\n{fields}\n---\n")
}

fn address(seen: &Seen) -> String {
    format!("192.0.2.{}", seen.address)
}

/// Events of `kinds` by group, with what is counted of each.
fn grouped(
    events: &[Seen],
    kinds: &str,
    group: impl Fn(&Seen) -> String,
    value: impl Fn(&Seen) -> String,
) -> BTreeMap<String, Vec<Plain>> {
    let mut groups: BTreeMap<String, Vec<Plain>> = BTreeMap::new();
    for (number, seen) in events.iter().enumerate().filter(|(_, seen)| kinds.contains(seen.kind)) {
        let plain = Plain { time: seen.time, value: value(seen), weight: i64::from(seen.weight), number };
        groups.entry(group(seen)).or_default().push(plain);
    }
    groups
}

fn summary(groups: &BTreeMap<String, Vec<Plain>>, asked: &Asked, keep: impl Fn(&Union) -> bool) -> Summary {
    let mut found = BTreeSet::new();
    for (group, events) in groups {
        let unions = unions(events, asked).into_iter().filter(&keep);
        found.extend(unions.map(|union| (group.clone(), union.first, union.last, union.weight)));
    }
    found
}

/// The matches of a correlation: from the event on with which it fires, every event of its incidents.
fn matches(groups: &BTreeMap<String, Vec<Plain>>, asked: &Asked) -> BTreeMap<String, Vec<Plain>> {
    let of_group = |events: &Vec<Plain>| -> Vec<Plain> {
        let unions = unions(events, asked).into_iter();
        unions.flat_map(|u| u.events.into_iter().filter(move |event| event.time >= u.fires)).collect()
    };
    groups.iter().map(|(group, events)| (group.clone(), of_group(events))).collect()
}

fn event_count(schedule: &mut Schedule) -> Case {
    let (span, least) = (schedule.within(1, 90), schedule.within(1, 9));
    let fields = format!(
        "  type: event_count\n  rules: [a, b]\n  group-by: [src_ip]\n  timespan: {span}s\n  condition: {{gte: {least}}}"
    );
    let asked = Asked { timespan: span * SECOND, count: Count::Weight, least };
    Case {
        documents: document("looked-at", &fields),
        expected: Box::new(move |events| {
            summary(&grouped(events, "ab", address, |_| String::new()), &asked, |_| true)
        }),
        reach: span,
    }
}

fn value_count(schedule: &mut Schedule) -> Case {
    let (span, least) = (schedule.within(1, 90), schedule.within(1, 7));
    let both = schedule.chance(30);
    let field = if both { "[user, host]" } else { "user" };
    let fields = format!(
        "  type: value_count\n  rules: [a, b]\n  group-by: [src_ip]\n  timespan: {span}s\n  \
         condition: {{field: {field}, gt: {}}}",
        least - 1
    );
    let asked = Asked { timespan: span * SECOND, count: Count::Distinct, least };
    let value =
        move |seen: &Seen| if both { format!("{} {}", seen.user, seen.host) } else { seen.user.to_string() };
    Case {
        documents: document("looked-at", &fields),
        expected: Box::new(move |events| summary(&grouped(events, "ab", address, value), &asked, |_| true)),
        reach: span,
    }
}

fn temporal(schedule: &mut Schedule) -> Case {
    let span = schedule.within(1, 60);
    let least = if schedule.chance(30) { 2 } else { 3 };
    let condition = if least == 2 { "\n  condition: {gte: 2}" } else { "" };
    let fields = format!(
        "  type: temporal\n  rules: [a, b, c]\n  group-by: [user]\n  timespan: {span}s{condition}\n  \
         aliases: {{user: {{a: user, b: user, c: user}}}}"
    );
    let asked = Asked { timespan: span * SECOND, count: Count::Distinct, least };
    let user = |seen: &Seen| format!("u{}", seen.user);
    Case {
        documents: document("looked-at", &fields),
        expected: Box::new(move |events| {
            summary(&grouped(events, "abc", user, |seen| seen.kind.to_string()), &asked, |_| true)
        }),
        reach: span,
    }
}

fn temporal_ordered(schedule: &mut Schedule) -> Case {
    let span = schedule.within(1, 60);
    let order = if schedule.chance(50) { "ab" } else { "cab" };
    let names: Vec<String> = order.chars().map(String::from).collect();
    let fields = format!(
        "  type: temporal_ordered\n  rules: [{}]\n  group-by: [src_ip]\n  timespan: {span}s",
        names.join(", ")
    );
    let steps = order.len() as u64;
    let asked = Asked { timespan: span * SECOND, count: Count::Sequence(steps), least: order.len() as i64 };
    Case {
        documents: document("looked-at", &fields),
        expected: Box::new(move |events| {
            let step = |seen: &Seen| order.find(seen.kind).unwrap().to_string();
            summary(&grouped(events, order, address, step), &asked, |_| true)
        }),
        reach: span,
    }
}

/// A burst of `a` for an address and user, then `b` for the address.
fn burst_then_another(schedule: &mut Schedule) -> Case {
    let (inner_span, span, least) = (schedule.within(1, 40), schedule.within(1, 60), schedule.within(1, 4));
    let by_value = schedule.chance(40);
    let (kind, field) = if by_value { ("value_count", "field: host, ") } else { ("event_count", "") };
    let inner = format!(
        "  type: {kind}\n  rules: [a]\n  group-by: [src_ip, user]\n  timespan: {inner_span}s\n  \
         condition: {{{field}gte: {least}}}"
    );
    let ordered = schedule.chance(60);
    let kind = if ordered { "temporal_ordered" } else { "temporal" };
    let outer = format!("  type: {kind}\n  rules: [burst, b]\n  group-by: [src_ip]\n  timespan: {span}s");
    let how = if by_value { Count::Distinct } else { Count::Weight };
    let inner_asked = Asked { timespan: inner_span * SECOND, count: how, least };
    let count = if ordered { Count::Sequence(2) } else { Count::Distinct };
    let asked = Asked { timespan: span * SECOND, count, least: 2 };
    Case {
        documents: document("looked-at", &outer) + &document("burst", &inner),
        expected: Box::new(move |events| {
            let pair = |seen: &Seen| format!("{}/{}", address(seen), seen.user);
            let bursts = matches(&grouped(events, "a", pair, |seen| seen.host.to_string()), &inner_asked);
            let mut groups = grouped(events, "b", address, |_| "1".to_owned());
            for (pair, found) in bursts {
                let group = pair.split('/').next().unwrap().to_owned();
                let mark = |plain| Plain { value: "0".to_owned(), weight: 1, ..plain };
                groups.entry(group).or_default().extend(found.into_iter().map(mark));
            }
            summary(&groups, &asked, |_| true)
        }),
        reach: inner_span + span,
    }
}

/// Bursts of `a` against several users from one address, or several of them: three correlations in a row.
fn bursts_of_bursts(schedule: &mut Schedule) -> Case {
    let spans = [schedule.within(1, 30), schedule.within(1, 60), schedule.within(1, 60)];
    let least = [schedule.within(1, 3), schedule.within(1, 3), schedule.within(1, 2)];
    let by_value = schedule.chance(50);
    let [first, second, third] = spans;
    let one = format!(
        "  type: event_count\n  rules: [a]\n  group-by: [user, src_ip]\n  timespan: {first}s\n  condition: {{gte: {}}}",
        least[0]
    );
    let (kind, field) = if by_value { ("value_count", "field: user, ") } else { ("event_count", "") };
    let two = format!(
        "  type: {kind}\n  rules: [one]\n  group-by: [src_ip]\n  timespan: {second}s\n  condition: {{{field}gte: {}}}",
        least[1]
    );
    let three = format!(
        "  type: event_count\n  rules: [two]\n  group-by: [src_ip]\n  timespan: {third}s\n  condition: {{gte: {}}}",
        least[2]
    );
    let asked = [Count::Weight, Count::Distinct, Count::Distinct];
    let asked = |at: usize| Asked { timespan: spans[at] * SECOND, count: asked[at], least: least[at] };
    let asked = [asked(0), asked(1), asked(2)];
    Case {
        documents: document("looked-at", &three) + &document("two", &two) + &document("one", &one),
        expected: Box::new(move |events| {
            let pair = |seen: &Seen| format!("{}/{}", address(seen), seen.user);
            let mut groups: BTreeMap<String, Vec<Plain>> = BTreeMap::new();
            for (pair, found) in matches(&grouped(events, "a", pair, |_| String::new()), &asked[0]) {
                let (group, user) = pair.split_once('/').unwrap();
                let value = |plain: &Plain| match by_value {
                    true => user.to_owned(),
                    false => format!("{user} {}", plain.time.div_euclid(spans[0] * SECOND)),
                };
                let mark = |plain: Plain| Plain { value: value(&plain), weight: 1, ..plain };
                groups.entry(group.to_owned()).or_default().extend(found.into_iter().map(mark));
            }
            let mut last = matches(&groups, &asked[1]);
            for plain in last.values_mut().flatten() {
                plain.value = plain.time.div_euclid(spans[1] * SECOND).to_string();
            }
            summary(&last, &asked[2], |_| true)
        }),
        reach: spans.iter().sum(),
    }
}

/// Conditions that are decided only when nothing more can come.
fn bounded(schedule: &mut Schedule) -> Case {
    let span = schedule.within(1, 60);
    let (low, high) = (schedule.within(1, 4), schedule.within(4, 7));
    let conditions: [(String, i64, Holds); 5] = [
        (format!("lt: {high}"), 1, |count, _, high| count < high),
        (format!("gt: {}, lte: {high}", low - 1), low, |count, low, high| count >= low && count <= high),
        (format!("eq: {low}"), low, |count, low, _| count == low),
        (format!("neq: {high}"), 1, |count, _, high| count != high),
        (format!("gte: {low}, neq: {high}"), low, |count, low, high| count >= low && count != high),
    ];
    let (condition, least, holds) = schedule.pick(&conditions).cloned().unwrap();
    // A count that may not be the least one is counted from the next on.
    let least = if low == high && condition.contains("neq") && least == high { least + 1 } else { least };
    let by_value = schedule.chance(50);
    let (kind, field) = if by_value { ("value_count", "field: user, ") } else { ("event_count", "") };
    let fields = format!(
        "  type: {kind}\n  rules: [a]\n  group-by: [src_ip]\n  timespan: {span}s\n  condition: {{{field}{condition}}}"
    );
    let count = if by_value { Count::Distinct } else { Count::Weight };
    let asked = Asked { timespan: span * SECOND, count, least };
    Case {
        documents: document("looked-at", &fields),
        expected: Box::new(move |events| {
            let groups = grouped(events, "a", address, |seen| seen.user.to_string());
            summary(&groups, &asked, |union| holds(union.fullest, low, high))
        }),
        reach: span,
    }
}

/// Some of several rules and not more.
fn bounded_temporal(schedule: &mut Schedule) -> Case {
    let span = schedule.within(1, 30);
    let fields = format!(
        "  type: temporal\n  rules: [a, b, c]\n  group-by: [src_ip]\n  timespan: {span}s\n  condition: {{eq: 2}}"
    );
    let asked = Asked { timespan: span * SECOND, count: Count::Distinct, least: 2 };
    Case {
        documents: document("looked-at", &fields),
        expected: Box::new(move |events| {
            let groups = grouped(events, "abc", address, |seen| seen.kind.to_string());
            summary(&groups, &asked, |union| union.fullest == 2)
        }),
        reach: span,
    }
}

fn events(schedule: &mut Schedule, seconds: i64) -> Vec<Seen> {
    let count = schedule.within(1, 90);
    let users = 1 + schedule.below(8);
    let events = (0..count).map(|_| Seen {
        time: START + schedule.within(0, seconds) * SECOND,
        kind: schedule.pick(&['a', 'a', 'b', 'c']).copied().unwrap(),
        address: schedule.below(2),
        user: schedule.below(users),
        host: schedule.below(3),
        weight: if schedule.chance(15) { 3 } else { 1 },
    });
    events.collect()
}

fn found(incidents: &Incidents) -> Summary {
    let standing = incidents.standing();
    let of = standing.iter().filter(|(_, window)| window.rule_id == "looked-at");
    of.map(|(_, w)| (w.group_key[0].value.to_string(), w.first_time.0, w.last_time.0, w.count)).collect()
}

/// Delivers the raw records in this order, with restarts on the way; `watermark` says how far event time has got after each.
fn deliver(
    schedule: &mut Schedule,
    rules: &Arc<Rules>,
    records: &[BTreeMap<i32, (usize, Vec<u8>)>],
    order: &[usize],
    watermark: Option<&dyn Fn(usize) -> i64>,
    disturbed: bool,
    without: Without,
) -> Incidents {
    let mut incidents = Incidents::default();
    let mut lanes: BTreeMap<i32, Lane> = BTreeMap::new();
    for &number in order {
        schedule.step(|| format!("raw record {number}"));
        for (&partition, (_, payload)) in &records[number] {
            let lane = lanes.entry(partition).or_insert_with(|| Lane::new(rules.clone(), without));
            lane.append(Entry::Signals(payload.clone()), &mut incidents);
        }
        let time = watermark.map(|watermark| watermark(number));
        for (partition, lane) in &mut lanes {
            if let Some(time) = time {
                lane.append(Entry::Watermark(time), &mut incidents);
            }
            if !disturbed || schedule.chance(20) {
                let commit = schedule.chance(70);
                lane.round(commit, &mut incidents);
            }
            if disturbed && schedule.chance(4) {
                schedule.tell(|| format!("partition {partition} goes on elsewhere"));
                lane.restart(&mut incidents);
            }
        }
    }
    for lane in lanes.values_mut() {
        lane.append(Entry::Watermark(i64::MAX), &mut incidents);
        lane.round(true, &mut incidents);
    }
    incidents
}

fn borders(schedule: &mut Schedule) -> Vec<usize> {
    (0..90).map(|_| 1 + schedule.below(4)).collect()
}

/// In order and undisturbed; then shuffled, repeated, split and restarted.
fn any_order(
    schedule: &mut Schedule,
    case: fn(&mut Schedule) -> Case,
    without: Without,
) -> Result<(), String> {
    let case = case(schedule);
    schedule.tell(|| case.documents.clone());
    let rules = rules(&case.documents);
    let events = events(schedule, 280);
    let borders = borders(schedule);
    let records = placed(&rules, &events, &borders);
    let mut order: Vec<usize> = (0..records.len()).collect();
    let plain = deliver(schedule, &rules, &records, &order, None, false, Without::Nothing);
    let expected = (case.expected)(&events);
    if found(&plain) != expected {
        return Err(format!("{}\n{events:?}\nfound {:?}\nnot {expected:?}", case.documents, found(&plain)));
    }
    for _ in 0..schedule.below(20) {
        order.push(schedule.below(records.len()));
    }
    schedule.shuffle(&mut order);
    let disturbed = deliver(schedule, &rules, &records, &order, None, true, without);
    same(&disturbed, &plain)?;
    // Where a raw record ends makes the identity of its events, so of other borders only the summary is the same.
    let other = borders_of(schedule, &rules, &events);
    if found(&other) != expected {
        return Err("other borders of batches, other incidents".to_owned());
    }
    Ok(())
}

fn borders_of(schedule: &mut Schedule, rules: &Arc<Rules>, events: &[Seen]) -> Incidents {
    let borders = borders(schedule);
    let records = placed(rules, events, &borders);
    let order: Vec<usize> = (0..records.len()).collect();
    deliver(schedule, rules, &records, &order, None, false, Without::Nothing)
}

fn same(disturbed: &Incidents, plain: &Incidents) -> Result<(), String> {
    if disturbed.standing() != plain.standing() {
        let ids = |of: &Incidents| of.standing().into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        if ids(disturbed) != ids(plain) {
            let (one, other, merged) = (ids(disturbed), ids(plain), &disturbed.merged);
            return Err(format!("disturbed {one:?}\nplain {other:?}\nmerged {merged:?} {:?}", plain.merged));
        }
        return Err(format!("disturbed {:#?}\nplain {:#?}", disturbed.standing(), plain.standing()));
    }
    match disturbed.merged.values().find(|into| !disturbed.open.contains_key(into)) {
        Some(into) => Err(format!("merged into {into}, which nobody knows")),
        None => Ok(()),
    }
}

/// Over hours, each event at most `late` behind the newest, and event time told on the way.
fn late(schedule: &mut Schedule, case: fn(&mut Schedule) -> Case, late: i64) -> Result<(), String> {
    let case = case(schedule);
    schedule.tell(|| case.documents.clone());
    let rules = rules(&case.documents);
    let events = events(schedule, 3 * 60 * case.reach.min(40));
    let records = placed(&rules, &events, &[]);
    let mut arrives: Vec<(i64, usize)> =
        events.iter().enumerate().map(|(n, seen)| (seen.time + schedule.within(0, late), n)).collect();
    arrives.sort_unstable();
    let order: Vec<usize> = arrives.iter().map(|&(_, number)| number).collect();
    let mut newest: BTreeMap<usize, i64> = BTreeMap::new();
    let mut so_far = i64::MIN;
    for &number in &order {
        so_far = so_far.max(events[number].time);
        newest.insert(number, so_far);
    }
    let watermark = |number: usize| newest[&number];
    let incidents = deliver(schedule, &rules, &records, &order, Some(&watermark), true, Without::Nothing);
    let expected = (case.expected)(&events);
    if found(&incidents) != expected {
        return Err(format!(
            "{}\n{events:?}\nfound {:?}\nnot {expected:?}",
            case.documents,
            found(&incidents)
        ));
    }
    Ok(())
}

#[rstest]
#[case::event_count(event_count)]
#[case::value_count(value_count)]
#[case::temporal(temporal)]
#[case::temporal_ordered(temporal_ordered)]
#[case::burst_then_another(burst_then_another)]
#[case::bursts_of_bursts(bursts_of_bursts)]
#[case::bounded(bounded)]
#[case::bounded_temporal(bounded_temporal)]
fn incidents_depend_on_the_set_of_signals_alone(#[case] case: fn(&mut Schedule) -> Case) {
    let simulation = Simulation::new("disorder", 400);
    simulation.holds(|schedule| any_order(schedule, case, Without::Nothing));
    simulation.breaks("the high-water mark", |schedule| any_order(schedule, case, Without::HighWater));
    simulation.breaks("rebuilding windows", |schedule| any_order(schedule, case, Without::Rebuild));
}

#[test]
fn an_id_is_published_at_once_or_a_crash_leaves_it_behind() {
    let simulation = Simulation::new("disorder", 2_000);
    simulation.breaks("publishing ids at once", |schedule| any_order(schedule, event_count, Without::AtOnce));
}

#[rstest]
#[case::event_count(event_count)]
#[case::value_count(value_count)]
#[case::temporal(temporal)]
#[case::temporal_ordered(temporal_ordered)]
#[case::burst_then_another(burst_then_another)]
#[case::bursts_of_bursts(bursts_of_bursts)]
#[case::bounded(bounded)]
#[case::bounded_temporal(bounded_temporal)]
fn lateness_within_bounds_does_not_show(#[case] case: fn(&mut Schedule) -> Case) {
    let simulation = Simulation::new("lateness", 300);
    simulation.holds(|schedule| late(schedule, case, ALLOWED_LATENESS));
    simulation.breaks("the bound on lateness", |schedule| late(schedule, case, 40 * ALLOWED_LATENESS));
}
