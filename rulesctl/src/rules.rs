//! Rules as commands load them.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use detection::{Defect, LogSource, Rules, Taxonomy, load};

/// The rules under `path`, a directory or a file, and the documents that are none.
///
/// # Errors
/// The path cannot be read.
pub(crate) fn open(path: &Path) -> anyhow::Result<(Arc<Rules>, Vec<Defect>)> {
    let taxonomy = Taxonomy::shipped()?;
    let unreadable = || format!("{} cannot be read", path.display());
    let loaded = load(path, &taxonomy, None).with_context(unreadable)?;
    let mut told = HashSet::new();
    let mut defects = loaded.defects;
    defects.iter_mut().for_each(|defect| defect.reason = in_one_line(&defect.reason));
    // A rule that is not there may stand in several lists of an org.
    defects.retain(|defect| told.insert((defect.path.clone(), defect.line, defect.reason.clone())));
    Ok((Arc::new(loaded.rules), defects))
}

/// The parser of conditions draws where it stopped: the place once more, the text behind bars, and what it expected.
fn in_one_line(reason: &str) -> String {
    let drawn =
        |line: &str| line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').starts_with('|');
    let told = reason
        .lines()
        .map(|line| line.split(" --> ").next().unwrap_or(line).trim())
        .filter(|line| !drawn(line) && !line.starts_with("-->"));
    let parts = told.map(|line| line.trim_start_matches("= "));
    parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Rules to match events with.
pub(crate) struct InForce {
    pub(crate) rules: Arc<Rules>,
    /// What is wrong with others.
    pub(crate) defects: usize,
}

impl InForce {
    /// How many there are, and that they are not all.
    pub(crate) fn count(&self) -> String {
        match self.defects {
            0 => format!("{} rules", self.rules.len()),
            defects => format!("{} rules ({defects} left out, see above)", self.rules.len()),
        }
    }
}

/// The same for a command that needs at least one rule; `tell` hears of the others.
///
/// # Errors
/// The path cannot be read, or no rule is left.
pub(crate) fn some(path: &Path, tell: &mut dyn FnMut(&str)) -> anyhow::Result<InForce> {
    let (rules, defects) = open(path)?;
    for defect in &defects {
        tell(&format!("left out: {defect}"));
    }
    ensure!(!rules.is_empty(), "{} has no rules that compile", path.display());
    Ok(InForce { rules, defects: defects.len() })
}

/// The name of an OCSF severity, as rules call their level.
pub(crate) fn level(severity_id: i32) -> &'static str {
    match severity_id {
        1 => "informational",
        2 => "low",
        3 => "medium",
        4 => "high",
        5 => "critical",
        _ => "unknown",
    }
}

/// `product windows, category process_creation`; empty for rules of any source.
pub(crate) fn log_source(source: &LogSource) -> String {
    let parts = [("product", &source.product), ("category", &source.category), ("service", &source.service)];
    let named = parts.into_iter().filter_map(|(what, name)| Some(format!("{what} {}", name.as_deref()?)));
    named.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        "at 1:6:  --> 1:6\n  |\n1 | s and\n  |      ^---\n  |\n  = expected ident",
        "at 1:6: expected ident"
    )]
    #[case("as it is", "as it is")]
    fn a_reason_is_one_line(#[case] drawn: &str, #[case] expected: &str) {
        assert_eq!(in_one_line(drawn), expected);
    }
}
