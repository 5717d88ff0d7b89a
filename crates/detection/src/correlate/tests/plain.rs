//! What an incident is, by definition, slowly.

use std::collections::BTreeSet;

/// How the events of a window are counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Count {
    Weight,
    Distinct,
    /// 1 if there is an event of each value from 0 on, in order.
    Sequence(u64),
}

/// An event of a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Plain {
    pub time: i64,
    pub value: String,
    pub weight: i64,
    /// Tells it from others.
    pub number: usize,
}

/// What a correlation asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub timespan: i64,
    pub count: Count,
    pub least: i64,
}

/// A union of overlapping windows that count enough.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Union {
    pub first: i64,
    pub last: i64,
    /// With which event the first of them counts enough.
    pub fires: i64,
    /// The most that one of them counts.
    pub fullest: i64,
    /// Sum of weights.
    pub weight: i64,
    pub events: Vec<Plain>,
}

fn count(events: &[&Plain], how: Count) -> i64 {
    match how {
        Count::Weight => events.iter().map(|event| event.weight).sum(),
        Count::Distinct => {
            i64::try_from(events.iter().map(|event| &event.value).collect::<BTreeSet<_>>().len()).unwrap()
        }
        Count::Sequence(steps) => {
            let mut at = i64::MIN;
            for step in 0..steps {
                let of_step = |event: &&&Plain| event.value == step.to_string() && event.time >= at;
                match events.iter().filter(of_step).map(|event| event.time).min() {
                    Some(time) => at = time,
                    None => return 0,
                }
            }
            i64::try_from(steps).unwrap()
        }
    }
}

/// The unions, in order of time.
pub(super) fn unions(events: &[Plain], asked: &Asked) -> Vec<Union> {
    let within = |from: i64, to: i64| -> Vec<&Plain> {
        events.iter().filter(|event| (from..=to).contains(&event.time)).collect()
    };
    let times: BTreeSet<i64> = events.iter().map(|event| event.time).collect();
    let mut hulls: Vec<(i64, i64)> = Vec::new();
    for &start in &times {
        let window = within(start, start + asked.timespan);
        if count(&window, asked.count) < asked.least {
            continue;
        }
        let end = window.iter().map(|event| event.time).max().unwrap();
        match hulls.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => hulls.push((start, end)),
        }
    }
    hulls
        .into_iter()
        .map(|(first, last)| {
            let inside = |time: &&i64| (first..=last).contains(*time);
            let back = |&end: &i64| count(&within(end - asked.timespan, end), asked.count) >= asked.least;
            let fires = times.iter().filter(inside).copied().find(back).unwrap();
            let most = |&start: &i64| count(&within(start, start + asked.timespan), asked.count);
            let fullest = times.iter().filter(inside).map(most).max().unwrap();
            let events: Vec<Plain> = within(first, last).into_iter().cloned().collect();
            let weight = events.iter().map(|event| event.weight).sum();
            Union { first, last, fires, fullest, weight, events }
        })
        .collect()
}
