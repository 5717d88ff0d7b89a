//! Selections and what they want of each field.

use rsigma_parser::parser::parse_field_spec;
use rsigma_parser::{ConditionExpr, Detections, Modifier, Quantifier};
use serde_norway::Value as Yaml;

use super::super::Refusal;
use super::super::condition::fits;
use super::super::raw::Raw;
use super::{matches_in_lists, not_a, shown, text, texts};

/// Checks the section of a rule that has its selections and condition.
pub(super) fn check(raw: &Raw<'_>, value: &Yaml) -> Result<(), Refusal> {
    let section = raw.section();
    let Yaml::Mapping(map) = value else { return Err(not_a(raw, &[section], value, "mapping")) };
    let in_lists = matches_in_lists(raw);
    for (name, value) in map {
        let Some(name) = name.as_str() else {
            let reason = format!("a selection is named {}, not by a text: put it in quotes", shown(name));
            return Err(raw.refuse(&[section], reason));
        };
        let path = [section, name];
        match name {
            "condition" if value.as_sequence().is_some_and(Vec::is_empty) => {
                return Err(raw.refuse(&path, "the condition is an empty list"));
            }
            "condition" => texts(raw, &path, value)?,
            "timeframe" => {}
            "rules" if section == "filter" => {}
            _ => Selection { raw, section, name, in_lists }.check(value)?,
        }
    }
    Ok(())
}

struct Selection<'r> {
    raw: &'r Raw<'r>,
    section: &'r str,
    name: &'r str,
    in_lists: bool,
}

impl Selection<'_> {
    fn check(&self, value: &Yaml) -> Result<(), Refusal> {
        match value {
            Yaml::Sequence(parts) if !parts.is_empty() => parts.iter().try_for_each(|part| match part {
                Yaml::Null => Err(self.refuse(format!("a keyword of '{}' is empty", self.name))),
                part => self.check(part),
            }),
            Yaml::Mapping(fields) if !fields.is_empty() => {
                fields.iter().try_for_each(|(key, value)| self.check_field(key, value))
            }
            Yaml::Null | Yaml::Sequence(_) | Yaml::Mapping(_) => {
                Err(self.refuse(format!("the selection '{}' is empty", self.name)))
            }
            Yaml::Bool(_) | Yaml::Number(_) | Yaml::String(_) | Yaml::Tagged(_) => Ok(()),
        }
    }

    fn refuse(&self, reason: String) -> Refusal {
        self.raw.refuse(&[self.section, self.name], reason)
    }

    fn check_field(&self, key: &Yaml, value: &Yaml) -> Result<(), Refusal> {
        let Some(key) = key.as_str() else {
            let reason = format!("a field of '{}' is named {}, not by a text", self.name, shown(key));
            return Err(self.refuse(reason + ": put it in quotes"));
        };
        let path = [self.section, self.name, key];
        let refuse = |reason: String| Err(self.raw.refuse(&path, reason));
        let field = key.split('|').next().unwrap_or_default();
        if self.in_lists && field.contains('[') {
            return Ok(());
        }
        let modifiers = match parse_field_spec(key) {
            Ok(field) => field.modifiers,
            Err(error) => return refuse(error.to_string()),
        };
        let values = match value {
            Yaml::Sequence(values) => values.as_slice(),
            value => std::slice::from_ref(value),
        };
        if values.is_empty() {
            return refuse(format!("'{key}' wants one of no values: the list is empty"));
        }
        if let Some(value) = values.iter().find(|value| value.is_sequence() || value.is_mapping()) {
            return refuse(format!(
                "'{key}' wants {}, which no field is: a value is asked for",
                shown(value)
            ));
        }
        for modifier in &modifiers {
            match modifier {
                Modifier::Exists if !value.is_bool() => {
                    return refuse(format!("'{key}' is {}: true or false is asked for", shown(value)));
                }
                Modifier::Exists if modifiers.len() > 1 => {
                    return refuse(format!("'{key}' has a modifier beside exists, which takes no other"));
                }
                Modifier::Exists if field.is_empty() => {
                    return refuse(format!("'{key}' names no field that could exist"));
                }
                Modifier::FieldRef => values.iter().try_for_each(|value| text(self.raw, &path, value))?,
                modifier => {
                    let Some((least, most)) = range(*modifier) else { continue };
                    let number = |value: &Yaml| value.as_i64().or_else(|| value.as_str()?.parse().ok());
                    let fits = |value: &&Yaml| number(value).is_some_and(|n| (least..=most).contains(&n));
                    if let Some(value) = values.iter().find(|value| !fits(value)) {
                        let wanted = shown(value);
                        return refuse(format!("'{key}' wants {wanted}: only {least} to {most} can be"));
                    }
                }
            }
        }
        Ok(())
    }
}

/// What the part of a time that a modifier takes can be. A year may begin in week 53, which Sigma's appendix leaves out.
fn range(modifier: Modifier) -> Option<(i64, i64)> {
    Some(match modifier {
        Modifier::Minute => (0, 59),
        Modifier::Hour => (0, 23),
        Modifier::Day => (1, 31),
        Modifier::Week => (1, 53),
        Modifier::Month => (1, 12),
        _ => return None,
    })
}

/// Checks that so many selections can match as the conditions ask for.
pub(in super::super) fn check_counts(raw: &Raw<'_>, detection: &Detections) -> Result<(), Refusal> {
    let counts = detection.conditions.iter().try_for_each(|condition| count(condition, detection));
    counts.map_err(|reason| raw.refuse(&[raw.section(), "condition"], reason))
}

fn count(condition: &ConditionExpr, detection: &Detections) -> Result<(), String> {
    match condition {
        ConditionExpr::And(parts) | ConditionExpr::Or(parts) => {
            parts.iter().try_for_each(|part| count(part, detection))
        }
        ConditionExpr::Not(part) => count(part, detection),
        ConditionExpr::Selector { quantifier: Quantifier::Count(wanted), pattern } => {
            let names = detection.named.keys();
            let fitting = names.filter(|name| fits(pattern, name)).count();
            if *wanted == 0 {
                Err(format!("the condition's '0 of {pattern}' holds for every event"))
            } else if fitting > 0 && usize::try_from(*wanted).map_or(true, |wanted| wanted > fitting) {
                Err(format!(
                    "the condition asks for {wanted} of '{pattern}', which fits {fitting} selections"
                ))
            } else {
                Ok(())
            }
        }
        ConditionExpr::Selector { .. } | ConditionExpr::Identifier(_) => Ok(()),
    }
}
