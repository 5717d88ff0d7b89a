//! The events of one incident, kept as two ends and a count.

use std::collections::VecDeque;

use uuid::Uuid;

use super::MAX_ENTITIES;
use super::mark::{Held, Mark};
use super::measure::Measure;
use super::threshold::Threshold;

/// Name and value of a user, host or address.
pub(super) type Entity = (Box<str>, Box<str>);

/// Bytes of an entity with its texts, about.
const ENTITY_BYTES: usize = 80;

/// Events of one incident. Of all of them it keeps the first and the last few, and how many there were.
#[derive(Debug, Clone)]
pub(super) struct Episode {
    /// First marks, at most `keep`, ascending.
    head: Vec<Mark>,
    /// Last marks, at most `keep`, ascending.
    tail: VecDeque<Mark>,
    keep: usize,
    /// Distinct marks.
    pub events: u64,
    /// Sum of their weights.
    pub count: i64,
    /// Ascending, at most [`MAX_ENTITIES`].
    pub entities: Vec<Entity>,
    pub flags: i32,
    /// Time of the event with which the first of its windows counts enough.
    pub fires: i64,
    /// Something has changed since it was last published.
    pub dirty: bool,
    /// Decided: nothing that is still awaited can change whether it is an incident.
    pub closed: bool,
    /// Ids under which it has been published; the current one last.
    pub published: Vec<Uuid>,
    /// What other measures than the weight need, and chains.
    pub more: Option<Box<More>>,
}

/// What some correlations keep of an episode beside its ends.
#[derive(Debug, Clone, Default)]
pub(super) struct More {
    /// The first event of each of the first distinct values, ascending.
    firsts: Vec<Mark>,
    /// The last event of each of the last distinct values, ascending.
    lasts: Vec<Mark>,
    /// All events that one which is still awaited may share a window with, ascending.
    pub recent: Vec<Mark>,
    /// Events before it fires, ascending: they become matches when a late one makes it fire earlier.
    early: Vec<Held>,
    /// The most that one of its windows counts.
    pub fullest: i64,
    /// `fullest` has come to where the answer does not change any more.
    pub settled: bool,
}

impl Episode {
    /// An episode of no events yet that will keep `keep` marks at each end.
    pub(super) fn new(keep: usize) -> Self {
        Self {
            head: Vec::new(),
            tail: VecDeque::new(),
            keep: keep.max(1),
            events: 0,
            count: 0,
            entities: Vec::new(),
            flags: 0,
            fires: i64::MAX,
            dirty: true,
            closed: false,
            published: Vec::new(),
            more: None,
        }
    }

    /// The same for a correlation.
    pub(super) fn under(threshold: &Threshold) -> Self {
        let more = threshold.needs_more().then(Box::default);
        Self { more, ..Self::new(threshold.keep) }
    }

    /// Time of the first event.
    pub(super) fn start(&self) -> i64 {
        self.head.first().map_or(i64::MAX, |mark| mark.time)
    }

    /// Time of the last event.
    pub(super) fn end(&self) -> i64 {
        self.tail.back().map_or(i64::MIN, |mark| mark.time)
    }

    pub(super) fn head(&self) -> &[Mark] {
        &self.head
    }

    pub(super) fn tail(&self) -> &VecDeque<Mark> {
        &self.tail
    }

    /// The first event of each of the first distinct values.
    pub(super) fn firsts(&self) -> &[Mark] {
        self.more.as_ref().map_or(&[], |more| &more.firsts)
    }

    /// The last event of each of the last distinct values.
    pub(super) fn lasts(&self) -> &[Mark] {
        self.more.as_ref().map_or(&[], |more| &more.lasts)
    }

    /// Events that stand for all of it in a window that reaches over one of its ends.
    pub(super) fn ends(&self, measure: Measure) -> impl Iterator<Item = &Mark> {
        let more = self.more.as_deref();
        let slices: [&[Mark]; 3] = match (measure, more) {
            (Measure::Distinct, Some(more)) => [&more.firsts, &more.lasts, &[]],
            (Measure::Sequence(_), Some(more)) => [&more.recent, &[], &[]],
            _ => {
                let (front, back) = self.tail.as_slices();
                [&self.head, front, back]
            }
        };
        slices.into_iter().flatten()
    }

    /// Whether the event is one of those kept.
    pub(super) fn holds(&self, mark: &Mark) -> bool {
        let more =
            self.more.iter().flat_map(|more| more.recent.iter().chain(&more.firsts).chain(&more.lasts));
        self.head.iter().chain(&self.tail).chain(more).any(|held| held.same_event(mark))
    }

    /// Adds an event that is not in it.
    pub(super) fn add(&mut self, held: &Held, threshold: Option<&Threshold>) {
        self.keep_ends(held.mark);
        if let (Some(more), Some(threshold)) = (&mut self.more, threshold) {
            more.add(held.mark, threshold);
        }
        self.events += 1;
        self.count = self.count.saturating_add(i64::from(held.mark.weight));
        self.flags |= held.details.flags();
        for (name, value) in held.details.entities() {
            self.name(name, value);
        }
        self.dirty = true;
    }

