//! Passing all rows by, partition after partition, over several connections; what they come to is kept by one thread.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, anyhow};
use futures::future::try_join_all;
use postgres::Client;
use schemas::Stream;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::cells::{Cells, Row, Verdict};
use super::copy::Rows;
use super::counts::{Counter, Hours};
use super::evidence::Evidence;
use super::leaves::Leaves;
use super::ledger::Ledger;
use crate::place::Topic;

/// Rows handed over at a time, and how often before the reader waits: 4 MiB at most.
const BATCH_ROWS: usize = 4096;
const BATCHES: usize = 32;
/// Rows kept to be told of.
const MAX_KEPT: usize = 20;

const IDENTITY: &str = "kpart, koffset, kindex, time, received_at";
const GROUP: &str = "org, class_uid, severity_id";

/// Rows of one partition.
struct Batch {
    stream: Stream,
    rows: Vec<Row>,
}

/// Rows that should not be there; the first of them.
#[derive(Debug, Default)]
pub(super) struct Odd {
    pub(super) total: u64,
    pub(super) rows: Vec<(Stream, Row)>,
}

impl Odd {
    fn add(&mut self, stream: Stream, row: &Row) {
        self.total += 1;
        if self.rows.len() < MAX_KEPT {
            self.rows.push((stream, *row));
        }
    }
}

/// What rows have come to so far.
pub(super) struct Tally {
    cells: BTreeMap<(Stream, i32), Cells>,
    limit: usize,
    first: bool,
    pub(super) evidence: Evidence,
    /// Rows whose identity was there before.
    pub(super) doubled: Odd,
    /// Rows whose raw offset is in no range of the ledger.
    pub(super) outside: Odd,
}

impl Tally {
    /// `limit` is how many bytes may be held for telling identities apart.
    pub(super) fn new(ledger: &Ledger, limit: usize) -> Self {
        let of_streams = ledger.partitions.values().filter_map(|partition| {
            let stream = partition.place.topic.stream()?;
            let cells = Cells::new(partition, stream == Stream::Events);
            Some(((stream, partition.place.partition), cells))
        });
        Self {
            cells: of_streams.collect(),
            limit,
            first: true,
            evidence: Evidence::default(),
            doubled: Odd::default(),
            outside: Odd::default(),
        }
    }

    fn take(&mut self, batch: &Batch) {
        let mut held: usize = self.cells.values().map(|cells| cells.bytes).sum();
        for row in &batch.rows {
            self.evidence.see(batch.stream, row);
            let Some(cells) = self.cells.get_mut(&(batch.stream, row.kpart)) else {
                self.note(Verdict::Outside, batch.stream, row);
                continue;
            };
            let before = cells.bytes;
            let verdict = cells.see(row, held, self.limit, self.first);
            held = held.saturating_sub(before) + cells.bytes;
            if verdict != Verdict::Fine {
                self.note(verdict, batch.stream, row);
            }
        }
    }

    fn note(&mut self, verdict: Verdict, stream: Stream, row: &Row) {
        match verdict {
            Verdict::Doubled => self.doubled.add(stream, row),
            Verdict::Outside if self.first => self.outside.add(stream, row),
            Verdict::Outside | Verdict::Fine => {}
        }
    }

    /// Makes ready for another pass; whether identities want one.
    pub(super) fn next_pass(&mut self) -> bool {
        self.first = false;
        let wanting = self.cells.values_mut().filter_map(|cells| cells.next_pass().then_some(()));
        wanting.count() > 0
    }

    pub(super) fn cells(&self) -> impl Iterator<Item = (Stream, i32, &Cells)> {
        self.cells.iter().map(|((stream, kpart), cells)| (*stream, *kpart, cells))
    }

    /// Writes into the ledger's stretches how many rows there are.
    pub(super) fn settle(&self, ledger: &mut Ledger) {
        for (place, partition) in &mut ledger.partitions {
            let Topic::Stream(stream) = place.topic else { continue };
            if let Some(cells) = self.cells.get(&(stream, place.partition)) {
                cells.settle(partition);
            }
        }
    }
}

