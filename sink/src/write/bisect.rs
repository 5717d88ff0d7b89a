//! Finding the rows that Postgres refuses, by halves, so that their neighbours are stored.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use postgres::{Class, classify, describe};
use schemas::Micros;
use tokio_postgres::Error;

use super::failure::{Failure, lacks_partition};
use super::session::{Session, Target};
use crate::encode::Refusal;
use crate::encode::time::{self, Planned};
use crate::prepare::table::{RowAt, Table};

#[cfg(test)]
mod simulation;

/// Refused rows that are looked for one by one, per org and minute. Beyond, the smallest run of an org's rows that is
/// refused is set aside whole: one org's bad data must not take the database from the others. A month that should have a
/// partition is waited for even then.
const ROWS_PER_ORG: u32 = 64;
const WINDOW: Duration = Duration::from_secs(60);
/// The same over all orgs, for a batch.
const ROWS_PER_BATCH: u32 = 512;
/// Ranges that the rows of an org whose rows are looked for no more are tried in, so that the good ones among them do not
/// all go with the first that is refused.
const PIECES: usize = 8;
/// Orgs remembered; more start anew.
const MAX_ORGS: usize = 10_000;

/// How many refused rows each org has had looked for.
#[derive(Debug, Default)]
pub struct Budget {
    orgs: AHashMap<Arc<str>, (Instant, u32)>,
    batch: u32,
}

impl Budget {
    /// Whether one of these orgs has had so many rows refused of late that trying a batch of its as a whole is not worth it.
    pub fn expects_refusals(&self, orgs: &[Arc<str>], now: Instant) -> bool {
        !self.orgs.is_empty()
            && orgs
                .iter()
                .filter_map(|org| self.orgs.get(org))
                .any(|(since, rows)| *rows >= ROWS_PER_ORG && now.saturating_duration_since(*since) < WINDOW)
    }

    fn begin_batch(&mut self, now: Instant) {
        self.batch = 0;
        self.orgs.retain(|_, (since, _)| now.saturating_duration_since(*since) < WINDOW);
        if self.orgs.len() > MAX_ORGS {
            self.orgs.clear();
        }
    }

    fn spend(&mut self, org: &Arc<str>, now: Instant) {
        self.batch += 1;
        self.orgs.entry(Arc::clone(org)).or_insert((now, 0)).1 += 1;
    }

    fn is_spent(&self, org: &Arc<str>) -> bool {
        self.batch >= ROWS_PER_BATCH || self.orgs.get(org).is_some_and(|(_, rows)| *rows >= ROWS_PER_ORG)
    }
}

/// Why some rows were refused.
#[derive(Debug, Clone)]
struct Why {
    /// One of them has no partition to go to.
    lacks_partition: bool,
    /// What Postgres said.
    text: String,
}

/// The search as a pure state machine. [`next`](Self::next) says which rows to try; if they are refused,
/// [`refused`](Self::refused) is to be told.
///
/// Of `n` rows it tries `2 · Σ min(2^level, k)` ranges at most, over the `⌈log2 n⌉` levels of halving, `k` being the rows and
/// runs it sets aside: no more than `2 k ⌈log2 n⌉`, or both halves where it finds nothing. A run may cost one more.
struct Bisect<'a> {
    target: Target,
    table: &'a Table,
    org_names: &'a [Arc<str>],
    planned: &'a Planned,
    now: Instant,
    /// Ranges to try; the last one next.
    stack: Vec<Range<usize>>,
    found: Vec<(RowAt, Refusal)>,
}

impl<'a> Bisect<'a> {
    /// The search in a table that was refused as a whole, or is expected to be.
    fn new(
        target: Target,
        table: &'a Table,
        org_names: &'a [Arc<str>],
        planned: &'a Planned,
        budget: &mut Budget,
        now: Instant,
    ) -> Self {
        budget.begin_batch(now);
        let stack = cut(table, org_names, budget);
        Self { target, table, org_names, planned, now, stack, found: Vec::new() }
    }

    /// The rows to try next.
    fn next(&mut self) -> Option<Range<usize>> {
        self.stack.pop()
    }

