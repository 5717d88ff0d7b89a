//! `check`: whether rules compile, and what about them is not as meant.

use std::path::{Path, PathBuf};

use detection::DefectKind;
use serde::Serialize;

use crate::lint::Linter;

/// What became of the rules of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Rule documents.
    pub rules: usize,
    /// Those that compile.
    pub compiled: usize,
    /// Those that do not.
    pub errors: Vec<Problem>,
    /// What compiles and deserves a look.
    pub warnings: Vec<Warning>,
}

/// A document that is no rule.
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
    /// `field`, `logsource`, `cost` or `duplicate_id`.
    pub kind: &'static str,
    /// What it is.
    pub reason: String,
}

/// Checks the rules under `path`, a directory or a file.
///
/// # Errors
/// The path cannot be read.
pub fn check(path: &Path) -> anyhow::Result<Checked> {
    let (rules, defects) = crate::rules::open(path)?;
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());
    let mut taken = 0;
    for defect in defects {
        let (path, line, reason) = (defect.path, defect.line, defect.reason);
        match defect.kind {
            DefectKind::Refused => errors.push(Problem { path, line, reason }),
            DefectKind::TakenId => {
                taken += 1;
                let reason = format!("{reason}; this one is left out");
                warnings.push(Warning { path, line, kind: "duplicate_id", reason });
            }
        }
    }
    let linter = Linter::new()?;
    for rule in rules.detections() {
        let Some((path, line)) = rules.origin(&rule.meta.id) else { continue };
        let warned = linter.lint(&rules, rule).into_iter();
        warnings.extend(warned.map(|(kind, reason)| Warning { path: path.to_owned(), line, kind, reason }));
    }
    errors.sort();
    warnings.sort();
    let compiled = rules.len() + taken;
    Ok(Checked { rules: compiled + errors.len(), compiled, errors, warnings })
}
