//! From rsigma's syntax tree to an [`Outline`].
//!
//! For a verdict each test is compiled as a rule of its own, by the same path as the whole rule: what is explained is what
//! runs.

use std::collections::HashMap;

use rsigma_parser::{ConditionExpr, Detection, DetectionItem, SigmaRule, SigmaValue};

use super::Matcher as _;
use super::compile;
use super::condition::Condition;
use super::rsigma::Program;
use crate::outline::{Found, Outline, Part, Selection, Stated, Test, Verdict};
use crate::view::{Fields, View};

pub(crate) type Asked<'a, 'v> = Option<(&'a Fields, &'a View<'v>)>;

/// The outline of `rule`; with verdicts if an event is asked.
pub(super) fn of(rule: &SigmaRule, asked: Asked<'_, '_>) -> Outline {
    let mut names: Vec<String> = rule.detection.named.keys().cloned().collect();
    names.sort();
    let selections: Vec<Selection> = names
        .iter()
        .filter_map(|name| {
            let part = part(rule, rule.detection.named.get(name)?, asked);
            Some(Selection { name: name.clone(), part })
        })
        .collect();
    let holds = |condition: &ConditionExpr| {
        asked?;
        let condition = Condition::compile(condition, &names).ok()?;
        Some(condition.holds(&mut |index| selections.get(index).and_then(|s| s.part.holds()) == Some(true)))
    };
    let texts = &rule.detection.condition_strings;
    let conditions = texts.iter().zip(&rule.detection.conditions);
    let conditions =
        conditions.map(|(text, parsed)| Stated { text: text.clone(), holds: holds(parsed) }).collect();
    Outline { selections, conditions }
}

fn part(rule: &SigmaRule, detection: &Detection, asked: Asked<'_, '_>) -> Part {
    match detection {
        Detection::AllOf(items) => {
            let test = |item: &DetectionItem| {
                let alone = Detection::AllOf(vec![item.clone()]);
                let single = |value: &SigmaValue| {
                    let mut field = item.field.clone();
                    field.modifiers.retain(|modifier| modifier_name(*modifier) != "all");
                    Detection::AllOf(vec![DetectionItem { field, values: vec![value.clone()] }])
                };
                let singles: Vec<Detection> = item.values.iter().map(single).collect();
                Part::Test(Test {
                    field: item.field.name.clone(),
                    modifiers: item.field.modifiers.iter().map(|m| modifier_name(*m)).collect(),
                    wanted: item.values.iter().map(text).collect(),
                    verdict: verdict(rule, &alone, &singles, item.field.name.as_deref(), asked),
                })
            };
            match items.as_slice() {
                [item] => test(item),
                _ => Part::All(items.iter().map(test).collect()),
            }
        }
        Detection::AnyOf(parts) => Part::Any(parts.iter().map(|inner| part(rule, inner, asked)).collect()),
        Detection::And(parts) => Part::All(parts.iter().map(|inner| part(rule, inner, asked)).collect()),
        Detection::Keywords(values) => {
            let singles: Vec<Detection> =
                values.iter().map(|value| Detection::Keywords(vec![value.clone()])).collect();
            Part::Test(Test {
                field: None,
                modifiers: Vec::new(),
                wanted: values.iter().map(text).collect(),
                verdict: verdict(rule, detection, &singles, None, asked),
            })
        }
        Detection::ArrayMatch { field, quantifier, body } => Part::Test(Test {
            field: Some(field.clone()),
            modifiers: vec![format!("{quantifier:?}").to_lowercase()],
            wanted: vec![serde_json::to_string(body).unwrap_or_default()],
            verdict: verdict(rule, detection, &[], Some(field), asked),
        }),
        Detection::Conditional { .. } => Part::Test(Test {
            field: None,
            modifiers: Vec::new(),
            wanted: vec![serde_json::to_string(detection).unwrap_or_default()],
            verdict: verdict(rule, detection, &[], None, asked),
        }),
    }
}

fn verdict(
    rule: &SigmaRule,
    test: &Detection,
    singles: &[Detection],
    field: Option<&str>,
    asked: Asked<'_, '_>,
) -> Option<Verdict> {
    let (fields, event) = asked?;
    let holds = |test: &Detection| alone(rule, test, fields).is_some_and(|program| program.matches(event));
    let found = field
        .and_then(|name| event.found(fields.id(name)?))
        .map(|(place, value)| Found { place, value: value.to_string() });
    let hits = singles.iter().enumerate().filter(|(_, single)| holds(single)).map(|(index, _)| index);
    Some(Verdict { holds: holds(test), hits: hits.collect(), found })
}

/// `test` compiled as the only selection of a rule.
fn alone(rule: &SigmaRule, test: &Detection, fields: &Fields) -> Option<Program> {
    const NAME: &str = "test";
    let mut rule = rule.clone();
    rule.detection.named = HashMap::from([(NAME.to_owned(), test.clone())]);
    rule.detection.conditions = vec![ConditionExpr::Identifier(NAME.to_owned())];
    rule.detection.condition_strings = vec![NAME.to_owned()];
    Program::with_known_fields(compile::compile(&rule).ok()?, fields).ok()
}

/// As rules write it.
fn modifier_name(modifier: rsigma_parser::Modifier) -> String {
    match serde_json::to_value(modifier) {
        Ok(serde_json::Value::String(name)) => name,
        _ => format!("{modifier:?}"),
    }
}

fn text(value: &SigmaValue) -> String {
    match value {
        SigmaValue::String(string) => string.original.clone(),
        SigmaValue::Integer(number) => number.to_string(),
        SigmaValue::Float(number) => number.to_string(),
        SigmaValue::Bool(truth) => truth.to_string(),
        SigmaValue::Null => "null".to_owned(),
    }
}