/// What is told while rows pass by.
pub(super) struct Meter<'a> {
    pub(super) rows: AtomicU64,
    pub(super) tell: &'a (dyn Fn(u64) + Sync),
}

impl Meter<'_> {
    fn passed(&self, rows: usize) {
        let before = self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        (self.tell)(before + rows as u64);
    }
}

/// Passes all rows by. With a `seed` their hours are summed up too; without one none are returned.
pub(super) async fn pass(
    clients: &[Client],
    leaves: &[Leaves; 2],
    tally: Tally,
    seed: Option<u64>,
    meter: &Meter<'_>,
) -> anyhow::Result<(Tally, Hours)> {
    let mut tables: Vec<(i64, Stream, &str)> = Stream::ALL
        .into_iter()
        .zip(leaves)
        .flat_map(|(stream, leaves)| {
            leaves.0.iter().map(move |leaf| (leaf.bytes, stream, leaf.name.as_str()))
        })
        .collect();
    // The largest first, so that the connections end together.
    tables.sort_by_key(|(bytes, ..)| -bytes);
    let tables: Mutex<VecDeque<_>> = Mutex::new(tables.into());
    let (sender, receiver) = channel(BATCHES);
    let keeper = tokio::task::spawn_blocking(move || keep(tally, receiver));
    let readers = clients.iter().map(|client| {
        let (tables, sender) = (&tables, sender.clone());
        async move {
            let mut hours = Hours::default();
            loop {
                let next = tables.lock().map_err(|_| anyhow!("a reader has panicked"))?.pop_front();
                let Some((_, stream, table)) = next else { return anyhow::Ok(hours) };
                let read = read(client, stream, table, seed, &sender, meter).await;
                hours.merge(read.with_context(|| format!("reading {table}"))?);
            }
        }
    });
    let read = try_join_all(readers).await;
    drop(sender);
    let tally = keeper.await.context("judging rows")?;
    let mut hours = Hours::default();
    read?.into_iter().for_each(|part| hours.merge(part));
    Ok((tally, hours))
}

fn keep(mut tally: Tally, mut batches: Receiver<Batch>) -> Tally {
    while let Some(batch) = batches.blocking_recv() {
        tally.take(&batch);
    }
    tally
}

async fn read(
    client: &Client,
    stream: Stream,
    table: &str,
    seed: Option<u64>,
    sender: &Sender<Batch>,
    meter: &Meter<'_>,
) -> anyhow::Result<Hours> {
    let mut counter = seed.map(|seed| Counter::new(seed, stream));
    let query = match counter {
        Some(_) => format!("SELECT {IDENTITY}, {GROUP} FROM {table}"),
        None => format!("SELECT {IDENTITY} FROM {table}"),
    };
    let mut source = Rows::of(client, &query).await?;
    let mut rows = Vec::with_capacity(BATCH_ROWS);
    loop {
        let more = source
            .next(|fields| {
                let row = Row {
                    kpart: fields.int4()?,
                    koffset: fields.int8()?,
                    kindex: fields.int4()?,
                    time: fields.time()?,
                    received_at: fields.time()?,
                };
                if let Some(counter) = &mut counter {
                    let org = fields.text()?;
                    counter.add(row.time, org, fields.int4()?, fields.int4()?, 1);
                }
                rows.push(row);
                Ok(())
            })
            .await?
            .is_some();
        if rows.len() == BATCH_ROWS || !more && !rows.is_empty() {
            meter.passed(rows.len());
            let batch = Batch { stream, rows: std::mem::replace(&mut rows, Vec::with_capacity(BATCH_ROWS)) };
            sender.send(batch).await.map_err(|_| anyhow!("nobody judges rows any more"))?;
        }
        if !more {
            return Ok(counter.map_or_else(Hours::default, Counter::finish));
        }
    }
}
