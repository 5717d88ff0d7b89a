//! Fewer events for the same windows.

use ahash::AHashMap;

use super::mark::Mark;
use super::threshold::Threshold;

/// Drops events between two of the same value that are at most a timespan apart: every window that holds such an event
/// holds one of the two, so that it counts as many distinct values without it. If that leaves more than half of what a
/// group may keep, the oldest go too.
pub(super) fn thin<T>(events: &mut Vec<T>, threshold: &Threshold, mark: impl Fn(&T) -> &Mark) {
    // Of each value: the last one kept, and where the next one stands.
    let mut next: AHashMap<u64, Vec<i64>> = AHashMap::new();
    for event in events.iter().rev() {
        next.entry(mark(event).value).or_default().push(mark(event).time);
    }
    let mut kept: AHashMap<u64, i64> = AHashMap::new();
    events.retain(|event| {
        let mark = mark(event);
        let later = next.get_mut(&mark.value).and_then(|times| {
            times.pop();
            times.last().copied()
        });
        let between = match (kept.get(&mark.value), later) {
            (Some(&before), Some(after)) => after.saturating_sub(before) <= threshold.timespan,
            _ => false,
        };
        if !between {
            kept.insert(mark.value, mark.time);
        }
        !between
    });
    let most = threshold.capacity - threshold.capacity / 4;
    let over = events.len().saturating_sub(most);
    events.drain(..over);
}
