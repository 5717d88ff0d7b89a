//! `match`: which rules fire on which events.

use detection::{Meta, Rules, Subject};
use normalise::{FindingRecord, Input};
use schemas::{Micros, Stream};
use serde::Serialize;

use crate::events::{Batch, Line, Shape};

/// A rule that fired on an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hit<'r> {
    /// Ordinal of the event, from 0.
    pub index: u64,
    /// The rule's id.
    pub rule_id: &'r str,
}

/// How many events and hits there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Matched {
    /// Events matched against the rules.
    pub events: u64,
    /// Events that normalising rejects.
    pub passed_over: u64,
    /// Times that a rule fired.
    pub hits: u64,
}

/// Matches every event of `batch`, as one of `org`, against the rules its log source leads to; `hit` hears of each rule
/// that fires, by event and rule id.
///
/// # Errors
/// Those of `hit`.
pub fn match_lines<E>(
    rules: &Rules,
    batch: &Batch,
    shape: Shape,
    org: &str,
    stream: Stream,
    hit: &mut dyn FnMut(Hit<'_>, &Meta) -> Result<(), E>,
) -> Result<Matched, E> {
    let mut matched = Matched::default();
    let received_at = Micros::now();
    for line in batch.lines() {
        let input = input(&line, shape, org, received_at);
        let mut each = |subject: Subject<'_>| -> Result<(), E> {
            matched.events += 1;
            let view = rules.view(subject);
            for rule in rules.matching(&view) {
                matched.hits += 1;
                hit(Hit { index: line.index, rule_id: &rule.meta.id }, &rule.meta)?;
            }
            Ok(())
        };
        match stream {
            Stream::Events => match normalise::event(&input) {
                Ok(event) => each(Subject::Event(&event))?,
                Err(_) => matched.passed_over += 1,
            },
            Stream::Findings => match normalise::finding(&input) {
                Ok(FindingRecord::Finding(finding)) => each(Subject::Finding(&finding))?,
                Ok(FindingRecord::Scan(scan)) => each(Subject::Scan(&scan))?,
                Err(_) => matched.passed_over += 1,
            },
        }
    }
    Ok(matched)
}

pub(crate) fn input<'a>(line: &Line<'a>, shape: Shape, org: &'a str, received_at: Micros) -> Input<'a> {
    Input { bytes: line.bytes, format: shape.hint(), org, received_at, index: 0, event_uid: None }
}
