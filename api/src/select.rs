//! Queries that cannot leave an org.
//!
//! A [`Select`] is the only kind of query that [`Scoped`](crate::store::Scoped) runs. It begins with `WHERE org = $1`, every
//! condition is a bracketed AND to that, and `$1` is bound by the connection, which was made for an org. Texts are
//! `&'static str`: no value of a request gets into the SQL but as a parameter.

use std::fmt::Write as _;

use postgres_types::{ToSql, Type};
use schemas::OrgId;
use uuid::Uuid;

use crate::time::Time;

/// A table that has the column `org`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    Events,
    Findings,
    Scans,
    Incidents,
    AuditLog,
    Counts,
    IncidentCounts,
    ScanCounts,
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Table::Events => "events",
            Table::Findings => "findings",
            Table::Scans => "scans",
            Table::Incidents => "incidents",
            Table::AuditLog => "audit_log",
            Table::Counts => "counts",
            Table::IncidentCounts => "incident_counts",
            Table::ScanCounts => "scan_counts",
        }
    }
}

/// A value and its type in Postgres.
#[derive(Debug)]
pub(crate) struct Param {
    pub(crate) value: Box<dyn ToSql + Sync + Send>,
    pub(crate) kind: Type,
}

/// What can be a parameter.
pub(crate) trait Value: ToSql + Sync + Send + Sized + 'static {
    const TYPE: Type;
}

/// A parameter with its type.
pub(crate) fn param<V: Value>(value: V) -> Param {
    Param { value: Box::new(value), kind: V::TYPE }
}

macro_rules! values {
    ($($kind:ty = $name:ident),+ $(,)?) => {
        $(impl Value for $kind {
            const TYPE: Type = Type::$name;
        })+
    };
}

values! {
    i32 = INT4,
    i64 = INT8,
    String = TEXT,
    Uuid = UUID,
    Time = TIMESTAMPTZ,
    Vec<i32> = INT4_ARRAY,
    Vec<i64> = INT8_ARRAY,
    Vec<String> = TEXT_ARRAY,
    serde_json::Value = JSONB,
}

/// A SELECT of one org's rows of one table.
#[derive(Debug)]
pub(crate) struct Select {
    /// Its name in the log and in metrics.
    pub(crate) name: &'static str,
    sql: String,
    tail: String,
    params: Vec<Param>,
    ranges: Option<Vec<(Time, Time)>>,
}

impl Select {
    /// `columns` of `table`, under `name`.
    pub(crate) fn new(name: &'static str, table: Table, columns: &'static str) -> Self {
        let sql = format!("SELECT {columns} FROM {} WHERE org = $1", table.name());
        Self { name, sql, tail: String::new(), params: Vec::new(), ranges: None }
    }

    /// Adds a condition with a `?` for every parameter.
    pub(crate) fn and<const N: usize>(mut self, condition: &'static str, params: [Param; N]) -> Self {
        self.sql.push_str(" AND (");
        self.push_condition(condition, params.len());
        self.sql.push(')');
        self.params.extend(params);
        self
    }

    /// Adds a condition if there is a value to compare with.
    pub(crate) fn and_if<V: Value>(self, condition: &'static str, value: Option<V>) -> Self {
        match value {
            Some(value) => self.and(condition, [param(value)]),
            None => self,
        }
    }

    /// Adds that the column `time` lies in one of the ranges, both ends included; nothing does when there are none.
    /// Not to be combined with grouping, order or limit.
    ///
    /// Every range is a SELECT of its own: of an OR the planner may make a scan of all times.
    pub(crate) fn and_within(mut self, ranges: Vec<(Time, Time)>) -> Self {
        self.ranges = Some(ranges);
        self
    }

    /// Adds GROUP BY.
    pub(crate) fn group_by(mut self, columns: &'static str) -> Self {
        let _ = write!(self.tail, " GROUP BY {columns}");
        self
    }

    /// Adds ORDER BY.
    pub(crate) fn order_by(mut self, columns: &'static str) -> Self {
        let _ = write!(self.tail, " ORDER BY {columns}");
        self
    }

    /// Adds LIMIT.
    pub(crate) fn limit(mut self, rows: usize) -> Self {
        let _ = write!(self.tail, " LIMIT {rows}");
        self
    }

    fn push_condition(&mut self, condition: &'static str, params: usize) {
        let mut at = self.params.len() + 1;
        let mut parts = condition.split('?');
        self.sql.push_str(parts.next().unwrap_or_default());
        for part in parts {
            at += 1;
            let _ = write!(self.sql, "${at}{part}");
        }
        debug_assert_eq!(at, self.params.len() + 1 + params, "{condition}");
    }

    /// The text, and every parameter with the org as the first.
    pub(crate) fn for_org(self, org: &OrgId) -> (String, Vec<Param>) {
        let Self { mut sql, tail, mut params, ranges, .. } = self;
        if let Some(ranges) = ranges {
            let mut branches = Vec::with_capacity(ranges.len());
            for (first, last) in ranges {
                let at = params.len() + 2;
                branches.push(format!("{sql} AND time BETWEEN ${at} AND ${}", at + 1));
                params.extend([param(first), param(last)]);
            }
            sql = if branches.is_empty() { sql + " AND false" } else { branches.join(" UNION ALL ") };
        }
        sql.push_str(&tail);
        params.insert(0, param(org.as_str().to_owned()));
        (sql, params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_bracketed_and_their_parameters_come_after_the_org() {
        let select = Select::new("x", Table::Events, "message")
            .and("time >= ? OR time < ?", [param(Time(1)), param(Time(2))])
            .and_if("host = ?", Some("a".to_owned()))
            .and_if("host = ?", None::<String>)
            .order_by("time DESC")
            .limit(5);
        let (sql, params) = select.for_org(&"demo".parse().unwrap());
        assert_eq!(
            sql,
            "SELECT message FROM events WHERE org = $1 AND (time >= $2 OR time < $3) AND (host = $4) ORDER BY time DESC LIMIT \
             5"
        );
        let kinds: Vec<_> = params.iter().map(|param| param.kind.name()).collect();
        assert_eq!(kinds, ["text", "timestamptz", "timestamptz", "text"]);
    }

    #[test]
    fn every_range_of_time_is_a_query_of_the_org() {
        let ranges = |ranges: &[(i64, i64)]| {
            let ranges = ranges.iter().map(|(first, last)| (Time(*first), Time(*last))).collect();
            let select = Select::new("x", Table::Events, "message").and("host = ?", [param("a".to_owned())]);
            select.and_within(ranges).for_org(&"demo".parse().unwrap())
        };
        let (sql, params) = ranges(&[(1, 2), (3, 4)]);
        assert_eq!(
            sql,
            "SELECT message FROM events WHERE org = $1 AND (host = $2) AND time BETWEEN $3 AND $4 UNION ALL SELECT message \
             FROM events WHERE org = $1 AND (host = $2) AND time BETWEEN $5 AND $6"
        );
        assert_eq!(params.len(), 6);
        assert!(ranges(&[]).0.ends_with(" AND false"));
    }
}
