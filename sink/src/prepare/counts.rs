//! Orgs by number, and how many rows each group has.

use std::sync::Arc;

use ahash::AHashMap;
use schemas::{Micros, OrgId, Stream};

const HOUR_MICROS: i64 = 3_600_000_000;

/// More orgs than this at a time are forgotten and learnt anew.
const MAX_ORGS: usize = 1 << 17;

/// The orgs seen so far, numbered, with their rank by name. Kept over batches: the same orgs come again and again.
#[derive(Debug, Default)]
pub struct Orgs {
    numbers: AHashMap<Arc<str>, u32>,
    names: Vec<Arc<str>>,
    ranks: Vec<u32>,
    last: u32,
}

impl Orgs {
    /// Forgets everything if there is too much; numbers given before are void then.
    pub fn begin_batch(&mut self) {
        if self.names.len() > MAX_ORGS {
            *self = Self::default();
        }
    }

    /// The number of an org; none where the name is no org id.
    pub fn number(&mut self, name: &str) -> Option<u32> {
        if self.names.get(self.last as usize).is_some_and(|last| **last == *name) {
            return Some(self.last);
        }
        let number = match self.numbers.get(name) {
            Some(number) => *number,
            None => {
                name.parse::<OrgId>().ok()?;
                let (name, number) = (Arc::<str>::from(name), self.names.len() as u32);
                self.numbers.insert(Arc::clone(&name), number);
                self.names.push(name);
                number
            }
        };
        self.last = number;
        Some(number)
    }

    /// Names by number.
    pub fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// Rank by name of every number.
    pub fn ranks(&mut self) -> &[u32] {
        if self.ranks.len() != self.names.len() {
            let mut by_name: Vec<u32> = (0..self.names.len() as u32).collect();
            by_name.sort_unstable_by_key(|number| self.names.get(*number as usize));
            self.ranks.resize(self.names.len(), 0);
            for (rank, number) in by_name.into_iter().enumerate() {
                if let Some(slot) = self.ranks.get_mut(number as usize) {
                    *slot = rank as u32;
                }
            }
        }
        &self.ranks
    }
}

/// What rows are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Group {
    /// Number of the org.
    pub org: u32,
    /// The stream.
    pub stream: Stream,
    /// Hours since 1970.
    pub hour: i32,
    /// OCSF class.
    pub class_uid: i32,
    /// OCSF severity.
    pub severity_id: i32,
}

impl Group {
    /// The hour of a time.
    pub fn hour(time: Micros) -> i32 {
        // A time that Postgres holds has fewer hours than that.
        i32::try_from(time.0.div_euclid(HOUR_MICROS)).unwrap_or(i32::MAX)
    }
}

/// Rows by group.
#[derive(Debug, Default)]
pub struct Counts {
    index: AHashMap<Group, u32>,
    groups: Vec<(Group, i64)>,
    last: u32,
}

impl Counts {
    /// Counts a row and returns the number of its group.
    pub fn add(&mut self, group: Group) -> u32 {
        let number = match self.groups.get(self.last as usize) {
            Some((last, _)) if *last == group => self.last,
            _ => *self.index.entry(group).or_insert_with(|| {
                self.groups.push((group, 0));
                self.groups.len() as u32 - 1
            }),
        };
        self.last = number;
        if let Some((_, n)) = self.groups.get_mut(number as usize) {
            *n += 1;
        }
        number
    }

    /// Takes a row back that was not stored after all.
    pub fn remove(&mut self, number: u32) {
        if let Some((_, n)) = self.groups.get_mut(number as usize) {
            *n -= 1;
        }
    }

    /// Begins anew, keeping the memory.
    pub fn clear(&mut self) {
        self.index.clear();
        self.groups.clear();
        self.last = 0;
    }

    /// The groups that have rows.
    pub fn rows(&self) -> impl Iterator<Item = &(Group, i64)> {
        self.groups.iter().filter(|(_, n)| *n != 0)
    }
}
