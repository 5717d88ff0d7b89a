//! What the sink says it has done: the ledger in its order, checked on the way and kept in stretches.

use std::collections::BTreeMap;
use std::ops::{AddAssign, Range};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::Client;

use super::chain::{Chain, Link, Move, Point};
use super::check::Check;
use super::copy::{Fields, Rows};
use crate::place::{Place, Topic};
use crate::plan::Month;

/// Stretches kept at most, or nearly: of a longer ledger each is of several neighbouring rows.
const MAX_STRETCHES: i64 = 200_000;

/// What the ledger says of some raw records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    /// Rows of the ledger.
    pub ranges: i64,
    /// Raw records that came.
    pub received: i64,
    /// Stored as rows, or merged into scans and incidents.
    pub stored: i64,
    /// Quarantined instead.
    pub quarantined: i64,
    /// Dropped as repeats.
    pub duplicates: i64,
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.ranges += other.ranges;
        self.received += other.received;
        self.stored += other.stored;
        self.quarantined += other.quarantined;
        self.duplicates += other.duplicates;
    }
}

/// What is in the tables of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Present {
    pub(super) rows: i64,
    pub(super) open: i64,
    pub(super) redriven: i64,
}

/// A row of the ledger, or neighbouring ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) generation: i32,
    /// When it was committed, the first of it.
    pub(super) committed_at: i64,
    pub(super) offsets: Range<i64>,
    /// Empty for `incidents`. A raw topic that is made anew begins at 0 again.
    pub(super) sources: Range<i64>,
    pub(super) sums: Sums,
    pub(super) present: Present,
}

/// Where the sink goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) at: Point,
    pub(super) generation: i32,
    pub(super) epoch: i64,
}

/// A move that an operator accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) moved: Move,
    pub(super) action: String,
    pub(super) actor: String,
    pub(super) at: Timestamp,
    /// The raw topic is another one from here on.
    pub(super) other_topic: bool,
}

/// A partition.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) place: Place,
    pub(super) position: Option<Position>,
    pub(super) accepted: Vec<Accepted>,
    pub(super) stretches: Vec<Stretch>,
}

/// The ledger of everything.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) partitions: BTreeMap<Place, Partition>,
}

/// The checks that need nothing but the ledger.
pub(super) struct Checks {
    /// received = stored + quarantined + duplicates.
    pub(super) sums: Check,
    /// Ranges follow one another.
    pub(super) chain: Check,
}

impl Ledger {
    pub(super) async fn read(client: &Client, checks: &mut Checks) -> anyhow::Result<Self> {
        let mut ledger = Self::default();
        ledger.read_positions(client).await.context("reading sink_partition")?;
        ledger.read_accepted(client).await.context("reading sink_accepted")?;
        ledger.read_ranges(client, checks).await.context("reading sink_ledger")?;
        Ok(ledger)
    }

    fn partition(&mut self, topic: &[u8], partition: i32) -> anyhow::Result<&mut Partition> {
        let name = String::from_utf8_lossy(topic);
        let Some(topic) = Topic::from_name(&name) else {
            bail!(
                "the sink's tables name the topic {name}, which this program does not know: use a newer one"
            );
        };
        let place = Place { topic, partition };
        Ok(self.partitions.entry(place).or_insert_with(|| Partition {
            place,
            position: None,
            accepted: Vec::new(),
            stretches: Vec::new(),
        }))
    }

    async fn read_positions(&mut self, client: &Client) -> anyhow::Result<()> {
        let rows = client
            .query(
                "SELECT topic, kpart, next_offset, next_source_offset, generation, epoch FROM sink_partition",
                &[],
            )
            .await?;
        for row in rows {
            let position = Position {
                at: Point { offset: row.try_get(2)?, source: row.try_get(3)? },
                generation: row.try_get(4)?,
                epoch: row.try_get(5)?,
            };
            self.partition(row.try_get::<_, &str>(0)?.as_bytes(), row.try_get(1)?)?.position = Some(position);
        }
        Ok(())
    }

    async fn read_accepted(&mut self, client: &Client) -> anyhow::Result<()> {
        let rows = client
            .query(
                "SELECT topic, kpart, generation, from_offset, from_source, to_offset, to_source, action, actor,
                        accepted_at, from_topic_id IS DISTINCT FROM to_topic_id
                 FROM sink_accepted ORDER BY topic, kpart, generation",
                &[],
            )
            .await?;
        for row in rows {
            let accepted = Accepted {
                moved: Move {
                    generation: row.try_get(2)?,
                    from: Point { offset: row.try_get(3)?, source: row.try_get(4)? },
                    to: Point { offset: row.try_get(5)?, source: row.try_get(6)? },
                },
                action: row.try_get(7)?,
                actor: row.try_get(8)?,
                at: row.try_get(9)?,
                other_topic: row.try_get(10)?,
            };
            self.partition(row.try_get::<_, &str>(0)?.as_bytes(), row.try_get(1)?)?.accepted.push(accepted);
        }
        Ok(())
    }

