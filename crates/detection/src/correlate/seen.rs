//! Recently seen uids of keyed events, bounded.

use std::collections::VecDeque;

use ahash::AHashSet;
use uuid::Uuid;

/// The last uids seen, each together with the group it was seen in; the oldest make way for new ones.
#[derive(Debug)]
pub(super) struct Seen {
    set: AHashSet<(u64, Uuid)>,
    order: VecDeque<(u64, Uuid)>,
    capacity: usize,
}

impl Seen {
    pub(super) fn new(capacity: usize) -> Self {
        Self { set: AHashSet::new(), order: VecDeque::new(), capacity }
    }

    /// Enters the uid; false if it was there.
    pub(super) fn enter(&mut self, group: u64, uid: Uuid) -> bool {
        if !self.set.insert((group, uid)) {
            return false;
        }
        self.order.push_back((group, uid));
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_counts_once_a_group_until_it_has_aged() {
        let mut seen = Seen::new(2);
        let uid = Uuid::from_u128;
        assert!(seen.enter(1, uid(1)) && seen.enter(2, uid(1)));
        assert!(!seen.enter(1, uid(1)));
        assert!(seen.enter(1, uid(2)));
        assert!(seen.enter(1, uid(1)), "it had made way");
    }
}
