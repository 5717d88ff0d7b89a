//! Which rule a reference means.

use ahash::AHashMap;

use crate::rule::Meta;

/// A rule, by its place among those of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    Detection(usize),
    Correlation(usize),
}

/// Rules by id and by name; of several with the same the first has it, and detections stand before correlations.
#[derive(Debug)]
pub(crate) struct Names<'a>(AHashMap<&'a str, (Named, &'a Meta)>);

impl<'a> Names<'a> {
    pub(crate) fn new(
        detections: impl Iterator<Item = &'a Meta>,
        correlations: impl Iterator<Item = &'a Meta>,
    ) -> Self {
        let detections = detections.enumerate().map(|(at, meta)| (Named::Detection(at), meta));
        let correlations = correlations.enumerate().map(|(at, meta)| (Named::Correlation(at), meta));
        let mut names = AHashMap::new();
        for (named, meta) in detections.chain(correlations) {
            for name in [Some(&meta.id), meta.name.as_ref()].into_iter().flatten() {
                names.entry(name.as_str()).or_insert((named, meta));
            }
        }
        Self(names)
    }

    pub(crate) fn get(&self, reference: &str) -> Option<Named> {
        self.0.get(reference).map(|(named, _)| *named)
    }

    /// The id of the rule that is meant.
    pub(crate) fn id(&self, reference: &str) -> Option<&'a str> {
        self.0.get(reference).map(|(_, meta)| meta.id.as_str())
    }
}
