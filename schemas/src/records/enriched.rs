//! Enriched batches: what became of one raw record.

use std::borrow::Cow;

use uuid::Uuid;

use crate::{Micros, record};

/// Bits of [`Event::flags`] and of the records that copy it.
pub mod flags {
    /// The event's own time lay too far in the future; `time` is when it was received, the original time is
    /// in the attribute `original_time`.
    pub const TIME_CLAMPED: i32 = 1;
    /// The event had no readable time; `time` is when it was received.
    pub const TIME_ASSUMED: i32 = 1 << 1;
    /// Bytes that are not UTF-8 were replaced by U+FFFD.
    pub const INVALID_UTF8: i32 = 1 << 2;
    /// An entity of the event is on a threat list.
    pub const THREAT: i32 = 1 << 3;
    /// Backfilled: kept out of live correlation.
    pub const BACKFILL: i32 = 1 << 4;
    /// Of an incident: windows were dropped or thinned out for want of memory, so its count, first time and evidence may
    /// fall short.
    pub const STATE_CUT: i32 = 1 << 5;
}

record! {
    /// The raw record an enriched one was made from.
    pub struct Source {
        /// Kafka's id of the raw topic; a topic deleted and created anew has another.
        pub topic_id: Uuid,
        /// Raw partition; the enriched record is in the partition of the same number.
        pub partition: i32,
        /// The reader's position before the record: offsets `from..offset` hold no other record.
        pub from: i64,
        /// The raw record's offset.
        pub offset: i64,
    }
}

record! {
    /// One Kafka record of `events`.
    pub struct EventBatch<'a> {
        /// The raw record it was made from.
        pub source: Source,
        /// What was understood, in index order.
        pub events: Vec<Event<'a>>,
        /// What was not, in index order.
        pub rejects: Vec<Reject<'a>>,
        /// Keyed pushes with a share in it.
        pub pushes: Vec<Push<'a>>,
    }
}

record! {
    /// One event, OCSF-shaped. Its identity is (stream, source partition, source offset, index).
    pub struct Event<'a> {
        /// Ordinal in the raw record, over all its runs.
        pub index: i32,
        /// When it happened.
        pub time: Micros,
        /// When ingest took it in.
        pub received_at: Micros,
        /// The org it belongs to.
        pub org: Cow<'a, str>,
        /// OCSF class: 3002 authentication, 4001 network, 4002 http, 1007 process, 2002/2004 findings,
        /// 6007 scan activity, 0 base.
        pub class_uid: i32,
        /// OCSF activity within the class; 0 unknown.
        pub activity_id: i32,
        /// OCSF severity: 0 unknown, 1 informational, 2 low, 3 medium, 4 high, 5 critical, 6 fatal, 99 other.
        pub severity_id: i32,
        /// Host it happened on.
        pub host: Option<Cow<'a, str>>,
        /// User it concerns.
        pub user: Option<Cow<'a, str>>,
        /// Canonical text of an IP address.
        pub src_ip: Option<Cow<'a, str>>,
        /// Canonical text of an IP address.
        pub dst_ip: Option<Cow<'a, str>>,
        /// 0 to 65535.
        pub src_port: Option<i32>,
        /// 0 to 65535.
        pub dst_port: Option<i32>,
        /// Kind of source: `sshd`, `sudo`, `syslog`, `web_access`, `windows`, `json` …
        pub source_type: Cow<'a, str>,
        /// The event's own message, else the original line.
        pub message: Option<Cow<'a, str>>,
        /// Occurrences this row stands for ("message repeated N times").
        pub repeat: i32,
        /// Asset labels and threat list hits.
        pub labels: Vec<Cow<'a, str>>,
        /// The other original fields, a JSON object.
        pub attributes: Option<Cow<'a, str>>,
        /// See [`flags`].
        pub flags: i32,
        /// Of a keyed push: shared with its retries.
        pub event_uid: Option<Uuid>,
    }
}

record! {
    /// What could not be understood; it lands in the quarantine table beside its neighbours.
    pub struct Reject<'a> {
        /// Ordinal in the raw record, over all its runs.
        pub index: i32,
        /// When ingest took it in.
        pub received_at: Micros,
        /// The org it belongs to, where known.
        pub org: Option<Cow<'a, str>>,
        /// A short snake_case code.
        pub reason: Cow<'a, str>,
        /// What exactly was wrong, for a person.
        pub detail: Cow<'a, str>,
        /// The raw bytes, cut short when larger than an event may be.
        pub bytes: Cow<'a, [u8]>,
        /// SHA-256 of the whole, where `bytes` was cut.
        pub digest: Option<Cow<'a, [u8]>>,
    }
}

