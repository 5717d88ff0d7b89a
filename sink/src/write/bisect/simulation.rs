//! Random tables against a model of Postgres: who is refused, who is kept, and how often it is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use schemas::Micros;
use simulation::{Schedule, Simulation};

use super::{Bisect, Budget, ROWS_PER_ORG, Why};
use crate::encode::Refusal;
use crate::encode::time::{self, Planned};
use crate::prepare::counts::Orgs;
use crate::prepare::table::{Builder, RowAt, Table};
use crate::write::failure::Failure;
use crate::write::session::Target;

const SIMULATION: Simulation = Simulation::new("bisect", 50_000);
const NOW: Micros = Micros(1_700_000_000_000_000);
const DAY: i64 = 86_400_000_000;

/// What is taken away to see whether it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// A refused attempt leaves the rows before the refused one behind.
    Savepoint,
    /// Refused rows are not counted against their org.
    Budget,
    /// One half of what was refused is not tried.
    OtherHalf,
    /// A refused range is set aside whole.
    Halving,
    /// What was refused is taken for stored.
    Answer,
}

/// How Postgres takes a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    /// A value is refused.
    Bad,
    /// There is no partition for a month that should have one.
    Awaited,
    /// There is none for a month that none is planned for.
    Unplanned,
}

/// A table of rows by id, in the order of the table.
struct Input {
    table: Table,
    orgs: Vec<Arc<str>>,
    kinds: Vec<Kind>,
}

fn input(schedule: &mut Schedule) -> Input {
    let orgs = 1 + schedule.below(6);
    let most = if schedule.chance(10) { 900 } else { 48 };
    // Most orgs send nothing bad; one may send nothing else.
    let bad: Vec<u32> = (0..orgs).map(|_| [0, 0, 0, 2, 30, 100][schedule.below(6)]).collect();
    let awaited = if schedule.chance(20) { 4 } else { 0 };
    let mut rows = Vec::new();
    for _ in 0..1 + schedule.below(most) {
        let org = schedule.below(orgs);
        let kind = if schedule.chance(bad[org]) {
            if schedule.chance(30) { Kind::Unplanned } else { Kind::Bad }
        } else if schedule.chance(awaited) {
            Kind::Awaited
        } else {
            Kind::Good
        };
        let day = match kind {
            Kind::Unplanned if schedule.chance(50) => schedule.within(-900, -400),
            Kind::Unplanned => schedule.within(200, 900),
            Kind::Awaited => 60,
            _ => schedule.within(-30, 0),
        };
        rows.push((org, kind, day));
    }
    of_rows(&rows)
}

/// A table of these rows: org, kind and day.
fn of_rows(rows: &[(usize, Kind, i64)]) -> Input {
    let (mut orgs, mut builder) = (Orgs::default(), Builder::default());
    for (id, (org, _, day)) in (0u32..).zip(rows) {
        let time = Micros(NOW.0 + day * DAY);
        let org = orgs.number(&format!("org{org}")).unwrap();
        let row = builder.buffer();
        row.extend_from_slice(&2u16.to_be_bytes());
        row.extend_from_slice(&8u32.to_be_bytes());
        row.extend_from_slice(&time::to_postgres(time).unwrap().to_be_bytes());
        row.extend_from_slice(&4u32.to_be_bytes());
        row.extend_from_slice(&id.to_be_bytes());
        builder.accept(RowAt { start: 0, end: 0, record: 0, item: id, org, group: 0 }, time);
    }
    let table = builder.finish(&mut orgs, Table::default());
    Input { table, orgs: orgs.names().to_vec(), kinds: rows.iter().map(|(_, kind, _)| *kind).collect() }
}

/// A transaction of the model.
#[derive(Default)]
struct Transaction {
    stored: Vec<u32>,
}

impl Transaction {
    /// COPY: all of the rows or, with the reason, none.
    fn copy(&mut self, kinds: &[Kind], rows: &[u8], without: Without) -> Result<(), Why> {
        let before = self.stored.len();
        for row in rows.chunks(22) {
            let id = u32::from_be_bytes(row[18..].try_into().unwrap());
            let kind = kinds[id as usize];
            if kind != Kind::Good {
                if without != Without::Savepoint {
                    self.stored.truncate(before);
                }
                return Err(Why { lacks_partition: kind != Kind::Bad, text: id.to_string() });
            }
            self.stored.push(id);
        }
        Ok(())
    }
}

