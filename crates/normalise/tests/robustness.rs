//! One raw record in, exactly one out, whatever the bytes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends by panicking")]

use proptest::prelude::*;
use schemas::{Micros, flags};
use tidewatch_normalise::{Input, MAX_EVENT_BYTES, event, finding};

fn input<'a>(bytes: &'a [u8], format: &'a str) -> Input<'a> {
    Input {
        bytes,
        format,
        org: "demo",
        received_at: Micros(1_763_715_600_000_000),
        index: 7,
        event_uid: None,
    }
}

/// Runs both readers on bytes that must not be rejected as an event.
fn check(bytes: &[u8]) {
    for format in ["json", "text", "syslog"] {
        let event = event(&input(bytes, format)).expect("an event");
        assert_eq!((event.index, event.org.as_ref()), (7, "demo"));
        assert!(event.repeat >= 1);
        assert!(event.time.0 <= event.received_at.0 + 300_000_000);
        for port in [event.src_port, event.dst_port].into_iter().flatten() {
            assert!((0..=65_535).contains(&port));
        }
        for ip in [&event.src_ip, &event.dst_ip].into_iter().flatten() {
            assert_eq!(ip.parse::<std::net::IpAddr>().unwrap().to_string(), ip.as_ref());
        }
        if let Some(attributes) = &event.attributes {
            // A value may hold an escape that is no character; the text is JSON all the same.
            serde_json::from_str::<&serde_json::value::RawValue>(attributes).unwrap();
        }
    }
    let _ = finding(&input(bytes, "json"));
}

/// Texts that get past the first checks of the readers.
fn near_misses() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "<34>",
        "<191>1 ",
        "1 ",
        "2025-11-21T08:30:20Z ",
        "2025-11-21 08:30:20 ",
        "-0500 ",
        "Nov 21 08:30:20 ",
        "web-1 ",
        "- ",
        "sshd[7]: ",
        "sudo: ",
        "kernel: ",
        "named[7]: ",
        "dnsmasq[7]: ",
        "audispd: ",
        "clamd[7]: ",
        "[   12.345678] ",
        "audit: type=1309 audit(1763712300.300:7): ",
        "type=EXECVE msg=audit(1763712300.300:7): ",
        "node=n ",
        "a0=",
        "a0[0]=",
        "a0[1]=",
        ")",
        "(",
        "comm=",
        "6361740A",
        "msg='",
        "' ",
        "\u{1d}",
        "addr=",
        "[UFW BLOCK] ",
        "IN=eth0 ",
        " SRC=",
        " DST=",
        " DPT=",
        " [SRC=",
        "PROTO=TCP ",
        "client @0x1 ",
        "#53 (a): query: ",
        "query[A] ",
        "21-Nov-2025 08:05:07.123 ",
        "Failed password for ",
        "invalid user ",
        "root ",
        " from ",
        "192.0.2.7",
        " port ",
        "22",
        " ssh2",
        "Connection closed by ",
        "message repeated 3 times: [ ",
        "]",
        "alice : TTY=a ; ",
        "COMMAND=",
        " ; ",
        "[id a=\"b\"]",
        "\"",
        "\\",
        "{\"",
        "\":",
        "}",
        "[",
        "\"time\":",
        "\"EventID\":1,",
        "\"Channel\":\"x\",",
        "\"Event\":{\"System\":{",
        "\"message\":\"",
        "null",
        "1e999",
        "\\u0000",
        "\\ud800",
        "\u{0}",
        "é",
        "\r\n",
        " - - [21/Nov/2025:08:30:20 +0000] \"",
        "GET / HTTP/1.1",
        "\" 200 ",
        "pam_unix(",
        "authentication failure; ",
        "user=",
        "[Fri Nov 21 08:00:00 2025] [",
        "error",
        "] [client ",
        "@cee:",
        "\"winlog\":{",
        "\"Data\":[{",
        "\"state\":\"running\"",
        "\"scan_id\":",
        ",",
    ]);
    prop::collection::vec(pieces, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn arbitrary_bytes_are_one_event(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check(&bytes);
    }

    #[test]
    fn arbitrary_text_is_one_event(text: String) {
        check(text.as_bytes());
    }

    #[test]
    fn lines_that_nearly_are_of_a_format_are_one_event(text in near_misses()) {
        check(text.as_bytes());
    }

    #[test]
    fn every_cut_of_a_line_is_one_event(cut in 0usize..400) {
        let fixtures = concat!(
            include_str!("fixtures/json.txt"), include_str!("fixtures/ecs.txt"), include_str!("fixtures/windows.txt"),
            include_str!("fixtures/syslog.txt"), include_str!("fixtures/access.txt"), include_str!("fixtures/findings.txt"),
            include_str!("fixtures/audit.txt"), include_str!("fixtures/network.txt"),
        );
        for line in fixtures.lines() {
            check(line.as_bytes().get(..cut).unwrap_or(line.as_bytes()));
        }
    }
}

