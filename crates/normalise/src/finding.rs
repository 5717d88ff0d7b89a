//! Findings of scans, and the states of the scans themselves.

use std::borrow::Cow;

use schemas::{Finding, Micros, Reject, ScanActivity, flags};

use crate::attributes::Attributes;
use crate::input::{Input, settle};
use crate::json;
use crate::severity;
use crate::time;

/// What a raw record of `findings.raw` is.
#[derive(Debug, Clone, PartialEq)]
pub enum FindingRecord<'a> {
    /// A result of a scan.
    Finding(Finding<'a>),
    /// A state of a scan.
    Scan(ScanActivity<'a>),
}

/// Normalises one raw record of `findings.raw`.
///
/// # Errors
/// As a reject: `too_large`; `not_a_finding` for what is no JSON object or has neither an id, a scan, a title nor
/// a kind; `no_scan_id` and `unknown_scan_state` for a scan's state that says not of which scan, or which.
#[expect(clippy::result_large_err, reason = "what it returns otherwise is larger still")]
pub fn finding<'a>(input: &Input<'a>) -> Result<FindingRecord<'a>, Reject<'a>> {
    if let Some(reject) = input.too_large() {
        return Err(reject);
    }
    let record = match std::str::from_utf8(input.bytes) {
        Ok(line) => read(line, input),
        Err(_) => read(&String::from_utf8_lossy(input.bytes), input).map(|record| match record {
            FindingRecord::Finding(finding) => {
                let flags = finding.flags | flags::INVALID_UTF8;
                FindingRecord::Finding(Finding { flags, ..own_finding(finding, input) })
            }
            FindingRecord::Scan(scan) => FindingRecord::Scan(own_scan(scan, input)),
        }),
    };
    record.map_err(|(reason, detail)| input.reject(reason, detail))
}

/// A column of a finding or of a scan's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Time,
    Class,
    Activity,
    Severity,
    ScanId,
    ScanType,
    Uid,
    Kind,
    Title,
    Resource,
    Risk,
    Host,
    User,
    Message,
    Sequence,
    State,
    Progress,
    QueuePosition,
    DurationMs,
    DurationSeconds,
    /// `type` says the type of the scan, the kind of the finding, or that the record is a scan's state.
    Type,
}

const COLUMNS: usize = 21;

