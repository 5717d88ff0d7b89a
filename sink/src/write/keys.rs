//! Keyed pushes against the ones that the database has.
//!
//! They are looked up before anything is copied, without a lock, and inserted by the message that ends the transaction.
//! What comes between the two is refused there (TW003), and the batch looked up again. An insert before COPY, which would
//! need no second look, would hold its row's lock while the sink sends: a sink that is stopped then keeps every other
//! one waiting that has the same push.

use schemas::Micros;
use serde::Serialize;
use tokio_postgres::{Client, Error, Statement};

use super::closing::json;
use crate::batch::Batch;
use crate::encode::time;
use crate::prepare::Prepared;
use crate::prepare::pushes::{Kept, Known, PushKey, Sent};

/// Finds parts of pushes by key. One index look-up each, however large the planner believes the table to be.
pub const LOOKUP: &str = "
    SELECT wanted.place, held.digest, held.micros
    FROM unnest($1::text[], $2::text[], $3::integer[]) WITH ORDINALITY AS wanted (org, key, part, place)
    CROSS JOIN LATERAL (
        SELECT digest, (extract(epoch FROM received_at) * 1000000)::bigint AS micros FROM push_key
        WHERE org = wanted.org AND key = wanted.key AND part = wanted.part LIMIT 1
    ) AS held";

/// Which of the batch's new pushes the database has, those left out that the batch knows of: their 24 hours are over.
///
/// # Errors
/// The query's.
pub async fn look_up(
    client: &Client,
    statement: &Statement,
    batch: &Batch,
    prepared: &Prepared,
) -> Result<Known, Error> {
    let pushes: Vec<&PushKey> = prepared.pushes.keys().collect();
    let orgs: Vec<&str> = pushes.iter().map(|push| &*push.org).collect();
    let keys: Vec<&str> = pushes.iter().map(|push| &*push.key).collect();
    let parts: Vec<i32> = pushes.iter().map(|push| push.part).collect();
    let mut known = Known::new();
    for row in client.query(statement, &[&orgs, &keys, &parts]).await? {
        let (place, digest): (i64, &[u8]) = (row.try_get(0)?, row.try_get(1)?);
        let push = usize::try_from(place - 1).ok().and_then(|place| pushes.get(place));
        // Only ours are in there, and they have 32 bytes.
        let digest = digest.try_into().unwrap_or_default();
        let sent = Sent { digest, received_at: Micros(row.try_get(2)?) };
        if let Some(push) = push
            && batch.known().get(*push) != Some(&sent)
        {
            known.insert((*push).clone(), sent);
        }
    }
    Ok(known)
}

/// A row of the parameter `p_keys` of `sink_keys`.
#[derive(Serialize)]
struct KeyRow<'a> {
    org: &'a str,
    key: &'a str,
    part: i32,
    digest: String,
    received_at: String,
    stream: &'static str,
    kpart: i32,
    koffset: i64,
    kindex: i32,
    n: i32,
}

impl<'a> KeyRow<'a> {
    fn new((name, kept): (&'a PushKey, &Kept)) -> Self {
        let hex: String = kept.sent.digest.iter().map(|byte| format!("{byte:02x}")).collect();
        KeyRow {
            org: &name.org,
            key: &name.key,
            part: name.part,
            digest: format!("\\x{hex}"),
            received_at: time::to_text(kept.sent.received_at),
            stream: kept.stream.name(),
            kpart: kept.first.partition,
            koffset: kept.first.offset,
            kindex: kept.first.index,
            n: kept.count,
        }
    }
}

/// Appends the statement that takes the keys of the batch's new pushes, if it has any.
pub fn message(sql: &mut String, prepared: &Prepared) {
    if prepared.pushes.is_empty() {
        return;
    }
    let rows: Vec<KeyRow<'_>> = prepared.pushes.iter().map(KeyRow::new).collect();
    sql.push_str("; SELECT sink_keys(");
    json(sql, &rows);
    sql.push(')');
}
