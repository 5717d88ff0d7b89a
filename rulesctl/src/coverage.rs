//! `coverage`: what rules cover of ATT&CK.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use detection::{LogSource, Meta, Rules};

use crate::rules::level;

/// Tactics in the order of an attack, as tags name them and as people do. ATT&CK has split defense evasion into the two
/// after it, of which SigmaHQ's rules have the tags; rules that are older have its own.
const TACTICS: [(&str, &str); 16] = [
    ("reconnaissance", "Reconnaissance"),
    ("resource-development", "Resource development"),
    ("initial-access", "Initial access"),
    ("execution", "Execution"),
    ("persistence", "Persistence"),
    ("privilege-escalation", "Privilege escalation"),
    ("defense-evasion", "Defense evasion"),
    ("stealth", "Stealth"),
    ("defense-impairment", "Defense impairment"),
    ("credential-access", "Credential access"),
    ("discovery", "Discovery"),
    ("lateral-movement", "Lateral movement"),
    ("collection", "Collection"),
    ("command-and-control", "Command and control"),
    ("exfiltration", "Exfiltration"),
    ("impact", "Impact"),
];

struct Row<'r> {
    meta: &'r Meta,
    what: String,
    correlation: bool,
}

/// Tables in Markdown: rules by tactic, with level, log source or correlation, and techniques.
pub fn coverage(rules: &Rules) -> String {
    let detections = rules.detections().iter().map(|rule| Row {
        meta: &rule.meta,
        what: source(&rule.logsource),
        correlation: false,
    });
    let correlations = rules.correlations().iter().map(|rule| Row {
        meta: &rule.meta,
        what: rule.type_name().to_owned(),
        correlation: true,
    });
    let mut rows: Vec<Row<'_>> = detections.chain(correlations).collect();
    rows.sort_by(|a, b| (a.correlation, &a.meta.title).cmp(&(b.correlation, &b.meta.title)));

    let mut out = String::new();
    let of = |tag: &str| -> Vec<&Row<'_>> {
        let tag = format!("attack.{tag}");
        rows.iter().filter(|row| row.meta.tags.contains(&tag)).collect()
    };
    let correlations = rows.iter().filter(|row| row.correlation).count();
    let _ = writeln!(out, "{} rules, {correlations} of them correlations.\n", rows.len());
    out.push_str("| Tactic | Rules | Correlations | Techniques |\n|---|---|---|---|\n");
    for (tag, name) in TACTICS {
        let covered = of(tag);
        let correlations = covered.iter().filter(|row| row.correlation).count();
        let techniques: BTreeSet<String> = covered.iter().flat_map(|row| techniques(row.meta)).collect();
        let (count, techniques) = (covered.len(), techniques.len());
        let _ = writeln!(out, "| {name} | {count} | {correlations} | {techniques} |");
    }
    for (tag, name) in TACTICS {
        let covered = of(tag);
        if covered.is_empty() {
            continue;
        }
        let _ = write!(out, "\n### {name}\n\n| Rule | Level | Of | Techniques |\n|---|---|---|---|\n");
        for row in covered {
            let techniques: Vec<String> = techniques(row.meta).collect();
            let (title, level) = (&row.meta.title, level(row.meta.severity_id));
            let _ = writeln!(out, "| {title} | {level} | {} | {} |", row.what, techniques.join(", "));
        }
    }
    let tagged = |row: &&Row<'_>| {
        let known =
            |tag: &String| TACTICS.iter().any(|(tactic, _)| tag.strip_prefix("attack.") == Some(tactic));
        !row.meta.tags.iter().any(known)
    };
    let rest: Vec<&Row<'_>> = rows.iter().filter(tagged).collect();
    if !rest.is_empty() {
        out.push_str("\n### Without a tactic\n\n| Rule | Level | Of |\n|---|---|---|\n");
        for row in rest {
            let _ = writeln!(out, "| {} | {} | {} |", row.meta.title, level(row.meta.severity_id), row.what);
        }
    }
    out
}

fn techniques(meta: &Meta) -> impl Iterator<Item = String> {
    let tags = meta.tags.iter().filter_map(|tag| tag.strip_prefix("attack."));
    tags.filter(|tag| tag.starts_with('t') && tag[1..].starts_with(|digit: char| digit.is_ascii_digit()))
        .map(str::to_uppercase)
}

fn source(source: &LogSource) -> String {
    let parts = [&source.product, &source.category, &source.service];
    let named: Vec<&str> = parts.into_iter().filter_map(Option::as_deref).collect();
    if named.is_empty() { "any event".to_owned() } else { named.join(", ") }
}
