//! No event is kept from a rule that it matches: with and without the sieve, the same rules match.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use proptest::prelude::*;
use schemas::Event;

use crate::testing::web_access;
use crate::{Rules, Subject, Taxonomy, load_documents};

fn rules(detections: &[String]) -> Rules {
    let rule = |(number, detection): (usize, &String)| {
        let logsource = if number.is_multiple_of(3) { "{}" } else { "{category: webserver}" };
        format!("title: x\nid: r{number:03}\nlogsource: {logsource}\ndetection:\n{detection}---\n")
    };
    let text: String = detections.iter().enumerate().map(rule).collect();
    let loaded = load_documents(Path::new("x.yml"), &text, &Taxonomy::shipped().unwrap());
    assert_eq!(loaded.defects, [], "{text}");
    loaded.rules
}

/// Ids of the rules that match, by way of the sieve and without it.
fn both(rules: &Rules, event: &Event<'_>) -> [Vec<String>; 2] {
    let view = rules.view(Subject::Event(event));
    let sieved = rules.matching(&view).map(|rule| rule.meta.id.clone());
    let all = rules.routed_rules(&view).filter(|rule| rule.matcher.matches(&view));
    [sieved.collect(), all.map(|rule| rule.meta.id.clone()).collect()]
}

const TEXT: &str = "[aAsSkKbB.ſΣ/\u{212a}\\\\é0-9-]{0,5}|kebab|Basks|12|1.0|true|no";

fn value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        TEXT.prop_map(serde_json::Value::from),
        (0i64..20).prop_map(serde_json::Value::from),
        Just(serde_json::json!(1.5)),
        any::<bool>().prop_map(serde_json::Value::from),
        Just(serde_json::Value::Null),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| prop::collection::vec(inner, 0..3).prop_map(serde_json::Value::from))
}

fn item() -> impl Strategy<Value = String> {
    let modifiers = prop::sample::select(vec![
        "",
        "",
        "|cased",
        "|contains",
        "|contains",
        "|contains|all",
        "|contains|cased",
        "|startswith",
        "|endswith",
        "|re",
        "|re|i",
        "|exists",
        "|windash|contains",
        "|fieldref",
        "|gte",
    ]);
    let texts = prop::collection::vec("[aAskKbB.ſΣé0-9-]{1,4}|k*s|keb?b|b(a|s)+k|kebab|a[kK]s?|12", 2..10);
    (prop::sample::select(vec!["a", "b", "c", "a.b"]), modifiers, texts, 0u8..8).prop_map(
        |(field, modifiers, texts, kind)| {
            let json = match (modifiers, kind) {
                ("|exists", _) => (kind % 2 == 0).to_string(),
                ("|fieldref", _) => "b".to_owned(),
                ("|gte", _) => kind.to_string(),
                ("", 0) => "null".to_owned(),
                ("", 1) => "[1, '']".to_owned(),
                ("", 2) => "true".to_owned(),
                ("|re" | "|re|i", _) => {
                    let fit = texts.into_iter().filter(|text| regex_syntax::parse(text).is_ok());
                    serde_json::to_string(&fit.chain(["k".to_owned()]).collect::<Vec<_>>()).unwrap()
                }
                _ => serde_json::to_string(&texts).unwrap(),
            };
            format!("    {field}{modifiers}: {json}\n")
        },
    )
}

fn detection() -> impl Strategy<Value = String> {
    let conditions = prop::sample::select(vec![
        "s and not t",
        "s",
        "not s",
        "s or t",
        "1 of them",
        "all of them",
        "s and (t or u)",
        "2 of them",
        "u",
        "u or s",
    ]);
    let keywords = prop::collection::vec("[aAskKbB.é/-]{2,4}|kebab", 1..4);
    (item(), prop::collection::vec(item(), 1..3), keywords, conditions).prop_map(|(s, t, u, condition)| {
        let list: String = t.iter().map(|item| format!("  - {}", item.trim_start())).collect();
        let keywords = serde_json::to_string(&u).unwrap();
        format!("  s:\n{s}  t:\n{list}  u: {keywords}\n  condition: {condition}\n")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_sieve_keeps_no_event_from_a_rule_that_it_matches(
        detections in prop::collection::vec(detection(), 1..12),
        events in prop::collection::vec((prop::option::of(TEXT), value(), value(), value(), any::<bool>()), 1..12),
    ) {
        let rules = rules(&detections);
        for (message, a, b, c, escaped) in events {
            let mut json = serde_json::json!({"a": a, "b": b, "c": {"d": c}}).to_string();
            if escaped {
                json = json.replace('a', "\\u0061").replacen("\"\\u0061\"", "\"a\"", 1);
            }
            let event = Event { message: message.map(Into::into), ..web_access(json) };
            let [sieved, all] = both(&rules, &event);
            prop_assert_eq!(sieved, all, "{:?}", event.attributes);
        }
    }
}

#[test]
fn an_event_without_the_texts_of_a_rule_is_not_evaluated() {
    let detections: Vec<String> = (0..500)
        .map(|n| format!("  s:\n    a|contains: needle-{n:03}\n    b|endswith: '.exe'\n  condition: s\n"))
        .collect();
    let rules = rules(&detections);
    let event = web_access(r#"{"a":"a NEEDLE-123 in hay","b":"x.exe"}"#.to_owned());
    let view = rules.view(Subject::Event(&event));
    let candidates: Vec<_> = rules.candidates(&view).map(|rule| rule.meta.id.as_str()).collect();
    assert_eq!(candidates, ["r123"]);
    assert_eq!(both(&rules, &event)[0], ["r123"]);
}
