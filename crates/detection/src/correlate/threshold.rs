//! What a correlation asks for, as its windows need it.

use super::measure::Measure;
use super::{ALLOWED_LATENESS, EVIDENCE_EACH_END};
use crate::link::Link;
use crate::rule::{Condition, Correlation, Kind};

/// Events that a group keeps for each that its threshold asks for, before repeated values are thinned out.
const HELD_FOR_EACH: usize = 4;
/// The same, whatever the threshold.
const HELD_AT_LEAST: usize = 1_024;

/// What a correlation asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Threshold {
    /// Microseconds.
    pub timespan: i64,
    /// What is counted.
    pub measure: Measure,
    /// Counts that make an incident.
    pub condition: Condition,
    /// How far behind the newest event of its group one may be to be taken in, microseconds.
    pub horizon: i64,
    /// How many rules are told apart, where rules are what is counted; else 0.
    pub rules: usize,
    /// Marks an episode keeps at each end.
    pub keep: usize,
    /// Events outside of episodes past which repeated values are thinned out.
    pub capacity: usize,
    /// Its matches feed another correlation.
    pub chained: bool,
}

impl Threshold {
    pub(super) fn of(rule: &Correlation, link: &Link) -> Self {
        let measure = match rule.kind {
            Kind::EventCount if !link.of_correlations => Measure::Weight,
            Kind::EventCount | Kind::ValueCount(_) | Kind::Temporal => Measure::Distinct,
            Kind::TemporalOrdered => Measure::Sequence(rule.rules.len() as u64),
        };
        let least = usize::try_from(rule.condition.least).unwrap_or(usize::MAX);
        let rules = match rule.kind {
            Kind::EventCount | Kind::ValueCount(_) => 0,
            Kind::Temporal | Kind::TemporalOrdered => rule.rules.len(),
        };
        let horizon = rule.timespan.saturating_add(link.before).saturating_add(ALLOWED_LATENESS);
        // Fewer than the threshold fit into each timespan.
        let spans = usize::try_from(horizon / rule.timespan.max(1)).unwrap_or(usize::MAX).saturating_add(2);
        Self {
            timespan: rule.timespan,
            measure,
            condition: rule.condition,
            horizon,
            rules,
            keep: match measure {
                Measure::Weight => least.max(EVIDENCE_EACH_END),
                // An event may be there for each of several rules: so many more marks make the same number of events.
                Measure::Distinct if rules == 0 => EVIDENCE_EACH_END.saturating_mul(rule.rules.len()),
                // Where the ends are cut, those of one event are put in another order.
                Measure::Distinct | Measure::Sequence(_) => EVIDENCE_EACH_END.saturating_add(rules),
            },
            capacity: least.saturating_mul(HELD_FOR_EACH).saturating_mul(spans).saturating_add(HELD_AT_LEAST),
            chained: !link.consumers.is_empty(),
        }
    }

    /// Whether it is decided only when no event can come any more.
    pub(super) fn waits(&self) -> bool {
        self.condition.waits()
    }

    /// Whether an episode keeps all events that one which is still awaited may share a window with.
    pub(super) fn keeps_recent(&self) -> bool {
        self.waits() || matches!(self.measure, Measure::Sequence(_))
    }

    /// Whether an episode keeps more than its two ends.
    pub(super) fn needs_more(&self) -> bool {
        self.measure != Measure::Weight || self.waits() || self.chained
    }

    /// Distinct values of which an episode keeps the first and last events: those that make a window count enough, and of
    /// rules all.
    pub(super) fn distinct(&self) -> usize {
        usize::try_from(self.condition.least).unwrap_or(usize::MAX).max(self.rules)
    }
}
