//! How a report looks on a terminal.

use std::fmt::Write as _;

use comfy_table::Table;

use super::report::{Equation, Report};
use crate::output::{align_right, second, table};

const COLUMNS: [&str; 9] = [
    "ledger rows",
    "received",
    "stored",
    "merged",
    "quarantined",
    "redriven",
    "duplicates",
    "gone",
    "missing",
];

/// The report as text.
pub(crate) fn text(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(report, &mut text);
    text
}

fn write(report: &Report, text: &mut String) -> std::fmt::Result {
    writeln!(text, "As of {} UTC:\n", second(report.at))?;
    let lines = report.partitions.iter().map(|line| (line.of.to_string(), line.sums));
    writeln!(text, "{}\n", equations("partition", lines))?;
    if report.months.len() > 1 {
        let lines = report.months.iter().map(|line| (line.of.clone(), line.sums));
        writeln!(text, "{}\n", equations("committed in", lines))?;
    }
    for gone in &report.gone {
        writeln!(text, "{} rows of {} went with months that are gone.", gone.rows, gone.table)?;
    }
    for accepted in &report.accepted {
        let (from, to) = accepted.offsets;
        write!(
            text,
            "{}: {} by {} at {}: offset {from} to {to}",
            accepted.partition,
            accepted.action,
            accepted.actor,
            second(accepted.at)
        )?;
        match accepted.sources {
            Some((from, to)) => writeln!(text, ", raw offset {from} to {to}.")?,
            None => writeln!(text, ".")?,
        }
    }
    if !report.gone.is_empty() || !report.accepted.is_empty() {
        writeln!(text)?;
    }
    for check in &report.checks {
        if check.is_ok() {
            writeln!(text, "ok      {} ({})", check.name, check.on)?;
            continue;
        }
        writeln!(text, "FAILED  {} ({}): {}", check.name, check.on, check.total)?;
        for problem in &check.problems {
            writeln!(text, "          {}: {}", problem.at, problem.what)?;
        }
        let more = check.total - check.problems.len() as u64;
        if more > 0 {
            writeln!(text, "          and {more} more")?;
        }
        writeln!(text, "        What to do: {}.", check.hint)?;
    }
    let verdict = if report.ok { "Everything adds up" } else { "Not everything adds up" };
    writeln!(text, "\n{verdict}. Took {:.1} s.", report.seconds)
}

/// A table of equations with their sum.
fn equations(of: &str, lines: impl Iterator<Item = (String, Equation)>) -> Table {
    let header: Vec<&str> = std::iter::once(of).chain(COLUMNS).collect();
    let mut table = table(&header);
    let mut total = Equation::default();
    let mut count = 0;
    for (name, sums) in lines {
        total += sums;
        count += 1;
        table.add_row(cells(name, sums));
    }
    if count != 1 {
        table.add_row(cells("all".into(), total));
    }
    align_right(&mut table, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    table
}

fn cells(name: String, sums: Equation) -> [String; 10] {
    let Equation { ranges, received, rows, merged, open, redriven, duplicates, gone, missing } = sums;
    let number = |n: i64| if n == 0 { "-".to_owned() } else { n.to_string() };
    [
        name,
        number(ranges),
        number(received),
        number(rows),
        number(merged),
        number(open),
        number(redriven),
        number(duplicates),
        number(gone),
        number(missing),
    ]
}
