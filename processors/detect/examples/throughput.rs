//! CPU of decoding and matching enriched batches with the shipped rules, by kind of event:
//! `cargo run --release -p tidewatch-detect --example throughput [RULES]`.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "prints for people")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use detection::Directory;
use schemas::{EventBatch, Micros, Source, Stream};
use tidewatch_detect::match_record;
use uuid::Uuid;

const BATCH: usize = 500;
const RUN: Duration = Duration::from_secs(2);

fn kinds() -> Vec<(&'static str, Vec<String>)> {
    let json = |n: usize| {
        let (host, ip) = (n % 8, n % 250);
        match n % 10 {
            0..5 => format!(
                r#"{{"time":"2026-11-21T09:05:07.123Z","class_uid":4001,"activity_id":6,"severity_id":1,"host":"gw-{host}","src_ip":"100.64.3.{ip}","src_port":40123,"dst_ip":"10.0.3.{ip}","dst_port":443,"message":"connection allowed by policy egress-web","bytes_out":{n},"run":"r","seq":{n}}}"#
            ),
            5..7 => format!(
                r#"{{"time":"2026-11-21T09:05:07.123Z","class_uid":3002,"activity_id":1,"severity_id":1,"host":"web-{host}","user":"ada","src_ip":"100.64.3.{ip}","message":"user ada signed in with a passkey","service":"sso","mfa":true,"session_minutes":{n},"run":"r","seq":{n}}}"#
            ),
            7..9 => format!(
                r#"{{"time":"2026-11-21T09:05:07.123Z","class_uid":1007,"activity_id":1,"severity_id":1,"host":"db-{host}","user":"ada","message":"process started: /usr/bin/rsync --archive /srv /backup","pid":{n},"parent":"/usr/lib/systemd/systemd","run":"r","seq":{n}}}"#
            ),
            _ => format!(
                r#"{{"time":"2026-11-21T09:05:07.123Z","class_uid":0,"severity_id":1,"host":"app-{host}","source_type":"billing","message":"invoice {n} rendered and queued for delivery to the customer","duration_ms":31,"queue":"mail-out","run":"r","seq":{n}}}"#
            ),
        }
    };
    let sshd = |n: usize| {
        let verb = if n.is_multiple_of(10) { "Failed password" } else { "Accepted publickey" };
        format!(
            r#"<38>1 2026-11-21T09:05:07Z bastion sshd 4711 - [loadgen@32473 run="r" seq="{n}"] {verb} for ada from 100.64.3.{} port 40123 ssh2"#,
            n % 250
        )
    };
    let access = |n: usize| {
        let (path, status) =
            if n.is_multiple_of(20) { ("/old-page", 404) } else { ("/api/v2/orders?page=3", 200) };
        format!(
            r#"<190>1 2026-11-21T09:05:07Z shop-1 nginx 4711 - [loadgen@32473 run="r" seq="{n}"] 100.64.3.{} - - [21/Nov/2026:09:05:07 +0000] "GET {path} HTTP/1.1" {status} 5120 "-" "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0""#,
            n % 250
        )
    };
    let windows = |n: usize| {
        if n.is_multiple_of(2) {
            format!(
                r#"{{"EventTime":"2026-11-21T09:05:07.123Z","EventID":4624,"Channel":"Security","Computer":"WS-042","TargetUserName":"ada","LogonType":2,"IpAddress":"100.64.3.{}","LogonProcessName":"User32","AuthenticationPackageName":"Negotiate","run":"r","seq":{n}}}"#,
                n % 250
            )
        } else {
            format!(
                r#"{{"EventTime":"2026-11-21T09:05:07.123Z","EventID":4688,"Channel":"Security","Computer":"WS-042","SubjectUserName":"ada","NewProcessName":"C:\\Windows\\System32\\svchost.exe","ParentProcessName":"C:\\Windows\\System32\\services.exe","run":"r","seq":{n}}}"#
            )
        }
    };
    let make = |line: &dyn Fn(usize) -> String| (0..BATCH).map(line).collect::<Vec<_>>();
    let mixed = |n: usize| match n % 4 {
        0 => json(n / 4),
        1 => sshd(n / 4),
        2 => access(n / 4),
        _ => windows(n / 4),
    };
    vec![
        ("json", make(&json)),
        ("sshd", make(&sshd)),
        ("web access", make(&access)),
        ("windows", make(&windows)),
        ("mixed", make(&mixed)),
    ]
}

fn main() {
    let shipped = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../rules"));
    let path = std::env::args_os().nth(1).map_or(shipped, PathBuf::from);
    let (directory, defects) = Directory::open(&path).unwrap();
    let rules = directory.rules();
    println!("{} rules, {} refused", rules.len(), defects.len());
    println!("{:<12} {:>12} {:>12} {:>14} {:>10}", "", "decode ns", "whole ns", "events/s", "signals");
    for (kind, lines) in kinds() {
        let events = lines.iter().zip(0..).map(|(line, index)| {
            let input = normalise::Input {
                bytes: line.as_bytes(),
                format: "text",
                org: "demo",
                received_at: Micros::now(),
                index,
                event_uid: None,
            };
            normalise::event(&input).unwrap()
        });
        let source = Source { topic_id: Uuid::nil(), partition: 0, from: 0, offset: 0 };
        let batch = EventBatch { source, events: events.collect(), rejects: vec![], pushes: vec![] };
        let mut payload = Vec::new();
        schemas::encode(&batch, &mut payload);
        let decode = time(|| {
            std::hint::black_box(schemas::decode::<EventBatch<'_>>(&payload).unwrap().events.len());
        });
        let mut signals = 0;
        let whole = time(|| {
            let matched = match_record(&rules, Stream::Events, &payload).unwrap();
            signals = matched.signals.iter().map(|(_, count)| count).sum::<u64>();
        });
        let a_second = 1e9 / whole;
        println!("{kind:<12} {decode:>12.0} {whole:>12.0} {a_second:>14.0} {signals:>10}");
    }
}

/// Nanoseconds of CPU an event.
fn time(mut work: impl FnMut()) -> f64 {
    work();
    let (start, before, mut rounds) = (Instant::now(), cpu_nanos(), 0u32);
    while start.elapsed() < RUN {
        work();
        rounds += 1;
    }
    (cpu_nanos() - before) as f64 / f64::from(rounds) / BATCH as f64
}

/// CPU time of this process (Linux).
fn cpu_nanos() -> u64 {
    let schedstat = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    schedstat.split(' ').next().unwrap().parse().unwrap()
}
