//! What matching costs, and the floor beside it: reading the same events' JSON, and normalising them.
//! `TIDEWATCH_SIGMA_DATA=FOLDER cargo run --release -p tidewatch-detection --example matching [TEXT]`
//!
//! FOLDER holds SigmaHQ's rules, as `rules.tar.zst` or unpacked; without it only the shipped rules are measured. "Matching
//! alone" begins with a normalised event whose attributes are JSON text, as detect gets it, and ends with the rules that
//! matched. TEXT chooses the lines that contain it. Nanoseconds of CPU and of wall clock for an event; the rate is that of the CPU, for one core.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "prints for people"
)]

#[path = "matching/sigma.rs"]
mod sigma;
#[path = "matching/small.rs"]
mod small;
#[path = "matching/windows.rs"]
mod windows;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use normalise::{Input, event};
use schemas::{Event, Micros};
use serde::de::IgnoredAny;
use tempfile::TempDir;
use tidewatch_detection::{Rules, Subject, Taxonomy, load};

/// Events of each kind; enough that they do not stay in the processor's nearest cache.
const EVENTS: usize = 4_000;
const RUN: Duration = Duration::from_secs(2);

fn main() {
    let taxonomy = Taxonomy::shipped().unwrap();
    println!("{:<46} {:>8} {:>8} {:>10}", "", "CPU ns", "wall ns", "events/s");
    let mixed: Vec<String> = (0..EVENTS).map(windows::mixed).collect();
    let processes: Vec<String> = (0..EVENTS).map(windows::process_creation).collect();
    for (kind, lines) in [("mixed", &mixed), ("process creation", &processes)] {
        let bytes = lines.iter().map(String::len).sum::<usize>() / EVENTS;
        println!("Windows JSON, {kind}: {bytes} B an event");
        time("  floor: JSON skipped", || {
            lines.iter().filter(|line| serde_json::from_str::<IgnoredAny>(line).is_ok()).count()
        });
        time("  floor: JSON read into a tree", || {
            lines.iter().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()).count()
        });
        time("  normalising alone", || lines.iter().filter(|line| event(&input(line)).is_ok()).count());
    }
    if let Some(folder) = std::env::var_os("TIDEWATCH_SIGMA_DATA").map(PathBuf::from) {
        let archive = File::open(folder.join(sigma::ARCHIVE)).ok();
        let unpacked = archive.map(sigma::unpacked);
        let directory = unpacked.as_ref().map_or(folder.as_path(), TempDir::path);
        let start = Instant::now();
        let loaded = load(directory, &taxonomy, None).unwrap();
        let (rules, refused) = (loaded.rules.len(), loaded.defects.len());
        println!(
            "SigmaHQ: {rules} rules, {refused} refused, loaded in {:.1} s",
            start.elapsed().as_secs_f64()
        );
        matching("  matching alone, mixed Windows", &loaded.rules, &mixed);
        matching("  matching alone, process creation", &loaded.rules, &processes);
    }
    let shipped = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../rules"));
    let loaded = load(shipped, &taxonomy, None).unwrap();
    println!("shipped: {} rules", loaded.rules.len());
    for (kind, lines) in small::kinds(EVENTS) {
        matching(&format!("  matching alone, {kind}"), &loaded.rules, &lines);
    }
    matching("  matching alone, mixed Windows", &loaded.rules, &mixed);
}

fn input(line: &str) -> Input<'_> {
    Input {
        bytes: line.as_bytes(),
        format: "text",
        org: "demo",
        received_at: Micros(1_795_251_907_000_000),
        index: 0,
        event_uid: None,
    }
}

fn matching(what: &str, rules: &Rules, lines: &[String]) {
    let events: Vec<Event<'_>> = lines.iter().map(|line| event(&input(line)).unwrap()).collect();
    let attributes = events.iter().map(|event| event.attributes.as_ref().map_or(0, |text| text.len()));
    let bytes = attributes.sum::<usize>() / events.len();
    let hits = time(what, || {
        events.iter().map(|event| rules.matching(&rules.view(Subject::Event(event))).count()).sum()
    });
    if let Some(hits) = hits {
        println!("    {bytes} B of attributes, {:.3} hits an event", hits as f64 / events.len() as f64);
    }
}

/// Prints what `work`, which is for [`EVENTS`] events, costs for one, if its name has the text asked for; returns what it
/// returned.
fn time(what: &str, work: impl Fn() -> usize) -> Option<usize> {
    if std::env::args().nth(1).is_some_and(|asked| !what.contains(&asked)) {
        return None;
    }
    let result = std::hint::black_box(work());
    let (start, before, mut rounds) = (Instant::now(), cpu_nanos(), 0u32);
    while start.elapsed() < RUN {
        std::hint::black_box(work());
        rounds += 1;
    }
    let events = f64::from(rounds) * EVENTS as f64;
    let cpu = (cpu_nanos() - before) as f64 / events;
    let wall = start.elapsed().as_nanos() as f64 / events;
    println!("{what:<46} {cpu:>8.0} {wall:>8.0} {:>10.0}", 1e9 / cpu);
    Some(result)
}

/// CPU time of this process (Linux).
fn cpu_nanos() -> u64 {
    let schedstat = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    schedstat.split(' ').next().unwrap().parse().unwrap()
}
