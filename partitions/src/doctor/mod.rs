//! Proof on a live database that every raw record is accounted for once: stored, quarantined or dropped as a repeat.
//!
//! Everything is read in one snapshot, so it holds while the sink writes, and nothing that the sink does waits for it. Rows
//! pass by once, and little of them is kept: see [`cells`] and [`counts`] for what.

mod cells;
mod chain;
mod check;
mod copy;
mod counts;
mod evidence;
mod explain;
mod leaves;
mod ledger;
mod quarantine;
mod report;
mod scan;
mod show;
mod snapshot;
mod time;

use std::sync::atomic::AtomicU64;
use std::time::Instant;

use anyhow::Context as _;
use postgres::DatabaseUrl;
use schemas::Stream;
use tokio_postgres::Client;

pub use check::{Check, Problem};
use counts::{Hours, of_stream};
use evidence::{Evidence, Excused};
use leaves::Leaves;
use ledger::{Checks, Ledger};
pub use report::{Accepted, Equation, Gone, Line, Report};
use report::{Excuses, Lines};
use scan::{Meter, Tally};
pub(crate) use show::text;
use snapshot::Snapshot;

use crate::place::Place;

/// Tables and views that are read.
pub(crate) const TABLES: [&str; 12] = [
    "events",
    "findings",
    "quarantine",
    "scans",
    "incidents",
    "counts",
    "count_org",
    "incident_counts",
    "scan_counts",
    "sink_partition",
    "sink_ledger",
    "sink_accepted",
];

/// How much it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Connections that read rows, each a partition at a time.
    pub connections: usize,
    /// Bytes held for telling identities apart. Where they do not do, rows pass by once more.
    pub identity_bytes: usize,
    /// Evidence looked for at a time, about 64 bytes each. Where there is more, rows pass by once more for each share.
    pub evidence: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { connections: 2, identity_bytes: 256 << 20, evidence: 2_000_000 }
    }
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Rows that have passed by.
    pub rows: u64,
    /// Rows that will pass by, as far as is known.
    pub of: u64,
}

const FIND_CAUSE: &str = "somebody or something other than the sink has written to these tables, or a server has lost \
    commits (fsync off, a restored or promoted standby that lagged): compare with a backup; Kafka may still have the records";

