//! Rows of one table: encoded as they come, then put in order.

use ahash::AHashSet;
use bytes::{Bytes, BytesMut};
use schemas::Micros;

use super::counts::Orgs;

/// Where a row is and what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowAt {
    /// Where it begins in the rows' bytes.
    pub start: u32,
    /// Where it ends.
    pub end: u32,
    /// Ordinal of its record in the batch.
    pub record: u32,
    /// Ordinal in the record's array.
    pub item: u32,
    /// Number of its org.
    pub org: u32,
    /// Number of its group in the counts.
    pub group: u32,
}

/// Collects rows. Everything is kept for the next batch.
#[derive(Debug, Default)]
pub struct Builder {
    bytes: Vec<u8>,
    rows: Vec<RowAt>,
    times: Vec<i64>,
    order: Vec<u128>,
}

impl Builder {
    /// Forgets the rows.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.rows.clear();
        self.times.clear();
    }

    /// Where rows are appended.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Accepts what was appended since the last row as a row; its place is filled in.
    pub fn accept(&mut self, row: RowAt, time: Micros) {
        let (start, end) = (self.end(), self.bytes.len() as u32);
        self.rows.push(RowAt { start, end, ..row });
        self.times.push(time.0);
    }

    /// Drops what was appended since the last row.
    pub fn refuse(&mut self) {
        let end = self.end() as usize;
        self.bytes.truncate(end);
    }

    fn end(&self) -> u32 {
        self.rows.last().map_or(0, |row| row.end)
    }

    /// Rows in the order (org, time, arrival). `recycled` is a buffer of an earlier batch.
    pub fn finish(&mut self, orgs: &mut Orgs, recycled: Table) -> Table {
        let ranks = orgs.ranks();
        self.order.clear();
        self.order.extend(self.rows.iter().zip(&self.times).enumerate().map(|(arrival, (row, time))| {
            let rank = ranks.get(row.org as usize).copied().unwrap_or(u32::MAX);
            // Flipping the sign bit makes the order of signed times that of unsigned ones.
            let time = (*time as u64) ^ (1 << 63);
            u128::from(rank) << 96 | u128::from(time) << 32 | arrival as u128
        }));
        self.order.sort_unstable();

        let (mut bytes, mut rows) = recycled.into_buffers();
        bytes.reserve(self.bytes.len());
        rows.reserve(self.rows.len());
        for key in &self.order {
            let Some(row) = self.rows.get(*key as u32 as usize) else { continue };
            let start = bytes.len() as u32;
            bytes.extend_from_slice(self.bytes.get(row.start as usize..row.end as usize).unwrap_or_default());
            rows.push(RowAt { start, end: bytes.len() as u32, ..*row });
        }
        Table { bytes: bytes.freeze(), rows }
    }
}

/// Rows ready for COPY, without its header and trailer.
#[derive(Debug, Default)]
pub struct Table {
    bytes: Bytes,
    rows: Vec<RowAt>,
}

impl Table {
    /// The rows, in their order.
    pub fn rows(&self) -> &[RowAt] {
        &self.rows
    }

    /// The bytes of some of the rows.
    pub fn bytes(&self, rows: std::ops::Range<usize>) -> Bytes {
        match self.rows.get(rows).and_then(|rows| rows.first().zip(rows.last())) {
            Some((first, last)) => self.bytes.slice(first.start as usize..last.end as usize),
            None => Bytes::new(),
        }
    }

    /// Takes rows out.
    pub fn remove<'r>(&mut self, rows: impl Iterator<Item = &'r RowAt>) {
        let gone: AHashSet<u32> = rows.map(|row| row.start).collect();
        if gone.is_empty() {
            return;
        }
        let mut bytes = BytesMut::with_capacity(self.bytes.len());
        self.rows.retain_mut(|row| {
            let kept = !gone.contains(&row.start);
            if kept {
                let start = bytes.len() as u32;
                bytes.extend_from_slice(
                    self.bytes.get(row.start as usize..row.end as usize).unwrap_or_default(),
                );
                (row.start, row.end) = (start, bytes.len() as u32);
            }
            kept
        });
        self.bytes = bytes.freeze();
    }

    /// Its memory, emptied.
    fn into_buffers(self) -> (BytesMut, Vec<RowAt>) {
        let mut bytes = self.bytes.try_into_mut().unwrap_or_default();
        bytes.clear();
        let mut rows = self.rows;
        rows.clear();
        (bytes, rows)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(org: u32, item: u32) -> RowAt {
        RowAt { start: 0, end: 0, record: 0, item, org, group: 0 }
    }

    proptest! {
        #[test]
        fn rows_are_sorted_by_org_and_time_and_keep_their_bytes(
            input in prop::collection::vec((0usize..4, -3i64..3, prop::collection::vec(any::<u8>(), 1..9)), 0..50),
        ) {
            let names = ["zeta", "alpha", "m", "alpha-2"];
            let (mut orgs, mut builder) = (Orgs::default(), Builder::default());
            let mut expected = Vec::new();
            for (item, (org, time, bytes)) in input.iter().enumerate() {
                let number = orgs.number(names[*org]).unwrap();
                builder.buffer().extend_from_slice(b"refused");
                builder.refuse();
                builder.buffer().extend_from_slice(bytes);
                builder.accept(row(number, item as u32), Micros(*time));
                expected.push((names[*org], *time, item as u32, bytes.clone()));
            }
            expected.sort_by(|a, b| (a.0, a.1, a.2).cmp(&(b.0, b.1, b.2)));
            let table = builder.finish(&mut orgs, Table::default());
            prop_assert_eq!(table.rows().len(), expected.len());
            for (at, (_, _, item, bytes)) in expected.iter().enumerate() {
                prop_assert_eq!(table.rows()[at].item, *item);
                prop_assert_eq!(&table.bytes(at..at + 1)[..], &bytes[..]);
            }
            let all: Vec<u8> = expected.iter().flat_map(|(_, _, _, bytes)| bytes.clone()).collect();
            prop_assert_eq!(&table.bytes(0..expected.len())[..], &all[..]);

            let (mut table, odd): (_, Vec<_>) = (table, (1..expected.len()).step_by(2).collect());
            let gone: Vec<_> = odd.iter().map(|at| table.rows()[*at]).collect();
            table.remove(gone.iter());
            for (at, (_, _, item, bytes)) in expected.iter().step_by(2).enumerate() {
                prop_assert_eq!(table.rows()[at].item, *item);
                prop_assert_eq!(&table.bytes(at..at + 1)[..], &bytes[..]);
            }
        }
    }
}
