//! Asking Postgres what has become of a push.

use std::collections::BTreeMap;
use std::time::Duration;

use postgres::{Pool, PoolError, PooledClient};

use super::{Fate, Receipt, Trace};
use crate::ticket::Placed;

/// Longest time for an answer, a connection included.
const PATIENCE: Duration = Duration::from_secs(3);

/// How far the sink is in each partition.
const POSITIONS: &str = "SELECT kpart, coalesce(next_source_offset, 0) FROM sink_partition WHERE topic = $1";

/// Moves that operators have accepted since a push was acknowledged, oldest first.
const ACCEPTED: &str = "
    SELECT kpart, action, from_source, to_source FROM sink_accepted
    WHERE topic = $1 AND from_source IS NOT NULL AND accepted_at >= to_timestamp($2::bigint)
    ORDER BY kpart, generation";

/// Rows of the org's own in quarantine that came from these raw records. They were received when the push came, so that one
/// or two months of partitions are looked at.
const QUARANTINED: &str = "
    SELECT count(*)
    FROM unnest($3::int[], $4::bigint[], $5::bigint[], $6::bigint[]) AS share (kpart, koffset, first, past)
    JOIN quarantine q ON q.kpart = share.kpart AND q.koffset = share.koffset
        AND q.kindex >= share.first AND q.kindex < share.past
    WHERE q.org = $1 AND q.stream = $2
      AND q.received_at BETWEEN to_timestamp($7::bigint) - interval '15 minutes'
                            AND to_timestamp($7::bigint) + interval '15 minutes'";

/// The stored parts of a keyed push, and how much of each is in quarantine.
const KEYED: &str = "
    SELECT held.digest, held.n, (
        SELECT count(*) FROM quarantine q
        WHERE q.org = held.org AND q.stream = held.stream AND q.kpart = held.kpart AND q.koffset = held.koffset
          AND q.kindex >= held.kindex AND q.kindex < held.kindex + held.n
          AND q.received_at BETWEEN held.received_at - interval '15 minutes' AND held.received_at + interval '15 minutes'
    )
    FROM push_key held WHERE held.org = $1 AND held.key = $2 AND held.part < $3";

/// Why nobody can tell.
#[derive(Debug, thiserror::Error)]
#[error("Postgres cannot be asked what became of the push: {0}")]
pub struct LookupError(String);

/// Looks receipts up.
#[derive(Clone)]
pub struct Lookup(Pool);

impl Lookup {
    /// Asks through this pool.
    pub fn new(pool: Pool) -> Self {
        Self(pool)
    }

    /// What has become of the push.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn fate(&self, receipt: &Receipt, org: &str) -> Result<Fate, LookupError> {
        let asked = async {
            let client = self.0.get().await.map_err(|error| match &error {
                PoolError::Backend(error) => postgres::describe(error),
                other => other.to_string(),
            })?;
            let fate = match &receipt.trace {
                Trace::Placed(placed) => of_placed(&client, receipt, placed, org).await,
                Trace::Keyed { key, parts, digest } => {
                    of_key(&client, receipt, org, key, *parts, digest).await
                }
            };
            fate.map_err(|error| postgres::describe(&error))
        };
        let late = || Err(format!("no answer within {PATIENCE:?}"));
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| late()).map_err(LookupError)
    }

    /// Next raw offset that the sink will store, by partition.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn positions(&self, stream: schemas::Stream) -> Result<BTreeMap<i32, i64>, LookupError> {
        let asked = async {
            let client = self.0.get().await.map_err(|error| error.to_string())?;
            positions(&client, stream).await.map_err(|error| postgres::describe(&error))
        };
        let late = || Err(format!("no answer within {PATIENCE:?}"));
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| late()).map_err(LookupError)
    }
}