/// Names, columns and ranks: of several names for a column the lowest rank counts, of equal ones the first in
/// the record; the others stay attributes. docs/formats.md shows the same.
const NAMES: &[(&str, Column, u8)] = &[
    ("time", Column::Time, 0),
    ("@timestamp", Column::Time, 1),
    ("timestamp", Column::Time, 1),
    ("finding_info.created_time", Column::Time, 2),
    ("class_uid", Column::Class, 0),
    ("activity_id", Column::Activity, 0),
    ("severity_id", Column::Severity, 0),
    ("severity", Column::Severity, 1),
    ("scan_id", Column::ScanId, 0),
    ("scanId", Column::ScanId, 1),
    ("scan.uid", Column::ScanId, 1),
    ("scan.id", Column::ScanId, 1),
    ("scan_type", Column::ScanType, 0),
    ("scanType", Column::ScanType, 1),
    ("scan.type", Column::ScanType, 1),
    ("target_type", Column::ScanType, 2),
    ("uid", Column::Uid, 0),
    ("finding_id", Column::Uid, 1),
    ("finding_info.uid", Column::Uid, 1),
    ("id", Column::Uid, 2),
    ("kind", Column::Kind, 0),
    ("finding_type", Column::Kind, 1),
    ("category", Column::Kind, 2),
    ("title", Column::Title, 0),
    ("finding_info.title", Column::Title, 1),
    ("name", Column::Title, 2),
    ("resource", Column::Resource, 0),
    ("resource.name", Column::Resource, 1),
    ("resource.uid", Column::Resource, 2),
    ("resource.path", Column::Resource, 2),
    ("target", Column::Resource, 1),
    ("location", Column::Resource, 2),
    ("path", Column::Resource, 3),
    ("file", Column::Resource, 3),
    ("file.path", Column::Resource, 3),
    ("url", Column::Resource, 3),
    ("table", Column::Resource, 3),
    ("asset", Column::Resource, 3),
    ("risk", Column::Risk, 0),
    ("risk_score", Column::Risk, 1),
    ("score", Column::Risk, 2),
    ("host", Column::Host, 0),
    ("host.name", Column::Host, 0),
    ("hostname", Column::Host, 1),
    ("device.hostname", Column::Host, 1),
    ("user", Column::User, 0),
    ("user.name", Column::User, 0),
    ("actor.user.name", Column::User, 1),
    ("message", Column::Message, 0),
    ("description", Column::Message, 1),
    ("finding_info.desc", Column::Message, 1),
    ("sequence", Column::Sequence, 0),
    ("state", Column::State, 0),
    ("status", Column::State, 1),
    ("progress", Column::Progress, 0),
    ("progress_percent", Column::Progress, 1),
    ("percent", Column::Progress, 2),
    ("queue_position", Column::QueuePosition, 0),
    ("queuePosition", Column::QueuePosition, 1),
    ("queue.position", Column::QueuePosition, 1),
    ("duration_ms", Column::DurationMs, 0),
    ("duration", Column::DurationMs, 1),
    ("duration_seconds", Column::DurationSeconds, 0),
    ("duration_s", Column::DurationSeconds, 1),
    ("type", Column::Type, 0),
];

/// Objects that are looked into.
const OPEN: &[&str] =
    &["scan", "finding_info", "resource", "file", "host", "device", "user", "actor", "actor.user", "queue"];

/// Words for the types of scans; the first of each row is how it is stored.
const SCAN_TYPES: &[&[&str]] = &[
    &["code", "source_code", "source", "repository", "repo", "sast", "git"],
    &["document", "documents", "doc", "docs", "file", "files"],
    &["database", "db", "sql", "table"],
    &["image", "container", "container_image", "docker"],
    &["website", "web", "site", "webapp", "web_app", "url", "dast"],
    &["ai_model", "ai", "model", "llm", "ml_model"],
];

/// Words for the states of scans; the first of each row is how it is stored.
const STATES: &[&[&str]] = &[
    &["queued", "pending", "waiting", "scheduled", "created", "delayed"],
    &["running", "started", "in_progress", "scanning", "active", "paused", "resumed", "restarted"],
    &["completed", "complete", "done", "finished", "success", "succeeded"],
    &["failed", "failure", "error", "errored", "timeout"],
    &["cancelled", "canceled", "aborted", "stopped"],
];

fn word(table: &'static [&'static [&'static str]], text: &str) -> Option<&'static str> {
    let lower = text.to_ascii_lowercase().replace(['-', ' '], "_");
    let row = table.iter().find(|row| row.contains(&lower.as_str()))?;
    row.first().copied()
}

/// State of a scan from OCSF's activity of class 6007.
fn state_of_activity(activity: i64) -> Option<&'static str> {
    match activity {
        1 | 7..=9 => Some("running"),
        2 => Some("completed"),
        3 => Some("cancelled"),
        4..=6 => Some("failed"),
        10 => Some("queued"),
        _ => None,
    }
}

/// The fields of a record, the best of each column and the others as attributes.
struct Fields<'a> {
    best: [Option<(u8, &'static str, &'a str)>; COLUMNS],
    attributes: Attributes,
}

