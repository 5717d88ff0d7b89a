//! Rules as commands load them.

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
    let loaded = load(path, &taxonomy, None).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok((Arc::new(loaded.rules), loaded.defects))
}

/// The same for a command that needs at least one rule; `tell` hears of the others.
///
/// # Errors
/// The path cannot be read, or no rule is left.
pub(crate) fn some(path: &Path, tell: &mut dyn FnMut(&str)) -> anyhow::Result<Arc<Rules>> {
    let (rules, defects) = open(path)?;
    for defect in &defects {
        tell(&format!("left out: {defect}"));
    }
    ensure!(!rules.is_empty(), "{} has no rules that compile", path.display());
    Ok(rules)
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
