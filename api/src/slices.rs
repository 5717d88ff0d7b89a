//! A window of time cut into slices, newest first.
//!
//! `ORDER BY time DESC LIMIT n` over a BRIN index reads and sorts the whole window. Growing slices are read until the page
//! is full: a page of a busy org reads a second of events, that of a quiet one a few times next to nothing. Every query
//! goes through the whole index of a month (some 0.8 µs a range of 32 pages), so slices grow as fast as what they hold
//! allows.

use std::time::Duration;

use crate::time::Time;

/// A slice that takes longer is followed by smaller ones, so that no single query runs into its time limit.
const SLOW: Duration = Duration::from_millis(500);
const MAX_GROWTH: usize = 8;

/// What is left of a window.
#[derive(Debug, Clone)]
pub(crate) struct Slices {
    from: Time,
    to: Time,
    width_micros: i64,
}

/// The times `from..to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) from: Time,
    pub(crate) to: Time,
}

impl Slices {
    /// The window `from..to`.
    pub(crate) fn new(from: Time, to: Time) -> Self {
        Self { from, to, width_micros: Time::SECOND }
    }

    /// The next slice; the window's last one reaches to its beginning.
    pub(crate) fn next(&mut self) -> Option<Slice> {
        if self.to <= self.from {
            return None;
        }
        let from = self.to.plus(-self.width_micros).max(self.from);
        let slice = Slice { from, to: self.to };
        self.to = from;
        Some(slice)
    }

    /// Says what the last slice held of what was wanted, and how long that took. The next one is as much wider as what
    /// is left needs, twice to eight times; or half as wide, when this one took long.
    pub(crate) fn took(&mut self, time: Duration, found: usize, left: usize) {
        if time >= SLOW {
            self.width_micros = (self.width_micros / 2).max(Time::SECOND);
            return;
        }
        // A quarter more, since the past is seldom exactly like the present.
        let factor = (left + left / 4).checked_div(found).map_or(MAX_GROWTH, |factor| factor + 1);
        let factor = i64::try_from(factor.clamp(2, MAX_GROWTH)).unwrap_or(2);
        self.width_micros = self.width_micros.saturating_mul(factor);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn widths(found: usize, left: usize, time: Duration) -> Vec<i64> {
        let mut slices = Slices::new(Time(0), Time(183 * 86_400 * Time::SECOND));
        let mut widths = Vec::new();
        while let Some(slice) = slices.next()
            && widths.len() < 40
        {
            widths.push((slice.to.0 - slice.from.0) / Time::SECOND);
            slices.took(time, found, left);
        }
        widths
    }

    #[test]
    fn slices_grow_as_what_is_left_needs() {
        let fast = Duration::from_millis(5);
        assert_eq!(widths(0, 100, fast)[..4], [1, 8, 64, 512]);
        assert_eq!(widths(90, 10, fast)[..4], [1, 2, 4, 8]);
        assert_eq!(widths(25, 80, fast)[..3], [1, 5, 25]);
        assert_eq!(widths(0, 100, SLOW)[..4], [1, 1, 1, 1]);
        assert_eq!(widths(0, 100, fast).len(), 9, "half a year without an event");
        assert_eq!(widths(1, usize::MAX / 2, fast)[..2], [1, 8]);
    }

    proptest! {
        #[test]
        fn slices_cover_the_window_once_whatever_they_take(
            from in -4_000_000_000_000_000_i64..4_000_000_000_000_000,
            length in 0_i64..20_000_000_000,
            slow in proptest::collection::vec(any::<bool>(), 1..64),
        ) {
            let (from, to) = (Time(from), Time(from + length));
            let mut slices = Slices::new(from, to);
            let mut reached = to;
            let mut slow = slow.into_iter().cycle();
            // Always slow would be a second each; one in 64 fast is enough to end.
            for _ in 0..100_000 {
                let Some(slice) = slices.next() else { break };
                prop_assert_eq!(slice.to, reached);
                prop_assert!(slice.from < slice.to);
                reached = slice.from;
                slices.took(if slow.next() == Some(true) { SLOW } else { Duration::ZERO }, 90, 10);
            }
            prop_assert_eq!(reached, if length == 0 { to } else { from });
        }
    }
}
