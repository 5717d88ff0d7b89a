//! When a recorded event happened.
//!
//! Production judges times against the moment a record is received. A recording was received some time ago: nothing in it
//! lies in the future, and what says nothing of its time happened when its neighbours did.

use normalise::Input;
use schemas::{Event, Micros, Reject, flags};
use serde_json::Value;
use uuid::Uuid;

use crate::events::{Line, Shape};

/// How far the year of a log may run on after its newest line, microseconds: December is followed by January.
const RUN_ON: i64 = 31 * 24 * 3_600 * 1_000_000;
const DAY: i64 = 24 * 3_600 * 1_000_000;

/// The org that recorded events are of. No command asks for another.
pub(crate) const ORG: &str = "replay";

/// Gives recorded events their times.
#[derive(Debug)]
pub struct Clock {
    shape: Shape,
    time_field: Option<String>,
    /// Last microsecond of the year of lines that do not say theirs, less the day that a sender's clock may be ahead.
    year: Option<i64>,
    newest: Option<i64>,
    started: i64,
    without_field: u64,
}

impl Clock {
    /// A clock for lines of this shape. The time is in `time_field`, a path into objects with dots, where an event
    /// has it. `year` is that of the first line that does not say its own.
    pub fn new(shape: Shape, time_field: Option<String>, year: Option<i16>) -> Self {
        let end = |year: i16| {
            let next = jiff::civil::Date::new(year.checked_add(1)?, 1, 1).ok()?;
            let midnight = next.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
            Some(midnight.as_microsecond() - 1 - DAY)
        };
        let started = Micros::now().0;
        Self { shape, time_field, year: year.and_then(end), newest: None, started, without_field: 0 }
    }

    /// Events so far that lacked the time field.
    pub fn without_field(&self) -> u64 {
        self.without_field
    }

    /// Newest time so far, microseconds.
    pub fn newest(&self) -> Option<i64> {
        self.newest
    }

    /// Normalises `line`, number `position` of its batch. Without a time of its own it takes that of the event before.
    ///
    /// # Errors
    /// What normalising rejects.
    #[expect(clippy::result_large_err, reason = "as normalise::event has it")]
    pub fn event<'a>(&mut self, line: &Line<'a>, position: i32) -> Result<Event<'a>, Reject<'a>> {
        let run_on = self.newest.map_or(i64::MIN, |newest| newest.saturating_add(RUN_ON));
        let received_at = self.year.map_or(self.started, |end| end.max(run_on));
        let input = Input {
            bytes: line.bytes,
            format: self.shape.hint(),
            org: ORG,
            received_at: Micros(received_at),
            index: position,
            event_uid: None::<Uuid>,
        };
        let mut event = normalise::event(&input)?;
        if event.flags & flags::TIME_CLAMPED != 0
            && let Some(stated) = original_time(&event)
        {
            event = normalise::event(&Input { received_at: stated, ..input })?;
        }
        if let Some(field) = &self.time_field {
            match time_in(line.bytes, field) {
                Some(time) => {
                    event.time = time;
                    event.flags &= !(flags::TIME_ASSUMED | flags::TIME_CLAMPED);
                }
                None => self.without_field += 1,
            }
        }
        if event.flags & flags::TIME_ASSUMED != 0
            && let Some(newest) = self.newest
        {
            event.time = Micros(newest);
        }
        if event.flags & flags::TIME_ASSUMED == 0 {
            self.newest = Some(self.newest.map_or(event.time.0, |newest| newest.max(event.time.0)));
        }
        Ok(event)
    }
}

/// The time that normalising did not believe.
fn original_time(event: &Event<'_>) -> Option<Micros> {
    let attributes: Value = serde_json::from_str(event.attributes.as_deref()?).ok()?;
    normalise::parse_time(attributes.get("original_time")?.as_str()?)
}

fn time_in(bytes: &[u8], field: &str) -> Option<Micros> {
    let object: Value = serde_json::from_slice(bytes).ok()?;
    let value =
        object.get(field).or_else(|| field.split('.').try_fold(&object, |outer, inner| outer.get(inner)))?;
    match value {
        Value::String(text) => normalise::parse_time(text),
        Value::Number(number) => normalise::parse_time(&number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn times(clock: &mut Clock, lines: &[&str]) -> Vec<String> {
        let time = |line: &&str| {
            let line = Line { index: 0, number: 1, bytes: line.as_bytes() };
            let event = clock.event(&line, 0).unwrap();
            jiff::Timestamp::from_microsecond(event.time.0).unwrap().to_string()
        };
        lines.iter().map(time).collect()
    }

    #[test]
    fn the_year_of_a_log_is_the_one_given_and_runs_on_into_january() {
        let mut clock = Clock::new(Shape::Log, None, Some(2005));
        let lines = [
            "Jun 14 15:16:01 combo su[1]: x",
            "Jun 14 15:15:00 combo su[1]: x",
            "Dec 31 23:59:59 combo su[1]: x",
            "Jan  1 00:00:01 combo su[1]: x",
            "Dec 31 23:59:59 combo su[1]: x",
        ];
        let expected = [
            "2005-06-14T15:16:01Z",
            "2005-06-14T15:15:00Z",
            "2005-12-31T23:59:59Z",
            "2006-01-01T00:00:01Z",
            "2005-12-31T23:59:59Z",
        ];
        assert_eq!(times(&mut clock, &lines), expected);
    }

    #[test]
    fn a_time_in_the_future_is_believed() {
        let mut clock = Clock::new(Shape::Jsonl, None, None);
        assert_eq!(times(&mut clock, &[r#"{"time":"2150-01-02T03:04:05Z"}"#]), ["2150-01-02T03:04:05Z"]);
    }

    #[test]
    fn an_event_without_time_happened_with_the_one_before() {
        let mut clock = Clock::new(Shape::Jsonl, None, None);
        let found = times(&mut clock, &[r#"{"time":"2001-01-02T03:04:05Z"}"#, r#"{"a":1}"#]);
        assert_eq!(found, ["2001-01-02T03:04:05Z"; 2]);
    }

    #[rstest]
    #[case("EventTime")]
    #[case("nested.at")]
    #[case("dotted.at")]
    fn the_time_field_is_preferred(#[case] field: &str) {
        let line = r#"{"time":"2001-01-01T00:00:00Z","EventTime":"2020-10-18 07:49:39.776","nested":{"at":1603007379.776},"dotted.at":1603007379776}"#;
        let mut clock = Clock::new(Shape::Jsonl, Some(field.to_owned()), None);
        assert_eq!(times(&mut clock, &[line]), ["2020-10-18T07:49:39.776Z"]);
        assert_eq!(times(&mut clock, &[r#"{"time":"2001-01-01T00:00:00Z"}"#]), ["2001-01-01T00:00:00Z"]);
        assert_eq!(clock.without_field(), 1);
    }
}
