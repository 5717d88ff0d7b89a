//! The events of one group, and which of them make incidents.
//!
//! A window `[t, t + timespan]` qualifies if the events in it weigh the threshold or more. Qualifying windows that
//! overlap make one episode: an incident. Events outside of all of them are loose. Whether an event makes a window
//! qualify depends only on events at most a timespan away, so the state is the loose events of the last timespan plus
//! allowed lateness — fewer than the threshold in each timespan — and of each episode its first and last threshold
//! marks: any window that reaches further into an episode holds that many already. An event inside an episode can still
//! widen it, when it makes a window with loose events beyond the edge qualify.

use super::ALLOWED_LATENESS;
use super::episode::{Details, Episode, Kept, Mark};

/// What a threshold asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Threshold {
    /// Microseconds.
    pub timespan: i64,
    /// Sum of weights.
    pub count: i64,
    /// Marks an episode keeps at each end.
    pub keep: usize,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Part of an episode; `fired` when that episode is new.
    Counted { fired: bool },
    /// Kept in case more come.
    Loose,
    /// The event was there already.
    Repeat,
    /// Further behind the newest event of its group than a timespan plus allowed lateness.
    Late,
}

/// State of one group under a threshold.
#[derive(Debug, Default)]
pub(super) struct Track {
    /// Events outside of all episodes, ascending.
    loose: Vec<(Mark, Kept)>,
    /// Ascending; they do not overlap.
    pub episodes: Vec<Episode>,
    newest: Option<i64>,
}

impl Track {
    /// Takes in one event.
    pub(super) fn insert(&mut self, mark: Mark, details: &Details<'_>, threshold: &Threshold) -> Outcome {
        let horizon = threshold.timespan.saturating_add(ALLOWED_LATENESS);
        let newest = self.newest.map_or(mark.time, |newest| newest.max(mark.time));
        let oldest = newest.saturating_sub(horizon);
        if mark.time < oldest {
            return Outcome::Late;
        }
        if self.newest != Some(newest) {
            self.newest = Some(newest);
            self.forget(oldest);
        }

        if self.extends_last(&mark, threshold)
            && let Some(last) = self.episodes.last_mut()
        {
            last.add(mark, details);
            return Outcome::Counted { fired: false };
        }
        if self.repeats(&mark) {
            return Outcome::Repeat;
        }
        let around = self
            .episodes
            .iter_mut()
            .find(|episode| episode.start() <= mark.time && mark.time <= episode.end());
        let hull = match around {
            Some(episode) => {
                episode.add(mark, details);
                let hull = (episode.start(), episode.end());
                if self.loose.is_empty() && self.episodes.len() == 1 {
                    return Outcome::Counted { fired: false };
                }
                Some(hull)
            }
            None => {
                let at = self.loose.partition_point(|(held, _)| *held < mark);
                self.loose.insert(at, (mark, details.keep()));
                None
            }
        };
        match (self.qualifying(&mark, threshold), hull) {
            (Some((from, to)), Some((start, end))) if start <= from && to <= end => {
                Outcome::Counted { fired: false }
            }
            (Some((from, to)), _) => Outcome::Counted { fired: self.unite(from, to, threshold) },
            (None, Some(_)) => Outcome::Counted { fired: false },
            (None, None) => Outcome::Loose,
        }
    }

    /// The common case, without a search: the newest event so far, within a timespan of enough of the last ones.
    fn extends_last(&self, mark: &Mark, threshold: &Threshold) -> bool {
        let Some(last) = self.episodes.last() else { return false };
        let Some(newest) = last.tail().back() else { return false };
        // With it, so many of the last events reach the threshold; a window of one still has to touch the last.
        let others = usize::try_from(threshold.count - 1).unwrap_or(usize::MAX).max(1);
        let oldest = mark.time.saturating_sub(threshold.timespan);
        let reaches = last.tail().iter().nth_back(others - 1).is_some_and(|held| held.time >= oldest);
        // A client's retry may carry the same time as the event it repeats or a later one; it goes the long way.
        let after = mark.time > newest.time && mark.uid.is_none();
        let no_loose = self.loose.last().is_none_or(|(held, _)| held.time < last.start());
        after && no_loose && reaches
    }

    fn repeats(&self, mark: &Mark) -> bool {
        self.loose.iter().any(|(held, _)| held.same_event(mark))
            || self.episodes.iter().any(|episode| episode.holds(mark))
    }

    /// The hull of the qualifying windows that `mark`, which is in already, is in.
    fn qualifying(&self, mark: &Mark, threshold: &Threshold) -> Option<(i64, i64)> {
        let first = mark.time.saturating_sub(threshold.timespan);
        let last = mark.time.saturating_add(threshold.timespan);
        let ends = self.episodes.iter().flat_map(|episode| episode.head().iter().chain(episode.tail()));
        let mut near: Vec<&Mark> = self
            .loose
            .iter()
            .map(|(held, _)| held)
            .chain(ends)
            .filter(|held| (first..=last).contains(&held.time))
            .collect();
        near.sort_unstable();
        near.dedup_by_key(|held| held.place);
        let mut hull: Option<(i64, i64)> = None;
        let mut sum = 0i64;
        let mut right = 0;
        for held in &near {
            let start = held.time;
            while let Some(next) = near.get(right) {
                if next.time > start.saturating_add(threshold.timespan) {
                    break;
                }
                sum = sum.saturating_add(next.weight);
                right += 1;
            }
            let end = right.checked_sub(1).and_then(|at| near.get(at)).map_or(start, |last| last.time);
            if start <= mark.time && mark.time <= end && sum >= threshold.count {
                hull = Some(hull.map_or((start, end), |(from, to)| (from.min(start), to.max(end))));
            }
            sum = sum.saturating_sub(held.weight);
        }
        hull
    }

    /// Makes one episode of everything in `from..=to` and the episodes that reach into it; true if there were none.
    fn unite(&mut self, from: i64, to: i64, threshold: &Threshold) -> bool {
        let (mut from, mut to) = (from, to);
        let mut united: Option<Episode> = None;
        let mut apart = Vec::new();
        for episode in std::mem::take(&mut self.episodes) {
            if episode.start() <= to && episode.end() >= from {
                (from, to) = (from.min(episode.start()), to.max(episode.end()));
                match &mut united {
                    None => united = Some(episode),
                    Some(united) => united.absorb(episode),
                }
            } else {
                apart.push(episode);
            }
        }
        let fired = united.is_none();
        let mut episode = united.unwrap_or_else(|| Episode::new(threshold.keep));
        self.loose.retain(|(mark, kept)| {
            let inside = (from..=to).contains(&mark.time);
            if inside {
                episode.add_kept(*mark, kept);
            }
            !inside
        });
        apart.push(episode);
        apart.sort_by_key(Episode::start);
        self.episodes = apart;
        fired
    }

    /// Drops what no event that is still awaited can reach. What has not been published yet stays until it is.
    fn forget(&mut self, oldest: i64) {
        if self.loose.first().is_some_and(|(mark, _)| mark.time < oldest) {
            self.loose.retain(|(mark, _)| mark.time >= oldest);
        }
        self.episodes.retain(|episode| episode.end() >= oldest || episode.dirty);
    }
}
