//! Rule directories as people keep them: several documents in a file, mistakes among them.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use rstest::rstest;
use tidewatch_detection::{Defect, Rules, Taxonomy, fingerprint, load, load_documents};

fn rule(id: &str, title: &str) -> String {
    format!(
        "title: {title}\nid: '{id}'\nlogsource:\n  category: webserver\ndetection:\n  selection:\n    a: b\n  condition: selection\nlevel: high\n"
    )
}

fn documents(text: &str) -> (Rules, Vec<Defect>) {
    let loaded = load_documents(Path::new("rules.yml"), text, &Taxonomy::shipped().unwrap());
    (loaded.rules, loaded.defects)
}

fn one_defect(text: &str) -> (usize, String) {
    let (_, defects) = documents(text);
    let [defect] = defects.as_slice() else { panic!("{defects:?}") };
    (defect.line, defect.reason.clone())
}

fn titles(rules: &Rules) -> Vec<&str> {
    rules.detections().iter().map(|rule| rule.meta.title.as_str()).collect()
}

#[test]
fn a_file_holds_several_documents_and_each_has_its_own_hash() {
    let (rules, defects) = documents(&format!("{}---\n# a remark\n{}---\n", rule("1", "a"), rule("2", "b")));
    assert_eq!(defects, []);
    assert_eq!(titles(&rules), ["a", "b"]);
    let [a, b] = rules.detections() else { panic!() };
    assert_eq!(a.meta.hash.len(), 16);
    assert_ne!(a.meta.hash, b.meta.hash);
    let (again, _) = documents(&format!("{}---\n# a remark\n{}---\n", rule("1", "a"), rule("2", "b")));
    assert_eq!(again.detections()[0].meta, a.meta);
}

#[test]
fn global_documents_complete_the_ones_after_them() {
    let text = "action: global\nlogsource: {category: webserver}\nlevel: high\n---\n\
                title: a\nid: '1'\ndetection: {s: {a: b}, condition: s}\n---\n\
                title: b\nid: '2'\ndetection: {s: {a: c}, condition: s}\n";
    let (rules, defects) = documents(text);
    assert_eq!(defects, []);
    assert_eq!(titles(&rules), ["a", "b"]);
    assert!(rules.detections().iter().all(|rule| rule.meta.severity_id == 4));
}

#[test]
fn a_mistake_is_told_with_its_line_and_costs_only_its_document() {
    let text = format!("{}---\ntitle: x\nid: [\n---\n{}", rule("1", "a"), rule("2", "b"));
    let (rules, defects) = documents(&text);
    assert_eq!(titles(&rules), ["a", "b"]);
    let [defect] = defects.as_slice() else { panic!("{defects:?}") };
    assert!((11..=13).contains(&defect.line), "{defect}");
    assert!(defect.to_string().starts_with(&format!("rules.yml:{}: ", defect.line)), "{defect}");
}

#[test]
fn a_condition_that_names_nothing_is_told_at_its_line() {
    let text = format!(
        "{}---\n{}",
        rule("1", "a"),
        rule("2", "b").replace("condition: selection", "condition: nothing")
    );
    let (line, reason) = one_defect(&text);
    assert_eq!(line, 18);
    assert!(reason.contains("nothing"), "{reason}");
}

#[test]
fn mistakes_that_would_match_by_accident_are_refused() {
    let cases = [
        (rule("1", "a").replace("a: b", "a|contain: b"), "contain"),
        (rule("1", "a").replace("level: high", "level: hihg"), "hihg"),
        (rule("1", "a").replace("id: '1'\n", ""), "neither an id nor a name"),
        (rule("1", "a").replace("a: b", "a|re: '('"), "regex"),
        (rule("1", "a").replace("condition: selection", "condition: selection and"), "ondition"),
    ];
    for (text, wanted) in cases {
        let (_, reason) = one_defect(&text);
        assert!(reason.contains(wanted), "{reason}");
    }
}

#[test]
fn an_id_is_taken_once() {
    let (line, reason) = one_defect(&format!("{}---\n{}", rule("1", "a"), rule("1", "b")));
    assert_eq!((line, reason.as_str()), (11, "the id 1 is taken by the rule at rules.yml:1"));
}

fn correlation(fields: &str) -> String {
    format!("{}---\ntitle: many\nid: '9'\nlevel: high\ncorrelation:\n{fields}", rule("1", "a"))
}

