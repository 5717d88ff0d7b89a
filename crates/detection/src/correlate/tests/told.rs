//! What an incident of each type tells.

use schemas::{Micros, Source, Stream, Watermark, Window};
use uuid::Uuid;

use super::Incidents;
use super::world::{Entry, Lane, SECOND, START, Seen, Without, placed, rules};
use crate::{ALLOWED_LATENESS, Correlator, When};

fn seen(second: i64, kind: char) -> Seen {
    Seen { time: START + second * SECOND, kind, address: 1, user: 2, host: 0, weight: 1 }
}

/// Incidents of these events, in order.
fn incidents(correlations: &str, events: &[Seen]) -> Vec<Window<'static>> {
    let rules = rules(correlations);
    let mut incidents = Incidents::default();
    let mut lanes = std::collections::BTreeMap::new();
    for record in placed(&rules, events, &[]) {
        for (partition, (_, payload)) in record {
            let lane = lanes.entry(partition).or_insert_with(|| Lane::new(rules.clone(), Without::Nothing));
            lane.append(Entry::Signals(payload), &mut incidents);
        }
    }
    lanes.values_mut().for_each(|lane| lane.round(true, &mut incidents));
    incidents.standing().into_iter().map(|(_, window)| window).collect()
}

const SPRAY: &str = "title: Many users\nid: spray\nname: spray\ndescription: One address, many users.\nlevel: critical\n\
    tags: [attack.t1110.003]\nreferences: [https://example.org]\nfalsepositives: [A proxy]\ncorrelation:\n  \
    type: value_count\n  rules: [a]\n  group-by: [src_ip]\n  timespan: 1m\n  condition: {field: user, gte: 3}\n---\n";

#[test]
fn an_incident_says_what_its_rule_says_and_whom_it_concerns() {
    let events: Vec<Seen> = (0..4).map(|n| Seen { user: n, ..seen(n as i64, 'a') }).collect();
    let [window] = incidents(SPRAY, &events).try_into().unwrap();
    assert_eq!((window.title.as_ref(), window.severity_id), ("Many users", 5));
    assert_eq!(window.description, "One address, many users.");
    assert_eq!(window.tags, ["attack.t1110.003"]);
    assert_eq!(
        (window.references, window.false_positives),
        (vec!["https://example.org".into()], vec!["A proxy".into()])
    );
    let entities: Vec<&str> = window.entities.iter().map(|pair| pair.value.as_ref()).collect();
    assert_eq!(entities, ["h0", "192.0.2.1", "u0", "u1", "u2", "u3"]);
    assert_eq!((window.count, window.evidence.len(), window.evidence_truncated), (4, 4, false));
}

#[test]
fn what_feeds_a_correlation_is_silent_unless_it_says_generate() {
    let outer = |generate: &str| {
        format!(
            "{SPRAY}title: then\nid: then\nlevel: high\n{generate}correlation:\n  type: temporal_ordered\n  rules: [spray, b]\n  \
             group-by: [address]\n  timespan: 1m\n  aliases: {{address: {{spray: src_ip, b: src_ip}}}}\n---\n"
        )
    };
    let mut events: Vec<Seen> = (0..4).map(|n| Seen { user: n, ..seen(n as i64, 'a') }).collect();
    events.push(seen(20, 'b'));
    let rules_of = |text: &str| {
        let mut rules: Vec<String> =
            incidents(text, &events).iter().map(|window| window.rule_id.to_string()).collect();
        rules.sort();
        rules
    };
    assert_eq!(rules_of(&outer("")), ["then"]);
    assert_eq!(rules_of(&outer("generate: true\n")), ["spray", "then"]);
    let then = incidents(&outer(""), &events).pop().unwrap();
    assert_eq!(then.group_key[0].name, "address");
    assert_eq!(
        (then.first_time.0, then.last_time.0),
        (events[2].time, events[4].time),
        "it fires with the third"
    );
}

#[test]
fn evidence_shows_an_event_of_each_rule() {
    let temporal = "title: t\nid: t\nlevel: high\ncorrelation:\n  type: temporal_ordered\n  rules: [a, b]\n  \
        group-by: [src_ip]\n  timespan: 1h\n---\n";
    let mut events: Vec<Seen> = (0..400).map(|second| seen(second, 'a')).collect();
    events[200].kind = 'b';
    let [window] = incidents(temporal, &events).try_into().unwrap();
    assert!(window.evidence_truncated && window.count == 400);
    let of_b: Vec<i64> = window
        .evidence
        .iter()
        .filter(|event| event.rule.as_deref() == Some("b"))
        .map(|event| event.time.0)
        .collect();
    assert_eq!(of_b, [events[200].time]);
    assert_eq!(window.evidence.len(), 2 * crate::EVIDENCE_EACH_END + 1);
}

fn watermark(partition: i32, time: i64) -> Watermark<'static> {
    let source = Source { topic_id: Uuid::nil(), partition, from: 0, offset: 0 };
    Watermark { stream: Stream::Events.name().into(), source, event_time: Micros(time), idle: false }
}

#[test]
fn a_bound_from_above_waits_until_every_source_has_passed() {
    let rules = rules(
        "title: few\nid: few\nlevel: high\ncorrelation:\n  type: event_count\n  rules: [a]\n  group-by: [src_ip]\n  \
         timespan: 1m\n  condition: {lt: 3}\n---\n",
    );
    let events = [seen(0, 'a'), seen(10, 'a')];
    let mut correlator = Correlator::new(rules.clone());
    for record in placed(&rules, &events, &[]) {
        for (_, payload) in record.values() {
            correlator.apply(&schemas::decode(payload).unwrap(), 0);
        }
    }
    let mut published = 0;
    let decided = events[1].time + 60 * SECOND + ALLOWED_LATENESS + 1;
    assert_eq!(correlator.watermark(&watermark(0, decided), 0), 0, "the other source may hold more");
    correlator.publish(When::Changed, Micros(0), &mut |_| published += 1);
    assert_eq!((published, correlator.watermark(&watermark(1, decided - 1), 0)), (0, 0));
    assert_eq!(correlator.expire(0), Some(Micros(events[0].time)), "to decide it again after a restart");
    assert_eq!(correlator.watermark(&watermark(1, decided), 0), 1);
    assert_eq!(correlator.expire(0), Some(Micros(decided)));
    correlator.publish(When::Fired, Micros(0), &mut |change| {
        published += 1;
        assert_eq!(change.window.as_ref().unwrap().count, 2);
    });
    assert_eq!(published, 1);

    // What is later than allowed is dropped, not taken for a burst of its own.
    let late = placed(&rules, &[seen(0, 'c'), seen(0, 'c'), seen(5, 'a')], &[]);
    for (_, payload) in late[2].values() {
        assert_eq!(correlator.apply(&schemas::decode(payload).unwrap(), 0).late, 1);
    }
}

#[test]
fn more_repeats_of_a_value_than_fit_change_no_decision_and_are_marked() {
    let mut events: Vec<Seen> =
        (0..3_000).map(|n| Seen { time: START + n * 10_000, user: 0, ..seen(0, 'a') }).collect();
    events.push(Seen { user: 1, ..seen(31, 'a') });
    events.push(Seen { user: 2, ..seen(32, 'a') });
    let [window] = incidents(SPRAY, &events).try_into().unwrap();
    assert_eq!((window.first_time.0, window.last_time.0), (events[0].time, events[3_001].time));
    assert!(window.count < 3_002 && window.flags & schemas::flags::STATE_CUT != 0);
}
