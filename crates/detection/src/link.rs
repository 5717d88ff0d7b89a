//! From correlations that name rules to correlations that are fed by them.
//!
//! A correlation may be fed by another. All signals of such a chain have to meet in one partition of `signals`, so each is
//! placed there by the group values of the chain's last correlation, its root; that is why these have to be among the
//! group values of every correlation before it. A correlation that ends several chains' way, or raises incidents of its
//! own too, is fed once for each root.

use std::collections::{BTreeMap, BTreeSet};

use ahash::{AHashMap, AHashSet};

use crate::load::Source;
use crate::names::{Named, Names, Origins};
use crate::rule::{Correlation, Detection, Feed, Kind, MAX_TIMESPAN};
use crate::taxonomy::Taxonomy;
use crate::view::Fields;

/// Correlations on the way from a detection to the end of a chain, at most.
const MAX_CHAIN: usize = 8;

/// How a correlation hangs together with the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// Ids of its rules, in its order.
    pub members: Vec<String>,
    /// Correlations it feeds.
    pub consumers: Vec<Consumer>,
    /// Ends of the chains it is counted for, each with the places of the root's group values among its own.
    pub roots: Roots,
    /// Longest that what feeds it can take to be known, microseconds: timespans of the correlations before it.
    pub before: i64,
    /// What it counts are matches of correlations.
    pub of_correlations: bool,
}

/// A correlation fed by another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Consumer {
    /// Index in [`Rules::correlations`](crate::Rules::correlations).
    pub outer: usize,
    /// Which of its rules the other is.
    pub rule: usize,
    /// Places of its group values among the other's.
    pub group: Vec<usize>,
    /// The same for what a `value_count` counts.
    pub value: Vec<usize>,
}

/// A correlation and where it came from: index among the documents, and source.
pub(crate) type Placed = (usize, Source, Correlation);

/// What became of the correlations.
#[derive(Default)]
pub(crate) struct Linked {
    pub rules: Vec<(Source, Correlation)>,
    /// In the same order.
    pub links: Vec<Link>,
    /// Document and reason.
    pub left_out: Vec<(usize, String)>,
}

/// Links `correlations`, which stand in the order of their ids, and enters them with the detections that feed them.
/// Without `generate`, what feeds a correlation raises nothing of its own.
pub(crate) fn link(
    mut correlations: Vec<Placed>,
    detections: &mut [Detection],
    origins: &Origins,
    fields: &mut Fields,
    taxonomy: &Taxonomy,
) -> Linked {
    let mut linked = Linked::default();
    let mut refused: BTreeSet<String> = BTreeSet::new();
    name_alike(&mut correlations, detections, origins);
    // One that is refused takes those along that build upon it.
    let links = loop {
        let known = Known::new(&correlations, detections, &refused, origins);
        let reasons = match known.links() {
            Ok(links) => break links,
            Err(reasons) => known.with_dependents(reasons),
        };
        for (index, reason) in reasons.into_iter().rev() {
            let (document, _, rule) = correlations.remove(index);
            refused.insert(rule.meta.id);
            refused.extend(rule.meta.name);
            linked.left_out.push((document, reason));
        }
    };
    linked.left_out.sort_by_key(|(document, _)| *document);
    let places: AHashMap<String, usize> =
        detections.iter().enumerate().map(|(place, detection)| (detection.meta.id.clone(), place)).collect();
    for (position, ((_, _, rule), link)) in correlations.iter().zip(&links).enumerate() {
        for (reference, member) in rule.rules.iter().zip(&link.members) {
            let detection = places.get(member).and_then(|&place| detections.get_mut(place));
            let Some(detection) = detection else { continue };
            detection.alerts &= rule.generate;
            let mut ids = |names: &[String]| {
                names.iter().map(|name| fields.intern(rule.name_in(name, reference), taxonomy)).collect()
            };
            let (group_by, value): (Vec<_>, Vec<_>) = match &rule.kind {
                Kind::ValueCount(counted) => (ids(&rule.group_by), ids(counted)),
                _ => (ids(&rule.group_by), Vec::new()),
            };
            for (root, root_group) in &link.roots {
                detection.feeds.push(Feed {
                    correlation: position,
                    root: *root,
                    group_by: group_by.clone(),
                    root_group: root_group.clone(),
                    value: value.clone(),
                });
            }
        }
    }
    linked.rules = correlations.into_iter().map(|(_, source, rule)| (source, rule)).collect();
    linked.links = links;
    linked
}