impl<'a> Fields<'a> {
    fn field(&mut self, name: &str, json: &'a str) {
        if json.starts_with('{') && OPEN.contains(&name) {
            for (inner, json) in json::object(json).unwrap_or_default() {
                self.field(&format!("{name}.{inner}"), json);
            }
            return;
        }
        let known = NAMES.iter().find(|(known, _, _)| *known == name);
        let readable = json != "null" && json != "\"\"" && !json.starts_with(['{', '[']);
        let Some((name, column, rank)) = known.filter(|_| readable) else {
            return json::keep(&mut self.attributes, name, json);
        };
        let Some(best) = self.best.get_mut(*column as usize) else { return };
        match best {
            Some((before, _, _)) if *before <= *rank => json::keep(&mut self.attributes, name, json),
            _ => {
                if let Some((_, name, json)) = best.replace((*rank, name, json)) {
                    json::keep(&mut self.attributes, name, json);
                }
            }
        }
    }

    fn has(&self, column: Column) -> bool {
        self.best.get(column as usize).is_some_and(Option::is_some)
    }

    fn peek(&self, column: Column) -> Option<&'a str> {
        self.best.get(column as usize).copied().flatten().map(|(_, _, json)| json)
    }

    /// Takes a column's value as `read` reads it; what it cannot read becomes an attribute.
    fn take<T>(&mut self, column: Column, read: impl FnOnce(&'a str) -> Option<T>) -> Option<T> {
        let (_, name, json) = self.best.get_mut(column as usize).and_then(Option::take)?;
        let value = read(json);
        if value.is_none() {
            json::keep(&mut self.attributes, name, json);
        }
        value
    }

    fn text(&mut self, column: Column) -> Option<Cow<'a, str>> {
        self.take(column, json::scalar)
    }

    /// Takes a word, and keeps it as an attribute too if another stands for it.
    fn word(&mut self, column: Column, table: &'static [&'static [&'static str]]) -> Option<&'static str> {
        let (_, name, json) = self.best.get_mut(column as usize).and_then(Option::take)?;
        let text = json::scalar(json);
        let known = text.as_deref().and_then(|text| word(table, text));
        if known != text.as_deref() {
            json::keep(&mut self.attributes, name, json);
        }
        known
    }

    /// Takes an integer in `range`, rounding a decimal one and then keeping it as an attribute too.
    fn integer(&mut self, column: Column, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
        let (_, name, json) = self.best.get_mut(column as usize).and_then(Option::take)?;
        let text = json::scalar(json)?;
        let text = text.strip_suffix('%').unwrap_or(&text);
        let whole = text.parse::<i64>().ok().filter(|value| range.contains(value));
        if whole.is_some() {
            return whole;
        }
        json::keep(&mut self.attributes, name, json);
        let rounded = text.parse::<f64>().ok().filter(|value| value.abs() < 1e15)?.round() as i64;
        range.contains(&rounded).then_some(rounded)
    }

    fn time(&mut self, received_at: Micros) -> (Micros, i32) {
        let stated = self.take(Column::Time, |json| {
            json::scalar(json).and_then(|text| time::parse(&text)).map(|time| time.micros)
        });
        let settled = settle(stated, received_at);
        if let Some(original) = settled.original {
            self.attributes.text("original_time", &time::rfc3339(original));
        }
        (settled.time, settled.flags)
    }

    /// What no column took.
    fn rest(mut self) -> Option<Cow<'a, str>> {
        for (_, name, json) in self.best.into_iter().flatten() {
            json::keep(&mut self.attributes, name, json);
        }
        self.attributes.finish().map(Cow::Owned)
    }
}

type Refusal = (&'static str, Cow<'static, str>);

