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
        // Entries without a source type are for the sources that have none of their own.
        let by_class = |source: Option<&str>| {
            let of_source: Vec<&SourceEntry> =
                entries.iter().filter(|entry| entry.source_type.as_deref() == source).collect();
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rstest::rstest;
    use schemas::{Event, Micros};

    use crate::{Subject, Taxonomy, load_documents};

    const RULES: [(&str, &str); 7] = [
        ("1-any", "{}"),
        ("2-ssh", "{product: linux, service: sshd}"),
        ("3-process", "{category: process_creation, product: windows}"),
        ("4-security", "{product: windows, service: security}"),
        ("5-windows", "{product: windows}"),
        ("6-web", "{category: webserver}"),
        ("7-login", "{category: authentication}"),
    ];

    fn candidates(source_type: &str, class_uid: i32, attributes: &str) -> Vec<String> {
        let rule = |(id, logsource): (&str, &str)| {
            format!(
                "title: x\nid: {id}\nlogsource: {logsource}\ndetection: {{s: {{a: b}}, condition: s}}\n---\n"
            )
        };
        let text: String = RULES.into_iter().map(rule).collect();
        let loaded = load_documents(Path::new("x.yml"), &text, &Taxonomy::shipped().unwrap());
        assert_eq!(loaded.defects, []);
        let event = Event {
            index: 0,
            time: Micros(0),
            received_at: Micros(0),
            org: "demo".into(),
            class_uid,
            activity_id: 0,
            severity_id: 0,
            host: None,
            user: None,
            src_ip: None,
            dst_ip: None,
            src_port: None,
            dst_port: None,
            source_type: source_type.into(),
            message: None,
            repeat: 1,
            labels: vec![],
            attributes: Some(attributes.into()),
            flags: 0,
            event_uid: None,
        };
        let view = loaded.rules.view(Subject::Event(&event));
        let found = loaded.rules.candidates(&view);
        found.iter().map(|&index| loaded.rules.detections()[index as usize].meta.id.clone()).collect()
    }

    const SYSMON: &str = "Microsoft-Windows-Sysmon/Operational";

    #[rstest]
    #[case("json", 4001, "", &["1-any"])]
    #[case("billing", 0, "", &["1-any"])]
    #[case("json", 4002, "", &["1-any", "6-web"])]
    #[case("json", 3002, "", &["1-any", "7-login"])]
    #[case("json", 1007, "", &["1-any", "3-process"])]
    #[case("sshd", 3002, "", &["1-any", "2-ssh", "7-login"])]
    #[case("web_access", 4002, "", &["1-any", "6-web"])]
    #[case("windows", 1007, &format!(r#"{{"Channel":"{SYSMON}","EventID":1}}"#), &["1-any", "3-process", "5-windows"])]
    #[case("windows", 1007, &format!(r#"{{"Channel":"{SYSMON}","EventID":"1"}}"#), &["1-any", "3-process", "5-windows"])]
    #[case("windows", 1007, &format!(r#"{{"Channel":"{SYSMON}","EventID":5}}"#), &["1-any", "5-windows"])]
    #[case("windows", 1007, r#"{"Channel":"SECURITY","EventID":4688}"#, &["1-any", "3-process", "4-security", "5-windows"])]
    #[case("windows", 3002, r#"{"Channel":"Security","EventID":4624}"#, &["1-any", "4-security", "5-windows", "7-login"])]
    #[case("windows", 0, r#"{"Channel":"Some-Driver","EventID":1}"#, &["1-any", "5-windows"])]
    #[case("windows", 0, "{}", &["1-any", "5-windows"])]
    fn an_event_meets_the_rules_of_its_log_source_and_no_others(
        #[case] source_type: &str,
        #[case] class_uid: i32,
        #[case] attributes: &str,
        #[case] expected: &[&str],
    ) {
        assert_eq!(candidates(source_type, class_uid, attributes), expected);
    }
}
