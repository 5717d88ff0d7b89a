//! A compiled set of rules.

use std::path::Path;

use ahash::AHashMap;

use crate::engine::{Document, Engine, Rsigma};
use crate::link::{Link, Placed, link};
use crate::load::{DefectKind, Source};
use crate::orgs::{Orgs, OrgsDocument};
use crate::outline::Outline;
use crate::route::Routes;
use crate::rule::{ALERT_SEVERITY, Correlation, Detection, Filter, LogSource, Meta, Targets};
use crate::taxonomy::Taxonomy;
use crate::view::{FieldId, Fields, Subject, View};

/// Rules ready to match, immutable; made by [`load`](crate::load).
#[derive(Debug)]
pub struct Rules {
    pub(crate) detections: Vec<Detection>,
    pub(crate) correlations: Vec<Correlation>,
    /// In the order of the correlations.
    links: Vec<Link>,
    filters: Vec<Filter>,
    pub(crate) orgs: Orgs,
    taxonomy: Taxonomy,
    pub(crate) fields: Fields,
    pub(crate) alert_fields: AlertFields,
    /// The documents it was compiled from, so that a later, broken version can be replaced by its last good one.
    pub(crate) sources: Vec<Source>,
    routes: Routes,
    by_id: AHashMap<String, RuleRef>,
}

/// Fields that group alerts of a single rule and name the entities of a signal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AlertFields {
    pub host: FieldId,
    pub user: FieldId,
    pub src_ip: FieldId,
    pub scan_id: FieldId,
}

#[derive(Debug, Clone, Copy)]
enum RuleRef {
    Detection(usize),
    Correlation(usize),
}

/// A rule by its id, as the correlator needs it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Known<'a> {
    Alert(&'a Meta),
    Correlation(&'a Correlation, &'a Link),
}

/// Why a document that compiled is left out all the same: index among the documents, and the reason.
pub(crate) type LeftOut = (usize, DefectKind, String);

impl Rules {
    /// No rules at all.
    pub fn empty() -> Self {
        Self::assemble(Vec::new(), Fields::default(), Taxonomy::default()).0
    }

    /// Links `documents` into a set. Rules stand in the order of their ids, so that the same documents make the same set
    /// wherever their files lie.
    pub(crate) fn assemble(
        documents: Vec<(usize, Source, Document)>,
        mut fields: Fields,
        taxonomy: Taxonomy,
    ) -> (Self, Vec<LeftOut>) {
        let mut left_out = Vec::new();
        let mut seen: AHashMap<String, Source> = AHashMap::new();
        let mut detections: Vec<(Source, Detection)> = Vec::new();
        let mut correlations: Vec<Placed> = Vec::new();
        let mut filters: Vec<(usize, Source, Filter)> = Vec::new();
        let mut orgs: Vec<(usize, OrgsDocument)> = Vec::new();
        let mut others: Vec<Source> = Vec::new();
        for (index, source, document) in documents {
            let id = document.identity().into_owned();
            if let Some(first) = seen.get(&id) {
                let place = format!("{}:{}", first.path.display(), first.line);
                let reason = format!("the id {id} is taken by the rule at {place}");
                left_out.push((index, DefectKind::TakenId, reason));
                continue;
            }
            seen.insert(id, source.clone());
            match document {
                Document::Detection { meta, logsource, matcher } => {
                    let alerts = meta.severity_id >= ALERT_SEVERITY;
                    let (feeds, filters) = (Vec::new(), Vec::new());
                    let rule = Detection { meta, logsource, alerts, feeds, filters, matcher };
                    detections.push((source, rule));
                }
                Document::Correlation(rule) => correlations.push((index, source, rule)),
                Document::Filter(filter) => filters.push((index, source, filter)),
                Document::Orgs(document) => {
                    others.push(source);
                    orgs.push((index, document));
                }
                Document::Taxonomy(_) => others.push(source),
            }
        }
        detections.sort_by(|(_, a), (_, b)| a.meta.id.cmp(&b.meta.id));
        correlations.sort_by(|(.., a), (.., b)| a.meta.id.cmp(&b.meta.id));

        let (mut sources, mut detections): (Vec<Source>, Vec<Detection>) = detections.into_iter().unzip();
        let linked = link(correlations, &mut detections, &mut fields, &taxonomy);
        let refused = |(index, reason)| (index, DefectKind::Refused, reason);
        left_out.extend(linked.left_out.into_iter().map(refused));
        let (more, correlations): (Vec<Source>, Vec<Correlation>) = linked.rules.into_iter().unzip();
        sources.extend(more);
        filters.sort_by(|(.., a), (.., b)| a.identity().cmp(b.identity()));
        let mut kept = Vec::new();
        for (index, source, filter) in filters {
            match attach(&filter, kept.len(), &mut detections) {
                Ok(()) => {
                    sources.push(source);
                    kept.push(filter);
                }
                Err(reason) => left_out.push((index, DefectKind::Refused, reason)),
            }
        }
        let filters = kept;
        sources.extend(others);
        let (orgs, wrong) = Orgs::new(orgs, &detections, &correlations);
        left_out.extend(wrong);

        let logsources: Vec<LogSource> = detections.iter().map(|rule| rule.logsource.clone()).collect();
        let routes = Routes::new(&logsources, &taxonomy, &mut fields);
        let alert_fields = AlertFields {
            host: fields.intern("host", &taxonomy),
            user: fields.intern("user", &taxonomy),
            src_ip: fields.intern("src_ip", &taxonomy),
            scan_id: fields.intern("scan_id", &taxonomy),
        };
        let ids = detections.iter().enumerate().map(|(i, r)| (r.meta.id.clone(), RuleRef::Detection(i)));
        let more = correlations.iter().enumerate().map(|(i, r)| (r.meta.id.clone(), RuleRef::Correlation(i)));
        let by_id = ids.chain(more).collect();
        let links = linked.links;
        let rules = Self {
            detections,
            correlations,
            links,
            filters,
            orgs,
            taxonomy,
            fields,
            alert_fields,
            sources,
            routes,
            by_id,
        };
        (rules, left_out)
    }

