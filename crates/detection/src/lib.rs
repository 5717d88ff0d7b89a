//! Sigma rules: load, route, match, correlate; pure apart from reading the rule directory.
//!
//! [`Rules`] is a compiled directory of rules. [`Rules::signals`] and [`Rules::finding_signals`] turn an enriched batch into
//! signals, without state; a [`Correlator`] turns signals into incident changes. How an event finds its candidate
//! rules and its fields is data: `taxonomy/logsources.yml` and `taxonomy/fields.yml`.

mod attributes;
mod columns;
mod correlate;
mod directory;
mod engine;
mod files;
mod link;
mod load;
mod names;
mod need;
mod orgs;
mod outline;
mod own;
mod route;
mod rule;
mod rules;
mod sieve;
mod signals;
mod taxonomy;
#[cfg(test)]
mod testing;
mod value;
mod view;

pub use columns::is_column;
pub use correlate::{
    ALERT_BUCKET, ALLOWED_LATENESS, Applied, Correlator, EVIDENCE_EACH_END, Limits, MAX_ENTITIES, When,
};
pub use directory::{Directory, OpenError};
pub use files::{files, without_mark};
pub use load::{Defect, DefectKind, Loaded, fingerprint, load, load_documents};
pub use outline::{Found, Outline, Part, Selection, Stated, Test, Verdict};
pub use route::log_sources;
pub use rule::{
    Condition, Correlation, Detection, Filter, Kind, LogSource, MAX_RULES, MAX_THRESHOLD, MAX_TIMESPAN, Meta,
};
pub use rules::Rules;
pub use signals::{Partitioned, signal_partition};
pub use taxonomy::{Taxonomy, TaxonomyError};
pub use value::Value;
pub use view::{FieldId, Fields, Subject, View};
