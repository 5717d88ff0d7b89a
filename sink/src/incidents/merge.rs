//! Merging a window into an incident: min, max and union, so that the order of windows does not matter and a window that
//! comes twice changes nothing.

use std::borrow::Cow;
use std::collections::BTreeSet;

use schemas::{MAX_ENTITIES, Micros, Window};
use uuid::Uuid;

use super::state::{Evidence, Incident, MAX_EVIDENCE, NameValue, Status};
use crate::encode::quarantine::clean;

/// Rules of which the first event is kept: as many as a correlation may name.
const MAX_RULES: usize = 64;

/// What a window did to an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Merged {
    /// Nothing: all of it was known.
    Unchanged,
    /// It told something more of the same activity.
    Updated,
    /// There has been more activity: a later time, or more events.
    Advanced,
}

/// The incident that a first window opens.
pub fn open(org: &str, id: Uuid, at: Micros, window: &Window<'_>) -> Incident {
    let mut evidence: Vec<_> = window.evidence.iter().map(Evidence::from).collect();
    let evidence_truncated = sort_and_cut(&mut evidence) || window.evidence_truncated;
    Incident {
        org: org.to_owned(),
        id,
        rule_id: text(&window.rule_id),
        rule_hash: text(&window.rule_hash),
        title: text(&window.title),
        description: text(&window.description),
        severity_id: window.severity_id,
        status: Status::Open,
        assignee: None,
        tags: texts(&window.tags),
        reference_urls: texts(&window.references),
        false_positives: texts(&window.false_positives),
        group_key: window.group_key.iter().map(NameValue::from).collect(),
        entities: bounded(window.entities.iter().map(NameValue::from).collect()),
        first_time: window.first_time,
        last_time: window.last_time,
        event_count: window.count,
        evidence,
        evidence_truncated,
        flags: window.flags,
        reopened: false,
        merged_into: None,
        version: 1,
        created_at: at,
        updated_at: at,
    }
}

/// Merges a window into an incident, its version and status aside.
pub fn merge(incident: &mut Incident, at: Micros, window: &Window<'_>) -> Merged {
    let mut other = open(&incident.org, incident.id, at, window);
    let advanced = other.last_time > incident.last_time || other.event_count > incident.event_count;
    let before = incident.clone();

    incident.first_time = incident.first_time.min(other.first_time);
    incident.last_time = incident.last_time.max(other.last_time);
    incident.event_count = match service::guard_is_off("sink.evidence_united") {
        true => incident.event_count + other.event_count,
        false => incident.event_count.max(other.event_count),
    };
    incident.severity_id = incident.severity_id.max(other.severity_id);
    incident.flags |= other.flags;
    incident.entities.append(&mut other.entities);
    incident.entities = bounded(std::mem::take(&mut incident.entities));
    incident.evidence.append(&mut other.evidence);
    let cut = sort_and_cut(&mut incident.evidence);
    incident.evidence_truncated |= cut || other.evidence_truncated;
    // What the rule says of itself is taken from the latest change, the greater of two of the same time.
    if (at, other.words()) > (incident.updated_at, before.words()) {
        incident.rule_hash = other.rule_hash;
        incident.title = other.title;
        incident.description = other.description;
        incident.tags = other.tags;
        incident.reference_urls = other.reference_urls;
        incident.false_positives = other.false_positives;
    }
    if *incident == before {
        return Merged::Unchanged;
    }
    incident.updated_at = incident.updated_at.max(at);
    incident.created_at = incident.created_at.min(at);
    if advanced { Merged::Advanced } else { Merged::Updated }
}

impl Incident {
    fn words(&self) -> (&str, &str, &str) {
        (&self.rule_hash, &self.title, &self.description)
    }
}

/// Sorts, drops what is there twice, and cuts the middle out, but for the first of each rule. Returns whether it had to.
///
/// The first half of all is among the first half of every part, and the first of a rule is the first in its part, so the
/// result does not depend on the order of merging.
fn sort_and_cut(evidence: &mut Vec<Evidence>) -> bool {
    evidence.sort_unstable();
    evidence.dedup();
    let half = MAX_EVIDENCE / 2;
    let last = evidence.len().saturating_sub(half);
    let mut rules: BTreeSet<String> = BTreeSet::new();
    let mut at = 0;
    let before = evidence.len();
    evidence.retain(|event| {
        let end = at < half || at >= last;
        at += 1;
        let first_of_rule = match &event.rule {
            Some(rule) if rules.len() < MAX_RULES && !rules.contains(rule) => rules.insert(rule.clone()),
            _ => false,
        };
        end || first_of_rule
    });
    evidence.len() < before
}

