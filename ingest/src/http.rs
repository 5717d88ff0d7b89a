//! The push API: one request, from its head to its answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, EXPECT, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, Response};
use schemas::{Micros, Stream};
use serde_json::json;
use service::{Shutdown, metrics};

use crate::body::{self, Bounds, Encoding};
use crate::budget::{Budget, Lease, Org};
use crate::keys::Keys;
use crate::problem::Problem;
use crate::publish::{MAX_SENDER_BYTES, Publisher, Push, explain};
use crate::receipted::Wish;
use crate::receipts::{Lookup, Positions, Trace};
use crate::split::{Layout, Malformed, Split, split};
use crate::stored::Stored;
use crate::ticket::{Failure, Placed, Settlement, Ticket};
use crate::tokens::Tokens;

/// Header that names whose records these are, where one connection carries those of many.
const X_SENDER: &str = "x-sender";
/// Header whose value makes a repeated push harmless (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: &str = "idempotency-key";
const MAX_KEY_BYTES: usize = 255;
/// Bodies larger than this, and compressed ones, are taken apart beside the runtime's workers.
const INLINE_BYTES: usize = 1 << 20;
/// A refused push is read on for this long and this far before its answer, so that a sender in the middle of its body
/// gets to see the answer instead of a reset connection.
const DRAIN_TIME: Duration = Duration::from_secs(1);
const DRAIN_BYTES: usize = 16 << 20;

/// What the answering of pushes needs.
pub struct PushApi {
    /// Who may push.
    pub tokens: Arc<Tokens>,
    /// Where pushes go.
    pub publisher: Arc<Publisher>,
    /// Keyed pushes known here.
    pub keys: Arc<Keys>,
    /// Those that Postgres knows.
    pub stored: Stored,
    /// What becomes of pushes.
    pub lookup: Lookup,
    /// How far the sink is.
    pub positions: Arc<Positions>,
    /// Ends waiting when the process is to end.
    pub shutdown: Shutdown,
    /// Bytes under way.
    pub budget: Arc<Budget>,
    /// Bounds of a body.
    pub bounds: Bounds,
    /// Time for the broker to acknowledge.
    pub delivery_timeout: Duration,
    /// Port that pushes come in by, part of a sender's name.
    pub port: u16,
}

/// A body with all that was said about it.
pub struct Received {
    /// Where it goes.
    pub stream: Stream,
    /// Whose it is.
    pub org: Arc<Org>,
    /// How its records are delimited.
    pub layout: Layout,
    /// Whose records these are.
    pub sender: String,
    /// Its bytes under way.
    pub lease: Lease,
    encoding: Encoding,
    sent: Bytes,
}

/// A push that was taken, in part at least.
pub struct Taken {
    /// Records taken.
    pub accepted: usize,
    rejected: serde_json::Value,
    unlisted: usize,
    /// What else the answer says.
    pub more: serde_json::Map<String, serde_json::Value>,
}

/// A body taken apart and added to its batches.
struct Added {
    settlement: Settlement,
    taken: Taken,
    lease: Lease,
}

