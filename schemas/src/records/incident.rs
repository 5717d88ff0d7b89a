//! Incident changes: from correlate and from analysts.

use std::borrow::Cow;

use uuid::Uuid;

use super::Pair;
use crate::{Micros, record};

/// Evidence an incident names: so many of its first events and so many of its last, and the first of each rule where its rule
/// asks for several. Whoever makes windows and whoever
/// unites them must cut alike, or what is left depends on how often a window was published on its way.
pub const EVIDENCE_EACH_END: usize = 50;

/// Entities an incident names; of more, the first in order of name and value.
pub const MAX_ENTITIES: usize = 100;

record! {
    /// A change to one incident. From correlate: `window` or `merged_into`. From an analyst: `edit`, and `window`
    /// too when the incident is created by hand.
    pub struct IncidentChange<'a> {
        /// The org it belongs to.
        pub org: Cow<'a, str>,
        /// The incident; see [`incident_id`](crate::incident_id).
        pub incident_id: Uuid,
        /// This change, the key of its audit row.
        pub change_id: Uuid,
        /// When it was made, by its maker's clock.
        pub at: Micros,
        /// `correlate`, or the analyst's token label.
        pub actor: Cow<'a, str>,
        /// Whole window state.
        pub window: Option<Window<'a>>,
        /// What an analyst asked for.
        pub edit: Option<Edit<'a>>,
        /// This incident goes on as that one.
        pub merged_into: Option<Uuid>,
    }
}

record! {
    /// The whole state of an incident's window; two merge by min first, max last, max count, evidence united
    /// and cut.
    pub struct Window<'a> {
        /// Rule or correlation that fired; `manual` when created by hand.
        pub rule_id: Cow<'a, str>,
        /// Hash of its content, lower-case hex; empty when created by hand.
        pub rule_hash: Cow<'a, str>,
        /// One line for a person.
        pub title: Cow<'a, str>,
        /// A paragraph for a person.
        pub description: Cow<'a, str>,
        /// OCSF severity.
        pub severity_id: i32,
        /// ATT&CK tags and the like, as the rule has them.
        pub tags: Vec<Cow<'a, str>>,
        /// Where to read more.
        pub references: Vec<Cow<'a, str>>,
        /// Known harmless causes.
        pub false_positives: Vec<Cow<'a, str>>,
        /// Group-by fields and values.
        pub group_key: Vec<Pair<'a>>,
        /// `user`, `host`, `ip` … seen in the evidence.
        pub entities: Vec<Pair<'a>>,
        /// Earliest evidence.
        pub first_time: Micros,
        /// Latest evidence.
        pub last_time: Micros,
        /// Occurrences in the window.
        pub count: i64,
        /// Events it rests on, oldest first.
        pub evidence: Vec<EventRef<'a>>,
        /// More were seen than `evidence` holds.
        pub evidence_truncated: bool,
        /// Union of the evidence's flags.
        pub flags: i32,
    }
}

record! {
    /// Identity of an event or finding, with its time to find it by.
    pub struct EventRef<'a> {
        /// `events` or `findings`.
        pub stream: Cow<'a, str>,
        /// Raw partition.
        pub partition: i32,
        /// Raw offset.
        pub offset: i64,
        /// Ordinal in the raw record.
        pub index: i32,
        /// The event's time.
        pub time: Micros,
        /// The rule that matched it, where the incident's rule asks for several.
        pub rule: Option<Cow<'a, str>>,
    }
}

record! {
    /// What an analyst asked for; absent fields stay as they are.
    pub struct Edit<'a> {
        /// `open`, `acknowledged`, `resolved` or `false_positive`.
        pub status: Option<Cow<'a, str>>,
        /// Who works on it; empty for nobody.
        pub assignee: Option<Cow<'a, str>>,
        /// A comment.
        pub note: Option<Cow<'a, str>>,
        /// Apply only if the incident is at this version.
        pub if_version: Option<i32>,
    }
}