    async fn read_ranges(&mut self, client: &Client, checks: &mut Checks) -> anyhow::Result<()> {
        let count: i64 = client.query_one("SELECT count(*) FROM sink_ledger", &[]).await?.try_get(0)?;
        let width = count / MAX_STRETCHES + 1;
        checks.chain.on = format!("{count} ranges of {} partitions", self.partitions.len());
        checks.sums.on = format!("{count} ranges");
        let mut rows = Rows::of(
            client,
            "SELECT topic, kpart, generation, first_offset, next_offset, first_source, next_source, epoch, received, \
             stored, quarantined, duplicates, committed_at \
             FROM sink_ledger ORDER BY topic, kpart, generation, first_offset",
        )
        .await?;
        // Of one partition after the other, for the chain borrows the partition's moves.
        let mut next = rows.next(row).await?;
        let mut seen = Vec::new();
        while let Some((topic, kpart)) = next.as_ref().map(|(topic, kpart, ..)| (topic.clone(), *kpart)) {
            let partition = self.partition(&topic, kpart)?;
            seen.push(partition.place);
            let moves: Vec<Move> = partition.accepted.iter().map(|accepted| accepted.moved).collect();
            let mut chain = Chain::new(partition.place, &moves);
            let mut months = i64::MIN..i64::MIN;
            while let Some((_, _, link, sums, committed_at)) =
                next.take_if(|(of, number, ..)| *of == topic && *number == kpart)
            {
                chain.step(&link, &mut checks.chain);
                add_up(partition.place, &link, &sums, &mut checks.sums);
                let same_month = months.contains(&committed_at);
                if !same_month {
                    let month =
                        Month::of(Timestamp::from_microsecond(committed_at).unwrap_or(Timestamp::MAX));
                    months = month.start().as_microsecond()..month.end().as_microsecond();
                }
                partition.extend(&link, sums, committed_at, same_month, width);
                next = rows.next(row).await?;
            }
            chain.end(position(partition), &mut checks.chain);
        }
        for partition in self.partitions.values().filter(|partition| !seen.contains(&partition.place)) {
            let moves: Vec<Move> = partition.accepted.iter().map(|accepted| accepted.moved).collect();
            Chain::new(partition.place, &moves).end(position(partition), &mut checks.chain);
        }
        Ok(())
    }
}

fn position(partition: &Partition) -> Option<(Point, i32, i64)> {
    partition.position.map(|position| (position.at, position.generation, position.epoch))
}

impl Partition {
    /// Appends a row of the ledger, to the last stretch where that has room.
    fn extend(&mut self, link: &Link, sums: Sums, committed_at: i64, same_month: bool, width: i64) {
        let sources = link.from.source.unwrap_or(0)..link.to.source.unwrap_or(0);
        if let Some(last) = self.stretches.last_mut()
            && last.sums.ranges < width
            && last.generation == link.generation
            && same_month
            && last.sources.end == sources.start
            && last.offsets.end == link.from.offset
        {
            last.offsets.end = link.to.offset;
            last.sources.end = sources.end;
            last.sums += sums;
            return;
        }
        self.stretches.push(Stretch {
            generation: link.generation,
            committed_at,
            offsets: link.from.offset..link.to.offset,
            sources,
            sums,
            present: Present::default(),
        });
    }
}

type Row = (Vec<u8>, i32, Link, Sums, i64);

fn row(fields: &mut Fields<'_>) -> anyhow::Result<Row> {
    let (topic, kpart, generation) = (fields.text()?.to_vec(), fields.int4()?, fields.int4()?);
    let (first, next) = (fields.int8()?, fields.int8()?);
    let (first_source, next_source) = (fields.int8_or_null()?, fields.int8_or_null()?);
    let link = Link {
        generation,
        epoch: fields.int8()?,
        from: Point { offset: first, source: first_source },
        to: Point { offset: next, source: next_source },
    };
    let sums = Sums {
        ranges: 1,
        received: fields.int8()?,
        stored: fields.int8()?,
        quarantined: fields.int8()?,
        duplicates: fields.int8()?,
    };
    Ok((topic, kpart, link, sums, fields.time()?))
}

fn add_up(place: Place, link: &Link, sums: &Sums, check: &mut Check) {
    let Sums { received, stored, quarantined, duplicates, .. } = *sums;
    if stored + quarantined + duplicates != received || stored.min(quarantined).min(duplicates) < 0 {
        check.found(
            place,
            format!(
                "offsets {} to {}: received {received}, but stored {stored}, quarantined {quarantined}, duplicates {duplicates}",
                link.from.offset, link.to.offset
            ),
        );
    }
}
