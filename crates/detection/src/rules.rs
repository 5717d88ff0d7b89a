//! A compiled set of rules.

use std::path::Path;

use ahash::AHashMap;

use crate::engine::{Document, Engine, Rsigma};
use crate::link::{Link, Placed, link};
use crate::load::{DefectKind, Source};
use crate::names::{Named, Names, Origins};
use crate::need::Need;
use crate::orgs::{Orgs, OrgsDocument};
use crate::outline::Outline;
use crate::route::Routes;
use crate::rule::{ALERT_SEVERITY, Correlation, Detection, Filter, LogSource, Meta, Targets};
use crate::sieve::{Scratch, Sieve};
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
    /// By log source, to numbers of detections.
    routes: Routes,
    logsources: Vec<LogSource>,
    sieves: Vec<Sieve>,
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
        let mut seen = Origins::new();
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
        let linked = link(correlations, &mut detections, &seen, &mut fields, &taxonomy);
        let refused = |(index, reason)| (index, DefectKind::Refused, reason);
        left_out.extend(linked.left_out.into_iter().map(refused));
        let (more, correlations): (Vec<Source>, Vec<Correlation>) = linked.rules.into_iter().unzip();
        sources.extend(more);
        filters.sort_by(|(.., a), (.., b)| a.identity().cmp(b.identity()));
        let names = Names::new(detections.iter().map(|rule| &rule.meta), std::iter::empty(), &seen);
        let mut kept = Vec::new();
        let mut filters_of: Vec<Vec<usize>> = vec![Vec::new(); detections.len()];
        for (index, source, filter) in filters {
            match attach(&filter, kept.len(), &names, &detections, &mut filters_of) {
                Ok(()) => {
                    sources.push(source);
                    kept.push(filter);
                }
                Err(reason) => left_out.push((index, DefectKind::Refused, reason)),
            }
        }
        for (rule, filters) in detections.iter_mut().zip(filters_of) {
            rule.filters = filters;
        }
        let filters = kept;
        sources.extend(others);
        let (orgs, wrong) = Orgs::new(orgs, &detections, &correlations, &seen);
        left_out.extend(wrong);

        let groups = groups(&detections);
        let logsources: Vec<LogSource> = groups.iter().map(|(source, _)| (*source).clone()).collect();
        let routes = Routes::new(&logsources, &taxonomy, &mut fields);
        let sieves = groups.into_iter().map(|(_, rules)| sieve(&detections, &rules)).collect();
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
            logsources,
            sieves,
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
        self.candidates(event).filter(move |rule| rule.matcher.matches(event) && self.stands(rule, event))
    }

    /// The detection rules that `event` may match, as far as a look at its log source and its fields can tell.
    pub(crate) fn candidates(&self, event: &View<'_>) -> Candidates<'_> {
        let mut scratch = Scratch::take(self.detections.len());
        for source in self.routes.candidates(event) {
            if let Some(sieve) = self.sieves.get(source as usize) {
                sieve.pass(event, &mut scratch);
            }
        }
        scratch.sort();
        Candidates { rules: &self.detections, scratch: Some(scratch), next: 0 }
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
                let outline = source.and_then(|source| self.verdicts(source, event));
                (filter, outline)
            })
            .collect()
    }

    /// The severity of `rule`, one of these, for `org`.
    pub fn severity_id(&self, rule: &Meta, org: &str) -> i32 {
        self.orgs.stance(org, &rule.id).map_or(rule.severity_id, |stance| stance.severity_id)
    }

    /// File and line, from 1, of every document that is in force, at least in part.
    pub fn places(&self) -> impl Iterator<Item = (&Path, usize)> {
        self.sources.iter().map(|source| (source.path.as_ref(), source.line))
    }

    /// File and line, from 1, of the rule of that id.
    pub fn origin(&self, id: &str) -> Option<(&Path, usize)> {
        self.source(id).map(|source| (source.path.as_ref(), source.line))
    }

    /// What `rule`, one of these, asks of an event.
    pub fn outline(&self, rule: &Detection) -> Option<Outline> {
        Rsigma.outline(&self.source(&rule.meta.id)?.texts(), &self.taxonomy, None)
    }

    /// The same, with what `event` has to say to each part. Costs a compilation: for a person who asks, not for a stream.
    pub fn explain(&self, rule: &Detection, event: &View<'_>) -> Option<Outline> {
        self.verdicts(self.source(&rule.meta.id)?, event)
    }

    fn verdicts(&self, source: &Source, event: &View<'_>) -> Option<Outline> {
        Rsigma.outline(&source.texts(), &self.taxonomy, Some((&self.fields, event)))
    }

    /// Whether `event` is of a log source that `rule`, one of these, is for.
    pub fn routed(&self, rule: &Detection, event: &View<'_>) -> bool {
        let sources = self.routes.candidates(event);
        sources
            .filter_map(|source| self.logsources.get(source as usize))
            .any(|source| *source == rule.logsource)
    }

    /// Sources stand as the rules do: detections, then correlations, filters, and the rest.
    fn source(&self, id: &str) -> Option<&Source> {
        match self.by_id.get(id)? {
            RuleRef::Detection(index) => self.sources.get(*index),
            RuleRef::Correlation(index) => self.sources.get(self.detections.len() + index),
        }
    }

    /// The detection rules of the event's log sources, in order; what the sieves choose from.
    #[cfg(test)]
    pub(crate) fn routed_rules(&self, event: &View<'_>) -> impl Iterator<Item = &Detection> {
        self.detections.iter().filter(|rule| self.routed(rule, event))
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

/// Filters of one rule, at most.
const MAX_FILTERS: usize = 1_000;

/// Makes the filter number `number` one of the detections it is for: all of them, or none and the reason.
fn attach(
    filter: &Filter,
    number: usize,
    names: &Names<'_>,
    detections: &[Detection],
    filters_of: &mut [Vec<usize>],
) -> Result<(), String> {
    let is_for = |at: &usize| detections.get(*at).is_some_and(|rule| filter.logsource.holds(&rule.logsource));
    let mut targets: Vec<usize> = Vec::new();
    match &filter.targets {
        Targets::Any => targets.extend((0..detections.len()).filter(is_for)),
        Targets::Rules(rules) => {
            for reference in rules {
                let Some(Named::Detection(at)) = names.get(reference) else {
                    let why = names.why_not(reference);
                    return Err(format!("the filter names the detection rule '{reference}', {why}"));
                };
                if !is_for(&at) {
                    return Err(format!("the rule '{reference}' is of another logsource than the filter"));
                }
                targets.push(at);
            }
            targets.sort_unstable();
            targets.dedup();
        }
    }
    let is_full = |at: &&usize| filters_of.get(**at).is_some_and(|filters| filters.len() >= MAX_FILTERS);
    if let Some(rule) = targets.iter().find(is_full).and_then(|&at| detections.get(at)) {
        return Err(format!("the rule '{}' has {MAX_FILTERS} filters already", rule.meta.id));
    }
    for at in targets {
        if let Some(filters) = filters_of.get_mut(at) {
            filters.push(number);
        }
    }
    Ok(())
}

/// Detections that an event may match, in order.
pub(crate) struct Candidates<'r> {
    rules: &'r [Detection],
    scratch: Option<Box<Scratch>>,
    next: usize,
}

