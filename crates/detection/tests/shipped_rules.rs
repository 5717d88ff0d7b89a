//! The rules in rules/, each against its own test events, which are normalised as in production.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use normalise::{FindingRecord, Input};
use schemas::{EventBatch, FindingBatch, Micros, SignalBatch, Source, Stream};
use serde::Deserialize;
use tidewatch_detection::{Correlator, Rules, Taxonomy, When, load};
use uuid::Uuid;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules")
}

fn shipped() -> Arc<Rules> {
    let loaded = load(&directory(), &Taxonomy::shipped().unwrap(), None).unwrap();
    let defects: Vec<String> = loaded.defects.iter().map(ToString::to_string).collect();
    assert_eq!(defects, [""; 0]);
    Arc::new(loaded.rules)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TestFile {
    tests: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default)]
    stream: Option<String>,
    event: serde_json::Value,
    #[serde(default = "one")]
    times: i64,
    #[serde(default = "one")]
    every_seconds: i64,
    #[serde(rename = "match")]
    matches: bool,
}

fn one() -> i64 {
    1
}

/// Raw records of the case, and when each was taken in.
fn raw(case: &Case) -> Vec<(String, Timestamp)> {
    let start: Timestamp = "2026-11-21T09:05:07Z".parse().unwrap();
    let text = match &case.event {
        serde_json::Value::String(line) => line.clone(),
        event => event.to_string(),
    };
    (0..case.times)
        .map(|n| {
            let at = start + SignedDuration::from_secs(n * case.every_seconds);
            let line = text
                .replace("$time", &at.to_string())
                .replace("$clf", &at.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string())
                .replace("$n", &n.to_string());
            (line, at)
        })
        .collect()
}

/// What the rules make of the case: ids of the detections that match every event, and of the rules that raise incidents.
fn outcome(rules: &Arc<Rules>, case: &Case) -> (BTreeSet<String>, BTreeSet<String>) {
    let raw = raw(case);
    let mut correlator = Correlator::new(rules.clone());
    let mut common: Option<BTreeSet<String>> = None;
    for ((line, at), offset) in raw.iter().zip(0i64..) {
        let input = Input {
            bytes: line.as_bytes(),
            format: "text",
            org: "demo",
            received_at: Micros(at.as_microsecond()),
            index: 0,
            event_uid: None,
        };
        let source = Source { topic_id: Uuid::nil(), partition: 0, from: offset, offset };
        let mut apply = |batches: Vec<SignalBatch<'_>>| {
            for batch in batches {
                correlator.apply(&batch, 0);
            }
        };
        let matching = if case.stream.as_deref() == Some(Stream::Findings.name()) {
            let FindingRecord::Finding(finding) = normalise::finding(&input).unwrap() else {
                panic!("a scan")
            };
            let batch = FindingBatch {
                source: source.clone(),
                findings: vec![finding],
                scans: vec![],
                rejects: vec![],
                pushes: vec![],
            };
            let view = rules.view(tidewatch_detection::Subject::Finding(&batch.findings[0]));
            let ids = rules.matching(&view).map(|rule| rule.meta.id.clone()).collect::<BTreeSet<_>>();
            apply(
                rules
                    .finding_signals(&batch)
                    .into_batches(Stream::Findings, &source)
                    .map(|(_, b)| b)
                    .collect(),
            );
            ids
        } else {
            let event = normalise::event(&input).unwrap();
            let batch =
                EventBatch { source: source.clone(), events: vec![event], rejects: vec![], pushes: vec![] };
            let view = rules.view(tidewatch_detection::Subject::Event(&batch.events[0]));
            let ids = rules.matching(&view).map(|rule| rule.meta.id.clone()).collect::<BTreeSet<_>>();
            apply(rules.signals(&batch).into_batches(Stream::Events, &source).map(|(_, b)| b).collect());
            ids
        };
        common = Some(match common {
            None => matching,
            Some(before) => before.intersection(&matching).cloned().collect(),
        });
    }
    let mut incidents = BTreeSet::new();
    correlator.publish(When::Changed, Micros(0), &mut |change| {
        incidents.insert(change.window.as_ref().map_or(String::new(), |window| window.rule_id.to_string()));
    });
    (common.unwrap_or_default(), incidents)
}

