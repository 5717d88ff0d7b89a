//! Which month partitions are missing: calendar arithmetic, and nothing else.

use std::fmt;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// A calendar month in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month {
    /// Months since January of year 0.
    ordinal: i32,
}

impl Month {
    /// The month that `time` lies in.
    pub fn of(time: Timestamp) -> Self {
        let date = time.to_zoned(TimeZone::UTC).date();
        Self { ordinal: i32::from(date.year()) * 12 + i32::from(date.month()) - 1 }
    }

    /// The month so many after this one; before it when negative.
    pub fn plus(self, months: i32) -> Self {
        Self { ordinal: self.ordinal.saturating_add(months) }
    }

    /// Its first moment. The end is the start of the next one.
    pub fn start(self) -> Timestamp {
        let year = i16::try_from(self.ordinal.div_euclid(12));
        let month = i8::try_from(self.ordinal.rem_euclid(12) + 1);
        // Years that the calendar lacks are so far away that they are all the same.
        let Ok(year) = year else { return Timestamp::MAX };
        Date::new(year, month.unwrap_or(1), 1)
            .and_then(|date| date.to_zoned(TimeZone::UTC))
            .map_or(Timestamp::MAX, |zoned| zoned.timestamp())
    }

    /// The first moment after it.
    pub fn end(self) -> Timestamp {
        self.plus(1).start()
    }
}

impl fmt::Display for Month {
    /// As in a partition's name: `2026_11`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}_{:02}", self.ordinal.div_euclid(12), self.ordinal.rem_euclid(12) + 1)
    }
}

/// How many months there are to be beside the current one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// Before it.
    pub back: u16,
    /// After it.
    pub ahead: u16,
}

impl Default for Horizon {
    fn default() -> Self {
        Self { back: 6, ahead: 3 }
    }
}

/// A partition that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Existing {
    /// Its table.
    pub name: String,
    /// Its first moment; none when it has no lower bound.
    pub from: Option<Timestamp>,
    /// The first moment after it; none when it has no upper bound.
    pub to: Option<Timestamp>,
}

impl Existing {
    fn from(&self) -> Timestamp {
        self.from.unwrap_or(Timestamp::MIN)
    }

    fn to(&self) -> Timestamp {
        self.to.unwrap_or(Timestamp::MAX)
    }
}

/// A month that other partitions cover in part: making it would overlap them, leaving it would leave a hole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "month {month} is partly covered by {partition}: create the rest of it by hand, or detach that partition"
)]
pub struct Overlap {
    /// The month.
    pub month: Month,
    /// One of the partitions.
    pub partition: String,
}

