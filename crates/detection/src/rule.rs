//! Rules as the rest of the crate knows them, whatever engine compiled them.

use std::fmt;

use crate::engine::Matcher;
use crate::view::FieldId;

/// Longest timespan of a correlation, seconds: what `signals` is kept for, so that a window can be rebuilt from it.
pub const MAX_TIMESPAN: u64 = 7 * 24 * 3600;

/// Largest threshold of a correlation: a window's state is of this size.
pub const MAX_THRESHOLD: u64 = 100_000;

/// Most rules of a `temporal` or `temporal_ordered`.
pub const MAX_RULES: usize = 64;

/// What a rule says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Its `id`, else its `name`.
    pub id: String,
    /// Its `name`, by which correlations may refer to it.
    pub name: Option<String>,
    /// First 16 hexadecimal digits of the SHA-256 of its document.
    pub hash: String,
    /// One line for a person.
    pub title: String,
    /// A paragraph for a person.
    pub description: String,
    /// Its author, kept because a rule's licence may ask for it.
    pub author: Option<String>,
    /// OCSF severity of its level: informational 1 … critical 5; medium where it has none.
    pub severity_id: i32,
    /// ATT&CK tags and the like.
    pub tags: Vec<String>,
    /// Where to read more.
    pub references: Vec<String>,
    /// Known harmless causes.
    pub false_positives: Vec<String>,
}

impl Meta {
    /// Whether `reference` means this rule: by its id, or by its name.
    pub fn is_called(&self, reference: &str) -> bool {
        self.id == reference || self.name.as_deref() == Some(reference)
    }
}

/// Severity from which a rule raises an alert of its own: level high.
pub(crate) const ALERT_SEVERITY: i32 = 4;

/// What a rule applies to; an absent part applies to anything. Lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct LogSource {
    /// `linux`, `windows` …
    pub product: Option<String>,
    /// `webserver`, `process_creation` …
    pub category: Option<String>,
    /// `sshd`, `security` …
    pub service: Option<String>,
}

/// A compiled detection rule.
pub struct Detection {
    /// What it says about itself.
    pub meta: Meta,
    /// What it applies to.
    pub logsource: LogSource,
    /// Whether it raises an alert of its own, beside what it feeds.
    pub alerts: bool,
    /// Correlations it feeds.
    pub(crate) feeds: Vec<Feed>,
    /// Filters it is subject to, by index among the rules' filters.
    pub(crate) filters: Vec<usize>,
    pub(crate) matcher: Box<dyn Matcher>,
}

impl fmt::Debug for Detection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detection").field("meta", &self.meta).field("alerts", &self.alerts).finish()
    }
}

/// A compiled filter: what its rules match counts only where it holds.
pub struct Filter {
    /// Its `id`, if it has one.
    pub id: Option<String>,
    /// One line for a person.
    pub title: String,
    /// Rules it is for.
    pub(crate) targets: Targets,
    /// Rules of other log sources are not subject to it.
    pub logsource: LogSource,
    /// Orgs it is for; empty for all.
    pub orgs: Vec<String>,
    pub(crate) matcher: Box<dyn Matcher>,
}

/// Rules that a filter is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Targets {
    /// All of its log source.
    Any,
    /// These, by id or name.
    Rules(Vec<String>),
}

impl Filter {
    /// Whether it is for events of the org.
    pub fn is_for(&self, org: &str) -> bool {
        self.orgs.is_empty() || self.orgs.iter().any(|named| named == org)
    }

    /// What tells it apart.
    pub(crate) fn identity(&self) -> &str {
        self.id.as_deref().unwrap_or(&self.title)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter").field("title", &self.title).field("targets", &self.targets).finish()
    }
}

impl LogSource {
    /// Whether `other` is of this log source: what this one states, it states as well.
    pub(crate) fn holds(&self, other: &Self) -> bool {
        let same = |stated: &Option<String>, other: &Option<String>| stated.is_none() || stated == other;
        same(&self.product, &other.product)
            && same(&self.category, &other.category)
            && same(&self.service, &other.service)
    }
}

/// A correlation fed by a detection, with the fields of that detection's events that it asks for.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    /// Index in [`Rules::correlations`](crate::Rules::correlations).
    pub correlation: usize,
    /// Where the chain that it is counted for ends; the same where it is counted for itself.
    pub root: usize,
    /// In the correlation's order.
    pub group_by: Vec<FieldId>,
    /// Which of the group's values are those of the root, in the root's order.
    pub root_group: Vec<usize>,
    /// What a `value_count` counts.
    pub value: Vec<FieldId>,
}

/// What a correlation counts within its timespan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `event_count`: matches of its rules.
    EventCount,
    /// `value_count`: distinct values of these fields, taken together.
    ValueCount(Vec<String>),
    /// `temporal`: distinct rules.
    Temporal,
    /// `temporal_ordered`: its rules, each not before the one before it.
    TemporalOrdered,
}

/// Which counts a correlation asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// The least count that can satisfy it, 1 or more.
    pub least: i64,
    /// The greatest, if any.
    pub most: Option<i64>,
    /// One in between that does not.
    pub except: Option<i64>,
}

impl Condition {
    /// Satisfied from this count on.
    pub const fn at_least(least: i64) -> Self {
        Self { least, most: None, except: None }
    }

    /// Whether it can be satisfied and then not: it is decided only when no event can come any more.
    pub const fn waits(&self) -> bool {
        self.most.is_some() || self.except.is_some()
    }

    /// Whether this count satisfies it.
    pub fn accepts(&self, count: i64) -> bool {
        count >= self.least && self.most.is_none_or(|most| count <= most) && self.except != Some(count)
    }

    /// From this count on, its answer is the same for all.
    pub fn settled_from(&self) -> i64 {
        let above = |count: Option<i64>| count.map_or(self.least, |count| count.saturating_add(1));
        self.least.max(above(self.most)).max(above(self.except))
    }
}

/// Enough matches of rules with the same group values within a timespan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Correlation {
    /// What it says about itself.
    pub meta: Meta,
    /// What it counts.
    pub kind: Kind,
    /// Ids or names of the rules that feed it: detections, or correlations.
    pub rules: Vec<String>,
    /// Names of the group's values.
    pub group_by: Vec<String>,
    /// (alias, rule, field): in events of that rule, the value called alias stands in that field.
    pub aliases: Vec<(String, String, String)>,
    /// Width of the window, microseconds.
    pub timespan: i64,
    /// Counts that fire it.
    pub condition: Condition,
    /// Its rules raise alerts of their own all the same.
    pub generate: bool,
}

impl Correlation {
    /// The name that `name` has in what the rule `reference` matched.
    pub(crate) fn name_in<'a>(&'a self, name: &'a str, reference: &str) -> &'a str {
        let alias = self.aliases.iter().find(|(alias, of, _)| alias == name && of == reference);
        alias.map_or(name, |(.., field)| field.as_str())
    }

    /// What it counts, as Sigma calls it.
    pub fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::EventCount => "event_count",
            Kind::ValueCount(_) => "value_count",
            Kind::Temporal => "temporal",
            Kind::TemporalOrdered => "temporal_ordered",
        }
    }
}
