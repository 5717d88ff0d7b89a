//! Whose request it is: bearer token → org, from Postgres through a cache.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use parking_lot::Mutex;
use schemas::OrgId;
use service::metrics;
use sha2::{Digest as _, Sha256};

use crate::Api;
use crate::problem::Problem;
use crate::store::{Store, StoredToken};

/// Longest use of an answer. Promised: a revoked token stops within 30 s.
const GOOD_FOR: Duration = Duration::from_secs(20);
/// Longest use of "no such token": a new token works this soon even when it was tried too early.
const UNKNOWN_FOR: Duration = Duration::from_secs(5);
/// Answers remembered; past that all are forgotten, and asked for again.
const MAX_ANSWERS: usize = 20_000;

/// The org that a request acts for. Only a valid token makes one, so whoever holds one may see the org's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Org(OrgId);

impl Org {
    pub(crate) fn id(&self) -> &OrgId {
        &self.0
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.as_str()
    }

    #[cfg(test)]
    pub(crate) fn for_test(org: &str) -> Self {
        Self(org.parse().unwrap())
    }
}

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) struct Analyst {
    pub(crate) org: Org,
    /// The token's label: the actor of changes.
    pub(crate) label: String,
}

#[derive(Debug, Clone)]
enum Answer {
    Analyst(Arc<Analyst>),
    Ingest,
    Unknown,
    Revoked,
}

/// Answers by the SHA-256 of the token, bounded in number and age.
#[derive(Default)]
pub(crate) struct Tokens {
    answers: Mutex<HashMap<[u8; 32], (Answer, Instant)>>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Tokens {
    /// Whose request it is.
    ///
    /// # Errors
    /// 401 without a valid token, 403 with one for ingest, 503 when the database cannot be asked.
    pub(crate) async fn analyst(&self, headers: &HeaderMap, store: &Store) -> Result<Arc<Analyst>, Problem> {
        let Some(token) = bearer(headers) else {
            metrics::API_AUTH.with(["missing"]).add(1);
            return Err(Problem::unauthenticated());
        };
        let digest: [u8; 32] = Sha256::digest(token).into();
        let (answer, cached) = match self.remembered(&digest, Instant::now()) {
            Some(answer) => (answer, true),
            None => {
                let found = store.token(&digest).await.inspect_err(|_| {
                    metrics::API_AUTH.with(["unavailable"]).add(1);
                })?;
                let answer = answer(found);
                self.remember(digest, answer.clone(), Instant::now());
                (answer, false)
            }
        };
        let (result, name) = match answer {
            Answer::Analyst(analyst) => (Ok(analyst), if cached { "cached" } else { "accepted" }),
            Answer::Ingest => (Err(Problem::forbidden()), "unknown"),
            Answer::Unknown => (Err(Problem::invalid_token()), "unknown"),
            Answer::Revoked => (Err(Problem::invalid_token()), "revoked"),
        };
        metrics::API_AUTH.with([name]).add(1);
        result
    }

    fn remembered(&self, digest: &[u8; 32], now: Instant) -> Option<Answer> {
        let answers = self.answers.lock();
        let (answer, at) = answers.get(digest)?;
        let good_for = if matches!(answer, Answer::Unknown) { UNKNOWN_FOR } else { GOOD_FOR };
        (now.saturating_duration_since(*at) < good_for).then(|| answer.clone())
    }

    fn remember(&self, digest: [u8; 32], answer: Answer, now: Instant) {
        let mut answers = self.answers.lock();
        if answers.len() >= MAX_ANSWERS {
            answers.clear();
        }
        answers.insert(digest, (answer, now));
    }
}

fn answer(found: Option<StoredToken>) -> Answer {
    match found {
        None => Answer::Unknown,
        Some(token) if token.revoked => Answer::Revoked,
        Some(token) if token.kind == "analyst" => match token.org.parse() {
            Ok(org) => Answer::Analyst(Arc::new(Analyst { org: Org(org), label: token.label })),
            // The table's check lets no such org in.
            Err(_) => Answer::Unknown,
        },
        Some(_) => Answer::Ingest,
    }
}

/// The token of `Authorization: Bearer …`; the scheme in any case (RFC 9110, section 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The analyst of a request; what every handler under /v1 takes.
#[derive(Debug)]
pub(crate) struct Caller(pub(crate) Arc<Analyst>);

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        api.tokens.analyst(&parts.headers, &api.store).await.map(Caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn a_bearer_token_is_read_whatever_the_case_of_its_scheme() {
        assert_eq!(bearer(&headers("bearer  tw_x ")), Some("tw_x"));
        for none in ["Basic abc", "Bearer", "Bearer ", "tw_x"] {
            assert_eq!(bearer(&headers(none)), None, "{none}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }

    #[test]
    fn an_answer_is_used_for_less_than_what_revoking_promises() {
        let tokens = Tokens::default();
        let at = Instant::now();
        let analyst = Arc::new(Analyst { org: Org::for_test("demo"), label: "alice".into() });
        tokens.remember([1; 32], Answer::Analyst(analyst), at);
        tokens.remember([2; 32], Answer::Unknown, at);
        let remembered =
            |token: u8, seconds| tokens.remembered(&[token; 32], at + Duration::from_secs(seconds)).is_some();
        assert!(remembered(1, 19) && !remembered(1, 20));
        assert!(remembered(2, 4) && !remembered(2, 5));
        assert!(!remembered(3, 0));
    }

    #[test]
    fn the_cache_does_not_grow_without_bound() {
        let tokens = Tokens::default();
        for token in 0..MAX_ANSWERS + 10 {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&token.to_be_bytes());
            tokens.remember(digest, Answer::Unknown, Instant::now());
        }
        assert_eq!(tokens.answers.lock().len(), 10);
    }
}
