//! Time in Postgres, and how far back live events may lie.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use schemas::Micros;

/// 2000-01-01T00:00:00Z, from which Postgres counts, in microseconds since 1970.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;
/// `MIN_TIMESTAMP` of Postgres' timestamp.h, 4714-11-24 BC, in microseconds since 2000. Its end, in the year 294276, lies
/// beyond what [`Micros`] can say.
const MIN: i64 = -211_813_488_000_000_000;

/// Months before the one in which an event was received that live events may lie in; as many partitions are kept back.
pub const MONTHS_BACK: i32 = 6;
/// Months after the present one for which partitions are made.
pub const MONTHS_AHEAD: i32 = 3;

/// Microseconds since 2000, or none where Postgres has no such time.
pub fn to_postgres(time: Micros) -> Option<i64> {
    time.0.checked_sub(POSTGRES_EPOCH).filter(|micros| *micros >= MIN)
}

/// The time that Postgres has so many microseconds after 2000.
pub fn from_postgres(micros: i64) -> Micros {
    Micros(micros.saturating_add(POSTGRES_EPOCH))
}

/// RFC 3339; a time beyond the years of a calendar becomes its end.
pub fn to_text(time: Micros) -> String {
    let end = if time.0 < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_microsecond(time.0).unwrap_or(end).to_string()
}

/// The start of the month that is `months` after the one `time` is in; none beyond the calendar.
pub fn month_start(time: Micros, months: i32) -> Option<Micros> {
    let date = Timestamp::from_microsecond(time.0).ok()?.to_zoned(TimeZone::UTC).date();
    let start = Date::new(date.year(), date.month(), 1).ok()?.checked_add(months.months()).ok()?;
    Some(Micros(start.to_zoned(TimeZone::UTC).ok()?.timestamp().as_microsecond()))
}

/// The oldest time that is stored, for the month of an event's arrival. Remembers the last month: arrivals come in order.
#[derive(Debug, Clone, Default)]
pub struct Horizon {
    month: std::ops::Range<i64>,
    oldest: Micros,
}

impl Horizon {
    /// The start of the month 6 months before the one of `received_at`.
    pub fn of(&mut self, received_at: Micros) -> Micros {
        if !self.month.contains(&received_at.0) {
            let start = |months| month_start(received_at, months).unwrap_or(Micros(i64::MIN));
            *self = Self { month: start(0).0..start(1).0, oldest: start(-MONTHS_BACK) };
        }
        self.oldest
    }
}

/// The months for which partitions are planned at one time. A time outside, in a column that somebody else's clock
/// has filled, is not worth stopping for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    from: Micros,
    to: Micros,
    now: Micros,
}

impl Planned {
    /// The plan as of `now`.
    pub fn at(now: Micros) -> Self {
        let start = |months| month_start(now, months).unwrap_or(now);
        Self { from: start(-MONTHS_BACK), to: start(MONTHS_AHEAD + 1), now }
    }

    /// Whether a partition should be there.
    pub fn contains(&self, time: Micros) -> bool {
        (self.from..self.to).contains(&time)
    }

    /// The time itself, or now where no partition is planned for it.
    pub fn or_now(&self, time: Micros) -> Micros {
        if self.contains(time) { time } else { self.now }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn micros(text: &str) -> Micros {
        Micros(text.parse::<Timestamp>().unwrap().as_microsecond())
    }

    #[rstest]
    #[case("2026-11-21T08:00:00Z", "2026-05-01T00:00:00Z")]
    #[case("2026-05-31T23:59:59.999999Z", "2025-11-01T00:00:00Z")]
    #[case("2026-06-01T00:00:00Z", "2025-12-01T00:00:00Z")]
    #[case("1970-01-01T00:00:00Z", "1969-07-01T00:00:00Z")]
    fn the_horizon_is_six_whole_months_back(#[case] received_at: &str, #[case] oldest: &str) {
        let mut horizon = Horizon::default();
        horizon.of(micros("2026-05-15T00:00:00Z"));
        assert_eq!(horizon.of(micros(received_at)), micros(oldest));
    }

    #[test]
    fn a_time_beyond_the_calendar_has_no_horizon() {
        assert_eq!(Horizon::default().of(Micros(i64::MAX)), Micros(i64::MIN));
        assert_eq!(Horizon::default().of(Micros(i64::MIN)), Micros(i64::MIN));
    }

    #[test]
    fn postgres_time_ends_where_postgres_says() {
        assert_eq!(to_postgres(Micros(POSTGRES_EPOCH)), Some(0));
        assert_eq!(to_postgres(Micros(MIN + POSTGRES_EPOCH)), Some(MIN));
        for out_of_range in [i64::MIN, MIN + POSTGRES_EPOCH - 1] {
            assert_eq!(to_postgres(Micros(out_of_range)), None);
        }
    }

    #[test]
    fn planned_months_are_six_back_and_three_ahead() {
        let now = micros("2026-11-21T08:00:00Z");
        let planned = Planned::at(now);
        for inside in ["2026-05-01T00:00:00Z", "2027-02-28T23:59:59Z"] {
            assert_eq!(planned.or_now(micros(inside)), micros(inside));
        }
        for outside in ["2026-04-30T23:59:59Z", "2027-03-01T00:00:00Z", "1970-01-01T00:00:00Z"] {
            assert_eq!(planned.or_now(micros(outside)), now);
        }
    }
}
