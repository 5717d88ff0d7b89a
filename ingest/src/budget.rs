//! How much may be under way at once: bytes taken in and not yet acknowledged by the broker.
//!
//! A push holds a [`Lease`] that grows while its body arrives and is decompressed. What does not fit is refused at
//! once: memory stays bounded and the sender keeps the data.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::problem::Problem;

/// A bounded count of bytes.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    /// Room for `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0) }
    }

    /// Bytes under way.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        self.used
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|used| *used <= self.limit)
            })
            .is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// An org and what it has under way.
#[derive(Debug)]
pub struct Org {
    /// Its id.
    pub id: Box<str>,
    /// Its share.
    pub budget: Budget,
}

/// Bytes that one push holds, of its org's budget and of the whole.
#[derive(Debug)]
pub struct Lease {
    whole: Arc<Budget>,
    org: Arc<Org>,
    bytes: usize,
}

/// Whose budget is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exhausted {
    /// The org's own.
    Org,
    /// That of the process.
    Whole,
}

impl From<Exhausted> for Problem {
    fn from(exhausted: Exhausted) -> Self {
        match exhausted {
            Exhausted::Org => Problem::too_many("your org has too many bytes under way; wait for answers"),
            Exhausted::Whole => Problem::unavailable("too many bytes are under way; try again"),
        }
    }
}

impl Lease {
    /// A lease of nothing yet.
    pub fn new(whole: Arc<Budget>, org: Arc<Org>) -> Self {
        Self { whole, org, bytes: 0 }
    }

    /// Adds `bytes` to the lease.
    ///
    /// # Errors
    /// Whose budget does not have them; the lease stays as it was.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Exhausted> {
        if !self.org.budget.take(bytes) {
            return Err(Exhausted::Org);
        }
        if !self.whole.take(bytes) {
            self.org.budget.give_back(bytes);
            return Err(Exhausted::Whole);
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.org.budget.give_back(self.bytes);
        self.whole.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_holds_its_bytes_until_it_is_dropped() {
        let whole = Arc::new(Budget::new(100));
        let org = |limit| Arc::new(Org { id: "demo".into(), budget: Budget::new(limit) });
        let (small, large) = (org(50), org(500));
        let mut first = Lease::new(whole.clone(), small.clone());
        assert_eq!(first.grow(50), Ok(()));
        assert_eq!(first.grow(1), Err(Exhausted::Org));
        let mut second = Lease::new(whole.clone(), large.clone());
        assert_eq!(second.grow(51), Err(Exhausted::Whole));
        assert_eq!((large.budget.used(), whole.used()), (0, 50));
        drop(first);
        assert_eq!(second.grow(51), Ok(()));
        assert_eq!((small.budget.used(), large.budget.used(), whole.used()), (0, 51, 51));
        assert_eq!(second.grow(usize::MAX), Err(Exhausted::Org));
    }
}
