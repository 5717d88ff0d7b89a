//! The time in a log line: found, and replaced by another in the same form.

use std::ops::Range;

use jiff::civil::DateTime;
use jiff::fmt::strtime;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};

/// Names under which JSON events have their time.
const NAMES: &[&str] =
    &["time", "@timestamp", "timestamp", "EventTime", "TimeCreated", "eventTime", "ts", "datetime", "date"];

/// How a time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// RFC 3339, with so many digits of a second's fraction; or without an offset, meaning UTC.
    Iso { fraction: usize, offset: bool },
    /// `10/Oct/2000:13:55:36 -0700`
    Clf,
    /// `Oct  1 22:14:15`: no year, no zone.
    Bsd,
    /// A number since 1970 of so many units a second.
    Epoch { per_second: i64 },
}

/// A time in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Where it stands.
    place: Range<usize>,
    /// What it says.
    pub at: Timestamp,
    form: Form,
}

impl Stamp {
    /// The time of `line`, if it has one that is understood. `now` lends its year to times without one.
    pub fn find(line: &str, now: Timestamp) -> Option<Self> {
        if line.trim_start().starts_with('{') {
            return json(line);
        }
        let start = if line.starts_with('<') { line.find('>')? + 1 } else { 0 };
        let start = if line.get(start..)?.starts_with("1 ") { start + 2 } else { start };
        iso(line, start).or_else(|| bsd(line, start, now)).or_else(|| clf(line))
    }

    /// `line` with `at` in the place of its time, in the same form.
    pub fn replaced(&self, line: &str, at: Timestamp) -> String {
        let utc = at.to_zoned(TimeZone::UTC);
        let time = match self.form {
            Form::Iso { fraction, offset } => {
                let zone = if offset { "Z" } else { "" };
                let pattern = match fraction {
                    0 => "%Y-%m-%dT%H:%M:%S".to_owned(),
                    digits => format!("%Y-%m-%dT%H:%M:%S.%{digits}f"),
                };
                format!("{}{zone}", utc.strftime(&pattern))
            }
            Form::Clf => utc.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string(),
            Form::Bsd => utc.strftime("%b %e %H:%M:%S").to_string(),
            Form::Epoch { per_second } => {
                let nanos_per_unit = 1_000_000_000 / i128::from(per_second);
                (at.as_nanosecond() / nanos_per_unit).to_string()
            }
        };
        let (before, after) = (line.get(..self.place.start), line.get(self.place.end..));
        [before.unwrap_or_default(), &time, after.unwrap_or_default()].concat()
    }
}

/// The value of the first known name at any depth that holds a time.
fn json(line: &str) -> Option<Stamp> {
    NAMES.iter().find_map(|name| {
        let quoted = format!("\"{name}\"");
        let key = line.find(&quoted)? + quoted.len();
        let colon = line.get(key..)?.find(|c: char| !c.is_ascii_whitespace())? + key;
        if line.as_bytes().get(colon) != Some(&b':') {
            return None;
        }
        let value = line.get(colon + 1..)?.find(|c: char| !c.is_ascii_whitespace())? + colon + 1;
        match line.as_bytes().get(value)? {
            b'"' => iso(line, value + 1).or_else(|| epoch(line, value + 1)),
            _ => epoch(line, value),
        }
    })
}

fn epoch(line: &str, start: usize) -> Option<Stamp> {
    let text = line.get(start..)?;
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: i64 = text.get(..digits)?.parse().ok()?;
    // Told by magnitude: seconds until 2286, then milliseconds and microseconds.
    let (at, per_second) = match digits {
        9..=10 => (Timestamp::from_second(number).ok()?, 1),
        12..=13 => (Timestamp::from_millisecond(number).ok()?, 1_000),
        15..=16 => (Timestamp::from_microsecond(number).ok()?, 1_000_000),
        _ => return None,
    };
    // The fraction of a second, if any, goes with it.
    let fraction = match text.get(digits..)?.strip_prefix('.') {
        Some(fraction) => 1 + fraction.bytes().take_while(u8::is_ascii_digit).count(),
        None => 0,
    };
    Some(Stamp { place: start..start + digits + fraction, at, form: Form::Epoch { per_second } })
}

