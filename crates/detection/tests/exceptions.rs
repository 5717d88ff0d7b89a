//! What users put beside rules of others: filters, orgs with rules of their own choice, log sources and fields of their own.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use normalise::Input;
use rstest::rstest;
use schemas::{EventBatch, Micros, Source, Stream};
use tidewatch_detection::{Rules, Subject, Taxonomy, load, load_documents};
use uuid::Uuid;

/// `login` of level high by anybody, which `many` counts as well; `other` of another log source.
const RULES: &str = "title: login\nid: '1'\nname: login\nlevel: high\nlogsource: {product: linux, service: sshd}\n\
    detection: {s: {outcome: failure}, condition: s}\n---\n\
    title: other\nid: '2'\nlevel: high\nlogsource: {category: webserver}\ndetection: {s: {user: root}, condition: s}\n---\n\
    title: many\nid: '3'\nname: many\nlevel: medium\n\
    correlation: {type: event_count, rules: [login], group-by: [src_ip], timespan: 1m, condition: {gte: 2}, generate: true}\n---\n";

fn rules(more: &str) -> (Rules, Vec<String>) {
    let loaded =
        load_documents(Path::new("rules.yml"), &format!("{RULES}{more}"), &Taxonomy::shipped().unwrap());
    (loaded.rules, loaded.defects.iter().map(|defect| defect.reason.clone()).collect())
}

fn without_defects(more: &str) -> Rules {
    let (rules, defects) = rules(more);
    assert_eq!(defects, [""; 0]);
    rules
}

fn input<'a>(org: &'a str, line: &'a str) -> Input<'a> {
    let received_at = Micros(1_790_000_000_000_000);
    Input { bytes: line.as_bytes(), format: "text", org, received_at, index: 0, event_uid: None }
}

fn failure(user: &str) -> String {
    format!("<38>1 2026-09-21T14:13:20Z h sshd 1 - - Failed password for {user} from 192.0.2.1 port 4 ssh2")
}

/// Ids of the rules that match.
fn matching(rules: &Rules, org: &str, line: &str) -> Vec<String> {
    let input = input(org, line);
    let event = normalise::event(&input).unwrap();
    let view = rules.view(Subject::Event(&event));
    rules.matching(&view).map(|rule| rule.meta.id.clone()).collect()
}

/// Signals: the correlation or, of an alert, the rule, and the severity.
fn signals(rules: &Rules, org: &str, line: &str) -> Vec<(String, i32)> {
    let input = input(org, line);
    let source = Source { topic_id: Uuid::nil(), partition: 0, from: 0, offset: 0 };
    let events = vec![normalise::event(&input).unwrap()];
    let batch = EventBatch { source: source.clone(), events, rejects: vec![], pushes: vec![] };
    let batches = rules.signals(&batch).into_batches(Stream::Events, &source);
    let mut found: Vec<(String, i32)> = batches
        .flat_map(|(_, batch)| batch.signals)
        .map(|signal| (signal.correlation_id.unwrap_or(signal.base_rule_id).into_owned(), signal.severity_id))
        .collect();
    found.sort();
    found
}

fn filter(rest: &str) -> String {
    format!("title: not the backup\nlogsource: {{product: linux}}\n{rest}\n")
}

#[rstest]
#[case("[login]")]
#[case("['1']")]
#[case("any")]
fn a_filter_is_asked_beside_the_rules_it_names(#[case] named: &str) {
    let section = format!("filter: {{rules: {named}, s: {{user: backup}}, condition: not s}}");
    let rules = without_defects(&filter(&section));
    assert_eq!(matching(&rules, "demo", &failure("backup")), [""; 0]);
    assert_eq!(matching(&rules, "demo", &failure("root")), ["1"]);
    assert_eq!(rules.filters().len(), 1);
}

#[test]
fn a_filter_may_be_for_some_orgs_alone() {
    let section = "orgs: [acme]\nfilter: {rules: any, s: {user: backup}, condition: not s}";
    let rules = without_defects(&filter(section));
    assert_eq!(matching(&rules, "acme", &failure("backup")), [""; 0]);
    assert_eq!(matching(&rules, "demo", &failure("backup")), ["1"]);
}

#[rstest]
#[case("filter: {rules: [nobody], s: {user: backup}, condition: not s}", "the detection rule 'nobody'")]
#[case("filter: {rules: [many], s: {user: backup}, condition: not s}", "the detection rule 'many'")]
#[case("filter: {rules: ['2'], s: {user: backup}, condition: not s}", "another logsource")]
#[case("filter: {rules: [], s: {user: backup}, condition: not s}", "names no rule")]
#[case("filter: {s: {user: backup}, condition: not s}", "names no rule")]
#[case("orgs: acme\nfilter: {rules: any, s: {user: backup}, condition: not s}", "list of names of orgs")]
#[case("filter: {rules: any, s: {user: backup}, condition: not t}", "t")]
fn a_filter_that_cannot_apply_is_refused(#[case] section: &str, #[case] reason: &str) {
    let (rules, defects) = rules(&filter(section));
    let [defect] = defects.as_slice() else { panic!("{defects:?}") };
    assert!(defect.contains(reason), "{defect}");
    assert_eq!(matching(&rules, "demo", &failure("backup")), ["1"], "the rule stays as it is");
}

