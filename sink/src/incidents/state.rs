//! An incident, as its row has it.

use std::cmp::Ordering;
use std::fmt;

use schemas::{EventRef, Micros, Pair};
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use crate::encode::quarantine::clean;
use crate::encode::time;

/// Evidence kept: the first half of this and the last half, by time; beside that the first of each rule.
pub const MAX_EVIDENCE: usize = 2 * schemas::EVIDENCE_EACH_END;

/// Where an incident is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nobody has looked at it.
    Open,
    /// Somebody has.
    Acknowledged,
    /// Dealt with, or gone on as another.
    Resolved,
    /// It was nothing.
    FalsePositive,
}

impl Status {
    /// All of them.
    pub const ALL: [Status; 4] =
        [Status::Open, Status::Acknowledged, Status::Resolved, Status::FalsePositive];

    /// Its name in the database and on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Open => "open",
            Status::Acknowledged => "acknowledged",
            Status::Resolved => "resolved",
            Status::FalsePositive => "false_positive",
        }
    }

    /// The status of that name.
    pub fn from_name(name: &str) -> Option<Status> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// Whether the incident is over.
    pub fn is_closed(self) -> bool {
        matches!(self, Status::Resolved | Status::FalsePositive)
    }

    /// Whether an analyst may go from this status to that: open → acknowledged → resolved or false_positive, with or
    /// without the step between, and back to open from anywhere.
    pub fn may_become(self, next: Status) -> bool {
        next == Status::Open || !self.is_closed() && next > self
    }
}

/// A field and its value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NameValue {
    /// `user`, `host`, `src_ip` …
    pub name: String,
    /// What it was.
    pub value: String,
}

impl From<&Pair<'_>> for NameValue {
    fn from(pair: &Pair<'_>) -> Self {
        Self { name: clean(&pair.name).into_owned(), value: clean(&pair.value).into_owned() }
    }
}

/// An event or finding that an incident rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// `events` or `findings`.
    pub stream: String,
    /// Raw partition.
    pub partition: i32,
    /// Raw offset.
    pub offset: i64,
    /// Ordinal in the raw record.
    pub index: i32,
    /// Its time, microseconds since 1970.
    pub time: i64,
    /// The rule that matched it, where the incident's rule asks for several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

impl Evidence {
    fn key(&self) -> (i64, &str, i32, i64, i32, Option<&str>) {
        (self.time, &self.stream, self.partition, self.offset, self.index, self.rule.as_deref())
    }
}

impl Ord for Evidence {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Evidence {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl From<&EventRef<'_>> for Evidence {
    fn from(event: &EventRef<'_>) -> Self {
        Self {
            stream: clean(&event.stream).into_owned(),
            partition: event.partition,
            offset: event.offset,
            index: event.index,
            time: event.time.0,
            rule: event.rule.as_deref().map(|rule| clean(rule).into_owned()),
        }
    }
}

/// A row of `incidents`. Serialised, it is what `sink_commit` takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the columns of the table, which says what they are")]
pub struct Incident {
    pub org: String,
    pub id: Uuid,
    pub rule_id: String,
    pub rule_hash: String,
    pub title: String,
    pub description: String,
    pub severity_id: i32,
    pub status: Status,
    pub assignee: Option<String>,
    pub tags: Vec<String>,
    pub reference_urls: Vec<String>,
    pub false_positives: Vec<String>,
    pub group_key: Vec<NameValue>,
    pub entities: Vec<NameValue>,
    #[serde(serialize_with = "as_text")]
    pub first_time: Micros,
    #[serde(serialize_with = "as_text")]
    pub last_time: Micros,
    pub event_count: i64,
    pub evidence: Vec<Evidence>,
    pub evidence_truncated: bool,
    pub flags: i32,
    pub reopened: bool,
    pub merged_into: Option<Uuid>,
    pub version: i32,
    #[serde(serialize_with = "as_text")]
    pub created_at: Micros,
    #[serde(serialize_with = "as_text")]
    pub updated_at: Micros,
}

fn as_text<S: Serializer>(time: &Micros, serializer: S) -> Result<S::Ok, S::Error> {
    // Beyond these years Postgres would not read the text.
    let years = Micros(time.0.clamp(0, 253_402_300_799_999_999));
    serializer.serialize_str(&time::to_text(years))
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
