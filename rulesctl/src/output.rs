//! How results look on a terminal, and to a program.

use std::collections::BTreeMap;
use std::io::{self, Write};

use anyhow::Context as _;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use detection::Rules;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use schemas::Micros;
use serde::Serialize;

use crate::check::Checked;
use crate::replay::Incident;
use crate::rules::level;
use crate::suite::Suite;

/// How to show a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// The same, for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum TestFormat {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// For CI systems.
    Junit,
}

/// Stdout. A reader that has gone away (`| head -1`) is no failure, and reading on for it makes no sense.
pub(crate) struct Output<W: Write> {
    out: W,
    gone: bool,
}

impl<W: Write> Output<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, gone: false }
    }

    /// Whether nobody reads any more.
    pub(crate) fn gone(&self) -> bool {
        self.gone
    }

    pub(crate) fn text(&mut self, text: &str) -> anyhow::Result<()> {
        let result = self.out.write_all(text.as_bytes());
        self.settle(result)
    }

    /// A line of JSON.
    pub(crate) fn json<T: Serialize>(&mut self, value: &T) -> anyhow::Result<()> {
        let result = serde_json::to_writer(&mut self.out, value).map_err(io::Error::from);
        let result = result.and_then(|()| self.out.write_all(b"\n"));
        self.settle(result)
    }

    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        let result = self.out.flush();
        self.settle(result)
    }

    fn settle(&mut self, result: io::Result<()>) -> anyhow::Result<()> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.gone = true;
                Ok(())
            }
            other => other.context("writing to stdout"),
        }
    }
}

pub(crate) fn pretty<T: Serialize>(value: &T) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

pub(crate) fn checked(checked: &Checked) -> String {
    let mut text = String::new();
    for error in &checked.errors {
        text += &format!("error: {}:{}: {}\n", error.path.display(), error.line, error.reason);
    }
    for warning in &checked.warnings {
        text += &format!("warning: {}:{}: {}\n", warning.path.display(), warning.line, warning.reason);
    }
    let Checked { rules, compiled, errors, warnings } = checked;
    text + &format!(
        "{rules} rules, {compiled} compile; {} errors, {} warnings\n",
        errors.len(),
        warnings.len()
    )
}

pub(crate) fn suite(suite: &Suite) -> String {
    let mut text = String::new();
    let mut table = table(&["rule", "cases", "passed", "failed"]);
    let mut by_rule: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    for case in &suite.cases {
        let (cases, failed) = by_rule.entry((&case.rule, &case.rule_id)).or_default();
        *cases += 1;
        *failed += usize::from(case.failure.is_some());
    }
    for ((rule, _), (cases, failed)) in &by_rule {
        table.add_row([
            (*rule).to_owned(),
            cases.to_string(),
            (cases - failed).to_string(),
            failed.to_string(),
        ]);
    }
    align_right(&mut table, &[1, 2, 3]);
    text += &format!("{table}\n");
    for case in &suite.cases {
        if let Some(failure) = &case.failure {
            text += &format!("failed: {}: {}: {failure}\n", case.path.display(), case.case);
        }
    }
    for error in &suite.errors {
        text += &format!("error: {error}\n");
    }
    for path in &suite.untested {
        text += &format!("untested: {}\n", path.display());
    }
    text + &format!(
        "{} cases of {} rules: {} passed, {} failed; {} files without tests, {} errors\n",
        suite.cases.len(),
        by_rule.len(),
        suite.cases.len() - suite.failed(),
        suite.failed(),
        suite.untested.len(),
        suite.errors.len()
    )
}

pub(crate) fn incidents(incidents: &[Incident], rules: &Rules, org: &str) -> String {
    if incidents.is_empty() {
        return "no incidents\n".to_owned();
    }
    let detections = rules.detections().iter().map(|rule| &rule.meta);
    let metas = detections.chain(rules.correlations().iter().map(|rule| &rule.meta));
    let metas: BTreeMap<&str, _> = metas.map(|meta| (meta.id.as_str(), meta)).collect();
    let mut table = table(&["incident", "level", "group", "first", "last", "count", "events"]);
    for incident in incidents {
        let meta = metas.get(incident.rule_id.as_str());
        let group: Vec<String> =
            incident.group_key.iter().map(|(name, value)| format!("{name}={value}")).collect();
        table.add_row([
            meta.map_or(incident.rule_id.clone(), |meta| meta.title.clone()),
            meta.map_or(String::new(), |meta| level(rules.severity_id(meta, org)).to_owned()),
            group.join("\n"),
            second(incident.first),
            second(incident.last),
            incident.count.to_string(),
            some(&incident.events),
        ]);
    }
    align_right(&mut table, &[5]);
    format!("{table}\n")
}

/// The first few numbers.
fn some(events: &[u64]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<String> = events.iter().take(SHOWN).map(u64::to_string).collect();
    let more = if events.len() > SHOWN { " …" } else { "" };
    shown.join(" ") + more
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(header);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table
}

fn align_right(table: &mut Table, columns: &[usize]) {
    for column in columns {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// On stderr, and nothing where that is no terminal.
pub(crate) fn progress_bar(bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match bytes {
        Some(bytes) => (ProgressBar::new(bytes), "{bar:40} {bytes} of {total_bytes}, {eta} left"),
        None => (ProgressBar::no_length(), "{spinner} {bytes} read, {binary_bytes_per_sec}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// RFC 3339, UTC.
pub(crate) fn time(time: Micros) -> String {
    Timestamp::from_microsecond(time.0).map_or_else(|_| time.0.to_string(), |time| time.to_string())
}

fn second(at: Micros) -> String {
    Timestamp::from_microsecond(at.0)
        .map_or_else(|_| at.0.to_string(), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string())
}
