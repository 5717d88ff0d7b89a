//! A closer look at the stretches that do not add up: which range of the ledger, which raw record, which row.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use anyhow::Context as _;
use schemas::Stream;
use tokio_postgres::Client;

use super::cells::{Cell, Row};
use super::check::Check;
use super::copy::Rows;
use super::scan::{Odd, Tally};
use super::time;
use crate::place::{Place, Topic};

/// Stretches looked at, and rows that the ledger says are in them: the look is kept in memory.
const MAX_STRETCHES: usize = 16;
const MAX_ROWS: i64 = 1_000_000;
/// Missing rows named of a range.
const MAX_NAMED: usize = 5;

/// Raw offsets of a partition.
struct Suspect {
    kpart: i32,
    sources: Range<i64>,
    /// Of more than one raw topic: its ranges cannot be told apart.
    is_shared: bool,
    stored: i64,
}

/// Ordinals of a raw record, and how often each is there, with the time of one such row.
type Ordinals = BTreeMap<i32, (u32, i64)>;
type Records = BTreeMap<(i32, i64), Ordinals>;

/// Says what is wrong in the stretches of `events` whose rows are not those that the ledger has stored. With `short` false a
/// stretch may lack rows.
pub(super) async fn rows(
    client: &Client,
    tally: &Tally,
    short: bool,
    stored: &mut Check,
    identities: &mut Check,
) -> anyhow::Result<()> {
    let is_wrong =
        |cell: &Cell| cell.found > cell.stored || cell.doubled > 0 || short && cell.found < cell.stored;
    let mut wrong = 0u64;
    let mut suspects: Vec<Suspect> = Vec::new();
    let mut in_them = 0i64;
    for (stream, kpart, cells) in tally.cells() {
        for cell in cells.iter().filter(|cell| stream == Stream::Events && is_wrong(cell)) {
            wrong += 1;
            in_them += cell.stored.max(cell.found);
            if suspects.is_empty() || suspects.len() < MAX_STRETCHES && in_them < MAX_ROWS {
                let (sources, stored) = (cell.sources.clone(), cell.stored);
                suspects.push(Suspect { kpart, sources, is_shared: cell.is_shared(), stored });
            }
        }
    }
    let mut records = Records::new();
    let mut quarantined = Records::new();
    if !suspects.is_empty() {
        let ranges = condition(&suspects);
        records = read(client, &format!("SELECT kpart, koffset, kindex, time FROM events WHERE {ranges}"))
            .await
            .context("looking at the rows of stretches that do not add up")?;
        quarantined = read(
            client,
            &format!(
                "SELECT kpart, koffset, kindex, received_at FROM quarantine
                 WHERE stream = 'events' AND kindex >= 0 AND ({ranges})"
            ),
        )
        .await
        .context("looking at quarantine for stretches that do not add up")?;
    }
    for suspect in &suspects {
        if suspect.is_shared {
            let there: i64 = of(&records, suspect.kpart, &suspect.sources).map(|(_, at)| copies(at)).sum();
            let mut told = format!(
                "raw offsets {} to {} of more than one raw topic: {} were stored",
                suspect.sources.start, suspect.sources.end, suspect.stored
            );
            let _ = write!(told, ", {there} rows are there");
            if there != suspect.stored {
                stored.found(place(Stream::Events, suspect.kpart), told);
            }
            continue;
        }
        tell_ranges(client, suspect, &records, &quarantined, stored).await?;
    }
    stored.found_more(wrong - suspects.len() as u64);
    let all_doubled: i64 = tally.cells().flat_map(|(.., cells)| cells.iter()).map(|cell| cell.doubled).sum();
    tell_doubled(client, &tally.doubled, &suspects, &records, identities).await?;
    // Some of them were told, and some that are one too many of a complete stretch.
    identities.found_more((all_doubled.unsigned_abs()).saturating_sub(identities.total));
    Ok(())
}

fn place(stream: Stream, partition: i32) -> Place {
    Place { topic: Topic::Stream(stream), partition }
}

fn condition(suspects: &[Suspect]) -> String {
    let one = |suspect: &Suspect| {
        let Suspect { kpart, sources: Range { start, end }, .. } = suspect;
        format!("kpart = {kpart} AND koffset >= {start} AND koffset < {end}")
    };
    suspects.iter().map(one).collect::<Vec<_>>().join(" OR ")
}

async fn read(client: &Client, query: &str) -> anyhow::Result<Records> {
    let mut records = Records::new();
    Rows::of(client, query)
        .await?
        .each(|fields| {
            let (kpart, koffset) = (fields.int4()?, fields.int8()?);
            let (kindex, time) = (fields.int4()?, fields.time()?);
            let ordinal = records.entry((kpart, koffset)).or_default().entry(kindex).or_insert((0, time));
            ordinal.0 += 1;
            ordinal.1 = time;
            Ok(())
        })
        .await?;
    Ok(records)
}

