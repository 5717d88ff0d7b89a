//! From an enriched record to signal batches: a plain function.

use detection::{Partitioned, Rules};
use schemas::{DecodeError, EventBatch, FindingBatch, Micros, SignalBatch, Source, Stream, flags};

/// What a record became.
#[derive(Debug, Default)]
pub struct Matched {
    /// Events or findings in it.
    pub subjects: usize,
    /// Signals by rule id.
    pub signals: Vec<(String, u64)>,
    /// The raw record it was made from.
    pub source: Option<Source>,
    /// How far event time has got in it, by clocks that are not ahead of ingest's; none if it holds no event.
    pub event_time: Option<Micros>,
    /// Encoded batches of signals with their partition of `signals` and their key, the org.
    pub batches: Vec<Encoded>,
}

/// A record of `signals`, ready to send.
#[derive(Debug)]
pub struct Encoded {
    /// Its partition.
    pub partition: i32,
    /// The org of its first signal.
    pub key: String,
    /// A framed [`SignalBatch`].
    pub payload: Vec<u8>,
}

/// An enriched record that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the record cannot be read; was it written by a later version of tidewatch?")]
pub struct Unreadable(#[from] DecodeError);

/// Matches `rules` against a record of `stream`'s enriched topic.
///
/// # Errors
/// The payload is no batch of that stream in any version known here.
pub fn match_record(rules: &Rules, stream: Stream, payload: &[u8]) -> Result<Matched, Unreadable> {
    match stream {
        Stream::Events => {
            let body = schemas::current_body::<EventBatch<'_>>(payload)?;
            let batch: EventBatch<'_> = schemas::decode_body(&body)?;
            let matched = encode(stream, &batch.source, batch.events.len(), rules.signals(&batch));
            let times = batch.events.iter().filter(|event| event.flags & flags::BACKFILL == 0);
            Ok(Matched { event_time: times.map(|event| event.time.min(event.received_at)).max(), ..matched })
        }
        Stream::Findings => {
            let body = schemas::current_body::<FindingBatch<'_>>(payload)?;
            let batch: FindingBatch<'_> = schemas::decode_body(&body)?;
            let matched = encode(stream, &batch.source, batch.findings.len(), rules.finding_signals(&batch));
            let times = batch.findings.iter().filter(|finding| finding.flags & flags::BACKFILL == 0);
            let event_time = times.map(|finding| finding.time.min(finding.received_at)).max();
            Ok(Matched { event_time, ..matched })
        }
    }
}

fn encode(stream: Stream, source: &Source, subjects: usize, signals: Partitioned<'_>) -> Matched {
    let mut matched = Matched { subjects, source: Some(source.clone()), ..Matched::default() };
    for (partition, batch) in signals.into_batches(stream, source) {
        count(&batch, &mut matched.signals);
        let mut payload = Vec::with_capacity(256 * batch.signals.len());
        schemas::encode(&batch, &mut payload);
        let key = batch.signals.first().map_or_else(String::new, |signal| signal.org.to_string());
        matched.batches.push(Encoded { partition, key, payload });
    }
    matched
}

fn count(batch: &SignalBatch<'_>, counts: &mut Vec<(String, u64)>) {
    for signal in &batch.signals {
        match counts.iter_mut().find(|(rule, _)| *rule == signal.base_rule_id) {
            Some((_, count)) => *count += 1,
            None => counts.push((signal.base_rule_id.to_string(), 1)),
        }
    }
}
