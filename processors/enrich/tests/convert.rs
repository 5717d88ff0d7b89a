//! What becomes of a Kafka record, without Kafka.
#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

use std::borrow::Cow;
use std::sync::Arc;

use kafka::{Record, TimestampKind};
use proptest::prelude::*;
use rstest::rstest;
use schemas::{
    EventBatch, FindingBatch, Micros, RawBatch, RawBatchWriter, RawRecord, Run, RunHead, Stream, event_uid,
};
use tidewatch_enrich::context::Context;
use tidewatch_enrich::{Converter, MAX_PAYLOAD_BYTES, Tally};
use uuid::Uuid;

const NOW: Micros = Micros(1_763_715_600_000_000);
const TOPIC: Uuid = Uuid::from_u128(7);

fn record(payload: Vec<u8>, headers: &[(&str, &[u8])]) -> Record {
    Record {
        topic: Arc::from("events.raw"),
        partition: 3,
        offset: 42,
        timestamp_ms: NOW.0 / 1_000 - 5_000,
        timestamp_kind: TimestampKind::Create,
        key: None,
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect(),
        payload,
        position_before: 40,
    }
}

fn convert(stream: Stream, default_org: Option<&str>, record: &Record) -> (Vec<u8>, Tally) {
    let converter = Converter { stream, default_org: default_org.map(|org| org.parse().unwrap()) };
    let mut out = Vec::new();
    let tally = converter.convert(record, TOPIC, &Context::default(), NOW, &mut out);
    assert!(out.len() <= MAX_PAYLOAD_BYTES);
    (out, tally)
}

