//! Bearer token → org, from Postgres through a cache.
//!
//! An answer is used for [`GOOD_FOR`] at most, so a revoked token stops working within that time; one that is in use
//! is asked again in the background before that. While Postgres is away, a token that was good goes on working for
//! [`GRACE`]; one that is not known is answered with 503, because nobody can tell whether it is good.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use parking_lot::Mutex;
use postgres::{Pool, PoolError};
use service::{Dependency, metrics};
use sha2::{Digest as _, Sha256};

use crate::budget::{Budget, Org};
use crate::problem::Problem;

/// Longest use of an answer from Postgres. Promised: a revoked token stops within 30 s.
const GOOD_FOR: Duration = Duration::from_secs(20);
/// An answer in use is renewed in the background from this age on.
const RENEW_AFTER: Duration = Duration::from_secs(10);
/// Longest use of "no such token": a new token works this soon even when it was tried too early.
const UNKNOWN_FOR: Duration = Duration::from_secs(5);
/// How long a token that was good is taken while Postgres is away.
const GRACE: Duration = Duration::from_secs(15 * 60);
/// Time for one look-up, the wait for a connection included.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);
/// After a failed look-up Postgres is left alone this long.
const PAUSE: Duration = Duration::from_secs(1);
/// Tokens remembered as good (72 bytes each), and as unknown.
const MAX_GOOD: usize = 50_000;
const MAX_UNKNOWN: usize = 10_000;

/// How often Postgres is asked whether it is there.
const PROBE_EVERY: Duration = Duration::from_secs(5);

type Digest = [u8; 32];
type Lookup = Shared<BoxFuture<'static, Answer>>;

/// What Postgres says of a token.
#[derive(Debug, Clone)]
enum Answer {
    Ingest(Arc<Org>),
    Analyst,
    Unknown,
    Unavailable,
}

#[derive(Debug, Clone)]
struct Known {
    answer: Answer,
    at: Instant,
}

/// What the cache says of a token.
#[derive(Debug)]
enum Cached {
    /// Use it.
    Good(Answer),
    /// Use it, and ask again beside.
    Ageing(Answer),
    /// Ask; use it if nobody answers.
    Old(Answer),
    /// Ask.
    Nothing,
}

/// Answers by token digest, bounded.
#[derive(Debug, Default)]
struct Cache {
    good: HashMap<Digest, Known>,
    unknown: HashMap<Digest, Instant>,
}

impl Cache {
    fn get(&self, digest: &Digest, now: Instant) -> Cached {
        if let Some(known) = self.good.get(digest) {
            let answer = known.answer.clone();
            return match now.saturating_duration_since(known.at) {
                age if age < RENEW_AFTER => Cached::Good(answer),
                age if age < GOOD_FOR => Cached::Ageing(answer),
                age if age < GRACE => Cached::Old(answer),
                _ => Cached::Nothing,
            };
        }
        match self.unknown.get(digest) {
            Some(at) if now.saturating_duration_since(*at) < UNKNOWN_FOR => Cached::Good(Answer::Unknown),
            _ => Cached::Nothing,
        }
    }

    fn put(&mut self, digest: Digest, answer: &Answer, now: Instant) {
        match answer {
            Answer::Ingest(_) | Answer::Analyst => {
                self.unknown.remove(&digest);
                if self.good.len() >= MAX_GOOD {
                    self.good.retain(|_, known| now.saturating_duration_since(known.at) < GOOD_FOR);
                }
                if self.good.len() < MAX_GOOD || self.good.contains_key(&digest) {
                    self.good.insert(digest, Known { answer: answer.clone(), at: now });
                }
            }
            Answer::Unknown => {
                self.good.remove(&digest);
                if self.unknown.len() >= MAX_UNKNOWN {
                    self.unknown.clear();
                }
                self.unknown.insert(digest, now);
            }
            Answer::Unavailable => {}
        }
    }
}

/// The tokens of all orgs.
pub struct Tokens {
    pool: Pool,
    postgres: Dependency,
    org_bytes: usize,
    cache: Mutex<Cache>,
    orgs: Mutex<HashMap<Box<str>, Arc<Org>>>,
    asking: Mutex<HashMap<Digest, Lookup>>,
    paused_until: Mutex<Option<Instant>>,
}

