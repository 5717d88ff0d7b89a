//! The events of one incident, kept as two ends and a count.

use std::collections::VecDeque;

use schemas::{Pair, Stream};
use uuid::Uuid;

use super::MAX_ENTITIES;

/// An event's place in its stream: its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub stream: Stream,
    pub partition: i32,
    pub offset: i64,
    pub index: i32,
}

/// One event that a rule matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    /// Event time, microseconds.
    pub time: i64,
    pub place: Place,
    /// Shared with a client's retry of the same event.
    pub uid: Option<Uuid>,
    /// Occurrences it stands for.
    pub weight: i64,
}

impl Mark {
    /// Whether both are of the same event.
    pub(super) fn same_event(&self, other: &Mark) -> bool {
        self.place == other.place || (self.uid.is_some() && self.uid == other.uid)
    }
}

/// Name and value of a user, host or address.
pub(super) type Entity = (Box<str>, Box<str>);

/// What an event says beside its mark.
#[derive(Debug, Clone, Copy)]
pub(super) struct Details<'a> {
    pub entities: &'a [Pair<'a>],
    pub flags: i32,
}

/// The same, kept.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    entities: Box<[Entity]>,
    flags: i32,
}

impl Details<'_> {
    pub(super) fn keep(&self) -> Kept {
        let owned = |pair: &Pair<'_>| (Box::from(pair.name.as_ref()), Box::from(pair.value.as_ref()));
        Kept { entities: self.entities.iter().map(owned).collect(), flags: self.flags }
    }
}

/// Events of one incident. Of all of them it keeps the first and the last few, and how many there were.
#[derive(Debug, Clone)]
pub(super) struct Episode {
    /// First marks, at most `keep`, ascending.
    head: Vec<Mark>,
    /// Last marks, at most `keep`, ascending.
    tail: VecDeque<Mark>,
    keep: usize,
    /// Distinct events.
    pub events: u64,
    /// Sum of their weights.
    pub count: i64,
    /// Ascending, at most [`MAX_ENTITIES`].
    pub entities: Vec<Entity>,
    pub flags: i32,
    /// Something has changed since it was last published.
    pub dirty: bool,
    /// Ids under which it has been published; the current one last.
    pub published: Vec<Uuid>,
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
            dirty: true,
            published: Vec::new(),
        }
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

    /// Time of the event at which the weights since the start reach `threshold`.
    pub(super) fn reaches(&self, threshold: i64) -> i64 {
        let mut sum = 0i64;
        for mark in &self.head {
            sum = sum.saturating_add(mark.weight);
            if sum >= threshold {
                return mark.time;
            }
        }
        self.end()
    }

    /// Whether the event is one of those kept.
    pub(super) fn holds(&self, mark: &Mark) -> bool {
        self.head.iter().chain(&self.tail).any(|held| held.same_event(mark))
    }

    /// Adds an event that is not in it.
    pub(super) fn add(&mut self, mark: Mark, details: &Details<'_>) {
        self.count_in(mark, details.flags);
        for pair in details.entities {
            self.name(&pair.name, &pair.value);
        }
    }

    /// Adds an event that was kept for later.
    pub(super) fn add_kept(&mut self, mark: Mark, kept: &Kept) {
        self.count_in(mark, kept.flags);
        for (name, value) in &kept.entities {
            self.name(name, value);
        }
    }

    fn count_in(&mut self, mark: Mark, flags: i32) {
        self.keep_ends(mark);
        self.events += 1;
        self.count = self.count.saturating_add(mark.weight);
        self.flags |= flags;
        self.dirty = true;
    }

    /// Adds all events of an episode that has none in common.
    pub(super) fn absorb(&mut self, other: Episode) {
        for mark in &other.head {
            self.keep_ends(*mark);
        }
        for mark in &other.tail {
            if !other.head.contains(mark) {
                self.keep_ends(*mark);
            }
        }
        self.events += other.events;
        self.count = self.count.saturating_add(other.count);
        self.flags |= other.flags;
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
