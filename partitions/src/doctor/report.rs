//! What was found.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use jiff::Timestamp;
use serde::Serialize;

use super::check::Check;
use super::ledger::{Ledger, Stretch};
use crate::place::{Place, Topic};
use crate::plan::Month;

/// Everything that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The moment that it is about.
    pub at: Timestamp,
    /// How long it took.
    pub seconds: f64,
    /// Whether all adds up.
    pub ok: bool,
    /// By partition.
    pub partitions: Vec<Line<Place>>,
    /// By month of the commit, over all partitions.
    pub months: Vec<Line<String>>,
    /// By partition and month.
    pub months_of_partitions: Vec<Line<(Place, String)>>,
    /// Rows counted whose month has no partition any more.
    pub gone: Vec<Gone>,
    /// Moves that operators have accepted.
    pub accepted: Vec<Accepted>,
    /// What was checked.
    pub checks: Vec<Check>,
}

/// The ledger's equation: received = rows + merged + open + redriven + duplicates + gone + missing, of which the last should
/// be zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line<K> {
    /// Of what.
    pub of: K,
    /// The numbers.
    #[serde(flatten)]
    pub sums: Equation,
}

/// The numbers of a [`Line`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Equation {
    /// Rows of the ledger.
    pub ranges: i64,
    /// Raw records, or incident changes, that came.
    pub received: i64,
    /// Rows of `events` or `findings` that are there.
    pub rows: i64,
    /// Merged into rows of `scans` or `incidents`. Of findings also what is gone.
    pub merged: i64,
    /// In quarantine.
    pub open: i64,
    /// In quarantine, and sent again.
    pub redriven: i64,
    /// Came again, and were dropped.
    pub duplicates: i64,
    /// In months that have been dropped.
    pub gone: i64,
    /// Unaccounted for; negative where there is too much.
    pub missing: i64,
}

impl AddAssign for Equation {
    fn add_assign(&mut self, other: Self) {
        self.ranges += other.ranges;
        self.received += other.received;
        self.rows += other.rows;
        self.merged += other.merged;
        self.open += other.open;
        self.redriven += other.redriven;
        self.duplicates += other.duplicates;
        self.gone += other.gone;
        self.missing += other.missing;
    }
}

/// Rows of months that have been dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gone {
    /// The table.
    pub table: &'static str,
    /// How many.
    pub rows: i64,
}

/// A move of a position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Accepted {
    /// Of which partition.
    pub partition: Place,
    /// `accepted_gap` or `accepted_new_topic`.
    pub action: String,
    /// By whom.
    pub actor: String,
    /// When.
    pub at: Timestamp,
    /// Next offset before and after.
    pub offsets: (i64, i64),
    /// Next raw offset before and after.
    pub sources: Option<(i64, i64)>,
}

/// What is not there but need not be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Excuses {
    /// Rows of events that are missing went with months that are gone.
    pub(super) events: bool,
    /// So did those of quarantine that were committed before.
    pub(super) quarantine_before: i64,
}

/// The lines of a ledger that has been settled.
pub(super) struct Lines {
    pub(super) partitions: Vec<Line<Place>>,
    pub(super) months: Vec<Line<String>>,
    pub(super) both: Vec<Line<(Place, String)>>,
}

impl Lines {
    pub(super) fn of(ledger: &Ledger, excuses: Excuses) -> Self {
        let (mut partitions, mut months, mut both) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (place, partition) in &ledger.partitions {
            if partition.stretches.is_empty() {
                continue;
            }
            for stretch in &partition.stretches {
                let sums = equation(*place, stretch, excuses);
                let month = Timestamp::from_microsecond(stretch.committed_at).unwrap_or(Timestamp::MAX);
                let month = Month::of(month);
                *partitions.entry(*place).or_insert(Equation::default()) += sums;
                *months.entry(month).or_insert(Equation::default()) += sums;
                *both.entry((*place, month)).or_insert(Equation::default()) += sums;
            }
        }
        let month = |month: Month| month.to_string().replace('_', "-");
        Self {
            partitions: partitions.into_iter().map(|(of, sums)| Line { of, sums }).collect(),
            months: months.into_iter().map(|(of, sums)| Line { of: month(of), sums }).collect(),
            both: both.into_iter().map(|((place, of), sums)| Line { of: (place, month(of)), sums }).collect(),
        }
    }
}

fn equation(place: Place, stretch: &Stretch, excuses: Excuses) -> Equation {
    let (sums, present) = (stretch.sums, stretch.present);
    let lack = sums.stored - present.rows;
    let is_events = place.topic == Topic::Stream(schemas::Stream::Events);
    let unstored = if is_events { lack } else { 0 };
    // Scans and incidents have no row for each of what they were made from.
    let merged = if is_events { 0 } else { lack.max(0) };
    let unquarantined = sums.quarantined - present.open - present.redriven;
    let gone_rows = if excuses.events { unstored.max(0) } else { 0 };
    let gone_quarantine =
        if stretch.committed_at < excuses.quarantine_before { unquarantined.max(0) } else { 0 };
    Equation {
        ranges: sums.ranges,
        received: sums.received,
        rows: present.rows,
        merged,
        open: present.open,
        redriven: present.redriven,
        duplicates: sums.duplicates,
        gone: gone_rows + gone_quarantine,
        missing: sums.received
            - present.rows
            - merged
            - present.open
            - present.redriven
            - sums.duplicates
            - gone_rows
            - gone_quarantine,
    }
}
