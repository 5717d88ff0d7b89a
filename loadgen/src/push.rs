//! A push, sent until it is acknowledged, refused for good, or given up.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;

use crate::cli::TargetArgs;
use crate::client::{Answer, Connection, Origin};
use crate::journal::{Entry, Journal};
use crate::report::Stats;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Records to push.
#[derive(Debug, Clone)]
pub struct Push {
    /// `/v1/events` or `/v1/findings`.
    pub path: &'static str,
    /// Content-Type.
    pub content_type: &'static str,
    /// X-Sender.
    pub sender: String,
    /// Which of the tokens.
    pub token: usize,
    /// The records.
    pub body: Bytes,
    /// Number of the first.
    pub first_seq: u64,
    /// How many.
    pub count: u64,
}

/// Sends pushes and keeps count.
#[derive(Debug)]
pub struct Pusher {
    /// What happened so far.
    pub stats: Stats,
    /// Id of the run.
    pub run: String,
    origin: Origin,
    tokens: Vec<HeaderValue>,
    journal: Option<Journal>,
    keys: bool,
    timeout: Duration,
    give_up_after: Duration,
}

/// The body of a 200, and of a 400 that refuses every record.
#[derive(Debug, Deserialize)]
struct Counts {
    accepted: u64,
}

/// What an attempt led to.
enum Outcome {
    Acknowledged(Answer),
    /// Repeat it, not before so long if ingest said so.
    Again(Option<Duration>, String),
    /// It will never be taken.
    Refused(String),
}

impl Pusher {
    /// A pusher of the run `run`, or of a new one, for the target of the command line.
    ///
    /// # Errors
    /// A wrong URL or token, or a journal that cannot be opened.
    pub fn new(target: &TargetArgs, run: Option<String>) -> anyhow::Result<Self> {
        let tokens: Result<Vec<_>, _> =
            target.tokens.iter().map(|t| HeaderValue::from_str(&format!("Bearer {t}"))).collect();
        Ok(Self {
            stats: Stats::new()?,
            run: run.unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string().split_off(20)),
            origin: Origin::new(&target.ingest_url)?,
            tokens: tokens.context("--token is not printable ASCII")?,
            journal: target.journal.as_deref().map(Journal::open).transpose()?,
            keys: target.idempotency_keys,
            timeout: target.timeout,
            give_up_after: target.give_up_after,
        })
    }

    /// How many orgs there are to push for.
    ///
    /// # Errors
    /// None are configured.
    pub fn tokens(&self) -> anyhow::Result<usize> {
        match self.tokens.len() {
            0 => anyhow::bail!("no token: pass --token or set TIDEWATCH_INGEST_TOKEN"),
            count => Ok(count),
        }
    }

    /// A connection of its own for a worker.
    pub fn connection(&self) -> Connection {
        Connection::new(self.origin.clone())
    }

    /// Sends `push` until its fate is decided, and counts it.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub async fn push(&self, connection: &mut Connection, push: Push) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            match self.attempt(connection, &push).await? {
                Outcome::Acknowledged(answer) => {
                    self.stats.took(started.elapsed());
                    return self.acknowledged(&push, &answer, attempt);
                }
                Outcome::Refused(problem) => {
                    self.stats.problem(|| problem);
                    self.stats.rejected.fetch_add(push.count, Ordering::Relaxed);
                    break;
                }
                Outcome::Again(wanted, problem) => {
                    let wait = wanted.unwrap_or(pause).mul_f64(rand::random_range(1.0..1.2));
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    self.stats.problem(|| problem);
                    if started.elapsed() + wait > self.give_up_after {
                        break;
                    }
                    self.stats.retried.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(wait).await;
                }
            }
        }
        self.stats.unacknowledged.fetch_add(push.count, Ordering::Relaxed);
        Ok(())
    }

    async fn attempt(&self, connection: &mut Connection, push: &Push) -> anyhow::Result<Outcome> {
        let answer = match connection.send(self.request(push)?, self.timeout).await {
            Ok(answer) => answer,
            Err(error) => return Ok(Outcome::Again(None, format!("{error:#}"))),
        };
        let said = || format!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        Ok(match answer.status {
            StatusCode::OK => Outcome::Acknowledged(answer),
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Outcome::Again(answer.retry_after, said()),
            _ => Outcome::Refused(said()),
        })
    }

    fn request(&self, push: &Push) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.origin.path(push.path))
            .header(CONTENT_TYPE, push.content_type)
            .header("x-sender", &push.sender);
        if let Some(token) = self.tokens.get(push.token) {
            request = request.header(AUTHORIZATION, token);
        }
        if self.keys {
            request =
                request.header("idempotency-key", format!("{}-{}-{}", self.run, push.path, push.first_seq));
        }
        Ok(request.body(Full::new(push.body.clone()))?)
    }

    fn acknowledged(&self, push: &Push, answer: &Answer, attempts: u32) -> anyhow::Result<()> {
        let Counts { accepted } = serde_json::from_slice(&answer.body).context("a 200 without `accepted`")?;
        let rejected = push.count.saturating_sub(accepted);
        if rejected > 0 {
            self.stats.problem(|| String::from_utf8_lossy(&answer.body).chars().take(300).collect());
        }
        self.stats.acknowledged.fetch_add(accepted, Ordering::Relaxed);
        self.stats.rejected.fetch_add(rejected, Ordering::Relaxed);
        self.stats.pushes.fetch_add(1, Ordering::Relaxed);
        self.stats.bytes.fetch_add(push.body.len() as u64, Ordering::Relaxed);
        let Some(journal) = &self.journal else { return Ok(()) };
        journal.add(&Entry {
            run: &self.run,
            sender: &push.sender,
            token: push.token,
            first_seq: push.first_seq,
            last_seq: (push.first_seq + push.count).saturating_sub(1),
            count: push.count,
            rejected,
            attempts,
            status: answer.status.as_u16(),
            at: Timestamp::now().to_string(),
        })
    }
}
