//! Our codec and `apache-avro` read and write the same bytes, for every record and any value.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::borrow::Cow;
use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema::Name;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use proptest::prelude::*;
use tidewatch_schemas::framing::{self, HEADER_BYTES, Record};
use tidewatch_schemas::*;
use uuid::Uuid;

/// Any value of a schema, as Avro's own types.
fn value_of(schema: &Schema, names: &HashMap<Name, Schema>) -> BoxedStrategy<Value> {
    match schema {
        Schema::Null => Just(Value::Null).boxed(),
        Schema::Boolean => any::<bool>().prop_map(Value::Boolean).boxed(),
        Schema::Int => any::<i32>().prop_map(Value::Int).boxed(),
        Schema::Long => any::<i64>().prop_map(Value::Long).boxed(),
        Schema::TimestampMicros => any::<i64>().prop_map(Value::TimestampMicros).boxed(),
        Schema::String => any::<String>().prop_map(Value::String).boxed(),
        Schema::Bytes => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes).boxed(),
        Schema::Fixed(fixed) => proptest::collection::vec(any::<u8>(), fixed.size)
            .prop_map(|bytes| Value::Fixed(bytes.len(), bytes))
            .boxed(),
        Schema::Array(array) => {
            proptest::collection::vec(value_of(&array.items, names), 0..3).prop_map(Value::Array).boxed()
        }
        Schema::Union(union) => {
            let branches: Vec<_> = union
                .variants()
                .iter()
                .zip(0u32..)
                .map(|(branch, at)| {
                    value_of(branch, names).prop_map(move |v| Value::Union(at, Box::new(v))).boxed()
                })
                .collect();
            proptest::strategy::Union::new(branches).boxed()
        }
        Schema::Record(record) => {
            let fields: Vec<_> = record
                .fields
                .iter()
                .map(|field| {
                    let name = field.name.clone();
                    value_of(&field.schema, names).prop_map(move |v| (name.clone(), v)).boxed()
                })
                .collect();
            fields.prop_map(Value::Record).boxed()
        }
        Schema::Ref { name } => value_of(&names[name], names),
        other => panic!("the schemas use no {other:?}"),
    }
}

/// Every named type in a schema, by its full name.
fn named(schema: &Schema, found: &mut HashMap<Name, Schema>) {
    match schema {
        Schema::Record(record) => {
            found.insert(record.name.clone(), schema.clone());
            record.fields.iter().for_each(|field| named(&field.schema, found));
        }
        Schema::Fixed(fixed) => {
            found.insert(fixed.name.clone(), schema.clone());
        }
        Schema::Array(array) => named(&array.items, found),
        Schema::Union(union) => union.variants().iter().for_each(|branch| named(branch, found)),
        _ => {}
    }
}

fn current<'a, R: Record<'a>>() -> &'static Schema {
    &R::versions().all().last().unwrap().1
}

/// Bytes that `apache-avro` writes for any value of `R`.
fn bodies<'a, R: Record<'a>>() -> impl Strategy<Value = Vec<u8>> {
    let schema = current::<R>();
    let mut names = HashMap::new();
    named(schema, &mut names);
    let writer = GenericDatumWriter::builder(schema).build().unwrap();
    value_of(schema, &names).prop_map(move |value| writer.write_value_to_vec(value).unwrap())
}