/// Correlations that build upon each other, up to one of them.
#[derive(Debug, Clone, Copy, Default)]
struct Chain {
    /// How many they are.
    length: usize,
    /// Timespans of those before it, microseconds.
    before: i64,
}

struct Known<'a> {
    correlations: &'a [Placed],
    detections: &'a [Detection],
    refused: &'a BTreeSet<String>,
    names: Names<'a>,
}

/// By index among the correlations, ascending.
type Reasons = Vec<(usize, String)>;

/// Ends of chains, each with the places of its group values.
type Roots = Vec<(usize, Vec<usize>)>;

impl<'a> Known<'a> {
    fn new(
        correlations: &'a [Placed],
        detections: &'a [Detection],
        refused: &'a BTreeSet<String>,
        origins: &'a Origins,
    ) -> Self {
        let names = names(correlations, detections, origins);
        Self { correlations, detections, refused, names }
    }

    /// The reasons, and one for each correlation that builds upon what is refused for them.
    fn with_dependents(&self, reasons: Reasons) -> Reasons {
        let mut consumers: AHashMap<usize, Vec<(usize, &str)>> = AHashMap::new();
        for (index, (_, _, rule)) in self.correlations.iter().enumerate() {
            for reference in &rule.rules {
                if let Some(Named::Correlation(inner)) = self.named(reference) {
                    consumers.entry(inner).or_default().push((index, reference));
                }
            }
        }
        let mut waiting: Vec<usize> = reasons.iter().map(|(index, _)| *index).collect();
        let mut all: BTreeMap<usize, String> = reasons.into_iter().collect();
        while let Some(refused) = waiting.pop() {
            for (index, reference) in consumers.get(&refused).into_iter().flatten() {
                all.entry(*index).or_insert_with(|| {
                    waiting.push(*index);
                    built_upon_refused(reference)
                });
            }
        }
        all.into_iter().collect()
    }

    fn links(&self) -> Result<Vec<Link>, Reasons> {
        let each = 0..self.correlations.len();
        let mut links = Vec::new();
        let mut reasons = Vec::new();
        for index in each.clone() {
            match self.members(index) {
                Ok(link) => links.push(link),
                Err(reason) => reasons.push((index, reason)),
            }
        }
        if !reasons.is_empty() {
            return Err(reasons);
        }
        let mut chains = vec![None; self.correlations.len()];
        for index in each.clone() {
            match self.chain(index, 0, &mut chains) {
                Ok(Chain { before, .. }) => {
                    if let Some(link) = links.get_mut(index) {
                        link.before = before;
                    }
                }
                Err(reason) => reasons.push((index, reason)),
            }
        }
        if !reasons.is_empty() {
            return Err(reasons);
        }
        for outer in each.clone() {
            for (inner, consumer) in self.consumed(outer) {
                if let Some(link) = links.get_mut(inner) {
                    link.consumers.push(consumer);
                }
            }
        }
        let mut found = vec![None; self.correlations.len()];
        for index in each {
            match self.roots(index, &links, &mut found) {
                Ok(roots) => {
                    if let Some(link) = links.get_mut(index) {
                        link.roots = roots;
                    }
                }
                Err(root) => {
                    let reason =
                        "a correlation reaches it by two ways with different values for its group-by";
                    return Err(vec![(root, reason.to_owned())]);
                }
            }
        }
        Ok(links)
    }

    fn rule(&self, index: usize) -> Option<&Correlation> {
        self.correlations.get(index).map(|(_, _, rule)| rule)
    }

    fn named(&self, reference: &str) -> Option<Named> {
        self.names.get(reference)
    }