fn bounded(mut entities: Vec<NameValue>) -> Vec<NameValue> {
    entities.sort_unstable();
    entities.dedup();
    entities.truncate(MAX_ENTITIES);
    entities
}

fn text(text: &str) -> String {
    clean(text).into_owned()
}

fn texts(items: &[Cow<'_, str>]) -> Vec<String> {
    items.iter().map(|item| text(item)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schemas::{EventRef, Pair};

    use super::*;

    /// A window over some events, told by their times; each is its own identity and entity.
    fn window(times: &[i64]) -> Window<'static> {
        let pair = |value: i64| Pair { name: "host".into(), value: format!("h{value:05}").into() };
        let event = |time: i64| EventRef {
            stream: "events".into(),
            partition: 0,
            offset: time,
            index: 0,
            time: Micros(time),
            rule: (time % 7 == 0).then(|| format!("rule {}", time % 5).into()),
        };
        Window {
            rule_id: "r".into(),
            rule_hash: "h".into(),
            title: "t".into(),
            description: "".into(),
            severity_id: times.len() as i32 % 6,
            tags: vec![],
            references: vec![],
            false_positives: vec![],
            group_key: vec![pair(0)],
            entities: times.iter().map(|time| pair(*time)).collect(),
            first_time: Micros(times.iter().copied().min().unwrap_or(0)),
            last_time: Micros(times.iter().copied().max().unwrap_or(0)),
            count: times.len() as i64,
            evidence: times.iter().map(|time| event(*time)).collect(),
            evidence_truncated: false,
            flags: 1 << (times.len() % 4),
        }
    }

    fn merged(windows: &[(i64, Vec<i64>)]) -> Incident {
        let mut windows = windows.iter();
        let (at, first) = windows.next().unwrap();
        let mut incident = open("demo", Uuid::nil(), Micros(*at), &window(first));
        for (at, times) in windows {
            merge(&mut incident, Micros(*at), &window(times));
        }
        incident
    }

    #[test]
    fn the_middle_of_much_evidence_is_cut_out() {
        let incident = merged(&[(1, (0..80).collect()), (2, (80..160).collect())]);
        let times: Vec<i64> = incident.evidence.iter().map(|evidence| evidence.time).collect();
        // Every rule has one of the first fifty.
        assert_eq!(times, (0..50).chain(110..160).collect::<Vec<_>>());
        assert!(incident.evidence_truncated);
        assert_eq!(incident.entities.len(), MAX_ENTITIES);
    }

    #[test]
    fn the_first_event_of_each_rule_is_kept() {
        let mut windows = vec![window(&(0..160).map(|n| n * 10 + 1).collect::<Vec<_>>())];
        windows[0].evidence.iter_mut().for_each(|event| event.rule = Some("a".into()));
        windows.push(windows[0].clone());
        windows[1]
            .evidence
            .iter_mut()
            .for_each(|event| (event.time.0, event.rule) = (event.time.0 + 701, Some("b".into())));
        let mut incident = open("demo", Uuid::nil(), Micros(1), &windows[0]);
        merge(&mut incident, Micros(2), &windows[1]);
        let first = |rule: &str| {
            incident.evidence.iter().find(|evidence| evidence.rule.as_deref() == Some(rule)).unwrap().time
        };
        assert_eq!((first("a"), first("b"), incident.evidence.len()), (1, 702, MAX_EVIDENCE + 1));
    }

    #[test]
    fn only_a_later_time_or_a_higher_count_is_more_activity() {
        let mut incident = merged(&[(1, vec![10, 20])]);
        assert_eq!(merge(&mut incident, Micros(2), &window(&[10, 20])), Merged::Unchanged);
        assert_eq!(merge(&mut incident, Micros(2), &window(&[5, 20])), Merged::Updated);
        assert_eq!(merge(&mut incident, Micros(2), &window(&[21])), Merged::Advanced);
        assert_eq!(merge(&mut incident, Micros(2), &window(&[10, 11, 12])), Merged::Advanced);
    }

    proptest! {
        #[test]
        fn neither_order_nor_repetition_of_windows_matters(
            windows in prop::collection::vec((0i64..9, prop::collection::vec(0i64..300, 1..90)), 1..6),
            shuffled in any::<prop::sample::Index>(),
            repeated in any::<prop::sample::Index>(),
        ) {
            let mut other = windows.clone();
            other.rotate_left(shuffled.index(windows.len()));
            other.reverse();
            other.push(windows[repeated.index(windows.len())].clone());
            let (mut one, mut two) = (merged(&windows), merged(&other));
            // When it was last touched depends on which of two equal windows came first.
            (one.updated_at, two.updated_at) = (Micros(0), Micros(0));
            (one.created_at, two.created_at) = (Micros(0), Micros(0));
            prop_assert_eq!(one, two);
        }
    }
}
