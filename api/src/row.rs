//! Reading rows column by column, and the small types that several answers share.

use std::fmt;

use postgres_types::FromSql;
use serde::{Serialize, Serializer};
use tokio_postgres::{Error, Row};
use utoipa::ToSchema;

use crate::names;

/// The columns of a row, from the left.
pub(crate) struct Columns<'a> {
    row: &'a Row,
    next: usize,
}

impl<'a> Columns<'a> {
    pub(crate) fn of(row: &'a Row) -> Self {
        Self { row, next: 0 }
    }

    /// The next column.
    pub(crate) fn take<T: FromSql<'a>>(&mut self) -> Result<T, Error> {
        let at = self.next;
        self.next += 1;
        self.row.try_get(at)
    }
}

/// What is made from a row.
pub(crate) trait FromRow<'a>: Sized {
    fn from_row(row: &'a Row) -> Result<Self, Error>;
}

/// Identity of an event or finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Id<'a> {
    pub(crate) stream: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) index: i32,
}

impl<'a> Id<'a> {
    /// Reads `events/3/1042/17`.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split('/');
        let stream = parts.next().filter(|name| schemas::Stream::from_name(name).is_some())?;
        let id = Self {
            stream,
            partition: parts.next()?.parse().ok().filter(|number| *number >= 0)?,
            offset: parts.next()?.parse().ok().filter(|number| *number >= 0)?,
            index: parts.next()?.parse().ok().filter(|number| *number >= 0)?,
        };
        parts.next().is_none().then_some(id)
    }
}

impl fmt::Display for Id<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.stream, self.partition, self.offset, self.index)
    }
}

impl Serialize for Id<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Flags, shown as the names of those that are set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flags(pub(crate) i32);

impl Serialize for Flags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(names::flag_names(self.0))
    }
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// Newest first. May be fewer than asked for, even none, before the end of the walk.
    pub(crate) items: Vec<T>,
    /// For the next page, with all other parameters unchanged; null at the end.
    pub(crate) next_cursor: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back() {
        let id = Id { stream: "events", partition: 3, offset: 1042, index: 17 };
        assert_eq!(id.to_string(), "events/3/1042/17");
        assert_eq!(Id::parse("events/3/1042/17"), Some(id));
        for none in [
            "",
            "events",
            "events/3/1042",
            "events/3/1042/17/",
            "other/3/1042/17",
            "events/-1/0/0",
            "events/a/0/0",
        ] {
            assert_eq!(Id::parse(none), None, "{none}");
        }
    }
}