#[test]
fn correlations_say_what_they_cannot_do() {
    let cases = [
        ("  type: value_count\n  rules: ['1']\n  timespan: 1m\n  condition: {gte: 3}\n", "needs the field"),
        ("  type: value_sum\n  rules: ['1']\n  timespan: 1m\n  condition: {field: x, gte: 3}\n", "value_sum"),
        ("  type: temporal\n  rules: ['1']\n  timespan: 1m\n  condition: '1 and not 2'\n", "over rule names"),
        ("  type: temporal_ordered\n  rules: ['1']\n  timespan: 1m\n  condition: {lt: 1}\n", "count of 0"),
        (
            "  type: event_count\n  rules: ['1']\n  timespan: 1m\n  condition: {field: x, gte: 3}\n",
            "belongs to value_count",
        ),
        ("  type: event_count\n  rules: ['1']\n  timespan: 1m\n  condition: {lt: 1}\n", "count of 0"),
        ("  type: event_count\n  rules: ['1']\n  timespan: 1m\n  condition: {gt: 3, lt: 3}\n", "no count"),
        ("  type: temporal\n  rules: ['1', '1']\n  timespan: 1m\n", "twice"),
        ("  type: temporal\n  rules: ['1', '9']\n  timespan: 1m\n", "in a circle"),
        ("  type: event_count\n  rules: ['1']\n  timespan: 30d\n  condition: {gte: 3}\n", "30d"),
        (
            "  type: event_count\n  rules: ['1']\n  timespan: 1m\n  condition: {gte: 1000000000}\n",
            "1000000000",
        ),
        (
            "  type: event_count\n  rules: ['none']\n  timespan: 1m\n  condition: {gte: 3}\n",
            "'none', which is not there",
        ),
    ];
    for (fields, wanted) in cases {
        let (rules, defects) = documents(&correlation(fields));
        assert_eq!(rules.correlations().len(), 0);
        let [defect] = defects.as_slice() else { panic!("{defects:?}") };
        assert!(defect.reason.contains(wanted), "{defect}");
    }
}

fn chained(inner: &str, outer: &str) -> Vec<String> {
    let document = |id: &str, fields: &str| {
        format!("---\ntitle: {id}\nid: {id}\nlevel: high\ncorrelation:\n  timespan: 1m\n{fields}\n")
    };
    let text = rule("1", "a") + &document("inner", inner) + &document("outer", outer);
    let (_, defects) = documents(&text);
    defects.iter().map(|defect| defect.reason.clone()).collect()
}

#[rstest]
#[case::fits("group-by: [c, d]", "gte: 2", "type: temporal\n  rules: [inner, '1']\n  group-by: [c]", "")]
#[case::other_group(
    "group-by: [d]",
    "gte: 2",
    "type: temporal\n  rules: [inner, '1']\n  group-by: [c]",
    "'c' of its group-by is not in the group-by of 'inner'"
)]
#[case::alias(
    "group-by: [d]",
    "gte: 2",
    "type: temporal\n  rules: [inner, '1']\n  group-by: [c]\n  aliases: {c: {inner: d, '1': e}}",
    ""
)]
#[case::value(
    "group-by: [c]",
    "gte: 2",
    "type: value_count\n  rules: [inner]\n  group-by: [c]\n  condition: {field: d, gte: 2}",
    "'d' of its field"
)]
#[case::waits(
    "group-by: [c]",
    "lt: 2",
    "type: temporal\n  rules: [inner, '1']\n  group-by: [c]",
    "upper bound"
)]
#[case::both(
    "group-by: [c]",
    "gte: 2",
    "type: event_count\n  rules: [inner, '1']\n  group-by: [c]\n  condition: {gte: 2}",
    "not of both"
)]
#[case::long(
    "group-by: [c]",
    "gte: 2",
    "type: temporal\n  rules: [inner, '1']\n  group-by: [c]\n  timeframe: 7d",
    "add up to more than 7d"
)]
fn a_correlation_builds_upon_another_if_its_group_is_among_the_others(
    #[case] group: &str,
    #[case] condition: &str,
    #[case] outer: &str,
    #[case] reason: &str,
) {
    let inner = format!("  type: event_count\n  rules: ['1']\n  {group}\n  condition: {{{condition}}}");
    let reasons = chained(&inner, &format!("  {outer}"));
    match reason {
        "" => assert_eq!(reasons, [""; 0]),
        reason => assert!(reasons.len() == 1 && reasons[0].contains(reason), "{reasons:?}"),
    }
}

