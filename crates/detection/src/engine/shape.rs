//! What a document must look like. The parser passes over much that it does not know or expect, and a rule without it matches
//! never, or too much; so it is told here.

mod blame;
mod correlation;
mod selection;

use rsigma_parser::{Level, version};
use serde_norway::Value as Yaml;

pub(super) use blame::blame;
pub(super) use selection::check_counts;

use super::Refusal;
use super::raw::Raw;

/// Keys of a log source that say which events it is for. It may have others, which say nothing to a machine.
const LOGSOURCE: [&str; 3] = ["product", "category", "service"];

/// Checks a document as it is written.
pub(super) fn check(raw: &Raw<'_>) -> Result<(), Refusal> {
    for key in ["title", "name"] {
        if let Some(value) = raw.map.get(key) {
            text(raw, &[key], value)?;
        }
    }
    if let Some(level) = raw.map.get("level")
        && level.as_str().is_none_or(|level| level.parse::<Level>().is_err())
    {
        let levels = "informational, low, medium, high, critical";
        return Err(raw.refuse(&["level"], format!("the level is {}, none of {levels}", shown(level))));
    }
    if let Some(source) = raw.map.get("logsource") {
        logsource(raw, source)?;
    }
    match (raw.section(), raw.map.get(raw.section())) {
        (_, None) => Ok(()),
        ("correlation", Some(section)) => correlation::check(raw, section),
        (_, Some(section)) => selection::check(raw, section),
    }
}

/// Checks the id. What is wrong with what a rule matches is told before what is wrong with how it is called.
pub(super) fn check_id(raw: &Raw<'_>) -> Result<(), Refusal> {
    raw.map.get("id").map_or(Ok(()), |id| text(raw, &["id"], id))
}

fn logsource(raw: &Raw<'_>, source: &Yaml) -> Result<(), Refusal> {
    let path = ["logsource"];
    let Yaml::Mapping(map) = source else { return Err(not_a(raw, &path, source, "mapping")) };
    for (key, value) in map {
        let Some(key) = key.as_str() else { continue };
        let path = ["logsource", key];
        if LOGSOURCE.contains(&key) {
            text(raw, &path, value)?;
        } else if let Some(meant) = close(key, &LOGSOURCE).filter(|meant| !map.contains_key(meant)) {
            return Err(raw.refuse(&path, format!("the logsource has no key '{key}': is '{meant}' meant?")));
        }
    }
    Ok(())
}

fn text(raw: &Raw<'_>, path: &[&str], value: &Yaml) -> Result<(), Refusal> {
    if value.is_string() { Ok(()) } else { Err(not_a(raw, path, value, "text")) }
}

/// One text or several.
fn texts(raw: &Raw<'_>, path: &[&str], value: &Yaml) -> Result<(), Refusal> {
    match value {
        Yaml::Sequence(values) => values.iter().try_for_each(|value| text(raw, path, value)),
        value => text(raw, path, value),
    }
}

fn not_a(raw: &Raw<'_>, path: &[&str], value: &Yaml, wanted: &str) -> Refusal {
    let key = path.last().copied().unwrap_or_default();
    let quotes = match value {
        Yaml::Bool(_) | Yaml::Number(_) if wanted == "text" => ": put it in quotes",
        _ => "",
    };
    raw.refuse(path, format!("'{key}' is {}, not a {wanted}{quotes}", shown(value)))
}

/// A value as a person is told of it.
fn shown(value: &Yaml) -> String {
    match value {
        Yaml::Null => "empty".to_owned(),
        Yaml::Bool(truth) => truth.to_string(),
        Yaml::Number(number) => number.to_string(),
        Yaml::String(text) => format!("'{text}'"),
        Yaml::Sequence(_) => "a list".to_owned(),
        Yaml::Mapping(_) => "a mapping".to_owned(),
        Yaml::Tagged(_) => "tagged".to_owned(),
    }
}

/// Which of `known` was meant by a key that is none of them.
fn close(key: &str, known: &[&'static str]) -> Option<&'static str> {
    /// Longer ones are none of `known`, and comparing takes time by the length.
    const MAX_KEY: usize = 32;
    if key.len() > MAX_KEY {
        return None;
    }
    let key = key.to_lowercase().replace('_', "-");
    let distance = |known: &str| strsim::damerau_levenshtein(&key, known);
    known
        .iter()
        .copied()
        .filter(|known| distance(known) * 3 <= known.len())
        .min_by_key(|known| distance(known))
}

/// Whether brackets behind the name of a field mean elements of a list.
fn matches_in_lists(raw: &Raw<'_>) -> bool {
    let declared = raw.map.get("sigma-version").and_then(|declared| match declared {
        Yaml::Number(number) => version::major_from_str(&number.to_string()),
        declared => version::major_from_str(declared.as_str()?),
    });
    version::array_matching_enabled(declared)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("group_by", Some("group-by"))]
    #[case("groupBy", Some("group-by"))]
    #[case("timespna", Some("timespan"))]
    #[case("tpye", Some("type"))]
    #[case("by", None)]
    #[case("description", None)]
    fn a_key_that_is_close_is_meant(#[case] key: &str, #[case] meant: Option<&str>) {
        assert_eq!(close(key, &["type", "rules", "group-by", "timespan"]), meant);
        assert_eq!(close(&key.repeat(20), &["type", "rules", "group-by", "timespan"]), None);
    }
}