    /// The rules that number `index` names, and whether they fit it.
    fn members(&self, index: usize) -> Result<Link, String> {
        let mut link = Link::default();
        let Some(rule) = self.rule(index) else { return Ok(link) };
        let (mut of_detections, mut seen) = (false, AHashSet::new());
        for reference in &rule.rules {
            let id = match self.named(reference) {
                None if self.refused.contains(reference) => {
                    return Err(built_upon_refused(reference));
                }
                None => {
                    let why = self.names.why_not(reference);
                    return Err(format!("the correlation names the rule '{reference}', {why}"));
                }
                Some(Named::Detection(at)) => {
                    of_detections = true;
                    self.detections.get(at).map(|detection| &detection.meta.id)
                }
                Some(Named::Correlation(at)) => {
                    link.of_correlations = true;
                    let inner = self.rule(at);
                    if let Some(inner) = inner {
                        fits(rule, reference, inner)?;
                    }
                    inner.map(|inner| &inner.meta.id)
                }
            };
            let Some(id) = id else { continue };
            if !seen.insert(id) {
                return Err(format!("the correlation names the rule '{reference}' twice"));
            }
            link.members.push(id.clone());
        }
        if link.of_correlations && of_detections && rule.kind == Kind::EventCount {
            return Err("an event_count counts matches either of detections or of correlations, not of both"
                .to_owned());
        }
        check_aliases(rule)?;
        Ok(link)
    }

    /// The correlations before number `index`, along the longest way; `known` are those found so far. `depth` correlations
    /// build upon it.
    fn chain(&self, index: usize, depth: usize, known: &mut [Option<Chain>]) -> Result<Chain, String> {
        let Some(rule) = self.rule(index) else { return Ok(Chain::default()) };
        let found = known.get(index).copied().flatten();
        if depth + found.map_or(1, |chain| chain.length) > MAX_CHAIN {
            return Err(format!(
                "correlations that build upon each other in a circle, or more than {MAX_CHAIN} in a row"
            ));
        }
        if let Some(chain) = found {
            return Ok(chain);
        }
        let (mut longest, mut length) = (0i64, 0);
        for reference in &rule.rules {
            if let Some(Named::Correlation(inner)) = self.named(reference) {
                let timespan = self.rule(inner).map_or(0, |inner| inner.timespan);
                let chain = self.chain(inner, depth + 1, known)?;
                longest = longest.max(chain.before.saturating_add(timespan));
                length = length.max(chain.length);
            }
        }
        let most = i64::try_from(MAX_TIMESPAN).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        if longest.saturating_add(rule.timespan) > most {
            let days = MAX_TIMESPAN / 86_400;
            return Err(format!(
                "the timespans of the chain add up to more than {days}d, as long as signals are kept"
            ));
        }
        let chain = Chain { length: length + 1, before: longest };
        if let Some(known) = known.get_mut(index) {
            *known = Some(chain);
        }
        Ok(chain)
    }

    /// The correlations that feed number `outer`, and how.
    fn consumed(&self, outer: usize) -> Vec<(usize, Consumer)> {
        let Some(rule) = self.rule(outer) else { return Vec::new() };
        let mut consumed = Vec::new();
        for (position, reference) in rule.rules.iter().enumerate() {
            let Some(Named::Correlation(at)) = self.named(reference) else { continue };
            let Some(inner) = self.rule(at) else { continue };
            let places = |names: &[String]| -> Vec<usize> {
                names.iter().filter_map(|name| place(rule, name, reference, inner)).collect()
            };
            let value = match &rule.kind {
                Kind::ValueCount(fields) => places(fields),
                _ => Vec::new(),
            };
            let group = places(&rule.group_by);
            consumed.push((at, Consumer { outer, rule: position, group, value }));
        }
        consumed
    }

