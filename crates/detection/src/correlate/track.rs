//! The events of one group, and which of them make incidents.
//!
//! A window `[t, t + timespan]` qualifies if the events in it count the threshold or more. Qualifying windows that
//! overlap make one episode: an incident. Events outside of all of them are loose. What a window counts never falls when an
//! event is added, so an episode only ever grows, and whether an event makes a window qualify depends only on events at
//! most a timespan away. The state is the loose events of the last timespan plus allowed lateness, and of each episode as
//! much of either end as any window that reaches over it needs: by weight the first and last threshold marks, by
//! value the first and last mark of the first and last distinct values, for a sequence the events of the last timespan. An
//! event inside an episode can still widen it, when it makes a window with loose events beyond the edge qualify.

use super::ALLOWED_LATENESS;
use super::episode::Episode;
use super::mark::{Held, Mark};
use super::measure::Measure;
use super::pack::Rest;
use super::thin::thin;
use super::threshold::Threshold;

/// Loose events that are packed; packing more costs more than it saves.
const MAX_AT_REST: usize = 16;

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Part of an episode; `fired` when that episode is new, `moved` when it goes on under another id.
    Counted { fired: bool, moved: bool },
    /// Kept in case more come.
    Loose,
    /// The event was there already.
    Repeat,
    /// Further behind the newest event of its group than it may be.
    Late,
}

impl Outcome {
    /// Part of an episode that was there.
    pub(super) const COUNTED: Self = Self::Counted { fired: false, moved: false };
}

/// State of one group of a correlation.
#[derive(Debug, Default)]
pub(super) struct Track {
    /// Events outside of all episodes, ascending.
    loose: Vec<Held>,
    /// Ascending; they do not overlap.
    pub episodes: Vec<Episode>,
    newest: Option<i64>,
    /// Events were thinned out: counts and first times may fall short.
    pub thinned: bool,
}

impl Track {
    /// Takes in one event. `matches` is given the events that have become matches of the correlation by it, if it feeds
    /// another one.
    pub(super) fn insert(
        &mut self,
        mut held: Held,
        threshold: &Threshold,
        matches: &mut Vec<Held>,
    ) -> Outcome {
        let mark = held.mark;
        let newest = self.newest.map_or(mark.time, |newest| newest.max(mark.time));
        let oldest = newest.saturating_sub(threshold.horizon);
        if mark.time < oldest {
            return Outcome::Late;
        }
        // A client's retry may carry the same time as the event it repeats or a later one.
        let news = self.newest.is_none_or(|newest| mark.time > newest) && mark.uid == 0;
        if self.newest != Some(newest) {
            self.newest = Some(newest);
            self.forget(oldest, threshold);
        }

        if news
            && self.extends_last(&mark, threshold)
            && let Some(last) = self.episodes.last_mut()
        {
            last.add(&held, Some(threshold));
            if threshold.chained {
                matches.push(held);
            }
            return Outcome::COUNTED;
        }
        if !news && self.repeats(&mark) {
            return Outcome::Repeat;
        }
        if let Some(same) = self.loose.last().filter(|last| last.details == held.details) {
            held.details = same.details.clone();
        }
        if news && self.says_nothing_new(&mark, threshold) {
            self.loose.push(held);
            self.bound(threshold);
            return Outcome::Loose;
        }
        let around = self
            .episodes
            .iter_mut()
            .find(|episode| episode.start() <= mark.time && mark.time <= episode.end());
        let hull = match around {
            Some(episode) => {
                episode.add(&held, Some(threshold));
                let hull = (episode.start(), episode.end());
                if self.loose.is_empty()
                    && self.episodes.len() == 1
                    && !threshold.keeps_recent()
                    && self.episodes.first().is_some_and(|episode| mark.time > episode.fires)
                {
                    if threshold.chained {
                        matches.push(held);
                    }
                    return Outcome::COUNTED;
                }
                Some(hull)
            }
            None => {
                let at = self.loose.partition_point(|other| other.mark < mark);
                self.loose.insert(at, held.clone());
                None
            }
        };
        let windows = self.qualifying(&mark, threshold);
        let outcome = match (windows, hull) {
            (Some(windows), Some((start, end))) if start <= windows.from && windows.to <= end => {
                let moved = self.fires_at(&mark, windows.fires, Some(held), threshold, matches);
                Outcome::Counted { fired: false, moved }
            }
            (Some(windows), hull) => {
                let joined = hull.map(|_| held);
                let united = self.unite(windows.from, windows.to, threshold, matches);
                let moved = self.fires_at(&mark, windows.fires, joined, threshold, matches);
                Outcome::Counted {
                    fired: united == 0 && !threshold.waits(),
                    moved: united > 1 || (united == 1 && moved),
                }
            }
            (None, Some(_)) => {
                self.fires_at(&mark, i64::MAX, Some(held), threshold, matches);
                Outcome::COUNTED
            }
            (None, None) => Outcome::Loose,
        };
        if threshold.waits() && outcome != Outcome::Loose {
            self.fill(&mark, threshold);
        }
        self.bound(threshold);
        outcome
    }

