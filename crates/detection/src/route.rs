//! From an event to the log sources whose rules can apply to it, without looking at any other.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};

use crate::rule::LogSource;
use crate::taxonomy::{SourceEntry, Taxonomy};
use crate::value::Value;
use crate::view::{FieldId, Fields, View};

/// Numbers of log sources, ascending.
pub(crate) type Candidates = Box<[u32]>;

/// For every source type and class in the taxonomy, and for all others, the log sources whose rules can apply.
#[derive(Debug)]
pub(crate) struct Routes {
    /// Those of rules that name none: they apply to every event.
    any: Candidates,
    by_source: HashMap<Box<str>, Source>,
    other: Source,
    channel: FieldId,
    provider: FieldId,
    event_id: FieldId,
}

/// What events of a source type are of: all of them, and beside that those that have certain fields.
#[derive(Debug)]
struct Source {
    plain: ByClass,
    shapes: Vec<(Vec<Has>, ByClass)>,
}

/// A field that an event has.
#[derive(Debug)]
struct Has {
    field: FieldId,
    value: Option<Box<str>>,
}

#[derive(Debug, PartialEq, Eq)]
struct ByClass {
    classes: Vec<(i32, Target)>,
    other: Target,
}

#[derive(Debug, PartialEq, Eq)]
enum Target {
    Sources(Candidates),
    /// Windows: the channel and event id decide.
    Channels {
        /// By name in lower case, and as the taxonomy spells it, which saves most look-ups a copy.
        channels: HashMap<Box<str>, Arc<ByEventId>>,
        other: Candidates,
    },
}

#[derive(Debug, PartialEq, Eq)]
struct ByEventId {
    ids: HashMap<i64, Candidates>,
    other: Candidates,
}

impl Has {
    fn new(text: &str, fields: &mut Fields, taxonomy: &Taxonomy) -> Self {
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        Self { field: fields.intern(name, taxonomy), value: value.map(Box::from) }
    }

    fn holds(&self, event: &View<'_>) -> bool {
        match (event.get(self.field), &self.value) {
            (None | Some(Value::Null), _) => false,
            (Some(_), None) => true,
            (Some(found), Some(wanted)) => found.text().is_some_and(|text| text.as_ref() == wanted.as_ref()),
        }
    }
}

impl Source {
    fn new(
        of_source: &[&SourceEntry],
        classes: &BTreeSet<i32>,
        logsources: &[LogSource],
        taxonomy: &Taxonomy,
        fields: &mut Fields,
    ) -> Self {
        let by_class = |has: &[String]| {
            let target = |class: Option<i32>| {
                let fits = |entry: &&SourceEntry| {
                    entry.has == has && (entry.class_uid.is_none() || entry.class_uid == class)
                };
                let fitting: Vec<&SourceEntry> = of_source.iter().copied().filter(fits).collect();
                Target::new(&fitting, logsources)
            };
            ByClass {
                classes: classes.iter().map(|&class| (class, target(Some(class)))).collect(),
                other: target(None),
            }
        };
        let mut seen: Vec<&[String]> = Vec::new();
        let mut shapes = Vec::new();
        for entry in of_source.iter().filter(|entry| !entry.has.is_empty()) {
            if seen.contains(&entry.has.as_slice()) {
                continue;
            }
            seen.push(&entry.has);
            let rules = by_class(&entry.has);
            // A shape without rules of its own costs no look at the event's attributes.
            if !rules.is_empty() {
                let has = entry.has.iter().map(|text| Has::new(text, fields, taxonomy)).collect();
                shapes.push((has, rules));
            }
        }
        Self { plain: by_class(&[]), shapes }
    }
}

impl ByClass {
    fn is_empty(&self) -> bool {
        let targets = self.classes.iter().map(|(_, target)| target);
        targets.chain([&self.other]).all(|target| matches!(target, Target::Sources(none) if none.is_empty()))
    }
}

impl Routes {
    /// Routes for rules of these log sources, each of which stands here once.
    pub(crate) fn new(logsources: &[LogSource], taxonomy: &Taxonomy, fields: &mut Fields) -> Self {
        let entries = &taxonomy.sources;
        let classes: BTreeSet<i32> = entries.iter().filter_map(|entry| entry.class_uid).collect();
        let mut source =
            |of_source: Vec<&SourceEntry>| Source::new(&of_source, &classes, logsources, taxonomy, fields);
        let names: BTreeSet<&String> =
            entries.iter().flat_map(|entry| entry.source_type.as_slice()).collect();
        let by_source = names
            .into_iter()
            .map(|name| {
                let named = entries.iter().filter(|entry| entry.source_type.as_slice().contains(name));
                (Box::from(name.as_str()), source(named.collect()))
            })
            .collect();
        // Entries without a source type are for the sources that have none of their own.
        let unnamed = entries.iter().filter(|entry| entry.source_type.as_slice().is_empty());
        let numbered = (0u32..).zip(logsources);
        let any = numbered.filter(|(_, source)| **source == LogSource::default());
        Self {
            any: any.map(|(number, _)| number).collect(),
            by_source,
            other: source(unnamed.collect()),
            channel: fields.intern("Channel", taxonomy),
            provider: fields.intern("Provider_Name", taxonomy),
            event_id: fields.intern("EventID", taxonomy),
        }
    }

