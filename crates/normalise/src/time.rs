//! Times as logs write them, to microseconds since 1970.
//!
//! Days are counted as in Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms"; the tests hold
//! every result against `jiff`. A time without a zone is taken for UTC.

use schemas::Micros;

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// A time, and whether microseconds hold all that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time {
    pub micros: Micros,
    pub exact: bool,
}

impl Time {
    fn exact(micros: i64) -> Self {
        Self { micros: Micros(micros), exact: true }
    }
}

/// RFC 3339 in UTC, for people.
pub(crate) fn rfc3339(time: Micros) -> String {
    jiff::Timestamp::from_microsecond(time.0).map_or_else(|_| time.0.to_string(), |time| time.to_string())
}

/// Reads a time as [`event`](crate::event) does: RFC 3339 and its common variants, or an epoch.
pub fn parse_time(text: &str) -> Option<Micros> {
    parse(text).map(|time| time.micros)
}

/// A time as text: RFC 3339 (a blank for the `T` or before the zone, a comma for the point, no zone: all common) or
/// an epoch.
pub(crate) fn parse(text: &str) -> Option<Time> {
    let mut cursor = Cursor { rest: text.as_bytes() };
    match iso(&mut cursor) {
        Some(time) if cursor.rest.is_empty() => Some(time),
        _ => epoch(text),
    }
}

/// Seconds, milliseconds, microseconds or nanoseconds since 1970, told apart by magnitude: seconds reach to
/// the year 5138, and so do the others in their unit. Decimal places are allowed.
pub(crate) fn epoch(text: &str) -> Option<Time> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || whole.len() > 19 || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let whole: i64 = whole.parse().ok()?;
    // Decimal places of the unit that fit into a microsecond.
    let places: u32 = match whole {
        0..100_000_000_000 => 6,
        100_000_000_000..100_000_000_000_000 => 3,
        100_000_000_000_000..100_000_000_000_000_000 => 0,
        _ => return Some(signed(negative, whole / 1_000, whole % 1_000 == 0)),
    };
    let (part, exact) = decimals(fraction.as_bytes(), places);
    Some(signed(negative, whole.checked_mul(10i64.pow(places))?.checked_add(part)?, exact))
}

fn signed(negative: bool, micros: i64, exact: bool) -> Time {
    Time { micros: Micros(if negative { -micros } else { micros }), exact }
}

/// The first `places` of the decimals, as an integer, and whether those left out are zero.
fn decimals(digits: &[u8], places: u32) -> (i64, bool) {
    let (taken, dropped) = digits.split_at_checked(places as usize).unwrap_or((digits, &[]));
    let value = taken.iter().fold(0i64, |value, digit| value * 10 + i64::from(digit - b'0'));
    let missing = places.saturating_sub(taken.len() as u32);
    (value * 10i64.pow(missing), dropped.iter().all(|digit| *digit == b'0'))
}

