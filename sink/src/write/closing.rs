//! The message that ends a transaction: `SELECT sink_commit(…); COMMIT`, with `SELECT sink_keys(…)` between where keyed
//! pushes are new, as one text, so that the server has all of it before it takes the first row lock.

use std::collections::BTreeMap;
use std::fmt::Write;

use schemas::Stream;
use serde::Serialize;
use uuid::Uuid;

use super::blocks::{BLOCK_ORGS, BlockKey, Blocks};
use super::keys;
use crate::batch::Batch;
use crate::incidents::Work;
use crate::position::{PartitionKey, Topic};
use crate::prepare::Prepared;

/// Epoch under which each partition is held.
pub type Epochs = BTreeMap<PartitionKey, i64>;

/// A row of the parameter `p_partitions`.
#[derive(Serialize)]
struct PartitionRow {
    topic: &'static str,
    kpart: i32,
    epoch: i64,
    first_offset: i64,
    next_offset: i64,
    source_topic_id: Option<Uuid>,
    first_source: Option<i64>,
    next_source: Option<i64>,
    received: i64,
    stored: i64,
    quarantined: i64,
    duplicates: i64,
}

/// Writes the message. `blocks` are the batch's counts, `work` what its incident
/// changes came to, where it has any.
pub fn message(
    batch: &Batch,
    prepared: &Prepared,
    blocks: &Blocks,
    work: Option<&Work>,
    epochs: &Epochs,
) -> String {
    let mut sql = String::with_capacity(4096);
    sql.push_str("SELECT sink_commit(");
    json(&mut sql, &partitions(batch, prepared, epochs));
    counts(&mut sql, batch, blocks);
    sql.push_str(", ");
    json(&mut sql, &prepared.scans.rows());
    sql.push_str(", ");
    json(&mut sql, &work.map(Work::incidents).unwrap_or_default());
    sql.push_str(", ");
    json(&mut sql, &work.map(Work::counts).unwrap_or_default());
    sql.push(')');
    keys::message(&mut sql, prepared);
    sql.push_str("; COMMIT");
    sql
}

fn partitions(batch: &Batch, prepared: &Prepared, epochs: &Epochs) -> Vec<PartitionRow> {
    let rows = batch.ranges().iter().map(|(partition, range)| {
        let tally = prepared.tallies.get(partition).copied().unwrap_or_default();
        let with_source = partition.topic != Topic::Incidents;
        PartitionRow {
            topic: partition.topic.name(),
            kpart: partition.partition,
            // Without an epoch the commit is refused.
            epoch: epochs.get(partition).copied().unwrap_or(0),
            first_offset: range.first.next_offset,
            next_offset: range.next.next_offset,
            source_topic_id: range.next.source_topic_id,
            first_source: with_source.then_some(range.first.next_source),
            next_source: with_source.then_some(range.next.next_source),
            received: tally.received,
            stored: tally.stored,
            quarantined: tally.quarantined,
            duplicates: tally.duplicates,
        }
    });
    rows.collect()
}

/// The seven columns of count_block, in the order of its primary key.
fn counts(sql: &mut String, batch: &Batch, blocks: &Blocks) {
    let slots = [slot(batch, Stream::Events), slot(batch, Stream::Findings)];
    let slot = |key: &BlockKey| if key.stream == Stream::Events { slots[0] } else { slots[1] };
    array(sql, blocks, |sql, key, _| number(sql, key.block));
    array(sql, blocks, |sql, key, _| number(sql, key.hour));
    // Names of streams are of characters that an array's text needs no quotes for.
    array(sql, blocks, |sql, key, _| sql.push_str(key.stream.name()));
    array(sql, blocks, |sql, key, _| number(sql, key.class_uid));
    array(sql, blocks, |sql, key, _| number(sql, key.severity_id));
    array(sql, blocks, |sql, key, _| number(sql, slot(key)));
    array(sql, blocks, |sql, _, n| {
        sql.push_str("\"{");
        for (place, n) in n.iter().enumerate() {
            if place > 0 {
                sql.push(',');
            }
            number(sql, n);
        }
        sql.push_str("}\"");
    });
}

/// The partition under which a stream's rows are counted: the lowest in the transaction. This transaction holds it, so
/// nobody else writes that slot meanwhile, and an org's events from several partitions make one row instead of several.
fn slot(batch: &Batch, stream: Stream) -> i32 {
    let topic = if stream == Stream::Events { Topic::Events } else { Topic::Findings };
    batch.ranges().keys().filter(|key| key.topic == topic).map(|key| key.partition).min().unwrap_or(0)
}

fn array(sql: &mut String, blocks: &Blocks, write: impl Fn(&mut String, &BlockKey, &[i64; BLOCK_ORGS])) {
    sql.push_str(", '{");
    for (at, (key, n)) in blocks.iter().enumerate() {
        if at > 0 {
            sql.push(',');
        }
        write(sql, key, n);
    }
    sql.push_str("}'");
}

fn number(sql: &mut String, number: impl std::fmt::Display) {
    let _ = write!(sql, "{number}");
}

/// Appends a value as a literal of JSON.
pub fn json(sql: &mut String, value: &impl Serialize) {
    // Structs of strings and numbers: always JSON.
    let text = serde_json::to_string(value).unwrap_or_else(|_| "[]".to_owned());
    sql.push('\'');
    sql.push_str(&text.replace('\'', "''"));
    sql.push('\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_in_json_are_doubled() {
        let mut sql = String::new();
        json(&mut sql, &["it's", "back\\slash"]);
        assert_eq!(sql, r#"'["it''s","back\\slash"]'"#);
    }
}
