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
    assert_eq!((&found["rules"], &found["compiled"]), (&json!(5), &json!(3)));
    assert_eq!(found["errors"].as_array().unwrap().len(), 2);
    let error = &found["errors"][0];
    assert!(error["path"].as_str().unwrap().ends_with("b.yml"));
    assert!(error["line"].is_u64() && error["reason"].as_str().unwrap().contains("identifier: t"), "{error}");
    let taken = found["errors"][1]["reason"].as_str().unwrap();
    assert!(taken.contains("is taken by the rule at ./a.yml"), "{taken}");

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
#[case(&["check", "empty.yml"], 1)]
#[case(&["test", "empty.yml"], 1)]
#[case(&["check", "/dev/null"], 1)]
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

const PLAIN: &str =
    "title: x\nid: x\nlogsource: {category: webserver}\ndetection: {s: {a: b}, condition: s}\nlevel: high\n";

#[rstest]
#[case("\u{feff}{\"a\": \"b\"}".as_bytes(), false)]
#[case(b"[{\"a\": \"b\"}]", true)]
#[case(b"\xff\xfe{\0}\0", true)]
fn explain_tells_of_an_event_that_is_no_object(#[case] event: &[u8], #[case] told: bool) {
    let place = Place::new(&[("a.yml", PLAIN)]);
    fs::write(place.path("e.json"), event).unwrap();
    let output = run_in(&place, &["explain", "a.yml", "e.json"]);
    assert_eq!(text(&output.stderr).contains("e.json:1: no JSON object"), told);
    assert_eq!(text(&output.stdout).contains("found:  \"b\" in attribute a"), !told);
}

#[test]
fn explain_tells_that_a_file_is_not_among_the_rules() {
    let place = Place::new(&[("a.yml", PLAIN), ("rules/b.yml", RULES), ("e.json", "{}")]);
    let output = run_in(&place, &["explain", "a.yml", "e.json", "--rules", "rules"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "error: a.yml is not among the rules of rules\n");
}

#[rstest]
#[case(&[("gone.test.yml", "tests: []")], Some(1), "gone.test.yml: there is no gone.yml beside it")]
#[case(&[("a.test.yaml", "tests: []")], Some(1), "a.test.yaml: it is not read; tests stand in a.test.yml")]
#[case(&[("f.yml", "# none"), ("f.test.yml", "tests: []")], Some(1), "f.test.yml: f.yml beside it has no rule")]
#[case(&[("a.test.yml", "tests: []")], Some(0), "untested: ./a.yml")]
#[case(&[("a.test.yml", "\u{feff}tests: []")], Some(0), "untested: ./a.yml")]
#[case(
    &[("a.test.yml", "tests: [{name: many, match: true, times: 100000000, event: {a: b}}]")],
    Some(1),
    "a.test.yml: many: the events cannot be read: they are 100000000, and a test may have 100000"
)]
fn test_tells_of_cases_that_it_does_not_run(
    #[case] files: &[(&str, &str)],
    #[case] code: Option<i32>,
    #[case] told: &str,
) {
    let place = Place::new(&[files, &[("a.yml", PLAIN)]].concat());
    let output = run_in(&place, &["test", "."]);
    assert_eq!(output.status.code(), code);
    assert!(text(&output.stdout).contains(told), "{}", text(&output.stdout));
}

#[test]
fn a_rule_that_links_lead_to_again_is_one_rule() {
    let place = Place::new(&[("..1/a.yml", PLAIN)]);
    for (target, link) in [("..1", "..data"), ("..data/a.yml", "a.yml"), (".", "loop")] {
        std::os::unix::fs::symlink(target, place.path(link)).unwrap();
    }
    let output = run_in(&place, &["check", "."]);
    assert!(text(&output.stdout).starts_with("1 rules, 1 compile; 0 errors"), "{}", text(&output.stdout));
}

#[test]
fn errors_about_orgs_are_told_once_and_count_as_no_rules() {
    let orgs = "orgs:\n  acme: {disable: [q, r], enable: [q], severity: {x: low}}\n";
    let place = Place::new(&[("a.yml", PLAIN), ("orgs.yml", orgs), ("e.jsonl", "{\"a\": \"b\"}")]);
    let output = run_in(&place, &["check", "."]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).ends_with("1 rules, 1 compile; 2 errors, 0 warnings\n"));
}

#[test]
fn match_tells_the_severity_of_the_org_and_how_many_rules_are_left_out() {
    let anywhere = PLAIN.replace("{category: webserver}", "{}");
    let orgs = "orgs:\n  acme: {severity: {x: low}}\n";
    let files = [("a.yml", &*anywhere), ("orgs.yml", orgs), ("b.yml", &*anywhere)];
    let place = Place::new(&files);
    fs::write(place.path("e.jsonl"), "{\"a\": \"b\"}").unwrap();
    for (org, level) in [("acme", " low "), ("other", " high ")] {
        let output = run_in(&place, &["match", "--rules", ".", "--events", "e.jsonl", "--org", org]);
        assert!(text(&output.stdout).contains(level), "{}", text(&output.stdout));
        assert!(text(&output.stderr).ends_with("1 events, 1 rules (1 left out, see above), 1 hits\n"));
    }
}