#[test]
fn a_line_no_format_claims_is_its_own_message() {
    let event = event(&input(b"something happened\r\n", "text")).unwrap();
    assert_eq!((event.class_uid, event.message.as_deref()), (0, Some("something happened")));
    assert_eq!((event.time, event.flags), (event.received_at, flags::TIME_ASSUMED));
}

#[test]
fn bytes_that_are_no_utf8_are_replaced_and_flagged() {
    let event = event(&input(b"{\"user\":\"al\xffice\",\"x\":\"\xfe\"}", "json")).unwrap();
    assert_eq!(event.user.as_deref(), Some("al\u{fffd}ice"));
    assert_eq!(event.attributes.as_deref(), Some("{\"x\":\"\u{fffd}\"}"));
    assert_eq!(event.flags & flags::INVALID_UTF8, flags::INVALID_UTF8);
}

#[test]
fn an_event_that_is_too_large_is_rejected_with_a_digest() {
    let bytes = vec![b'x'; MAX_EVENT_BYTES + 1];
    let reject = event(&input(&bytes, "text")).unwrap_err();
    assert_eq!((reject.reason.as_ref(), reject.bytes.len()), ("too_large", MAX_EVENT_BYTES));
    assert_eq!(reject.digest.map(|digest| digest.len()), Some(32));
    assert!(event(&input(&bytes[1..], "text")).is_ok());
}

#[test]
fn ten_thousand_brackets_are_kept_as_text() {
    let deep = format!("{{\"user\":\"alice\",\"a\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let event = event(&input(deep.as_bytes(), "json")).unwrap();
    assert_eq!(event.user.as_deref(), Some("alice"));
    assert!(event.attributes.unwrap().starts_with("{\"a\":\"[["));
    let open = "[".repeat(10_000);
    check(open.as_bytes());
    check(format!("{{\"a\":{open}").as_bytes());
}

#[test]
fn audit_records_within_each_other_are_read_one_deep() {
    let line = format!("type=X msg=audit(1.0:1): {}", "msg='a=".repeat(MAX_EVENT_BYTES / 8));
    check(line.as_bytes());
}

#[test]
fn arguments_in_parts_are_read_up_to_the_limit_of_fields() {
    let parts: String = (0..20_000).map(|part| format!(" a1[{part}]=61")).collect();
    let line = format!("type=EXECVE msg=audit(1.0:1):{parts}");
    let event = event(&input(line.as_bytes(), "text")).unwrap();
    let expected = format!(r#"{{"type":"EXECVE","audit_id":1,"a1":"{}"}}"#, "a".repeat(128));
    assert_eq!(event.attributes.unwrap(), expected);
}

#[test]
fn control_characters_stay_in_their_event() {
    let line = format!("<13>1 2025-11-21T08:00:00Z h a - - [i k=\"{}\"] m", "\u{1}".repeat(1_000));
    let event = event(&input(line.as_bytes(), "syslog")).unwrap();
    assert!(event.attributes.unwrap().contains("\\u0001"));
}
