//! A document's YAML as it stands, before the parser has made a rule of it and left out what it does not know; and where in its text a
//! key is.

use std::ops::Range;

use serde::Deserialize;
use serde_norway::{Mapping, Value as Yaml};

use super::Refusal;

/// A document together with what it builds upon.
pub(super) struct Raw<'t> {
    /// What it says.
    pub map: Mapping,
    /// Its own text.
    text: &'t str,
}

impl<'t> Raw<'t> {
    /// The last of `documents`; none where it only prepares later ones, or is no mapping.
    pub(super) fn read(documents: &[&'t str]) -> Result<Option<Self>, Refusal> {
        let Some((text, earlier)) = documents.split_last() else { return Ok(None) };
        let mut stream = Stream::default();
        for document in earlier {
            let parts = parts(document).map_err(|_| {
                Refusal::new("a document before it, upon which it may build, is not valid YAML")
            })?;
            parts.into_iter().for_each(|part| drop(stream.next(part)));
        }
        let mut parts = parts(text)?;
        if parts.len() > 1 {
            let marks = |line: &str| line.starts_with("---") || line.starts_with("...");
            let line = text.lines().skip(1).position(marks).map(|index| index + 2);
            let reason = "another document begins here: only a line `---` and nothing else separates them";
            return Err(Refusal { line, reason: reason.to_owned() });
        }
        let map = parts.pop().and_then(|part| stream.next(part));
        Ok(map.map(|map| Self { map, text }))
    }

    /// Key of what is compiled.
    pub(super) fn section(&self) -> &'static str {
        let mut keys = ["correlation", "filter"].into_iter();
        keys.find(|key| self.map.contains_key(key)).unwrap_or("detection")
    }

    /// A refusal for what stands at the end of `path`.
    pub(super) fn refuse(&self, path: &[&str], reason: impl Into<String>) -> Refusal {
        Refusal { line: line_of(self.text, path), reason: reason.into() }
    }

    /// The refusal with the line of what stands at the end of `path`, if it has none.
    pub(super) fn at(&self, path: &[&str], refusal: Refusal) -> Refusal {
        Refusal { line: refusal.line.or_else(|| line_of(self.text, path)), ..refusal }
    }
}

/// The YAML documents of a text.
fn parts(text: &str) -> Result<Vec<Yaml>, Refusal> {
    let mut parts = Vec::new();
    for part in serde_norway::Deserializer::from_str(text) {
        // What comes after an error need not end.
        parts.push(Yaml::deserialize(part).map_err(|error| {
            // YAML also ends lines at characters that no editor takes for an end, and errors may be behind the last line.
            let lines = text.lines().count().max(1);
            let line = error.location().map(|location| location.line().clamp(1, lines));
            Refusal { line, reason: format!("YAML parse error: {error}") }
        })?);
    }
    Ok(parts)
}

/// What documents one after the other leave for the next to build upon (`action:`).
#[derive(Default)]
struct Stream {
    global: Option<Mapping>,
    before: Option<Mapping>,
}

impl Stream {
    fn next(&mut self, part: Yaml) -> Option<Mapping> {
        let Yaml::Mapping(mut map) = part else { return None };
        let action = map.remove("action");
        let under = match action.as_ref().map(Yaml::as_str) {
            None => Mapping::new(),
            Some(Some("repeat")) => self.before.clone()?,
            Some(Some("global")) => {
                self.global = Some(map);
                return None;
            }
            Some(Some("reset")) => {
                self.global = None;
                return None;
            }
            Some(_) => return None,
        };
        let mut whole = self.global.clone().unwrap_or_default();
        merge(&mut whole, under);
        merge(&mut whole, map);
        self.before = Some(whole.clone());
        Some(whole)
    }
}

fn merge(under: &mut Mapping, over: Mapping) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Yaml::Mapping(under)), Yaml::Mapping(over)) => merge(under, over),
            (Some(under), value) => *under = value,
            (None, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// Line, from 1, of the last key of `path` that has one of its own, each below the one before it; none where not even the first has.
fn line_of(text: &str, path: &[&str]) -> Option<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let mut range = 0..lines.len();
    let mut found = None;
    for key in path {
        let Some((index, indentation)) = only(&lines, range.clone(), key) else { break };
        found = Some(index + 1);
        let below = lines.iter().enumerate().take(range.end).skip(index + 1);
        let mut ends = below.filter(|(_, line)| ends_at(line, indentation));
        range = index + 1..ends.next().map_or(range.end, |(end, _)| end);
    }
    found
}

