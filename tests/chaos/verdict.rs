//! What must hold after every scenario.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio_postgres::Client;

use crate::feed::Acknowledged;
use crate::input::Input;
use crate::system::System;

/// Rows by (run, seq), with how many there are of each.
type Rows = BTreeMap<(String, i64), i64>;

/// An incident as far as it must come out the same: everything but times of processing. Evidence is by (run, seq).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Incident {
    /// Its rule's id.
    pub rule: String,
    id: String,
    group_key: String,
    first_time: String,
    last_time: String,
    count: i64,
    severity: i32,
    entities: String,
    truncated: bool,
    evidence: Vec<(String, i64)>,
}

/// The incidents of an undisturbed run.
pub type Incidents = BTreeSet<Incident>;

/// Nothing lost, nothing twice, everything adds up, the incidents are those expected.
pub async fn judge(
    system: &System,
    input: &Input,
    acknowledged: &Acknowledged,
    expected: Option<&Incidents>,
) -> Result<()> {
    judge_all(system, &[input], acknowledged, expected).await
}

/// The same for several inputs.
pub async fn judge_all(
    system: &System,
    inputs: &[&Input],
    acknowledged: &Acknowledged,
    expected: Option<&Incidents>,
) -> Result<()> {
    judge_both(system, inputs, acknowledged).await?;
    distinct(&system.database().await?).await?;
    if let Some(expected) = expected {
        let found = incidents(system).await?;
        ensure!(
            found == *expected,
            "the incidents are not those of the undisturbed run: {}",
            difference(expected, &found)
        );
    }
    Ok(())
}

/// The same for two inputs with a raw topic each: identities are of one topic, so two rows may have the same.
pub async fn judge_both(system: &System, inputs: &[&Input], acknowledged: &Acknowledged) -> Result<()> {
    let lost = lost(system, inputs, acknowledged).await?;
    ensure!(
        lost.is_empty(),
        "{} acknowledged records are neither stored nor quarantined: {}",
        lost.len(),
        some(&lost)
    );
    Ok(())
}

/// The same where something had to be lost: how many records.
pub async fn judge_with_loss(system: &System, input: &Input, acknowledged: &Acknowledged) -> Result<usize> {
    let lost = lost(system, &[input], acknowledged).await?;
    distinct(&system.database().await?).await?;
    Ok(lost.len())
}

/// Acknowledged records that are not there; whatever else can be wrong is an error.
async fn lost(system: &System, inputs: &[&Input], acknowledged: &Acknowledged) -> Result<Vec<(String, i64)>> {
    let database = system.database().await?;
    let stored = rows(&database).await?;
    let sent: BTreeSet<_> = inputs.iter().flat_map(|input| input.identities()).collect();
    let foreign: Vec<_> = stored.keys().filter(|identity| !sent.contains(*identity)).collect();
    ensure!(foreign.is_empty(), "{} stored records were never sent: {}", foreign.len(), some(&foreign));
    let doubled: Vec<_> =
        stored.iter().filter(|(_, rows)| **rows > 1).map(|(identity, _)| identity).collect();
    ensure!(doubled.is_empty(), "{} records are stored more than once: {}", doubled.len(), some(&doubled));
    add_up(&database).await?;
    system.deployment.partitions(&["doctor"]).await.context("the doctor finds what this has not")?;
    Ok(acknowledged.iter().filter(|identity| !stored.contains_key(*identity)).cloned().collect())
}

/// No identity has two rows.
async fn distinct(database: &Client) -> Result<()> {
    none(database, &[
        ("an identity of events has several rows",
         "SELECT format('(%s, %s, %s)', kpart, koffset, kindex) FROM events GROUP BY kpart, koffset, kindex HAVING count(*) > 1 LIMIT 3"),
        ("an identity of findings has several rows",
         "SELECT format('(%s, %s, %s)', kpart, koffset, kindex) FROM findings GROUP BY kpart, koffset, kindex HAVING count(*) > 1 LIMIT 3"),
    ])
    .await
}