fn read<'b>(line: &'b str, input: &Input<'b>) -> Result<FindingRecord<'b>, Refusal> {
    let line = line.trim();
    let Some(object) = json::object(line) else {
        return Err(("not_a_finding", "findings and scan states are JSON objects".into()));
    };
    let mut fields = Fields { best: [None; COLUMNS], attributes: Attributes::for_line(line.len()) };
    for (name, json) in object {
        fields.field(&name, json);
    }
    let class = fields.peek(Column::Class).and_then(json::integer);
    let says_scan = fields
        .peek(Column::Type)
        .and_then(json::string)
        .is_some_and(|text| matches!(text.as_ref(), "scan_activity" | "scan" | "scan_status"));
    let moves =
        fields.has(Column::State) || fields.has(Column::Progress) || fields.has(Column::QueuePosition);
    let found = [Column::Uid, Column::Kind, Column::Title, Column::Risk];
    let is_scan = match class {
        Some(6007) => true,
        Some(_) => false,
        None => says_scan || (moves && !found.into_iter().any(|column| fields.has(column))),
    };
    if is_scan {
        return scan(fields, input).map(FindingRecord::Scan);
    }
    let named = [Column::Uid, Column::ScanId, Column::Kind, Column::Title];
    if matches!(class, Some(2002 | 2004)) || named.into_iter().any(|column| fields.has(column)) {
        return Ok(FindingRecord::Finding(result(fields, line, input)));
    }
    Err(("not_a_finding", "no uid, scan_id, kind or title, and no state of a scan".into()))
}

fn result<'b>(mut fields: Fields<'b>, line: &'b str, input: &Input<'b>) -> Finding<'b> {
    let (time, flags) = fields.time(input.received_at);
    let class =
        fields.take(Column::Class, |json| json::integer(json).filter(|class| matches!(class, 2002 | 2004)));
    let mut scan_type = fields.word(Column::ScanType, SCAN_TYPES);
    let mut kind = fields.text(Column::Kind);
    // `type` is the scan's where it is a word for one, else the finding's.
    let type_text = fields.peek(Column::Type).and_then(json::scalar);
    if scan_type.is_none() && type_text.as_deref().is_some_and(|text| word(SCAN_TYPES, text).is_some()) {
        scan_type = fields.word(Column::Type, SCAN_TYPES);
    } else if kind.is_none() {
        kind = fields.text(Column::Type);
    }
    let kind = kind.unwrap_or(Cow::Borrowed(if class == Some(2002) { "vulnerability" } else { "unknown" }));
    let class = class.unwrap_or(if kind.eq_ignore_ascii_case("vulnerability") { 2002 } else { 2004 });
    let severity = fields.best.get_mut(Column::Severity as usize).and_then(Option::take);
    let severity_id = severity.and_then(|(_, name, json)| match json::integer(json) {
        Some(id) => severity::of_id(id).or_else(|| {
            json::keep(&mut fields.attributes, name, json);
            None
        }),
        None => {
            json::keep(&mut fields.attributes, name, json);
            severity::of_name(&json::scalar(json)?)
        }
    });
    Finding {
        index: input.index,
        time,
        received_at: input.received_at,
        org: Cow::Borrowed(input.org),
        scan_id: fields.text(Column::ScanId),
        uid: fields.text(Column::Uid).unwrap_or_default(),
        scan_type: Cow::Borrowed(scan_type.unwrap_or("unknown")),
        class_uid: class as i32,
        severity_id: severity_id.unwrap_or(0),
        kind,
        title: fields.text(Column::Title),
        resource: fields.text(Column::Resource),
        risk: fields.integer(Column::Risk, 0..=100).map(|risk| risk as i32),
        host: fields.text(Column::Host),
        user: fields.text(Column::User),
        message: Some(fields.text(Column::Message).unwrap_or(Cow::Borrowed(line))),
        labels: Vec::new(),
        attributes: fields.rest(),
        flags,
        event_uid: input.event_uid,
    }
}