impl PushApi {
    /// Answers one request.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>, peer: IpAddr) -> Response<Full<Bytes>> {
        let started = Instant::now();
        metrics::INGEST_REQUESTS_IN_FLIGHT.add(1.0);
        let in_flight = InFlight;
        let (parts, mut body) = request.into_parts();
        let route = Route::of(&parts);
        let name = route.as_ref().map_or("other", Route::name);
        let result = match route {
            Ok(Route::Push(stream)) => self.push(stream, &parts, &mut body, peer).await,
            Ok(Route::Receipt(id)) => self.receipt(&parts.headers, &id).await,
            Err(problem) => Err(problem),
        };
        let response = match result {
            Ok(response) => response,
            Err(problem) => {
                // Whoever asked whether to send the body sends none after this answer.
                if !body.is_end_stream() && !parts.headers.contains_key(EXPECT) {
                    drain(&mut body).await;
                }
                let code = problem.code();
                metrics::INGEST_REFUSED.with([name, code]).add(1);
                if matches!(problem.status().as_u16(), 429 | 503) {
                    metrics::INGEST_BACKPRESSURE.with([code]).add(1);
                }
                problem.into_response()
            }
        };
        drop(in_flight);
        metrics::INGEST_REQUESTS.with([name, response.status().as_str()]).add(1);
        metrics::INGEST_REQUEST_DURATION.with([name]).record_duration(started.elapsed());
        response
    }

    async fn push(
        self: &Arc<Self>,
        stream: Stream,
        parts: &Parts,
        body: &mut Incoming,
        peer: IpAddr,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let headers = &parts.headers;
        let org = self.tokens.org(headers).await?;
        let layout = body::layout(headers, stream)?;
        let encoding = body::encoding(headers)?;
        let key = idempotency_key(headers)?;
        let sender = sender(headers, self.port, peer)?;
        let wish = Wish::of(parts.uri.query())?;
        let mut lease = Lease::new(Arc::clone(&self.budget), Arc::clone(&org));
        let sent = body::read(headers, body, self.bounds, &mut lease).await?;

        let received = Received { stream, org: Arc::clone(&org), layout, sender, lease, encoding, sent };
        match key {
            Some(key) => {
                let (taken, trace) = self.keyed(received, key).await?;
                self.receipted(taken, wish, &org, stream, trace).await
            }
            None => {
                let this = Arc::clone(self);
                let traced = wish.is_some();
                let added = beside(received.is_large(), move || this.add(received, traced)).await?;
                let (taken, placed) = self.acknowledged(added).await?;
                self.receipted(taken, wish, &org, stream, Trace::Placed(placed)).await
            }
        }
    }

    /// The body, decompressed.
    pub fn decoded(&self, received: &mut Received) -> Result<Bytes, Problem> {
        let sent = std::mem::take(&mut received.sent);
        metrics::INGEST_RECEIVED.with(["http"]).add(sent.len() as u64);
        let body = body::decode(received.encoding, sent, self.bounds.max_bytes, &mut received.lease)?;
        metrics::INGEST_DECODED.with(["http"]).add(body.len() as u64);
        Ok(body)
    }

    /// Takes a body apart and adds its records to batches. Work without waiting.
    fn add(&self, mut received: Received, traced: bool) -> Result<Added, Problem> {
        let body = self.decoded(&mut received)?;
        let Received { stream, org, layout, sender, lease, .. } = received;
        let split = split(&body, layout)?;
        let taken = Taken::of(&split)?;
        let (ticket, settlement) = if traced { Ticket::traced() } else { Ticket::new() };
        let push = Push {
            stream,
            org: &org.id,
            protocol: "http",
            format: layout.format(),
            sender: &sender,
            key: None,
            received_at: Micros::now(),
            records: &split.records,
        };
        self.publisher.add(&push, &ticket).map_err(|error| Problem::unavailable(error.to_string()))?;
        ticket.close();
        Ok(Added { settlement, taken, lease })
    }

    async fn acknowledged(&self, added: Added) -> Result<(Taken, Vec<Placed>), Problem> {
        let Added { mut settlement, taken, lease } = added;
        let outcome = tokio::time::timeout(self.delivery_timeout, settlement.wait()).await;
        drop(lease);
        match outcome {
            Ok(Ok(placed)) => {
                metrics::INGEST_EVENTS.with(["http"]).add(taken.accepted as u64);
                Ok((taken, placed))
            }
            Ok(Err(failure)) => Err(Problem::unavailable(explain(&failure))),
            Err(_) => {
                let failure =
                    Failure::Delivery(format!("no answer within {:?}", self.delivery_timeout).into());
                Err(Problem::unavailable(explain(&failure)))
            }
        }
    }
}

impl Received {
    /// Whether the work on it would keep others waiting.
    pub fn is_large(&self) -> bool {
        self.encoding != Encoding::Identity || is_large(&self.sent)
    }
}

/// Whether the work on a body would keep others waiting.
pub fn is_large(body: &[u8]) -> bool {
    body.len() > INLINE_BYTES
}

/// Does some work: beside the runtime's workers if it is `large`.
///
/// # Errors
/// The work's, and 503 where it broke off.
pub async fn beside<T: Send + 'static>(
    large: bool,
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    if !large {
        return work();
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Problem::unavailable("the push could not be taken apart"))?
}

impl Taken {
    /// What will be said of a body that was taken apart.
    ///
    /// # Errors
    /// 400, when none of its records can be taken.
    pub fn of(split: &Split<'_>) -> Result<Taken, Problem> {
        let Split { records, rejected, unlisted } = split;
        let refused = rejected.len() + unlisted;
        if refused > 0 {
            metrics::INGEST_REJECTED.with(["http", "malformed"]).add(refused as u64);
        }
        if records.is_empty() && refused > 0 {
            return Err(Problem::nothing_accepted(rejected, *unlisted));
        }
        let (accepted, rejected) = (records.len(), json!(rejected));
        Ok(Taken { accepted, rejected, unlisted: *unlisted, more: serde_json::Map::new() })
    }

