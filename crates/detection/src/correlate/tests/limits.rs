//! What is over a limit makes way, and says so.

use std::sync::Arc;

use schemas::{IncidentChange, Micros, flags};

use super::{BURST, Seen, batch, rules, signal};
use crate::{Correlator, Limits, Rules, When};

fn one(number: usize, time: i64, org: &'static str) -> schemas::SignalBatch<'static> {
    let seen = Seen { time, weight: 1, group: u8::try_from(number % 256).unwrap(), user: 0 };
    let mut signal = signal(&seen, Some(BURST));
    signal.org = org.into();
    signal.group_key[0].value = format!("{number}").into();
    batch(number, vec![signal])
}

fn correlator(rules: &Arc<Rules>, limits: Limits) -> Correlator {
    let mut correlator = Correlator::new(rules.clone());
    correlator.limit(limits);
    correlator
}

#[test]
fn the_keys_whose_last_signal_lies_longest_back_make_way() {
    let rules = rules("60s", 3);
    let mut correlator = correlator(&rules, Limits { keys: 100, ..Limits::NONE });
    let mut evicted = 0;
    for number in 0..1_000 {
        evicted += correlator.apply(&one(number, 0, "demo"), i64::try_from(number).unwrap()).evicted;
        assert!(correlator.groups() <= 100);
    }
    assert_eq!(evicted as usize + correlator.groups(), 1_000);
    // The last one is still there: two more of it fire.
    for number in [1_000, 1_001] {
        let mut batch = one(number, 1, "demo");
        batch.signals[0].group_key[0].value = "999".into();
        let applied = correlator.apply(&batch, 1_000);
        assert_eq!((applied.evicted, applied.fired), (0, u64::from(number == 1_001)));
    }
}

#[test]
fn an_org_takes_nothing_from_another() {
    let rules = rules("60s", 3);
    let mut correlator = correlator(&rules, Limits { keys_per_org: 10, ..Limits::NONE });
    for number in 0..3 {
        correlator.apply(&one(number, 0, "small"), 0);
    }
    for number in 3..500 {
        correlator.apply(&one(number, 0, "large"), 1);
    }
    assert!(correlator.groups() <= 13);
    let mut fired = 0;
    for number in 500..502 {
        let mut batch = one(number, 1, "small");
        batch.signals[0].group_key[0].value = "0".into();
        fired += correlator.apply(&batch, 2).fired;
    }
    assert_eq!(fired, 1, "the small org's first key is still there");
}

#[test]
fn an_incident_that_may_miss_something_is_marked() {
    let rules = rules("60s", 1);
    let flagged = |limits: Limits| {
        let mut correlator = correlator(&rules, limits);
        let mut flagged = 0;
        for number in 0..50 {
            correlator.apply(&one(number, 0, "demo"), 0);
            let mut note = |change: &IncidentChange<'_>| {
                flagged += u64::from(change.window.as_ref().unwrap().flags & flags::STATE_CUT != 0);
            };
            correlator.publish(When::Changed, Micros(0), &mut note);
        }
        flagged
    };
    assert_eq!(flagged(Limits::NONE), 0);
    assert!(flagged(Limits { keys: 10, ..Limits::NONE }) > 30);
}

#[test]
fn memory_is_bounded_and_counted() {
    let rules = rules("60s", 3);
    let mut correlator = correlator(&rules, Limits { bytes: 100_000, ..Limits::NONE });
    for number in 0..5_000 {
        correlator.apply(&one(number, 0, "demo"), i64::try_from(number).unwrap());
        assert!(correlator.state_bytes() <= 101_000, "{}", correlator.state_bytes());
    }
    assert!(correlator.groups() > 300);
    correlator.expire(i64::MAX);
    assert_eq!(
        (correlator.groups(), correlator.state_bytes()),
        (0, 0),
        "what was counted in was counted out"
    );
}
