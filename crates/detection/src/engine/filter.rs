//! Sigma filters: what has to hold beside rules that were written by others.

use std::collections::HashMap;

use rsigma_parser::{FilterRule, FilterRuleTarget, SigmaRule};

use super::raw::Raw;
use super::rsigma::{Program, lower};
use super::{Document, Refusal, bounds, shape};
use crate::rule::{Filter, Targets};
use crate::taxonomy::Taxonomy;
use crate::view::Fields;

/// Compiles a filter. `text` is its document, `raw` what that says.
pub(super) fn compile(
    filter: FilterRule,
    text: &str,
    raw: &Raw<'_>,
    fields: &mut Fields,
    taxonomy: &Taxonomy,
) -> Result<Document, Refusal> {
    let targets = match &filter.rules {
        FilterRuleTarget::Specific(rules) => Targets::Rules(rules.clone()),
        FilterRuleTarget::Any if says_any(raw) => Targets::Any,
        FilterRuleTarget::Any => {
            return Err(raw.refuse(
                &["filter", "rules"],
                "filter.rules names no rule; for all of its logsource write `rules: any`",
            ));
        }
    };
    if filter.logsource.is_none() {
        return Err(Refusal::new("the filter has no logsource"));
    }
    let orgs = orgs(&filter)?;
    let rule = as_rule(filter);
    bounds::check_rule(&rule, text)?;
    shape::check_counts(raw, &rule.detection)?;
    let matcher = Box::new(Program::compile(&rule, raw, fields, taxonomy)?);
    shape::check_id(raw)?;
    let logsource = lower(rule.logsource);
    Ok(Document::Filter(Filter { id: rule.id, title: rule.title, targets, logsource, orgs, matcher }))
}

/// A missing or empty list of rules reads the same as `any` to the parser, and would silence everything.
fn says_any(raw: &Raw<'_>) -> bool {
    let rules = raw.map.get("filter").and_then(|filter| filter.get("rules")?.as_str());
    rules.is_some_and(|word| word.eq_ignore_ascii_case("any"))
}

/// Orgs that the filter is for; empty for all.
fn orgs(filter: &FilterRule) -> Result<Vec<String>, Refusal> {
    let Some(orgs) = filter.custom_attributes.get("orgs") else { return Ok(Vec::new()) };
    let named = orgs.as_sequence().and_then(|list| {
        list.iter().map(|org| org.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
    });
    named.filter(|orgs| !orgs.is_empty()).ok_or_else(|| Refusal::new("orgs is not a list of names of orgs"))
}

/// A rule that matches where the filter holds.
pub(super) fn as_rule(filter: FilterRule) -> SigmaRule {
    SigmaRule {
        title: filter.title,
        logsource: filter.logsource.unwrap_or_default(),
        detection: filter.detection,
        sigma_version: filter.sigma_version,
        id: filter.id,
        name: filter.name,
        related: Vec::new(),
        taxonomy: filter.taxonomy,
        status: filter.status,
        description: filter.description,
        license: filter.license,
        author: filter.author,
        references: filter.references,
        date: filter.date,
        modified: filter.modified,
        fields: Vec::new(),
        falsepositives: Vec::new(),
        level: None,
        tags: Vec::new(),
        scope: Vec::new(),
        custom_attributes: HashMap::new(),
    }
}
