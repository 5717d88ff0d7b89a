//! From an event to the rules whose log source can apply to it, without looking at any other.

use std::collections::BTreeSet;

use ahash::AHashMap;

use crate::rule::LogSource;
use crate::taxonomy::{SourceEntry, Taxonomy};
use crate::value::Value;
use crate::view::{FieldId, Fields, View};

/// Indexes of candidate rules, ascending.
pub(crate) type Candidates = Box<[u32]>;

/// For every source type and class in the taxonomy, and for all others, the rules that can apply.
#[derive(Debug)]
pub(crate) struct Routes {
    by_source: AHashMap<Box<str>, ByClass>,
    other: ByClass,
    channel: FieldId,
    event_id: FieldId,
}

#[derive(Debug)]
struct ByClass {
    classes: Vec<(i32, Target)>,
    other: Target,
}

#[derive(Debug)]
enum Target {
    Rules(Candidates),
    /// Windows: the channel and event id decide.
    Channels {
        channels: AHashMap<Box<str>, ByEventId>,
        other: Candidates,
    },
}

#[derive(Debug)]
struct ByEventId {
    ids: AHashMap<i64, Candidates>,
    other: Candidates,
}

impl Routes {
    /// Routes for rules of these log sources, by index.
    pub(crate) fn new(logsources: &[LogSource], taxonomy: &Taxonomy, fields: &mut Fields) -> Self {
        let entries = &taxonomy.sources;
        let classes: BTreeSet<i32> = entries.iter().filter_map(|entry| entry.class_uid).collect();
        let by_class = |source: Option<&str>| {
            let of_source: Vec<&SourceEntry> = entries
                .iter()
                .filter(|entry| entry.source_type.is_none() || entry.source_type.as_deref() == source)
                .collect();
            let target = |class: Option<i32>| {
                let fitting: Vec<&SourceEntry> = of_source
                    .iter()
                    .copied()
                    .filter(|entry| entry.class_uid.is_none() || entry.class_uid == class)
                    .collect();
                Target::new(&fitting, logsources)
            };
            ByClass {
                classes: classes.iter().map(|&class| (class, target(Some(class)))).collect(),
                other: target(None),
            }
        };
        let names: BTreeSet<&str> = entries.iter().filter_map(|entry| entry.source_type.as_deref()).collect();
        Self {
            by_source: names.iter().map(|&name| (Box::from(name), by_class(Some(name)))).collect(),
            other: by_class(None),
            channel: fields.intern("Channel", taxonomy),
            event_id: fields.intern("EventID", taxonomy),
        }
    }

    /// The rules that can apply to `event`, ascending.
    pub(crate) fn candidates<'r>(&'r self, event: &View<'_>) -> &'r [u32] {
        let subject = event.subject();
        let by_class = self.by_source.get(subject.source_type()).unwrap_or(&self.other);
        let class = subject.class_uid();
        let target = by_class
            .classes
            .iter()
            .find(|(uid, _)| *uid == class)
            .map_or(&by_class.other, |(_, target)| target);
        match target {
            Target::Rules(rules) => rules,
            Target::Channels { channels, other } => {
                let Some(Value::Str(channel)) = event.get(self.channel) else { return other };
                let found = if channel.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    channels.get(channel.to_ascii_lowercase().as_str())
                } else {
                    channels.get(channel.as_ref())
                };
                let Some(by_id) = found else { return other };
                if by_id.ids.is_empty() {
                    return &by_id.other;
                }
                let id = match event.get(self.event_id) {
                    Some(Value::Int(id)) => Some(id),
                    Some(Value::Str(text)) => text.parse().ok(),
                    _ => None,
                };
                id.and_then(|id| by_id.ids.get(&id)).unwrap_or(&by_id.other)
            }
        }
    }
}

fn admitted<'e>(entries: impl Iterator<Item = &'e SourceEntry>, logsources: &[LogSource]) -> Candidates {
    let entries: Vec<&SourceEntry> = entries.collect();
    let applies = |source: &LogSource| {
        *source == LogSource::default() || entries.iter().any(|entry| entry.admits(source))
    };
    (0u32..).zip(logsources).filter(|(_, source)| applies(source)).map(|(index, _)| index).collect()
}

impl Target {
    fn new(entries: &[&SourceEntry], logsources: &[LogSource]) -> Self {
        let everywhere = || entries.iter().copied().filter(|entry| entry.channel.is_none());
        let other = admitted(everywhere(), logsources);
        let names: BTreeSet<String> = entries
            .iter()
            .filter_map(|entry| entry.channel.as_ref())
            .map(|name| name.to_lowercase())
            .collect();
        let mut channels = AHashMap::new();
        for name in names {
            let here: Vec<&SourceEntry> = entries
                .iter()
                .copied()
                .filter(|entry| entry.channel.as_ref().is_none_or(|channel| channel.to_lowercase() == name))
                .collect();
            let with = |id: Option<i64>| {
                let fits = |entry: &&SourceEntry| {
                    entry.event_ids.is_empty() || id.is_some_and(|id| entry.event_ids.contains(&id))
                };
                admitted(here.iter().copied().filter(fits), logsources)
            };
            let general = with(None);
            let ids: BTreeSet<i64> = here.iter().flat_map(|entry| entry.event_ids.iter().copied()).collect();
            let ids: AHashMap<i64, Candidates> = ids
                .into_iter()
                .map(|id| (id, with(Some(id))))
                .filter(|(_, rules)| *rules != general)
                .collect();
            // A channel without rules of its own costs no look at the event's attributes.
            if !ids.is_empty() || general != other {
                channels.insert(Box::from(name), ByEventId { ids, other: general });
            }
        }
        if channels.is_empty() { Self::Rules(other) } else { Self::Channels { channels, other } }
    }
}
