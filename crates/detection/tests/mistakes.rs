//! Mistakes in rules that would make them match never, or too much: each is told where it stands, and for what it is.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use rstest::rstest;
use tidewatch_detection::{Defect, Rules, Taxonomy, load_documents};

fn documents(text: &str) -> (Rules, Vec<Defect>) {
    let loaded = load_documents(Path::new("rules.yml"), text, &Taxonomy::shipped().unwrap());
    (loaded.rules, loaded.defects)
}

/// Rules `1`, called `ra`, and `2`; 18 lines and a separator.
const RULES: &str = "title: a
id: '1'
name: ra
logsource: {category: webserver}
detection:
  s: {u: x}
  condition: s
level: low
---
title: b
id: '2'
logsource: {category: webserver}
detection:
  s: {u: y}
  condition: s
level: low
---
";
const RULE: &str = "title: t
id: '9'
logsource:
  category: webserver
detection:
  s1:
    u: x
  s2:
    v: y
  condition: s1 and s2
level: low
";
const CORRELATION: &str = "title: t
id: '9'
correlation:
  type: event_count
  rules: [ra, '2']
  group-by: [c]
  timespan: 1m
  condition:
    gte: 2
level: low
";
const FILTER: &str = "title: t
logsource: {category: webserver}
filter:
  rules: [ra]
  s:
    v: y
  condition: not s
";

#[rstest]
#[case::rule(RULE)]
#[case::correlation(CORRELATION)]
#[case::filter(FILTER)]
fn what_the_mistakes_are_made_in_has_none(#[case] document: &str) {
    assert_eq!(documents(&format!("{RULES}{document}")).1, []);
}

/// Line and reason of what is wrong when `instead` stands in the place of `of`.
#[track_caller]
fn told(document: &str, of: &str, instead: &str, line: usize, reason: &str) {
    assert!(document.contains(of), "{of}");
    let (_, defects) = documents(&format!("{RULES}{}", document.replacen(of, instead, 1)));
    let [defect] = defects.as_slice() else { panic!("{defects:?}") };
    assert!(defect.reason.contains(reason), "{defect}");
    assert_eq!(defect.line, RULES.lines().count() + line, "{defect}");
}