    /// The common case, without a search: newer than all others, within a timespan of enough of the last ones.
    fn extends_last(&self, mark: &Mark, threshold: &Threshold) -> bool {
        let Some(last) = self.episodes.last() else { return false };
        if threshold.keeps_recent() || self.loose.last().is_some_and(|held| held.mark.time >= last.start()) {
            return false;
        }
        let oldest = mark.time.saturating_sub(threshold.timespan);
        // With it, so many of the last ones reach the threshold; a window of one still has to touch the last.
        let others = usize::try_from(threshold.condition.least - 1).unwrap_or(usize::MAX).max(1);
        let nth_back = match threshold.measure {
            Measure::Weight => last.tail().iter().nth_back(others - 1),
            Measure::Distinct => {
                let known = last.lasts().iter().rev().take(others).any(|held| held.value == mark.value);
                last.lasts().iter().nth_back(others - usize::from(!known))
            }
            Measure::Sequence(_) => None,
        };
        nth_back.is_some_and(|held| held.time >= oldest)
    }

    /// Whether an event that is newer than all others cannot make a window qualify: another one in reach says the same, and
    /// no window there qualifies.
    fn says_nothing_new(&self, mark: &Mark, threshold: &Threshold) -> bool {
        let oldest = mark.time.saturating_sub(threshold.timespan);
        if threshold.condition.least == 1 || self.episodes.last().is_some_and(|last| last.end() >= oldest) {
            return false;
        }
        match threshold.measure {
            Measure::Weight => false,
            Measure::Distinct => {
                let mut near = self.loose.iter().rev().take_while(|held| held.mark.time >= oldest);
                near.any(|held| held.mark.value == mark.value)
            }
            Measure::Sequence(steps) => mark.value + 1 < steps,
        }
    }

    fn repeats(&self, mark: &Mark) -> bool {
        self.loose.iter().any(|held| held.mark.same_event(mark))
            || self.episodes.iter().any(|episode| episode.holds(mark))
    }

    /// The qualifying windows that `mark`, which is in already, is in.
    fn qualifying(&self, mark: &Mark, threshold: &Threshold) -> Option<super::measure::Windows> {
        let ends = self.episodes.iter().flat_map(|episode| episode.ends(threshold.measure));
        let near = self.near(mark, ends, threshold);
        threshold.measure.windows(&near, mark.time, threshold.timespan, threshold.condition.least)
    }

