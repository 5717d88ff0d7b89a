//! Rules and events that are meant to hurt, or are only too large: each is told or matched, in little time, and costs no other.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::time::{Duration, Instant};

use normalise::{Input, MAX_EVENT_BYTES};
use rstest::rstest;
use schemas::Micros;
use tidewatch_detection::{Defect, Rules, Subject, Taxonomy, load, load_documents};

/// Generous for a build without optimisation on a busy machine, and nothing beside what each of these took without limits.
const SOON: Duration = Duration::from_secs(20);
/// Kibibytes that the whole of these tests may have used at once.
const MUCH_MEMORY: u64 = 1_500_000;

fn rule(id: &str, detection: &str) -> String {
    format!("title: t\nid: '{id}'\nlogsource: {{category: webserver}}\ndetection:\n{detection}")
}

fn good(id: &str) -> String {
    rule(id, "  s:\n    a: b\n  condition: s\n")
}

fn soon<T>(work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    assert!(start.elapsed() < SOON, "took {:?}", start.elapsed());
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < MUCH_MEMORY, "{peak} KiB");
    result
}

fn documents(text: &str) -> (Rules, Vec<Defect>) {
    let taxonomy = Taxonomy::shipped().unwrap();
    let loaded = soon(|| load_documents(Path::new("rules.yml"), text, &taxonomy));
    (loaded.rules, loaded.defects)
}

/// Ids of the rules that match `line` once normalised.
fn hits(rules: &Rules, line: &str) -> Vec<String> {
    let input = Input {
        bytes: line.as_bytes(),
        format: "json",
        org: "demo",
        received_at: Micros(1_763_715_600_000_000),
        index: 0,
        event_uid: None,
    };
    let event = normalise::event(&input).unwrap();
    soon(|| rules.matching(&rules.view(Subject::Event(&event))).map(|rule| rule.meta.id.clone()).collect())
}

const EVENT: &str = r#"{"class_uid":4002,"a":"b"}"#;

fn anchors(list: usize, references: usize) -> String {
    let (list, references) = (vec!["x"; list].join(","), vec!["*a"; references].join(","));
    format!("base: &a [{list}]\n{}", rule("bad", &format!("  s: {{a: [{references}]}}\n  condition: s\n")))
}

fn values(modifiers: &str, value: impl Fn(usize) -> String, count: usize) -> String {
    let lines: String = (0..count).map(|number| format!("      - '{}'\n", value(number))).collect();
    rule("bad", &format!("  s:\n    a{modifiers}:\n{lines}  condition: s\n"))
}

fn condition(text: &str) -> String {
    rule("bad", &format!("  s:\n    a: b\n  condition: {text}\n"))
}

/// For the rule, or with `any` for all of the log source: it holds where `b` has none of the values.
fn filter(name: &str, rules: &str, values: &str) -> String {
    let rules = if rules == "any" { rules.to_owned() } else { format!("['{rules}']") };
    format!(
        "title: {name}\nlogsource: {{category: webserver}}\nfilter:\n  rules: {rules}\n  s: {{b: [{values}]}}\n  condition: not s\n---\n"
    )
}