/// Reads ASCII from the front.
pub(crate) struct Cursor<'a> {
    pub rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// A number of exactly `count` digits.
    fn number(&mut self, count: usize) -> Option<i64> {
        let (digits, rest) = self.rest.split_at_checked(count)?;
        let mut value = 0;
        for digit in digits {
            if !digit.is_ascii_digit() {
                return None;
            }
            value = value * 10 + i64::from(digit - b'0');
        }
        self.rest = rest;
        Some(value)
    }

    /// One byte out of `allowed`.
    pub fn one_of(&mut self, allowed: &[u8]) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        allowed.contains(first).then(|| {
            self.rest = rest;
            *first
        })
    }

    /// A month's English short name, 1 to 12.
    fn month(&mut self) -> Option<i64> {
        const NAMES: [&[u8; 3]; 12] =
            [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
        let (name, rest) = self.rest.split_first_chunk::<3>()?;
        let at = NAMES.iter().position(|known| *known == name)?;
        self.rest = rest;
        Some(at as i64 + 1)
    }

    /// `10/Oct/2000` with that separator: microseconds from 1970 to its start.
    fn day_first(&mut self, separator: &[u8]) -> Option<i64> {
        let day = self.number(2)?;
        self.one_of(separator)?;
        let month = self.month()?;
        self.one_of(separator)?;
        day_start(self.number(4)?, month, day)
    }

    /// A day of the month of one or two digits, a blank in front of a single one.
    fn day(&mut self) -> Option<i64> {
        self.one_of(b" ");
        match self.rest {
            [_, second, ..] if second.is_ascii_digit() => self.number(2),
            _ => self.number(1),
        }
    }

    /// `hh:mm:ss`, the seconds optional where `short`, and decimals: microseconds of the day.
    fn clock(&mut self, short: bool) -> Option<(i64, bool)> {
        let hour = self.number(2)?;
        self.one_of(b":")?;
        let minute = self.number(2)?;
        let second = match self.one_of(b":") {
            Some(_) => self.number(2)?,
            None if short => 0,
            None => return None,
        };
        if hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let mut micros = hour * HOUR + minute * MINUTE + second * SECOND;
        let mut exact = true;
        if matches!(self.rest, [b'.' | b',', digit, ..] if digit.is_ascii_digit()) {
            self.one_of(b".,");
            let count = self.rest.iter().take_while(|b| b.is_ascii_digit()).count();
            let (digits, rest) = self.rest.split_at_checked(count)?;
            let part;
            (part, exact) = decimals(digits, 6);
            micros += part;
            self.rest = rest;
        }
        Some((micros, exact))
    }

    /// `Z`, `±hh:mm`, `±hhmm`, `±hh` or nothing: microseconds east of UTC.
    fn zone(&mut self) -> Option<i64> {
        if self.one_of(b"Zz").is_some() {
            return Some(0);
        }
        let Some(sign) = self.one_of(b"+-") else { return Some(0) };
        let hour = self.number(2)?;
        self.one_of(b":");
        let minute = match self.rest.first() {
            Some(digit) if digit.is_ascii_digit() => self.number(2)?,
            _ => 0,
        };
        if hour > 23 || minute > 59 {
            return None;
        }
        let east = hour * HOUR + minute * MINUTE;
        Some(if sign == b'-' { -east } else { east })
    }

    /// ` ±hh:mm` or ` ±hhmm`, the zone behind a blank; none, and nothing read, for anything else.
    fn zone_apart(&mut self) -> Option<i64> {
        let text =
            self.rest.strip_prefix(b" ").filter(|text| text.starts_with(b"+") || text.starts_with(b"-"))?;
        let mut ahead = Cursor { rest: text };
        let east = ahead.zone()?;
        let read = text.len() - ahead.rest.len();
        // A shorter one may be any number.
        let whole = matches!(read, 5 | 6) && !ahead.rest.first().is_some_and(u8::is_ascii_digit);
        whole.then(|| {
            self.rest = ahead.rest;
            east
        })
    }
}

/// `2025-11-21T08:30:20.966901Z` and its relatives, such as Ruby's `2025-11-21 08:30:20 -0500`.
pub(crate) fn iso(cursor: &mut Cursor<'_>) -> Option<Time> {
    let year = cursor.number(4)?;
    cursor.one_of(b"-")?;
    let month = cursor.number(2)?;
    cursor.one_of(b"-")?;
    let day = cursor.number(2)?;
    cursor.one_of(b"Tt ")?;
    let (clock, exact) = cursor.clock(true)?;
    let east = cursor.zone_apart().or_else(|| cursor.zone())?;
    Some(Time { micros: Micros(day_start(year, month, day)? + clock - east), exact })
}

/// `10/Oct/2000:13:55:36 -0700`, the whole text.
pub(crate) fn access(text: &str) -> Option<Time> {
    let mut cursor = Cursor { rest: text.as_bytes() };
    let day = cursor.day_first(b"/")?;
    cursor.one_of(b":")?;
    let (clock, exact) = cursor.clock(false)?;
    cursor.one_of(b" ");
    let east = cursor.zone()?;
    let micros = day + clock - east;
    cursor.rest.is_empty().then_some(Time { micros: Micros(micros), exact })
}

/// `21-Nov-2025 09:05:07.123` in UTC, as BIND writes it, the whole text.
pub(crate) fn bind(text: &str) -> Option<Time> {
    let mut cursor = Cursor { rest: text.as_bytes() };
    let day = cursor.day_first(b"-")?;
    cursor.one_of(b" ")?;
    let (clock, exact) = cursor.clock(false)?;
    let micros = day + clock;
    cursor.rest.is_empty().then_some(Time { micros: Micros(micros), exact })
}

