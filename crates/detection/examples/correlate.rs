//! CPU of decoding and correlating signals: one hot group beside a spread over many.
//! `cargo run --release -p tidewatch-detection --example correlate`.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "prints for people")]

use std::path::Path;
use std::sync::Arc;

use schemas::{Micros, Pair, Signal, SignalBatch, Source};
use tidewatch_detection::{Correlator, Rules, Taxonomy, When, load_documents};
use uuid::Uuid;

const SIGNALS: usize = 2_000_000;
const BATCH: usize = 50;

fn rules() -> Arc<Rules> {
    let text = "title: a\nid: a\nlevel: low\nlogsource: {category: authentication}\n\
                detection: {s: {outcome: failure}, condition: s}\n---\n\
                title: b\nid: b\nlevel: high\ncorrelation:\n  type: event_count\n  rules: [a]\n  group-by: [src_ip]\n  \
                timespan: 5m\n  condition: {gte: 10}\n";
    Arc::new(load_documents(Path::new("rules.yml"), text, &Taxonomy::shipped().unwrap()).rules)
}

fn payload(first: usize, groups: usize) -> Vec<u8> {
    let pair = |name: &'static str, value: String| Pair { name: name.into(), value: value.into() };
    let signal = |n: usize| {
        let group = n % groups;
        let address = format!("100.{}.{}.{}", (group >> 16) & 255, (group >> 8) & 255, group & 255);
        Signal {
            index: i32::try_from(n - first).unwrap(),
            org: "demo".into(),
            correlation_id: Some("b".into()),
            chain_id: None,
            base_rule_id: "a".into(),
            rule_hash: "0123456789abcdef".into(),
            group_key: vec![pair("src_ip", address.clone())],
            event_time: Micros(1_800_000_000_000_000 + n as i64 * 10),
            received_at: Micros(1_800_000_000_000_000 + n as i64 * 10),
            event_uid: None,
            value: None,
            weight: 1,
            severity_id: 2,
            entities: vec![pair("host", "bastion".into()), pair("user", "root".into()), pair("ip", address)],
            flags: 0,
        }
    };
    let offset = i64::try_from(first).unwrap();
    let source = Source { topic_id: Uuid::nil(), partition: 0, from: offset, offset };
    let signals = (first..first + BATCH).map(signal).collect();
    let mut payload = Vec::new();
    schemas::encode(&SignalBatch { stream: "events".into(), source, signals }, &mut payload);
    payload
}

fn main() {
    println!("{:<24} {:>10} {:>14} {:>10}", "", "ns", "signals/s", "changes");
    for (name, groups) in [("one group", 1), ("1,000 groups", 1_000), ("a million groups", 1_000_000)] {
        let payloads: Vec<Vec<u8>> =
            (0..SIGNALS).step_by(BATCH).map(|first| payload(first, groups)).collect();
        let mut correlator = Correlator::new(rules());
        let before = cpu_nanos();
        let mut changes = 0;
        for (number, payload) in payloads.iter().enumerate() {
            let batch: SignalBatch<'_> = schemas::decode(payload).unwrap();
            correlator.apply(&batch, 0);
            correlator.publish(When::Fired, Micros(0), &mut |_| changes += 1);
            if number % 1_000 == 0 {
                correlator.publish(When::Changed, Micros(0), &mut |_| changes += 1);
            }
        }
        let each = (cpu_nanos() - before) as f64 / SIGNALS as f64;
        println!("{name:<24} {each:>10.0} {:>14.0} {changes:>10}", 1e9 / each);
    }
}

/// CPU time of this process (Linux).
fn cpu_nanos() -> u64 {
    let schedstat = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    schedstat.split(' ').next().unwrap().parse().unwrap()
}