#[rstest]
#[case::title("title: t", "title: 5", 1, "'title' is 5, not a text: put it in quotes")]
#[case::no_title("title: t\n", "", 1, "Missing required field 'title'")]
#[case::id("id: '9'", "id: 9", 2, "'id' is 9, not a text")]
#[case::name("id: '9'", "id: '9'\nname:", 3, "'name' is empty, not a text")]
#[case::level("level: low", "level: 7", 11, "the level is 7, none of informational, low,")]
#[case::no_level("level: low", "level:", 11, "the level is empty, none of")]
#[case::levels("level: low", "level: [low]", 11, "the level is a list, none of")]
#[case::other_level("level: low", "level: hihg", 11, "the level is 'hihg', none of")]
#[case::logsource("  category: webserver", "  - webserver", 3, "'logsource' is a list, not a mapping")]
#[case::product("category: webserver", "product: [windows]", 4, "'product' is a list, not a text")]
#[case::service("category: webserver", "service: 5", 4, "'service' is 5, not a text")]
#[case::no_category("category: webserver", "category:", 4, "'category' is empty")]
#[case::prodcut("category: webserver", "prodcut: linux", 4, "no key 'prodcut': is 'product' meant?")]
#[case::condition("s1 and s2", "[]", 10, "the condition is an empty list")]
#[case::no_condition("condition: s1 and s2", "condition:", 10, "'condition' is empty")]
#[case::unknown_selection("s1 and s2", "s1 and s3", 10, "identifier: s3")]
#[case::three("s1 and s2", "3 of s*", 10, "asks for 3 of 's*', which fits 2 selections")]
#[case::none("s1 and s2", "s1 and not (0 of s*)", 10, "'0 of s*' holds for every event")]
#[case::modifier("u: x", "u|contians: x", 7, "Unknown modifier 'contians'")]
#[case::in_a_list("    u: x", "    - u: x\n    - w|contians: x", 8, "Unknown modifier 'contians'")]
#[case::no_selection("s1:\n    u: x", "s1:", 6, "the selection 's1' is empty")]
#[case::empty_selection("s1:\n    u: x", "s1: {}", 6, "the selection 's1' is empty")]
#[case::empty_list("s1:\n    u: x", "s1: []", 6, "the selection 's1' is empty")]
#[case::no_keyword("    u: x", "    - x\n    -", 6, "a keyword of 's1' is empty")]
#[case::selection_name("  s2:", "  2:", 5, "a selection is named 2, not by a text")]
#[case::field_name("u: x", "5: x", 6, "a field of 's1' is named 5, not by a text")]
#[case::no_values("u: x", "u: []", 7, "'u' wants one of no values")]
#[case::mapping("u: x", "u: {v: x}", 7, "'u' wants a mapping, which no field is")]
#[case::mappings("u: x", "u: [x, {v: x}]", 7, "'u' wants a mapping")]
#[case::lists("u: x", "u: [[x]]", 7, "'u' wants a list")]
#[case::elements("u: x", "u[any]: {v: x}", 7, "'u[any]' wants a mapping")]
#[case::minute("u: x", "u|minute: 60", 7, "'u|minute' wants 60: only 0 to 59 can be")]
#[case::hour("u: x", "u|hour: [1, 25]", 7, "'u|hour' wants 25: only 0 to 23 can be")]
#[case::half_an_hour("u: x", "u|hour: 0.5", 7, "'u|hour' wants 0.5: only 0 to 23 can be")]
#[case::hour_text("u: x", "u|hour: '25'", 7, "'u|hour' wants '25': only 0 to 23 can be")]
#[case::day("u: x", "u|day: 0", 7, "'u|day' wants 0: only 1 to 31 can be")]
#[case::week("u: x", "u|week: 54", 7, "'u|week' wants 54: only 1 to 53 can be")]
#[case::month("u: x", "u|month: 13", 7, "'u|month' wants 13: only 1 to 12 can be")]
#[case::fieldref("u: x", "u|fieldref: 5", 7, "'u|fieldref' is 5, not a text")]
#[case::exist("u: x", "u|exists: [true]", 7, "'u|exists' is a list: true or false is asked for")]
#[case::exists_text("u: x", "u|exists: 'yes'", 7, "'u|exists' is 'yes': true or false is asked for")]
#[case::exists_not("u: x", "u|exists|neq: true", 7, "a modifier beside exists, which takes no other")]
#[case::exists_what("u: x", "'|exists': true", 7, "names no field that could exist")]
#[case::regex("u: x", "u|re: '('", 7, "regex")]
#[case::network("u: x", "w: x\n    u|cidr: 10.0.0.0/99", 8, "invalid CIDR")]
#[case::pair("u: x", "u|re|contains: x", 7, "conflicting modifiers")]
#[case::within_braces("s1:\n    u: x", "s1: {u|contians: x}", 6, "Unknown modifier 'contians'")]
#[case::same_key_twice("    u: x", "    - u|hour: 25\n    - u|hour: 1", 6, "wants 25")]
#[case::separator("level: low", "level: low\n--- # more\ntitle: u", 12, "another document begins here")]
fn a_mistake_in_a_rule_is_told_where_it_stands(
    #[case] of: &str,
    #[case] instead: &str,
    #[case] line: usize,
    #[case] reason: &str,
) {
    told(RULE, of, instead, line, reason);
}