/// Checks the database, telling `progress` now and then.
///
/// # Errors
/// Postgres refuses, or a table holds what this program does not know. What does not add up is no error: it is in the
/// report.
pub async fn doctor(
    url: &DatabaseUrl,
    options: &Options,
    progress: &(dyn Fn(Progress) + Sync),
) -> anyhow::Result<Report> {
    let started = Instant::now();
    let snapshot = Snapshot::open(url, options.connections.max(1)).await?;
    let client = snapshot.client()?;

    let mut checks = Checks {
        sums: Check::new("received = stored + quarantined + duplicates", FIND_CAUSE),
        chain: Check::new("the ledger is contiguous up to the position", FIND_CAUSE),
    };
    let mut stored = Check::new("rows are those that the ledger has stored", FIND_CAUSE);
    let mut identities = Check::new("identities are distinct", FIND_CAUSE);
    let mut set_aside = Check::new("quarantine holds what the ledger has quarantined", FIND_CAUSE);
    let mut counts = Check::new(
        "counts are those of the rows",
        "the API's summaries are wrong for these hours; if the rows are right, correct count_block by the difference",
    );
    let mut named = Check::new(
        "evidence is stored or quarantined",
        "the incident stays, its page lacks these events; if other checks fail too, begin with those",
    );

    let mut ledger = Ledger::read(client, &mut checks).await?;
    let leaves = [Leaves::of(client, "events").await?, Leaves::of(client, "findings").await?];
    let seed = rand::random::<u64>();
    let counted = Hours::counted(client, seed).await.context("reading counts")?;
    quarantine::count(client, &mut ledger, &mut set_aside).await?;

    let there: i64 =
        Stream::ALL.iter().map(|stream| counted.rows(*stream, of_stream(&leaves, *stream)).0).sum();
    let evidence = evidence::count(client).await?;
    let shares = u64::try_from(evidence).unwrap_or(0) / options.evidence.max(1) as u64 + 1;
    let of = u64::try_from(there).unwrap_or(0).saturating_mul(shares);
    let tell = |rows| progress(Progress { rows, of: of.max(rows) });
    let meter = Meter { rows: AtomicU64::new(0), tell: &tell };

    let mut tally = Tally::new(&ledger, options.identity_bytes);
    let mut rows = Hours::default();
    let mut excused = Excused::default();
    let mut share = 0;
    loop {
        tally.evidence = if share < shares {
            Evidence::read(client, share, shares, &mut named).await?
        } else {
            Evidence::default()
        };
        let is_first = share == 0;
        let passed = scan::pass(&snapshot.clients, &leaves, tally, is_first.then_some(seed), &meter).await?;
        tally = passed.0;
        if is_first {
            rows = passed.1;
        }
        let looked_for = std::mem::take(&mut tally.evidence);
        looked_for.settle(client, &ledger, &leaves, &mut excused, &mut named).await?;
        share += 1;
        let identities_left = tally.next_pass();
        if share >= shares && !identities_left {
            break;
        }
    }
    named.on = format!("{evidence} named{}", excused.describe());

    tally.settle(&mut ledger);
    let excuses =
        judge_rows(client, &ledger, &leaves, &counted, &tally, &mut stored, &mut identities).await?;
    stored.on =
        format!("{there} rows of {} partitions", leaves.iter().map(|leaves| leaves.0.len()).sum::<usize>());
    identities.on = stored.on.clone();
    counts::compare(client, &rows, &counted, &leaves, &mut counts).await?;
    let quarantine_leaves = Leaves::of(client, "quarantine").await?;
    let (gone_quarantine, quarantine_before) =
        quarantine::compare(&ledger, &quarantine_leaves, &mut set_aside);
    let small = [incident_counts(client).await?, scan_counts(client).await?, scans(client, &ledger).await?];

    let Lines { partitions, months, both } =
        Lines::of(&ledger, Excuses { events: excuses, quarantine_before });
    let gone = Stream::ALL.iter().map(|stream| Gone {
        table: stream.name(),
        rows: counted.rows(*stream, of_stream(&leaves, *stream)).1,
    });
    let gone = gone.chain([Gone { table: "quarantine", rows: gone_quarantine }]);
    let mut all = vec![checks.sums, checks.chain, stored, identities, set_aside, counts];
    all.extend(small);
    all.push(named);
    Ok(Report {
        at: snapshot.at,
        seconds: started.elapsed().as_secs_f64(),
        ok: all.iter().all(Check::is_ok),
        partitions,
        months,
        months_of_partitions: both,
        gone: gone.filter(|gone| gone.rows != 0).collect(),
        accepted: accepted(&ledger),
        checks: all,
    })
}

/// Judges how many rows there are, range by range. Returns whether those of `events` that are missing are just those of
/// months that are gone.
async fn judge_rows(
    client: &Client,
    ledger: &Ledger,
    leaves: &[Leaves; 2],
    counted: &Hours,
    tally: &Tally,
    stored: &mut Check,
    identities: &mut Check,
) -> anyhow::Result<bool> {
    for (stream, row) in &tally.outside.rows {
        stored.found(
            format!("{}/{}", stream.name(), row.kpart),
            format!(
                "a row of raw offset {} index {} ({}) is in no range of the ledger",
                row.koffset,
                row.kindex,
                time::exact(row.time)
            ),
        );
    }
    stored.found_more(tally.outside.total - tally.outside.rows.len() as u64);

    let (_, gone) = counted.rows(Stream::Events, of_stream(leaves, Stream::Events));
    let cells = || {
        tally.cells().flat_map(|(stream, kpart, cells)| cells.iter().map(move |cell| (stream, kpart, cell)))
    };
    let short: i64 = cells()
        .filter(|(stream, ..)| *stream == Stream::Events)
        .map(|(.., cell)| (cell.stored - cell.found).max(0))
        .sum();
    if gone != 0 && short != gone {
        stored.found(
            "events",
            format!(
                "{short} rows of the ledger are not there, and {gone} were counted in months that are gone; the check \
                 of counts says where, if they are of months that are there"
            ),
        );
    }
    for (stream, kpart, cell) in cells().filter(|(stream, ..)| *stream == Stream::Findings) {
        if cell.found > cell.stored {
            stored.found(
                format!("{}/{kpart}", stream.name()),
                format!(
                    "raw offsets {} to {}: {} were stored, {} rows are there",
                    cell.sources.start, cell.sources.end, cell.stored, cell.found
                ),
            );
        }
    }
    // Ranges without raw records, which have no cell.
    for (place, partition) in &ledger.partitions {
        for stretch in &partition.stretches {
            if place.topic.stream().is_some() && stretch.sources.is_empty() && stretch.sums.stored != 0 {
                stored.found(
                    place,
                    format!(
                        "offsets {} to {}: {} were stored of no raw record",
                        stretch.offsets.start, stretch.offsets.end, stretch.sums.stored
                    ),
                );
            }
        }
    }
    explain::rows(client, tally, gone == 0, stored, identities).await?;
    Ok(gone != 0 && short == gone)
}

