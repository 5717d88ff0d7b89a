//! Whether the events and findings that incidents name as evidence are there.
//!
//! They are looked for while all rows pass by anyway; where incidents name more of them than memory should hold, in several
//! passes, a share each.

use ahash::{AHashMap, AHashSet};
use anyhow::Context as _;
use schemas::Stream;
use tokio_postgres::Client;

use super::cells::Row;
use super::check::Check;
use super::copy::Rows;
use super::counts::of_stream;
use super::leaves::Leaves;
use super::ledger::Ledger;
use super::time;
use crate::place::{Place, Topic};

/// An event or finding, as an incident names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Named {
    stream: Stream,
    kpart: i32,
    koffset: i64,
    kindex: i32,
    time: i64,
}

/// What is looked for in a pass.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    found: AHashMap<Named, bool>,
}

/// What became of what was not found among the rows.
#[derive(Debug, Default)]
pub(super) struct Excused {
    /// Of a month that is gone.
    gone: u64,
    /// Of raw records that the sink has not come to yet.
    pending: u64,
    /// Of raw records whose loss was accepted.
    accepted: u64,
    /// In quarantine.
    quarantined: u64,
}

/// How many are named; one that several incidents name counts as often.
pub(super) async fn count(client: &Client) -> anyhow::Result<i64> {
    let query = "SELECT coalesce(sum(jsonb_array_length(evidence)), 0)::bigint FROM incidents";
    Ok(client.query_one(query, &[]).await.context("counting evidence")?.try_get(0)?)
}