macro_rules! agrees_with_apache_avro {
    ($($test:ident: $record:ident;)+) => {
        $(
            mod $test {
                use super::*;

                proptest! {
                    #[test]
                    fn what_apache_avro_writes_is_read_and_written_back(body in bodies::<$record<'static>>()) {
                        let record: $record<'_> = decode_body(&body).unwrap();
                        let mut ours = Vec::new();
                        encode(&record, &mut ours);
                        // Read by apache-avro, ours is the same value; so it is byte for byte, but for block borders.
                        let schema = current::<$record<'static>>();
                        let reader = GenericDatumReader::builder(schema).build().unwrap();
                        let theirs = reader.read_value(&mut body.as_slice()).unwrap();
                        prop_assert_eq!(reader.read_value(&mut &ours[HEADER_BYTES..]).unwrap(), theirs);
                        prop_assert_eq!(decode::<$record<'_>>(&ours).unwrap(), record);
                    }

                    #[test]
                    fn damaged_bytes_are_an_error_and_never_a_panic(
                        mut body in bodies::<$record<'static>>(),
                        at in any::<prop::sample::Index>(),
                        byte in any::<u8>(),
                    ) {
                        if !body.is_empty() {
                            let cut = at.index(body.len());
                            prop_assert!(decode_body::<$record<'_>>(&body[..cut]).is_err());
                            body[cut] = byte;
                        }
                        let _ = decode_body::<$record<'_>>(&body);
                    }
                }
            }
        )+
    };
}

agrees_with_apache_avro! {
    raw_batch: RawBatch;
    event_batch: EventBatch;
    finding_batch: FindingBatch;
    signal_batch: SignalBatch;
    watermark: Watermark;
    incident_change: IncidentChange;
}

#[test]
fn a_lying_array_length_reserves_nothing() {
    // 2^62 runs announced, none there.
    let mut body = vec![0xff; 8];
    body.extend([0x7f, 0, 0]);
    assert!(decode_body::<RawBatch<'_>>(&body).is_err());
}

#[test]
fn the_raw_batch_writer_builds_what_the_codec_reads() {
    let mut writer = RawBatchWriter::new();
    let head = RunHead { org: "demo", protocol: "http", format: "json", key: None };
    let keyed = RunHead { key: Some(("push-1", &[7; 32], 2)), ..head };
    writer.push_run(head, Micros(5), "10.0.0.1", [b"{}".as_slice(), b"[1]"].into_iter());
    writer.push_run(head, Micros(5), "10.0.0.1", std::iter::empty());
    writer.push_run(keyed, Micros(6), "10.0.0.2", [b"x".as_slice()].into_iter());
    assert_eq!(writer.records(), 3);
    let bytes = writer.finish();
    let batch: RawBatch<'_> = decode(&bytes).unwrap();
    let record = |at, sender: &'static str, bytes: &'static [u8]| RawRecord {
        received_at: Micros(at),
        sender: sender.into(),
        bytes: bytes.into(),
    };
    assert_eq!(batch.runs.len(), 2);
    assert_eq!(batch.runs[0].records, [record(5, "10.0.0.1", b"{}"), record(5, "10.0.0.1", b"[1]")]);
    assert_eq!(batch.runs[1].key_digest, Some(Cow::Borrowed([7; 32].as_slice())));
    assert_eq!((batch.runs[1].key.as_deref(), batch.runs[1].part), (Some("push-1"), Some(2)));
    assert_eq!(batch.runs[1].records, [record(6, "10.0.0.2", b"x")]);
}

fn fingerprints() -> Vec<(&'static str, Vec<String>)> {
    fn hex<'a, R: Record<'a>>() -> Vec<String> {
        R::versions().all().iter().map(|(fingerprint, _)| format!("{fingerprint:016x}")).collect()
    }
    vec![
        ("RawBatch", hex::<RawBatch<'_>>()),
        ("EventBatch", hex::<EventBatch<'_>>()),
        ("FindingBatch", hex::<FindingBatch<'_>>()),
        ("SignalBatch", hex::<SignalBatch<'_>>()),
        ("Watermark", hex::<Watermark<'_>>()),
        ("IncidentChange", hex::<IncidentChange<'_>>()),
    ]
}

/// A published schema never changes: a change is a new file, named beside the old one in `records.rs`.
#[test]
fn published_schemas_keep_their_fingerprints() {
    insta::assert_debug_snapshot!(fingerprints());
}

#[test]
fn every_version_reads_every_other_version() {
    fn check<'a, R: Record<'a>>() {
        let versions = R::versions().all();
        assert!(!versions.is_empty());
        for (_, writer) in versions {
            for (_, reader) in versions {
                apache_avro::schema_compatibility::SchemaCompatibility::can_read(writer, reader).unwrap();
            }
        }
    }
    check::<RawBatch<'_>>();
    check::<EventBatch<'_>>();
    check::<FindingBatch<'_>>();
    check::<SignalBatch<'_>>();
    check::<Watermark<'_>>();
    check::<IncidentChange<'_>>();
}

#[test]
fn golden_bytes_of_an_event_batch() {
    let batch = EventBatch {
        source: Source { topic_id: Uuid::from_u128(1), partition: 3, from: 41, offset: 42 },
        events: vec![Event {
            index: 0,
            time: Micros(1_700_000_000_000_000),
            received_at: Micros(1_700_000_000_100_000),
            org: "demo".into(),
            class_uid: 3002,
            activity_id: 1,
            severity_id: 2,
            host: Some("web-1".into()),
            user: Some("root".into()),
            src_ip: Some("203.0.113.7".into()),
            dst_ip: None,
            src_port: Some(50022),
            dst_port: None,
            source_type: "sshd".into(),
            message: Some("Failed password for root".into()),
            repeat: 1,
            labels: vec!["dmz".into()],
            attributes: Some(r#"{"method":"password"}"#.into()),
            flags: 0,
            event_uid: None,
        }],
        rejects: vec![Reject {
            index: 1,
            received_at: Micros(1_700_000_000_100_000),
            org: Some("demo".into()),
            reason: "too_large".into(),
            detail: "300000 bytes".into(),
            bytes: b"xx".into(),
            digest: Some([9u8; 32].as_slice().into()),
        }],
        pushes: vec![],
    };
    let mut bytes = Vec::new();
    framing::encode(&batch, &mut bytes);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    insta::assert_snapshot!(hex);
    assert_eq!(decode::<EventBatch<'_>>(&bytes).unwrap(), batch);
}
