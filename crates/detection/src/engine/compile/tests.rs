//! What rsigma takes otherwise than Sigma means, as rules and events.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use proptest::prelude::*;
use rstest::rstest;
use schemas::{Event, Micros};
use serde_json::{Value, json};

use crate::testing::web_access;
use crate::{Subject, Taxonomy, load_documents};

/// Whether the selection `s: {selection}` holds of an event with these attributes.
fn holds(selection: &str, attributes: &Value) -> bool {
    holds_of(selection, &web_access(attributes.to_string()))
}

fn holds_of(selection: &str, event: &Event<'_>) -> bool {
    let rule = format!(
        "title: x\nid: x\nlogsource: {{category: webserver}}\ndetection:\n  s: {selection}\n  condition: s\n"
    );
    let loaded = load_documents(Path::new("x.yml"), &rule, &Taxonomy::shipped().unwrap());
    assert_eq!(loaded.defects, [], "{rule}");
    let view = loaded.rules.view(Subject::Event(event));
    loaded.rules.matching(&view).count() == 1
}

#[rstest]
#[case::wildcard("{x: '*mimi*katz*'}", "a\nmimi\r\nkatz\nb", true)]
#[case::one_character("{x|contains: 'a?b'}", "_a\nb_", true)]
#[case::whole("{x: 'a*b'}", "ca_b", false)]
#[case::whole_line_end("{x: 'a*b'}", "a_b\n", false)]
#[case::starts("{x|startswith: 'a*b'}", "a_b_", true)]
#[case::starts_late("{x|startswith: 'a*b'}", "_a_b", false)]
#[case::starts_anywhere("{x|startswith: '*b'}", "a_b_", true)]
#[case::ends("{x|endswith: 'a*b'}", "_a_b", true)]
#[case::ends_early("{x|endswith: 'a*b'}", "a_b_", false)]
#[case::inside("{x|contains: 'a*b'}", "_a\n_b_", true)]
#[case::escaped(r"{x: '\*a\?*'}", "*a?b", true)]
#[case::escaped_is_itself(r"{x: '\*a\?*'}", "_a_b", false)]
#[case::meta("{x: '*(a+b)?'}", "x(a+b)c", true)]
#[case::cased("{x|cased: '*Ab?d*'}", "AbCd", true)]
#[case::cased_otherwise("{x|cased: '*Ab?d*'}", "abCd", false)]
#[case::nothing("{x: '*'}", "", true)]
#[case::re_is_the_authors("{x|re: 'a.b'}", "a\nb", false)]
#[case::slash_for_dash("{x|windash|contains: ' /enc '}", "p -enc x", true)]
#[case::slash_for_slash("{x|windash|contains: ' /enc '}", "p /enc x", true)]
#[case::slash_at_the_start("{x|windash|startswith: '/format:'}", "\u{2013}format:x", true)]
#[case::slash_in_a_path("{x|windash|contains: 'a/b'}", "a-b", false)]
#[case::dash_and_wildcard("{x|windash: '*.exe * -enc *'}", "p.exe x /enc y", true)]
#[case::dash_and_wildcard_missing("{x|windash: '*.exe * -enc *'}", "p.exe x enc y", false)]
#[case::dash_and_asterisk(r"{x|windash|contains: '-e \*'}", "/e *", true)]
fn wildcards_and_dashes(#[case] selection: &str, #[case] value: &str, #[case] expected: bool) {
    assert_eq!(holds(selection, &json!({ "x": value })), expected);
}

#[rstest]
#[case::in_different_fields("{'|all': ['foo', 'bar']}", json!({"x": "a FOO", "y": "bar b"}), true)]
#[case::in_one("{'|all': ['foo', 'bar']}", json!({"x": "a foo bar"}), true)]
#[case::one_is_missing("{'|all': ['foo', 'bar']}", json!({"x": "a foo"}), false)]
#[case::a_number("[1102, 4711]", json!({"x": "event 1102 in log"}), true)]
#[case::another_number("[1102, 4711]", json!({"x": "event 1103 in log"}), false)]
#[case::null_among_values("{x: [null, '']}", json!({}), true)]
#[case::null_among_values_null("{x: [null, '']}", json!({"x": null}), true)]
#[case::null_among_values_other("{x: [null, '']}", json!({"x": "a"}), false)]
fn keywords_and_null(#[case] selection: &str, #[case] attributes: Value, #[case] expected: bool) {
    assert_eq!(holds(selection, &attributes), expected);
}

#[rstest]
#[case::blank("{x|hour: 13}", "2024-03-07 13:45:09", true)]
#[case::blank_and_fraction("{x|minute: [44, 45]}", "2024-03-07 13:45:09.123456", true)]
#[case::blank_and_zone("{x|hour: 12}", "2024-03-07 13:45:09+01:00", true)]
#[case::another_hour("{x|hour: 12}", "2024-03-07 13:45:09.123", false)]
#[case::no_time("{x|hour: 12}", "2024-03-0712:13", false)]
#[case::year("{x|year: 2024}", "2024-03-07T13:45:09.1Z", true)]
fn parts_of_times(#[case] selection: &str, #[case] value: &str, #[case] expected: bool) {
    assert_eq!(holds(selection, &json!({ "x": value })), expected);
}

#[rstest]
#[case("{x|exists: true}", json!({"x": null}), true)]
#[case("{x|exists: false}", json!({"x": null}), false)]
#[case("{x|exists: true}", json!({"x": ""}), true)]
#[case("{x|exists: true}", json!({"y": 1}), false)]
fn a_field_exists_whatever_its_value(
    #[case] selection: &str,
    #[case] attributes: Value,
    #[case] expected: bool,
) {
    assert_eq!(holds(selection, &attributes), expected);
}

/// What fills a column has no attribute of that name any more.
#[rstest]
#[case("{UtcTime|hour: 17}", true)]
#[case("{'@timestamp|startswith': '2024-03-07T17:30:00.5'}", true)]
#[case("{time|minute: 31}", false)]
#[case("{Message|contains: lsass}", true)]
#[case("{USER: root}", true)]
fn names_that_fill_a_column_find_it(#[case] selection: &str, #[case] expected: bool) {
    let event = Event {
        time: Micros(1_709_832_600_500_000),
        message: Some("a dump of lsass".into()),
        ..web_access(json!({"run_as": "root"}).to_string())
    };
    assert_eq!(holds_of(selection, &event), expected);
}

proptest! {
    #[test]
    fn a_text_inside_base64_is_found_at_every_offset(
        value in "[a-zA-Z0-9:/.]{3,9}",
        before in prop::collection::vec(any::<u8>(), 0..4),
        behind in prop::collection::vec(any::<u8>(), 0..4),
        wide in any::<bool>(),
    ) {
        let bytes = match wide {
            true => value.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            false => value.clone().into_bytes(),
        };
        let text = BASE64.encode([before, bytes, behind].concat());
        let wide = if wide { "wide|" } else { "" };
        let selection = format!("{{x|{wide}base64offset|contains: '{value}'}}");
        prop_assert!(holds(&selection, &json!({ "x": text })), "{} {}", value, text);
    }
}
