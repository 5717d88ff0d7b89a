//! What is counted in a window, and which windows count enough.

use ahash::AHashMap;

use super::mark::Mark;

/// How the events in a window are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// By their weight.
    Weight,
    /// By how many distinct values they have.
    Distinct,
    /// As steps of a sequence: an event of each value from 0 on, each not before the one of the value before. So many
    /// make it whole.
    Sequence(u64),
}

/// The windows around an event that count enough, taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Windows {
    /// Time of the first event in any of them.
    pub from: i64,
    /// Time of the last one.
    pub to: i64,
    /// Time of the event with which the first of them counts enough.
    pub fires: i64,
}

impl Measure {
    /// Puts marks in the order that [`Measure::windows`] asks for.
    pub(super) fn sort(self, marks: &mut Vec<&Mark>) {
        match self {
            // Of events of the same time any may come first: they count as in order.
            Self::Sequence(_) => marks.sort_unstable_by_key(|mark| (mark.time, mark.value, mark.place)),
            Self::Weight | Self::Distinct => {
                marks.sort_unstable_by_key(|mark| (mark.time, mark.place, mark.value));
            }
        }
        marks.dedup_by_key(|mark| mark.identity());
    }

    /// Windows `timespan` long that hold `at` and count `least` or more; `near` are the events at most a timespan from
    /// it, in order.
    pub(super) fn windows(self, near: &[&Mark], at: i64, timespan: i64, least: i64) -> Option<Windows> {
        match self {
            Self::Weight => slide(near, at, timespan, &mut Weights::default(), least),
            Self::Distinct => slide(near, at, timespan, &mut Values::default(), least),
            Self::Sequence(steps) => sequence(near, at, timespan, steps),
        }
    }

    /// The most that a window `timespan` long that holds `at` counts.
    pub(super) fn most(self, near: &[&Mark], at: i64, timespan: i64) -> i64 {
        let mut most = 0;
        let mut each = |_: &Mark, end: i64, count: i64| {
            if end >= at {
                most = most.max(count);
            }
        };
        match self {
            Self::Weight => scan(near, at, timespan, &mut Weights::default(), &mut each),
            Self::Distinct | Self::Sequence(_) => {
                scan(near, at, timespan, &mut Values::default(), &mut each);
            }
        }
        most
    }
}

/// A count that events enter and leave.
trait Count {
    fn enter(&mut self, mark: &Mark);
    fn leave(&mut self, mark: &Mark);
    fn count(&self) -> i64;
}

#[derive(Default)]
struct Weights(i64);

impl Count for Weights {
    fn enter(&mut self, mark: &Mark) {
        self.0 = self.0.saturating_add(i64::from(mark.weight));
    }
    fn leave(&mut self, mark: &Mark) {
        self.0 = self.0.saturating_sub(i64::from(mark.weight));
    }
    fn count(&self) -> i64 {
        self.0
    }
}

#[derive(Default)]
struct Values(AHashMap<u64, u32>);

impl Count for Values {
    fn enter(&mut self, mark: &Mark) {
        *self.0.entry(mark.value).or_default() += 1;
    }
    fn leave(&mut self, mark: &Mark) {
        if let Some(count) = self.0.get_mut(&mark.value) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&mark.value);
            }
        }
    }
    fn count(&self) -> i64 {
        i64::try_from(self.0.len()).unwrap_or(i64::MAX)
    }
}

/// Calls `each` with the first event of every widest window that begins at `at` or before, the time of its last event,
/// and its count.
fn scan<C: Count>(
    near: &[&Mark],
    at: i64,
    timespan: i64,
    count: &mut C,
    each: &mut dyn FnMut(&Mark, i64, i64),
) {
    let mut right = 0;
    let mut end = i64::MIN;
    for first in near {
        if first.time > at {
            break;
        }
        let reach = first.time.saturating_add(timespan);
        while let Some(next) = near.get(right).filter(|next| next.time <= reach) {
            count.enter(next);
            end = next.time;
            right += 1;
        }
        each(first, end, count.count());
        count.leave(first);
    }
}