impl<'r> Iterator for Candidates<'r> {
    type Item = &'r Detection;

    fn next(&mut self) -> Option<Self::Item> {
        let number = self.scratch.as_ref()?.found(self.next)?;
        self.next += 1;
        self.rules.get(number as usize)
    }
}

impl Drop for Candidates<'_> {
    fn drop(&mut self) {
        if let Some(scratch) = self.scratch.take() {
            scratch.give_back();
        }
    }
}

/// Numbers of the detections of each log source.
fn groups(detections: &[Detection]) -> Vec<(&LogSource, Vec<u32>)> {
    let mut groups: Vec<(&LogSource, Vec<u32>)> = Vec::new();
    let mut places: AHashMap<&LogSource, usize> = AHashMap::new();
    for (number, rule) in (0u32..).zip(detections) {
        let place = *places.entry(&rule.logsource).or_insert(groups.len());
        match groups.get_mut(place) {
            Some((_, rules)) => rules.push(number),
            None => groups.push((&rule.logsource, vec![number])),
        }
    }
    groups
}

fn sieve(detections: &[Detection], rules: &[u32]) -> Sieve {
    let needs: Vec<(u32, Need)> = rules
        .iter()
        .filter_map(|&number| Some((number, detections.get(number as usize)?.matcher.need())))
        .collect();
    Sieve::new(&needs)
}

/// How far before an event others may matter to a correlation, microseconds.
pub(crate) fn reach(rule: &Correlation, link: &Link) -> i64 {
    let own = if rule.condition.waits() { rule.timespan.saturating_mul(2) } else { rule.timespan };
    own.saturating_add(link.before)
}
