//! Rules as the rest of the crate knows them, whatever engine compiled them.

use std::fmt;

use crate::engine::Matcher;
use crate::view::FieldId;

/// Longest timespan of a correlation, seconds: what `signals` is kept for, so that a window can be rebuilt from it.
pub const MAX_TIMESPAN: u64 = 7 * 24 * 3600;

/// Largest threshold of a correlation: a window's state is of this size.
pub const MAX_THRESHOLD: u64 = 100_000;

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
    pub(crate) matcher: Box<dyn Matcher>,
}

impl fmt::Debug for Detection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detection").field("meta", &self.meta).field("alerts", &self.alerts).finish()
    }
}

/// A correlation fed by a detection, with the fields that hold the group's values in that detection's events.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    /// Index in [`Rules::correlations`](crate::Rules::correlations).
    pub correlation: usize,
    /// In the correlation's order.
    pub group_by: Vec<FieldId>,
}

/// An `event_count` correlation: enough matches of its rules with the same group values within a timespan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Correlation {
    /// What it says about itself.
    pub meta: Meta,
    /// Ids or names of the rules that feed it.
    pub rules: Vec<String>,
    /// Names of the group's values.
    pub group_by: Vec<String>,
    /// (alias, rule, field): in events of that rule, the group value called alias stands in that field.
    pub aliases: Vec<(String, String, String)>,
    /// Width of the window, microseconds.
    pub timespan: i64,
    /// Occurrences that fire it.
    pub threshold: i64,
    /// Its rules raise alerts of their own all the same.
    pub generate: bool,
}
