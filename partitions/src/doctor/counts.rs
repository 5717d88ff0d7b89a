//! Whether the counts are those of the rows, hour by hour.
//!
//! Orgs times hours times classes may be more than memory holds. So an hour is kept as two numbers: how many rows, and the
//! sum of a hash of each row's (org, class, severity), modulo 2^64. Counts give the same sum, n times the hash each; with a
//! seed that nobody knows, two different sets of rows have one sum with a probability of 2^-64 or little more. Where the sums
//! differ the rows of that hour are counted in the database, to say which.

use std::collections::BTreeMap;

use schemas::Stream;
use tokio_postgres::Client;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::check::Check;
use super::copy::Rows;
use super::leaves::Leaves;
use super::time;

const HOUR_MICROS: i64 = 3_600_000_000;
/// Hours that are looked at more closely.
const MAX_HOURS: usize = 20;

/// What an hour comes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) rows: i64,
    hash: u64,
}

impl Sum {
    fn add(&mut self, rows: i64, hash: u64) {
        self.rows = self.rows.wrapping_add(rows);
        self.hash = self.hash.wrapping_add(hash);
    }
}

/// Sums by stream and hour since 1970.
#[derive(Debug, Default)]
pub(super) struct Hours {
    sums: BTreeMap<(Stream, i64), Sum>,
}

/// Adds up rows that come one after the other, most of them like the one before.
#[derive(Debug)]
pub(super) struct Counter {
    seed: u64,
    stream: Stream,
    key: Vec<u8>,
    hash: u64,
    hour: i64,
    sum: Sum,
    hours: Hours,
}

impl Counter {
    pub(super) fn new(seed: u64, stream: Stream) -> Self {
        Self {
            seed,
            stream,
            key: Vec::new(),
            hash: 0,
            hour: i64::MIN,
            sum: Sum::default(),
            hours: Hours::default(),
        }
    }

    /// Counts `n` rows of a group.
    pub(super) fn add(&mut self, time: i64, org: &[u8], class_uid: i32, severity_id: i32, n: i64) {
        let tail = (u64::from(class_uid.cast_unsigned()) << 32 | u64::from(severity_id.cast_unsigned()))
            .to_be_bytes();
        let (head, last) = self.key.split_at(self.key.len().saturating_sub(tail.len()));
        if head != org || last != tail {
            self.key.clear();
            self.key.extend_from_slice(org);
            self.key.extend_from_slice(&tail);
            self.hash = xxh3_64_with_seed(&self.key, self.seed);
        }
        let hour = time.div_euclid(HOUR_MICROS);
        if hour != self.hour {
            self.flush();
            self.hour = hour;
        }
        self.sum.add(n, self.hash.wrapping_mul(n.cast_unsigned()));
    }

    fn flush(&mut self) {
        let sum = std::mem::take(&mut self.sum);
        if sum != Sum::default() {
            self.hours.sums.entry((self.stream, self.hour)).or_default().add(sum.rows, sum.hash);
        }
    }

    pub(super) fn finish(mut self) -> Hours {
        self.flush();
        self.hours
    }
}

impl Hours {
    pub(super) fn merge(&mut self, other: Hours) {
        for (key, sum) in other.sums {
            self.sums.entry(key).or_default().add(sum.rows, sum.hash);
        }
    }

    /// What `counts` says.
    pub(super) async fn counted(client: &Client, seed: u64) -> anyhow::Result<Self> {
        let mut counters = Stream::ALL.map(|stream| Counter::new(seed, stream));
        let mut unknown = None;
        let query = "SELECT stream, hour, org, class_uid, severity_id, n FROM counts";
        Rows::of(client, query)
            .await?
            .each(|fields| {
                let stream = fields.text()?;
                let (hour, org) = (fields.time()?, fields.text()?);
                let (class_uid, severity_id, n) = (fields.int4()?, fields.int4()?, fields.int8()?);
                match counters.iter_mut().find(|counter| counter.stream.name().as_bytes() == stream) {
                    Some(counter) => counter.add(hour, org, class_uid, severity_id, n),
                    None => unknown = Some(String::from_utf8_lossy(stream).into_owned()),
                }
                Ok(())
            })
            .await?;
        anyhow::ensure!(unknown.is_none(), "counts name the stream {}", unknown.unwrap_or_default());
        let mut hours = Self::default();
        counters.into_iter().for_each(|counter| hours.merge(counter.finish()));
        Ok(hours)
    }

    /// Rows counted whose partition is there, or is not any more.
    pub(super) fn rows(&self, stream: Stream, leaves: &Leaves) -> (i64, i64) {
        let of_stream = self.sums.range((stream, i64::MIN)..=(stream, i64::MAX));
        of_stream.fold((0, 0), |(there, gone), ((_, hour), sum)| {
            if leaves.gone(hour.saturating_mul(HOUR_MICROS)) {
                (there, gone + sum.rows)
            } else {
                (there + sum.rows, gone)
            }
        })
    }

