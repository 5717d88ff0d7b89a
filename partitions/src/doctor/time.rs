//! Times as people and Postgres read them; here they are microseconds since 1970.

use jiff::Timestamp;

fn timestamp(micros: i64) -> Timestamp {
    let end = if micros < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_microsecond(micros).unwrap_or(end)
}

/// `2026-11-21T08`, an hour in UTC.
pub(super) fn hour(micros: i64) -> String {
    timestamp(micros).strftime("%Y-%m-%dT%H").to_string()
}

/// To the microsecond.
pub(super) fn exact(micros: i64) -> String {
    timestamp(micros).to_string()
}

/// As a literal of SQL.
pub(super) fn literal(micros: i64) -> String {
    format!("'{}'::timestamptz", timestamp(micros))
}
