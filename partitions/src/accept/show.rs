//! What was done, and what happens next, for a person.

use std::fmt::Write as _;

use schemas::Stream;
use schemas::start::RawLog;

use crate::output::{align_right, table};

use super::decide::{Again, Asked, SinkMove};
use super::situation::{Held, Situation, Then};
use super::{Outcome, Target};

/// What happens after the sink's position has been moved.
pub(super) fn next_of_sink(held: &Held, situation: &Situation, moved: &SinkMove) -> String {
    let (place, due) = (held.place, held.next_source.unwrap_or_default());
    if let Some(Again { from, to }) = moved.again {
        let rest = if from > due {
            format!(
                "; raw offsets {due} to {from} are gone, the sink will stop at this gap and name its command: \
                 tidewatch-partitions accept --gap {place}"
            )
        } else {
            String::new()
        };
        return format!(
            "start tidewatch-enrich, which enriches raw offsets {from} to {to} once more, and tidewatch-sink{rest}"
        );
    }
    let go_on =
        format!("start tidewatch-sink, or let it be restarted: it goes on at offset {}", moved.to.offset);
    match *situation {
        Situation::NewLog { then: Then::Gap { from }, .. } => format!(
            "{go_on}; raw offsets {due} to {from} are in neither topic, the sink will stop at this gap and name its \
             command: tidewatch-partitions accept --gap {place}"
        ),
        _ => go_on,
    }
}

/// What happens after enrich's position has been moved.
pub(super) fn next_of_raw(asked: Asked, stream: Stream, partition: i32) -> String {
    let enriched = stream.name();
    let (what, flag) = match asked {
        Asked::Gap => ("at this gap", "--gap"),
        Asked::NewTopic => ("where the new topic begins", "--new-topic"),
    };
    format!(
        "start tidewatch-enrich; the sink will stop {what} and name its command: tidewatch-partitions accept {flag} \
         {enriched}/{partition}"
    )
}

/// What should be known before the sink's position is moved.
pub(super) fn note(held: &Held, moved: &SinkMove, raw: Option<&RawLog>) -> Option<String> {
    let (raw, due, source) = (raw?, held.next_source?, moved.to.source?);
    let stream = held.place.topic.stream()?;
    let target = Target::Raw { stream, partition: held.place.partition };
    let kept = due.max(raw.low)..source.min(raw.high);
    if moved.to.topic_id == held.topic_id {
        let given_up = held.topic_id == Some(raw.topic_id) && !kept.is_empty();
        return given_up.then(|| {
            format!("{target} still has raw offsets {} to {}; accepting gives them up", kept.start, kept.end)
        });
    }
    (moved.to.topic_id != Some(raw.topic_id))
        .then(|| format!("{target} is by now of topic {}: it was created anew once more", raw.topic_id))
}

pub(super) fn text(outcomes: &[Outcome]) -> String {
    let mut shown = String::new();
    let mut moves =
        table(&["partition", "accepted", "offset", "raw offset", "offsets skipped", "raw offsets skipped"]);
    align_right(&mut moves, &[2, 3, 4, 5]);
    let mut next: Vec<String> = Vec::new();
    for outcome in outcomes {
        let _ = writeln!(shown, "{}: {}", outcome.partition, outcome.found);
        if let Some(note) = &outcome.note {
            let _ = writeln!(shown, "{}: note: {note}", outcome.partition);
        }
        let Some(action) = outcome.action else { continue };
        let from_to = |from: Option<i64>, to: i64| match from {
            Some(from) if from == to => to.to_string(),
            Some(from) => format!("{from} → {to}"),
            None => format!("→ {to}"),
        };
        moves.add_row([
            outcome.partition.clone(),
            if action == Asked::Gap.action() { "gap" } else { "new topic" }.to_owned(),
            outcome.offsets.map_or("-".into(), |(from, to)| from_to(Some(from), to)),
            outcome.raw_offsets.map_or("-".into(), |(from, to)| from_to(from, to)),
            outcome.skipped_offsets.to_string(),
            outcome.skipped_raw_offsets.to_string(),
        ]);
        if let Some(text) = &outcome.next {
            next.push(format!("next: {text}"));
        }
    }
    if moves.row_count() > 0 {
        let _ = writeln!(shown, "\n{moves}");
    }
    next.dedup();
    let dry_run = outcomes.iter().any(|outcome| outcome.dry_run);
    match (moves.row_count(), dry_run) {
        (0, _) => shown.push_str("nothing was moved\n"),
        (_, true) => shown.push_str("nothing was moved (--dry-run)\n"),
        (_, false) => next.iter().for_each(|line| shown.push_str(&format!("{line}\n"))),
    }
    shown
}