impl Tokens {
    /// Looks tokens up through `pool` and reports to `postgres`; each org may have `org_bytes` under way.
    pub fn new(pool: Pool, postgres: Dependency, org_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            pool,
            postgres,
            org_bytes,
            cache: Mutex::default(),
            orgs: Mutex::default(),
            asking: Mutex::default(),
            paused_until: Mutex::default(),
        })
    }

    /// The org that a request's bearer token belongs to.
    ///
    /// # Errors
    /// 401 without a token or with one that is not known, 403 for an analyst's, 503 when nobody can tell.
    pub async fn org(self: &Arc<Self>, headers: &HeaderMap) -> Result<Arc<Org>, Problem> {
        let Some(token) = bearer(headers) else {
            count("missing");
            return Err(Problem::unauthorized(
                "send the ingest token as `Authorization: Bearer tw_ingest_…`",
            ));
        };
        match self.ask(token).await {
            Answer::Ingest(org) => Ok(org),
            Answer::Analyst => {
                count("analyst");
                Err(Problem::forbidden("this is an analyst's token; pushes need an ingest token"))
            }
            Answer::Unknown => {
                count("unknown");
                Err(Problem::unauthorized("the token is not known or was revoked"))
            }
            Answer::Unavailable => {
                count("unavailable");
                Err(Problem::unavailable("the token cannot be checked now: the database is away"))
            }
        }
    }

    async fn ask(self: &Arc<Self>, token: &str) -> Answer {
        // What cannot be a token is not worth a look-up.
        if !(token.starts_with("tw_ingest_") || token.starts_with("tw_analyst_")) || token.len() > 128 {
            return Answer::Unknown;
        }
        let digest: Digest = Sha256::digest(token).into();
        let cached = self.cache.lock().get(&digest, Instant::now());
        match cached {
            Cached::Good(answer) => {
                count("cached");
                answer
            }
            Cached::Ageing(answer) => {
                count("cached");
                let _ = self.lookup(digest);
                answer
            }
            Cached::Old(answer) => match self.answer(digest).await {
                Answer::Unavailable => {
                    count("cached");
                    answer
                }
                fresh => fresh,
            },
            Cached::Nothing => self.answer(digest).await,
        }
    }

    async fn answer(self: &Arc<Self>, digest: Digest) -> Answer {
        let answer = match self.lookup(digest) {
            Some(lookup) => lookup.await,
            None => Answer::Unavailable,
        };
        if matches!(answer, Answer::Ingest(_)) {
            count("accepted");
        }
        answer
    }

    /// The look-up of a token that is under way, or a new one; none while Postgres is left alone. It runs to its end
    /// whether or not anyone waits for it.
    fn lookup(self: &Arc<Self>, digest: Digest) -> Option<Lookup> {
        let mut asking = self.asking.lock();
        if let Some(lookup) = asking.get(&digest) {
            return Some(lookup.clone());
        }
        if self.paused_until.lock().is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let this = Arc::clone(self);
        let lookup = async move {
            let answer = this.query(digest).await;
            this.cache.lock().put(digest, &answer, Instant::now());
            this.asking.lock().remove(&digest);
            answer
        }
        .boxed()
        .shared();
        asking.insert(digest, lookup.clone());
        tokio::spawn(lookup.clone());
        Some(lookup)
    }

    async fn query(&self, digest: Digest) -> Answer {
        let started = Instant::now();
        let answer = tokio::time::timeout(LOOKUP_TIMEOUT, self.row(digest)).await;
        metrics::INGEST_AUTH_LOOKUP_DURATION.record_duration(started.elapsed());
        let reason = match answer {
            Ok(Ok(row)) => {
                self.postgres.up();
                return match row {
                    Some((org, kind)) if kind == "ingest" => Answer::Ingest(self.known_org(org)),
                    Some(_) => Answer::Analyst,
                    None => Answer::Unknown,
                };
            }
            Ok(Err(reason)) => reason,
            Err(_) => format!("a token was not looked up within {LOOKUP_TIMEOUT:?}"),
        };
        self.postgres.down(reason);
        *self.paused_until.lock() = Some(Instant::now() + PAUSE);
        Answer::Unavailable
    }

    /// Asks every few seconds whether tokens can be looked up, so that readiness does not wait for a push. Runs for ever.
    pub async fn watch_postgres(self: Arc<Self>) {
        loop {
            let answer = self.query([0; 32]).await;
            let away = matches!(answer, Answer::Unavailable);
            tokio::time::sleep(if away { PAUSE } else { PROBE_EVERY }).await;
        }
    }

    async fn row(&self, digest: Digest) -> Result<Option<(String, String)>, String> {
        const FIND: &str = "SELECT org, kind FROM token WHERE digest = $1 AND revoked_at IS NULL";
        let client = self.pool.get().await.map_err(|error| match &error {
            PoolError::Backend(error) => postgres::describe(error),
            other => other.to_string(),
        })?;
        let found = async {
            let find = client.prepare_cached(FIND).await?;
            let row = client.query_opt(&find, &[&digest.as_slice()]).await?;
            row.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()
        };
        found.await.map_err(|error: tokio_postgres::Error| postgres::describe(&error))
    }

    /// The one [`Org`] of this id, so that all its tokens share a budget.
    fn known_org(&self, id: String) -> Arc<Org> {
        let id = id.into_boxed_str();
        let mut orgs = self.orgs.lock();
        let org = orgs
            .entry(id.clone())
            .or_insert_with(|| Arc::new(Org { id, budget: Budget::new(self.org_bytes) }));
        Arc::clone(org)
    }
}