#[test]
fn a_filter_needs_a_logsource() {
    let (_, defects) = rules("title: x\nfilter: {rules: any, s: {user: backup}, condition: not s}\n");
    assert_eq!(defects.len(), 1, "{defects:?}");
}

const ORGS: &str = "orgs:\n  '*': {disable: [login]}\n  acme: {enable: [login], severity: {login: low, many: critical}}\n  \
    bolt: {enable: [login], disable: [many]}\n";

#[test]
fn an_org_has_rules_off_and_on_and_severities_of_its_own() {
    let whole = without_defects("");
    let both = [("1".to_owned(), 4), ("3".to_owned(), 4)];
    assert_eq!(signals(&whole, "demo", &failure("root")), both);

    let rules = without_defects(ORGS);
    assert_eq!(signals(&rules, "demo", &failure("root")), [], "off for all");
    let low = signals(&rules, "acme", &failure("root"));
    assert_eq!(low.len(), 1, "of level low it raises nothing by itself: {low:?}");
    assert_eq!(low[0].0, "3");
    assert_eq!(signals(&rules, "bolt", &failure("root")), [("1".to_owned(), 4)]);
    assert!(!rules.is_on("1", "demo") && rules.is_on("1", "acme") && !rules.is_on("3", "bolt"));
}

#[test]
fn what_orgs_name_and_is_not_there_is_told_and_the_rest_applies() {
    let (rules, defects) = rules("orgs:\n  acme: {disable: [login, nobody]}\n");
    let [defect] = defects.as_slice() else { panic!("{defects:?}") };
    assert!(defect.contains("'nobody'"), "{defect}");
    assert_eq!(matching(&rules, "acme", &failure("root")), [""; 0]);
}

#[rstest]
#[case("orgs:\n  acme: {disabel: [login]}\n", "unknown field `disabel`")]
#[case("orgs:\n  acme: {severity: {login: huge}}\n", "unknown variant `huge`")]
#[case("orgs: [acme]\n", "invalid type")]
fn a_wrong_document_of_orgs_is_refused(#[case] document: &str, #[case] reason: &str) {
    let (_, defects) = rules(document);
    let [defect] = defects.as_slice() else { panic!("{defects:?}") };
    assert!(defect.contains(reason), "{defect}");
}

const OWN: &str = "taxonomy:\n  logsources:\n    - {source_type: abacus, product: abacus}\n  fields:\n    Bead: [bead_no]\n---\n\
    title: bead\nid: '9'\nlevel: high\nlogsource: {product: abacus}\ndetection: {s: {Bead: 7}, condition: s}\n";

#[test]
fn users_have_log_sources_and_fields_of_their_own() {
    let rules = without_defects(OWN);
    assert_eq!(matching(&rules, "demo", r#"{"source_type":"abacus","bead_no":7}"#), ["9"]);
    assert_eq!(matching(&rules, "demo", r#"{"source_type":"abacus","bead_no":8}"#), [""; 0]);
    assert_eq!(matching(&rules, "demo", r#"{"source_type":"other","bead_no":7}"#), [""; 0]);
}

#[test]
fn while_they_are_wrong_the_last_good_ones_stay() {
    let directory = tempfile::tempdir().unwrap();
    let taxonomy = Taxonomy::shipped().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("rules.yml", RULES);
    write("own.yml", OWN);
    write("orgs.yml", ORGS);
    write("filter.yml", &filter("filter: {rules: any, s: {user: backup}, condition: not s}"));
    let first = load(directory.path(), &taxonomy, None).unwrap();
    assert_eq!(first.defects, []);

    write("own.yml", &OWN.replace("fields:", "feilds:"));
    write("orgs.yml", &ORGS.replace("disable", "disabel"));
    write("filter.yml", &filter("filter: {rules: any, s: {user: backup}, condition: not t}"));
    let second = load(directory.path(), &taxonomy, Some(&first.rules)).unwrap();
    assert_eq!(second.defects.len(), 3, "{:?}", second.defects);
    assert!(second.defects.iter().all(|defect| defect.kept_last_good), "{:?}", second.defects);
    assert_eq!(matching(&second.rules, "demo", r#"{"source_type":"abacus","bead_no":7}"#), ["9"]);
    assert_eq!(matching(&second.rules, "acme", &failure("backup")), [""; 0]);
    assert_eq!(matching(&second.rules, "acme", &failure("root")), ["1"]);
    assert_eq!(matching(&second.rules, "demo", &failure("root")), [""; 0]);
}
