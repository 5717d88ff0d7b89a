//! SigmaHQ's rules and regression events: every rule compiles or is refused for a reason that is expected, every case fires its rule.
//!
//! They are no part of this repository: their folder comes from `TIDEWATCH_SIGMA_DATA`, and without it these tests skip.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests"
)]

#[path = "../../crates/detection/examples/matching/sigma.rs"]
mod sigma;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use detection::Rules;
use schemas::Stream;
use serde_json::Value;
use tempfile::TempDir;
use tidewatch_rules::{Batch, Shape, check, match_lines};

fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("TIDEWATCH_SIGMA_DATA").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: TIDEWATCH_SIGMA_DATA names no folder of SigmaHQ's rules");
    }
    folder
}

/// The rules, unpacked.
fn unpacked(folder: &Path) -> TempDir {
    sigma::unpacked(File::open(folder.join(sigma::ARCHIVE)).unwrap())
}

fn rules(directory: &Path) -> Rules {
    let taxonomy = detection::Taxonomy::shipped().unwrap();
    detection::load(directory, &taxonomy, None).unwrap().rules
}

struct Regression {
    rule: String,
    case: String,
    event: String,
    matches: bool,
}

fn regressions(folder: &Path) -> Vec<Regression> {
    let file = File::open(folder.join("regression-even.jsonl.zst")).unwrap();
    let lines = BufReader::new(zstd::Decoder::new(file).unwrap()).lines();
    let read = |line: std::io::Result<String>| {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        Regression {
            rule: line["rule_id"].as_str().unwrap().to_owned(),
            case: line["case"].as_str().unwrap().to_owned(),
            event: line["event"].to_string(),
            matches: line["expect"] == "match",
        }
    };
    lines.map(read).collect()
}

#[test]
fn every_current_rule_compiles_and_is_routed() {
    let Some(folder) = data() else { return };
    let directory = unpacked(&folder);
    let checked = check(directory.path()).unwrap();
    let errors: Vec<String> = checked
        .errors
        .iter()
        .map(|error| format!("{}:{}: {}", error.path.display(), error.line, error.reason))
        .collect();
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for warning in &checked.warnings {
        *kinds.entry(warning.kind).or_default() += 1;
    }
    println!("{} rules, {} compile, warnings {kinds:?}", checked.rules, checked.compiled);
    assert!(checked.rules > 3_000, "{}", checked.rules);
    assert_eq!(errors, [""; 0]);
    let lost: Vec<_> = checked.warnings.iter().filter(|warning| warning.kind == "logsource").collect();
    assert!(lost.is_empty(), "{lost:#?}");
}

#[test]
fn every_regression_case_fires_its_rule() {
    let Some(folder) = data() else { return };
    let directory = unpacked(&folder);
    let rules = rules(directory.path());
    let mut wrong = Vec::new();
    let mut others: BTreeMap<String, usize> = BTreeMap::new();
    let cases = regressions(&folder);
    for regression in &cases {
        let mut fired = BTreeSet::new();
        match_lines::<()>(
            &rules,
            &Batch::of([regression.event.as_bytes()]),
            Shape::Jsonl,
            "demo",
            Stream::Events,
            &mut |hit, _| {
                fired.insert(hit.rule_id.to_owned());
                Ok(())
            },
        )
        .unwrap();
        if fired.remove(&regression.rule) != regression.matches {
            wrong.push(format!("{}: {}: expected {}", regression.rule, regression.case, regression.matches));
        }
        for other in fired {
            *others.entry(other).or_default() += 1;
        }
    }
    println!(
        "{} events; {} other rules fired, {} times",
        cases.len(),
        others.len(),
        others.values().sum::<usize>()
    );
    for (id, count) in others {
        let title = rules.detections().iter().find(|rule| rule.meta.id == id).map(|rule| &rule.meta.title);
        println!("{count:>4}  {id}  {}", title.unwrap());
    }
    assert_eq!(wrong, [""; 0]);
}