    /// These rows were refused.
    ///
    /// # Errors
    /// [`Failure::NoPartition`] for a row whose month should be there.
    fn refused(&mut self, range: Range<usize>, why: &Why, budget: &mut Budget) -> Result<(), Failure> {
        let rows = self.table.rows().get(range.clone()).unwrap_or_default();
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(()) };
        let org = self.org_names.get(first.org as usize).cloned().unwrap_or_default();
        if rows.len() == 1 {
            self.found.push((*first, self.reason(range, why)?));
            budget.spend(&org, self.now);
        } else if first.org == last.org && budget.is_spent(&org) {
            self.set_aside(range, why)?;
        } else {
            self.stack.extend(halves(range));
        }
        Ok(())
    }

    /// Sets a run of one org's rows aside unexamined; but where it is for the lack of a partition, not those of months that
    /// should have one: they are tried again, and waited for. Rows of an org are in the order of their times.
    fn set_aside(&mut self, range: Range<usize>, why: &Why) -> Result<(), Failure> {
        let mut kept = range.start..range.start;
        if why.lacks_partition {
            let due = |row: &usize| self.planned.contains(time_of(&self.table.bytes(*row..*row + 1)));
            if let (Some(first), Some(last)) = (range.clone().find(due), range.clone().rfind(due)) {
                kept = first..last + 1;
            }
        }
        if kept == range {
            return Err(Failure::NoPartition(self.target.name().to_owned()));
        }
        let refusal = Refusal::RefusedUnexamined(why.text.clone());
        for part in [range.start..kept.start, kept.end..range.end] {
            let rows = self.table.rows().get(part).unwrap_or_default();
            self.found.extend(rows.iter().map(|row| (*row, refusal.clone())));
        }
        if !kept.is_empty() {
            self.stack.push(kept);
        }
        Ok(())
    }

    fn reason(&self, row: Range<usize>, why: &Why) -> Result<Refusal, Failure> {
        if !why.lacks_partition {
            return Ok(Refusal::Refused(why.text.clone()));
        }
        let time = time_of(&self.table.bytes(row));
        if self.planned.contains(time) {
            return Err(Failure::NoPartition(self.target.name().to_owned()));
        }
        Ok(Refusal::NoPartition(time::to_text(time)))
    }
}

/// Copies what of the table Postgres takes, inside the transaction, and returns the rest with its reasons.
///
/// # Errors
/// Anything but a refused row; [`Failure::NoPartition`] for a row whose month should be there.
pub async fn copy(
    session: &Session,
    target: Target,
    table: &Table,
    org_names: &[Arc<str>],
    planned: &Planned,
    budget: &mut Budget,
) -> Result<Vec<(RowAt, Refusal)>, Failure> {
    let mut bisect = Bisect::new(target, table, org_names, planned, budget, Instant::now());
    while let Some(range) = bisect.next() {
        let tried = attempt(session, target, table, range.clone()).await.map_err(|e| Failure::of(&e))?;
        if let Err(why) = tried {
            bisect.refused(range, &why, budget)?;
        }
    }
    Ok(bisect.found)
}

/// Copies some rows under a savepoint. The inner error is a refusal, after which the transaction goes on.
async fn attempt(
    session: &Session,
    target: Target,
    table: &Table,
    range: Range<usize>,
) -> Result<Result<(), Why>, Error> {
    session.execute("SAVEPOINT part").await?;
    match session.copy(target, table.bytes(range)).await {
        Ok(_) => session.execute("RELEASE SAVEPOINT part").await.map(Ok),
        Err(error) if lacks_partition(&error) || classify(&error) == Class::Data => {
            session.execute("ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part").await?;
            Ok(Err(Why { lacks_partition: lacks_partition(&error), text: describe(&error) }))
        }
        Err(error) => Err(error),
    }
}

/// The time of an encoded row: its first field, after the number of fields and its own length.
fn time_of(row: &[u8]) -> Micros {
    let bytes = row.get(6..14).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
    time::from_postgres(i64::from_be_bytes(bytes))
}

/// What to try first, the first one last: both halves; but where rows are of orgs with too many refused ones, theirs
/// apart from those of the others.
fn cut(table: &Table, org_names: &[Arc<str>], budget: &Budget) -> Vec<Range<usize>> {
    let rows = table.rows();
    let spent = |org: u32| org_names.get(org as usize).is_some_and(|org| budget.is_spent(org));
    let (mut ranges, mut others, mut at) = (Vec::new(), 0..0, 0);
    for run in rows.chunk_by(|one, next| one.org == next.org) {
        let (begin, end) = (at, at + run.len());
        at = end;
        if !run.first().is_some_and(|row| spent(row.org)) {
            others.end = end;
            continue;
        }
        ranges.push(std::mem::replace(&mut others, end..end));
        let piece = run.len().div_ceil(PIECES);
        ranges.extend((begin..end).step_by(piece).map(|begin| begin..(begin + piece).min(end)));
    }
    if ranges.is_empty() {
        return halves(0..rows.len());
    }
    ranges.push(others);
    ranges.retain(|range| !range.is_empty());
    ranges.reverse();
    ranges
}

/// Both halves, the first one last: on top of the stack. One row or none is left whole.
fn halves(range: Range<usize>) -> Vec<Range<usize>> {
    if range.len() < 2 {
        return vec![range];
    }
    let middle = range.start + range.len() / 2;
    vec![middle..range.end, range.start..middle]
}
