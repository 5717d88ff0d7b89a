//! Identity of a row: the raw record it came from and its place in it.

use crate::encode::Row;

/// (raw partition, raw offset, ordinal in the raw record).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Raw partition.
    pub partition: i32,
    /// Raw offset.
    pub offset: i64,
    /// Ordinal in the raw record.
    pub index: i32,
}

impl Identity {
    /// Appends the columns kpart, koffset and kindex.
    pub fn put(self, row: &mut Row<'_>) {
        row.int4(self.partition);
        row.int8(self.offset);
        row.int4(self.index);
    }
}
