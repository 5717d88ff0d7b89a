//! Keeps an enriched batch within what one Kafka record may have.

use std::collections::BTreeSet;

use schemas::avro::Field;
use schemas::{EventBatch, FindingBatch, Micros, RawBatch, Reject};

use crate::batch::{self, sane};

/// Bytes of raw record that a reject keeps here: its whole is too large already.
const KEPT_BYTES: usize = 4096;

/// Ordinals to give up, the largest first, until the sizes given up make up for `excess`; a reject takes the
/// place of each.
fn largest(mut sizes: Vec<(usize, i32)>, excess: usize) -> BTreeSet<i32> {
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let mut given_up = BTreeSet::new();
    let mut saved = 0usize;
    for (size, index) in sizes {
        // What the reject takes beside its bytes: org, reason, detail, digest.
        let gain = size.saturating_sub(KEPT_BYTES + 256);
        if saved >= excess || gain == 0 {
            break;
        }
        saved += gain;
        given_up.insert(index);
    }
    given_up
}

fn size<'a>(record: &impl Field<'a>, scratch: &mut Vec<u8>) -> usize {
    scratch.clear();
    record.put(scratch);
    scratch.len()
}

/// Rejects of the given ordinals.
fn rejects<'a>(raw: &'a RawBatch<'a>, given_up: &BTreeSet<i32>, now: Micros) -> Vec<Reject<'a>> {
    let of = |index: &i32| {
        let (org, record) = batch::raw(raw, *index)?;
        let detail = "its batch would exceed what one Kafka record may have";
        let received_at = sane(record.received_at, now);
        let mut reject =
            normalise::reject(&record.bytes, *index, received_at, Some(org), "too_large", detail);
        if reject.bytes.len() > KEPT_BYTES {
            let digest = normalise::digest(&record.bytes);
            reject.bytes = record.bytes.get(..KEPT_BYTES).unwrap_or_default().into();
            reject.digest = Some(digest.to_vec().into());
        }
        Some(reject)
    };
    given_up.iter().filter_map(of).collect()
}

/// Turns the largest events into rejects, to save at least `excess` bytes if that can be.
pub(crate) fn shrink_events<'a>(
    batch: &mut EventBatch<'a>,
    raw: &'a RawBatch<'a>,
    excess: usize,
    now: Micros,
) {
    let mut scratch = Vec::new();
    let sizes = batch.events.iter().map(|event| (size(event, &mut scratch), event.index)).collect();
    let given_up = largest(sizes, excess);
    batch.events.retain(|event| !given_up.contains(&event.index));
    batch.rejects.extend(rejects(raw, &given_up, now));
    batch.rejects.sort_unstable_by_key(|reject| reject.index);
}

/// The same for findings and states of scans.
pub(crate) fn shrink_findings<'a>(
    batch: &mut FindingBatch<'a>,
    raw: &'a RawBatch<'a>,
    excess: usize,
    now: Micros,
) {
    let mut scratch = Vec::new();
    let mut sizes: Vec<_> =
        batch.findings.iter().map(|finding| (size(finding, &mut scratch), finding.index)).collect();
    sizes.extend(batch.scans.iter().map(|scan| (size(scan, &mut scratch), scan.index)));
    let given_up = largest(sizes, excess);
    batch.findings.retain(|finding| !given_up.contains(&finding.index));
    batch.scans.retain(|scan| !given_up.contains(&scan.index));
    batch.rejects.extend(rejects(raw, &given_up, now));
    batch.rejects.sort_unstable_by_key(|reject| reject.index);
}