/// A framed raw batch of runs.
fn framed(runs: &[(RunHead<'_>, &[&[u8]])]) -> Vec<u8> {
    let mut writer = RawBatchWriter::new();
    for (head, lines) in runs {
        writer.push_run(*head, NOW, "sender", lines.iter().copied());
    }
    writer.finish()
}

fn head(org: &str) -> RunHead<'_> {
    RunHead { org, protocol: "http", format: "json", key: None }
}

#[test]
fn every_raw_record_keeps_its_place_and_org() {
    let large = vec![b'x'; normalise::MAX_EVENT_BYTES + 1];
    let payload = framed(&[
        (head("a"), &[b"{\"message\":\"one\"}", b"two"]),
        (head("b"), &[&large, b"\xff", b"{\"user\":\"\\u0000\"}"]),
    ]);
    let (out, tally) = convert(Stream::Events, None, &record(payload, &[]));
    let batch: EventBatch<'_> = schemas::decode(&out).unwrap();
    assert_eq!((batch.source.topic_id, batch.source.partition), (TOPIC, 3));
    assert_eq!((batch.source.from, batch.source.offset), (40, 42));
    let events: Vec<_> = batch.events.iter().map(|event| (event.index, event.org.as_ref())).collect();
    assert_eq!(events, [(0, "a"), (1, "a"), (3, "b"), (4, "b")]);
    let rejects: Vec<_> = batch.rejects.iter().map(|reject| (reject.index, reject.reason.as_ref())).collect();
    assert_eq!(rejects, [(2, "too_large")]);
    assert_eq!(tally.rejected, [("too_large".to_owned(), 1)]);
    assert_eq!(tally.understood, [("json".to_owned(), 2), ("text".to_owned(), 2)]);
}

#[test]
fn a_keyed_push_keeps_its_key_and_its_identities() {
    let digest = [9; 32];
    let keyed = RunHead { key: Some(("push-1", &digest, 2)), ..head("a") };
    let payload = framed(&[(head("a"), &[b"x"]), (keyed, &[b"y", b"z"])]);
    let (out, _) = convert(Stream::Events, None, &record(payload, &[]));
    let batch: EventBatch<'_> = schemas::decode(&out).unwrap();
    let push = &batch.pushes[0];
    assert_eq!((push.key.as_ref(), push.part, push.first_index, push.count), ("push-1", 2, 1, 2));
    assert_eq!(push.digest.as_ref(), digest);
    let uids: Vec<_> = batch.events.iter().map(|event| event.event_uid).collect();
    assert_eq!(uids, [None, Some(event_uid("a", "push-1", 2, 0)), Some(event_uid("a", "push-1", 2, 1))]);
}

#[rstest]
#[case(&[("org", b"team-a".as_slice())], None, Some("team-a"))]
#[case(&[("org", b"team-a".as_slice())], Some("other"), Some("team-a"))]
#[case(&[], Some("other"), Some("other"))]
#[case(&[], None, None)]
#[case(&[("org", b"Not An Org".as_slice())], Some("other"), None)]
#[case(&[("org", b"\xff".as_slice())], Some("other"), None)]
fn a_foreign_record_is_a_batch_of_one(
    #[case] headers: &[(&str, &[u8])],
    #[case] default_org: Option<&str>,
    #[case] expected: Option<&str>,
) {
    let (out, _) = convert(Stream::Events, default_org, &record(b"{\"user\":\"alice\"}".to_vec(), headers));
    let batch: EventBatch<'_> = schemas::decode(&out).unwrap();
    match expected {
        Some(org) => {
            let event = &batch.events[0];
            assert_eq!((event.org.as_ref(), event.user.as_deref()), (org, Some("alice")));
            assert_eq!(event.received_at, Micros(NOW.0 - 5_000_000));
            assert!(batch.rejects.is_empty());
        }
        None => {
            let reject = &batch.rejects[0];
            assert_eq!((reject.reason.as_ref(), reject.org.as_deref()), ("no_org", None));
            assert_eq!(reject.bytes.as_ref(), b"{\"user\":\"alice\"}");
            assert!(batch.events.is_empty());
        }
    }
}

#[test]
fn a_record_that_cannot_be_read_is_one_reject_with_its_bytes() {
    let whole = framed(&[(head("a"), &[b"x", b"y"])]);
    let mut unknown = whole.clone();
    unknown[5] ^= 0xff;
    for payload in [whole[..whole.len() - 2].to_vec(), unknown, b"\xc3\x01garbage!!!".to_vec()] {
        for stream in Stream::ALL {
            let (out, tally) = convert(stream, Some("other"), &record(payload.clone(), &[]));
            let rejects = match stream {
                Stream::Events => schemas::decode::<EventBatch<'_>>(&out).unwrap().rejects,
                Stream::Findings => schemas::decode::<FindingBatch<'_>>(&out).unwrap().rejects,
            };
            assert_eq!(rejects.len(), 1);
            assert_eq!((rejects[0].reason.as_ref(), rejects[0].org.as_deref()), ("bad_record", None));
            assert_eq!(rejects[0].bytes.as_ref(), payload);
            assert_eq!(tally.rejected, [("bad_record".to_owned(), 1)]);
        }
    }
}

#[test]
fn times_of_receipt_that_cannot_be_are_replaced() {
    let mut strange = record(b"x".to_vec(), &[("org", b"a")]);
    for timestamp_ms in [0, i64::MAX, i64::MIN, 4_102_444_800_000] {
        strange.timestamp_ms = timestamp_ms;
        let (out, _) = convert(Stream::Events, None, &strange);
        assert_eq!(schemas::decode::<EventBatch<'_>>(&out).unwrap().events[0].received_at, NOW);
    }
}

#[test]
fn a_batch_that_would_be_too_large_gives_up_its_largest_events() {
    // Control characters take six bytes each in attributes.
    let swollen = format!("<13>1 2025-11-21T08:00:00Z h a - - [i k=\"{}\"] m", "\u{1}".repeat(250_000));
    let lines: Vec<&[u8]> =
        std::iter::repeat_n(swollen.as_bytes(), 7).chain([b"small".as_slice(), b"{\"a\":1}"]).collect();
    let payload = framed(&[(head("a"), &lines)]);
    let (out, tally) = convert(Stream::Events, None, &record(payload, &[]));
    let batch: EventBatch<'_> = schemas::decode(&out).unwrap();
    assert_eq!(batch.events.len() + batch.rejects.len(), 9);
    assert!(batch.rejects.len() < 7, "no more than needed");
    assert!(batch.rejects.iter().all(|reject| reject.reason == "too_large" && reject.digest.is_some()));
    assert!(
        batch.events.iter().any(|event| event.index == 7)
            && batch.events.iter().any(|event| event.index == 8)
    );
    assert_eq!(tally.rejected, [("too_large".to_owned(), batch.rejects.len() as u64)]);
}

#[test]
fn a_batch_that_cannot_be_made_to_fit_is_one_reject() {
    let org = "a".repeat(64);
    let record_of = RawRecord { received_at: NOW, sender: Cow::Borrowed(""), bytes: Cow::Borrowed(b"") };
    let run = Run {
        org: Cow::Borrowed(&org),
        protocol: Cow::Borrowed("kafka"),
        format: Cow::Borrowed("text"),
        key: None,
        key_digest: None,
        part: None,
        records: vec![record_of; 100_000],
    };
    let mut payload = Vec::new();
    schemas::encode(&RawBatch { runs: vec![run] }, &mut payload);
    let (out, _) = convert(Stream::Events, None, &record(payload, &[]));
    let batch: EventBatch<'_> = schemas::decode(&out).unwrap();
    assert_eq!((batch.events.len(), batch.rejects.len()), (0, 1));
    assert_eq!(batch.rejects[0].reason, "bad_record");
    assert!(batch.rejects[0].detail.contains("100000 records"), "{}", batch.rejects[0].detail);
}

#[test]
fn findings_and_scans_are_told_apart() {
    let payload = framed(&[(
        head("a"),
        &[b"{\"uid\":\"f\",\"kind\":\"pii\"}", b"{\"scan_id\":\"s\",\"state\":\"running\"}", b"neither"],
    )]);
    let (out, tally) = convert(Stream::Findings, None, &record(payload, &[]));
    let batch: FindingBatch<'_> = schemas::decode(&out).unwrap();
    assert_eq!((batch.findings[0].index, batch.scans[0].index, batch.rejects[0].index), (0, 1, 2));
    assert_eq!(tally.understood, [("finding".to_owned(), 1), ("scan_activity".to_owned(), 1)]);
}

proptest! {
    #[test]
    fn every_record_in_is_one_event_or_reject_out(
        runs in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..20), 0..5),
    ) {
        let lines: Vec<Vec<&[u8]>> = runs.iter().map(|run| run.iter().map(Vec::as_slice).collect()).collect();
        let runs: Vec<_> = lines.iter().map(|lines| (head("a"), lines.as_slice())).collect();
        let total: usize = lines.iter().map(Vec::len).sum();
        let raw = record(framed(&runs), &[]);
        let (out, _) = convert(Stream::Events, None, &raw);
        let batch: EventBatch<'_> = schemas::decode(&out).unwrap();
        let mut indexes: Vec<_> = batch.events.iter().map(|event| event.index).collect();
        indexes.extend(batch.rejects.iter().map(|reject| reject.index));
        indexes.sort_unstable();
        prop_assert!(indexes.into_iter().eq(0..total as i32));
        let (out, _) = convert(Stream::Findings, None, &raw);
        let batch: FindingBatch<'_> = schemas::decode(&out).unwrap();
        prop_assert_eq!(batch.findings.len() + batch.scans.len() + batch.rejects.len(), total);
    }

    #[test]
    fn any_payload_is_one_enriched_record(payload: Vec<u8>) {
        for stream in Stream::ALL {
            let (out, _) = convert(stream, Some("a"), &record(payload.clone(), &[]));
            prop_assert!(schemas::framing::fingerprint(&out).is_some());
        }
    }
}
