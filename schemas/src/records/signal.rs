//! Signals: what detect tells correlate.

use std::borrow::Cow;

use uuid::Uuid;

use super::Source;
use crate::{Micros, record};

record! {
    /// The signals that one enriched record put into one partition of `signals`, in (index, rule) order.
    /// Dropped when `source.offset` is at or below the high-water mark of (stream, topic id, partition).
    pub struct SignalBatch<'a> {
        /// `events` or `findings`.
        pub stream: Cow<'a, str>,
        /// The raw record the events were in.
        pub source: Source,
        /// The signals.
        pub signals: Vec<Signal<'a>>,
    }
}

record! {
    /// One rule matched one event. Its partition is that of (org, correlation or rule, group values); for a chain of
    /// correlations, of (org, the chain's last correlation, that one's group values, which are among these).
    pub struct Signal<'a> {
        /// Which event of the raw record.
        pub index: i32,
        /// The org it belongs to.
        pub org: Cow<'a, str>,
        /// The correlation this signal feeds; none for an alert of its own.
        pub correlation_id: Option<Cow<'a, str>>,
        /// The last correlation of the chain this signal is counted for; none where that is `correlation_id`.
        pub chain_id: Option<Cow<'a, str>>,
        /// The rule that matched.
        pub base_rule_id: Cow<'a, str>,
        /// Hash of the rule's content, lower-case hex.
        pub rule_hash: Cow<'a, str>,
        /// Group-by fields and values, in the rule's order.
        pub group_key: Vec<Pair<'a>>,
        /// When the event happened.
        pub event_time: Micros,
        /// When ingest took the event in.
        pub received_at: Micros,
        /// Of a keyed push: shared with its retries.
        pub event_uid: Option<Uuid>,
        /// What value_count counts.
        pub value: Option<Cow<'a, str>>,
        /// Occurrences the event stands for.
        pub weight: i32,
        /// OCSF severity.
        pub severity_id: i32,
        /// `user`, `host`, `ip` … of the event.
        pub entities: Vec<Pair<'a>>,
        /// See [`flags`](super::flags).
        pub flags: i32,
    }
}

record! {
    /// A named value.
    pub struct Pair<'a> {
        /// Its name.
        pub name: Cow<'a, str>,
        /// Its value.
        pub value: Cow<'a, str>,
    }
}

record! {
    /// How far event time has got in one source partition; written to every partition of `signals`.
    pub struct Watermark<'a> {
        /// `events` or `findings`.
        pub stream: Cow<'a, str>,
        /// The last raw record taken into account.
        pub source: Source,
        /// No event before this is expected any more, allowed lateness aside.
        pub event_time: Micros,
        /// Nothing has come for a while: the partition holds nobody back.
        pub idle: bool,
    }
}
