//! Keyed pushes that Postgres knows.
//!
//! A push whose key is new here is asked for before it is published: another ingest may have taken it, or this one
//! before it was started anew. The answer saves a way through Kafka and tells a wrong use of a key at once; the sink
//! stores a push once without it. So nobody waits longer than [`PATIENCE`] for it, and while Postgres is away nobody
//! waits at all.

use std::time::{Duration, Instant};

use postgres::{Pool, PoolError};
use service::metrics;
use tokio::sync::{mpsc, oneshot};

use crate::keys::Name;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_millis(100);
/// Longest time for a query, a connection included.
const QUERY_TIMEOUT: Duration = Duration::from_millis(250);
/// After a query that failed Postgres is left alone for so long.
const PAUSE: Duration = Duration::from_secs(1);
/// Questions that wait, and those of one query.
const MAX_WAITING: usize = 1024;
const MAX_ASKED: usize = 256;

/// One index look-up a push. A push has a part for every 500 records or half a megabyte.
const FIND: &str = "
    SELECT wanted.place, held.part, held.digest
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted (org, key, place)
    CROSS JOIN LATERAL (
        SELECT part, digest FROM push_key
        WHERE org = wanted.org AND key = wanted.key AND received_at > now() - interval '24 hours'
        ORDER BY part LIMIT 2048
    ) AS held";

/// A part of a push that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPart {
    /// Which one.
    pub part: i32,
    /// SHA-256 of the push.
    pub digest: Vec<u8>,
}

struct Question {
    name: Name,
    answer: oneshot::Sender<Vec<StoredPart>>,
}

/// For those who ask.
#[derive(Debug, Clone)]
pub struct Stored(mpsc::Sender<Question>);

/// Answers, with one query at a time for all who have asked since the last one.
pub struct Answerer {
    pool: Pool,
    questions: mpsc::Receiver<Question>,
}

/// Both ends.
pub fn stored(pool: Pool) -> (Stored, Answerer) {
    let (asked, questions) = mpsc::channel(MAX_WAITING);
    (Stored(asked), Answerer { pool, questions })
}

impl Stored {
    /// The parts of a push that are stored, by number; none when nobody can tell in time.
    pub async fn find(&self, name: Name) -> Option<Vec<StoredPart>> {
        let started = Instant::now();
        let (answer, answered) = oneshot::channel();
        self.0.try_send(Question { name, answer }).ok()?;
        let answer = tokio::time::timeout(PATIENCE, answered).await;
        metrics::INGEST_KEY_LOOKUP_DURATION.record_duration(started.elapsed());
        answer.ok()?.ok()
    }
}

impl Answerer {
    /// Runs for ever.
    pub async fn run(mut self) {
        let mut asked = Vec::new();
        let mut paused_until = None;
        while self.questions.recv_many(&mut asked, MAX_ASKED).await > 0 {
            asked.retain(|question: &Question| !question.answer.is_closed());
            if asked.is_empty() || paused_until.is_some_and(|until| Instant::now() < until) {
                // Their askers see that there will be no answer.
                asked.clear();
                continue;
            }
            let answers = tokio::time::timeout(QUERY_TIMEOUT, self.query(&asked)).await;
            match answers.unwrap_or_else(|_| Err(format!("no answer within {QUERY_TIMEOUT:?}"))) {
                Ok(answers) => {
                    for (question, parts) in asked.drain(..).zip(answers) {
                        // One who has given up needs none.
                        let _ = question.answer.send(parts);
                    }
                }
                Err(reason) => {
                    tracing::debug!("keys of pushes are not looked up for {PAUSE:?}: {reason}");
                    paused_until = Some(Instant::now() + PAUSE);
                    asked.clear();
                }
            }
        }
    }

    /// The parts of each, in order.
    async fn query(&self, asked: &[Question]) -> Result<Vec<Vec<StoredPart>>, String> {
        let client = self.pool.get().await.map_err(|error| match &error {
            PoolError::Backend(error) => postgres::describe(error),
            other => other.to_string(),
        })?;
        let orgs: Vec<&str> = asked.iter().map(|question| &*question.name.org).collect();
        let keys: Vec<&str> = asked.iter().map(|question| &*question.name.key).collect();
        let found = async {
            let find = client.prepare_cached(FIND).await?;
            let mut answers = vec![Vec::new(); asked.len()];
            for row in client.query(&find, &[&orgs, &keys]).await? {
                let place: i64 = row.try_get(0)?;
                let part = StoredPart { part: row.try_get(1)?, digest: row.try_get(2)? };
                if let Some(parts) = usize::try_from(place - 1).ok().and_then(|place| answers.get_mut(place))
                {
                    parts.push(part);
                }
            }
            Ok(answers)
        };
        found.await.map_err(|error: tokio_postgres::Error| postgres::describe(&error))
    }
}
