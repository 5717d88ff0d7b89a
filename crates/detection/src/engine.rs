//! The seam between this crate and a Sigma engine.
//!
//! Everything outside `engine/rsigma.rs` knows rules only through these types, so that the engine can be mended or
//! replaced behind them.

mod bounds;
mod condition;
mod correlation;
mod literals;
mod need;
mod outline;
mod rsigma;
mod text;

pub(crate) use rsigma::Rsigma;

use crate::need::Need;
use crate::outline::Outline;
use crate::rule::{Correlation, LogSource, Meta};
use crate::taxonomy::Taxonomy;
use crate::view::{Fields, View};

/// A compiled detection.
pub(crate) trait Matcher: Send + Sync {
    /// Whether the rule matches. Never fails: what cannot be compared does not match.
    fn matches(&self, event: &View<'_>) -> bool;

    /// What an event must have for it to match.
    fn need(&self) -> Need;
}

/// What a rule document turned out to be.
pub(crate) enum Document {
    /// A detection rule.
    Detection { meta: Meta, logsource: LogSource, matcher: Box<dyn Matcher> },
    /// A correlation.
    Correlation(Correlation),
}

/// Why a document is no rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Line within the document, from 1, where known.
    pub line: Option<usize>,
    /// What is wrong, for a person.
    pub reason: String,
}

impl Refusal {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { line: None, reason: reason.into() }
    }
}

/// Turns rule documents into rules.
pub(crate) trait Engine {
    /// Compiles the last document of `documents`; those before it are the ones it may build upon (`action: global`,
    /// `action: repeat`). None for a document that only prepares later ones. `hash` becomes [`Meta::hash`].
    fn compile(
        &self,
        documents: &[&str],
        hash: &str,
        fields: &mut Fields,
        taxonomy: &Taxonomy,
    ) -> Result<Option<Document>, Refusal>;

    /// What the last document of `documents` asks of an event; none if it is no detection rule.
    fn outline(&self, documents: &[&str]) -> Option<Outline>;

    /// The same with verdicts, for a rule that has been compiled with `fields`.
    fn explain(&self, documents: &[&str], fields: &Fields, event: &View<'_>) -> Option<Outline>;
}
