//! Raw batches: what a shipper sent, before anyone looked inside.

use std::borrow::Cow;

use crate::avro::{Field, put_bytes, put_long};
use crate::{Micros, framing, record};

record! {
    /// One Kafka record of `events.raw` or `findings.raw`.
    pub struct RawBatch<'a> {
        /// Runs in the order they were taken in.
        pub runs: Vec<Run<'a>>,
    }
}

record! {
    /// Consecutive records of one org, taken in the same way.
    pub struct Run<'a> {
        /// The org it belongs to.
        pub org: Cow<'a, str>,
        /// `http`, `syslog_tcp`, `syslog_udp` or `kafka`.
        pub protocol: Cow<'a, str>,
        /// `json`, `text` or `syslog`: how the bytes were framed, a hint and no more.
        pub format: Cow<'a, str>,
        /// The push's Idempotency-Key.
        pub key: Option<Cow<'a, str>>,
        /// SHA-256 of the keyed push's body, 32 bytes.
        pub key_digest: Option<Cow<'a, [u8]>>,
        /// Which part of the keyed push this run is, from 0.
        pub part: Option<i32>,
        /// The records; their ordinal over all runs of the batch is their index.
        pub records: Vec<RawRecord<'a>>,
    }
}

record! {
    /// One raw event, finding or scan activity.
    pub struct RawRecord<'a> {
        /// When ingest took it in.
        pub received_at: Micros,
        /// Listener and peer address, or the X-Sender header.
        pub sender: Cow<'a, str>,
        /// The bytes as they came, without framing.
        pub bytes: Cow<'a, [u8]>,
    }
}

/// What a run says of all its records.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunHead<'a> {
    /// See [`Run::org`].
    pub org: &'a str,
    /// See [`Run::protocol`].
    pub protocol: &'a str,
    /// See [`Run::format`].
    pub format: &'a str,
    /// Idempotency-Key, SHA-256 of the body and part.
    pub key: Option<(&'a str, &'a [u8; 32], i32)>,
}

/// Builds a framed [`RawBatch`] run by run without holding its records anywhere else: a run is appended
/// as an array block of its own.
#[derive(Debug)]
pub struct RawBatchWriter {
    bytes: Vec<u8>,
    records: usize,
}

impl Default for RawBatchWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl RawBatchWriter {
    /// An empty batch.
    pub fn new() -> Self {
        let mut bytes = Vec::new();
        framing::put_header::<RawBatch<'_>>(&mut bytes);
        Self { bytes, records: 0 }
    }

    /// Raw records so far.
    pub fn records(&self) -> usize {
        self.records
    }

    /// Size so far, bytes.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Appends a run of records that share a head, a sender and a time; an empty run leaves no trace.
    pub fn push_run<'b>(
        &mut self,
        head: RunHead<'_>,
        received_at: Micros,
        sender: &str,
        records: impl ExactSizeIterator<Item = &'b [u8]>,
    ) {
        if records.len() == 0 {
            return;
        }
        let out = &mut self.bytes;
        put_long(1, out);
        put_bytes(head.org.as_bytes(), out);
        put_bytes(head.protocol.as_bytes(), out);
        put_bytes(head.format.as_bytes(), out);
        match head.key {
            None => out.extend_from_slice(&[0, 0, 0]),
            Some((key, digest, part)) => {
                Some(Cow::Borrowed(key)).put(out);
                Some(Cow::Borrowed(digest.as_slice())).put(out);
                Some(part).put(out);
            }
        }
        self.records += records.len();
        put_long(records.len() as i64, out);
        for record in records {
            received_at.put(out);
            put_bytes(sender.as_bytes(), out);
            put_bytes(record, out);
        }
        out.push(0);
    }

    /// Closes the batch: its framed bytes, ready to publish.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.push(0);
        self.bytes
    }
}
