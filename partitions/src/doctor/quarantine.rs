//! Whether quarantine holds what the ledger says was put there.

use anyhow::Context as _;
use tokio_postgres::Client;

use super::check::Check;
use super::copy::Rows;
use super::leaves::Leaves;
use super::ledger::{Ledger, Partition, Stretch};
use crate::place::{Place, Topic};

/// A record is committed at most so long after it was received: raw topics keep a week by default. For telling what went
/// with a month of quarantine that is gone.
const LAG_MICROS: i64 = 8 * 86_400 * 1_000_000;

/// Counts the rows of quarantine into the ledger's stretches.
pub(super) async fn count(client: &Client, ledger: &mut Ledger, check: &mut Check) -> anyhow::Result<()> {
    let mut total = 0u64;
    let rows = Rows::of(client, "SELECT stream, kpart, koffset, kindex, state FROM quarantine").await?;
    rows.each(|fields| {
        total += 1;
        let (stream, kpart) = (fields.text()?, fields.int4()?);
        let (koffset, kindex) = (fields.int8()?, fields.int4()?);
        let is_open = fields.text()? == b"open";
        let name = String::from_utf8_lossy(stream);
        let place = Topic::from_name(&name).map(|topic| Place { topic, partition: kpart });
        let partition = place.and_then(|place| ledger.partitions.get_mut(&place));
        match partition.and_then(|partition| partition.holding(koffset, kindex)) {
            Some(stretch) if is_open => stretch.present.open += 1,
            Some(stretch) => stretch.present.redriven += 1,
            None => check.found(
                format!("{name}/{kpart}"),
                format!(
                    "a row of quarantine (offset {koffset}, index {kindex}) is in no range of the ledger"
                ),
            ),
        }
        Ok(())
    })
    .await
    .context("reading quarantine")?;
    check.on = format!("{total} rows");
    Ok(())
}

impl Partition {
    /// The stretch that a row of quarantine came with: found by its raw offset, or, where the record could not be read
    /// at all (index -1), by its own. Where several have that offset, one that still lacks rows.
    fn holding(&mut self, offset: i64, index: i32) -> Option<&mut Stretch> {
        let by_source = index >= 0 && self.place.topic.stream().is_some();
        let range = |stretch: &Stretch| {
            if by_source { stretch.sources.clone() } else { stretch.offsets.clone() }
        };
        let at = if self.accepted.is_empty() {
            // In one generation they follow one another.
            Some(self.stretches.partition_point(|stretch| range(stretch).end <= offset))
        } else {
            let holds = |stretch: &Stretch| range(stretch).contains(&offset);
            let lacks = |stretch: &Stretch| {
                stretch.present.open + stretch.present.redriven < stretch.sums.quarantined
            };
            let lacking = self.stretches.iter().position(|stretch| holds(stretch) && lacks(stretch));
            lacking.or_else(|| self.stretches.iter().position(holds))
        };
        self.stretches.get_mut(at?).filter(|stretch| range(stretch).contains(&offset))
    }
}

/// Compares, and returns how many rows went with months that are gone, and before which moment they were committed.
pub(super) fn compare(ledger: &Ledger, leaves: &Leaves, check: &mut Check) -> (i64, i64) {
    let stretches = || ledger.partitions.values().flat_map(|partition| &partition.stretches);
    let oldest = stretches().map(|stretch| stretch.committed_at).min();
    // Nothing is gone where nothing was committed before the first month there is.
    let gone_until = leaves
        .start()
        .filter(|start| oldest.is_some_and(|oldest| oldest < *start))
        .map_or(i64::MIN, |start| start.saturating_add(LAG_MICROS));
    let mut gone = 0;
    for partition in ledger.partitions.values() {
        for stretch in &partition.stretches {
            let there = stretch.present.open + stretch.present.redriven;
            let said = stretch.sums.quarantined;
            if there < said && stretch.committed_at < gone_until {
                gone += said - there;
            } else if there != said {
                check.found(
                    partition.place,
                    format!(
                        "offsets {} to {}: {said} were quarantined, {there} are in quarantine",
                        stretch.offsets.start, stretch.offsets.end
                    ),
                );
            }
        }
    }
    (gone, gone_until)
}
