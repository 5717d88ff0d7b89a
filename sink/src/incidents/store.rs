//! A batch of changes against the incidents in the database.

use std::collections::{BTreeMap, BTreeSet};

use schemas::{IncidentChange, Micros, current_body, decode_body};
use serde::Serialize;
use tokio_postgres::types::Json;
use tokio_postgres::{Client, Error, Row, Statement};
use uuid::Uuid;

use super::change::apply;
use super::state::{Incident, Status};
use crate::batch::Batch;
use crate::encode::audit::AuditRow;

/// Reads incidents by (org, id). Locks nothing: their partition is held, and `sink_commit` refuses if it is not.
pub const LOAD: &str = r#"
    SELECT i.org, i.id, i.rule_id, i.rule_hash, i.title, i.description, i.severity_id, i.status, i.assignee, i.tags,
        i.reference_urls, i.false_positives, i.group_key, i.entities,
        (extract(epoch FROM i.first_time) * 1000000)::bigint, (extract(epoch FROM i.last_time) * 1000000)::bigint,
        i.event_count, i.evidence, i.evidence_truncated, i.flags, i.reopened, i.merged_into, i.version,
        (extract(epoch FROM i.created_at) * 1000000)::bigint, (extract(epoch FROM i.updated_at) * 1000000)::bigint
    FROM unnest($1::text[], $2::uuid[]) AS wanted (org, id) JOIN incidents i ON i.org = wanted.org AND i.id = wanted.id
"#;

/// What a batch's changes come to.
#[derive(Debug, Default)]
pub struct Work {
    states: BTreeMap<(String, Uuid), Option<Incident>>,
    touched: BTreeSet<(String, Uuid)>,
    counts: BTreeMap<(String, Status, i32, i32), i64>,
    /// What is to be audited, in topic order.
    pub audit: Vec<AuditRow>,
    /// What the changes did, by kind.
    pub kinds: BTreeMap<&'static str, u64>,
}

/// A row of the parameter `p_incident_counts`.
#[derive(Debug, Serialize)]
pub struct CountRow<'a> {
    org: &'a str,
    status: Status,
    severity_id: i32,
    slot: i32,
    n: i64,
}

/// Applies the changes of a batch, whose ordinals are `changes`, to the incidents as the database has them.
///
/// # Errors
/// The query's.
pub async fn load(
    client: &Client,
    statement: &Statement,
    batch: &Batch,
    changes: &[u32],
) -> Result<Work, Error> {
    let mut work = Work::default();
    each_change(batch, changes, |_, change| {
        work.states.insert((change.org.clone().into_owned(), change.incident_id), None);
    });
    if work.states.is_empty() {
        return Ok(work);
    }
    let (orgs, ids): (Vec<&str>, Vec<Uuid>) = work.states.keys().map(|(org, id)| (org.as_str(), *id)).unzip();
    for row in client.query(statement, &[&orgs, &ids]).await? {
        let incident = incident(&row)?;
        work.states.insert((incident.org.clone(), incident.id), Some(incident));
    }
    each_change(batch, changes, |slot, change| work.change(slot, change));
    Ok(work)
}

fn each_change(batch: &Batch, changes: &[u32], mut each: impl FnMut(i32, &IncidentChange<'_>)) {
    for taken in changes.iter().filter_map(|at| batch.records().get(*at as usize)) {
        // That it can be read was found out when the batch was prepared.
        let Ok(body) = current_body::<IncidentChange<'_>>(&taken.payload) else { continue };
        if let Ok(change) = decode_body(&body) {
            each(taken.partition.partition, &change);
        }
    }
}

impl Work {
    fn change(&mut self, slot: i32, change: &IncidentChange<'_>) {
        let key = (change.org.clone().into_owned(), change.incident_id);
        let state = self.states.entry(key.clone()).or_default();
        let counted =
            |state: &Option<Incident>| state.as_ref().map(|incident| (incident.status, incident.severity_id));
        let before = counted(state);
        let applied = apply(state, change);
        let after = counted(state);
        for (side, n) in [(before, -1), (after, 1)] {
            if let (Some((status, severity_id)), true) = (side, before != after) {
                *self.counts.entry((key.0.clone(), status, severity_id, slot)).or_default() += n;
            }
        }
        if !matches!(applied.kind, "unchanged" | "refused") {
            self.touched.insert(key);
        }
        self.audit.extend(applied.audit);
        *self.kinds.entry(applied.kind).or_default() += 1;
    }

    /// The incidents that are different now, in key order.
    pub fn incidents(&self) -> Vec<&Incident> {
        self.touched.iter().filter_map(|key| self.states.get(key)?.as_ref()).collect()
    }

    /// By how much the counts of incidents change, in key order.
    pub fn counts(&self) -> Vec<CountRow<'_>> {
        let rows = self.counts.iter().filter(|(_, n)| **n != 0);
        rows.map(|((org, status, severity_id, slot), n)| CountRow {
            org,
            status: *status,
            severity_id: *severity_id,
            slot: *slot,
            n: *n,
        })
        .collect()
    }
}

fn incident(row: &Row) -> Result<Incident, Error> {
    Ok(Incident {
        org: row.try_get(0)?,
        id: row.try_get(1)?,
        rule_id: row.try_get(2)?,
        rule_hash: row.try_get(3)?,
        title: row.try_get(4)?,
        description: row.try_get(5)?,
        severity_id: row.try_get(6)?,
        // The table's check lets nothing else in.
        status: Status::from_name(row.try_get(7)?).unwrap_or(Status::Open),
        assignee: row.try_get(8)?,
        tags: row.try_get(9)?,
        reference_urls: row.try_get(10)?,
        false_positives: row.try_get(11)?,
        group_key: row.try_get::<_, Json<_>>(12)?.0,
        entities: row.try_get::<_, Json<_>>(13)?.0,
        first_time: Micros(row.try_get(14)?),
        last_time: Micros(row.try_get(15)?),
        event_count: row.try_get(16)?,
        evidence: row.try_get::<_, Json<_>>(17)?.0,
        evidence_truncated: row.try_get(18)?,
        flags: row.try_get(19)?,
        reopened: row.try_get(20)?,
        merged_into: row.try_get(21)?,
        version: row.try_get(22)?,
        created_at: Micros(row.try_get(23)?),
        updated_at: Micros(row.try_get(24)?),
    })
}
