//! Incidents as the API gives them to an analyst.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use serde::Deserialize;

use crate::stack::Stack;

/// Titles of the incidents that the sample traffic raises.
const EXPECTED: [&str; 4] = ["PII exposed", "SSH brute force", "Web scan", "Web scanner tool"];
const TIMEOUT: Duration = Duration::from_secs(10);
/// Where standard output is no terminal.
const DEFAULT_WIDTH: u16 = 130;
/// A narrower terminal breaks the lines, which reads better than columns of a letter each.
const LEAST_WIDTH: u16 = 100;

/// What the demo shows of an incident.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Incident {
    title: String,
    severity_id: i32,
    severity: String,
    status: String,
    event_count: i64,
    first_time: String,
    last_time: String,
    group_key: Vec<Entity>,
    entities: Vec<Entity>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Entity {
    name: String,
    value: String,
}

#[derive(Debug, Deserialize)]
struct Page {
    items: Vec<Incident>,
}

/// The first page of the org's incidents.
pub async fn read(client: &reqwest::Client, stack: &Stack) -> Result<Vec<Incident>> {
    let url = format!("{}/v1/incidents", stack.deployment.services.api_url());
    let request = client.get(&url).bearer_auth(&stack.deployment.tokens().analyst).timeout(TIMEOUT);
    let answer = request.send().await.and_then(reqwest::Response::error_for_status);
    let page: Page =
        answer.with_context(|| format!("asking {url}"))?.json().await.context("reading a page")?;
    Ok(page.items)
}

/// Expected titles that are not there.
pub fn missing(found: &[Incident]) -> Vec<&'static str> {
    EXPECTED.into_iter().filter(|title| found.iter().all(|incident| incident.title != *title)).collect()
}

/// For people.
pub fn table(incidents: &[Incident]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic).set_header([
        "severity",
        "incident",
        "status",
        "events",
        "first",
        "last",
        "who and where",
    ]);
    table.set_width(table.width().unwrap_or(DEFAULT_WIDTH).max(LEAST_WIDTH));
    let mut incidents: Vec<&Incident> = incidents.iter().collect();
    incidents.sort_by_key(|incident| (std::cmp::Reverse(incident.severity_id), &incident.title));
    for incident in incidents {
        table.add_row([
            Cell::new(&incident.severity),
            Cell::new(&incident.title),
            Cell::new(&incident.status),
            Cell::new(incident.event_count).set_alignment(CellAlignment::Right),
            Cell::new(time_of_day(&incident.first_time)),
            Cell::new(time_of_day(&incident.last_time)),
            Cell::new(who_and_where(incident)),
        ]);
    }
    table
}

/// `12:34:56` of an RFC 3339 time.
fn time_of_day(time: &str) -> &str {
    time.split_once('T').and_then(|(_, time)| time.get(..8)).unwrap_or(time)
}

/// `host web-1; user root, ada`: by kind, the first few of each. An incident that names nobody has what it was grouped
/// by.
fn who_and_where(Incident { group_key, entities, .. }: &Incident) -> String {
    const SHOWN: usize = 3;
    let entities = if entities.is_empty() { group_key } else { entities };
    let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for Entity { name, value } in entities {
        kinds.entry(name).or_default().push(value);
    }
    let described = kinds.into_iter().map(|(kind, values)| {
        let more = values.len().saturating_sub(SHOWN);
        let shown: Vec<&str> = values.into_iter().take(SHOWN).collect();
        let more = if more > 0 { format!(", {more} more") } else { String::new() };
        format!("{kind} {}{more}", shown.join(", "))
    });
    described.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incident(title: &str, severity_id: i32) -> Incident {
        Incident {
            title: title.into(),
            severity_id,
            severity: format!("severity {severity_id}"),
            status: "open".into(),
            event_count: 12,
            first_time: "2026-01-02T03:04:05.678901Z".into(),
            last_time: "2026-01-02T03:04:59Z".into(),
            group_key: vec![Entity { name: "scan_id".into(), value: "scan-7".into() }],
            entities: [("user", "root"), ("host", "bastion"), ("user", "a"), ("user", "b"), ("user", "c")]
                .map(|(name, value)| Entity { name: name.into(), value: value.into() })
                .to_vec(),
        }
    }

    #[test]
    fn the_worst_comes_first_with_times_and_entities_in_short() {
        let text = table(&[incident("Web scan", 3), incident("SSH brute force", 4)]).to_string();
        assert!(text.find("SSH brute force").unwrap() < text.find("Web scan").unwrap(), "{text}");
        for part in [
            "severity 4",
            "severity 3",
            "12",
            "03:04:05",
            "03:04:59",
            "host bastion; user root, a, b, 1 more",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn an_incident_that_names_nobody_shows_what_it_was_grouped_by() {
        assert_eq!(
            who_and_where(&Incident { entities: vec![], ..incident("PII exposed", 4) }),
            "scan_id scan-7"
        );
    }

    #[test]
    fn expected_incidents_that_are_not_there_are_named() {
        let found = EXPECTED.map(|title| incident(title, 4));
        assert!(missing(&found).is_empty());
        assert_eq!(missing(&found[1..]), EXPECTED[..1]);
    }
}