#[rstest]
#[case::group_by("group-by:", "group_by:", 6, "the correlation has no key 'group_by': is 'group-by' meant?")]
#[case::other_key("group-by:", "having:", 6, "the correlation has no key 'having'")]
#[case::list("correlation:\n", "correlation: [x]\nother:\n", 3, "'correlation' is a list, not a mapping")]
#[case::type_("type: event_count", "type: 5", 4, "'type' is 5, not a text")]
#[case::rules("rules: [ra, '2']", "rules: [ra, 2]", 5, "'rules' is 2, not a text: put it in quotes")]
#[case::no_rules("rules: [ra, '2']", "rules: []", 5, "the correlation names no rules")]
#[case::group("group-by: [c]", "group-by: {c: d}", 6, "'group-by' is a mapping, not a text")]
#[case::timespan(
    "timespan: 1m",
    "timespan: 90",
    7,
    "the timespan is 90: a number with s, m, h or d is asked for"
)]
#[case::other_unit("timespan: 1m", "timespan: 5 minutes", 7, "the timespan is '5 minutes': a number with")]
#[case::no_timespan("  timespan: 1m\n", "", 3, "the correlation has no timespan, such as 5m")]
#[case::long("timespan: 1m", "timespan: 30d", 7, "timespan 30d is out of range")]
#[case::negative("gte: 2", "gte: -1", 9, "'gte' is -1: a whole number from 0 on is asked for")]
#[case::fraction("gte: 2", "gte: 1.5", 9, "'gte' is 1.5: a whole number")]
#[case::large("gte: 2", "gte: 1000000000", 8, "a threshold of 1000000000 is out of range")]
#[case::operator("gte: 2", "gte: 2\n    ltE: 5", 10, "the condition has no key 'ltE': is 'lte' meant?")]
#[case::field("gte: 2", "gte: 2\n    field: [5]", 10, "'field' is 5, not a text")]
#[case::condition("condition:\n    gte: 2", "condition: 2", 8, "'condition' is 2, not a mapping")]
#[case::generate("timespan: 1m", "timespan: 1m\n  generate: yes", 8, "'generate' is 'yes', not a boolean")]
#[case::generate_below("level: low", "generate: 1", 10, "'generate' is 1, not a boolean")]
#[case::aliases("timespan: 1m", "timespan: 1m\n  aliases: [c]", 8, "'aliases' is a list, not a mapping")]
#[case::alias("timespan: 1m", "timespan: 1m\n  aliases:\n    c: d", 9, "'c' is 'd', not a mapping")]
#[case::alias_field(
    "timespan: 1m",
    "timespan: 1m\n  aliases:\n    c:\n      ra: 5",
    10,
    "'ra' is 5, not a text"
)]
#[case::window("timespan: 1m", "timespan: 1m\n  window: tumbling", 8, "tumbling windows are not supported")]
fn a_mistake_in_a_correlation_is_told_where_it_stands(
    #[case] of: &str,
    #[case] instead: &str,
    #[case] line: usize,
    #[case] reason: &str,
) {
    told(CORRELATION, of, instead, line, reason);
}

#[rstest]
#[case::modifier("v: y", "v|contians: y", 6, "Unknown modifier 'contians'")]
#[case::regex("v: y", "v|re: '('", 6, "regex")]
#[case::no_values("v: y", "v: []", 6, "'v' wants one of no values")]
#[case::count("not s", "2 of s*", 7, "asks for 2 of 's*', which fits 1 selections")]
#[case::unknown_selection("not s", "not t", 7, "identifier: t")]
#[case::rules("rules: [ra]", "rules: []", 4, "names no rule")]
#[case::level("title: t", "title: t\nlevel: 7", 2, "the level is 7")]
fn a_mistake_in_a_filter_is_told_where_it_stands(
    #[case] of: &str,
    #[case] instead: &str,
    #[case] line: usize,
    #[case] reason: &str,
) {
    told(FILTER, of, instead, line, reason);
}

#[rstest]
#[case::keywords("    u: x", "    - x\n    - 5")]
#[case::one_keyword("s1:\n    u: x", "s1: x")]
#[case::alternatives("    u: x", "    - u: x\n    - w: [y, null]")]
#[case::null("u: x", "u:")]
#[case::empty("u: x", "u: ''")]
#[case::all("u: x", "'|all': [x, y]")]
#[case::last_week("u: x", "u|week: 53")]
#[case::exists("u: x", "u|exists: false")]
#[case::conditions("s1 and s2", "[s1, 2 of s*]")]
#[case::brackets("u: x", "u[any]: x")]
#[case::elements("level: low\n", "level: low\nsigma-version: 3\n")]
#[case::definition("category: webserver", "category: webserver\n  definition: {a: [b]}\n  origin: mine")]
#[case::no_log_source("logsource:\n  category: webserver\n", "")]
#[case::attributes("level: low", "levels: [7]")]
#[case::remark("title: t", "--- # a remark\ntitle: t")]
fn what_is_no_mistake_is_a_rule(#[case] of: &str, #[case] instead: &str) {
    let (_, defects) = documents(&RULE.replacen(of, instead, 1));
    assert_eq!(defects, []);
}

