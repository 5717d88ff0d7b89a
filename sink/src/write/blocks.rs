//! Counts by blocks of orgs, as `count_block` keeps them.
//!
//! A transaction of 20,000 rows of 5,000 orgs touches some 15,000 pairs of org and group. Upserting a row for each costs
//! Postgres 4.6 µs a pair; a row for 64 orgs each costs 0.4 µs a pair.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::AHashMap;
use schemas::Stream;
use tokio_postgres::{Client, Error, Statement};

use crate::prepare::Prepared;
use crate::prepare::counts::Group;

/// Gives orgs their numbers, where they have none.
pub const NUMBERS: &str = "SELECT org, number FROM sink_org_numbers($1)";

/// Orgs in a block.
pub const BLOCK_ORGS: usize = 64;
/// Orgs remembered; more are asked for anew.
const MAX_ORGS: usize = 1 << 17;

/// The numbers of orgs in `count_org`, which never change.
#[derive(Debug, Default)]
pub struct OrgNumbers {
    known: AHashMap<Arc<str>, i32>,
}

/// Primary key of a row of `count_block`, the slot aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockKey {
    /// Number of the block.
    pub block: i32,
    /// Hours since 1970.
    pub hour: i32,
    /// The stream.
    pub stream: Stream,
    /// OCSF class.
    pub class_uid: i32,
    /// OCSF severity.
    pub severity_id: i32,
}

/// What is to be added to `count_block`.
pub type Blocks = BTreeMap<BlockKey, [i64; BLOCK_ORGS]>;

impl OrgNumbers {
    /// Asks for the numbers of a batch's orgs that are not known yet. Outside of a transaction, so that no lock on a new
    /// org's row outlives the question.
    ///
    /// # Errors
    /// The query's.
    pub async fn learn(
        &mut self,
        client: &Client,
        statement: &Statement,
        prepared: &Prepared,
    ) -> Result<(), Error> {
        if self.known.len() > MAX_ORGS {
            self.known.clear();
        }
        let mut new: Vec<&Arc<str>> =
            orgs(prepared).map(|(org, _)| org).filter(|org| !self.known.contains_key(*org)).collect();
        new.sort_unstable();
        new.dedup();
        if new.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = new.iter().map(|org| &***org).collect();
        for row in client.query(statement, &[&names]).await? {
            self.known.insert(row.try_get::<_, &str>(0)?.into(), row.try_get(1)?);
        }
        Ok(())
    }

    /// A batch's counts by blocks; none if an org's number is not known.
    pub fn blocks(&self, prepared: &Prepared) -> Option<Blocks> {
        let mut blocks = Blocks::new();
        let mut last: Option<(&Arc<str>, i32)> = None;
        for (org, (group, n)) in orgs(prepared) {
            let number = match last {
                Some((name, number)) if Arc::ptr_eq(name, org) => number,
                _ => *self.known.get(org)?,
            };
            last = Some((org, number));
            let number = usize::try_from(number).ok()?;
            let key = BlockKey {
                block: i32::try_from(number / BLOCK_ORGS).ok()?,
                hour: group.hour,
                stream: group.stream,
                class_uid: group.class_uid,
                severity_id: group.severity_id,
            };
            *blocks.entry(key).or_insert([0; BLOCK_ORGS]).get_mut(number % BLOCK_ORGS)? += n;
        }
        Some(blocks)
    }
}

/// The groups that have rows, with their orgs' names.
fn orgs(prepared: &Prepared) -> impl Iterator<Item = (&Arc<str>, &(Group, i64))> {
    prepared.counts.rows().filter_map(|row| Some((prepared.org_names.get(row.0.org as usize)?, row)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_counts_64_orgs_in_their_places() {
        let org_names = ["a", "b", "c"].map(Arc::from).to_vec();
        let mut prepared = Prepared { org_names, ..Prepared::default() };
        let group = |org, hour| Group { org, stream: Stream::Events, hour, class_uid: 1, severity_id: 2 };
        for (org, hour) in [(0, 7), (0, 7), (1, 7), (2, 7), (0, 8)] {
            prepared.counts.add(group(org, hour));
        }
        let taken_back = prepared.counts.add(group(2, 9));
        prepared.counts.remove(taken_back);
        let known = [("a", 0), ("b", 63)].map(|(org, number)| (Arc::from(org), number)).into();
        let mut numbers = OrgNumbers { known };
        assert_eq!(numbers.blocks(&prepared), None);
        numbers.known.insert(Arc::from("c"), 64);

        let blocks = numbers.blocks(&prepared).unwrap();
        let places = |block, hour| {
            let key = BlockKey { block, hour, stream: Stream::Events, class_uid: 1, severity_id: 2 };
            let places = blocks[&key].iter().enumerate().filter(|(_, n)| **n != 0);
            places.map(|(place, n)| (place, *n)).collect::<Vec<_>>()
        };
        assert_eq!(blocks.len(), 3);
        assert_eq!(places(0, 7), [(0, 2), (63, 1)]);
        assert_eq!(places(1, 7), [(0, 1)]);
        assert_eq!(places(0, 8), [(0, 1)]);
    }
}
