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

/// Refused rows that are looked for one by one, per org and minute. Beyond, the smallest run of an org's rows that is
/// refused is set aside whole: one org's bad data must not take the database from the others.
const ROWS_PER_ORG: u32 = 64;
const WINDOW: Duration = Duration::from_secs(60);
/// The same over all orgs, for a batch.
const ROWS_PER_BATCH: u32 = 512;
/// Orgs remembered; more start anew.
const MAX_ORGS: usize = 10_000;

/// How many refused rows each org has had looked for.
#[derive(Debug, Default)]
pub struct Budget {
    orgs: AHashMap<Arc<str>, (Instant, u32)>,
    batch: u32,
}

impl Budget {
    fn begin_batch(&mut self) {
        self.batch = 0;
        self.orgs.retain(|_, (since, _)| since.elapsed() < WINDOW);
        if self.orgs.len() > MAX_ORGS {
            self.orgs.clear();
        }
    }

    fn spend(&mut self, org: &Arc<str>) {
        self.batch += 1;
        self.orgs.entry(Arc::clone(org)).or_insert_with(|| (Instant::now(), 0)).1 += 1;
    }

    fn is_spent(&self, org: &Arc<str>) -> bool {
        self.batch >= ROWS_PER_BATCH || self.orgs.get(org).is_some_and(|(_, rows)| *rows >= ROWS_PER_ORG)
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
    budget.begin_batch();
    let mut refused = Vec::new();
    // The whole was refused already.
    let mut stack = halves(0..table.rows().len());
    while let Some(range) = stack.pop() {
        let Err(error) = attempt(session, target, table, range.clone()).await.map_err(|e| Failure::of(&e))?
        else {
            continue;
        };
        let rows = table.rows().get(range.clone()).unwrap_or_default();
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { continue };
        let org = org_names.get(first.org as usize).cloned().unwrap_or_default();
        if rows.len() == 1 {
            refused.push((*first, reason(target, table, range, &error, planned)?));
            budget.spend(&org);
        } else if first.org == last.org && budget.is_spent(&org) {
            let refusal = Refusal::RefusedUnexamined(describe(&error));
            refused.extend(rows.iter().map(|row| (*row, refusal.clone())));
        } else {
            stack.extend(halves(range));
        }
    }
    Ok(refused)
}

/// Copies some rows under a savepoint. The inner error is a refusal, after which the transaction goes on.
async fn attempt(
    session: &Session,
    target: Target,
    table: &Table,
    range: Range<usize>,
) -> Result<Result<(), Error>, Error> {
    session.execute("SAVEPOINT part").await?;
    match session.copy(target, table.bytes(range)).await {
        Ok(_) => session.execute("RELEASE SAVEPOINT part").await.map(Ok),
        Err(error) if lacks_partition(&error) || classify(&error) == Class::Data => {
            session.execute("ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part").await?;
            Ok(Err(error))
        }
        Err(error) => Err(error),
    }
}

fn reason(
    target: Target,
    table: &Table,
    row: Range<usize>,
    error: &Error,
    planned: &Planned,
) -> Result<Refusal, Failure> {
    if !lacks_partition(error) {
        return Ok(Refusal::Refused(describe(error)));
    }
    let time = time_of(&table.bytes(row));
    if planned.contains(time) {
        return Err(Failure::NoPartition(target.name().to_owned()));
    }
    Ok(Refusal::NoPartition(time::to_text(time)))
}

/// The time of an encoded row: its first field, after the number of fields and its own length.
fn time_of(row: &[u8]) -> Micros {
    let bytes = row.get(6..14).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
    time::from_postgres(i64::from_be_bytes(bytes))
}

/// Both halves, the first one last: on top of the stack. One row or none is left whole.
fn halves(range: Range<usize>) -> Vec<Range<usize>> {
    if range.len() < 2 {
        return vec![range];
    }
    let middle = range.start + range.len() / 2;
    vec![middle..range.end, range.start..middle]
}
