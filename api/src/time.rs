//! A point in time as Postgres and the API have it.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use bytes::BytesMut;
use jiff::Timestamp;
use postgres_types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};
use serde::{Serialize, Serializer};

/// 2000-01-01T00:00:00Z, from which Postgres counts.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Microseconds since 1970. Shown as RFC 3339 in UTC with six decimals, so that texts order as times do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Time(pub(crate) i64);

/// A text that is no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a time as RFC 3339 has it, such as 2026-11-21T08:30:00Z")]
pub(crate) struct NoTime;

impl Time {
    pub(crate) const SECOND: i64 = 1_000_000;

    pub(crate) fn now() -> Self {
        Self(Timestamp::now().as_microsecond())
    }

    /// So many microseconds later; earlier when negative.
    pub(crate) fn plus(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// The start of the hour that it lies in.
    pub(crate) fn hour(self) -> Self {
        Self(self.0.saturating_sub(self.0.rem_euclid(3600 * Self::SECOND)))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Infinity and what lies beyond the calendar: as far as the calendar goes.
        let nearest = if self.0 < 0 { Timestamp::MIN } else { Timestamp::MAX };
        let timestamp = Timestamp::from_microsecond(self.0).unwrap_or(nearest);
        write!(f, "{timestamp:.6}")
    }
}

impl FromStr for Time {
    type Err = NoTime;

    fn from_str(text: &str) -> Result<Self, NoTime> {
        text.parse::<Timestamp>().map(|timestamp| Self(timestamp.as_microsecond())).map_err(|_| NoTime)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'a> FromSql<'a> for Time {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let since_2000 = i64::from_be_bytes(raw.try_into()?);
        Ok(Self(since_2000.saturating_add(POSTGRES_EPOCH_MICROS)))
    }

    accepts!(TIMESTAMPTZ);
}

impl ToSql for Time {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.0.saturating_sub(POSTGRES_EPOCH_MICROS).to_be_bytes());
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_utc_with_six_decimals() {
        let time: Time = "2026-11-21T09:30:00.25+01:00".parse().unwrap();
        assert_eq!(time.to_string(), "2026-11-21T08:30:00.250000Z");
        assert_eq!(time.hour().to_string(), "2026-11-21T08:00:00.000000Z");
        assert_eq!(Time(-1).hour().to_string(), "1969-12-31T23:00:00.000000Z");
    }

    #[test]
    fn times_beyond_the_calendar_do_not_break_a_page() {
        assert_eq!(Time(i64::MAX).to_string(), "9999-12-30T22:00:00.999999Z");
        assert_eq!(Time(i64::MIN).to_string(), "-009999-01-02T01:59:59.000000Z");
    }

    #[test]
    fn a_time_without_zone_is_none() {
        for text in ["2026-11-21", "2026-11-21T08:30:00", "yesterday", ""] {
            assert_eq!(text.parse::<Time>(), Err(NoTime), "{text}");
        }
    }
}