fn iso(line: &str, start: usize) -> Option<Stamp> {
    let text = line.get(start..)?;
    let date = text.get(..19)?;
    let date: DateTime =
        strtime::parse("%Y-%m-%dT%H:%M:%S", date.replacen(' ', "T", 1)).ok()?.to_datetime().ok()?;
    let mut length = 19;
    let mut fraction = 0;
    if let Some(rest) = text.get(length..)?.strip_prefix(['.', ',']) {
        fraction = rest.bytes().take_while(u8::is_ascii_digit).count().min(9);
        length += 1 + fraction;
    }
    let nanos: i64 = match text.get(20..20 + fraction) {
        Some(digits) if fraction > 0 => format!("{digits:0<9}").parse().ok()?,
        _ => 0,
    };
    let zone = text.get(length..)?;
    let (offset, zone_length) = match zone.as_bytes() {
        [b'Z', ..] => (Some(Offset::UTC), 1),
        [b'+' | b'-', ..] => {
            let colon = usize::from(zone.as_bytes().get(3) == Some(&b':'));
            let length = 5 + colon;
            let pattern = if colon == 1 { "%:z" } else { "%z" };
            (Some(strtime::parse(pattern, zone.get(..length)?).ok()?.offset()?), length)
        }
        _ => (None, 0),
    };
    let at = offset
        .unwrap_or(Offset::UTC)
        .to_timestamp(date)
        .ok()?
        .checked_add(SignedDuration::from_nanos(nanos))
        .ok()?;
    Some(Stamp {
        place: start..start + length + zone_length,
        at,
        form: Form::Iso { fraction, offset: offset.is_some() },
    })
}

fn bsd(line: &str, start: usize, now: Timestamp) -> Option<Stamp> {
    let text = line.get(start..start + 15)?;
    let year = now.to_zoned(TimeZone::UTC).year();
    let of_year = |year: i16| {
        let date = strtime::parse("%Y %b %e %H:%M:%S", format!("{year} {text}")).ok()?.to_datetime().ok()?;
        Offset::UTC.to_timestamp(date).ok()
    };
    // A line of December read in January is last year's.
    let tomorrow = now.checked_add(SignedDuration::from_hours(24)).ok()?;
    let at = of_year(year).filter(|at| *at <= tomorrow).or_else(|| of_year(year - 1))?;
    Some(Stamp { place: start..start + 15, at, form: Form::Bsd })
}

fn clf(line: &str) -> Option<Stamp> {
    let start = line.find('[')? + 1;
    let text = line.get(start..start + 26)?;
    let at = strtime::parse("%d/%b/%Y:%H:%M:%S %z", text).ok()?.to_timestamp().ok()?;
    Some(Stamp { place: start..start + 26, at, form: Form::Clf })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        r#"{"a":1,"time":"2024-02-29T10:00:00.5+02:00","b":2}"#,
        "2024-02-29T08:00:00.5Z",
        r#"{"a":1,"time":"2026-11-21T09:05:07.1Z","b":2}"#
    )]
    #[case(
        r#"{"@timestamp" : "2024-02-29 10:00:00"}"#,
        "2024-02-29T10:00:00Z",
        r#"{"@timestamp" : "2026-11-21T09:05:07"}"#
    )]
    #[case(r#"{"ts":1709200800.25,"x":1}"#, "2024-02-29T10:00:00Z", r#"{"ts":1795251907,"x":1}"#)]
    #[case(r#"{"timestamp":1709200800123}"#, "2024-02-29T10:00:00.123Z", r#"{"timestamp":1795251907123}"#)]
    #[case(
        "<34>1 2024-02-29T10:00:00.000Z h app - - - hi",
        "2024-02-29T10:00:00Z",
        "<34>1 2026-11-21T09:05:07.123Z h app - - - hi"
    )]
    #[case(
        "<38>Oct  1 22:14:15 host sshd[1]: x",
        "2026-10-01T22:14:15Z",
        "<38>Nov 21 09:05:07 host sshd[1]: x"
    )]
    #[case("Dec 31 22:14:15 host sshd[1]: x", "2025-12-31T22:14:15Z", "Nov 21 09:05:07 host sshd[1]: x")]
    #[case(
        "1.2.3.4 - - [29/Feb/2024:10:00:00 -0500] \"GET / HTTP/1.1\" 200 1",
        "2024-02-29T15:00:00Z",
        "1.2.3.4 - - [21/Nov/2026:09:05:07 +0000] \"GET / HTTP/1.1\" 200 1"
    )]
    #[case(
        "2024-02-29T10:00:00,250 INFO started",
        "2024-02-29T10:00:00.25Z",
        "2026-11-21T09:05:07.123 INFO started"
    )]
    fn times_are_found_and_replaced_in_their_form(
        #[case] line: &str,
        #[case] at: &str,
        #[case] replaced: &str,
    ) {
        let now: Timestamp = "2026-11-21T09:05:07.123Z".parse().unwrap();
        let stamp = Stamp::find(line, now).unwrap();
        assert_eq!(stamp.at, at.parse().unwrap());
        assert_eq!(stamp.replaced(line, now), replaced);
    }

    #[rstest]
    #[case("no time in here")]
    #[case(r#"{"message":"at 10:00","time":null}"#)]
    #[case(r#"{"time":12}"#)]
    #[case("<34>")]
    #[case("99999999")]
    #[case("2024-02-30T10:00:00Z impossible")]
    fn a_line_without_a_time_has_none(#[case] line: &str) {
        assert_eq!(Stamp::find(line, Timestamp::now()), None);
    }
}
