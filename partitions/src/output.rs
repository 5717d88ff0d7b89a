//! How results look on a terminal, and to a program.

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde::Serialize;

use crate::list::Leaf;
use crate::orgs::Org;
use crate::tokens::{NewToken, StoredToken};

/// How to show a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// One line each, or `none`.
pub(crate) fn lines(lines: impl Iterator<Item = String>, none: &str) -> String {
    let mut text: String = lines.map(|line| line + "\n").collect();
    if text.is_empty() {
        text = format!("{none}\n");
    }
    text
}

pub(crate) fn leaves(leaves: &[Leaf], format: Format) -> anyhow::Result<String> {
    if format == Format::Json {
        return json(&leaves);
    }
    let mut table =
        table(&["partition", "from", "to", "rows (estimate)", "size", "pages without BRIN summary"]);
    for leaf in leaves {
        table.add_row([
            leaf.name.clone(),
            leaf.from.map_or("-".into(), day),
            leaf.to.map_or("-".into(), day),
            leaf.rows_estimate.map_or("?".into(), |rows| rows.to_string()),
            size(leaf.bytes),
            leaf.unsummarised_pages.map_or("-".into(), |pages| pages.to_string()),
        ]);
    }
    align_right(&mut table, &[3, 4, 5]);
    Ok(format!("{table}\n"))
}

pub(crate) fn orgs(orgs: &[Org], format: Format) -> anyhow::Result<String> {
    if format == Format::Json {
        return json(&orgs);
    }
    let mut table = table(&["org", "name", "created"]);
    for org in orgs {
        table.add_row([org.id.clone(), org.name.clone(), second(org.created_at)]);
    }
    Ok(format!("{table}\n"))
}

pub(crate) fn tokens(tokens: &[StoredToken], format: Format) -> anyhow::Result<String> {
    if format == Format::Json {
        return json(&tokens);
    }
    let mut table = table(&["id", "org", "kind", "label", "created", "revoked"]);
    for token in tokens {
        table.add_row([
            token.id.to_string(),
            token.org.clone(),
            token.kind.clone(),
            token.label.clone(),
            second(token.created_at),
            token.revoked_at.map_or("-".into(), second),
        ]);
    }
    Ok(format!("{table}\n"))
}

pub(crate) fn new_token(token: &NewToken, format: Format) -> anyhow::Result<String> {
    if format == Format::Json {
        return json(&token);
    }
    let NewToken { id, org, kind, token, .. } = token;
    Ok(format!(
        "{token}\n\n{} token {id} of org {org}. It is not stored and will not be shown again.\n",
        kind.name()
    ))
}

pub(crate) fn json<T: Serialize>(value: &T) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(header);
    table
}

pub(crate) fn align_right(table: &mut Table, columns: &[usize]) {
    for column in columns {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// On stderr, and nothing where that is no terminal.
pub(crate) fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} rows, {eta} left") {
        bar.set_style(style);
    }
    bar
}

fn day(time: Timestamp) -> String {
    let text = time.to_string();
    text.strip_suffix("T00:00:00Z").unwrap_or(&text).to_owned()
}

pub(crate) fn second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn size(bytes: i64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(0, "0 B")]
    #[case(1023, "1023 B")]
    #[case(24 * 1024, "24.0 KiB")]
    #[case(3 * 1024 * 1024 * 1024 / 2, "1.5 GiB")]
    fn sizes_are_readable(#[case] bytes: i64, #[case] expected: &str) {
        assert_eq!(size(bytes), expected);
    }

    #[test]
    fn bounds_at_midnight_are_days() {
        assert_eq!(day("2026-11-01T00:00:00Z".parse().unwrap()), "2026-11-01");
        assert_eq!(day("2026-11-01T06:00:00Z".parse().unwrap()), "2026-11-01T06:00:00Z");
    }

    #[test]
    fn an_empty_result_says_so() {
        assert_eq!(lines(std::iter::empty(), "nothing"), "nothing\n");
        assert_eq!(lines(["a".to_owned(), "b".to_owned()].into_iter(), "nothing"), "a\nb\n");
    }
}
