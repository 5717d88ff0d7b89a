//! Whether every identity is there once, and as many rows as the ledger says: for each stretch of raw offsets the
//! identities seen, as a bitmap, for as long as it is not complete.
//!
//! Rows of a transaction lie together, so a stretch is complete soon after its first row was seen, and then only its count is
//! kept: a row that comes later is one too many. What is held is thus little, however many rows there are; and where it
//! would be more than a limit, stretches are put off to another pass.

use std::ops::Range;

use ahash::AHashSet;

use super::ledger::{Partition, Stretch};

/// Bytes of bitmap that may be spent on a row expected, before a set is used instead.
const DENSE_BYTES_PER_ROW: i64 = 16;
/// Bits of the largest ordinal that a bitmap is used for.
const MAX_WIDTH: u32 = 20;
/// Bytes that a set needs for an identity, its empty places included.
const SET_BYTES: usize = 18;
const TIMED_BYTES: usize = 48;

/// A row, as far as its identity goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Row {
    pub(super) kpart: i32,
    pub(super) kindex: i32,
    pub(super) koffset: i64,
    pub(super) time: i64,
    pub(super) received_at: i64,
}

/// Identities seen.
#[derive(Debug)]
enum Seen {
    /// A bit for each; 1 << width of them for a raw offset.
    Bits { width: u32, words: Vec<u64> },
    /// Where raw offsets or ordinals are few and far between: offset and ordinal.
    Set(AHashSet<(u32, u32)>),
    /// Where more than one raw topic had these offsets: with the time of receipt, which tells their rows apart.
    Timed(AHashSet<(i64, i32, i64)>),
    /// All there, and each once.
    Complete,
    /// For another pass: there is no room.
    PutOff,
}

/// A stretch of raw offsets, or several that overlap.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) sources: Range<i64>,
    /// Which stretches, as places in [`Cells::order`].
    members: Range<usize>,
    /// Rows that the ledger says were stored.
    pub(super) stored: i64,
    /// Rows found, whatever they are.
    pub(super) found: i64,
    /// Rows seen in this pass.
    passed: i64,
    /// Rows whose identity was there before.
    pub(super) doubled: i64,
    seen: Seen,
}

/// The cells of a stream's partition.
#[derive(Debug)]
pub(super) struct Cells {
    cells: Vec<Cell>,
    /// Places of the stretches, by their first raw offset.
    order: Vec<usize>,
    recent: usize,
    width: u32,
    /// Whether a cell is complete once all that was stored is there. Not for findings: scans are stored too.
    counted: bool,
    /// Ours of what all cells hold.
    pub(super) bytes: usize,
}

/// What a row turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// One that is expected, or is to be judged in another pass.
    Fine,
    /// Its identity was there before.
    Doubled,
    /// The ledger knows nothing of its raw offset.
    Outside,
}

impl Cells {
    pub(super) fn new(partition: &Partition, counted: bool) -> Self {
        let stretches = &partition.stretches;
        let of = |place: &usize| stretches.get(*place).map_or(0..0, |stretch| stretch.sources.clone());
        let mut order: Vec<usize> =
            (0..stretches.len()).filter(|place| !Range::is_empty(&of(place))).collect();
        order.sort_by_key(|place| of(place).start);
        let mut cells: Vec<Cell> = Vec::with_capacity(order.len());
        for (at, place) in order.iter().enumerate() {
            let Some(Stretch { sources, sums, .. }) = stretches.get(*place) else { continue };
            match cells.last_mut().filter(|last| last.sources.end > sources.start) {
                Some(last) => {
                    last.sources.end = last.sources.end.max(sources.end);
                    last.members.end = at + 1;
                    last.stored += sums.stored;
                    last.seen = Seen::Timed(AHashSet::new());
                }
                None => cells.push(Cell {
                    sources: sources.clone(),
                    members: at..at + 1,
                    stored: sums.stored,
                    found: 0,
                    passed: 0,
                    doubled: 0,
                    seen: Seen::Bits { width: 0, words: Vec::new() },
                }),
            }
        }
        Self { cells, order, recent: 0, width: 0, counted, bytes: 0 }
    }

