//! One schedule.

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// The choices of one seed, and what was done with them.
#[derive(Debug)]
pub struct Schedule {
    rng: SmallRng,
    steps: u64,
    told: Option<Vec<String>>,
}

impl Schedule {
    /// The schedule of this seed.
    pub fn of(seed: u64) -> Self {
        Self { rng: SmallRng::seed_from_u64(seed), steps: 0, told: None }
    }

    /// The same, and its steps can be read afterwards.
    pub(crate) fn told_of(seed: u64) -> Self {
        Self { told: Some(Vec::new()), ..Self::of(seed) }
    }

    /// A step is done. What it was is put into words only when somebody wants to know.
    pub fn step(&mut self, what: impl FnOnce() -> String) {
        self.steps += 1;
        self.tell(what);
    }

    /// What follows from a step.
    pub fn tell(&mut self, what: impl FnOnce() -> String) {
        if let Some(told) = &mut self.told {
            told.push(what());
        }
    }

    /// True in so many of a hundred cases.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    /// Less than `end`; 0 where there is nothing less.
    pub fn below(&mut self, end: usize) -> usize {
        if end < 2 { 0 } else { self.rng.random_range(0..end) }
    }

    /// One of these numbers, both ends included.
    pub fn within(&mut self, from: i64, to: i64) -> i64 {
        if from < to { self.rng.random_range(from..=to) } else { from }
    }

    /// One of them; none of none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    /// Any order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        items.shuffle(&mut self.rng);
    }

    /// How many steps were done.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    pub(crate) fn into_told(self) -> Vec<String> {
        self.told.unwrap_or_default()
    }
}