/// A leaf of the search: rows set aside together.
struct Leaf {
    rows: Vec<(RowAt, Refusal)>,
    /// The org had had too many already.
    spent: bool,
}

struct Found {
    stored: Vec<u32>,
    leaves: Vec<Leaf>,
    attempts: usize,
    /// Ranges that the table was cut into at first.
    cut: usize,
}

/// One transaction's search, as [`super::copy`] does it.
fn search(
    schedule: &mut Schedule,
    input: &Input,
    budget: &mut Budget,
    now: Instant,
    without: Without,
) -> Result<Found, Failure> {
    let planned = Planned::at(NOW);
    let mut transaction = Transaction::default();
    let (mut leaves, mut attempts) = (Vec::new(), 0);
    let breaks = schedule.chance(10).then(|| schedule.below(20));
    let mut bisect = Bisect::new(Target::Events, &input.table, &input.orgs, &planned, budget, now);
    let cut = bisect.stack.len();
    while let Some(range) = bisect.next() {
        if breaks == Some(attempts) {
            return Err(Failure::InDoubt(postgres::Class::Transient, "the connection is gone".into()));
        }
        attempts += 1;
        let tried = transaction.copy(&input.kinds, &input.table.bytes(range.clone()), without);
        schedule.step(|| format!("  {range:?}: {tried:?}"));
        let Err(why) = tried else { continue };
        let org = &input.orgs[input.table.rows()[range.start].org as usize];
        let (spent, found) = (budget.is_spent(org), bisect.found.len());
        match without {
            Without::Answer => continue,
            Without::Budget => bisect.refused(range, &why, &mut Budget::default())?,
            Without::Halving => {
                let refusal = Refusal::Refused(why.text.clone());
                bisect.found.extend(input.table.rows()[range].iter().map(|row| (*row, refusal.clone())));
            }
            _ => bisect.refused(range, &why, budget)?,
        }
        if without == Without::OtherHalf {
            bisect.stack.pop();
        }
        let rows = bisect.found[found..].to_vec();
        if !rows.is_empty() {
            leaves.push(Leaf { rows, spent });
        }
    }
    Ok(Found { stored: transaction.stored, leaves, attempts, cut })
}

/// Ranges that the search may try: those that the table was cut into, both halves of every range that holds one of the
/// leaves, and for each run of an org with too many the rest of it.
fn most_attempts(rows: usize, leaves: usize, runs: usize, cut: usize) -> usize {
    let levels = rows.next_power_of_two().trailing_zeros();
    let split: usize = (0..levels).map(|level| leaves.min(1 << level)).sum();
    (2 * split.max(1)).min(2 * leaves.max(1) * levels.max(1) as usize) + runs + cut
}

