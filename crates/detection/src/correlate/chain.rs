//! Matches of a correlation that feed another one.
//!
//! A correlation matches from the event on with which it fires, with every event of its episode. That set only ever
//! grows, whatever comes late, so the correlation that it feeds need never take anything back.

use std::hash::BuildHasher;

use super::correlator::Correlator;
use super::key;
use super::mark::Held;
use super::slots::Counted;
use super::threshold::Threshold;
use crate::link::Consumer;
use crate::rule::Kind;
use crate::signals::join;

/// A match on its way to a group of the next correlation.
pub(super) struct Forwarded {
    pub key: Vec<u8>,
    pub number: u32,
    pub held: Held,
}

impl Correlator {
    /// Hands the matches of a group on to the groups they are counted in, those of the same chain.
    pub(super) fn forward(&mut self, key: &[u8], number: u32, matches: Vec<Held>, out: &mut Vec<Forwarded>) {
        if matches.is_empty() {
            return;
        }
        let Some(Counted::Windows { index, root, threshold }) =
            self.slots.get(number).map(|slot| slot.counted)
        else {
            return;
        };
        let rules = self.rules.clone();
        let Some(root_id) = self.slots.get(number).map(|slot| slot.root.clone()) else { return };
        let Some((_, org)) = key::owner(key) else { return };
        let Some((own, link)) = self.linked(index) else { return };
        if self.groups.org_name(org).is_some_and(|org| !rules.orgs.enabled(org, &own.meta.id)) {
            return;
        }
        let consumers = link.consumers.clone();
        for consumer in consumers {
            let Some((outer, link)) = self.linked(consumer.outer) else { continue };
            if !link.roots.iter().any(|(known, _)| *known == root) {
                continue;
            }
            let kind = outer.kind.clone();
            let outer_id = outer.meta.id.clone();
            let Some(outer) = self.slots.number(&outer_id, &root_id, &rules) else { continue };
            let values: Vec<&str> = key::texts(key).collect();
            let group = consumer.group.iter().filter_map(|&at| values.get(at).copied());
            let mut outer_key = Vec::new();
            key::write(&mut outer_key, outer, org, group);
            for held in &matches {
                let mut held = held.clone();
                held.mark.value = self.value_of(&kind, &consumer, &values, key, held.mark.time, &threshold);
                held.mark.weight = 1;
                out.push(Forwarded { key: outer_key.clone(), number: outer, held });
            }
        }
    }

    fn value_of(
        &self,
        kind: &Kind,
        consumer: &Consumer,
        values: &[&str],
        key: &[u8],
        time: i64,
        threshold: &Threshold,
    ) -> u64 {
        match kind {
            // Once for each group and each stretch of time of its timespan's length.
            Kind::EventCount => self.hasher.hash_one((key, time.div_euclid(threshold.timespan))),
            Kind::ValueCount(_) => {
                let counted = consumer.value.iter().filter_map(|&at| values.get(at).copied());
                match consumer.value.as_slice() {
                    [_] => self.hasher.hash_one(counted.collect::<String>().as_str()),
                    _ => self.hasher.hash_one(join(counted).as_str()),
                }
            }
            Kind::Temporal | Kind::TemporalOrdered => consumer.rule as u64,
        }
    }
}