    /// Hours in which this differs from `others`, but for those whose partition is gone.
    fn differing(&self, others: &Hours, leaves: &[Leaves; 2]) -> Vec<(Stream, i64)> {
        let mut keys: Vec<(Stream, i64)> = self.sums.keys().chain(others.sums.keys()).copied().collect();
        keys.sort_unstable();
        keys.dedup();
        keys.retain(|key| {
            let of = |hours: &Hours| hours.sums.get(key).copied().unwrap_or_default();
            let gone = of_stream(leaves, key.0).gone(key.1.saturating_mul(HOUR_MICROS));
            !gone && of(self) != of(others)
        });
        keys
    }
}

pub(super) fn of_stream<T>(pair: &[T; 2], stream: Stream) -> &T {
    let [events, findings] = pair;
    match stream {
        Stream::Events => events,
        Stream::Findings => findings,
    }
}

/// Compares the sums, and says which counts are wrong.
pub(super) async fn compare(
    client: &Client,
    rows: &Hours,
    counted: &Hours,
    leaves: &[Leaves; 2],
    check: &mut Check,
) -> anyhow::Result<()> {
    check.on = format!("{} hours", counted.sums.len().max(rows.sums.len()));
    let differing = rows.differing(counted, leaves);
    for (stream, hour) in differing.iter().take(MAX_HOURS) {
        let start = hour.saturating_mul(HOUR_MICROS);
        let before = check.total;
        let query = explanation(*stream, start);
        for row in client.query(&query, &[]).await? {
            let (org, counted, rows): (String, i64, i64) =
                (row.try_get(0)?, row.try_get(3)?, row.try_get(4)?);
            let (class_uid, severity_id): (i32, i32) = (row.try_get(1)?, row.try_get(2)?);
            check.found(
                format!("org {org}, {} of {}", stream.name(), time::hour(start)),
                format!("{counted} counted, {rows} rows (class {class_uid}, severity {severity_id})"),
            );
        }
        if check.total == before {
            check.found(format!("{} of {}", stream.name(), time::hour(start)), "counts and rows differ");
        }
    }
    check.found_more(differing.len().saturating_sub(MAX_HOURS) as u64);
    Ok(())
}

/// The groups of an hour whose count is not that of the rows.
fn explanation(stream: Stream, start: i64) -> String {
    let stream = stream.name();
    let range = |column: &str| {
        let (from, to) = (time::literal(start), time::literal(start.saturating_add(HOUR_MICROS)));
        format!("{column} >= {from} AND {column} < {to}")
    };
    format!(
        "SELECT org, class_uid, severity_id, coalesce(counted.n, 0)::bigint, coalesce(there.n, 0)
         FROM (SELECT org, class_uid, severity_id, sum(n) AS n FROM counts
               WHERE stream = '{stream}' AND {} GROUP BY 1, 2, 3) AS counted
         FULL JOIN (SELECT org COLLATE \"C\", class_uid, severity_id, count(*) AS n FROM {stream}
                    WHERE {} GROUP BY 1, 2, 3) AS there USING (org, class_uid, severity_id)
         WHERE coalesce(counted.n, 0) <> coalesce(there.n, 0)
         ORDER BY 1, 2, 3",
        range("hour"),
        range("time")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(rows: &[(i64, &str, i32, i64)]) -> Hours {
        let mut counter = Counter::new(7, Stream::Events);
        for (hour, org, severity_id, n) in rows {
            counter.add(hour * HOUR_MICROS + 5, org.as_bytes(), 3002, *severity_id, *n);
        }
        counter.finish()
    }

    fn differing(rows: &[(i64, &str, i32, i64)], counted: &[(i64, &str, i32, i64)]) -> Vec<i64> {
        let leaves = [Leaves::default(), Leaves::default()];
        hours(rows).differing(&hours(counted), &leaves).into_iter().map(|(_, hour)| hour).collect()
    }

    #[test]
    fn rows_in_any_order_and_counts_in_any_slots_come_to_the_same() {
        let rows = [(1, "a", 1, 1), (2, "b", 1, 1), (1, "a", 1, 1), (1, "b", 2, 1), (-1, "b", 2, 1)];
        let counted = [(1, "b", 2, 1), (1, "a", 1, 3), (2, "b", 1, 1), (1, "a", 1, -1), (-1, "b", 2, 1)];
        assert_eq!(differing(&rows, &counted), [0i64; 0]);
    }

    #[test]
    fn a_changed_count_a_moved_row_and_a_count_without_rows_differ() {
        let rows = [(1, "a", 1, 2), (2, "b", 1, 1)];
        assert_eq!(differing(&rows, &[(1, "a", 1, 3), (2, "b", 1, 1)]), [1]);
        assert_eq!(differing(&rows, &[(1, "a", 1, 2), (2, "b", 2, 1)]), [2]);
        assert_eq!(differing(&rows, &[(1, "a", 1, 1), (1, "b", 1, 1), (2, "b", 1, 1)]), [1]);
        assert_eq!(differing(&rows, &[(1, "a", 1, 2), (2, "b", 1, 1), (3, "b", 1, 1)]), [3]);
        // Nothing counted of nothing is nothing.
        assert_eq!(differing(&rows, &[(1, "a", 1, 2), (2, "b", 1, 1), (3, "b", 1, 0)]), [0i64; 0]);
    }
}
