//! What becomes of lines of every format: a fixture file per format, a snapshot of its outcomes.
#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

use schemas::{Event, Finding, Micros, ScanActivity};
use tidewatch_normalise::{FindingRecord, Input, event, finding};

/// 2025-11-21T09:00:00Z
const RECEIVED_AT: Micros = Micros(1_763_715_600_000_000);

fn input(line: &str) -> Input<'_> {
    Input {
        bytes: line.as_bytes(),
        format: "json",
        org: "demo",
        received_at: RECEIVED_AT,
        index: 0,
        event_uid: None,
    }
}

struct Lines(String);

impl Lines {
    fn put(&mut self, name: &str, value: impl ToString) {
        let value = value.to_string();
        self.0.push_str(&format!("    {name}: {value}\n"));
    }

    fn text(&mut self, name: &str, value: &Option<impl AsRef<str>>) {
        if let Some(value) = value {
            self.put(name, value.as_ref());
        }
    }
}

fn stamp(time: Micros) -> String {
    jiff::Timestamp::from_microsecond(time.0).unwrap().to_string()
}

fn of_event(event: &Event<'_>, line: &str, out: &mut Lines) {
    out.put(
        "event",
        format!(
            "{} {}/{} severity {}",
            event.source_type, event.class_uid, event.activity_id, event.severity_id
        ),
    );
    out.put("time", stamp(event.time));
    out.text("host", &event.host);
    out.text("user", &event.user);
    out.text("src_ip", &event.src_ip);
    out.text("src_port", &event.src_port.map(|port| port.to_string()));
    out.text("dst_ip", &event.dst_ip);
    out.text("dst_port", &event.dst_port.map(|port| port.to_string()));
    match event.message.as_deref() {
        Some(message) if message == line => out.put("message", "(the line)"),
        message => out.put("message", format!("{message:?}")),
    }
    if event.repeat != 1 {
        out.put("repeat", event.repeat);
    }
    out.text("attributes", &event.attributes);
    if let Some(attributes) = &event.attributes {
        assert!(
            serde_json::from_str::<serde_json::Map<_, _>>(attributes).is_ok()
                || attributes.contains("\\ud800")
        );
    }
    if event.flags != 0 {
        out.put("flags", event.flags);
    }
}

fn of_finding(finding: &Finding<'_>, line: &str, out: &mut Lines) {
    out.put("finding", format!("{} {} severity {}", finding.kind, finding.class_uid, finding.severity_id));
    out.put("time", stamp(finding.time));
    out.put("scan", format!("{:?} {}", finding.scan_id, finding.scan_type));
    out.put("uid", format!("{:?}", finding.uid));
    out.text("title", &finding.title);
    out.text("resource", &finding.resource);
    out.text("risk", &finding.risk.map(|risk| risk.to_string()));
    out.text("host", &finding.host);
    out.text("user", &finding.user);
    let message = finding.message.as_deref().unwrap();
    out.put("message", if message == line { "(the line)" } else { message });
    out.text("attributes", &finding.attributes);
    if finding.flags != 0 {
        out.put("flags", finding.flags);
    }
}

fn of_scan(scan: &ScanActivity<'_>, out: &mut Lines) {
    out.put("scan", format!("{} {} {} sequence {}", scan.scan_id, scan.scan_type, scan.state, scan.sequence));
    out.put("time", stamp(scan.time));
    out.text("progress", &scan.progress.map(|progress| progress.to_string()));
    out.text("queue_position", &scan.queue_position.map(|at| at.to_string()));
    out.text("duration_ms", &scan.duration_ms.map(|duration| duration.to_string()));
    out.text("target", &scan.target);
    out.text("message", &scan.message);
    out.text("attributes", &scan.attributes);
}

fn events(fixture: &str) -> String {
    let mut out = Lines(String::new());
    for line in fixture.lines() {
        out.0.push_str(&format!("{line}\n"));
        match event(&input(line)) {
            Ok(event) => of_event(&event, line, &mut out),
            Err(reject) => out.put("reject", reject.reason),
        }
    }
    out.0
}

#[test]
fn json_events() {
    insta::assert_snapshot!(events(include_str!("fixtures/json.txt")));
}

#[test]
fn ecs_ocsf_and_winlogbeat_events() {
    insta::assert_snapshot!(events(include_str!("fixtures/ecs.txt")));
}

#[test]
fn windows_events() {
    insta::assert_snapshot!(events(include_str!("fixtures/windows.txt")));
}

#[test]
fn syslog_lines() {
    insta::assert_snapshot!(events(include_str!("fixtures/syslog.txt")));
}

#[test]
fn audit_records() {
    insta::assert_snapshot!(events(include_str!("fixtures/audit.txt")));
}

#[test]
fn packets_and_dns_queries() {
    insta::assert_snapshot!(events(include_str!("fixtures/network.txt")));
}

#[test]
fn web_servers_and_plain_lines() {
    insta::assert_snapshot!(events(include_str!("fixtures/access.txt")));
}

#[test]
fn findings_and_scan_states() {
    let mut out = Lines(String::new());
    for line in include_str!("fixtures/findings.txt").lines() {
        out.0.push_str(&format!("{line}\n"));
        match finding(&input(line)) {
            Ok(FindingRecord::Finding(finding)) => of_finding(&finding, line, &mut out),
            Ok(FindingRecord::Scan(scan)) => of_scan(&scan, &mut out),
            Err(reject) => out.put("reject", format!("{}: {}", reject.reason, reject.detail)),
        }
    }
    insta::assert_snapshot!(out.0);
}