#[test]
fn what_builds_upon_a_refused_correlation_is_refused_too() {
    let reasons = chained(
        "  type: temporal\n  rules: ['1', outer]\n  group-by: [c]",
        "  type: temporal\n  rules: ['1', inner]\n  group-by: [c]",
    );
    assert_eq!(reasons.len(), 2);
    assert!(reasons.iter().all(|reason| reason.contains("in a circle")), "{reasons:?}");
    let reasons = chained(
        "  type: temporal\n  rules: [gone]\n  group-by: [c]",
        "  type: temporal\n  rules: ['1', inner]\n  group-by: [c]",
    );
    assert!(
        reasons[0].contains("'gone', which is not there")
            && reasons[1].contains("'inner', which was refused")
    );
}

#[test]
fn a_rule_that_feeds_a_correlation_raises_no_alerts_of_its_own_unless_asked_to() {
    let fields =
        "  type: event_count\n  rules: ['1']\n  group-by: [c]\n  timespan: 1m\n  condition: {gt: 3}\n";
    let (rules, defects) = documents(&correlation(fields));
    assert_eq!(defects, []);
    assert!(!rules.detections()[0].alerts);
    assert_eq!(rules.correlations()[0].condition.least, 4);
    let (rules, _) = documents(&correlation(&format!("{fields}  generate: true\n")));
    assert!(rules.detections()[0].alerts);
}

#[test]
fn a_broken_edit_keeps_the_last_good_version() {
    let directory = tempfile::tempdir().unwrap();
    let taxonomy = Taxonomy::shipped().unwrap();
    let file = directory.path().join("a.yml");
    std::fs::write(&file, format!("{}---\n{}", rule("1", "a"), rule("2", "b"))).unwrap();
    std::fs::write(directory.path().join("a.test.yml"), "no: rule").unwrap();
    std::fs::create_dir(directory.path().join("more")).unwrap();
    std::fs::write(directory.path().join("more/c.yaml"), rule("3", "c")).unwrap();
    let first = load(directory.path(), &taxonomy, None).unwrap();
    assert_eq!((titles(&first.rules), first.defects.len()), (vec!["a", "b", "c"], 0));
    let before = fingerprint(directory.path()).unwrap();

    let broken = rule("2", "b").replace("condition: selection", "condition: nothing");
    std::fs::write(&file, format!("{}---\n{broken}", rule("1", "changed"))).unwrap();
    assert_ne!(fingerprint(directory.path()).unwrap(), before);
    let second = load(directory.path(), &taxonomy, Some(&first.rules)).unwrap();
    assert_eq!(titles(&second.rules), ["changed", "b", "c"]);
    let [defect] = second.defects.as_slice() else { panic!("{:?}", second.defects) };
    assert!(defect.kept_last_good);
    assert!(defect.to_string().ends_with("(its last good version stays)"), "{defect}");

    // It stays for as long as the file is broken, and goes with the file.
    let third = load(directory.path(), &taxonomy, Some(&second.rules)).unwrap();
    assert_eq!(titles(&third.rules), ["changed", "b", "c"]);
    std::fs::remove_file(&file).unwrap();
    let fourth = load(directory.path(), &taxonomy, Some(&third.rules)).unwrap();
    assert_eq!(titles(&fourth.rules), ["c"]);
}

#[test]
fn a_directory_that_is_not_there_is_an_error() {
    assert!(load(Path::new("/nonexistent/rules"), &Taxonomy::default(), None).is_err());
}

#[test]
fn ten_thousand_rules_load() {
    let text: Vec<String> = (0..10_000).map(|n| rule(&format!("{n:05}"), "a")).collect();
    let (rules, defects) = documents(&text.join("---\n"));
    assert_eq!((rules.len(), defects.len()), (10_000, 0));
}

#[test]
fn a_file_that_several_links_lead_to_is_read_once_and_may_begin_with_a_mark() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("..2026_11_27")).unwrap();
    std::fs::write(path("..2026_11_27/a.yml"), format!("\u{feff}{}", rule("1", "a"))).unwrap();
    for (target, link) in [("..2026_11_27", "..data"), ("..data/a.yml", "a.yml"), (".", "again")] {
        std::os::unix::fs::symlink(target, path(link)).unwrap();
    }
    let loaded = load(folder.path(), &Taxonomy::shipped().unwrap(), None).unwrap();
    assert_eq!(loaded.defects, []);
    assert_eq!(titles(&loaded.rules), ["a"]);
    assert_eq!(loaded.rules.origin("1"), Some((path("a.yml").as_path(), 1)));
}