/// Whether what is below a key with that indentation ends before `line`. A list may stand as far left as its key.
fn ends_at(line: &str, indentation: usize) -> bool {
    let own = line.len() - line.trim_start().len();
    let text = line.trim_start();
    let is_item = text == "-" || text.starts_with("- ");
    !text.is_empty() && !text.starts_with('#') && (own < indentation || (own == indentation && !is_item))
}

/// Index and indentation of the only line of those that are indented least among the lines that begin with `key`.
fn only(lines: &[&str], range: Range<usize>, key: &str) -> Option<(usize, usize)> {
    let lines = lines.iter().enumerate().take(range.end).skip(range.start);
    let found = || lines.clone().filter_map(|(index, line)| Some((index, begins_with(line, key)?)));
    let least = found().map(|(_, indentation)| indentation).min()?;
    let mut found = found().filter(|(_, indentation)| *indentation == least);
    found.next().filter(|_| found.next().is_none())
}

/// How far `key:` is indented if the line begins with it, blanks and the dashes of lists aside.
fn begins_with(line: &str, key: &str) -> Option<usize> {
    let mut rest = line.trim_start();
    while let Some(item) = rest.strip_prefix("- ") {
        rest = item.trim_start();
    }
    let indentation = line.len() - rest.len();
    let quote = rest.chars().next().filter(|first| matches!(first, '\'' | '"'));
    let after = match quote {
        Some(quote) => rest.strip_prefix(quote)?.strip_prefix(key)?.strip_prefix(quote)?,
        None => rest.strip_prefix(key)?,
    };
    let after = after.trim_start().strip_prefix(':')?;
    (after.is_empty() || after.starts_with([' ', '\t'])).then_some(indentation)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const TEXT: &str = "title: t\ndetection:\n  s:\n  - a: 1\n    b|re: x\n  - c: 2\n    description: |\n      d: 3\n      \
        e: 4\n  # c: 5\n  'k k':\n    c: 6\n    d: {e: 7}\n  condition: s\nlevel: x\n";

    #[rstest]
    #[case(&["level"], Some(15))]
    #[case(&["detection", "s"], Some(3))]
    #[case(&["detection", "s", "a"], Some(4))]
    #[case(&["detection", "s", "b|re"], Some(5))]
    #[case(&["detection", "s", "c"], Some(6))]
    #[case(&["detection", "k k", "c"], Some(12))]
    #[case::within_braces(&["detection", "k k", "d", "e"], Some(13))]
    #[case::of_two(&["detection", "c"], Some(2))]
    #[case::of_another_document(&["logsource", "c"], None)]
    fn a_line_is_that_of_the_last_key_that_has_one(#[case] path: &[&str], #[case] line: Option<usize>) {
        assert_eq!(line_of(TEXT, path), line);
    }

    #[rstest]
    #[case(&["a: 1\nb: {c: 2}"], Some("a: 1\nb:\n  c: 2\n"))]
    #[case(&["action: global\na: 1\nb: {c: 2}", "b: {d: 3}"], Some("a: 1\nb:\n  c: 2\n  d: 3\n"))]
    #[case(&["action: global\na: 1", "action: reset", "b: 2"], Some("b: 2\n"))]
    #[case(&["a: 1\nb: 2", "action: repeat\nb: 3"], Some("a: 1\nb: 3\n"))]
    #[case(&["a: 1", "action: global\nb: 3"], None)]
    #[case(&["- a"], None)]
    fn a_document_says_what_it_builds_upon_says(#[case] documents: &[&str], #[case] whole: Option<&str>) {
        let raw = Raw::read(documents).unwrap();
        assert_eq!(raw.map(|raw| raw.map), whole.map(|whole| serde_norway::from_str(whole).unwrap()));
    }

    #[rstest]
    #[case(&["a: ["], Some(1), "YAML parse error")]
    #[case(&["a: [", "b: 1"], None, "before it")]
    #[case(&["a: 1\n--- # more\nb: 2"], Some(2), "another document begins here")]
    fn what_is_no_document_is_told(
        #[case] documents: &[&str],
        #[case] line: Option<usize>,
        #[case] reason: &str,
    ) {
        let Err(refusal) = Raw::read(documents) else { panic!() };
        assert_eq!(refusal.line, line);
        assert!(refusal.reason.contains(reason), "{refusal:?}");
    }
}
