//! The processors: one raw batch to one enriched batch.

use std::borrow::Cow;

use normalise::{FindingRecord, Input};
use schemas::{EventBatch, FindingBatch, Micros, Push, RawBatch, RawRecord, Reject, Run, Source, event_uid};

use crate::context::{Context, Matches};

/// Normalises a batch of `events.raw` and adds context. Never fails: what cannot be understood becomes a
/// [`Reject`] of the result, and every raw record is in it exactly once.
pub fn enrich_events<'a>(
    batch: &'a RawBatch<'a>,
    source: Source,
    context: &'a Context,
    now: Micros,
    matches: &mut Matches,
) -> EventBatch<'a> {
    let has_context = !context.is_empty();
    let mut result = EventBatch {
        source,
        events: Vec::with_capacity(records(batch)),
        rejects: Vec::new(),
        pushes: pushes(batch),
    };
    for input in inputs(batch, now) {
        match normalise::event(&input) {
            Ok(event) => {
                result.events.push(event);
                if has_context && let Some(event) = result.events.last_mut() {
                    context.apply_to_event(event, matches);
                }
            }
            Err(reject) => result.rejects.push(reject),
        }
    }
    result
}

/// The same for a batch of `findings.raw`.
pub fn enrich_findings<'a>(
    batch: &'a RawBatch<'a>,
    source: Source,
    context: &'a Context,
    now: Micros,
    matches: &mut Matches,
) -> FindingBatch<'a> {
    let mut result = FindingBatch {
        source,
        findings: Vec::new(),
        scans: Vec::new(),
        rejects: Vec::new(),
        pushes: pushes(batch),
    };
    for input in inputs(batch, now) {
        match normalise::finding(&input) {
            Ok(FindingRecord::Finding(mut finding)) => {
                context.apply_to_finding(&mut finding, matches);
                result.findings.push(finding);
            }
            Ok(FindingRecord::Scan(scan)) => result.scans.push(scan),
            Err(reject) => result.rejects.push(reject),
        }
    }
    result
}

/// Raw records of all runs.
pub fn records(batch: &RawBatch<'_>) -> usize {
    batch.runs.iter().map(|run| run.records.len()).sum()
}

/// The raw records with their ordinals over all runs; identities that a client's retry shares for keyed ones.
fn inputs<'a>(batch: &'a RawBatch<'a>, now: Micros) -> impl Iterator<Item = Input<'a>> {
    let in_run = |run: &'a Run<'a>| run.records.iter().enumerate().map(move |(at, record)| (run, at, record));
    batch.runs.iter().flat_map(in_run).enumerate().map(move |(index, (run, at, record))| Input {
        bytes: &record.bytes,
        format: &run.format,
        org: &run.org,
        received_at: sane(record.received_at, now),
        index: ordinal(index),
        event_uid: run.key.as_deref().map(|key| event_uid(&run.org, key, run.part.unwrap_or(0), ordinal(at))),
    })
}

/// A raw record by its ordinal over all runs, with the org it belongs to.
pub(crate) fn raw<'a>(batch: &'a RawBatch<'a>, index: i32) -> Option<(&'a str, &'a RawRecord<'a>)> {
    let index = usize::try_from(index).ok()?;
    let in_run = |run: &'a Run<'a>| run.records.iter().map(|record| (run.org.as_ref(), record));
    batch.runs.iter().flat_map(in_run).nth(index)
}

fn ordinal(at: usize) -> i32 {
    i32::try_from(at).unwrap_or(i32::MAX)
}

fn pushes<'a>(batch: &'a RawBatch<'a>) -> Vec<Push<'a>> {
    let mut pushes = Vec::new();
    let mut first = 0;
    for run in &batch.runs {
        if let Some(key) = &run.key {
            pushes.push(Push {
                org: Cow::Borrowed(&run.org),
                key: Cow::Borrowed(key),
                digest: Cow::Borrowed(run.key_digest.as_deref().unwrap_or_default()),
                part: run.part.unwrap_or(0),
                first_index: ordinal(first),
                count: ordinal(run.records.len()),
            });
        }
        first += run.records.len();
    }
    pushes
}

/// Oldest time of receipt that is believed: raw topics keep a week by default.
const MAX_AGE_MICROS: i64 = 60 * 86_400 * 1_000_000;
/// How far ahead another host's clock may be.
const MAX_AHEAD_MICROS: i64 = 10 * 60 * 1_000_000;

/// The time of receipt that a record states, or now where that cannot be: every rule of time and the partition of
/// the quarantine hang on it, and producers other than ingest may write anything there.
pub(crate) fn sane(received_at: Micros, now: Micros) -> Micros {
    let believed = now.0.saturating_sub(MAX_AGE_MICROS)..=now.0.saturating_add(MAX_AHEAD_MICROS);
    if believed.contains(&received_at.0) { received_at } else { now }
}

/// A batch of `events` that holds nothing but one reject.
pub(crate) fn rejected_events(source: Source, reject: Reject<'_>) -> EventBatch<'_> {
    EventBatch { source, events: Vec::new(), rejects: vec![reject], pushes: Vec::new() }
}

/// A batch of `findings` that holds nothing but one reject.
pub(crate) fn rejected_findings(source: Source, reject: Reject<'_>) -> FindingBatch<'_> {
    FindingBatch {
        source,
        findings: Vec::new(),
        scans: Vec::new(),
        rejects: vec![reject],
        pushes: Vec::new(),
    }
}
