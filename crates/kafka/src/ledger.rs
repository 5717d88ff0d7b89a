//! Offsets of one partition that are safe to store.

use std::collections::BTreeMap;

/// The end of the contiguous prefix of finished records of one partition, whatever order they finish in.
///
/// A record occupies the positions from the reader's before it to the reader's after it
/// ([`Record::position_before`](crate::Record::position_before), [`position_after`](crate::Record::position_after)), so
/// that holes left by control records and compaction need no bookkeeping of their own. Pure; memory is that of the
/// records finished ahead of an unfinished one, see [`Ledger::ahead`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    next: i64,
    /// Finished ahead of `next`: from → to, disjoint.
    finished: BTreeMap<i64, i64>,
}

/// A record reaches back over something finished already, or ends before it begins: its partition was read twice
/// without a new ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("positions {from}..{to} do not fit, everything before {next} is finished")]
pub struct Overlap {
    /// The record's first position.
    pub from: i64,
    /// The position after it.
    pub to: i64,
    /// The ledger's.
    pub next: i64,
}

impl Ledger {
    /// Nothing is finished from this offset on.
    pub fn start(next: i64) -> Self {
        Self { next, finished: BTreeMap::new() }
    }

    /// The offset that is safe to store: everything before it is finished.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// Records finished ahead of one that is not. Who bounds the records in flight bounds this.
    pub fn ahead(&self) -> usize {
        self.finished.len()
    }

    /// The record that took the reader from `from` to `to` is finished. Returns [`next`](Self::next) as it is now.
    ///
    /// # Errors
    /// The positions overlap finished ones; nothing has changed then.
    pub fn finish(&mut self, from: i64, to: i64) -> Result<i64, Overlap> {
        let before = self.finished.range(..to).next_back();
        if from >= to || from < self.next || before.is_some_and(|(_, end)| *end > from) {
            return Err(Overlap { from, to, next: self.next });
        }
        if from > self.next {
            self.finished.insert(from, to);
            return Ok(self.next);
        }
        self.next = to;
        while let Some(to) = self.finished.remove(&self.next) {
            self.next = to;
        }
        Ok(self.next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Records as a reader meets them: each with the hole before it, in an order of finishing.
    fn records() -> impl Strategy<Value = (i64, Vec<(i64, i64)>, Vec<usize>)> {
        (0..1_000_i64, vec(0..4_i64, 1..60)).prop_flat_map(|(start, holes)| {
            let mut position = start;
            let chain: Vec<_> = holes
                .iter()
                .map(|hole| {
                    let from = position;
                    position += hole + 1;
                    (from, position)
                })
                .collect();
            let order = Just((0..chain.len()).collect::<Vec<_>>()).prop_shuffle();
            (Just(start), Just(chain), order)
        })
    }

    proptest! {
        #[test]
        fn next_is_the_end_of_the_finished_prefix((start, chain, order) in records()) {
            let mut ledger = Ledger::start(start);
            let mut finished = vec![false; chain.len()];
            for index in order {
                let (from, to) = chain[index];
                let next = ledger.finish(from, to).unwrap();
                finished[index] = true;
                let prefix = finished.iter().take_while(|done| **done).count();
                let expected = if prefix == 0 { start } else { chain[prefix - 1].1 };
                prop_assert_eq!(next, expected);
                prop_assert_eq!(ledger.next(), expected);
                let ahead = finished.iter().skip(prefix).filter(|done| **done).count();
                prop_assert_eq!(ledger.ahead(), ahead);
            }
            prop_assert_eq!(ledger.ahead(), 0);
        }

        #[test]
        fn next_never_goes_back_and_a_record_finishes_once((start, chain, order) in records()) {
            let mut ledger = Ledger::start(start);
            let mut last = start;
            for index in order {
                let (from, to) = chain[index];
                last = ledger.finish(from, to).unwrap().max(last);
                let unchanged = ledger.clone();
                prop_assert!(ledger.finish(from, to).is_err());
                prop_assert_eq!(&ledger, &unchanged);
                prop_assert_eq!(ledger.next(), last);
            }
        }
    }

    #[test]
    fn positions_that_overlap_finished_ones_are_refused() {
        let mut ledger = Ledger::start(10);
        assert_eq!(ledger.finish(12, 14), Ok(10));
        for (from, to) in [(9, 11), (12, 13), (13, 15), (11, 13), (11, 20), (11, 11), (12, 11)] {
            assert_eq!(ledger.finish(from, to), Err(Overlap { from, to, next: 10 }), "{from}..{to}");
        }
        assert_eq!(ledger.finish(10, 12), Ok(14));
        assert_eq!(ledger.finish(14, 15), Ok(15));
    }
}
