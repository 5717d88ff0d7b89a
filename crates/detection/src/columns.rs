//! Columns of events, findings and scans under their own names.

use std::borrow::Cow;

use schemas::{Event, Finding, Micros, ScanActivity};

use crate::value::Value;

/// A column of an event, a finding or a scan that rules can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    ActivityId,
    ClassUid,
    DstIp,
    DstPort,
    Host,
    Kind,
    Labels,
    Message,
    Progress,
    Resource,
    Risk,
    ScanId,
    ScanType,
    SeverityId,
    SourceType,
    SrcIp,
    SrcPort,
    State,
    Target,
    Time,
    Title,
    Uid,
    User,
}

/// Whether events, findings or scans have a column of that name, which rules can ask for.
pub fn is_column(name: &str) -> bool {
    Column::from_name(name).is_some()
}

/// `source_type` of findings, which have no such column.
pub(crate) const FINDING: &str = "finding";
/// `source_type` of the states of scans, which have none either.
pub(crate) const SCAN: &str = "scan";
/// OCSF class Scan Activity.
pub(crate) const SCAN_CLASS: i32 = 6007;

impl Column {
    /// Every column, under its name in SQL and in the records.
    pub(crate) const ALL: [(&'static str, Self); 23] = [
        ("activity_id", Self::ActivityId),
        ("class_uid", Self::ClassUid),
        ("dst_ip", Self::DstIp),
        ("dst_port", Self::DstPort),
        ("host", Self::Host),
        ("kind", Self::Kind),
        ("labels", Self::Labels),
        ("message", Self::Message),
        ("progress", Self::Progress),
        ("resource", Self::Resource),
        ("risk", Self::Risk),
        ("scan_id", Self::ScanId),
        ("scan_type", Self::ScanType),
        ("severity_id", Self::SeverityId),
        ("source_type", Self::SourceType),
        ("src_ip", Self::SrcIp),
        ("src_port", Self::SrcPort),
        ("state", Self::State),
        ("target", Self::Target),
        ("time", Self::Time),
        ("title", Self::Title),
        ("uid", Self::Uid),
        ("user", Self::User),
    ];

    /// The column called `name`.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, column)| *column)
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, column)| *column == self).map_or("", |(name, _)| name)
    }

    /// Its value in `event`, none where the event has no such column.
    pub(crate) fn of_event<'a>(self, event: &'a Event<'_>) -> Option<Value<'a>> {
        match self {
            Self::ActivityId => int(event.activity_id),
            Self::ClassUid => int(event.class_uid),
            Self::DstIp => text(&event.dst_ip),
            Self::DstPort => event.dst_port.and_then(int),
            Self::Host => text(&event.host),
            Self::Labels => list(&event.labels),
            Self::Message => text(&event.message),
            Self::SeverityId => int(event.severity_id),
            Self::SourceType => Some(Value::Str(Cow::Borrowed(&event.source_type))),
            Self::SrcIp => text(&event.src_ip),
            Self::SrcPort => event.src_port.and_then(int),
            Self::Time => time(event.time),
            Self::User => text(&event.user),
            Self::Kind
            | Self::Progress
            | Self::Resource
            | Self::Risk
            | Self::ScanId
            | Self::ScanType
            | Self::State
            | Self::Target
            | Self::Title
            | Self::Uid => None,
        }
    }

    /// Its value in `finding`, none where the finding has no such column.
    pub(crate) fn of_finding<'a>(self, finding: &'a Finding<'_>) -> Option<Value<'a>> {
        match self {
            Self::ClassUid => int(finding.class_uid),
            Self::Host => text(&finding.host),
            Self::Kind => Some(Value::Str(Cow::Borrowed(&finding.kind))),
            Self::Labels => list(&finding.labels),
            Self::Message => text(&finding.message),
            Self::Resource => text(&finding.resource),
            Self::Risk => finding.risk.and_then(int),
            Self::ScanId => text(&finding.scan_id),
            Self::ScanType => Some(Value::Str(Cow::Borrowed(&finding.scan_type))),
            Self::SeverityId => int(finding.severity_id),
            Self::SourceType => Some(Value::Str(Cow::Borrowed(FINDING))),
            Self::Time => time(finding.time),
            Self::Title => text(&finding.title),
            Self::Uid => Some(Value::Str(Cow::Borrowed(&finding.uid))),
            Self::User => text(&finding.user),
            Self::ActivityId
            | Self::DstIp
            | Self::DstPort
            | Self::Progress
            | Self::SrcIp
            | Self::SrcPort
            | Self::State
            | Self::Target => None,
        }
    }

    /// Its value in the state of a scan, none where that has no such column.
    pub(crate) fn of_scan<'a>(self, scan: &'a ScanActivity<'_>) -> Option<Value<'a>> {
        match self {
            Self::ClassUid => int(SCAN_CLASS),
            Self::Message => text(&scan.message),
            Self::Progress => scan.progress.and_then(int),
            Self::ScanId => Some(Value::Str(Cow::Borrowed(&scan.scan_id))),
            Self::ScanType => Some(Value::Str(Cow::Borrowed(&scan.scan_type))),
            Self::SourceType => Some(Value::Str(Cow::Borrowed(SCAN))),
            Self::State => Some(Value::Str(Cow::Borrowed(&scan.state))),
            Self::Target => text(&scan.target),
            Self::Time => time(scan.time),
            Self::ActivityId
            | Self::DstIp
            | Self::DstPort
            | Self::Host
            | Self::Kind
            | Self::Labels
            | Self::Resource
            | Self::Risk
            | Self::SeverityId
            | Self::SrcIp
            | Self::SrcPort
            | Self::Title
            | Self::Uid
            | Self::User => None,
        }
    }
}

fn int<'a>(number: i32) -> Option<Value<'a>> {
    Some(Value::Int(i64::from(number)))
}

/// RFC 3339 in UTC, with as many digits after the second as it takes.
fn time<'a>(time: Micros) -> Option<Value<'a>> {
    let time = jiff::Timestamp::from_microsecond(time.0).ok()?;
    Some(Value::Str(Cow::Owned(time.to_string())))
}

fn text<'a>(text: &'a Option<Cow<'_, str>>) -> Option<Value<'a>> {
    text.as_deref().map(|text| Value::Str(Cow::Borrowed(text)))
}

fn list<'a>(items: &'a [Cow<'_, str>]) -> Option<Value<'a>> {
    if items.is_empty() {
        return None;
    }
    Some(Value::List(items.iter().map(|item| Value::Str(Cow::Borrowed(item.as_ref()))).collect()))
}