fn slide<C: Count + Default>(
    near: &[&Mark],
    at: i64,
    timespan: i64,
    count: &mut C,
    least: i64,
) -> Option<Windows> {
    let mut hull: Option<(i64, i64)> = None;
    scan(near, at, timespan, count, &mut |first, end, count| {
        if end >= at && count >= least {
            hull = Some(hull.map_or((first.time, end), |(from, to)| (from, to.max(end))));
        }
    });
    let (from, to) = hull?;
    let mut count = C::default();
    let fires = near.iter().filter(|mark| mark.time >= from).find_map(|mark| {
        count.enter(mark);
        (count.count() >= least).then_some(mark.time)
    });
    Some(Windows { from, to, fires: fires.unwrap_or(to) })
}

fn sequence(near: &[&Mark], at: i64, timespan: i64, steps: u64) -> Option<Windows> {
    // When the rest of the sequence, from each step on, is whole at the earliest.
    let mut whole = vec![i64::MAX; usize::try_from(steps).ok()?];
    let mut found: Option<Windows> = None;
    for (index, mark) in near.iter().enumerate().rev() {
        let step = usize::try_from(mark.value).ok()?;
        let rest = if mark.value + 1 == steps { Some(mark.time) } else { whole.get(step + 1).copied() };
        if let (Some(rest), Some(held)) = (rest, whole.get_mut(step)) {
            *held = (*held).min(rest);
        }
        let reach = mark.time.saturating_add(timespan);
        let fires = whole.first().copied().unwrap_or(i64::MAX);
        if mark.time > at || fires > reach || reach < at {
            continue;
        }
        let last = near.get(index..).unwrap_or_default().partition_point(|other| other.time <= reach);
        let end = near.get(index + last.saturating_sub(1)).map_or(mark.time, |last| last.time);
        if end >= at {
            let to = found.map_or(end, |windows| windows.to.max(end));
            found = Some(Windows { from: mark.time, to, fires });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use schemas::Stream;

    use super::super::mark::Place;
    use super::*;

    fn marks(all: &[(i64, u64)]) -> Vec<Mark> {
        let place = |index| Place { stream: Stream::Events, partition: 0, offset: 0, index };
        let mark = |(index, &(time, value))| Mark { time, place: place(index), value, uid: 0, weight: 1 };
        (0..).zip(all).map(mark).collect()
    }

    #[rstest]
    #[case(Measure::Distinct, &[(0, 1), (1, 1), (2, 2)], 2, 2, Some((0, 2, 2)))]
    #[case(Measure::Distinct, &[(0, 1), (1, 1), (2, 1)], 2, 2, None)]
    #[case(Measure::Distinct, &[(0, 1), (1, 2), (5, 2), (11, 3)], 5, 2, Some((0, 11, 1)))]
    #[case(Measure::Sequence(2), &[(0, 0), (1, 1)], 1, 2, Some((0, 1, 1)))]
    #[case(Measure::Sequence(2), &[(0, 1), (1, 0)], 1, 2, None)]
    #[case(Measure::Sequence(2), &[(1, 1), (1, 0)], 1, 2, Some((1, 1, 1)))]
    #[case(Measure::Sequence(3), &[(0, 0), (3, 1), (5, 0), (6, 2), (14, 1)], 3, 3, Some((0, 6, 6)))]
    #[case(Measure::Sequence(3), &[(0, 0), (1, 2), (2, 1), (11, 2)], 2, 3, None)]
    fn windows_are_found(
        #[case] measure: Measure,
        #[case] all: &[(i64, u64)],
        #[case] at: i64,
        #[case] least: i64,
        #[case] expected: Option<(i64, i64, i64)>,
    ) {
        let marks = marks(all);
        let mut near: Vec<&Mark> = marks.iter().collect();
        measure.sort(&mut near);
        let windows = measure.windows(&near, at, 10, least);
        assert_eq!(windows.map(|w| (w.from, w.to, w.fires)), expected);
    }
}