impl Evidence {
    /// One of so many shares of what incidents name.
    pub(super) async fn read(
        client: &Client,
        share: u64,
        shares: u64,
        check: &mut Check,
    ) -> anyhow::Result<Self> {
        let query = "SELECT id::text, e ->> 'stream', (e ->> 'partition')::integer, (e ->> 'offset')::bigint, \
                     (e ->> 'index')::integer, (e ->> 'time')::bigint \
                     FROM incidents CROSS JOIN jsonb_array_elements(evidence) AS e";
        let mut evidence = Self::default();
        let rows = Rows::of(client, query).await.context("reading evidence")?;
        rows.each(|fields| {
            let (incident, stream) = (fields.text()?, fields.text()?);
            let (kpart, koffset) = (fields.int4()?, fields.int8()?);
            let (kindex, time) = (fields.int4()?, fields.int8()?);
            let Some(stream) = std::str::from_utf8(stream).ok().and_then(Stream::from_name) else {
                if share == 0 {
                    let incident = String::from_utf8_lossy(incident);
                    check.found(format!("incident {incident}"), "evidence of an unknown stream");
                }
                return Ok(());
            };
            if koffset.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15) % shares == share {
                evidence.found.insert(Named { stream, kpart, koffset, kindex, time }, false);
            }
            Ok(())
        })
        .await
        .context("reading evidence")?;
        Ok(evidence)
    }

    /// Takes note of a row.
    pub(super) fn see(&mut self, stream: Stream, row: &Row) {
        if self.found.is_empty() {
            return;
        }
        let Row { kpart, koffset, kindex, time, .. } = *row;
        if let Some(found) = self.found.get_mut(&Named { stream, kpart, koffset, kindex, time }) {
            *found = true;
        }
    }

    /// Tells what points nowhere, and why the rest that was not found need not be there.
    pub(super) async fn settle(
        self,
        client: &Client,
        ledger: &Ledger,
        leaves: &[Leaves; 2],
        excused: &mut Excused,
        check: &mut Check,
    ) -> anyhow::Result<()> {
        let mut missing: Vec<Named> = Vec::new();
        for (named, _) in self.found.into_iter().filter(|(_, found)| !found) {
            if of_stream(leaves, named.stream).gone(named.time) {
                excused.gone += 1;
            } else if is_pending(&named, ledger) {
                excused.pending += 1;
            } else if is_accepted(&named, ledger) {
                excused.accepted += 1;
            } else {
                missing.push(named);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let quarantined = quarantined(client, &missing).await?;
        let looked_for = missing.len();
        missing.retain(|named| !quarantined.contains(&key(named)));
        excused.quarantined += (looked_for - missing.len()) as u64;
        missing.sort_unstable();
        for named in &missing {
            if !check.has_room() {
                check.found_more(1);
                continue;
            }
            let incident = incident(client, named).await?;
            let Named { stream, kpart, koffset, kindex, time } = *named;
            check.found(
                incident,
                format!(
                    "{}/{kpart} raw offset {koffset} index {kindex} of {} is neither stored nor quarantined",
                    stream.name(),
                    time::exact(time)
                ),
            );
        }
        Ok(())
    }
}

impl Excused {
    /// In words, where there is anything to say.
    pub(super) fn describe(&self) -> String {
        let parts = [
            (self.gone, "of months that are gone"),
            (self.pending, "not stored yet"),
            (self.accepted, "in accepted gaps"),
            (self.quarantined, "in quarantine"),
        ];
        let told = parts.into_iter().filter(|(count, _)| *count > 0);
        told.map(|(count, what)| format!(", {count} {what}")).collect()
    }
}

type Key = (Stream, i32, i64, i32);

fn key(named: &Named) -> Key {
    (named.stream, named.kpart, named.koffset, named.kindex)
}

fn place(named: &Named) -> Place {
    Place { topic: Topic::Stream(named.stream), partition: named.kpart }
}

/// Detection reads the enriched topics too, and may be ahead of the sink.
fn is_pending(named: &Named, ledger: &Ledger) -> bool {
    let position = ledger.partitions.get(&place(named)).and_then(|partition| partition.position);
    named.koffset >= position.and_then(|position| position.at.source).unwrap_or(0)
}

fn is_accepted(named: &Named, ledger: &Ledger) -> bool {
    let Some(partition) = ledger.partitions.get(&place(named)) else { return false };
    partition.accepted.iter().any(|accepted| {
        let (from, to) = (accepted.moved.from.source, accepted.moved.to.source);
        let after = from.is_some_and(|from| named.koffset >= from);
        after && (accepted.other_topic || to.is_some_and(|to| named.koffset < to))
    })
}

async fn quarantined(client: &Client, missing: &[Named]) -> anyhow::Result<AHashSet<Key>> {
    let wanted: AHashSet<Key> = missing.iter().map(key).collect();
    let mut there = AHashSet::new();
    let rows = Rows::of(client, "SELECT stream, kpart, koffset, kindex FROM quarantine").await?;
    rows.each(|fields| {
        let stream = fields.text()?;
        let (kpart, koffset, kindex) = (fields.int4()?, fields.int8()?, fields.int4()?);
        if let Some(stream) = std::str::from_utf8(stream).ok().and_then(Stream::from_name) {
            let key = (stream, kpart, koffset, kindex);
            if wanted.contains(&key) {
                there.insert(key);
            }
        }
        Ok(())
    })
    .await?;
    Ok(there)
}

/// An incident that names it.
async fn incident(client: &Client, named: &Named) -> anyhow::Result<String> {
    let Named { stream, kpart, koffset, kindex, .. } = *named;
    let row = client
        .query_opt(
            "SELECT org, id::text FROM incidents
             WHERE evidence @> jsonb_build_array(jsonb_build_object(
                 'stream', $1::text, 'partition', $2::integer, 'offset', $3::bigint, 'index', $4::integer))
             ORDER BY 1, 2 LIMIT 1",
            &[&stream.name(), &kpart, &koffset, &kindex],
        )
        .await
        .context("looking for an incident by its evidence")?;
    Ok(match row {
        Some(row) => format!("incident {} of {}", row.try_get::<_, String>(1)?, row.try_get::<_, String>(0)?),
        None => "an incident".to_owned(),
    })
}