    /// Detection rules, by id.
    pub fn detections(&self) -> &[Detection] {
        &self.detections
    }

    /// Correlations, by id.
    pub fn correlations(&self) -> &[Correlation] {
        &self.correlations
    }

    /// The tables of log sources and fields that they were compiled with.
    pub fn taxonomy(&self) -> &Taxonomy {
        &self.taxonomy
    }

    /// Filters, by id or title.
    pub fn filters(&self) -> &[Filter] {
        &self.filters
    }

    /// Rules of both kinds.
    pub fn len(&self) -> usize {
        self.detections.len() + self.correlations.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How far before an event others may matter to what it makes of its correlations, microseconds: their longest
    /// timespan, a chain's added up. For one that waits for the watermark a burst of activity of a timespan and the
    /// timespan after it.
    pub fn longest_timespan(&self) -> i64 {
        let each = self.correlations.iter().zip(&self.links);
        each.map(|(rule, link)| reach(rule, link)).max().unwrap_or(0)
    }

    /// How rules see `subject`.
    pub fn view<'a>(&'a self, subject: Subject<'a>) -> View<'a> {
        View::new(subject, &self.fields)
    }

    /// The detection rules that match `event` and are in force for its org, in order.
    pub fn matching<'r, 'v, 'a>(
        &'r self,
        event: &'v View<'a>,
    ) -> impl Iterator<Item = &'r Detection> + use<'r, 'v, 'a> {
        self.routes
            .candidates(event)
            .iter()
            .filter_map(|&index| self.detections.get(index as usize))
            .filter(move |rule| rule.matcher.matches(event) && self.stands(rule, event))
    }

    /// Whether a match counts: the rule is on for the event's org, and every filter for both holds.
    fn stands(&self, rule: &Detection, event: &View<'_>) -> bool {
        let org = event.subject().org();
        let mut filters = rule.filters.iter().filter_map(|&index| self.filters.get(index));
        self.orgs.enabled(org, &rule.meta.id)
            && filters.all(|filter| !filter.is_for(org) || filter.matcher.matches(event))
    }

    /// Whether the rule of that id is on for `org`.
    pub fn is_on(&self, rule_id: &str, org: &str) -> bool {
        self.orgs.enabled(org, rule_id)
    }