    fn near<'m>(
        &'m self,
        mark: &Mark,
        of_episodes: impl Iterator<Item = &'m Mark>,
        threshold: &Threshold,
    ) -> Vec<&'m Mark> {
        let first = mark.time.saturating_sub(threshold.timespan);
        let last = mark.time.saturating_add(threshold.timespan);
        let begin = self.loose.partition_point(|held| held.mark.time < first);
        let end = self.loose.partition_point(|held| held.mark.time <= last);
        let mut near: Vec<&Mark> =
            self.loose.get(begin..end).unwrap_or_default().iter().map(|held| &held.mark).collect();
        near.extend(of_episodes.filter(|held| (first..=last).contains(&held.time)));
        threshold.measure.sort(&mut near);
        near
    }

    /// Makes one episode of everything in `from..=to` and the episodes that reach into it. Returns how many there were.
    fn unite(&mut self, from: i64, to: i64, threshold: &Threshold, matches: &mut Vec<Held>) -> usize {
        let (mut from, mut to) = (from, to);
        let mut united: Option<Episode> = None;
        let mut apart = Vec::new();
        let mut count = 0;
        for episode in std::mem::take(&mut self.episodes) {
            if episode.start() <= to && episode.end() >= from {
                (from, to) = (from.min(episode.start()), to.max(episode.end()));
                count += 1;
                match &mut united {
                    None => united = Some(episode),
                    Some(united) => united.absorb(episode, threshold),
                }
            } else {
                apart.push(episode);
            }
        }
        let mut episode = united.unwrap_or_else(|| Episode::under(threshold));
        let begin = self.loose.partition_point(|held| held.mark.time < from);
        let end = self.loose.partition_point(|held| held.mark.time <= to);
        let joined: Vec<Held> = self.loose.drain(begin..end.max(begin)).collect();
        for held in &joined {
            episode.add(held, Some(threshold));
        }
        if threshold.chained {
            // When it fires is not known yet: all of them wait.
            episode.fire(i64::MAX, joined, matches);
        }
        apart.push(episode);
        apart.sort_by_key(Episode::start);
        self.episodes = apart;
        count
    }

    /// The episode that `mark` is in fires at `fires`, unless it does before. `joined` has come to it. True if its id is
    /// another by that.
    fn fires_at(
        &mut self,
        mark: &Mark,
        fires: i64,
        joined: Option<Held>,
        threshold: &Threshold,
        matches: &mut Vec<Held>,
    ) -> bool {
        let around = self
            .episodes
            .iter_mut()
            .find(|episode| episode.start() <= mark.time && mark.time <= episode.end());
        let Some(episode) = around else { return false };
        let bucket = |fires: i64| fires.div_euclid(threshold.timespan);
        let before = bucket(episode.fires);
        if threshold.chained {
            episode.fire(fires, joined, matches);
        } else {
            episode.fires = episode.fires.min(fires);
        }
        bucket(episode.fires) != before
    }

    /// Counts the windows that `mark` is in, for the episode that it is in.
    fn fill(&mut self, mark: &Mark, threshold: &Threshold) {
        let recent = self.episodes.iter().filter_map(|episode| episode.more.as_ref());
        let near = self.near(mark, recent.flat_map(|more| &more.recent), threshold);
        let most = threshold.measure.most(&near, mark.time, threshold.timespan);
        let around = self
            .episodes
            .iter_mut()
            .find(|episode| episode.start() <= mark.time && mark.time <= episode.end());
        if let Some(more) = around.and_then(|episode| episode.more.as_mut()) {
            more.fills(most, threshold.condition.settled_from());
        }
    }

    /// What was packed.
    pub(super) fn of(rest: Rest) -> Self {
        Self { loose: rest.loose, episodes: Vec::new(), newest: Some(rest.newest), thinned: rest.thinned }
    }

    /// Hands over what it holds to be packed, if that is few loose events and nothing else.
    pub(super) fn rest(&mut self) -> Option<Rest> {
        let newest = self.newest.filter(|_| self.episodes.is_empty() && self.loose.len() <= MAX_AT_REST)?;
        Some(Rest { loose: std::mem::take(&mut self.loose), newest, thinned: self.thinned })
    }

    /// Bytes of memory, about.
    pub(super) fn bytes(&self) -> usize {
        let of_episodes: usize = self.episodes.iter().map(Episode::bytes).sum();
        self.loose.capacity() * size_of::<Held>() + of_episodes
    }

    /// Decides the episodes that nothing awaited can reach, now that event time has got to `watermark`; true if one has
    /// become an incident. For conditions that wait.
    pub(super) fn close(&mut self, watermark: i64, threshold: &Threshold) -> bool {
        let mut fired = false;
        self.episodes.retain_mut(|episode| {
            if episode.closed || due(episode, threshold) >= watermark {
                return true;
            }
            let fullest = episode.more.as_ref().map_or(0, |more| more.fullest);
            episode.closed = true;
            let accepted = threshold.condition.accepts(fullest);
            fired |= accepted;
            accepted
        });
        fired
    }

    /// When the first episode that is not decided will be.
    pub(super) fn next_due(&self, threshold: &Threshold) -> Option<i64> {
        self.episodes.iter().filter(|episode| !episode.closed).map(|episode| due(episode, threshold)).min()
    }

    /// Where the first episode begins that is not decided.
    pub(super) fn undecided(&self) -> Option<i64> {
        self.episodes.iter().find(|episode| !episode.closed).map(Episode::start)
    }

    /// Drops what no event that is still awaited can reach. What has not been published or decided yet stays until it is.
    fn forget(&mut self, oldest: i64, threshold: &Threshold) {
        if self.loose.first().is_some_and(|held| held.mark.time < oldest) {
            let begin = self.loose.partition_point(|held| held.mark.time < oldest);
            self.loose.drain(..begin);
        }
        let waits = threshold.waits();
        self.episodes
            .retain(|episode| episode.end() >= oldest || episode.dirty || (waits && !episode.closed));
        for more in self.episodes.iter_mut().filter_map(|episode| episode.more.as_mut()) {
            if more.recent.first().is_some_and(|mark| mark.time < oldest) {
                more.recent.retain(|mark| mark.time >= oldest);
            }
        }
    }

    /// Thins out what has grown past its capacity.
    fn bound(&mut self, threshold: &Threshold) {
        if threshold.measure == Measure::Weight {
            return;
        }
        if self.loose.len() > threshold.capacity {
            self.thinned = true;
            thin(&mut self.loose, threshold, |held| &held.mark);
        }
        for more in self.episodes.iter_mut().filter_map(|episode| episode.more.as_mut()) {
            if more.recent.len() > threshold.capacity {
                self.thinned = true;
                thin(&mut more.recent, threshold, |mark| mark);
            }
        }
    }
}

fn due(episode: &Episode, threshold: &Threshold) -> i64 {
    episode.end().saturating_add(threshold.timespan).saturating_add(ALLOWED_LATENESS)
}
