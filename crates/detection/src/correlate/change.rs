//! From an episode to the incident change that publishes it.

use std::borrow::Cow;
use std::collections::BTreeSet;

use schemas::avro::Field;
use schemas::{EventRef, IncidentChange, Micros, Pair, Window};
use uuid::Uuid;

use super::EVIDENCE_EACH_END;
use super::episode::Episode;
use super::mark::Mark;
use crate::rule::Meta;

/// Who makes these changes.
const ACTOR: &str = "correlate";

/// The whole state of an incident. Its change id is derived from its content: the same state published twice is the
/// same change.
pub(super) fn whole_state<'a>(
    episode: &'a Episode,
    incident_id: Uuid,
    org: &'a str,
    meta: &'a Meta,
    group_key: Vec<Pair<'a>>,
    now: Micros,
) -> IncidentChange<'a> {
    let (evidence, evidence_truncated) = evidence(episode);
    let texts = |list: &'a [String]| list.iter().map(|text| Cow::Borrowed(text.as_str())).collect();
    let window = Window {
        rule_id: Cow::Borrowed(&meta.id),
        rule_hash: Cow::Borrowed(&meta.hash),
        title: Cow::Borrowed(&meta.title),
        description: Cow::Borrowed(&meta.description),
        severity_id: meta.severity_id,
        tags: texts(&meta.tags),
        references: texts(&meta.references),
        false_positives: texts(&meta.false_positives),
        group_key,
        entities: episode
            .entities
            .iter()
            .map(|(name, value)| Pair { name: Cow::Borrowed(name), value: Cow::Borrowed(value) })
            .collect(),
        first_time: Micros(episode.start()),
        last_time: Micros(episode.end()),
        count: episode.count,
        evidence,
        evidence_truncated,
        flags: episode.flags,
    };
    let mut content = Vec::with_capacity(1024);
    window.put(&mut content);
    IncidentChange {
        org: Cow::Borrowed(org),
        incident_id,
        change_id: Uuid::new_v5(&incident_id, &content),
        at: now,
        actor: Cow::Borrowed(ACTOR),
        window: Some(window),
        edit: None,
        merged_into: None,
    }
}

/// The incident called `from` goes on as `to`.
pub(super) fn merged(from: Uuid, to: Uuid, org: &str, now: Micros) -> IncidentChange<'_> {
    IncidentChange {
        org: Cow::Borrowed(org),
        incident_id: from,
        change_id: Uuid::new_v5(&from, to.as_bytes()),
        at: now,
        actor: Cow::Borrowed(ACTOR),
        window: None,
        edit: None,
        merged_into: Some(to),
    }
}

/// The first and the last [`EVIDENCE_EACH_END`] events, oldest first, and whether there are others.
fn evidence(episode: &Episode) -> (Vec<EventRef<'static>>, bool) {
    let kept: BTreeSet<&Mark> = episode.head().iter().chain(episode.tail()).collect();
    let mut places = BTreeSet::new();
    let mut events: Vec<&Mark> = kept.iter().copied().filter(|mark| places.insert(mark.place)).collect();
    let others = episode.events > kept.len() as u64 || events.len() > 2 * EVIDENCE_EACH_END;
    if others {
        // An event that several rules matched stands between the two ends at most once more.
        let last = events.len().saturating_sub(EVIDENCE_EACH_END).max(EVIDENCE_EACH_END.min(events.len()));
        events.drain(EVIDENCE_EACH_END.min(events.len())..last);
    }
    let references = events.iter().map(|mark| EventRef {
        stream: Cow::Borrowed(mark.place.stream.name()),
        partition: mark.place.partition,
        offset: mark.place.offset,
        index: mark.place.index,
        time: Micros(mark.time),
    });
    (references.collect(), others)
}
