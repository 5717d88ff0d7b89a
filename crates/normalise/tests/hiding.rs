//! Nothing that a client sends hides a line from its reader.
#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

use rstest::rstest;
use schemas::{Event, Micros};
use tidewatch_normalise::{Input, event};

/// A request of 192.0.2.7 with this before and behind.
fn access(before: &str, behind: &str) -> String {
    format!(
        r#"{before}192.0.2.7 - - [21/Nov/2025:08:00:00 +0000] "GET /?id=1%27%20union HTTP/1.1" 200 1 "-" {behind}"#
    )
}

fn read(line: &str) -> Event<'_> {
    let input = Input {
        bytes: line.as_bytes(),
        format: "json",
        org: "demo",
        received_at: Micros(1_763_715_600_000_000),
        index: 0,
        event_uid: None,
    };
    event(&input).unwrap()
}

#[rstest]
#[case::agent_like_a_query("", r#""x: query: y""#)]
#[case::agent_like_a_query_of_a_client("", r#""client 192.0.2.9#53: query: y IN A""#)]
#[case::host_that_is_an_address("[2001:db8::5]:443 ", r#""curl""#)]
#[case::host_like_a_record("type=USER_LOGIN ", r#""curl""#)]
#[case::host_like_a_node("node=web-1 ", r#""type=USER_LOGIN msg=audit(1.0:1): a=b""#)]
#[case::host_like_json("{} ", r#""curl""#)]
#[case::host_like_a_string(r#""shop" "#, r#""curl""#)]
#[case::host_like_a_program("<13>sshd: ", r#""curl""#)]
#[case::host_like_a_dns_server("<13>named: ", r#""client 192.0.2.9#53: query: y IN A""#)]
#[case::host_like_a_time("<13>2025-11-21T08:00:00Z ", r#""curl""#)]
#[case::host_like_a_module(
    "<190>Nov 21 08:00:00 web-1 nginx: pam_x ",
    r#""): session opened for user root""#
)]
fn requests_are_found(#[case] before: &str, #[case] behind: &str) {
    let line = access(before, behind);
    let event = read(&line);
    assert_eq!((event.source_type.as_ref(), event.class_uid), ("web_access", 4002));
    assert_eq!(event.src_ip.as_deref(), Some("192.0.2.7"));
    let attributes = event.attributes.unwrap();
    assert!(attributes.contains(r#""query":"id=1%27%20union""#), "{attributes}");
    assert!(attributes.contains(r#""user_agent":"#), "{attributes}");
}

#[rstest]
#[case("<13>sshd: ")]
#[case("[2001:db8::5]:443 ")]
fn requests_in_json_are_found(#[case] before: &str) {
    let line = serde_json::json!({ "log": access(before, r#""curl""#) }).to_string();
    let event = read(&line);
    assert_eq!((event.source_type.as_ref(), event.class_uid), ("web_access", 4002));
}

/// A file's name can be an access line.
const INFECTED: &str = r#"/srv/a - - [21/Nov/2025:08:00:00 +0000] "GET /" 200 1 x: Eicar FOUND"#;

#[rstest]
#[case::syslog(format!("<14>Nov 21 08:00:00 web-1 clamd[7]: {INFECTED}"), "syslog")]
#[case::json(serde_json::json!({ "app": "clamd", "message": INFECTED }).to_string(), "json")]
#[case::json_of_syslog(
    serde_json::json!({ "message": format!("<14>Nov 21 08:00:00 web-1 clamd[7]: {INFECTED}") }).to_string(),
    "json"
)]
fn infected_files_are_found(#[case] line: String, #[case] source_type: &str) {
    let event = read(&line);
    assert_eq!((event.source_type.as_ref(), event.class_uid), (source_type, 0));
    assert!(event.attributes.unwrap().contains(r#""app":"clamd""#));
}

#[test]
fn logins_are_found_whatever_the_name() {
    let name = r#"x - - [21/Nov/2025:08:00:00 +0000] "GET /" 200 1"#;
    let line = format!(
        "<38>2025-11-21T08:00:00Z 192.0.2.1 sshd[7]: Failed password for {name} from 192.0.2.9 port 9 ssh2"
    );
    let event = read(&line);
    assert_eq!((event.source_type.as_ref(), event.class_uid), ("sshd", 3002));
    assert_eq!(event.src_ip.as_deref(), Some("192.0.2.9"));
}

#[test]
fn records_are_found_in_the_log_of_the_kernel() {
    let line = "<5>Nov 21 08:00:00 web-1 kernel: audit: type=1309 audit(1.0:1): a0=\"a IN= SRC=192.0.2.1 DST=192.0.2.2 b\"";
    assert_eq!(read(line).source_type, "auditd");
}

#[test]
fn queries_are_found_whatever_was_asked_for() {
    let event = read("<30>Nov 21 08:00:00 ns-1 dnsmasq[9]: query[A] a from b from 192.0.2.9");
    assert_eq!((event.class_uid, event.src_ip.as_deref()), (4003, Some("192.0.2.9")));
}

#[test]
fn a_priority_before_an_address_stays_one() {
    let event = read("<11>app: 192.0.2.7 went away");
    assert_eq!((event.source_type.as_ref(), event.severity_id), ("syslog", 4));
    assert_eq!(event.message.as_deref(), Some("192.0.2.7 went away"));
}

/// Attributes of what `alice` did by sudo.
fn sudo(fields: &str) -> serde_json::Value {
    let line = format!("<86>Nov 21 08:00:00 web-1 sudo: alice : {fields}");
    let event = read(&line);
    assert_eq!((event.source_type.as_ref(), event.user.as_deref()), ("sudo", Some("alice")));
    serde_json::from_str(event.attributes.as_deref().unwrap()).unwrap()
}

#[test]
fn a_directory_is_no_reason() {
    let fields = "PWD=/srv/a ; command not allowed ; b ; USER=root ; COMMAND=/bin/bash";
    let attributes = sudo(fields);
    assert_eq!(attributes["pwd"], "/srv/a ; command not allowed ; b");
    assert_eq!(
        (&attributes["outcome"], &attributes["reason"]),
        (&"success".into(), &serde_json::Value::Null)
    );
    assert_eq!((&attributes["run_as"], &attributes["command"]), (&"root".into(), &"/bin/bash".into()));
}

#[test]
fn a_directory_is_no_group_and_no_terminal() {
    let attributes =
        sudo("TTY=pts/0 ; PWD=/srv/a ; GROUP=users ; TTY=b ; USER=root ; GROUP=wheel ; COMMAND=/bin/ls");
    let read = |name: &str| attributes[name].as_str().unwrap_or_default();
    assert_eq!((read("tty"), read("pwd")), ("pts/0", "/srv/a ; GROUP=users ; TTY=b"));
    assert_eq!((read("run_as"), read("run_as_group"), read("command")), ("root", "wheel", "/bin/ls"));
}

#[test]
fn a_directory_like_all_fields_keeps_the_command() {
    let attributes = sudo("PWD=/srv/a ; USER=nobody ; COMMAND=/bin/true ; USER=root ; COMMAND=/bin/bash");
    assert_eq!(attributes["command"], "/bin/true ; USER=root ; COMMAND=/bin/bash");
}

#[test]
fn a_command_is_no_field() {
    let attributes = sudo(
        "TTY=pts/0 ; PWD=/root ; USER=root ; ENV=A=1 ; TSID=x ; COMMAND=/bin/sh -c a ; USER=ada ; TTY=b",
    );
    let read = |name: &str| attributes[name].as_str().unwrap_or_default();
    assert_eq!((read("run_as"), read("tty")), ("root", "pts/0"));
    assert_eq!(read("command"), "/bin/sh -c a ; USER=ada ; TTY=b");
}

#[test]
fn a_message_of_apache_names_no_client() {
    let event = read(
        "[Fri Nov 21 08:00:00.123456 2025] [cgi:error] [pid 7:tid 9] [client 192.0.2.7:50122] [client 192.0.2.9] [pid 1] x",
    );
    assert_eq!((event.src_ip.as_deref(), event.src_port), (Some("192.0.2.7"), Some(50122)));
    assert!(!event.attributes.unwrap().contains(r#""pid":1"#));
}

#[rstest]
#[case("reply query[A] x.example from 192.0.2.9")]
#[case("cached a query[A] x.example from 192.0.2.9")]
#[case("7 192.0.2.7/53124 reply query[A] x.example from 192.0.2.9")]
fn an_answer_of_dnsmasq_is_no_query(#[case] message: &str) {
    let line = format!("<30>Nov 21 08:00:00 ns-1 dnsmasq[9]: {message}");
    let event = read(&line);
    assert_eq!((event.source_type.as_ref(), event.class_uid, event.src_ip.as_deref()), ("dnsmasq", 0, None));
}

#[test]
fn a_numbered_query_of_dnsmasq_is_one() {
    let event =
        read("<30>Nov 21 08:00:00 ns-1 dnsmasq[9]: 7 192.0.2.7/53124 query[A] x.example from 192.0.2.7");
    assert_eq!((event.class_uid, event.src_ip.as_deref()), (4003, Some("192.0.2.7")));
}
