//! The binary, as someone who writes rules runs it.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_tidewatch-rules");

const RULES: &str = "title: Guessing
id: 11111111-1111-4111-8111-111111111111
name: guess
logsource: {product: linux, service: sshd}
detection:
  selection: {outcome: failure, user|startswith: [adm, root]}
  filter: {src_ip|cidr: 10.0.0.0/8}
  condition: selection and not filter
level: low
---
title: Many guesses
id: 22222222-2222-4222-8222-222222222222
correlation:
  type: event_count
  rules: [guess]
  group-by: [src_ip]
  timespan: 5m
  condition: {gte: 3}
level: high
---
title: Shell
id: 33333333-3333-4333-8333-333333333333
logsource: {product: windows, category: process_creation}
detection:
  selection: {Image|endswith: '\\cmd.exe'}
  condition: selection
level: high
";

struct Place(TempDir);

impl Place {
    fn new(files: &[(&str, &str)]) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let path = place.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn run(directory: &Path, args: &[&str]) -> Output {
    Command::new(BINARY).args(args).current_dir(directory).output().unwrap()
}

fn run_in(place: &Place, args: &[&str]) -> Output {
    run(place.0.path(), args)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn check_counts_rules_and_tells_errors_by_file_and_line() {
    let broken = "title: x\nid: 4\nlogsource: {product: linux}\ndetection:\n  s: {a: b}\n  condition: t\n";
    let again = "title: Shell again\nid: 33333333-3333-4333-8333-333333333333\nlogsource: {product: abacus}\ndetection: {s: {a: b}, condition: s}\n";
    let place = Place::new(&[("a.yml", RULES), ("b.yml", broken), ("c.yml", again)]);
    let output = run_in(&place, &["check", ".", "--format", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found["rules"], &found["compiled"]), (&json!(5), &json!(4)));
    assert_eq!(found["errors"].as_array().unwrap().len(), 1);
    let error = &found["errors"][0];
    assert!(error["path"].as_str().unwrap().ends_with("b.yml"));
    assert!(error["line"].is_u64() && error["reason"].as_str().unwrap().contains("identifier: t"), "{error}");
    assert_eq!(found["warnings"][0]["kind"], "duplicate_id");

    let output = run_in(&place, &["check", "a.yml"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), "3 rules, 3 compile; 0 errors, 0 warnings\n");
}

#[rstest]
#[case(&["check"], 64)]
#[case(&["check", "a.yml", "--format", "xml"], 64)]
#[case(&["nonsense"], 64)]
#[case(&[], 64)]
#[case(&["replay", "--rules", "a.yml", "--events", "e", "--input", "log", "--time-field", "t"], 64)]
#[case(&["check", "nowhere"], 1)]
#[case(&["match", "--rules", "a.yml", "--events", "nowhere"], 1)]
#[case(&["match", "--rules", "empty.yml", "--events", "a.yml"], 1)]
#[case(&["explain", "a.yml", "broken.json"], 1)]
#[case(&["--help"], 0)]
fn wrong_usage_ends_with_64_and_other_trouble_with_1(#[case] args: &[&str], #[case] code: i32) {
    let place = Place::new(&[("a.yml", RULES), ("empty.yml", ""), ("broken.json", "{\n\"a\": }")]);
    let output = run_in(&place, args);
    assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    assert_eq!(code == 0, output.stderr.is_empty());
}

#[test]
fn match_routes_raw_events_and_tells_hits_by_index() {
    let events = [
        r#"{"Event":{"System":{"Channel":"Microsoft-Windows-Sysmon/Operational","EventID":1},"EventData":{"Image":"C:\\Windows\\cmd.exe"}}}"#,
        r#"{"Channel":"Microsoft-Windows-Sysmon/Operational","EventID":5,"Image":"C:\\Windows\\cmd.exe"}"#,
        "",
        r#"{"app":"sshd","message":"Failed password for admin from 203.0.113.9 port 1 ssh2"}"#,
        "no json",
        r#"{"Channel":"Security","EventID":4688,"NewProcessName":"C:\\Windows\\CMD.EXE"}"#,
    ];
    let place = Place::new(&[("a.yml", RULES), ("e.jsonl", &events.join("\n"))]);
    let args = ["match", "--rules", "a.yml", "--events", "e.jsonl", "--format", "json"];
    let output = run_in(&place, &args);
    let shell = "33333333-3333-4333-8333-333333333333";
    assert_eq!(
        lines(&output),
        [
            json!({"index": 0, "rule_id": shell}),
            json!({"index": 2, "rule_id": "11111111-1111-4111-8111-111111111111"}),
            json!({"index": 4, "rule_id": shell})
        ]
    );
    assert!(text(&output.stderr).contains("e.jsonl:5: no JSON object"), "{}", text(&output.stderr));

    let args = ["match", "--rules", "a.yml", "--events", "-", "--format", "json"];
    let mut child = Command::new(BINARY)
        .args(args)
        .current_dir(place.0.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(events[0].as_bytes()).unwrap();
    assert_eq!(lines(&child.wait_with_output().unwrap()), [json!({"index": 0, "rule_id": shell})]);
}

#[test]
fn replay_tells_incidents_with_all_their_events() {
    let mut log = String::new();
    for n in 0..30 {
        log += &format!(
            "Jun 14 15:{n:02}:00 combo sshd[7]: Failed password for root from 203.0.113.9 port 1 ssh2\n"
        );
        log += &format!(
            "Jun 14 15:{n:02}:01 combo sshd[7]: Failed password for eve from 203.0.113.9 port 1 ssh2\r\n"
        );
    }
    let place = Place::new(&[("a.yml", RULES), ("old.log", &log)]);
    let mut args = vec!["replay", "--rules", "a.yml", "--events", "old.log", "--input", "log"];
    args.extend(["--year", "2005", "--format", "json"]);
    let events: Vec<u64> = (0..30).map(|n| 2 * n).collect();
    let incident = json!({
        "rule_id": "22222222-2222-4222-8222-222222222222",
        "group_key": {"src_ip": "203.0.113.9"},
        "first": "2005-06-14T15:00:00Z",
        "last": "2005-06-14T15:29:00Z",
        "count": 30,
        "events": events,
    });
    assert_eq!(lines(&run_in(&place, &args)), [incident]);
    args.truncate(args.len() - 2);
    let table = text(&run_in(&place, &args).stdout);
    assert!(table.contains("Many guesses") && table.contains("src_ip=203.0.113.9"), "{table}");
}

#[test]
fn replay_takes_the_time_from_the_field_it_is_told() {
    let event = |minute: u8| {
        let message = "Failed password for root from 203.0.113.9 port 1 ssh2";
        json!({"app": "sshd", "message": message, "time": "2020-01-01T00:00:00Z", "seen": {"at": format!("2020-10-18 07:{minute}:39.776")}})
    };
    let events: Vec<String> = [10, 20, 21, 30, 31, 32].map(|minute| event(minute).to_string()).to_vec();
    let place = Place::new(&[("a.yml", RULES), ("e.jsonl", &events.join("\n"))]);
    let mut args = vec!["replay", "--rules", "a.yml", "--events", "e.jsonl", "--format", "json"];
    args.extend(["--time-field", "seen.at"]);
    let found = lines(&run_in(&place, &args));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["events"], json!([3, 4, 5]));
    assert_eq!(found[0]["first"], "2020-10-18T07:30:39.776Z");
}

#[test]
fn explain_tells_wanted_and_found_field_by_field() {
    let event = r#"{"app": "sshd", "message": "Failed password for bob from 10.1.2.3 port 1 ssh2"}"#;
    let place = Place::new(&[("a.yml", RULES), ("e.json", event)]);
    let output = run_in(&place, &["explain", "a.yml", "e.json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let told = text(&output.stdout);
    for part in [
        "Guessing (11111111-1111-4111-8111-111111111111)\ndoes not match the event",
        "✗ condition: selection and not filter",
        "wanted: 'failure'\n        found:  \"failure\" in attribute outcome",
        "✗ user|startswith\n        wanted: ✗ 'adm' or ✗ 'root'\n        found:  \"bob\" in column user",
        "✓ src_ip|cidr",
        "✓ log source: product linux, service sshd",
        "✗ log source: product windows, category process_creation",
    ] {
        assert!(told.contains(part), "no {part} in\n{told}");
    }
}

#[test]
fn explain_knows_the_filters_of_other_files_and_tells_of_no_other_rule() {
    let event = r#"{"app": "sshd", "message": "Failed password for admin from 203.0.113.9 port 1 ssh2"}"#;
    let filter = "title: Not from there\nlogsource: {product: linux, service: sshd}\nfilter:\n  rules: any\n  there: {src_ip|cidr: 203.0.113.0/24}\n  condition: not there\n";
    let place = Place::new(&[
        ("rules/a.yml", RULES),
        ("rules/b.yml", &RULES.replace("-4", "-5")),
        ("rules/filter.yml", filter),
        ("e.json", event),
    ]);
    let alone = run_in(&place, &["explain", "rules/a.yml", "e.json"]);
    assert!(!text(&alone.stdout).contains("Not from there"));
    let together = run_in(&place, &["explain", "./rules/a.yml", "e.json", "--rules", "rules"]);
    let told = text(&together.stdout);
    assert!(told.contains("Not from there") && told.contains("✗ condition: not there"), "{told}");
    assert_eq!(told.matches("Guessing").count(), 1, "{told}");
}

#[test]
fn test_runs_the_cases_beside_a_rule_and_fails_with_them() {
    let cases = r#"tests:
  - {name: three in a row, match: true, times: 3, event: "<38>1 $time h sshd 1 - - Failed password for root from 203.0.113.9 port $n ssh2"}
  - {name: one, rule: guess, match: true, event: "<38>1 $time h sshd 1 - - Failed password for admin from 203.0.113.9 port 1 ssh2"}
  - name: two kinds of users, and a pause
    match: false
    events:
      - {event: "<38>1 $time h sshd 1 - - Failed password for root from 203.0.113.9 port 1 ssh2", times: 2, every_seconds: 200}
      - {event: "<38>1 $time h sshd 1 - - Failed password for admin from 203.0.113.9 port 1 ssh2"}
"#;
    let (rules, _) = RULES.rsplit_once("---\n").unwrap();
    let place = Place::new(&[("a.yml", rules), ("a.test.yml", cases)]);
    let output = run_in(&place, &["test", "."]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert!(
        text(&output.stdout)
            .ends_with("3 cases of 2 rules: 3 passed, 0 failed; 0 files without tests, 0 errors\n")
    );

    fs::write(place.path("a.test.yml"), cases.replace("match: false", "match: true")).unwrap();
    let output = run_in(&place, &["test", "a.yml", "--format", "junit"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stdout).contains("<failure message=\"no incident fired\"/>"),
        "{}",
        text(&output.stdout)
    );
    let output = run_in(&place, &["test", ".", "--format", "json"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["cases"][2]["failure"], "no incident fired");

    fs::write(place.path("a.test.yml"), "tests:\n  - {nmae: x}\n").unwrap();
    let output = run_in(&place, &["test", "."]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("a.test.yml:2:"), "{}", text(&output.stdout));
}