    /// Ends of the chains that number `index` is counted for; `found` are those of other numbers so far.
    ///
    /// # Errors
    /// The root that is reached by two ways with different group values.
    fn roots(&self, index: usize, links: &[Link], found: &mut [Option<Roots>]) -> Result<Roots, usize> {
        if let Some(roots) = found.get(index).and_then(Option::as_ref) {
            return Ok(roots.clone());
        }
        let consumers = links.get(index).map_or(&[][..], |link| &link.consumers);
        let generates = |consumer: &Consumer| self.rule(consumer.outer).is_some_and(|outer| outer.generate);
        let mut roots = Roots::new();
        if consumers.iter().all(generates) {
            let own = self.rule(index).map_or(0, |rule| rule.group_by.len());
            roots.push((index, (0..own).collect()));
        }
        for consumer in consumers {
            for (root, group) in self.roots(consumer.outer, links, found)? {
                let group: Vec<usize> =
                    group.iter().filter_map(|&at| consumer.group.get(at).copied()).collect();
                match roots.iter().find(|(known, _)| *known == root) {
                    None => roots.push((root, group)),
                    Some((_, known)) if *known == group => {}
                    Some(_) => return Err(root),
                }
            }
        }
        if let Some(found) = found.get_mut(index) {
            *found = Some(roots.clone());
        }
        Ok(roots)
    }
}

fn names<'a>(correlations: &'a [Placed], detections: &'a [Detection], origins: &'a Origins) -> Names<'a> {
    let correlations = correlations.iter().map(|(_, _, rule)| &rule.meta);
    Names::new(detections.iter().map(|rule| &rule.meta), correlations, origins)
}

/// Makes aliases call a rule as their correlation does, which may be by its id where they say its name.
fn name_alike(correlations: &mut [Placed], detections: &[Detection], origins: &Origins) {
    let names = names(correlations, detections, origins);
    let alike = |rule: &Correlation| {
        let called: AHashMap<&str, &String> =
            rule.rules.iter().filter_map(|reference| Some((names.id(reference)?, reference))).collect();
        let each = rule.aliases.iter().map(|(_, of, _)| match names.id(of).and_then(|id| called.get(id)) {
            Some(reference) => String::clone(reference),
            None => of.clone(),
        });
        each.collect::<Vec<String>>()
    };
    let all: Vec<Vec<String>> = correlations.iter().map(|(_, _, rule)| alike(rule)).collect();
    for ((_, _, rule), alike) in correlations.iter_mut().zip(all) {
        rule.aliases.iter_mut().zip(alike).for_each(|((_, of, _), alike)| *of = alike);
    }
}

/// Whether each alias is of rules of the correlation, of each once.
fn check_aliases(rule: &Correlation) -> Result<(), String> {
    let rules: AHashSet<&String> = rule.rules.iter().collect();
    let mut seen = AHashSet::new();
    for (alias, of, _) in &rule.aliases {
        if !rules.contains(of) {
            return Err(format!(
                "the alias '{alias}' names '{of}', which is none of the correlation's rules"
            ));
        }
        if !seen.insert((alias, of)) {
            return Err(format!(
                "the alias '{alias}' names the rule '{of}' twice, by its id and by its name"
            ));
        }
    }
    Ok(())
}

fn built_upon_refused(reference: &str) -> String {
    format!("the correlation builds upon '{reference}', which was refused")
}

/// Place of what `outer` calls `name` among the group values of `inner`.
fn place(outer: &Correlation, name: &str, reference: &str, inner: &Correlation) -> Option<usize> {
    let name = outer.name_in(name, reference);
    inner.group_by.iter().position(|held| held == name)
}

/// Whether `outer` can build upon `inner`.
fn fits(outer: &Correlation, reference: &str, inner: &Correlation) -> Result<(), String> {
    if inner.condition.waits() {
        return Err(format!(
            "'{reference}' is decided only when its window is over, for it has an upper bound: nothing can build upon it"
        ));
    }
    let fields = match &outer.kind {
        Kind::ValueCount(fields) => fields.as_slice(),
        _ => &[],
    };
    let named =
        outer.group_by.iter().map(|name| ("group-by", name)).chain(fields.iter().map(|name| ("field", name)));
    for (what, name) in named {
        if place(outer, name, reference, inner).is_none() {
            return Err(format!(
                "'{name}' of its {what} is not in the group-by of '{reference}', the correlation it builds upon"
            ));
        }
    }
    Ok(())
}