    /// The log sources whose rules can apply to `event`; one can be there twice where the event has the fields of several
    /// entries.
    pub(crate) fn candidates(&self, event: &View<'_>) -> impl Iterator<Item = u32> {
        let source = self.by_source.get(event.subject().source_type()).unwrap_or(&self.other);
        let plain = self.sources(&source.plain, event);
        let shapes = source.shapes.iter().filter(|(has, _)| has.iter().all(|has| has.holds(event)));
        let more = shapes.flat_map(|(_, by_class)| self.sources(by_class, event));
        let more = more.filter(|number| plain.binary_search(number).is_err());
        self.any.iter().chain(plain).chain(more).copied()
    }

    /// Ascending.
    fn sources<'r>(&self, by_class: &'r ByClass, event: &View<'_>) -> &'r [u32] {
        let class = event.subject().class_uid();
        let of_class = by_class.classes.iter().find(|(uid, _)| *uid == class);
        let target = of_class.map_or(&by_class.other, |(_, target)| target);
        match target {
            Target::Sources(sources) => sources,
            Target::Channels { channels, other } => {
                let name = event.get(self.channel).or_else(|| event.get(self.provider));
                let Some(Value::Str(channel)) = name else { return other };
                let lower = || channels.get(channel.to_ascii_lowercase().as_str());
                let Some(by_id) = channels.get(channel.as_ref()).or_else(lower) else { return other };
                if by_id.ids.is_empty() {
                    return &by_id.other;
                }
                let id = event.get(self.event_id).and_then(|value| event_id(&value));
                id.and_then(|id| by_id.ids.get(&id)).unwrap_or(&by_id.other)
            }
        }
    }
}

/// The log sources that an event is of, for a person: `product windows, category process_creation`. `event` is a view for
/// rules that are routed by the same taxonomy.
pub fn log_sources(taxonomy: &Taxonomy, event: &View<'_>) -> Vec<String> {
    let subject = event.subject();
    let of = |entry: &SourceEntry, name: &str| entry.source_type.as_slice().iter().any(|own| own == name);
    let named = taxonomy.sources.iter().any(|entry| of(entry, subject.source_type()));
    let channel = match event.by_name("Channel").or_else(|| event.by_name("Provider_Name")) {
        Some(Value::Str(channel)) => channel.to_lowercase(),
        _ => String::new(),
    };
    let id = event.by_name("EventID").and_then(|value| event_id(&value));
    let holds = |text: &String| {
        let (name, wanted) =
            text.split_once('=').map_or((text.as_str(), None), |(name, value)| (name, Some(value)));
        let found = event.by_name(name).filter(|value| *value != Value::Null);
        found.is_some_and(|found| wanted.is_none_or(|wanted| found.text().as_deref() == Some(wanted)))
    };
    let of_source = |entry: &&SourceEntry| match named {
        true => of(entry, subject.source_type()),
        false => entry.source_type.as_slice().is_empty(),
    };
    let fits = |entry: &&SourceEntry| {
        let channels = entry.channel.as_slice();
        entry.has.iter().all(holds)
            && entry.class_uid.is_none_or(|class| class == subject.class_uid())
            && (channels.is_empty() || channels.iter().any(|name| name.to_lowercase() == channel))
            && (entry.event_ids.is_empty() || id.is_some_and(|id| entry.event_ids.contains(&id)))
    };
    taxonomy.sources.iter().filter(of_source).filter(fits).map(ToString::to_string).collect()
}

fn event_id(value: &Value<'_>) -> Option<i64> {
    match value {
        Value::Int(id) => Some(*id),
        Value::Str(text) => text.parse().ok(),
        _ => None,
    }
}

fn admitted<'e>(entries: impl Iterator<Item = &'e SourceEntry>, logsources: &[LogSource]) -> Candidates {
    let entries: Vec<&SourceEntry> = entries.collect();
    let applies = |source: &LogSource| entries.iter().any(|entry| entry.admits(source));
    (0u32..).zip(logsources).filter(|(_, source)| applies(source)).map(|(index, _)| index).collect()
}