    /// Takes a row into account. `held` is what all cells of all partitions hold, `limit` what they may; `first` whether
    /// this is the first pass.
    pub(super) fn see(&mut self, row: &Row, held: usize, limit: usize, first: bool) -> Verdict {
        let Some(cell) = find(&mut self.cells, &mut self.recent, row.koffset) else {
            return Verdict::Outside;
        };
        cell.found += i64::from(first);
        cell.passed += 1;
        let before = cell.bytes();
        let is_new = cell.insert(row, &mut self.width);
        cell.doubled += i64::from(is_new == Some(false));
        let others = held.saturating_sub(before);
        let all = if first { cell.stored } else { cell.found };
        let mut verdict = if is_new == Some(false) { Verdict::Doubled } else { Verdict::Fine };
        if is_new.is_some() && cell.passed == all && (self.counted || !first) {
            cell.seen = Seen::Complete;
        } else if others > 0 && cell.bytes() > before && others + cell.bytes() > limit {
            // One alone may hold what it needs, so every pass gets on. What is doubled is found in the other pass, once.
            cell.seen = Seen::PutOff;
            cell.doubled = 0;
            verdict = Verdict::Fine;
        }
        self.bytes = self.bytes.saturating_sub(before) + cell.bytes();
        verdict
    }

    /// Forgets what was seen and opens the cells that were put off; false when there are none.
    pub(super) fn next_pass(&mut self) -> bool {
        let mut any = false;
        self.bytes = 0;
        for cell in &mut self.cells {
            cell.passed = 0;
            if matches!(cell.seen, Seen::PutOff) {
                any = true;
                let timed = cell.members.len() > 1;
                cell.seen = if timed {
                    Seen::Timed(AHashSet::new())
                } else {
                    Seen::Bits { width: 0, words: Vec::new() }
                };
            } else {
                cell.seen = Seen::Complete;
            }
        }
        any
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Cell> {
        self.cells.iter()
    }

    /// Writes into the stretches how many rows were found of each. Of those that share a cell, whatever is missing is
    /// missing from the last.
    pub(super) fn settle(&self, partition: &mut Partition) {
        for cell in &self.cells {
            let mut left = cell.found;
            let members = self.order.get(cell.members.clone()).unwrap_or_default();
            for (at, place) in members.iter().enumerate() {
                let Some(stretch) = partition.stretches.get_mut(*place) else { continue };
                let is_last = at + 1 == members.len();
                stretch.present.rows = if is_last { left } else { left.min(stretch.sums.stored) };
                left -= stretch.present.rows;
            }
        }
    }
}

fn find<'c>(cells: &'c mut [Cell], recent: &mut usize, koffset: i64) -> Option<&'c mut Cell> {
    if !cells.get(*recent).is_some_and(|cell| cell.sources.contains(&koffset)) {
        *recent = cells.partition_point(|cell| cell.sources.end <= koffset);
    }
    cells.get_mut(*recent).filter(|cell| cell.sources.contains(&koffset))
}

impl Cell {
    /// Whether rows of more than one raw topic are in here.
    pub(super) fn is_shared(&self) -> bool {
        self.members.len() > 1
    }

    fn bytes(&self) -> usize {
        match &self.seen {
            Seen::Bits { words, .. } => words.len() * size_of::<u64>(),
            Seen::Set(set) => set.len() * SET_BYTES,
            Seen::Timed(set) => set.len() * TIMED_BYTES,
            Seen::Complete | Seen::PutOff => 0,
        }
    }

