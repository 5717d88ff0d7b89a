//! A compiled set of rules.

use ahash::AHashMap;

use crate::engine::Document;
use crate::load::Source;
use crate::route::Routes;
use crate::rule::{ALERT_SEVERITY, Correlation, Detection, Feed, LogSource, Meta};
use crate::taxonomy::Taxonomy;
use crate::view::{FieldId, Fields, Subject, View};

/// Rules ready to match, immutable; made by [`load`](crate::load).
#[derive(Debug)]
pub struct Rules {
    pub(crate) detections: Vec<Detection>,
    pub(crate) correlations: Vec<Correlation>,
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
    Correlation(&'a Correlation),
}

/// Why a document that compiled is left out all the same: index among the documents, and the reason.
pub(crate) type LeftOut = (usize, String);

impl Rules {
    /// No rules at all.
    pub fn empty() -> Self {
        Self::assemble(Vec::new(), Fields::default(), &Taxonomy::default()).0
    }

    /// Links `documents` into a set. Rules stand in the order of their ids, so that the same documents make the same set
    /// wherever their files lie.
    pub(crate) fn assemble(
        documents: Vec<(usize, Source, Document)>,
        mut fields: Fields,
        taxonomy: &Taxonomy,
    ) -> (Self, Vec<LeftOut>) {
        let mut left_out = Vec::new();
        let mut seen: AHashMap<String, Source> = AHashMap::new();
        let mut detections: Vec<(Source, Detection)> = Vec::new();
        let mut correlations: Vec<(usize, Source, Correlation)> = Vec::new();
        for (index, source, document) in documents {
            let id = match &document {
                Document::Detection { meta, .. } => meta.id.clone(),
                Document::Correlation(rule) => rule.meta.id.clone(),
            };
            if let Some(first) = seen.get(&id) {
                let place = format!("{}:{}", first.path.display(), first.line);
                left_out.push((index, format!("the id {id} is taken by the rule at {place}")));
                continue;
            }
            seen.insert(id, source.clone());
            match document {
                Document::Detection { meta, logsource, matcher } => {
                    let alerts = meta.severity_id >= ALERT_SEVERITY;
                    let rule = Detection { meta, logsource, alerts, feeds: Vec::new(), matcher };
                    detections.push((source, rule));
                }
                Document::Correlation(rule) => correlations.push((index, source, rule)),
            }
        }
        detections.sort_by(|(_, a), (_, b)| a.meta.id.cmp(&b.meta.id));
        correlations.sort_by(|(.., a), (.., b)| a.meta.id.cmp(&b.meta.id));

        let (mut sources, mut detections): (Vec<Source>, Vec<Detection>) = detections.into_iter().unzip();
        let mut linked = Vec::new();
        for (index, source, rule) in correlations {
            match link(&rule, linked.len(), &mut detections, &mut fields, taxonomy) {
                Ok(()) => {
                    linked.push(rule);
                    sources.push(source);
                }
                Err(reason) => left_out.push((index, reason)),
            }
        }

        let logsources: Vec<LogSource> = detections.iter().map(|rule| rule.logsource.clone()).collect();
        let routes = Routes::new(&logsources, taxonomy, &mut fields);
        let alert_fields = AlertFields {
            host: fields.intern("host", taxonomy),
            user: fields.intern("user", taxonomy),
            src_ip: fields.intern("src_ip", taxonomy),
            scan_id: fields.intern("scan_id", taxonomy),
        };
        let ids = detections.iter().enumerate().map(|(i, r)| (r.meta.id.clone(), RuleRef::Detection(i)));
        let more = linked.iter().enumerate().map(|(i, r)| (r.meta.id.clone(), RuleRef::Correlation(i)));
        let by_id = ids.chain(more).collect();
        let rules = Self { detections, correlations: linked, fields, alert_fields, sources, routes, by_id };
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

    /// Rules of both kinds.
    pub fn len(&self) -> usize {
        self.detections.len() + self.correlations.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Longest timespan of its correlations, microseconds.
    pub fn longest_timespan(&self) -> i64 {
        self.correlations.iter().map(|rule| rule.timespan).max().unwrap_or(0)
    }

    /// How rules see `subject`.
    pub fn view<'a>(&'a self, subject: Subject<'a>) -> View<'a> {
        View::new(subject, &self.fields)
    }

    /// The detection rules that match `event`, in order.
    pub fn matching<'r, 'v, 'a>(
        &'r self,
        event: &'v View<'a>,
    ) -> impl Iterator<Item = &'r Detection> + use<'r, 'v, 'a> {
        self.routes
            .candidates(event)
            .iter()
            .filter_map(|&index| self.detections.get(index as usize))
            .filter(move |rule| rule.matcher.matches(event))
    }

    #[cfg(test)]
    pub(crate) fn candidates(&self, event: &View<'_>) -> &[u32] {
        self.routes.candidates(event)
    }

    pub(crate) fn known(&self, id: &str) -> Option<Known<'_>> {
        match self.by_id.get(id)? {
            RuleRef::Detection(index) => self.detections.get(*index).map(|rule| Known::Alert(&rule.meta)),
            RuleRef::Correlation(index) => self.correlations.get(*index).map(Known::Correlation),
        }
    }
}

/// Enters `rule` as number `position` with the detections that feed it. Without `generate`, they raise no alerts of
/// their own.
fn link(
    rule: &Correlation,
    position: usize,
    detections: &mut [Detection],
    fields: &mut Fields,
    taxonomy: &Taxonomy,
) -> Result<(), String> {
    let mut feeding = Vec::new();
    for reference in &rule.rules {
        let named = |d: &Detection| d.meta.id == *reference || d.meta.name.as_ref() == Some(reference);
        match detections.iter().position(named) {
            Some(index) => feeding.push((index, reference)),
            None => return Err(format!("the correlation names the rule '{reference}', which is not there")),
        }
    }
    for (index, reference) in feeding {
        let group_by = rule.group_by.iter().map(|name| {
            let alias = rule.aliases.iter().find(|(alias, of, _)| alias == name && of == reference);
            fields.intern(alias.map_or(name.as_str(), |(.., field)| field.as_str()), taxonomy)
        });
        let group_by = group_by.collect();
        if let Some(detection) = detections.get_mut(index) {
            detection.feeds.push(Feed { correlation: position, group_by });
            detection.alerts &= rule.generate;
        }
    }
    Ok(())
}
