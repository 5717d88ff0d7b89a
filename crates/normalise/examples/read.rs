//! Reads log files line by line and tells what became of the lines, and how long one takes.
//!
//! `cargo run --release -p tidewatch-normalise --example read -- [--show CLASS] [--findings] FILE…`
#![allow(clippy::print_stdout, reason = "prints for people")]

use std::collections::BTreeMap;

use schemas::Micros;
use tidewatch_normalise::{self as normalise, FindingRecord, Input};

fn main() -> Result<(), std::io::Error> {
    let mut show = None;
    let mut findings = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--show" => show = arguments.next().and_then(|class| class.parse::<i32>().ok()),
            "--findings" => findings = true,
            file => read(file, show, findings)?,
        }
    }
    Ok(())
}

/// CPU time of this thread so far, which other processes do not disturb.
fn cpu_nanos() -> Result<u64, std::io::Error> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
}

fn input(line: &[u8]) -> Input<'_> {
    Input { bytes: line, format: "text", org: "demo", received_at: Micros::now(), index: 0, event_uid: None }
}

fn read(file: &str, show: Option<i32>, findings: bool) -> Result<(), std::io::Error> {
    let bytes = std::fs::read(file)?;
    let lines: Vec<&[u8]> = bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()).collect();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for line in &lines {
        let input = input(line);
        let kind = if findings {
            match normalise::finding(&input) {
                Ok(FindingRecord::Finding(finding)) => format!("finding {}", finding.class_uid),
                Ok(FindingRecord::Scan(scan)) => format!("scan {}", scan.state),
                Err(reject) => format!("reject {}", reject.reason),
            }
        } else {
            match normalise::event(&input) {
                Ok(event) => {
                    if show == Some(event.class_uid) {
                        println!("{event:#?}");
                    }
                    format!("{} class {} flags {}", event.source_type, event.class_uid, event.flags)
                }
                Err(reject) => format!("reject {}", reject.reason),
            }
        };
        *counts.entry(kind).or_default() += 1;
    }
    let rounds = (500_000 / lines.len().max(1)).max(1);
    let started = cpu_nanos()?;
    for _ in 0..rounds {
        for line in &lines {
            let _ = if findings {
                normalise::finding(&input(line)).is_ok()
            } else {
                std::hint::black_box(normalise::event(&input(line))).is_ok()
            };
        }
    }
    let each = (cpu_nanos()? - started) / (rounds * lines.len().max(1)) as u64;
    println!(
        "{file}: {} lines, {} B and {each} ns of CPU a line, {counts:#?}",
        lines.len(),
        bytes.len() / lines.len().max(1)
    );
    Ok(())
}
