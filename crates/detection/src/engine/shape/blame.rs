//! Which field of a rule it is that does not compile: the engine tells what is wrong with it, and not where.

use rsigma_parser::parser::parse_field_spec;
use rsigma_parser::{Detection, DetectionItem, FieldSpec, SigmaRule, parse_sigma_yaml};
use serde_norway::Value as Yaml;

use super::super::raw::Raw;
use super::super::{Refusal, compile};

/// A rule of nothing else, for one field at a time.
const ALONE: &str = "title: x\nlogsource: {}\ndetection: {s: x, condition: s}\n";

/// The refusal with the line of the first field that does not compile by itself; where each does, of the condition.
pub(in super::super) fn blame(raw: &Raw<'_>, rule: &SigmaRule, refusal: Refusal) -> Refusal {
    let section = raw.section();
    let alone = parse_sigma_yaml(ALONE).ok().and_then(|mut parsed| parsed.rules.pop());
    let Some(mut alone) = alone else { return refusal };
    let mut fails = |item: &DetectionItem| {
        let detection = Detection::AllOf(vec![item.clone()]);
        alone.detection.named.insert("s".to_owned(), detection);
        compile::compile(&alone).is_err()
    };
    let mut names: Vec<&String> = rule.detection.named.keys().collect();
    names.sort();
    for name in names {
        let Some(item) = rule.detection.named.get(name).and_then(|part| first(part, &mut fails)) else {
            continue;
        };
        let written = raw.map.get(section).and_then(|section| section.get(name.as_str()));
        return match written.and_then(|selection| key(selection, &item.field)) {
            Some(key) => raw.at(&[section, name, key], refusal),
            None => raw.at(&[section, name], refusal),
        };
    }
    raw.at(&[section, "condition"], refusal)
}

fn first<'d>(
    detection: &'d Detection,
    fails: &mut dyn FnMut(&DetectionItem) -> bool,
) -> Option<&'d DetectionItem> {
    match detection {
        Detection::AllOf(items) => items.iter().find(|item| fails(item)),
        Detection::AnyOf(parts) | Detection::And(parts) => parts.iter().find_map(|part| first(part, fails)),
        Detection::ArrayMatch { body, .. } => first(body, fails),
        Detection::Conditional { named, .. } => named.values().find_map(|part| first(part, fails)),
        Detection::Keywords(_) => None,
    }
}

/// How a field of a selection is written.
fn key<'y>(selection: &'y Yaml, field: &FieldSpec) -> Option<&'y str> {
    let is = |key: &&str| {
        parse_field_spec(key).is_ok_and(|spec| spec.name == field.name && spec.modifiers == field.modifiers)
    };
    match selection {
        Yaml::Mapping(map) => map.keys().filter_map(Yaml::as_str).find(is),
        Yaml::Sequence(parts) => parts.iter().find_map(|part| key(part, field)),
        _ => None,
    }
}