#[rstest]
#[case::no_yaml("title: [", "YAML", 0..4)]
#[case::no_rule("just text\n", "", 0..2)]
#[case::brackets(condition(&format!("{}s{}", "(".repeat(30_000), ")".repeat(30_000))), "more than 32 deep", 7..8)]
#[case::negations(condition(&format!("{}s", "not ".repeat(16_000))), "more than 512 operators", 7..8)]
#[case::conjunctions(condition(&format!("{}s", "s and ".repeat(10_000))), "more than 512 operators", 7..8)]
#[case::folded_condition(condition(&format!(">-\n{}    s", "    s or\n".repeat(1_000))), "more than 512 operators", 8..1_100)]
#[case::nested_condition(condition(&format!("{}s{}", "not (".repeat(40), ")".repeat(40))), "more than 32 deep", 7..8)]
#[case::flow(rule("bad", &format!("  s: {}{}\n  condition: s\n", "[".repeat(100_000), "]".repeat(100_000))), "200 brackets", 5..6)]
#[case::flow_maps(rule("bad", &format!("  s: {}{}\n  condition: s\n", "{a: ".repeat(9_000), "}".repeat(9_000))), "200 brackets", 5..6)]
#[case::flow_without_end(rule("bad", &format!("  s: {}\n", "[".repeat(400_000))), "200 brackets", 5..6)]
#[case::dashes(rule("bad", &format!("  s:\n    {}a\n  condition: s\n", "- ".repeat(30_000))), "recursion limit", 6..7)]
#[case::blocks(
    rule("bad", &format!("  s:\n{}  condition: s\n", (0..900).map(|n| format!("{}a:\n", " ".repeat(n + 3))).collect::<String>())),
    "recursion limit", 100..200
)]
#[case::aliases_of_aliases(
    (1..10).fold("a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, n| {
        text + &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(","))
    }) + &rule("bad", "  s: {a: *a9}\n  condition: s\n"),
    "8 references to anchors", 2..3
)]
#[case::many_aliases(anchors(5_000, 5_000), "8 references to anchors", 6..7)]
#[case::aliases_of_much(anchors(100_000, 8), "it has anchors", 1..2)]
#[case::repetition(values("|re", |_| "(\\w{1000}){1000}".to_owned(), 1), "patterns are too large", 7..8)]
#[case::repetitions(values("|re", |n| format!("x{n}\\w{{400}}"), 300), "patterns are too large", 7..8)]
#[case::alternation(values("|re", |_| (0..40_000).map(|n| format!("f{n}|")).collect(), 1), "patterns are too large", 7..8)]
#[case::nested_pattern(values("|re", |_| "(".repeat(10_000) + &")".repeat(10_000), 1), "regex", 1..8)]
#[case::wildcards(values("", |_| "*a".repeat(50_000), 1), "patterns are too large", 7..8)]
#[case::dash_variants(values("|windash|contains", |_| "-a".repeat(8), 1), "10000 values", 7..8)]
#[case::values(values("|contains", |n| format!("v{n}"), 20_000), "10000 values", 10_007..10_008)]
#[case::filter(filter("bad", "good-1", &vec!["'*a*b'"; 40_000].join(", ")), "patterns are too large", 1..20)]
#[case::orgs(format!("orgs:\n  acme: {{disable: {}{}}}\n", "[".repeat(100_000), "]".repeat(100_000)), "200 brackets", 2..3)]
#[case::taxonomy(format!("taxonomy:\n  fields: {}{}\n", "[".repeat(100_000), "]".repeat(100_000)), "200 brackets", 2..3)]
#[case::long_document(good("bad").replace("title: t", &format!("title: {}", "t".repeat(600_000))), "bytes, more than", 1..2)]
fn a_document_that_is_too_much_is_told_and_costs_no_other(
    #[case] bad: impl AsRef<str>,
    #[case] reason: &str,
    #[case] lines: std::ops::Range<usize>,
) {
    let before = good("good-1");
    let (rules, defects) = documents(&format!("{before}---\n{}\n---\n{}", bad.as_ref(), good("good-2")));
    let [defect] = defects.as_slice() else { panic!("{} defects", defects.len()) };
    assert!(defect.reason.contains(reason), "{defect}");
    assert!(defect.reason.chars().count() <= 401, "{}", defect.reason.len());
    let line = defect.line - before.lines().count() - 1;
    assert!(lines.contains(&line), "line {line}: {defect}");
    assert_eq!(hits(&rules, EVENT), ["good-1", "good-2"]);
}