    /// Whether the row's identity is new; none where nobody asks any more. `width` is what the last cell needed.
    fn insert(&mut self, row: &Row, width: &mut u32) -> Option<bool> {
        let relative = u64::try_from(row.koffset.saturating_sub(self.sources.start)).unwrap_or(0);
        loop {
            match &mut self.seen {
                Seen::Bits { width: own, words } => {
                    if words.is_empty() {
                        *own = *width;
                    }
                    let needed = u32::BITS - row.kindex.cast_unsigned().leading_zeros();
                    let fits = needed <= MAX_WIDTH && relative >> (63 - MAX_WIDTH) == 0;
                    if fits && needed <= *own {
                        let bit = relative << *own | u64::from(row.kindex.cast_unsigned());
                        if let Some(is_new) = set(words, bit, self.stored) {
                            return Some(is_new);
                        }
                    } else if fits {
                        self.seen = widened(*own, words, needed, self.stored);
                        if matches!(self.seen, Seen::Bits { .. }) {
                            *width = needed;
                        }
                        continue;
                    }
                    self.seen = Seen::Set(to_set(*own, words));
                }
                Seen::Set(set) => {
                    let Ok(relative) = u32::try_from(relative) else {
                        let timed = set.iter().map(|(offset, index)| {
                            (self.sources.start + i64::from(*offset), index.cast_signed(), 0)
                        });
                        self.seen = Seen::Timed(timed.collect());
                        continue;
                    };
                    return Some(set.insert((relative, row.kindex.cast_unsigned())));
                }
                Seen::Timed(set) => {
                    // Alone, an offset needs no time to tell its rows apart.
                    let received_at = if self.members.len() > 1 { row.received_at } else { 0 };
                    return Some(set.insert((row.koffset, row.kindex, received_at)));
                }
                Seen::Complete | Seen::PutOff => return None,
            }
        }
    }
}

fn limit(stored: i64) -> u64 {
    u64::try_from(stored.saturating_mul(DENSE_BYTES_PER_ROW)).unwrap_or(0).max(4096)
}

/// Sets a bit; whether it was not set. None where the bitmap would be too large for so few rows.
fn set(words: &mut Vec<u64>, bit: u64, stored: i64) -> Option<bool> {
    let word = bit / 64;
    if word >= limit(stored) / 8 {
        return None;
    }
    let at = usize::try_from(word).ok()?;
    if at >= words.len() {
        words.resize(at + 1, 0);
    }
    let word = words.get_mut(at)?;
    let mask = 1 << (bit % 64);
    let is_new = *word & mask == 0;
    *word |= mask;
    Some(is_new)
}

/// The bits that are set, as offset and ordinal.
fn members(width: u32, words: &[u64]) -> impl Iterator<Item = (u64, u64)> {
    words.iter().zip(0u64..).flat_map(move |(word, at)| {
        (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| {
            let bit = at * 64 + bit;
            (bit >> width, bit & ((1 << width) - 1))
        })
    })
}

fn widened(width: u32, words: &[u64], needed: u32, stored: i64) -> Seen {
    let mut wider = Vec::new();
    for (offset, index) in members(width, words) {
        if set(&mut wider, offset << needed | index, stored).is_none() {
            return Seen::Set(to_set(width, words));
        }
    }
    Seen::Bits { width: needed, words: wider }
}

