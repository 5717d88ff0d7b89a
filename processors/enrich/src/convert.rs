//! One Kafka record of a raw topic to the payload of one of the enriched topic, whatever its bytes are.

use std::borrow::Cow;

use kafka::{Record, TimestampKind};
use schemas::{
    DecodeError, EventBatch, FindingBatch, Micros, OrgId, RawBatch, RawRecord, Reject, Run, Source, Stream,
};
use uuid::Uuid;

use crate::batch::{enrich_events, enrich_findings, records, rejected_events, rejected_findings, sane};
use crate::context::{Context, Matches};
use crate::fit::{shrink_events, shrink_findings};

/// Largest payload of an enriched record: the topics take 8 MiB, less room for the rest of the record.
pub const MAX_PAYLOAD_BYTES: usize = (8 << 20) - (64 << 10);

/// What of the outcome is counted.
#[derive(Debug, Default)]
pub struct Tally {
    /// Understood, by format.
    pub understood: Vec<(String, u64)>,
    /// Rejects, by reason.
    pub rejected: Vec<(String, u64)>,
    /// Hits of context.
    pub matches: Matches,
}

impl Tally {
    fn count(counts: &mut Vec<(String, u64)>, name: &str) {
        // A batch has a handful of different ones.
        match counts.iter_mut().find(|(known, _)| known == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name.to_owned(), 1)),
        }
    }

    fn events(&mut self, batch: &EventBatch<'_>) {
        for event in &batch.events {
            Self::count(&mut self.understood, known_format(&event.source_type));
        }
        self.rejects(&batch.rejects);
    }

    fn findings(&mut self, batch: &FindingBatch<'_>) {
        self.understood.push(("finding".to_owned(), batch.findings.len() as u64));
        self.understood.push(("scan_activity".to_owned(), batch.scans.len() as u64));
        self.rejects(&batch.rejects);
    }

    fn rejects(&mut self, rejects: &[Reject<'_>]) {
        for reject in rejects {
            Self::count(&mut self.rejected, &reject.reason);
        }
    }
}

/// The format as a metric's label; a shipper may name kinds of sources as it likes.
fn known_format(source_type: &str) -> &'static str {
    const KNOWN: [&str; 10] =
        ["json", "windows", "sshd", "sudo", "su", "cron", "syslog", "web_access", "web_error", "text"];
    KNOWN.into_iter().find(|known| *known == source_type).unwrap_or("other")
}

fn source(record: &Record, topic_id: Uuid) -> Source {
    Source { topic_id, partition: record.partition, from: record.position_before, offset: record.offset }
}

/// When the broker or producer says that the record was made.
fn received_at(record: &Record, now: Micros) -> Micros {
    match record.timestamp_kind {
        TimestampKind::Missing => now,
        _ => sane(Micros::from_millis(record.timestamp_ms), now),
    }
}

/// What all records of a stream are converted with.
#[derive(Debug, Clone)]
pub struct Converter {
    /// The stream.
    pub stream: Stream,
    /// Org of foreign records that name none.
    pub default_org: Option<OrgId>,
}

impl Converter {
    /// Appends the enriched payload of `record` to `out`.
    ///
    /// A record that is no batch of ours is a batch of one; one that claims to be and cannot be read becomes one
    /// reject `bad_record` with its bytes.
    pub fn convert(
        &self,
        record: &Record,
        topic_id: Uuid,
        context: &Context,
        now: Micros,
        out: &mut Vec<u8>,
    ) -> Tally {
        let source = source(record, topic_id);
        let (reason, detail) = match schemas::current_body::<RawBatch<'_>>(&record.payload) {
            Err(DecodeError::NotFramed) => match self.foreign(record, received_at(record, now)) {
                Ok(batch) => return self.batch(&batch, source, context, now, out),
                Err(detail) => ("no_org", detail),
            },
            Err(error) => ("bad_record", error.to_string()),
            Ok(body) => match schemas::decode_body::<RawBatch<'_>>(&body) {
                Ok(batch) => {
                    let tally = self.batch(&batch, source, context, now, out);
                    if out.len() <= MAX_PAYLOAD_BYTES {
                        return tally;
                    }
                    let detail =
                        format!("its {} records make {} bytes when enriched", records(&batch), out.len());
                    ("bad_record", detail)
                }
                Err(error) => ("bad_record", error.to_string()),
            },
        };
        self.refuse(record, topic_id, reason, detail, now, out)
    }

    /// Replaces `out` by a payload that holds nothing but the whole record as one reject.
    pub(crate) fn refuse(
        &self,
        record: &Record,
        topic_id: Uuid,
        reason: &'static str,
        detail: String,
        now: Micros,
        out: &mut Vec<u8>,
    ) -> Tally {
        let source = source(record, topic_id);
        let reject = normalise::reject(&record.payload, 0, received_at(record, now), None, reason, detail);
        let mut tally = Tally::default();
        tally.rejects(std::slice::from_ref(&reject));
        out.clear();
        match self.stream {
            Stream::Events => schemas::encode(&rejected_events(source, reject), out),
            Stream::Findings => schemas::encode(&rejected_findings(source, reject), out),
        }
        tally
    }

    /// A batch of one out of a plain record, or why it has no org.
    fn foreign<'a>(&'a self, record: &'a Record, received_at: Micros) -> Result<RawBatch<'a>, String> {
        let org = match record.header("org") {
            Some(header) => {
                let text = std::str::from_utf8(header).ok().filter(|text| text.parse::<OrgId>().is_ok());
                text.ok_or("the header org is no org id")?
            }
            None => self.default_org.as_ref().ok_or("no header org, and no default is configured")?.as_str(),
        };
        let bytes = Cow::Borrowed(record.payload.as_slice());
        let run = Run {
            org: Cow::Borrowed(org),
            protocol: Cow::Borrowed("kafka"),
            format: Cow::Borrowed("json"),
            key: None,
            key_digest: None,
            part: None,
            records: vec![RawRecord { received_at, sender: Cow::Borrowed("kafka"), bytes }],
        };
        Ok(RawBatch { runs: vec![run] })
    }

    /// Appends the enriched batch, shrunk if it can be made to fit.
    fn batch(
        &self,
        batch: &RawBatch<'_>,
        source: Source,
        context: &Context,
        now: Micros,
        out: &mut Vec<u8>,
    ) -> Tally {
        let mut tally = Tally::default();
        match self.stream {
            Stream::Events => {
                let mut enriched = enrich_events(batch, source, context, now, &mut tally.matches);
                schemas::encode(&enriched, out);
                if let Some(excess) = out.len().checked_sub(MAX_PAYLOAD_BYTES).filter(|excess| *excess > 0) {
                    shrink_events(&mut enriched, batch, excess, now);
                    out.clear();
                    schemas::encode(&enriched, out);
                }
                tally.events(&enriched);
            }
            Stream::Findings => {
                let mut enriched = enrich_findings(batch, source, context, now, &mut tally.matches);
                schemas::encode(&enriched, out);
                if let Some(excess) = out.len().checked_sub(MAX_PAYLOAD_BYTES).filter(|excess| *excess > 0) {
                    shrink_findings(&mut enriched, batch, excess, now);
                    out.clear();
                    schemas::encode(&enriched, out);
                }
                tally.findings(&enriched);
            }
        }
        tally
    }
}
