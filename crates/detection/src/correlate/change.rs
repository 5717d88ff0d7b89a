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

/// What an incident says beside its events.
pub(super) struct About<'a> {
    pub org: &'a str,
    pub meta: &'a Meta,
    /// As it is for the org.
    pub severity_id: i32,
    pub group_key: Vec<Pair<'a>>,
    /// Ids of the rules that its correlation tells apart, if it does.
    pub rules: Option<&'a [String]>,
}

/// The whole state of an incident. Its change id is derived from its content: the same state published twice is the same
/// change.
pub(super) fn whole_state<'a>(
    episode: &'a Episode,
    incident_id: Uuid,
    about: About<'a>,
    now: Micros,
) -> IncidentChange<'a> {
    let About { org, meta, severity_id, group_key, rules } = about;
    let (evidence, evidence_truncated) = match rules {
        Some(rules) => by_rule(episode, rules),
        None => evidence(episode),
    };
    let texts = |list: &'a [String]| list.iter().map(|text| Cow::Borrowed(text.as_str())).collect();
    let window = Window {
        rule_id: Cow::Borrowed(&meta.id),
        rule_hash: Cow::Borrowed(&meta.hash),
        title: Cow::Borrowed(&meta.title),
        description: Cow::Borrowed(&meta.description),
        severity_id,
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
    let middle = EVIDENCE_EACH_END.min(events.len())..events.len().saturating_sub(EVIDENCE_EACH_END);
    let others = episode.events > kept.len() as u64 || middle.start < middle.end;
    if middle.start < middle.end {
        events.drain(middle);
    }
    (events.into_iter().map(|mark| reference(mark, None)).collect(), others)
}

/// The same, and the first event of each rule; an event that several matched is there for each of them.
fn by_rule<'a>(episode: &Episode, rules: &'a [String]) -> (Vec<EventRef<'a>>, bool) {
    let rule =
        |mark: &Mark| usize::try_from(mark.value).ok().and_then(|at| rules.get(at)).map(String::as_str);
    let order = |mark: &&Mark| (mark.time, mark.place, rule(mark));
    let mut events: Vec<&Mark> =
        episode.head().iter().chain(episode.tail()).chain(episode.firsts()).collect();
    events.sort_unstable_by_key(order);
    events.dedup();
    let last = events.len().saturating_sub(EVIDENCE_EACH_END);
    let mut seen = BTreeSet::new();
    let mut at = 0;
    events.retain(|mark| {
        let end = at < EVIDENCE_EACH_END || at >= last;
        at += 1;
        seen.insert(mark.value) || end
    });
    let others = episode.events > events.len() as u64;
    (events.into_iter().map(|mark| reference(mark, rule(mark))).collect(), others)
}

fn reference<'a>(mark: &Mark, rule: Option<&'a str>) -> EventRef<'a> {
    EventRef {
        stream: Cow::Borrowed(mark.place.stream.name()),
        partition: mark.place.partition,
        offset: mark.place.offset,
        index: mark.place.index,
        time: Micros(mark.time),
        rule: rule.map(Cow::Borrowed),
    }
}
