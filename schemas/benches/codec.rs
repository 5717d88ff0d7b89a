//! Nanoseconds an event to encode and decode a batch of 500, ours beside `apache-avro`.
//!
//! `cargo bench -p tidewatch-schemas`. The figures are in docs/decisions/0001-avro-codec.md.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark that prints for people")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use tidewatch_schemas::framing::{HEADER_BYTES, Record};
use tidewatch_schemas::{Event, EventBatch, Micros, Source, decode_body, encode};

const EVENTS: usize = 500;

fn batch() -> EventBatch<'static> {
    let event = |index| Event {
        index,
        time: Micros(1_700_000_000_000_000 + i64::from(index)),
        received_at: Micros(1_700_000_000_100_000),
        org: "acme".into(),
        class_uid: 3002,
        activity_id: 1,
        severity_id: 2,
        host: Some("web-17.eu-west".into()),
        user: Some("deploy".into()),
        src_ip: Some("203.0.113.77".into()),
        dst_ip: None,
        src_port: Some(50_022),
        dst_port: None,
        source_type: "sshd".into(),
        message: Some("Failed password for invalid user deploy from 203.0.113.77 port 50022 ssh2".into()),
        repeat: 1,
        labels: vec![],
        attributes: Some(r#"{"pid":48213,"method":"password","session":"c91d07aa","seq":1048576}"#.into()),
        flags: 0,
        event_uid: None,
    };
    EventBatch {
        source: Source { topic_id: uuid::Uuid::from_u128(1), partition: 3, from: 41, offset: 42 },
        events: (0..EVENTS as i32).map(event).collect(),
        rejects: vec![],
        pushes: vec![],
    }
}

/// Median nanoseconds an event over repeated runs of about two seconds in all.
fn measure(what: &str, mut run: impl FnMut()) {
    let mut samples = Vec::new();
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        let start = Instant::now();
        run();
        samples.push(start.elapsed().as_nanos() as f64 / EVENTS as f64);
    }
    samples.sort_by(f64::total_cmp);
    println!("{what:<42} {:>7.0} ns an event", samples.get(samples.len() / 2).unwrap());
}

fn main() {
    let batch = batch();
    let mut bytes = Vec::new();
    encode(&batch, &mut bytes);
    let body = bytes.split_off(HEADER_BYTES);
    let schema = &EventBatch::versions().all().last().unwrap().1;
    let reader = GenericDatumReader::builder(schema).build().unwrap();
    let writer = GenericDatumWriter::builder(schema).build().unwrap();
    let value = reader.read_value(&mut body.as_slice()).unwrap();
    println!("{} bytes an event", body.len() / EVENTS);

    let mut out = Vec::new();
    measure("encode, this crate", || {
        out.clear();
        encode(black_box(&batch), &mut out);
    });
    measure("encode, apache-avro from Value", || {
        out.clear();
        writer.write_value_ref(&mut out, black_box(&value)).unwrap();
    });
    measure("decode borrowed, this crate", || {
        black_box(decode_body::<EventBatch<'_>>(black_box(&body)).unwrap());
    });
    measure("decode, apache-avro to Value", || {
        black_box(reader.read_value(&mut black_box(body.as_slice())).unwrap());
    });
    measure("decode, apache-avro through serde, owned", || {
        black_box(reader.read_deser::<owned::EventBatch>(&mut black_box(body.as_slice())).unwrap());
    });
}

/// The same record for apache-avro's serde path, which has no borrowed form.
#[allow(dead_code, reason = "read for their cost")]
mod owned {
    use serde::Deserialize;

    #[derive(Deserialize)]
    pub struct EventBatch {
        source: Source,
        events: Vec<Event>,
        rejects: Vec<String>,
        pushes: Vec<String>,
    }

    #[derive(Deserialize)]
    struct Source {
        #[serde(with = "apache_avro::serde::fixed")]
        topic_id: [u8; 16],
        partition: i32,
        from: i64,
        offset: i64,
    }

    #[derive(Deserialize)]
    struct Event {
        index: i32,
        time: i64,
        received_at: i64,
        org: String,
        class_uid: i32,
        activity_id: i32,
        severity_id: i32,
        host: Option<String>,
        user: Option<String>,
        src_ip: Option<String>,
        dst_ip: Option<String>,
        src_port: Option<i32>,
        dst_port: Option<i32>,
        source_type: String,
        message: Option<String>,
        repeat: i32,
        labels: Vec<String>,
        attributes: Option<String>,
        flags: i32,
        event_uid: Option<String>,
    }
}
