//! Memory of a million live keys, each one event short of its threshold.
//! `cargo run --release -p tidewatch-detection --example keys [KEYS]`; exits with 1 if a million keys take more than 512 MB.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "prints for people")]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use schemas::{Micros, Pair, Signal, SignalBatch, Source};
use tidewatch_detection::{Correlator, Rules, Taxonomy, When, load_documents};
use uuid::Uuid;

const LIMIT_MB: f64 = 512.0;
const BATCH: usize = 100;

/// A rule that asks for `threshold`, and how it counts.
fn rules(kind: &str, threshold: usize) -> Arc<Rules> {
    let base: String = (0..threshold)
        .map(|n| {
            format!(
                "title: a{n}\nid: a{n}\nlevel: low\nlogsource: {{category: authentication}}\n\
                 detection: {{s: {{outcome: failure}}, condition: s}}\n---\n"
            )
        })
        .collect();
    let names: Vec<String> = (0..threshold).map(|n| format!("a{n}")).collect();
    let (rules, condition) = match kind {
        "event_count" => ("a0".to_owned(), format!("condition: {{gte: {threshold}}}")),
        "value_count" => ("a0".to_owned(), format!("condition: {{field: user, gte: {threshold}}}")),
        _ => (names.join(", "), "level: high".to_owned()),
    };
    let text = format!(
        "{base}title: b\nid: b\nlevel: high\ncorrelation:\n  type: {kind}\n  rules: [{rules}]\n  group-by: [src_ip]\n  \
         timespan: 1h\n  {condition}\n"
    );
    let loaded = load_documents(Path::new("rules.yml"), &text, &Taxonomy::shipped().unwrap());
    assert_eq!(loaded.defects, []);
    Arc::new(loaded.rules)
}

fn signal(kind: &str, index: usize, key: usize, round: usize) -> Signal<'static> {
    let pair = |name: &'static str, value: String| Pair { name: name.into(), value: value.into() };
    let address = format!("100.{}.{}.{}", (key >> 16) & 255, (key >> 8) & 255, key & 255);
    let temporal = kind.starts_with("temporal");
    // Users differ where they are what is counted.
    let user = if kind == "value_count" { format!("user{round}") } else { "root".to_owned() };
    Signal {
        index: i32::try_from(index).unwrap(),
        org: "demo".into(),
        correlation_id: Some("b".into()),
        chain_id: None,
        base_rule_id: format!("a{}", if temporal { round } else { 0 }).into(),
        rule_hash: "0123456789abcdef".into(),
        group_key: vec![pair("src_ip", address.clone())],
        event_time: Micros(1_800_000_000_000_000 + (round * 180_000_000 + key) as i64),
        received_at: Micros(1_800_000_000_000_000),
        event_uid: None,
        value: (kind == "value_count").then(|| user.clone().into()),
        weight: 1,
        severity_id: 2,
        entities: vec![
            pair("host", format!("host-{:04}.example.org", key % 2_000)),
            pair("user", user),
            pair("ip", address),
        ],
        flags: 0,
    }
}

const KINDS: [&str; 4] = ["event_count", "value_count", "temporal", "temporal_ordered"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [keys, kind, events] = arguments.as_slice() {
        measure(keys.parse().unwrap(), kind, events.parse().unwrap());
        return ExitCode::SUCCESS;
    }
    let keys = arguments.first().map_or("1000000", String::as_str);
    println!("{:<36} {:>10} {:>8} {:>10} {:>10}", "", "bytes/key", "MB", "estimate", "ns/signal");
    let mut most: f64 = 0.0;
    for kind in KINDS {
        for events in ["1", "4", "9"] {
            // A process for each: what one gives back, the next would not ask the system for.
            let this = std::env::current_exe().unwrap();
            let output = std::process::Command::new(this).args([keys, kind, events]).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let line = String::from_utf8(output.stdout).unwrap();
            print!("{line}");
            most = most.max(line.split_whitespace().nth_back(3).unwrap().parse().unwrap());
        }
    }
    println!("a million keys take {most:.0} MB at most; the limit is {LIMIT_MB:.0}");
    if most <= LIMIT_MB { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn measure(keys: usize, kind: &str, events: usize) {
    let before = resident();
    let mut correlator = Correlator::new(rules(kind, 10));
    let mut nanos = 0;
    let mut number = 0;
    for round in 0..events {
        for first in (0..keys).step_by(BATCH) {
            let these = first..(first + BATCH).min(keys);
            let signals = these.clone().map(|key| signal(kind, key - first, key, round)).collect();
            number += 1;
            let source = Source { topic_id: Uuid::nil(), partition: 0, from: number, offset: number };
            let batch = SignalBatch { stream: "events".into(), source, signals };
            let started = cpu_nanos();
            assert_eq!(correlator.apply(&batch, 0).counted, these.len() as u64);
            nanos += cpu_nanos() - started;
        }
    }
    correlator.publish(When::Changed, Micros(0), &mut |_| unreachable!("below the threshold"));
    assert_eq!(correlator.groups(), keys);
    let bytes = resident().saturating_sub(before) as f64;
    println!(
        "{:<36} {:>10.0} {:>8.0} {:>10.0} {:>10.0}",
        format!("{kind} of 10, {events} each"),
        bytes / keys as f64,
        bytes / 1e6,
        correlator.state_bytes() as f64 / keys as f64,
        nanos as f64 / (keys * events) as f64,
    );
}

/// Resident memory of this process, bytes (Linux).
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// CPU time of this process (Linux).
fn cpu_nanos() -> u64 {
    let schedstat = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    schedstat.split(' ').next().unwrap().parse().unwrap()
}