    /// Adds all events of an episode that has none in common.
    pub(super) fn absorb(&mut self, mut other: Episode, threshold: &Threshold) {
        for mark in &other.head {
            self.keep_ends(*mark);
        }
        for mark in &other.tail {
            if !other.head.contains(mark) {
                self.keep_ends(*mark);
            }
        }
        if let (Some(more), Some(other)) = (&mut self.more, other.more.take()) {
            more.absorb(*other, threshold);
        }
        self.events += other.events;
        self.count = self.count.saturating_add(other.count);
        self.flags |= other.flags;
        self.fires = self.fires.min(other.fires);
        self.closed |= other.closed;
        for (name, value) in &other.entities {
            self.name(name, value);
        }
        for id in other.published {
            if !self.published.contains(&id) {
                self.published.insert(0, id);
            }
        }
        self.dirty = true;
    }

    /// It fires with the event of time `fires`, if it has not fired earlier. Hands over what has become a match by that:
    /// of `joined`, and of the events before.
    pub(super) fn fire(
        &mut self,
        fires: i64,
        joined: impl IntoIterator<Item = Held>,
        matches: &mut Vec<Held>,
    ) {
        self.fires = self.fires.min(fires);
        let Some(more) = &mut self.more else { return };
        for held in std::mem::take(&mut more.early).into_iter().chain(joined) {
            if held.mark.time >= self.fires {
                matches.push(held);
            } else {
                more.early.push(held);
            }
        }
    }

    /// Bytes of memory, about.
    pub(super) fn bytes(&self) -> usize {
        let more = self.more.as_ref().map_or(0, |more| {
            let marks = more.firsts.capacity() + more.lasts.capacity() + more.recent.capacity();
            size_of::<More>() + marks * size_of::<Mark>() + more.early.capacity() * size_of::<Held>()
        });
        let marks = self.head.capacity() + self.tail.capacity();
        size_of::<Self>() + marks * size_of::<Mark>() + self.entities.len() * ENTITY_BYTES + more
    }

    fn keep_ends(&mut self, mark: Mark) {
        if self.head.len() < self.keep || self.head.last().is_some_and(|last| mark < *last) {
            let at = self.head.partition_point(|held| *held < mark);
            self.head.insert(at, mark);
            self.head.truncate(self.keep);
        }
        if self.tail.len() < self.keep || self.tail.front().is_some_and(|first| mark > *first) {
            let at = self.tail.partition_point(|held| *held < mark);
            self.tail.insert(at, mark);
            if self.tail.len() > self.keep {
                self.tail.pop_front();
            }
        }
    }

    fn name(&mut self, name: &str, value: &str) {
        let held = |entity: &Entity| (entity.0.as_ref(), entity.1.as_ref()).cmp(&(name, value));
        if let Err(at) = self.entities.binary_search_by(held)
            && at < MAX_ENTITIES
        {
            self.entities.insert(at, (name.into(), value.into()));
            self.entities.truncate(MAX_ENTITIES);
        }
    }
}

impl More {
    fn add(&mut self, mark: Mark, threshold: &Threshold) {
        if threshold.measure != Measure::Weight {
            let most = threshold.distinct();
            keep_first(&mut self.firsts, mark, most);
            keep_last(&mut self.lasts, mark, most);
        }
        if threshold.keeps_recent() && !self.settled {
            let at = self.recent.partition_point(|held| *held < mark);
            self.recent.insert(at, mark);
        }
    }

    fn absorb(&mut self, other: More, threshold: &Threshold) {
        let most = threshold.distinct();
        for mark in other.firsts {
            keep_first(&mut self.firsts, mark, most);
        }
        for mark in other.lasts {
            keep_last(&mut self.lasts, mark, most);
        }
        self.recent.extend(other.recent);
        self.recent.sort_unstable();
        self.early.extend(other.early);
        self.fullest = self.fullest.max(other.fullest);
        self.settled |= other.settled;
    }

    /// A window counts so much.
    pub(super) fn fills(&mut self, count: i64, settled_from: i64) {
        self.fullest = self.fullest.max(count);
        if self.fullest >= settled_from {
            self.settled = true;
        }
        if self.settled {
            self.recent = Vec::new();
        }
    }
}

/// Enters a mark among the first marks of the first `most` distinct values.
fn keep_first(firsts: &mut Vec<Mark>, mark: Mark, most: usize) {
    if firsts.len() >= most && firsts.last().is_some_and(|last| mark >= *last) {
        return;
    }
    if let Some(at) = firsts.iter().position(|held| held.value == mark.value) {
        if firsts.get(at).is_some_and(|held| *held <= mark) {
            return;
        }
        firsts.remove(at);
    }
    let at = firsts.partition_point(|held| *held < mark);
    firsts.insert(at, mark);
    firsts.truncate(most);
}

/// Enters a mark among the last marks of the last `most` distinct values.
fn keep_last(lasts: &mut Vec<Mark>, mark: Mark, most: usize) {
    if lasts.len() >= most && lasts.first().is_some_and(|first| mark <= *first) {
        return;
    }
    if let Some(at) = lasts.iter().rposition(|held| held.value == mark.value) {
        if lasts.get(at).is_some_and(|held| *held >= mark) {
            return;
        }
        lasts.remove(at);
    }
    let at = lasts.partition_point(|held| *held < mark);
    lasts.insert(at, mark);
    if lasts.len() > most {
        lasts.remove(0);
    }
}