fn scan<'b>(mut fields: Fields<'b>, input: &Input<'b>) -> Result<ScanActivity<'b>, Refusal> {
    let Some(scan_id) = fields.text(Column::ScanId).or_else(|| fields.text(Column::Uid)) else {
        return Err(("no_scan_id", "a scan's state without the scan's id".into()));
    };
    let progress = fields.integer(Column::Progress, 0..=100).map(|progress| progress as i32);
    let queue_position =
        fields.integer(Column::QueuePosition, 0..=i64::from(i32::MAX)).and_then(|at| i32::try_from(at).ok());
    let stated = fields.peek(Column::State).and_then(json::scalar);
    let activity = fields.take(Column::Activity, json::integer).and_then(state_of_activity);
    let state = match fields.word(Column::State, STATES) {
        Some(state) => state,
        None => match (stated, activity, progress, queue_position) {
            (_, Some(state), _, _) => state,
            (Some(word), ..) => {
                let word: String = word.chars().take(64).collect();
                return Err(("unknown_scan_state", format!("{word:?} is no state of a scan").into()));
            }
            (None, None, Some(100), _) => "completed",
            (None, None, Some(_), _) => "running",
            (None, None, None, Some(_)) => "queued",
            (None, None, None, None) => {
                return Err(("unknown_scan_state", "no state, progress or queue position".into()));
            }
        },
    };
    let (time, _) = fields.time(input.received_at);
    let scan_type =
        fields.word(Column::ScanType, SCAN_TYPES).or_else(|| fields.word(Column::Type, SCAN_TYPES));
    let duration_ms = fields.integer(Column::DurationMs, 0..=i64::MAX).or_else(|| {
        let seconds = fields.take(Column::DurationSeconds, |json| json::scalar(json)?.parse::<f64>().ok())?;
        (0.0..1e12).contains(&seconds).then_some((seconds * 1e3).round() as i64)
    });
    Ok(ScanActivity {
        index: input.index,
        time,
        received_at: input.received_at,
        org: Cow::Borrowed(input.org),
        scan_id,
        scan_type: Cow::Borrowed(scan_type.unwrap_or("unknown")),
        sequence: fields.integer(Column::Sequence, 0..=i64::MAX).unwrap_or(time.0),
        state: Cow::Borrowed(state),
        progress,
        queue_position,
        duration_ms,
        target: fields.text(Column::Resource),
        message: fields.text(Column::Message),
        attributes: {
            // The class is what made it a scan's state.
            fields.take(Column::Class, Some);
            fields.rest()
        },
    })
}

fn own<'a>(text: Cow<'_, str>) -> Cow<'a, str> {
    Cow::Owned(text.into_owned())
}

/// A finding whose line does not outlive it.
fn own_finding<'a>(finding: Finding<'_>, input: &Input<'a>) -> Finding<'a> {
    Finding {
        index: finding.index,
        time: finding.time,
        received_at: finding.received_at,
        org: Cow::Borrowed(input.org),
        scan_id: finding.scan_id.map(own),
        uid: own(finding.uid),
        scan_type: own(finding.scan_type),
        class_uid: finding.class_uid,
        severity_id: finding.severity_id,
        kind: own(finding.kind),
        title: finding.title.map(own),
        resource: finding.resource.map(own),
        risk: finding.risk,
        host: finding.host.map(own),
        user: finding.user.map(own),
        message: finding.message.map(own),
        labels: Vec::new(),
        attributes: finding.attributes.map(own),
        flags: finding.flags,
        event_uid: finding.event_uid,
    }
}

/// A scan's state whose line does not outlive it.
fn own_scan<'a>(scan: ScanActivity<'_>, input: &Input<'a>) -> ScanActivity<'a> {
    ScanActivity {
        index: scan.index,
        time: scan.time,
        received_at: scan.received_at,
        org: Cow::Borrowed(input.org),
        scan_id: own(scan.scan_id),
        scan_type: own(scan.scan_type),
        sequence: scan.sequence,
        state: own(scan.state),
        progress: scan.progress,
        queue_position: scan.queue_position,
        duration_ms: scan.duration_ms,
        target: scan.target.map(own),
        message: scan.message.map(own),
        attributes: scan.attributes.map(own),
    }
}
