//! `check`: whether rules compile, and what about them is not as meant.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use detection::DefectKind;
use serde::Serialize;

use crate::lint::Linter;

/// What became of the rules of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Rules that compile, and documents that were to be one.
    pub rules: usize,
    /// Rules that compile.
    pub compiled: usize,
    /// What does not compile, is left out for its id, or cannot be applied.
    pub errors: Vec<Problem>,
    /// What compiles and deserves a look.
    pub warnings: Vec<Warning>,
}

/// Something wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// File it is in.
    pub path: PathBuf,
    /// Line in the file, from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

/// Something about a rule that compiles.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Warning {
    /// File it is in.
    pub path: PathBuf,
    /// Line in the file where the rule begins, from 1.
    pub line: usize,
    /// `field`, `logsource` or `cost`.
    pub kind: &'static str,
    /// What it is.
    pub reason: String,
}

/// Checks the rules under `path`, a directory or a file.
///
/// # Errors
/// The path cannot be read, or nothing under it is a rule.
pub fn check(path: &Path) -> anyhow::Result<Checked> {
    let (rules, defects) = crate::rules::open(path)?;
    // One of orgs applies as far as it can, and may have several errors.
    let in_force: BTreeSet<(&Path, usize)> = rules.places().collect();
    let places = defects.iter().map(|defect| (defect.path.as_path(), defect.line));
    let refused = places.filter(|place| !in_force.contains(place)).collect::<BTreeSet<_>>().len();
    let problem = |defect: detection::Defect| Problem {
        reason: match defect.kind {
            DefectKind::Refused => defect.reason,
            DefectKind::TakenId => format!("{}; this one is left out", defect.reason),
        },
        path: defect.path,
        line: defect.line,
    };
    let mut errors: Vec<Problem> = defects.into_iter().map(problem).collect();
    ensure!(!(rules.is_empty() && errors.is_empty()), "{} has no rules that compile", path.display());
    let mut warnings = Vec::new();
    let linter = Linter::new()?;
    for rule in rules.detections() {
        let Some((path, line)) = rules.origin(&rule.meta.id) else { continue };
        let warned = linter.lint(&rules, rule).into_iter();
        warnings.extend(warned.map(|(kind, reason)| Warning { path: path.to_owned(), line, kind, reason }));
    }
    errors.sort();
    warnings.sort();
    let compiled = rules.len();
    Ok(Checked { rules: compiled + refused, compiled, errors, warnings })
}