/// Rows, counts and ledger.
async fn add_up(database: &Client) -> Result<()> {
    none(database, &[
        ("counts are not the rows",
         "WITH counted AS (SELECT stream, org, hour, class_uid, severity_id, sum(n) AS n FROM counts GROUP BY 1, 2, 3, 4, 5),
               stored AS (
                   SELECT 'events' AS stream, org, date_trunc('hour', time) AS hour, class_uid, severity_id, count(*) AS n
                   FROM events GROUP BY 1, 2, 3, 4, 5
                   UNION ALL
                   SELECT 'findings', org, date_trunc('hour', time), class_uid, severity_id, count(*)
                   FROM findings GROUP BY 1, 2, 3, 4, 5)
          SELECT format('%s %s %s class %s severity %s: counted %s, stored %s', stream, org, hour, class_uid, severity_id, c.n, s.n)
          FROM counted c FULL JOIN stored s USING (stream, org, hour, class_uid, severity_id)
          WHERE c.n IS DISTINCT FROM s.n LIMIT 3"),
        ("the ledger does not add up",
         "SELECT format('%s/%s from %s', topic, kpart, first_offset) FROM sink_ledger
          WHERE received <> stored + quarantined + duplicates LIMIT 3"),
        ("the ledger is not the rows",
         "SELECT format('%s: %s stored and %s quarantined by the ledger, %s and %s rows', stream, l.stored, l.quarantined, s.n, q.n)
          FROM (SELECT topic AS stream, sum(stored) AS stored, sum(quarantined) AS quarantined
                FROM sink_ledger WHERE topic = 'events' GROUP BY 1) l
          JOIN (SELECT 'events' AS stream, count(*) AS n FROM events) s USING (stream)
          JOIN (SELECT 'events' AS stream, count(*) AS n FROM quarantine WHERE stream = 'events') q USING (stream)
          WHERE (l.stored, l.quarantined) IS DISTINCT FROM (s.n::numeric, q.n::numeric)"),
        ("the ledger has a hole",
         "SELECT format('%s/%s at %s', topic, kpart, first_offset) FROM (
              SELECT *, lag(next_offset) OVER w AS before, lag(next_source) OVER w AS source_before FROM sink_ledger
              WINDOW w AS (PARTITION BY topic, kpart, generation ORDER BY first_offset)) l
          WHERE before <> first_offset OR source_before <> first_source LIMIT 3"),
    ])
    .await
}

/// None of these queries finds anything.
async fn none(database: &Client, queries: &[(&str, &str)]) -> Result<()> {
    for (what, query) in queries {
        let wrong = database.query(*query, &[]).await.with_context(|| format!("checking whether {what}"))?;
        let wrong: Vec<String> = wrong.iter().map(|row| row.get(0)).collect();
        ensure!(wrong.is_empty(), "{what}: {}", wrong.join("; "));
    }
    Ok(())
}

async fn rows(database: &Client) -> Result<Rows> {
    let query = "SELECT run, seq, sum(n)::bigint FROM (
                     SELECT attributes ->> 'run' AS run, (attributes ->> 'seq')::bigint AS seq, count(*) AS n
                     FROM events GROUP BY 1, 2
                     UNION ALL
                     SELECT attributes ->> 'run', (attributes ->> 'seq')::bigint, count(*) FROM findings GROUP BY 1, 2
                 ) AS stored WHERE run IS NOT NULL GROUP BY 1, 2";
    let rows = database.query(query, &[]).await.context("reading what is stored")?;
    Ok(rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect())
}

/// The incidents as they are.
pub async fn incidents(system: &System) -> Result<Incidents> {
    let database = system.database().await?;
    let mut identities: BTreeMap<(String, i32, i64, i32), (String, i64)> = BTreeMap::new();
    for stream in ["events", "findings"] {
        let query = format!(
            "SELECT kpart, koffset, kindex, attributes ->> 'run', (attributes ->> 'seq')::bigint FROM {stream}
             WHERE attributes ->> 'run' IS NOT NULL"
        );
        for row in database.query(&query, &[]).await.context("reading identities")? {
            let identity = (stream.to_owned(), row.get(0), row.get(1), row.get(2));
            identities.insert(identity, (row.get(3), row.get(4)));
        }
    }
    let query = "SELECT id::text, rule_id, group_key::text, first_time::text, last_time::text, event_count, severity_id, entities::text,
                        evidence_truncated, evidence
                 FROM incidents WHERE merged_into IS NULL";
    let mut incidents = Incidents::new();
    for row in database.query(query, &[]).await.context("reading incidents")? {
        let evidence: Value = row.get(9);
        let mut named = Vec::new();
        for item in evidence.as_array().into_iter().flatten() {
            let number = |name: &str| item.get(name).and_then(Value::as_i64).unwrap_or(-1);
            let stream = item.get("stream").and_then(Value::as_str).unwrap_or_default().to_owned();
            let identity = (stream, number("partition") as i32, number("offset"), number("index") as i32);
            let Some(record) = identities.get(&identity) else {
                bail!("evidence of an incident of rule {} is not stored: {item}", row.get::<_, String>(1));
            };
            named.push(record.clone());
        }
        named.sort();
        incidents.insert(Incident {
            id: row.get(0),
            rule: row.get(1),
            group_key: row.get(2),
            first_time: row.get(3),
            last_time: row.get(4),
            count: row.get(5),
            severity: row.get(6),
            entities: row.get(7),
            truncated: row.get(8),
            evidence: named,
        });
    }
    Ok(incidents)
}

fn some<T: std::fmt::Debug>(items: &[T]) -> String {
    let shown: Vec<String> = items.iter().take(5).map(|item| format!("{item:?}")).collect();
    shown.join(", ") + if items.len() > 5 { ", …" } else { "" }
}

fn difference(expected: &Incidents, found: &Incidents) -> String {
    let mut said = format!("{} expected, {} found", expected.len(), found.len());
    let short = |incident: &Incident| {
        format!(
            "{} {} {}..{} count {} evidence {}{}",
            incident.rule,
            incident.group_key,
            incident.first_time,
            incident.last_time,
            incident.count,
            incident.evidence.len(),
            if incident.truncated { " (truncated)" } else { "" }
        )
    };
    for missing in expected.difference(found).take(3) {
        let _ = write!(said, "; missing {}", short(missing));
    }
    for extra in found.difference(expected).take(3) {
        let _ = write!(said, "; unexpected {}", short(extra));
    }
    said
}
