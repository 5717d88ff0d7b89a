//! The rules in rules/, each against its own test events, which are normalised as in production.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use detection::{Rules, Taxonomy, load};
use normalise::Input;
use schemas::{EventBatch, Micros, Source, Stream};
use tidewatch_rules::{Case, TestFile, outcome, run};
use uuid::Uuid;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../rules")
}

fn shipped() -> Arc<Rules> {
    let loaded = load(&directory(), &Taxonomy::shipped().unwrap(), None).unwrap();
    let defects: Vec<String> = loaded.defects.iter().map(ToString::to_string).collect();
    assert_eq!(defects, [""; 0]);
    Arc::new(loaded.rules)
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

#[test]
fn every_rule_does_what_its_tests_say() {
    let suite = run(&directory()).unwrap();
    let failed = suite.cases.iter().filter_map(|case| {
        Some(format!("{}: {}: {}", case.path.display(), case.case, case.failure.as_ref()?))
    });
    assert_eq!(failed.collect::<Vec<_>>(), [""; 0]);
    assert_eq!(suite.errors, [""; 0]);
    assert_eq!(suite.untested, [""; 0].map(PathBuf::from));
}

#[test]
fn every_rule_has_a_case_of_either_kind() {
    for path in rule_files() {
        let tests = path.with_extension("test.yml");
        let text = std::fs::read_to_string(&tests).unwrap_or_else(|e| panic!("{}: {e}", tests.display()));
        let file: TestFile = serde_norway::from_str(&text).unwrap();
        for wanted in [true, false] {
            let found = file.tests.iter().any(|case| case.matches == wanted);
            assert!(found, "{}: no case of {wanted}", tests.display());
        }
    }
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
    let story = |event: serde_json::Value, stream: Stream, times: i64| {
        let found = outcome(&rules, &Case::new(event, stream, times, 2)).unwrap();
        found.incidents.iter().map(title).collect::<Vec<_>>()
    };
    let line = "<38>1 $time bastion-7 sshd 4711 - [loadgen@32473 run=\"r\" seq=\"$n\"] Failed password for invalid user admin from 198.51.100.7 port 4000$n ssh2";
    assert_eq!(story(line.into(), Stream::Events, 20), ["SSH brute force"]);
    let line = "<190>1 $time shop-1 nginx 4711 - [loadgen@32473 run=\"r\" seq=\"$n\"] 198.51.100.7 - - [$clf] \"GET /.env HTTP/1.1\" 404 162 \"-\" \"Mozilla/5.0\"";
    assert_eq!(story(line.into(), Stream::Events, 60), ["Web scan"]);
    let finding = serde_json::json!({
        "time": "$time", "class_uid": 2006, "scan_id": "scan-1", "scan_type": "database", "uid": "scan-1/$n", "kind": "pii",
        "severity_id": 5, "title": "Card numbers stored in clear", "resource": "crm.customers.note", "risk": 95,
    });
    assert_eq!(story(finding, Stream::Findings, 1), ["PII exposed"]);
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
        let found = outcome(&rules, &Case::new(event.clone(), Stream::Events, 50, 1)).unwrap();
        assert!(found.matching.iter().all(BTreeSet::is_empty), "{event}: {:?}", found.matching);
        assert_eq!(found.incidents, BTreeSet::new(), "{event}");
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
    assert_eq!(*partition, detection::signal_partition("demo", &signal.base_rule_id, &signal.group_key));
}
