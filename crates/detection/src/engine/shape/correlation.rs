//! The section of a document that makes it a correlation.

use rsigma_parser::value::Timespan;
use serde_norway::{Mapping, Value as Yaml};

use super::super::Refusal;
use super::super::raw::Raw;
use super::{close, not_a, shown, text, texts};

const KEYS: [&str; 10] = [
    "type",
    "rules",
    "group-by",
    "timespan",
    "timeframe",
    "condition",
    "aliases",
    "generate",
    "window",
    "gap",
];
const OPERATORS: [&str; 6] = ["gt", "gte", "lt", "lte", "eq", "neq"];
const CONDITION: [&str; 8] = ["gt", "gte", "lt", "lte", "eq", "neq", "field", "percentile"];

/// Checks the section.
pub(super) fn check(raw: &Raw<'_>, section: &Yaml) -> Result<(), Refusal> {
    let Yaml::Mapping(map) = section else { return Err(not_a(raw, &["correlation"], section, "mapping")) };
    known(raw, &["correlation"], map, &KEYS)?;
    for key in ["type", "rules", "group-by"] {
        let Some(value) = map.get(key) else { continue };
        let check = if key == "type" { text } else { texts };
        check(raw, &["correlation", key], value)?;
    }
    if let Some(generate) = raw.map.get("generate").filter(|generate| !generate.is_bool()) {
        return Err(not_a(raw, &["generate"], generate, "boolean, which is true or false"));
    }
    if let Some(generate) = map.get("generate").filter(|generate| !generate.is_bool()) {
        return Err(not_a(raw, &["correlation", "generate"], generate, "boolean, which is true or false"));
    }
    timespan(raw, map)?;
    if let Some(condition) = map.get("condition") {
        check_condition(raw, condition)?;
    }
    if let Some(aliases) = map.get("aliases") {
        check_aliases(raw, aliases)?;
    }
    Ok(())
}

/// Whether a mapping has none but known keys.
fn known(raw: &Raw<'_>, path: &[&str], map: &Mapping, keys: &[&'static str]) -> Result<(), Refusal> {
    let what = path.last().copied().unwrap_or_default();
    for key in map.keys() {
        let Some(key) = key.as_str() else {
            return Err(raw.refuse(path, format!("the {what} has a key that is {}, not a text", shown(key))));
        };
        if !keys.contains(&key) {
            let meant = close(key, keys).map(|meant| format!(": is '{meant}' meant?")).unwrap_or_default();
            let path = [path, &[key]].concat();
            return Err(raw.refuse(&path, format!("the {what} has no key '{key}'{meant}")));
        }
    }
    Ok(())
}

fn timespan(raw: &Raw<'_>, map: &Mapping) -> Result<(), Refusal> {
    let mut said = false;
    for key in ["timespan", "timeframe"] {
        let Some(value) = map.get(key) else { continue };
        said = true;
        if value.as_str().is_none_or(|text| Timespan::parse(text).is_err()) {
            let reason =
                format!("the {key} is {}: a number with s, m, h or d is asked for, as in 90s", shown(value));
            return Err(raw.refuse(&["correlation", key], reason));
        }
    }
    if said {
        Ok(())
    } else {
        Err(raw.refuse(&["correlation"], "the correlation has no timespan, such as 5m"))
    }
}

fn check_condition(raw: &Raw<'_>, condition: &Yaml) -> Result<(), Refusal> {
    let path = ["correlation", "condition"];
    let map = match condition {
        Yaml::Mapping(map) => map,
        // The rules that it names are the parser's to tell.
        Yaml::String(_) => return Ok(()),
        _ => return Err(not_a(raw, &path, condition, "mapping")),
    };
    known(raw, &path, map, &CONDITION)?;
    for key in OPERATORS {
        if let Some(number) = map.get(key).filter(|number| !number.is_u64()) {
            let reason = format!("'{key}' is {}: a whole number from 0 on is asked for", shown(number));
            return Err(raw.refuse(&[path[0], path[1], key], reason));
        }
    }
    map.get("field").map_or(Ok(()), |field| texts(raw, &[path[0], path[1], "field"], field))
}

/// For each alias the rules and, of each, the field.
fn check_aliases(raw: &Raw<'_>, aliases: &Yaml) -> Result<(), Refusal> {
    let mut path = vec!["correlation", "aliases"];
    let Yaml::Mapping(aliases) = aliases else { return Err(not_a(raw, &path, aliases, "mapping")) };
    for (alias, rules) in aliases {
        path.truncate(2);
        text(raw, &path, alias)?;
        path.extend(alias.as_str());
        let Yaml::Mapping(rules) = rules else { return Err(not_a(raw, &path, rules, "mapping")) };
        for (rule, field) in rules {
            path.truncate(3);
            text(raw, &path, rule)?;
            path.extend(rule.as_str());
            text(raw, &path, field)?;
        }
    }
    Ok(())
}