fn to_set(width: u32, words: &[u64]) -> AHashSet<(u32, u32)> {
    // Bitmaps are smaller than that.
    members(width, words).map(|(offset, index)| (offset as u32, index as u32)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::super::ledger::{Present, Sums};
    use super::*;

    fn stretch(sources: Range<i64>, stored: i64) -> Stretch {
        Stretch {
            generation: 0,
            committed_at: 0,
            offsets: sources.clone(),
            sources,
            sums: Sums { ranges: 1, received: stored, stored, ..Sums::default() },
            present: Present::default(),
        }
    }

    fn partition(stretches: Vec<Stretch>) -> Partition {
        Partition { place: "events/0".parse().unwrap(), position: None, accepted: Vec::new(), stretches }
    }

    fn row(koffset: i64, kindex: i32) -> Row {
        Row { kpart: 0, kindex, koffset, time: 0, received_at: 0 }
    }

    fn see(cells: &mut Cells, row: &Row) -> Verdict {
        cells.see(row, 0, usize::MAX, true)
    }

    #[test]
    fn a_row_that_is_there_twice_is_seen_whenever_it_comes() {
        let rows = [row(5, 0), row(5, 1), row(6, 0)];
        // While the cell is open, as the last of it, and with another missing instead.
        for order in [[0, 0, 1], [0, 1, 0], [1, 0, 0]] {
            let mut cells = Cells::new(&partition(vec![stretch(5..7, 3)]), true);
            let verdicts: Vec<Verdict> = order.iter().map(|at| see(&mut cells, &rows[*at])).collect();
            assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Doubled).count(), 1);
            let cell = cells.iter().next().unwrap();
            assert_eq!((cell.found, cell.stored, cell.doubled), (3, 3, 1));
        }
        // When it is complete: one too many.
        let mut cells = Cells::new(&partition(vec![stretch(5..7, 3)]), true);
        for at in [0, 1, 2, 1] {
            assert_eq!(see(&mut cells, &rows[at]), Verdict::Fine);
        }
        assert_eq!(cells.bytes, 0);
        assert_eq!(cells.iter().next().unwrap().found, 4);
    }

    #[test]
    fn a_row_without_a_range_is_outside() {
        let mut cells = Cells::new(&partition(vec![stretch(5..7, 3), stretch(9..10, 1)]), true);
        for (koffset, verdict) in [
            (4, Verdict::Outside),
            (5, Verdict::Fine),
            (7, Verdict::Outside),
            (9, Verdict::Fine),
            (10, Verdict::Outside),
        ] {
            assert_eq!(see(&mut cells, &row(koffset, 0)), verdict, "{koffset}");
        }
    }

    #[test]
    fn offsets_that_two_topics_had_are_told_apart_by_the_time_of_receipt() {
        let stretches = vec![stretch(0..10, 2), stretch(0..4, 1), stretch(10..12, 1)];
        let mut partition = partition(stretches);
        let mut cells = Cells::new(&partition, true);
        let of = |received_at| Row { received_at, ..row(3, 0) };
        assert_eq!(see(&mut cells, &of(1)), Verdict::Fine);
        assert_eq!(see(&mut cells, &of(2)), Verdict::Fine);
        assert_eq!(see(&mut cells, &of(1)), Verdict::Doubled);
        assert_eq!(see(&mut cells, &row(11, 0)), Verdict::Fine);
        cells.settle(&mut partition);
        let rows: Vec<i64> = partition.stretches.iter().map(|stretch| stretch.present.rows).collect();
        assert_eq!(rows, [2, 1, 1]);
    }

    #[test]
    fn what_there_is_no_room_for_is_judged_in_another_pass() {
        let mut cells = Cells::new(&partition(vec![stretch(0..2, 3), stretch(2..4, 2)]), true);
        let rows = [row(0, 0), row(2, 0), row(0, 0), row(2, 0), row(1, 7)];
        let pass = |cells: &mut Cells, first| -> Vec<i64> {
            let doubled = |row: &&Row| {
                let held = cells.bytes;
                cells.see(row, held, 0, first) == Verdict::Doubled
            };
            rows.iter().filter(doubled).map(|row| row.koffset).collect()
        };
        assert_eq!(pass(&mut cells, true), [0]);
        assert!(cells.next_pass());
        assert_eq!(pass(&mut cells, false), [2]);
        assert_eq!(cells.iter().map(|cell| (cell.found, cell.doubled)).collect::<Vec<_>>(), [(3, 1), (2, 1)]);
        assert!(!cells.next_pass());
    }

    proptest! {
        #[test]
        fn identities_are_told_apart_however_they_are_spread(
            mut rows in prop::collection::vec((0i64..3000, prop_oneof![0i32..4, 0i32..600, any::<i32>()]), 1..300),
            doubled in any::<prop::sample::Index>(),
            stored in 0i64..1000,
            far in any::<bool>(),
        ) {
            if far {
                rows.push((5_000_000_000, 0));
            }
            rows.push(rows[doubled.index(rows.len())]);
            let span = if far { 6_000_000_000 } else { 3000 };
            let mut cells = Cells::new(&partition(vec![stretch(0..span, stored)]), false);
            let mut known = HashSet::new();
            for (koffset, kindex) in rows {
                let expected = if known.insert((koffset, kindex)) { Verdict::Fine } else { Verdict::Doubled };
                prop_assert_eq!(see(&mut cells, &row(koffset, kindex)), expected);
            }
        }
    }
}