fn rule_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in std::fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path()) {
        if folder.is_dir() {
            files.extend(std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    files.retain(|path| !path.to_string_lossy().ends_with(".test.yml"));
    files.sort();
    files
}

/// The id in a rule file.
fn id_of(text: &str) -> String {
    text.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned()
}

#[test]
fn every_rule_does_what_its_tests_say() {
    let rules = shipped();
    let correlations: BTreeSet<&str> =
        rules.correlations().iter().map(|rule| rule.meta.id.as_str()).collect();
    let mut failures = Vec::new();
    for path in rule_files() {
        let id = id_of(&std::fs::read_to_string(&path).unwrap());
        let tests = path.with_extension("test.yml");
        let text = std::fs::read_to_string(&tests).unwrap_or_else(|e| panic!("{}: {e}", tests.display()));
        let file: TestFile =
            serde_norway::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", tests.display()));
        for wanted in [true, false] {
            assert!(
                file.tests.iter().any(|case| case.matches == wanted),
                "{}: no case of {wanted}",
                tests.display()
            );
        }
        for case in &file.tests {
            let (matching, incidents) = outcome(&rules, case);
            let found = if correlations.contains(id.as_str()) {
                incidents.contains(&id)
            } else {
                matching.contains(&id)
            };
            if found != case.matches {
                failures.push(format!("{}: {}", tests.display(), case.name));
            }
        }
    }
    assert_eq!(failures, [""; 0]);
}

#[test]
fn every_rule_tells_what_an_analyst_needs() {
    let rules = shipped();
    let detections = rules.detections().iter().map(|rule| &rule.meta);
    let all: Vec<_> = detections.chain(rules.correlations().iter().map(|rule| &rule.meta)).collect();
    assert_eq!(all.len(), rule_files().len());
    let readme = std::fs::read_to_string(directory().join("README.md")).unwrap();
    for meta in all {
        let id = Uuid::parse_str(&meta.id).unwrap();
        assert_eq!(id.get_version_num(), 4, "{}", meta.title);
        assert!(!meta.description.is_empty() && !meta.false_positives.is_empty(), "{}", meta.title);
        assert!(meta.tags.iter().any(|tag| tag.starts_with("attack.t1")), "{}", meta.title);
        assert!(readme.contains(&meta.title), "{} is not in rules/README.md", meta.title);
    }
}

/// Lines as the load generator's scenarios send them.
#[test]
fn the_three_stories_raise_their_incidents() {
    let rules = shipped();
    let title = |id: &String| {
        let correlation = rules.correlations().iter().map(|rule| &rule.meta);
        let mut all = rules.detections().iter().map(|rule| &rule.meta).chain(correlation);
        all.find(|meta| meta.id == *id).unwrap().title.clone()
    };
    let story = |event: serde_json::Value, stream: Option<&str>, times: i64| {
        let stream = stream.map(str::to_owned);
        let case = Case { name: String::new(), stream, event, times, every_seconds: 2, matches: true };
        outcome(&rules, &case).1.iter().map(title).collect::<Vec<_>>()
    };
    let line = "<38>1 $time bastion-7 sshd 4711 - [loadgen@32473 run=\"r\" seq=\"$n\"] Failed password for invalid user admin from 198.51.100.7 port 4000$n ssh2";
    assert_eq!(story(line.into(), None, 20), ["SSH brute force"]);
    let line = "<190>1 $time shop-1 nginx 4711 - [loadgen@32473 run=\"r\" seq=\"$n\"] 198.51.100.7 - - [$clf] \"GET /.env HTTP/1.1\" 404 162 \"-\" \"Mozilla/5.0\"";
    assert_eq!(story(line.into(), None, 60), ["Web scan"]);
    let finding = serde_json::json!({
        "time": "$time", "class_uid": 2006, "scan_id": "scan-1", "scan_type": "database", "uid": "scan-1/$n", "kind": "pii",
        "severity_id": 5, "title": "Card numbers stored in clear", "resource": "crm.customers.note", "risk": 95,
    });
    assert_eq!(story(finding, Some("findings"), 1), ["PII exposed"]);
}

#[test]
fn everyday_events_raise_nothing() {
    let rules = shipped();
    let lines: [serde_json::Value; 5] = [
        "<38>1 $time bastion sshd 1 - - Accepted publickey for ada from 203.0.113.9 port 40001 ssh2".into(),
        "203.0.113.9 - ada [$clf] \"GET /search?q=harbour HTTP/1.1\" 200 512 \"-\" \"Mozilla/5.0\"".into(),
        serde_json::json!({"time": "$time", "class_uid": 1007, "host": "db-01", "user": "ada", "message": "process started: /usr/bin/rsync"}),
        serde_json::json!({"EventTime": "$time", "EventID": 4624, "Channel": "Security", "Computer": "WS-1", "TargetUserName": "ada"}),
        serde_json::json!({"time": "$time", "class_uid": 4001, "src_ip": "100.64.1.2", "dst_ip": "10.0.3.4", "message": "allowed"}),
    ];
    for event in lines {
        let case =
            Case { name: String::new(), stream: None, event, times: 50, every_seconds: 1, matches: false };
        let (matching, incidents) = outcome(&rules, &case);
        assert_eq!((matching, incidents), (BTreeSet::new(), BTreeSet::new()), "{}", case.event);
    }
}

/// The view and the signals borrow; nothing of a batch is copied for an event without candidate rules.
#[test]
fn signals_carry_identity_entities_and_group() {
    let rules = shipped();
    let line = "<38>1 2026-11-21T09:05:07Z bastion sshd 1 - - Accepted password for root from 203.0.113.9 port 1 ssh2";
    let input = Input {
        bytes: line.as_bytes(),
        format: "syslog",
        org: "demo",
        received_at: Micros(1_795_251_907_000_000),
        index: 3,
        event_uid: Some(Uuid::max()),
    };
    let source = Source { topic_id: Uuid::nil(), partition: 2, from: 7, offset: 7 };
    let event = normalise::event(&input).unwrap();
    let batch = EventBatch { source: source.clone(), events: vec![event], rejects: vec![], pushes: vec![] };
    let batches: Vec<_> = rules.signals(&batch).into_batches(Stream::Events, &source).collect();
    let [(partition, batch)] = batches.as_slice() else { panic!("{batches:?}") };
    let [signal] = batch.signals.as_slice() else { panic!("{batch:?}") };
    let pairs = |pairs: &[schemas::Pair<'_>]| {
        pairs.iter().map(|pair| format!("{}={}", pair.name, pair.value)).collect::<Vec<_>>()
    };
    assert_eq!(pairs(&signal.group_key), ["host=bastion", "user=root", "src_ip=203.0.113.9"]);
    assert_eq!(pairs(&signal.entities), ["host=bastion", "user=root", "ip=203.0.113.9"]);
    assert_eq!((signal.index, signal.severity_id, signal.event_uid), (3, 4, Some(Uuid::max())));
    assert!(matches!(signal.org, Cow::Borrowed("demo")));
    assert_eq!(
        *partition,
        tidewatch_detection::signal_partition("demo", &signal.base_rule_id, &signal.group_key)
    );
}