async fn positions(
    client: &PooledClient,
    stream: schemas::Stream,
) -> Result<BTreeMap<i32, i64>, tokio_postgres::Error> {
    let statement = client.prepare_cached(POSITIONS).await?;
    let rows = client.query(&statement, &[&stream.name()]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// A move of a partition's position.
struct Move {
    to_new_topic: bool,
    from: i64,
    to: i64,
}

async fn of_placed(
    client: &PooledClient,
    receipt: &Receipt,
    placed: &[Placed],
    org: &str,
) -> Result<Fate, tokio_postgres::Error> {
    let stream = receipt.stream.name();
    let positions = positions(client, receipt.stream).await?;
    let statement = client.prepare_cached(ACCEPTED).await?;
    let mut moves: BTreeMap<i32, Vec<Move>> = BTreeMap::new();
    for row in client.query(&statement, &[&stream, &receipt.acknowledged_at]).await? {
        let to_new_topic = row.try_get::<_, &str>(1)? == "accepted_new_topic";
        let moved = Move {
            to_new_topic,
            from: row.try_get(2)?,
            to: row.try_get::<_, Option<i64>>(3)?.unwrap_or(i64::MAX),
        };
        moves.entry(row.try_get(0)?).or_default().push(moved);
    }
    for Placed { at, .. } in placed {
        let moves = moves.get(&at.partition).map_or(&[][..], Vec::as_slice);
        let next = positions.get(&at.partition).copied().unwrap_or(0);
        match settled(at.offset, moves, next) {
            Some(true) => {}
            Some(false) => return Ok(Fate::Acknowledged),
            None => return Ok(Fate::Lost),
        }
    }

    let of = |number: &dyn Fn(&Placed) -> i64| placed.iter().map(number).collect::<Vec<i64>>();
    let parts: Vec<i32> = placed.iter().map(|placed| placed.at.partition).collect();
    let offsets = of(&|placed| placed.at.offset);
    let first = of(&|placed| i64::from(placed.first));
    let past = of(&|placed| i64::from(placed.first) + i64::from(placed.count));
    let statement = client.prepare_cached(QUARANTINED).await?;
    let row = client
        .query_one(&statement, &[&org, &stream, &parts, &offsets, &first, &past, &receipt.acknowledged_at])
        .await?;
    let quarantined: i64 = row.try_get(0)?;
    Ok(Fate::Settled { quarantined: u64::try_from(quarantined).unwrap_or(0) })
}

/// Whether the sink, now at `next`, has stored the raw offset; none when an operator gave it up.
fn settled(offset: i64, moves: &[Move], next: i64) -> Option<bool> {
    for moved in moves {
        if offset < moved.from {
            return Some(true);
        }
        if moved.to_new_topic || offset < moved.to {
            return None;
        }
    }
    Some(offset < next)
}

async fn of_key(
    client: &PooledClient,
    receipt: &Receipt,
    org: &str,
    key: &str,
    parts: u32,
    digest: &[u8; 32],
) -> Result<Fate, tokio_postgres::Error> {
    let statement = client.prepare_cached(KEYED).await?;
    let most = i32::try_from(parts).unwrap_or(i32::MAX);
    let rows = client.query(&statement, &[&org, &key, &most]).await?;
    let mut quarantined = 0;
    for row in &rows {
        if row.try_get::<_, &[u8]>(0)? != digest {
            // Another push has won the key: the sink puts every record of this one in quarantine.
            return Ok(Fate::Settled { quarantined: u64::from(receipt.accepted) });
        }
        quarantined += row.try_get::<_, i64>(2)?;
    }
    if u32::try_from(rows.len()).unwrap_or(u32::MAX) < parts {
        return Ok(Fate::Acknowledged);
    }
    Ok(Fate::Settled { quarantined: u64::try_from(quarantined).unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_stored_once_the_sink_is_past_it() {
        assert_eq!(settled(5, &[], 5), Some(false));
        assert_eq!(settled(5, &[], 6), Some(true));
    }

    #[test]
    fn what_an_operator_gave_up_is_lost_and_what_was_before_it_is_not() {
        let gap = |from, to| Move { to_new_topic: false, from, to };
        assert_eq!(settled(9, &[gap(10, 20)], 25), Some(true));
        assert_eq!(settled(10, &[gap(10, 20)], 25), None);
        assert_eq!(settled(19, &[gap(10, 20)], 25), None);
        assert_eq!(settled(20, &[gap(10, 20)], 25), Some(true));
        assert_eq!(settled(25, &[gap(10, 20)], 25), Some(false));
        assert_eq!(settled(24, &[gap(10, 20), gap(22, 30)], 40), None);
        let anew = Move { to_new_topic: true, from: 10, to: 0 };
        assert_eq!(settled(12, &[anew], 3), None, "the topic that it was in is gone");
    }
}
