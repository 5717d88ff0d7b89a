//! The events and findings that an incident rests on, in one query a stream.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use utoipa::ToSchema;

use super::events::{self, Event};
use super::findings::{self, Finding};
use crate::problem::Problem;
use crate::row::{FromRow, Id};
use crate::select::{Select, param};
use crate::store::{Scoped, unreadable};
use crate::time::Time;

/// Ranges of time that a query is narrowed to. Evidence of an hour in a busy org is in a few places of a large table.
const MAX_RANGES: usize = 16;
/// Times this close are read together.
const NEAR_MICROS: i64 = Time::SECOND;

/// An event as an incident's row refers to it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Reference {
    stream: String,
    partition: i32,
    offset: i64,
    index: i32,
    /// Microseconds since 1970.
    time: i64,
    /// The rule that matched it, where the incident's rule asks for several.
    #[serde(default)]
    rule: Option<String>,
}

impl Reference {
    fn id(&self) -> Id<'_> {
        Id { stream: &self.stream, partition: self.partition, offset: self.offset, index: self.index }
    }
}

/// An event or finding that an incident rests on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Evidence<'a> {
    /// Stream, raw partition, raw offset, index.
    #[schema(value_type = String, example = "events/3/1042/17")]
    id: Id<'a>,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    time: Time,
    /// Ids of the rules that matched it, where the incident's rule asks for several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rules: Vec<&'a str>,
    /// The event; absent when it is a finding, or is not kept any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<Event<'a>>,
    /// The finding; absent when it is an event, or is not kept any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    finding: Option<Finding<'a>>,
}

/// What was found of it.
#[derive(Debug, Default)]
pub(crate) struct Found {
    events: Vec<Row>,
    findings: Vec<Row>,
}

/// Finds what is referred to.
///
/// # Errors
/// As [`Scoped::fetch`].
pub(crate) async fn fetch(scoped: &Scoped<'_>, references: &[Reference]) -> Result<Found, Problem> {
    let (events, findings) = tokio::try_join!(
        fetch_from(scoped, events::select("evidence_events"), references, "events"),
        fetch_from(scoped, findings::select("evidence_findings"), references, "findings"),
    )?;
    Ok(Found { events, findings })
}

async fn fetch_from(
    scoped: &Scoped<'_>,
    select: Select,
    references: &[Reference],
    stream: &str,
) -> Result<Vec<Row>, Problem> {
    let wanted: Vec<&Reference> = references.iter().filter(|reference| reference.stream == stream).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let select = select.and_within(ranges(wanted.iter().map(|reference| reference.time))).and(
        "(kpart, koffset, kindex) IN (SELECT * FROM unnest(?, ?, ?))",
        [
            param(wanted.iter().map(|reference| reference.partition).collect::<Vec<i32>>()),
            param(wanted.iter().map(|reference| reference.offset).collect::<Vec<i64>>()),
            param(wanted.iter().map(|reference| reference.index).collect::<Vec<i32>>()),
        ],
    );
    scoped.fetch(select).await
}

impl Found {
    /// The evidence in the order of its references.
    ///
    /// # Errors
    /// 500: rows that are not what they should be.
    pub(crate) fn of<'a>(&'a self, references: &'a [Reference]) -> Result<Vec<Evidence<'a>>, Problem> {
        let unreadable = |error| unreadable("evidence", &error);
        let mut events = HashMap::with_capacity(self.events.len());
        for row in &self.events {
            let event = Event::from_row(row).map_err(unreadable)?;
            events.insert(event.id, event);
        }
        let mut findings = HashMap::with_capacity(self.findings.len());
        for row in &self.findings {
            let finding = Finding::from_row(row).map_err(unreadable)?;
            findings.insert(finding.id, finding);
        }
        let mut evidence: Vec<Evidence<'a>> = Vec::with_capacity(references.len());
        for reference in references {
            let id = reference.id();
            // One that several rules matched is there for each of them.
            match evidence.last_mut().filter(|last| last.id == id) {
                Some(last) => last.rules.extend(reference.rule.as_deref()),
                None => evidence.push(Evidence {
                    id,
                    time: Time(reference.time),
                    rules: reference.rule.as_deref().into_iter().collect(),
                    event: events.remove(&id),
                    finding: findings.remove(&id),
                }),
            }
        }
        Ok(evidence)
    }
}

/// The fewest ranges that hold all times with no gap inside them over [`NEAR_MICROS`]; where these are too many, the
/// smallest gaps are bridged.
fn ranges(times: impl Iterator<Item = i64>) -> Vec<(Time, Time)> {
    let mut times: Vec<i64> = times.collect();
    times.sort_unstable();
    times.dedup();
    let gap = |pair: &[i64]| match pair {
        [earlier, later] => later.saturating_sub(*earlier),
        _ => 0,
    };
    let mut gaps: Vec<i64> = times.windows(2).map(gap).collect();
    gaps.sort_unstable_by(|a, b| b.cmp(a));
    // What splits: over this. The largest gaps, one fewer than there may be ranges.
    let split_over = gaps.get(MAX_RANGES - 1).copied().unwrap_or(0).max(NEAR_MICROS);
    let mut ranges: Vec<(Time, Time)> = Vec::new();
    for time in times {
        match ranges.last_mut() {
            Some((_, last)) if time.saturating_sub(last.0) <= split_over => *last = Time(time),
            _ => ranges.push((Time(time), Time(time))),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn near_times_share_a_range() {
        let second = Time::SECOND;
        let found = ranges([0, 100 * second, second / 2, second].into_iter());
        assert_eq!(found, [(Time(0), Time(second)), (Time(100 * second), Time(100 * second))]);
        assert_eq!(ranges(std::iter::empty()), []);
    }

    proptest! {
        #[test]
        fn ranges_are_few_and_hold_every_time(times in proptest::collection::vec(any::<i64>(), 1..100)) {
            let found = ranges(times.iter().copied());
            prop_assert!(found.len() <= MAX_RANGES);
            for time in times {
                prop_assert!(found.iter().any(|(first, last)| (first.0..=last.0).contains(&time)));
            }
            prop_assert!(found.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
}