fn of<'r>(
    records: &'r Records,
    kpart: i32,
    sources: &Range<i64>,
) -> impl Iterator<Item = (i64, &'r Ordinals)> + use<'r> {
    let (start, end) = (sources.start, sources.end.max(sources.start));
    records.range((kpart, start)..(kpart, end)).map(|((_, koffset), ordinals)| (*koffset, ordinals))
}

fn copies(ordinals: &Ordinals) -> i64 {
    ordinals.values().map(|(copies, _)| i64::from(*copies)).sum()
}

/// Compares each range of the ledger in a stretch with the identities that are there.
async fn tell_ranges(
    client: &Client,
    suspect: &Suspect,
    records: &Records,
    quarantined: &Records,
    check: &mut Check,
) -> anyhow::Result<()> {
    let ranges = client
        .query(
            "SELECT first_source, next_source, first_offset, next_offset, stored FROM sink_ledger
             WHERE topic = 'events' AND kpart = $1 AND first_source >= $2 AND next_source <= $3
               AND next_source > first_source
             ORDER BY first_source",
            &[&suspect.kpart, &suspect.sources.start, &suspect.sources.end],
        )
        .await
        .context("looking at the ledger of a stretch that does not add up")?;
    for range in ranges {
        let sources: Range<i64> = range.try_get(0)?..range.try_get(1)?;
        let (first, next): (i64, i64) = (range.try_get(2)?, range.try_get(3)?);
        let said: i64 = range.try_get(4)?;
        let distinct: i64 =
            of(records, suspect.kpart, &sources).map(|(_, ordinals)| ordinals.len() as i64).sum();
        if distinct == said {
            continue;
        }
        let mut told = format!(
            "raw offsets {} to {} (enriched {first} to {next}): {said} were stored, {distinct} are there",
            sources.start, sources.end
        );
        if distinct < said {
            let missing = missing(records, quarantined, suspect.kpart, &sources);
            match missing.as_slice() {
                [] => told.push_str("; what is missing is a raw record, or the last of one"),
                missing => {
                    let named: Vec<String> = missing
                        .iter()
                        .map(|(koffset, kindex)| format!("raw offset {koffset} index {kindex}"))
                        .collect();
                    let _ = write!(told, "; missing: {}", named.join(", "));
                }
            }
        }
        check.found(place(Stream::Events, suspect.kpart), told);
    }
    Ok(())
}

/// Ordinals below the highest of their raw record that are neither stored nor quarantined.
fn missing(records: &Records, quarantined: &Records, kpart: i32, sources: &Range<i64>) -> Vec<(i64, i32)> {
    let empty = Ordinals::new();
    let holes = of(records, kpart, sources).flat_map(|(koffset, ordinals)| {
        let aside = quarantined.get(&(kpart, koffset)).unwrap_or(&empty);
        let last = ordinals.keys().chain(aside.keys()).max().copied().unwrap_or(0);
        (0..last)
            .filter(|kindex| !ordinals.contains_key(kindex) && !aside.contains_key(kindex))
            .map(move |kindex| (koffset, kindex))
    });
    holes.take(MAX_NAMED).collect()
}

/// Names rows that are there more than once: those that were noticed on the way, and those found in the stretches.
async fn tell_doubled(
    client: &Client,
    noticed: &Odd,
    suspects: &[Suspect],
    records: &Records,
    check: &mut Check,
) -> anyhow::Result<()> {
    let noticed_rows = noticed.rows.iter().map(|(stream, row)| {
        let Row { kpart, koffset, kindex, time, .. } = *row;
        ((*stream, kpart, koffset, kindex), time)
    });
    let mut doubled: BTreeMap<(Stream, i32, i64, i32), i64> = noticed_rows.collect();
    for suspect in suspects.iter().filter(|suspect| !suspect.is_shared) {
        for (koffset, ordinals) in of(records, suspect.kpart, &suspect.sources) {
            for (kindex, (_, time)) in ordinals.iter().filter(|(_, (copies, _))| *copies > 1) {
                doubled.insert((Stream::Events, suspect.kpart, koffset, *kindex), *time);
            }
        }
    }
    for ((stream, kpart, koffset, kindex), time) in &doubled {
        if !check.has_room() {
            check.found_more(1);
            continue;
        }
        let query = format!(
            "SELECT min(org), count(*) FROM {} WHERE time = {} AND kpart = $1 AND koffset = $2 AND kindex = $3",
            stream.name(),
            time::literal(*time)
        );
        let row =
            client.query_one(&query, &[kpart, koffset, kindex]).await.context("looking for a doubled row")?;
        let (org, copies): (Option<String>, i64) = (row.try_get(0)?, row.try_get(1)?);
        let org = org.unwrap_or_default();
        let copies = if copies > 1 { format!("{copies} times") } else { "at different times".to_owned() };
        check.found(
            place(*stream, *kpart),
            format!(
                "raw offset {koffset} index {kindex} is there {copies} (org {org}, {})",
                time::exact(*time)
            ),
        );
    }
    Ok(())
}