/// The months within `horizon` of `now` that no partition covers, earliest first. Months that others (of a week, of a
/// day) cover completely are left alone.
///
/// # Errors
/// A month that is covered in part.
pub fn plan(now: Timestamp, horizon: Horizon, existing: &[Existing]) -> Result<Vec<Month>, Overlap> {
    let current = Month::of(now);
    let mut sorted: Vec<&Existing> = existing.iter().collect();
    sorted.sort_unstable_by_key(|partition| partition.from());
    let mut missing = Vec::new();
    for offset in -i32::from(horizon.back)..=i32::from(horizon.ahead) {
        let month = current.plus(offset);
        let (start, end) = (month.start(), month.end());
        let mut touching = sorted.iter().filter(|partition| partition.from() < end && partition.to() > start);
        let Some(first) = touching.next() else {
            missing.push(month);
            continue;
        };
        let mut reached = if first.from() <= start { first.to() } else { start };
        for next in touching {
            if next.from() <= reached {
                reached = reached.max(next.to());
            }
        }
        if reached < end {
            return Err(Overlap { month, partition: first.name.clone() });
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn partition(from: &str, to: &str) -> Existing {
        Existing { name: format!("p{from}"), from: Some(at(from)), to: Some(at(to)) }
    }

    fn names(months: &[Month]) -> Vec<String> {
        months.iter().map(Month::to_string).collect()
    }

    #[rstest]
    #[case::inside_a_year("2026-07-15T12:00:00Z", 1, 1, &["2026_06", "2026_07", "2026_08"])]
    #[case::over_new_year("2026-12-31T23:59:59.999999Z", 1, 1, &["2026_11", "2026_12", "2027_01"])]
    #[case::first_moment("2027-01-01T00:00:00Z", 1, 0, &["2026_12", "2027_01"])]
    #[case::the_31st_has_no_twin_in_february("2024-03-31T00:00:00Z", 1, 0, &["2024_02", "2024_03"])]
    #[case::only_now("2026-11-21T08:00:00Z", 0, 0, &["2026_11"])]
    #[case::before_1970("1970-01-10T00:00:00Z", 1, 0, &["1969_12", "1970_01"])]
    fn months_around_a_moment(
        #[case] now: &str,
        #[case] back: u16,
        #[case] ahead: u16,
        #[case] expected: &[&str],
    ) {
        assert_eq!(names(&plan(at(now), Horizon { back, ahead }, &[]).unwrap()), expected);
    }

    #[test]
    fn the_default_is_six_back_and_three_ahead() {
        let months = plan(at("2026-11-21T00:00:00Z"), Horizon::default(), &[]).unwrap();
        assert_eq!(months.len(), 10);
        assert_eq!(months.first().unwrap().to_string(), "2026_05");
        assert_eq!(months.last().unwrap().to_string(), "2027_02");
    }

    #[test]
    fn a_month_starts_at_midnight_utc_and_ends_where_the_next_starts() {
        let month = Month::of(at("2024-02-29T23:59:59Z"));
        assert_eq!(month.start(), at("2024-02-01T00:00:00Z"));
        assert_eq!(month.end(), at("2024-03-01T00:00:00Z"));
    }

    #[rstest]
    #[case::the_month_itself(&[("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z")], Ok(0))]
    #[case::two_halves(&[("2026-11-15T00:00:00Z", "2026-12-01T00:00:00Z"), ("2026-11-01T00:00:00Z", "2026-11-15T00:00:00Z")], Ok(0))]
    #[case::a_quarter(&[("2026-10-01T00:00:00Z", "2027-01-01T00:00:00Z")], Ok(0))]
    #[case::neighbours_only(&[("2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z"), ("2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z")], Ok(1))]
    #[case::a_hole_at_the_start(&[("2026-11-02T00:00:00Z", "2026-12-01T00:00:00Z")], Err(()))]
    #[case::a_hole_in_the_middle(&[("2026-11-01T00:00:00Z", "2026-11-10T00:00:00Z"), ("2026-11-11T00:00:00Z", "2026-12-01T00:00:00Z")], Err(()))]
    #[case::a_hole_at_the_end(&[("2026-11-01T00:00:00Z", "2026-11-30T00:00:00Z")], Err(()))]
    fn a_month_is_made_when_nothing_covers_it_and_refused_when_something_does_in_part(
        #[case] existing: &[(&str, &str)],
        #[case] expected: Result<usize, ()>,
    ) {
        let existing: Vec<_> = existing.iter().map(|(from, to)| partition(from, to)).collect();
        let planned = plan(at("2026-11-21T00:00:00Z"), Horizon { back: 0, ahead: 0 }, &existing);
        assert_eq!(planned.map(|months| months.len()).map_err(|_| ()), expected);
    }

    #[test]
    fn an_unbounded_partition_covers_its_side() {
        let existing = [Existing { name: "old".into(), from: None, to: Some(at("2026-10-01T00:00:00Z")) }];
        let planned = plan(at("2026-11-21T00:00:00Z"), Horizon { back: 6, ahead: 0 }, &existing).unwrap();
        assert_eq!(names(&planned), ["2026_10", "2026_11"]);
    }

    fn as_existing(month: &Month) -> Existing {
        Existing { name: month.to_string(), from: Some(month.start()), to: Some(month.end()) }
    }

    proptest! {
        #[test]
        fn a_plan_is_gapless_holds_now_and_leaves_nothing_to_do(
            seconds in -2_000_000_000_i64..4_000_000_000,
            back in 0_u16..40,
            ahead in 0_u16..40,
        ) {
            let now = Timestamp::from_second(seconds).unwrap();
            let horizon = Horizon { back, ahead };
            let months = plan(now, horizon, &[]).unwrap();
            prop_assert_eq!(months.len(), usize::from(back) + usize::from(ahead) + 1);
            prop_assert!(months.windows(2).all(|pair| pair[0].end() == pair[1].start()));
            prop_assert!(months.iter().any(|month| month.start() <= now && now < month.end()));
            let existing: Vec<_> = months.iter().map(as_existing).collect();
            prop_assert_eq!(plan(now, horizon, &existing), Ok(vec![]));
        }

        #[test]
        fn what_is_missing_is_made_and_nothing_else(
            seconds in 0_i64..4_000_000_000,
            kept in proptest::collection::vec(any::<bool>(), 10),
        ) {
            let now = Timestamp::from_second(seconds).unwrap();
            let all = plan(now, Horizon::default(), &[]).unwrap();
            let (present, absent): (Vec<_>, Vec<_>) = all.iter().zip(&kept).partition(|(_, kept)| **kept);
            let mut existing: Vec<_> = present.iter().map(|(month, _)| as_existing(month)).collect();
            existing.reverse();
            let absent: Vec<Month> = absent.into_iter().map(|(month, _)| *month).collect();
            prop_assert_eq!(plan(now, Horizon::default(), &existing), Ok(absent));
        }
    }
}