    /// The filters of `rule`, one of these, that are for `event`, each with what the event has to say to it.
    pub fn explain_filters<'r>(
        &'r self,
        rule: &Detection,
        event: &View<'_>,
    ) -> Vec<(&'r Filter, Option<Outline>)> {
        let first = self.detections.len() + self.correlations.len();
        let org = event.subject().org();
        let named = rule.filters.iter().filter_map(|&index| Some((index, self.filters.get(index)?)));
        let for_it = named.filter(|(_, filter)| filter.is_for(org));
        for_it
            .map(|(index, filter)| {
                let source = self.sources.get(first + index);
                let outline = source.and_then(|source| Rsigma.explain(&source.texts(), &self.fields, event));
                (filter, outline)
            })
            .collect()
    }

    /// File and line, from 1, of the rule of that id.
    pub fn origin(&self, id: &str) -> Option<(&Path, usize)> {
        self.source(id).map(|source| (source.path.as_ref(), source.line))
    }

    /// What `rule`, one of these, asks of an event.
    pub fn outline(&self, rule: &Detection) -> Option<Outline> {
        Rsigma.outline(&self.source(&rule.meta.id)?.texts())
    }

    /// The same, with what `event` has to say to each part. Costs a compilation: for a person who asks, not for a stream.
    pub fn explain(&self, rule: &Detection, event: &View<'_>) -> Option<Outline> {
        Rsigma.explain(&self.source(&rule.meta.id)?.texts(), &self.fields, event)
    }

    /// Whether `event` is evaluated against `rule`, one of these, at all.
    pub fn routed(&self, rule: &Detection, event: &View<'_>) -> bool {
        let candidates = self.routes.candidates(event).iter();
        let mut rules = candidates.filter_map(|&index| self.detections.get(index as usize));
        rules.any(|candidate| candidate.meta.id == rule.meta.id)
    }

    /// Sources stand as the rules do: detections, then correlations, filters, and the rest.
    fn source(&self, id: &str) -> Option<&Source> {
        match self.by_id.get(id)? {
            RuleRef::Detection(index) => self.sources.get(*index),
            RuleRef::Correlation(index) => self.sources.get(self.detections.len() + index),
        }
    }

    #[cfg(test)]
    pub(crate) fn candidates(&self, event: &View<'_>) -> &[u32] {
        self.routes.candidates(event)
    }

    pub(crate) fn known(&self, id: &str) -> Option<Known<'_>> {
        match self.by_id.get(id)? {
            RuleRef::Detection(index) => self.detections.get(*index).map(|rule| Known::Alert(&rule.meta)),
            RuleRef::Correlation(index) => self.correlation(*index),
        }
    }

    pub(crate) fn correlation_index(&self, id: &str) -> Option<usize> {
        match self.by_id.get(id)? {
            RuleRef::Detection(_) => None,
            RuleRef::Correlation(index) => Some(*index),
        }
    }

    pub(crate) fn correlation(&self, index: usize) -> Option<Known<'_>> {
        Some(Known::Correlation(self.correlations.get(index)?, self.links.get(index)?))
    }
}

/// Makes the filter number `number` one of the detections it is for.
fn attach(filter: &Filter, number: usize, detections: &mut [Detection]) -> Result<(), String> {
    let Targets::Rules(rules) = &filter.targets else {
        let subject = detections.iter_mut().filter(|rule| filter.logsource.holds(&rule.logsource));
        subject.for_each(|rule| rule.filters.push(number));
        return Ok(());
    };
    let mut named = Vec::new();
    for reference in rules {
        let Some(at) = detections.iter().position(|rule| rule.meta.is_called(reference)) else {
            return Err(format!("the filter names the detection rule '{reference}', which is not there"));
        };
        if !detections.get(at).is_some_and(|rule| filter.logsource.holds(&rule.logsource)) {
            return Err(format!("the rule '{reference}' is of another logsource than the filter"));
        }
        named.push(at);
    }
    for at in named {
        if let Some(rule) = detections.get_mut(at).filter(|rule| !rule.filters.contains(&number)) {
            rule.filters.push(number);
        }
    }
    Ok(())
}

/// How far before an event others may matter to a correlation, microseconds.
pub(crate) fn reach(rule: &Correlation, link: &Link) -> i64 {
    let own = if rule.condition.waits() { rule.timespan.saturating_mul(2) } else { rule.timespan };
    own.saturating_add(link.before)
}