#[test]
fn what_looks_like_too_much_and_is_not_is_a_rule() {
    let text = [
        values("|re", |_| "((((a+)+)+)+)+$".to_owned(), 1).replace("bad", "nested-quantifiers"),
        values("|contains", |n| format!("v{n}"), 9_000).replace("bad", "values"),
        condition(&format!("{}s", "s and ".repeat(500))).replace("bad", "condition"),
        format!("# {}\n{}", "* &a *b ".repeat(3), good("remarks")),
    ];
    let (rules, defects) = documents(&text.join("---\n"));
    assert_eq!((rules.len(), defects.as_slice()), (4, &[][..]));
    let line = format!(r#"{{"class_uid":4002,"a":"{}!"}}"#, "a".repeat(MAX_EVENT_BYTES - 100));
    assert_eq!(hits(&rules, &line), [""; 0]);
}

#[test]
fn files_that_build_upon_their_documents_are_short() {
    let documents_of = |count: usize| -> String {
        let each = (0..count)
            .map(|n| format!("---\ntitle: t\nid: 'r{n}'\ndetection:\n  s: {{a: b}}\n  condition: s\n"));
        "action: global\nlogsource: {category: webserver}\n".to_owned() + &each.collect::<String>()
    };
    let (rules, defects) = documents(&documents_of(99));
    assert_eq!((rules.len(), defects.as_slice()), (99, &[][..]));
    for (count, reason) in [(200, "may have 100 documents"), (8_000, "may have 262144 bytes")] {
        let (rules, defects) = documents(&documents_of(count));
        assert_eq!((rules.len(), defects.len()), (0, 1));
        assert!(defects[0].reason.contains(reason), "{}", defects[0]);
    }
}

#[test]
fn ten_thousand_rules_are_loaded_and_matched_and_double_as_many_take_double_the_time() {
    let taxonomy = Taxonomy::shipped().unwrap();
    let directory = |count: usize| {
        let directory = tempfile::tempdir().unwrap();
        for file in 0..count / 10 {
            let text: String = (file * 10..file * 10 + 10)
                .map(|n| {
                    rule(&format!("r{n:05}"), &format!("  s:\n    a|contains: [needle-{n:05}, other-{n:05}]\n    b: c\n  condition: s\n---\n"))
                })
                .collect();
            std::fs::write(directory.path().join(format!("{file}.yml")), text).unwrap();
        }
        directory
    };
    let timed = |count: usize| {
        let directory = directory(count);
        let start = Instant::now();
        let loaded = soon(|| load(directory.path(), &taxonomy, None)).unwrap();
        assert_eq!((loaded.rules.len(), loaded.defects.as_slice()), (count, &[][..]));
        (start.elapsed(), loaded.rules)
    };
    let (few, _) = timed(5_000);
    let (many, rules) = timed(20_000);
    assert!(many < few * 10, "{few:?} for 5,000 rules, {many:?} for 20,000");
    assert_eq!(hits(&rules, r#"{"class_uid":4002,"a":"NEEDLE-12345","b":"c"}"#), ["r12345"]);
}

#[test]
fn a_rule_has_a_thousand_filters_and_what_comes_on_top_is_told() {
    let rules: String = (0..5_000).map(|n| good(&format!("r{n:04}")) + "---\n").collect();
    let for_all: String = (0..1_500).map(|n| filter(&format!("f{n:04}"), "any", "'c'")).collect();
    let (rules, defects) = documents(&(rules + &for_all));
    assert_eq!(defects.len(), 500);
    assert!(defects[0].reason.contains("has 1000 filters already"), "{}", defects[0]);
    assert_eq!(hits(&rules, r#"{"class_uid":4002,"a":"b","b":"c"}"#).len(), 0);
    assert_eq!(hits(&rules, EVENT).len(), 5_000);
}

#[test]
fn correlations_that_all_build_upon_all_of_the_layer_below_are_linked_soon() {
    let mut text = good("r");
    for layer in 0..7 {
        for n in 0..20 {
            let inner = match layer {
                0 => "r".to_owned(),
                _ => (0..20).map(|n| format!("c{}-{n}", layer - 1)).collect::<Vec<_>>().join(", "),
            };
            text += &format!(
                "---\ntitle: t\nid: c{layer}-{n}\ncorrelation:\n  type: event_count\n  rules: [{inner}]\n  group-by: [a]\n  timespan: 1m\n  condition: {{gte: 2}}\n"
            );
        }
    }
    let (rules, defects) = documents(&text);
    assert_eq!((rules.correlations().len(), defects.as_slice()), (140, &[][..]));
    let broken = text.replace("rules: [r]", "rules: [gone]");
    let (rules, defects) = documents(&broken);
    assert_eq!((rules.correlations().len(), defects.len()), (0, 140));
}

#[test]
fn fields_beyond_those_that_have_numbers_are_told() {
    let many = |from: usize| -> String {
        let fields: String = (from..from + 2_000).map(|n| format!("    field{n}: x\n")).collect();
        rule(&format!("r{from}"), &format!("  s:\n{fields}  condition: s\n---\n"))
    };
    let text: String = (0..40).map(|n| many(n * 2_000)).collect();
    let (rules, defects) = documents(&text);
    assert!(rules.len() >= 32 && rules.len() + defects.len() == 40, "{}", rules.len());
    assert!(
        defects.iter().all(|defect| defect.reason.contains("too many different fields")),
        "{}",
        defects[0]
    );
}

#[test]
fn an_event_with_five_thousand_fields_is_matched_by_any_of_them() {
    let (rules, _) =
        documents(&format!("{}---\n{}", good("r"), rule("last", "  s: {f4999: 4999}\n  condition: s\n")));
    let fields: Vec<String> = (0..5_000).map(|n| format!(r#""f{n}":{n}"#)).collect();
    let line = format!(r#"{{"class_uid":4002,{},"a":"b"}}"#, fields.join(","));
    assert_eq!(hits(&rules, &line), ["last", "r"]);
    let same: Vec<String> = (0..5_000).map(|_| r#""a":"c""#.to_owned()).collect();
    assert_eq!(hits(&rules, &format!(r#"{{"class_uid":4002,"a":"b",{}}}"#, same.join(","))), ["r"]);
}

#[test]
fn an_event_nested_two_hundred_deep_is_matched_by_its_other_fields() {
    let keywords = rule("keyword", "  s: [deep-down]\n  condition: s\n");
    let (rules, _) = documents(&format!("{}---\n{keywords}", good("r")));
    for (open, close) in [(r#"{"x":"#, "}"), ("[", "]")] {
        let deep = format!(r#"{}"deep-down"{}"#, open.repeat(200), close.repeat(200));
        assert_eq!(hits(&rules, &format!(r#"{{"class_uid":4002,"a":"b","d":{deep}}}"#)), ["keyword", "r"]);
        let deep = format!("{}1{}", open.repeat(20_000), close.repeat(20_000));
        assert_eq!(hits(&rules, &format!(r#"{{"class_uid":4002,"d":{deep},"a":"b"}}"#)), ["r"]);
    }
}
