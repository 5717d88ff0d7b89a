//! The seam between this crate and a Sigma engine.
//!
//! Everything outside `engine/rsigma.rs` knows rules only through these types, so that the engine can be mended or
//! replaced behind them.

mod bounds;
mod compile;
mod condition;
mod correlation;
mod filter;
mod literals;
mod need;
mod outline;
mod placeholder;
mod raw;
mod rsigma;
mod shape;
mod text;

use std::borrow::Cow;

pub(crate) use bounds::check_text;
use outline::Asked;
pub(crate) use rsigma::Rsigma;

use crate::need::Need;
use crate::orgs::OrgsDocument;
use crate::outline::Outline;
use crate::rule::{Correlation, Filter, LogSource, Meta};
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
    /// A filter.
    Filter(Filter),
    /// What single orgs have of their own: no Sigma, and no engine's.
    Orgs(OrgsDocument),
    /// Additions to the tables of log sources and fields, applied already; by the hash of their text.
    Taxonomy(String),
}

impl Document {
    /// What tells it apart from the others: of two with the same the first counts.
    pub(crate) fn identity(&self) -> Cow<'_, str> {
        match self {
            Self::Detection { meta, .. } => Cow::Borrowed(&meta.id),
            Self::Correlation(rule) => Cow::Borrowed(&rule.meta.id),
            Self::Filter(filter) => Cow::Owned(format!("filter {}", filter.identity())),
            Self::Orgs(orgs) => Cow::Owned(format!("orgs {}", orgs.id())),
            Self::Taxonomy(hash) => Cow::Owned(format!("taxonomy {hash}")),
        }
    }
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

    /// What the last document of `documents` asks of an event, with verdicts where one is `asked`, with the fields that the rule
    /// has been compiled with; none if it is no detection rule.
    fn outline(&self, documents: &[&str], taxonomy: &Taxonomy, asked: Asked<'_, '_>) -> Option<Outline>;
}