fn check(input: &Input, found: &Found) -> Result<(), String> {
    let kind = |row: &RowAt| input.kinds[row.item as usize];
    let mut seen: Vec<u32> = found.stored.clone();
    let mut of_org: BTreeMap<u32, usize> = BTreeMap::new();
    for Leaf { rows, spent } in &found.leaves {
        seen.extend(rows.iter().map(|(row, _)| row.item));
        let (first, refusal) = &rows[0];
        *of_org.entry(first.org).or_default() += 1;
        if rows.iter().any(|(row, _)| row.org != first.org) {
            return Err(format!("rows of several orgs are set aside together: {rows:?}"));
        }
        if !rows.iter().any(|(row, _)| matches!(kind(row), Kind::Bad | Kind::Unplanned)) {
            return Err(format!("nothing is wrong with any of {rows:?}"));
        }
        let fits = match refusal {
            Refusal::Refused(text) => {
                rows.len() == 1 && kind(first) == Kind::Bad && *text == first.item.to_string()
            }
            Refusal::NoPartition(_) => rows.iter().all(|(row, _)| kind(row) == Kind::Unplanned),
            // Rows of a month that is awaited are among them only if a value is what was refused.
            Refusal::RefusedUnexamined(_) => {
                let any = |wanted| rows.iter().any(|(row, _)| kind(row) == wanted);
                *spent && (any(Kind::Bad) || !any(Kind::Awaited))
            }
            _ => false,
        };
        if !fits {
            return Err(format!("{refusal:?} is no reason to set {rows:?} aside"));
        }
    }
    let bad: BTreeSet<u32> =
        (0u32..).zip(&input.kinds).filter(|(_, kind)| **kind != Kind::Good).map(|(id, _)| id).collect();
    if let Some(id) = found.stored.iter().find(|id| bad.contains(id)) {
        return Err(format!("row {id} is stored, which Postgres refuses"));
    }
    seen.sort_unstable();
    if seen != (0..input.kinds.len() as u32).collect::<Vec<_>>() {
        return Err(format!("not every row is stored or set aside once: {seen:?}"));
    }

    let levels = input.kinds.len().next_power_of_two().trailing_zeros() as usize;
    let most = ROWS_PER_ORG as usize + 2 * levels + 1;
    if let Some((org, leaves)) = of_org.iter().find(|(_, leaves)| **leaves > most) {
        return Err(format!("{leaves} rows and runs of org {org} were looked for, at most {most} should be"));
    }
    let runs = found.leaves.iter().filter(|leaf| leaf.spent).count();
    let most = most_attempts(input.kinds.len(), found.leaves.len(), runs, found.cut);
    if found.attempts > most {
        let (leaves, rows) = (found.leaves.len(), input.kinds.len());
        return Err(format!(
            "{} attempts for {leaves} of {rows} rows, at most {most} are needed",
            found.attempts
        ));
    }
    Ok(())
}

/// Tables that come one after the other to one writer, each again until it is through.
fn tables(schedule: &mut Schedule, without: Without) -> Result<(), String> {
    let (mut budget, mut now) = (Budget::default(), Instant::now());
    for _ in 0..1 + schedule.below(3) {
        let mut input = input(schedule);
        loop {
            now += Duration::from_secs(schedule.below(40) as u64);
            match search(schedule, &input, &mut budget, now, without) {
                Ok(found) => {
                    check(&input, &found)?;
                    break;
                }
                Err(Failure::InDoubt(..)) => {}
                Err(Failure::NoPartition(_)) if input.kinds.contains(&Kind::Awaited) => {
                    if schedule.chance(50) {
                        // Somebody has made it.
                        let awaited = input.kinds.iter_mut().filter(|kind| **kind == Kind::Awaited);
                        awaited.for_each(|kind| *kind = Kind::Good);
                    }
                }
                Err(failure) => return Err(format!("{failure:?}")),
            }
        }
    }
    Ok(())
}

#[test]
fn the_refused_rows_are_set_aside_and_no_others() {
    SIMULATION.holds(|schedule| tables(schedule, Without::Nothing));
}

#[test]
fn without_its_guards_it_would_not_hold() {
    for without in
        [Without::Savepoint, Without::Budget, Without::OtherHalf, Without::Halving, Without::Answer]
    {
        SIMULATION.breaks(&format!("without {without:?}"), |schedule| tables(schedule, without));
    }
}

#[test]
fn a_planned_month_is_waited_for_whatever_its_org_has_used_up() {
    let spent = ROWS_PER_ORG as usize;
    let mut rows = vec![(0, Kind::Bad, -2); spent];
    rows.extend([(0, Kind::Unplanned, -900), (0, Kind::Awaited, 60), (0, Kind::Awaited, 60)]);
    let input = of_rows(&rows);
    let planned = Planned::at(NOW);
    let (mut budget, why) = (Budget::default(), Why { lacks_partition: true, text: "no partition".into() });
    let mut bisect =
        Bisect::new(Target::Events, &input.table, &input.orgs, &planned, &mut budget, Instant::now());
    for _ in 0..spent {
        budget.spend(&input.orgs[0], bisect.now);
    }
    // Without the row that no partition is planned for, then for good.
    bisect.refused(0..input.kinds.len(), &why, &mut budget).unwrap();
    assert_eq!(bisect.found.len(), 1);
    assert_eq!(bisect.next(), Some(1..input.kinds.len()));
    let failure = bisect.refused(1..input.kinds.len(), &why, &mut budget).unwrap_err();
    assert!(matches!(failure, Failure::NoPartition(_)), "{failure:?}");
}
