//! The rules that groups belong to, by number.

use std::sync::Arc;

use ahash::AHashMap;

use super::threshold::Threshold;
use crate::rules::{Known, Rules};

/// A rule, and the chain it is counted for.
#[derive(Debug)]
pub(super) struct Slot {
    pub id: Arc<str>,
    /// The chain's last correlation.
    pub root: Arc<str>,
    pub counted: Counted,
}

/// What a slot's groups are, by the rules of now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    /// The rule is not there any more.
    Gone,
    /// Alerts of a single rule.
    Alerts,
    /// Windows of a correlation.
    Windows {
        /// Index of the correlation.
        index: usize,
        /// Index of the root.
        root: usize,
        threshold: Threshold,
    },
}

impl Counted {
    /// Whether its incidents are published, not only counted by another correlation.
    pub(super) fn is_published(&self) -> bool {
        match self {
            Self::Gone => false,
            Self::Alerts => true,
            Self::Windows { index, root, .. } => index == root,
        }
    }
}

/// All slots. Their numbers stay when rules are replaced.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    by_id: AHashMap<Arc<str>, Vec<u32>>,
}

impl Slots {
    pub(super) fn get(&self, number: u32) -> Option<&Slot> {
        self.slots.get(usize::try_from(number).ok()?)
    }

    /// Number of the slot of rule `id` counted for `root`, made if the rules have it.
    pub(super) fn number(&mut self, id: &str, root: &str, rules: &Rules) -> Option<u32> {
        let numbers = self.by_id.get(id).map_or(&[][..], Vec::as_slice);
        if let Some(&number) = numbers.iter().find(|&&n| self.get(n).is_some_and(|slot| *slot.root == *root))
        {
            let gone = self.get(number).is_none_or(|slot| slot.counted == Counted::Gone);
            return (!gone).then_some(number);
        }
        let counted = counted(id, root, rules);
        if counted == Counted::Gone {
            return None;
        }
        let number = u32::try_from(self.slots.len()).ok()?;
        let id: Arc<str> = id.into();
        self.slots.push(Slot { id: id.clone(), root: root.into(), counted });
        self.by_id.entry(id).or_default().push(number);
        Some(number)
    }

    /// Goes by other rules. The slots whose groups cannot go on are returned.
    pub(super) fn replace_rules(&mut self, before: &Rules, rules: &Rules) -> Vec<u32> {
        let mut changed = Vec::new();
        for (number, slot) in (0u32..).zip(&mut self.slots) {
            let counted = counted(&slot.id, &slot.root, rules);
            let goes_on = match (slot.counted, counted) {
                (Counted::Alerts, Counted::Alerts) => true,
                (
                    Counted::Windows { index: old, threshold: was, .. },
                    Counted::Windows { index: new, threshold, .. },
                ) => was == threshold && same_groups(before, old, rules, new),
                _ => false,
            };
            slot.counted = counted;
            if !goes_on {
                changed.push(number);
            }
        }
        changed
    }
}

/// Whether what the correlation counts has the same meaning as before.
fn same_groups(before: &Rules, old: usize, rules: &Rules, new: usize) -> bool {
    let (Some(Known::Correlation(old, old_link)), Some(Known::Correlation(new, link))) =
        (before.correlation(old), rules.correlation(new))
    else {
        return false;
    };
    old.kind == new.kind && old.group_by == new.group_by && old_link.members == link.members
}

fn counted(id: &str, root: &str, rules: &Rules) -> Counted {
    match rules.known(id) {
        None => Counted::Gone,
        Some(Known::Alert(_)) => Counted::Alerts,
        Some(Known::Correlation(rule, link)) => {
            let (Some(index), Some(root)) = (rules.correlation_index(id), rules.correlation_index(root))
            else {
                return Counted::Gone;
            };
            if !link.roots.iter().any(|(known, _)| *known == root) {
                return Counted::Gone;
            }
            Counted::Windows { index, root, threshold: Threshold::of(rule, link) }
        }
    }
}