fn count(result: &str) {
    metrics::INGEST_AUTH.with([result]).add(1);
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Answer {
        Answer::Ingest(Arc::new(Org { id: "demo".into(), budget: Budget::new(1) }))
    }

    #[test]
    fn an_answer_ages_and_expires() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        cache.put([1; 32], &good(), start);
        assert!(matches!(cache.get(&[1; 32], at(1)), Cached::Good(Answer::Ingest(_))));
        assert!(matches!(cache.get(&[1; 32], at(11)), Cached::Ageing(Answer::Ingest(_))));
        assert!(matches!(cache.get(&[1; 32], at(21)), Cached::Old(Answer::Ingest(_))));
        assert!(matches!(cache.get(&[1; 32], at(901)), Cached::Nothing));
        assert!(matches!(cache.get(&[2; 32], at(0)), Cached::Nothing));
    }

    #[test]
    fn a_revoked_token_is_forgotten_and_an_unavailable_answer_changes_nothing() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.put([1; 32], &good(), now);
        cache.put([1; 32], &Answer::Unavailable, now);
        assert!(matches!(cache.get(&[1; 32], now), Cached::Good(Answer::Ingest(_))));
        cache.put([1; 32], &Answer::Unknown, now);
        assert!(matches!(cache.get(&[1; 32], now), Cached::Good(Answer::Unknown)));
        assert!(matches!(cache.get(&[1; 32], now + UNKNOWN_FOR), Cached::Nothing));
        cache.put([1; 32], &good(), now);
        assert!(matches!(cache.get(&[1; 32], now), Cached::Good(Answer::Ingest(_))));
    }

    #[test]
    fn the_cache_is_bounded_and_garbage_does_not_push_good_tokens_out() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.put([1; 32], &good(), now);
        for n in 0..MAX_UNKNOWN as u64 * 2 {
            let mut digest = [2; 32];
            digest[..8].copy_from_slice(&n.to_le_bytes());
            cache.put(digest, &Answer::Unknown, now);
        }
        assert!(cache.unknown.len() <= MAX_UNKNOWN);
        assert!(matches!(cache.get(&[1; 32], now), Cached::Good(Answer::Ingest(_))));
    }

    #[test]
    fn the_token_stands_after_bearer() {
        for (value, expected) in [
            ("Bearer tw_ingest_x", Some("tw_ingest_x")),
            ("bearer  tw_ingest_x ", Some("tw_ingest_x")),
            ("Basic dXNlcg==", None),
            ("tw_ingest_x", None),
        ] {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
            assert_eq!(bearer(&headers), expected, "{value}");
        }
    }
}