impl Target {
    fn new(entries: &[&SourceEntry], logsources: &[LogSource]) -> Self {
        let everywhere = || entries.iter().copied().filter(|entry| entry.channel.as_slice().is_empty());
        let other = admitted(everywhere(), logsources);
        let names: BTreeSet<String> = entries
            .iter()
            .flat_map(|entry| entry.channel.as_slice())
            .map(|name| name.to_lowercase())
            .collect();
        let mut channels = HashMap::new();
        for name in names {
            let here: Vec<&SourceEntry> = entries
                .iter()
                .copied()
                .filter(|entry| {
                    let own = entry.channel.as_slice();
                    own.is_empty() || own.iter().any(|own| own.to_lowercase() == name)
                })
                .collect();
            let with = |id: Option<i64>| {
                let fits = |entry: &&SourceEntry| {
                    entry.event_ids.is_empty() || id.is_some_and(|id| entry.event_ids.contains(&id))
                };
                admitted(here.iter().copied().filter(fits), logsources)
            };
            let general = with(None);
            let ids: BTreeSet<i64> = here.iter().flat_map(|entry| entry.event_ids.iter().copied()).collect();
            let ids: HashMap<i64, Candidates> = ids
                .into_iter()
                .map(|id| (id, with(Some(id))))
                .filter(|(_, rules)| *rules != general)
                .collect();
            // A channel without rules of its own costs no look at the event's attributes.
            if !ids.is_empty() || general != other {
                let by_id = Arc::new(ByEventId { ids, other: general });
                let spelled = here.iter().flat_map(|entry| entry.channel.as_slice());
                for spelling in spelled.filter(|spelling| spelling.to_lowercase() == name) {
                    channels.insert(spelling.as_str().into(), by_id.clone());
                }
                channels.insert(Box::from(name), by_id);
            }
        }
        if channels.is_empty() { Self::Sources(other) } else { Self::Channels { channels, other } }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rstest::rstest;
    use schemas::Event;

    use crate::testing::plain_event;
    use crate::{Subject, Taxonomy, load_documents};

    const RULES: [(&str, &str); 12] = [
        ("1-any", "{}"),
        ("2-ssh", "{product: linux, service: sshd}"),
        ("3-process", "{category: process_creation, product: windows}"),
        ("4-security", "{product: windows, service: security}"),
        ("5-windows", "{product: windows}"),
        ("6-web", "{category: webserver}"),
        ("7-login", "{category: authentication}"),
        ("8-cloudtrail", "{product: aws, service: cloudtrail}"),
        ("9-zeek-dns", "{product: zeek, service: dns}"),
        ("a-dns", "{category: dns}"),
        ("b-defender", "{product: windows, service: windefend}"),
        ("c-clamav", "{product: linux, service: clamav}"),
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
            class_uid,
            source_type: source_type.into(),
            attributes: Some(attributes.into()),
            ..plain_event()
        };
        let view = loaded.rules.view(Subject::Event(&event));
        loaded.rules.routed_rules(&view).map(|rule| rule.meta.id.clone()).collect()
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
    #[case("windows", 0, r#"{"Provider_Name":"Microsoft-Windows-Sysmon","EventID":1}"#, &["1-any", "3-process", "5-windows"])]
    #[case("windows", 0, r#"{"Channel":"Microsoft-Windows-Windows Defender/Operational","EventID":1116}"#, &["1-any", "5-windows", "b-defender"])]
    #[case("json", 0, r#"{"eventSource":"s3.amazonaws.com","eventName":"GetObject","awsRegion":"eu-1"}"#, &["1-any", "8-cloudtrail"])]
    #[case("json", 0, r#"{"eventSource":"s3.amazonaws.com","eventName":"GetObject"}"#, &["1-any"])]
    #[case::of_two_shapes("json", 4002, r#"{"_path":"dns","eventSource":"s3.amazonaws.com","eventName":"GetObject","awsRegion":"eu-1"}"#,
        &["1-any", "6-web", "8-cloudtrail", "9-zeek-dns", "a-dns"])]
    #[case("cloudtrail", 0, "{}", &["1-any", "8-cloudtrail"])]
    #[case("json", 0, r#"{"_path":"dns","query":"x"}"#, &["1-any", "9-zeek-dns", "a-dns"])]
    #[case("json", 0, r#"{"_path":"http"}"#, &["1-any"])]
    #[case("syslog", 0, r#"{"app":"clamd"}"#, &["1-any", "c-clamav"])]
    #[case("syslog", 0, r#"{"app":"cupsd"}"#, &["1-any"])]
    fn an_event_meets_the_rules_of_its_log_source_and_no_others(
        #[case] source_type: &str,
        #[case] class_uid: i32,
        #[case] attributes: &str,
        #[case] expected: &[&str],
    ) {
        assert_eq!(candidates(source_type, class_uid, attributes), expected);
    }
}
