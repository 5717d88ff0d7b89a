//! `explain`: why a rule did or did not match an event.

use std::fmt::Write as _;

use detection::{Detection, Outline, Part, Rules, Subject, Taxonomy, Test, Verdict, View, log_sources};

use crate::rules::log_source;

/// Wanted values shown before the rest is counted.
const SHOWN: usize = 12;

/// Tells a person, selection by selection, what `rule` wants and what `subject` has.
///
/// # Errors
/// The rule is not one of `rules`.
pub fn explain(rules: &Rules, rule: &Detection, subject: Subject<'_>) -> anyhow::Result<String> {
    let view = rules.view(subject);
    let outline = rules
        .explain(rule, &view)
        .ok_or_else(|| anyhow::anyhow!("{} cannot be told apart into selections", rule.meta.id))?;
    let routed = rules.routed(rule, &view);
    let filters = rules.explain_filters(rule, &view);
    let admitted =
        filters.iter().all(|(_, outline)| outline.as_ref().and_then(Outline::holds) != Some(false));
    let on = rules.is_on(&rule.meta.id, view.subject().org());
    let matches = routed && on && admitted && outline.holds() == Some(true);
    let mut out = String::new();
    let verdict = if matches { "matches" } else { "does not match" };
    writeln!(out, "{} ({})\n{verdict} the event\n", rule.meta.title, rule.meta.id)?;
    routing(&mut out, rule, rules.taxonomy(), &view, routed)?;
    for condition in &outline.conditions {
        writeln!(out, "{} condition: {}", mark(condition.holds), condition.text)?;
    }
    for selection in &outline.selections {
        writeln!(out, "\n{} {}", mark(selection.part.holds()), selection.name)?;
        part(&mut out, &selection.part, 1)?;
    }
    for (filter, outline) in filters {
        let holds = outline.as_ref().and_then(Outline::holds);
        writeln!(out, "\n{} filter: {}", mark(holds), filter.title)?;
        for condition in outline.iter().flat_map(|outline| &outline.conditions) {
            writeln!(out, "  {} condition: {}", mark(condition.holds), condition.text)?;
        }
        for selection in outline.iter().flat_map(|outline| &outline.selections) {
            writeln!(out, "  {} {}", mark(selection.part.holds()), selection.name)?;
            part(&mut out, &selection.part, 2)?;
        }
    }
    if !on {
        writeln!(out, "\nThe rule is off for the org {}.", view.subject().org())?;
    }
    if let Some(reason) = reason(rule, routed, &outline) {
        writeln!(out, "\n{reason}")?;
    }
    Ok(out)
}

fn mark(holds: Option<bool>) -> &'static str {
    match holds {
        Some(true) => "✓",
        Some(false) => "✗",
        None => "?",
    }
}

fn routing(
    out: &mut String,
    rule: &Detection,
    taxonomy: &Taxonomy,
    view: &View<'_>,
    routed: bool,
) -> std::fmt::Result {
    let wanted = log_source(&rule.logsource);
    let wanted = if wanted.is_empty() { "any" } else { &wanted };
    writeln!(out, "{} log source: {wanted}", mark(Some(routed)))?;
    let subject = view.subject();
    write!(out, "    the event has source_type {}, class {}", subject.source_type(), subject.class_uid())?;
    for field in ["Channel", "EventID"] {
        if let Some(value) = view.by_name(field) {
            write!(out, ", {field} {value}")?;
        }
    }
    let sources = log_sources(taxonomy, view);
    if sources.is_empty() {
        return writeln!(out, "; that is of no log source\n");
    }
    writeln!(out, "; that is of")?;
    sources.iter().try_for_each(|source| writeln!(out, "    - {source}"))?;
    writeln!(out)
}

fn part(out: &mut String, tree: &Part, depth: usize) -> std::fmt::Result {
    let indent = "  ".repeat(depth);
    let (kind, parts) = match tree {
        Part::Test(found) => return test(out, found, &indent),
        Part::All(parts) => ("all of", parts),
        Part::Any(parts) => ("any of", parts),
    };
    writeln!(out, "{indent}{} {kind}", mark(tree.holds()))?;
    parts.iter().try_for_each(|inner| part(out, inner, depth + 1))
}

fn test(out: &mut String, test: &Test, indent: &str) -> std::fmt::Result {
    let Some(verdict) = &test.verdict else { return Ok(()) };
    let name = test.field.as_deref().unwrap_or("keywords");
    let modifiers: String = test.modifiers.iter().map(|modifier| format!("|{modifier}")).collect();
    writeln!(out, "{indent}{} {name}{modifiers}", mark(Some(verdict.holds)))?;
    writeln!(out, "{indent}    wanted: {}", wanted(test, verdict))?;
    match (&verdict.found, &test.field) {
        (Some(found), _) => writeln!(out, "{indent}    found:  {} in {}", found.value, found.place),
        (None, Some(_)) => writeln!(out, "{indent}    found:  no such field"),
        (None, None) => writeln!(out, "{indent}    looked for in the message and every attribute"),
    }
}

/// The wanted values, those that hold first where any does.
fn wanted(test: &Test, verdict: &Verdict) -> String {
    let all = test.modifiers.iter().any(|modifier| modifier == "all");
    let value = |(at, text): (usize, &String)| {
        let holds = verdict.hits.contains(&at);
        if test.wanted.len() > 1 { format!("{} '{text}'", mark(Some(holds))) } else { format!("'{text}'") }
    };
    let mut values: Vec<(usize, &String)> = test.wanted.iter().enumerate().collect();
    // What decides comes first: of a list of which one is enough what holds, of one that must hold whole what does not.
    values.sort_by_key(|(at, _)| verdict.hits.contains(at) == all);
    let shown: Vec<String> = values.iter().take(SHOWN).map(|(at, text)| value((*at, text))).collect();
    let joint = if all { " and " } else { " or " };
    let rest = test.wanted.len().saturating_sub(SHOWN);
    let rest = if rest > 0 { format!("{joint}{rest} more") } else { String::new() };
    shown.join(joint) + &rest
}

/// The short answer where the verdict needs one.
fn reason(rule: &Detection, routed: bool, outline: &Outline) -> Option<String> {
    if !routed && outline.holds() == Some(true) {
        return Some(
            "Its condition holds, but events of this log source are not evaluated against it.".to_owned(),
        );
    }
    (!routed && rule.logsource != detection::LogSource::default())
        .then(|| "Events of this log source are not evaluated against it.".to_owned())
}
