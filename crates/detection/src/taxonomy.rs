//! The two tables that tie Sigma's vocabulary to what arrives: log sources and field names.

use std::collections::BTreeMap;
use std::fmt;

use ahash::AHashMap;
use serde::Deserialize;

use crate::engine::Refusal;
use crate::own;
use crate::rule::LogSource;

const LOGSOURCES: &str = include_str!("../taxonomy/logsources.yml");
const FIELDS: &str = include_str!("../taxonomy/fields.yml");

/// A table that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the {table} table cannot be read: {reason}")]
pub struct TaxonomyError {
    table: &'static str,
    reason: String,
}

/// Additions to both tables, as a document among the rules: `taxonomy: {logsources: […], fields: {…}, placeholders: {…}}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TaxonomyDocument {
    #[serde(rename = "title")]
    _title: Option<String>,
    #[serde(rename = "description")]
    _description: Option<String>,
    taxonomy: Additions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Additions {
    logsources: Vec<SourceEntry>,
    fields: BTreeMap<String, Vec<String>>,
    placeholders: BTreeMap<String, Names>,
}

impl TaxonomyDocument {
    /// Whether a document is meant as one of these. Rules may state a `taxonomy` too, by its name.
    pub(crate) fn is_one(text: &str) -> bool {
        !own::is_sigma(text) && text.lines().any(|line| line.trim_end() == "taxonomy:")
    }

    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        own::parse(text, "taxonomy")
    }
}

/// Log source and field tables.
#[derive(Debug, Clone, Default)]
pub struct Taxonomy {
    pub(crate) sources: Vec<SourceEntry>,
    fields: AHashMap<String, Vec<String>>,
    placeholders: AHashMap<String, Names>,
}

/// Events that look like this are of these log sources.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceEntry {
    /// `source_type` of the events; empty for those of source types that no entry names.
    #[serde(default)]
    pub source_type: Names,
    /// Fields that they have, each as `name` or `name=value`; none where empty.
    #[serde(default)]
    pub has: Vec<String>,
    /// Their class; any where absent.
    pub class_uid: Option<i32>,
    /// Their Windows channel, or the provider of events that do not name one; any where empty.
    #[serde(default)]
    pub channel: Names,
    /// Their Windows event ids; any where empty.
    #[serde(default)]
    pub event_ids: Vec<i64>,
    #[serde(default)]
    product: Names,
    #[serde(default)]
    category: Names,
    #[serde(default)]
    service: Names,
}

/// One name, several, or `any`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(untagged)]
pub(crate) enum Names {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

/// How a name that a rule asks for fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    NotAsked,
    Named,
    Any,
    No,
}

impl Names {
    pub(crate) fn as_slice(&self) -> &[String] {
        match self {
            Self::None => &[],
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }

    fn fit(&self, wanted: Option<&String>) -> Fit {
        let Some(wanted) = wanted else { return Fit::NotAsked };
        let names = self.as_slice();
        if names.contains(wanted) {
            Fit::Named
        } else if names.iter().any(|name| name == "any") {
            Fit::Any
        } else {
            Fit::No
        }
    }
}

impl SourceEntry {
    /// Whether a rule for `logsource` applies to these events: every part it names is among the entry's, one of them
    /// by name.
    pub(crate) fn admits(&self, logsource: &LogSource) -> bool {
        let fits = [
            self.product.fit(logsource.product.as_ref()),
            self.category.fit(logsource.category.as_ref()),
            self.service.fit(logsource.service.as_ref()),
        ];
        !fits.contains(&Fit::No) && fits.contains(&Fit::Named)
    }
}

impl fmt::Display for SourceEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let parts = [("product", &self.product), ("category", &self.category), ("service", &self.service)];
        for (what, names) in parts {
            let names = names.as_slice();
            if !names.is_empty() {
                write!(f, "{separator}{what} {}", names.join("|"))?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

impl Taxonomy {
    /// Whether any event that arrives can be of `logsource`.
    pub fn routes(&self, logsource: &LogSource) -> bool {
        *logsource == LogSource::default() || self.sources.iter().any(|entry| entry.admits(logsource))
    }

    /// The tables that come with tidewatch.
    ///
    /// # Errors
    /// None in a build whose tests pass.
    pub fn shipped() -> Result<Self, TaxonomyError> {
        Self::parse(LOGSOURCES, FIELDS)
    }

    /// Reads both tables from YAML.
    ///
    /// # Errors
    /// Text that is no such table.
    pub fn parse(logsources: &str, fields: &str) -> Result<Self, TaxonomyError> {
        let error =
            |table| move |error: serde_norway::Error| TaxonomyError { table, reason: error.to_string() };
        let sources: Vec<SourceEntry> = serde_norway::from_str(logsources).map_err(error("log source"))?;
        let fields: BTreeMap<String, Vec<String>> = serde_norway::from_str(fields).map_err(error("field"))?;
        Ok(Self { sources, fields: fields.into_iter().collect(), placeholders: AHashMap::new() })
    }

    /// Adds what a user has: log sources beside those there are, fields before the places they have, what placeholders stand for.
    pub(crate) fn extend(&mut self, document: TaxonomyDocument) {
        let Additions { logsources, fields, placeholders } = document.taxonomy;
        self.placeholders.extend(placeholders);
        self.sources.extend(logsources);
        for (field, mut places) in fields {
            let known = self.fields.entry(field).or_default();
            known.retain(|place| !places.contains(place));
            places.append(known);
            *known = places;
        }
    }

    /// The values that `%name%` stands for, where a rule asks for that by `|expand`; none where nobody has given any.
    pub(crate) fn placeholder(&self, name: &str) -> Option<&[String]> {
        self.placeholders.get(name).map(Names::as_slice)
    }

    /// Names under which the value of `field` may stand, best first, its own aside.
    pub fn aliases(&self, field: &str) -> &[String] {
        self.fields.get(field).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_tables_are_readable() {
        let taxonomy = Taxonomy::shipped().unwrap();
        assert!(!taxonomy.sources.is_empty());
        assert!(taxonomy.aliases("c-ip").contains(&"src_ip".to_owned()));
    }

    #[test]
    fn an_entry_admits_rules_whose_every_part_it_names() {
        let taxonomy = Taxonomy::parse(
            "[{source_type: sshd, product: linux, service: [sshd, auth]}, {class_uid: 1007, product: any, category: process_creation}]",
            "{}",
        )
        .unwrap();
        let rule = |product: Option<&str>, category: Option<&str>, service: Option<&str>| LogSource {
            product: product.map(str::to_owned),
            category: category.map(str::to_owned),
            service: service.map(str::to_owned),
        };
        let admits = |source: LogSource| {
            taxonomy.sources.iter().map(|entry| entry.admits(&source)).collect::<Vec<_>>()
        };
        assert_eq!(admits(rule(Some("linux"), None, Some("sshd"))), [true, false]);
        assert_eq!(admits(rule(Some("linux"), None, None)), [true, false]);
        assert_eq!(admits(rule(Some("windows"), Some("process_creation"), None)), [false, true]);
        assert_eq!(admits(rule(Some("linux"), None, Some("cron"))), [false, false]);
        assert_eq!(admits(rule(None, None, None)), [false, false]);
    }
}