/// `Sun Dec 04 04:47:44 2005`, also with decimals of the second, the whole text.
pub(crate) fn ctime(text: &str) -> Option<Time> {
    let (_weekday, rest) = text.as_bytes().split_at_checked(4)?;
    let mut cursor = Cursor { rest };
    let month = cursor.month()?;
    cursor.one_of(b" ")?;
    let day = cursor.day()?;
    cursor.one_of(b" ")?;
    let (clock, exact) = cursor.clock(false)?;
    cursor.one_of(b" ")?;
    let year = cursor.number(4)?;
    let micros = day_start(year, month, day)? + clock;
    cursor.rest.is_empty().then_some(Time { micros: Micros(micros), exact })
}

/// `Oct  1 22:14:15`, also with a year after the day or decimals of the second. Without a year it is the
/// latest such time that is not more than a day after `received_at`: a sender's zone is not known.
pub(crate) fn bsd(cursor: &mut Cursor<'_>, received_at: Micros) -> Option<Time> {
    let month = cursor.month()?;
    cursor.one_of(b" ")?;
    let day = cursor.day()?;
    cursor.one_of(b" ")?;
    let stated = match cursor.rest {
        [_, _, _, _, b' ', ..] => cursor.number(4),
        _ => None,
    };
    if stated.is_some() {
        cursor.one_of(b" ");
    }
    let (clock, exact) = cursor.clock(false)?;
    if let Some(year) = stated {
        return Some(Time { micros: Micros(day_start(year, month, day)? + clock), exact });
    }
    let year = year_of(received_at);
    let latest = received_at.0.saturating_add(DAY);
    // A leap day lies up to eight years back.
    (year - 8..=year + 1)
        .rev()
        .filter_map(|year| Some(day_start(year, month, day)? + clock))
        .find(|micros| *micros <= latest)
        .map(|micros| Time { exact, ..Time::exact(micros) })
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Microseconds from 1970 to the start of a day that exists.
fn day_start(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) {
        return None;
    }
    // Years are counted from March, so that the leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * DAY)
}

