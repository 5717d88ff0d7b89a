//! What single orgs have of their own: rules switched off and on, and other severities.

use std::collections::BTreeMap;

use ahash::{AHashMap, AHashSet};
use serde::Deserialize;

use crate::engine::Refusal;
use crate::load::DefectKind;
use crate::names::{Names, Origins};
use crate::own;
use crate::rule::{ALERT_SEVERITY, Correlation, Detection};

/// Stands for every org that has no section.
const ALL: &str = "*";

/// A document of the form `orgs: {NAME: {enable, disable, severity}}`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OrgsDocument {
    #[serde(rename = "title")]
    _title: Option<String>,
    #[serde(rename = "description")]
    _description: Option<String>,
    orgs: BTreeMap<String, Section>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Section {
    /// Rules, by id or name, that are off for all and on here.
    enable: Vec<String>,
    disable: Vec<String>,
    severity: BTreeMap<String, Level>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Informational = 1,
    Low,
    Medium,
    High,
    Critical,
}

impl OrgsDocument {
    /// Whether a document is meant as one of these. A filter may name orgs too.
    pub(crate) fn is_one(text: &str) -> bool {
        !own::is_sigma(text) && text.lines().any(|line| line.starts_with("orgs:"))
    }

    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        own::parse(text, "document of orgs")
    }

    /// What tells it apart: the orgs it speaks of.
    pub(crate) fn id(&self) -> String {
        self.orgs.keys().map(String::as_str).collect::<Vec<_>>().join(",")
    }
}

/// How a rule stands with an org, where that differs from what the rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stance {
    pub enabled: bool,
    pub severity_id: i32,
    /// For a detection: it raises alerts of its own.
    pub alerts: bool,
}

/// By rule id.
type Stances = AHashMap<String, Stance>;

/// All that orgs have of their own.
#[derive(Debug, Default)]
pub(crate) struct Orgs {
    /// Of those without a section.
    rest: Stances,
    own: AHashMap<String, Stances>,
}

impl Orgs {
    /// How the rule stands with the org; none where it is as the rule says.
    pub(crate) fn stance(&self, org: &str, rule_id: &str) -> Option<&Stance> {
        if self.own.is_empty() && self.rest.is_empty() {
            return None;
        }
        self.own.get(org).unwrap_or(&self.rest).get(rule_id)
    }

    /// Whether the rule is in force for the org.
    pub(crate) fn enabled(&self, org: &str, rule_id: &str) -> bool {
        self.stance(org, rule_id).is_none_or(|stance| stance.enabled)
    }

    /// Applies `documents`, each with its number, to the rules. What cannot be applied is told, and the rest is.
    pub(crate) fn new(
        documents: Vec<(usize, OrgsDocument)>,
        detections: &[Detection],
        correlations: &[Correlation],
        origins: &Origins,
    ) -> (Self, Vec<(usize, DefectKind, String)>) {
        let mut wrong = Vec::new();
        let mut sections: BTreeMap<String, Section> = BTreeMap::new();
        let (first, second) = (detections.iter(), correlations.iter());
        let names = Names::new(first.map(|rule| &rule.meta), second.map(|rule| &rule.meta), origins);
        let ids = Ids { detections, correlations, names };
        for (document, OrgsDocument { orgs, .. }) in documents {
            let mut tell = |reason: String| wrong.push((document, DefectKind::Refused, reason));
            for (org, section) in orgs {
                if sections.contains_key(&org) {
                    tell(format!("the org '{org}' has a section in another document; this one is left out"));
                    continue;
                }
                sections.insert(org.clone(), ids.resolve(section, &org, &mut tell));
            }
        }
        let all = sections.remove(ALL).unwrap_or_default();
        let rest = ids.stances(&all, &Section::default());
        let own = sections.into_iter().map(|(org, section)| (org, ids.stances(&all, &section)));
        (Self { own: own.collect(), rest }, wrong)
    }
}

struct Ids<'a> {
    detections: &'a [Detection],
    correlations: &'a [Correlation],
    names: Names<'a>,
}

impl Ids<'_> {
    /// The section with ids for names, without the rules that are not there.
    fn resolve(&self, section: Section, org: &str, tell: &mut dyn FnMut(String)) -> Section {
        let mut known = |reference: String| {
            let id = self.names.id(&reference).map(str::to_owned);
            if id.is_none() {
                let why = self.names.why_not(&reference);
                tell(format!("orgs: '{org}' names the rule '{reference}', {why}; the rest applies"));
            }
            id
        };
        Section {
            enable: section.enable.into_iter().filter_map(&mut known).collect(),
            disable: section.disable.into_iter().filter_map(&mut known).collect(),
            severity: section
                .severity
                .into_iter()
                .filter_map(|(rule, level)| Some((known(rule)?, level)))
                .collect(),
        }
    }

    /// An org's section over the one for all.
    fn stances(&self, all: &Section, own: &Section) -> Stances {
        let mut disabled: AHashSet<&str> = all.disable.iter().map(String::as_str).collect();
        own.enable.iter().for_each(|id| {
            disabled.remove(id.as_str());
        });
        disabled.extend(own.disable.iter().map(String::as_str));
        let severity = |id: &str, said: i32| {
            own.severity.get(id).or_else(|| all.severity.get(id)).map_or(said, |level| *level as i32)
        };
        let mut stances = Stances::new();
        for rule in self.detections {
            let id = rule.meta.id.as_str();
            let enabled = !disabled.contains(id);
            let severity_id = severity(id, rule.meta.severity_id);
            let fed = rule.feeds.iter().filter_map(|feed| self.correlations.get(feed.correlation));
            // A correlation that is off has not taken over the alerts of what feeds it.
            let mut fed = fed.filter(|correlation| !disabled.contains(correlation.meta.id.as_str()));
            let alerts =
                enabled && severity_id >= ALERT_SEVERITY && fed.all(|correlation| correlation.generate);
            if (enabled, severity_id, alerts) != (true, rule.meta.severity_id, rule.alerts) {
                stances.insert(id.to_owned(), Stance { enabled, severity_id, alerts });
            }
        }
        for rule in self.correlations {
            let id = rule.meta.id.as_str();
            let enabled = !disabled.contains(id);
            let severity_id = severity(id, rule.meta.severity_id);
            if (enabled, severity_id) != (true, rule.meta.severity_id) {
                stances.insert(id.to_owned(), Stance { enabled, severity_id, alerts: false });
            }
        }
        stances
    }
}