record! {
    /// A keyed push's share of a record: indexes `first_index .. first_index + count`.
    pub struct Push<'a> {
        /// The org that pushed.
        pub org: Cow<'a, str>,
        /// Its Idempotency-Key.
        pub key: Cow<'a, str>,
        /// SHA-256 of the push's body.
        pub digest: Cow<'a, [u8]>,
        /// Part of the push, from 0.
        pub part: i32,
        /// First index of the share.
        pub first_index: i32,
        /// Raw records in the share.
        pub count: i32,
    }
}

record! {
    /// One Kafka record of `findings`.
    pub struct FindingBatch<'a> {
        /// The raw record it was made from.
        pub source: Source,
        /// Findings, in index order.
        pub findings: Vec<Finding<'a>>,
        /// States of scans, in index order.
        pub scans: Vec<ScanActivity<'a>>,
        /// What was neither, in index order.
        pub rejects: Vec<Reject<'a>>,
        /// Keyed pushes with a share in it.
        pub pushes: Vec<Push<'a>>,
    }
}

record! {
    /// One result of a scan; append-only.
    pub struct Finding<'a> {
        /// Ordinal in the raw record, over all its runs.
        pub index: i32,
        /// When it was found.
        pub time: Micros,
        /// When ingest took it in.
        pub received_at: Micros,
        /// The org it belongs to.
        pub org: Cow<'a, str>,
        /// The scan that found it.
        pub scan_id: Option<Cow<'a, str>>,
        /// The scanner's own id of the finding; empty where it gave none.
        pub uid: Cow<'a, str>,
        /// `code`, `document`, `database`, `image`, `website` or `ai_model`.
        pub scan_type: Cow<'a, str>,
        /// 2002 vulnerability finding or 2004 detection finding.
        pub class_uid: i32,
        /// OCSF severity, as [`Event::severity_id`].
        pub severity_id: i32,
        /// What was found: `pii`, `secret`, `vulnerability`, `misconfiguration` …
        pub kind: Cow<'a, str>,
        /// One line for a person.
        pub title: Option<Cow<'a, str>>,
        /// What it was found in: a path, table, URL or asset.
        pub resource: Option<Cow<'a, str>>,
        /// 0 to 100.
        pub risk: Option<i32>,
        /// Host it concerns.
        pub host: Option<Cow<'a, str>>,
        /// User it concerns.
        pub user: Option<Cow<'a, str>>,
        /// The finding's own message, else the original line.
        pub message: Option<Cow<'a, str>>,
        /// Asset labels and threat list hits.
        pub labels: Vec<Cow<'a, str>>,
        /// The other original fields, a JSON object.
        pub attributes: Option<Cow<'a, str>>,
        /// See [`flags`].
        pub flags: i32,
        /// Of a keyed push: shared with its retries.
        pub event_uid: Option<Uuid>,
    }
}

record! {
    /// State of a scan; of two for the same (org, scan_id) the one with the higher sequence holds.
    pub struct ScanActivity<'a> {
        /// Ordinal in the raw record, over all its runs.
        pub index: i32,
        /// When the scan was in this state.
        pub time: Micros,
        /// When ingest took it in.
        pub received_at: Micros,
        /// The org it belongs to.
        pub org: Cow<'a, str>,
        /// The scan.
        pub scan_id: Cow<'a, str>,
        /// As [`Finding::scan_type`].
        pub scan_type: Cow<'a, str>,
        /// Rises with every state; `time` in microseconds where the scanner gave none.
        pub sequence: i64,
        /// `queued`, `running`, `completed`, `failed` or `cancelled`.
        pub state: Cow<'a, str>,
        /// 0 to 100.
        pub progress: Option<i32>,
        /// Place in the scanner's queue, from 0.
        pub queue_position: Option<i32>,
        /// Milliseconds so far.
        pub duration_ms: Option<i64>,
        /// What is scanned.
        pub target: Option<Cow<'a, str>>,
        /// The activity's own message.
        pub message: Option<Cow<'a, str>>,
        /// The other original fields, a JSON object.
        pub attributes: Option<Cow<'a, str>>,
    }
}