/// Counts of incidents against their rows.
async fn incident_counts(client: &Client) -> anyhow::Result<Check> {
    let mut check = Check::new(
        "incident counts are those of the incidents",
        "the API's summary is wrong; correct incident_counts by the difference",
    );
    let query = "SELECT org, status, severity_id, coalesce(counted.n, 0)::bigint, coalesce(there.n, 0)
        FROM (SELECT org, status, severity_id, sum(n) AS n FROM incident_counts GROUP BY 1, 2, 3) AS counted
        FULL JOIN (SELECT org, status, severity_id, count(*) AS n FROM incidents GROUP BY 1, 2, 3) AS there
            USING (org, status, severity_id)
        WHERE coalesce(counted.n, 0) <> coalesce(there.n, 0) ORDER BY 1, 2, 3";
    for row in client.query(query, &[]).await.context("comparing incident_counts")? {
        let (org, status, severity_id): (String, String, i32) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let (counted, there): (i64, i64) = (row.try_get(3)?, row.try_get(4)?);
        check.found(
            format!("org {org}"),
            format!("{counted} {status} incidents of severity {severity_id} counted, {there} there"),
        );
    }
    check.on = format!("{} incidents", number(client, "SELECT count(*) FROM incidents").await?);
    Ok(check)
}

/// Counts of scans against their rows.
async fn scan_counts(client: &Client) -> anyhow::Result<Check> {
    let mut check = Check::new(
        "scan counts are those of the scans",
        "the API's summary is wrong; correct scan_counts by the difference",
    );
    let query = "SELECT org, state, coalesce(counted.n, 0)::bigint, coalesce(there.n, 0)
        FROM (SELECT org, state, sum(n) AS n FROM scan_counts GROUP BY 1, 2) AS counted
        FULL JOIN (SELECT org, state, count(*) AS n FROM scans GROUP BY 1, 2) AS there USING (org, state)
        WHERE coalesce(counted.n, 0) <> coalesce(there.n, 0) ORDER BY 1, 2";
    for row in client.query(query, &[]).await.context("comparing scan_counts")? {
        let (org, state): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let (counted, there): (i64, i64) = (row.try_get(2)?, row.try_get(3)?);
        check.found(format!("org {org}"), format!("{counted} {state} scans counted, {there} there"));
    }
    check.on = format!("{} scans", number(client, "SELECT count(*) FROM scans").await?);
    Ok(check)
}

/// What `findings` stored beside rows are states of scans: at least one for each scan there is.
async fn scans(client: &Client, ledger: &Ledger) -> anyhow::Result<Check> {
    let mut check = Check::new("every scan comes from a state that was stored", FIND_CAUSE);
    let scans = number(client, "SELECT count(*) FROM scans").await?;
    let of_findings = ledger
        .partitions
        .iter()
        .filter(|(place, _)| place.topic.stream() == Some(Stream::Findings))
        .flat_map(|(_, partition)| &partition.stretches);
    let states: i64 = of_findings.map(|stretch| stretch.sums.stored - stretch.present.rows).sum();
    if states < scans {
        check.found("findings", format!("{scans} scans are there, but only {states} states were stored"));
    }
    check.on = format!("{states} states");
    Ok(check)
}

async fn number(client: &Client, query: &str) -> anyhow::Result<i64> {
    Ok(client.query_one(query, &[]).await?.try_get(0)?)
}

fn accepted(ledger: &Ledger) -> Vec<Accepted> {
    let of = |place: &Place, accepted: &ledger::Accepted| Accepted {
        partition: *place,
        action: accepted.action.clone(),
        actor: accepted.actor.clone(),
        at: accepted.at,
        offsets: (accepted.moved.from.offset, accepted.moved.to.offset),
        sources: accepted.moved.from.source.zip(accepted.moved.to.source),
    };
    let partitions = ledger.partitions.iter();
    partitions
        .flat_map(|(place, partition)| partition.accepted.iter().map(move |accepted| of(place, accepted)))
        .collect()
}
