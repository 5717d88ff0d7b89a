//! What was looked at, and what does not add up.

use serde::Serialize;

/// Told one by one; of more there is only the number.
const MAX_TOLD: usize = 20;

/// Something that does not add up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where: `events/3`, `org demo`, `incident …`.
    pub at: String,
    /// What.
    pub what: String,
}

/// One of the equations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What it was checked on.
    pub on: String,
    /// What does not add up, the first of it.
    pub problems: Vec<Problem>,
    /// How much there is of it.
    pub total: u64,
    /// What to do about it.
    pub hint: &'static str,
}

impl Check {
    pub(super) fn new(name: &'static str, hint: &'static str) -> Self {
        Self { name, on: String::new(), problems: Vec::new(), total: 0, hint }
    }

    pub(super) fn found(&mut self, at: impl ToString, what: impl Into<String>) {
        self.total += 1;
        if self.has_room() {
            self.problems.push(Problem { at: at.to_string(), what: what.into() });
        }
    }

    /// Counts further problems that are not told.
    pub(super) fn found_more(&mut self, count: u64) {
        self.total += count;
    }

    /// Whether another problem would be told.
    pub(super) fn has_room(&self) -> bool {
        self.problems.len() < MAX_TOLD
    }

    /// Whether nothing was found.
    pub fn is_ok(&self) -> bool {
        self.total == 0
    }
}
