//! Pushes that ask what becomes of them: `?receipt=true`, `?wait=stored`, and `GET /v1/receipts/{id}`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HeaderValue, LOCATION};
use hyper::{HeaderMap, Response, StatusCode};
use jiff::Timestamp;
use schemas::Stream;
use serde_json::{Map, Value, json};
use service::metrics;

use crate::budget::Org;
use crate::http::{PushApi, Taken, json_response};
use crate::problem::Problem;
use crate::receipts::{Fate, MAX_RANGES, Receipt, Trace};

/// How long a push is waited for that does not say.
const DEFAULT_WAIT: u64 = 10;
/// The longest wait, seconds.
const MAX_WAIT: u64 = 60;
/// How often a keyed push that is waited for is looked up.
const KEY_INTERVAL: Duration = Duration::from_millis(50);
/// A key means the same push for so long.
const KEY_SECONDS: i64 = 24 * 60 * 60;

/// What a push wants beside its acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// A receipt.
    Receipt,
    /// To be answered when its rows are in Postgres, or after this time with a receipt.
    Stored(Duration),
}

impl Wish {
    /// The wish in a query; other parameters than its own are nobody's.
    ///
    /// # Errors
    /// 400: a value that is none of those that are understood.
    pub fn of(query: Option<&str>) -> Result<Option<Wish>, Problem> {
        let Some(query) = query else { return Ok(None) };
        let (mut receipt, mut wait, mut seconds) = (false, false, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match (name.as_ref(), value.as_ref()) {
                ("receipt", "true") => receipt = true,
                ("receipt", "false") => receipt = false,
                ("receipt", _) => return Err(Problem::malformed("receipt is true or false")),
                ("wait", "stored") => wait = true,
                ("wait", _) => {
                    return Err(Problem::malformed("the one thing to wait for is stored: wait=stored"));
                }
                ("timeout", value) => {
                    let given = value.parse().ok().filter(|seconds| (1..=MAX_WAIT).contains(seconds));
                    let wrong = || Problem::malformed(format!("timeout is 1 to {MAX_WAIT}, in seconds"));
                    seconds = Some(given.ok_or_else(wrong)?);
                }
                _ => {}
            }
        }
        match (wait, seconds) {
            (true, seconds) => Ok(Some(Wish::Stored(Duration::from_secs(seconds.unwrap_or(DEFAULT_WAIT))))),
            (false, Some(_)) => Err(Problem::malformed("timeout is for wait=stored")),
            (false, None) => Ok(receipt.then_some(Wish::Receipt)),
        }
    }
}

impl PushApi {
    /// Answers a push that was acknowledged, as it wished.
    pub async fn receipted(
        &self,
        mut taken: Taken,
        wish: Option<Wish>,
        org: &Org,
        stream: Stream,
        mut trace: Trace,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let Some(wish) = wish else { return Ok(taken.into_response()) };
        if let Trace::Placed(placed) = &mut trace {
            placed.sort_unstable_by_key(|placed| (placed.at.partition, placed.at.offset));
        }
        let acknowledged_at = Timestamp::now().as_second();
        let accepted = u32::try_from(taken.accepted).unwrap_or(u32::MAX);
        let receipt = Receipt { stream, acknowledged_at, accepted, trace };
        let Some(id) = receipt.id(&org.id) else {
            // Acknowledged it is; an error would have it sent again.
            let reason = format!("the push is in more than {MAX_RANGES} batches; send smaller ones");
            taken.more.insert("no_receipt".into(), reason.into());
            return Ok(taken.into_response());
        };
        taken.more.insert("receipt".into(), id.as_str().into());
        let Wish::Stored(patience) = wish else { return Ok(taken.into_response()) };

        let waiting = tokio::time::timeout(patience, self.until_stored(&receipt, &org.id));
        let fate = match self.shutdown.unless_requested(waiting).await {
            Some(Ok(fate)) => fate,
            // Late, or this process is to end before it is known.
            Some(Err(_)) | None => Fate::Acknowledged,
        };
        metrics::INGEST_RECEIPTS.with(["wait", fate.name(accepted)]).add(1);
        taken.more.extend(told(&receipt, fate));
        let mut response = taken.into_response();
        if fate == Fate::Acknowledged {
            *response.status_mut() = StatusCode::ACCEPTED;
            if let Ok(location) = HeaderValue::try_from(format!("/v1/receipts/{id}")) {
                response.headers_mut().insert(LOCATION, location);
            }
        }
        Ok(response)
    }

    async fn until_stored(&self, receipt: &Receipt, org: &str) -> Fate {
        if let Trace::Placed(placed) = &receipt.trace {
            self.positions.reach(receipt.stream, placed).await;
        }
        loop {
            match self.lookup.fate(receipt, org).await {
                Ok(Fate::Acknowledged) => {}
                Ok(fate) => return fate,
                Err(error) => tracing::debug!("a push that is waited for is looked up again: {error}"),
            }
            tokio::time::sleep(KEY_INTERVAL).await;
        }
    }

    /// What has become of an earlier push.
    pub async fn receipt(
        self: &Arc<Self>,
        headers: &HeaderMap,
        id: &str,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let org = self.tokens.org(headers).await?;
        let receipt = Receipt::of(id, &org.id).map_err(|error| Problem::no_receipt(error.to_string()))?;
        let age = Timestamp::now().as_second().saturating_sub(receipt.acknowledged_at);
        if matches!(receipt.trace, Trace::Keyed { .. }) && age > KEY_SECONDS {
            let detail = "the push had an Idempotency-Key, and keys are forgotten after 24 hours";
            return Err(Problem::no_receipt(detail));
        }
        let fate = self.lookup.fate(&receipt, &org.id).await;
        let fate = fate.map_err(|error| Problem::unavailable(error.to_string()))?;
        metrics::INGEST_RECEIPTS.with(["asked", fate.name(receipt.accepted)]).add(1);
        let mut body = told(&receipt, fate);
        body.insert("accepted".into(), receipt.accepted.into());
        let acknowledged_at = Timestamp::from_second(receipt.acknowledged_at).unwrap_or_default();
        body.insert("acknowledged_at".into(), acknowledged_at.to_string().into());
        Ok(json_response(&Value::Object(body)))
    }
}

/// The state, and where it is known how many records are which.
fn told(receipt: &Receipt, fate: Fate) -> Map<String, Value> {
    let mut told = Map::new();
    told.insert("state".into(), fate.name(receipt.accepted).into());
    if let Fate::Settled { quarantined } = fate {
        told.insert("stored".into(), json!(u64::from(receipt.accepted).saturating_sub(quarantined)));
        told.insert("quarantined".into(), json!(quarantined));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_in_the_query() {
        let of = |query: &str| Wish::of(Some(query)).map_err(|problem| problem.status().as_u16());
        assert_eq!(Wish::of(None).unwrap(), None);
        assert_eq!(of("a=b&receipt=false"), Ok(None));
        assert_eq!(of("receipt=true"), Ok(Some(Wish::Receipt)));
        assert_eq!(of("wait=stored"), Ok(Some(Wish::Stored(Duration::from_secs(10)))));
        assert_eq!(
            of("receipt=true&timeout=60&wait=stored"),
            Ok(Some(Wish::Stored(Duration::from_secs(60))))
        );
        for wrong in [
            "wait",
            "wait=applied",
            "receipt=1",
            "wait=stored&timeout=0",
            "wait=stored&timeout=61",
            "timeout=5",
        ] {
            assert_eq!(of(wrong), Err(400), "{wrong}");
        }
    }
}
