//! Which rule a reference means.

use ahash::AHashMap;

use crate::load::Source;
use crate::rule::Meta;

/// A rule, by its place among those of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    Detection(usize),
    Correlation(usize),
}

/// Where rules came from, by id.
pub(crate) type Origins = AHashMap<String, Source>;

/// Rules by id and by name. What two of them are called means none.
#[derive(Debug)]
pub(crate) struct Names<'a> {
    rules: AHashMap<&'a str, (Named, &'a Meta)>,
    /// Of names that are not unique the first two rules.
    doubled: AHashMap<&'a str, [&'a Meta; 2]>,
    origins: &'a Origins,
}

impl<'a> Names<'a> {
    pub(crate) fn new(
        detections: impl Iterator<Item = &'a Meta>,
        correlations: impl Iterator<Item = &'a Meta>,
        origins: &'a Origins,
    ) -> Self {
        let detections = detections.enumerate().map(|(at, meta)| (Named::Detection(at), meta));
        let correlations = correlations.enumerate().map(|(at, meta)| (Named::Correlation(at), meta));
        let mut rules: AHashMap<&str, (Named, &Meta)> = AHashMap::new();
        let mut doubled = AHashMap::new();
        for (named, meta) in detections.chain(correlations) {
            for name in [Some(&meta.id), meta.name.as_ref()].into_iter().flatten() {
                let (_, first) = rules.entry(name).or_insert((named, meta));
                if first.id != meta.id {
                    doubled.entry(name.as_str()).or_insert([*first, meta]);
                }
            }
        }
        Self { rules, doubled, origins }
    }

    pub(crate) fn get(&self, reference: &str) -> Option<Named> {
        self.rule(reference).map(|(named, _)| *named)
    }

    /// The id of the rule that is meant.
    pub(crate) fn id(&self, reference: &str) -> Option<&'a str> {
        self.rule(reference).map(|(_, meta)| meta.id.as_str())
    }

    fn rule(&self, reference: &str) -> Option<&(Named, &'a Meta)> {
        self.rules.get(reference).filter(|_| !self.doubled.contains_key(reference))
    }

    /// Why no rule is meant; goes on from the reference.
    pub(crate) fn why_not(&self, reference: &str) -> String {
        let Some(two) = self.doubled.get(reference) else { return "which is not there".to_owned() };
        let [first, second] = two.map(|meta| match self.origins.get(&meta.id) {
            Some(source) => format!("{}:{}", source.path.display(), source.line),
            None => meta.id.clone(),
        });
        format!("which two rules are called, at {first} and at {second}: a name is to be unique")
    }
}