/// The calendar year a time lies in, UTC.
fn year_of(time: Micros) -> i64 {
    let days = time.0.div_euclid(DAY) + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    // March is day 0; January and February belong to the next calendar year.
    era * 400 + year + i64::from(of_year >= 306)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn at(text: &str) -> Micros {
        Micros(text.parse::<jiff::Timestamp>().unwrap().as_microsecond())
    }

    #[rstest]
    #[case("2025-11-21T08:30:20Z", "2025-11-21T08:30:20Z", true)]
    #[case("2025-11-21T08:30:20.966901Z", "2025-11-21T08:30:20.966901Z", true)]
    #[case("2025-11-21 08:30:20,5", "2025-11-21T08:30:20.5Z", true)]
    #[case("2025-11-21T08:30:20.9669012Z", "2025-11-21T08:30:20.966901Z", false)]
    #[case("2025-11-21T08:30:20.9669010Z", "2025-11-21T08:30:20.966901Z", true)]
    #[case("2025-11-21T08:30:20+05:30", "2025-11-21T03:00:20Z", true)]
    #[case("2025-11-21 08:30:20 -0500", "2025-11-21T13:30:20Z", true)]
    #[case("2025-11-21 08:30:20.5 +05:30", "2025-11-21T03:00:20.5Z", true)]
    #[case("2025-11-21T08:30-0800", "2025-11-21T16:30:00Z", true)]
    #[case("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z", true)]
    #[case("1763713820", "2025-11-21T08:30:20Z", true)]
    #[case("1763713820.25", "2025-11-21T08:30:20.25Z", true)]
    #[case("1763713820966", "2025-11-21T08:30:20.966Z", true)]
    #[case("1763713820966901", "2025-11-21T08:30:20.966901Z", true)]
    #[case("1763713820966901234", "2025-11-21T08:30:20.966901Z", false)]
    #[case("-1", "1969-12-31T23:59:59Z", true)]
    #[case("0", "1970-01-01T00:00:00Z", true)]
    #[case("2100-02-28T00:00:00Z", "2100-02-28T00:00:00Z", true)]
    fn stated_times_are_read(#[case] text: &str, #[case] expected: &str, #[case] exact: bool) {
        assert_eq!(parse(text), Some(Time { micros: at(expected), exact }));
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "-",
            "now",
            "2025-02-29T00:00:00Z",
            "2025-13-01T00:00:00Z",
            "2025-11-21T24:00:00Z",
            "1e9",
            "1.2.3",
            "99999999999999999999",
            "2025-11-21T08:30:20Z ",
            "2025-11-21 08:30:20 -05",
            "2025-11-21 08:30:20 -05:",
            "2025-11-21 08:30:20 -05000",
            "2025-11-21 08:30:20 -05:000",
            "2025-11-21 08:30:20 -0560",
            "2025-11-21 08:30:20  -0500",
            "2025-11-21",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[rstest]
    #[case("Nov 21 08:00:00", "2025-11-21T09:00:00Z", "2025-11-21T08:00:00Z")]
    #[case("Nov  1 08:00:00.25", "2025-11-21T09:00:00Z", "2025-11-01T08:00:00.25Z")]
    #[case("Dec 31 23:59:59", "2026-01-01T00:00:05Z", "2025-12-31T23:59:59Z")]
    #[case("Jan  1 00:59:59", "2025-12-31T23:59:59Z", "2026-01-01T00:59:59Z")]
    #[case("Nov 23 08:00:00", "2025-11-21T09:00:00Z", "2024-11-23T08:00:00Z")]
    #[case("Feb 29 08:00:00", "2025-11-21T09:00:00Z", "2024-02-29T08:00:00Z")]
    #[case("Nov 21 2019 08:00:00", "2025-11-21T09:00:00Z", "2019-11-21T08:00:00Z")]
    fn a_missing_year_is_the_latest_possible(
        #[case] text: &str,
        #[case] received_at: &str,
        #[case] expected: &str,
    ) {
        let mut cursor = Cursor { rest: text.as_bytes() };
        let time = bsd(&mut cursor, at(received_at)).unwrap();
        assert_eq!(rfc3339(time.micros), expected);
        assert_eq!(cursor.rest, b"");
    }

    #[rstest]
    #[case(" -0500 [info]", "2025-11-21T13:30:20Z", " [info]")]
    #[case(" +0545", "2025-11-21T02:45:20Z", "")]
    #[case(" -05 items", "2025-11-21T08:30:20Z", " -05 items")]
    #[case(" -05000", "2025-11-21T08:30:20Z", " -05000")]
    #[case(" -9999 left", "2025-11-21T08:30:20Z", " -9999 left")]
    #[case(" 0500", "2025-11-21T08:30:20Z", " 0500")]
    #[case(" - - -", "2025-11-21T08:30:20Z", " - - -")]
    fn a_zone_may_follow_one_blank(#[case] after: &str, #[case] expected: &str, #[case] rest: &str) {
        let text = format!("2025-11-21 08:30:20{after}");
        let mut cursor = Cursor { rest: text.as_bytes() };
        assert_eq!(iso(&mut cursor).unwrap().micros, at(expected));
        assert_eq!(cursor.rest, rest.as_bytes());
    }

    #[test]
    fn web_servers_times_are_read() {
        let access = access("10/Oct/2000:13:55:36 -0700").unwrap();
        assert_eq!(rfc3339(access.micros), "2000-10-10T20:55:36Z");
        for text in ["Sun Dec 04 04:47:44 2005", "Sun Dec  4 04:47:44.000000 2005"] {
            assert_eq!(rfc3339(ctime(text).unwrap().micros), "2005-12-04T04:47:44Z");
        }
    }

    proptest! {
        #[test]
        fn every_instant_is_read_back(second in -62_135_596_800i64..253_402_300_799, micros in 0i64..1_000_000) {
            let time = jiff::Timestamp::from_microsecond(second * 1_000_000 + micros).unwrap();
            let read = parse(&time.to_string()).unwrap();
            prop_assert_eq!(read, Time::exact(time.as_microsecond()));
            let year = time.to_zoned(jiff::tz::TimeZone::UTC).year();
            prop_assert_eq!(year_of(read.micros), i64::from(year));
        }

        #[test]
        fn any_text_is_a_time_or_none(text: String) {
            let _ = parse(&text);
            let _ = access(&text);
            let _ = ctime(&text);
            let _ = bsd(&mut Cursor { rest: text.as_bytes() }, Micros(0));
        }
    }
}