#[test]
fn elements_of_lists_are_looked_into_from_version_3_on() {
    let rule = RULE.replace("u: x", "u[any]: {v: x}").replace("level: low", "sigma-version: 3");
    assert_eq!(documents(&rule).1, []);
}

#[test]
fn what_a_global_document_says_is_checked_in_those_that_build_upon_it() {
    let text = "action: global\nlevel: 7\nlogsource: {category: webserver}\n---\ntitle: a\nid: '1'\ndetection:\n  s: {u: x}\n  \
                condition: s\n";
    let (_, defects) = documents(text);
    let [defect] = defects.as_slice() else { panic!("{defects:?}") };
    assert_eq!((defect.line, defect.reason.contains("the level is 7")), (5, true), "{defect}");
}

#[rstest]
#[case::name("{c: {ra: d}}", "")]
#[case::id("{c: {'1': d, '2': e}}", "")]
#[case::of_no_rule("{c: {typo: d}}", "the alias 'c' names 'typo', which is none of the correlation's rules")]
#[case::of_another_rule("{c: {'3': d}}", "the alias 'c' names '3', which is none of the correlation's rules")]
#[case::twice("{c: {'1': d, ra: e}}", "the alias 'c' names the rule 'ra' twice")]
fn aliases_call_rules_by_name_or_id(#[case] aliases: &str, #[case] reason: &str) {
    let other = RULE.replace("'9'", "'3'");
    let aliased = CORRELATION.replace("group-by", &format!("aliases: {aliases}\n  group-by"));
    let (rules, defects) = documents(&format!("{RULES}{other}---\n{aliased}"));
    let reasons: Vec<&str> = defects.iter().map(|defect| defect.reason.as_str()).collect();
    match reason {
        "" => {
            assert_eq!(reasons, [""; 0]);
            let aliases = &rules.correlations()[0].aliases;
            assert!(aliases.contains(&("c".to_owned(), "ra".to_owned(), "d".to_owned())), "{aliases:?}");
        }
        reason => assert!(reasons.len() == 1 && reasons[0].contains(reason), "{reasons:?}"),
    }
}

const DOUBLED: &str =
    "which two rules are called, at rules.yml:1 and at rules.yml:18: a name is to be unique";

#[rstest]
#[case::correlation(CORRELATION, &format!("the correlation names the rule 'ra', {DOUBLED}"))]
#[case::filter(FILTER, &format!("the filter names the detection rule 'ra', {DOUBLED}"))]
#[case::orgs("orgs:\n  acme: {disable: [ra]}\n", &format!("orgs: 'acme' names the rule 'ra', {DOUBLED}"))]
#[case::by_id(&CORRELATION.replace("ra", "'1'"), "")]
#[case::nothing("", "")]
fn a_name_that_two_rules_have_means_neither(#[case] document: &str, #[case] reason: &str) {
    let second = RULE.replace("id: '9'", "id: '3'\nname: ra");
    let (rules, defects) = documents(&format!("{RULES}{second}---\n{document}"));
    assert_eq!(rules.detections().len(), 3, "both are rules all the same");
    match (reason, defects.as_slice()) {
        ("", defects) => assert_eq!(defects, []),
        (reason, [defect]) => assert!(defect.reason.starts_with(reason), "{defect}"),
        _ => panic!("{defects:?}"),
    }
}

#[test]
fn rules_of_the_same_title_are_not_of_the_same_name() {
    let second = RULE.replace("title: t", "title: a");
    assert_eq!(documents(&format!("{RULES}{second}---\n{}", CORRELATION.replace("'9'", "'8'"))).1, []);
}