    /// The answer.
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let mut answer = json!({ "accepted": self.accepted, "rejected": self.rejected });
        if let (Some(answer), true) = (answer.as_object_mut(), self.unlisted > 0) {
            answer.insert("rejected_unlisted".into(), self.unlisted.into());
        }
        if let Some(answer) = answer.as_object_mut() {
            answer.extend(self.more);
        }
        json_response(&answer)
    }
}

impl From<Malformed> for Problem {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::TooMany => Problem::too_large(malformed.to_string()),
            Malformed::Empty | Malformed::Json(_) => Problem::malformed(malformed.to_string()),
        }
    }
}

/// Counts the request out, also when its connection dies under it.
struct InFlight;

impl Drop for InFlight {
    fn drop(&mut self) {
        metrics::INGEST_REQUESTS_IN_FLIGHT.add(-1.0);
    }
}

/// 200 with a JSON body.
pub fn json_response(body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// What a request is for.
enum Route {
    Push(Stream),
    /// The receipt with this id.
    Receipt(String),
}

impl Route {
    fn of(parts: &Parts) -> Result<Route, Problem> {
        let (route, method) = match parts.uri.path() {
            "/v1/events" => (Route::Push(Stream::Events), Method::POST),
            "/v1/findings" => (Route::Push(Stream::Findings), Method::POST),
            path => match path.strip_prefix("/v1/receipts/") {
                Some(id) if !id.is_empty() => (Route::Receipt(id.to_owned()), Method::GET),
                _ => return Err(Problem::not_found(&path.chars().take(100).collect::<String>())),
            },
        };
        if parts.method == method { Ok(route) } else { Err(Problem::method_not_allowed(&method)) }
    }

    fn name(&self) -> &'static str {
        match self {
            Route::Push(stream) => stream.name(),
            Route::Receipt(_) => "receipts",
        }
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = plain(headers, IDEMPOTENCY_KEY)? else { return Ok(None) };
    // The draft has a quoted string; most clients send a bare one. Both name the same key.
    let key = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key);
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(Problem::malformed(format!("an Idempotency-Key has 1 to {MAX_KEY_BYTES} characters")));
    }
    Ok(Some(key.to_owned()))
}

fn sender(headers: &HeaderMap, port: u16, peer: IpAddr) -> Result<String, Problem> {
    match plain(headers, X_SENDER)? {
        None => Ok(format!("http:{port}/{}", peer.to_canonical())),
        Some(sender) if !sender.is_empty() && sender.len() <= MAX_SENDER_BYTES => Ok(sender.to_owned()),
        Some(_) => Err(Problem::malformed(format!("an X-Sender has 1 to {MAX_SENDER_BYTES} characters"))),
    }
}

/// A header's only value, printable ASCII.
fn plain<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match (value.to_str(), values.next()) {
        (Ok(value), None) => Ok(Some(value.trim())),
        _ => Err(Problem::malformed(format!("the header {name} is one value of printable ASCII"))),
    }
}

async fn drain(body: &mut Incoming) {
    let read = async {
        let mut left = DRAIN_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let read = frame.data_ref().map_or(0, Bytes::len);
            let Some(rest) = left.checked_sub(read) else { return };
            left = rest;
        }
    };
    // Past the time the connection is closed with the answer, read or not.
    let _ = tokio::time::timeout(DRAIN_TIME, read).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn keys_are_bounded_and_may_be_quoted() {
        let key =
            |values: &[&str]| idempotency_key(&headers(IDEMPOTENCY_KEY, values)).map_err(|p| p.status());
        assert_eq!(key(&[]).unwrap(), None);
        assert_eq!(key(&["abc"]).unwrap(), Some("abc".to_owned()));
        assert_eq!(key(&["\"abc\""]).unwrap(), Some("abc".to_owned()));
        assert_eq!(key(&[&"k".repeat(255)]).unwrap().unwrap().len(), 255);
        for bad in [vec![""], vec!["\"\""], vec![&"k".repeat(256)], vec!["a", "b"]] {
            assert_eq!(key(&bad).unwrap_err(), 400, "{bad:?}");
        }
    }

    #[test]
    fn a_push_has_the_sender_it_names_or_its_peer() {
        let of =
            |values: &[&str]| sender(&headers(X_SENDER, values), 8080, "::ffff:10.0.0.1".parse().unwrap());
        assert_eq!(of(&[]).unwrap(), "http:8080/10.0.0.1");
        assert_eq!(of(&["web-1"]).unwrap(), "web-1");
        assert!(of(&[""]).is_err() && of(&[&"x".repeat(129)]).is_err());
    }
}
