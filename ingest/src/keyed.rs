//! Pushes with an Idempotency-Key: published once, however often they come.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use schemas::{Micros, Stream};
use service::metrics;
use sha2::{Digest as _, Sha256};

use crate::budget::Lease;
use crate::http::{PushApi, Received, Taken, beside, is_large};
use crate::keys::{Claim, Claimed, Digest, Name, Settled, Settling};
use crate::problem::Problem;
use crate::publish::{Push, explain, parts};
use crate::receipts::Trace;
use crate::split::{Layout, split};
use crate::stored::StoredPart;
use crate::ticket::{Failure, Ticket};

/// A push on its way, or known.
struct Placed {
    taken: Taken,
    /// Into how many it is cut.
    parts: usize,
    settling: Settling,
    /// Published now.
    new: bool,
    lease: Lease,
}

impl PushApi {
    /// Takes a keyed push: publishes it, or waits for the same push under way, or knows it.
    pub async fn keyed(self: &Arc<Self>, received: Received, key: String) -> Result<(Taken, Trace), Problem> {
        let now = Instant::now();
        let this = Arc::clone(self);
        let (received, body, digest) = beside(received.is_large(), move || {
            let mut received = received;
            let body = this.decoded(&mut received)?;
            let digest = digest(received.stream, received.layout, &body);
            Ok((received, body, digest))
        })
        .await?;
        let (layout, large) = (received.layout, is_large(&body));
        let name = Name { org: received.org.id.clone(), key: key.as_str().into() };
        let claim = match self.keys.claim(name.clone(), digest, now) {
            Claim::New(claim) => claim,
            Claim::Conflict => {
                count("conflict");
                return Err(Problem::other_push(&key));
            }
            Claim::Acknowledged => {
                count("repeated");
                let (taken, parts) = beside(large, move || told(&body, layout)).await?;
                return Ok((taken, trace(&key, parts, digest)));
            }
            Claim::Joined(settling) => {
                count("joined");
                let (taken, parts) = beside(large, move || told(&body, layout)).await?;
                drop(received);
                self.settled(settling, &key).await?;
                return Ok((taken, trace(&key, parts, digest)));
            }
        };
        let stored = self.stored.find(name).await;
        let this = Arc::clone(self);
        let placed = {
            let key = key.clone();
            beside(large, move || this.place(received, &body, &key, &digest, claim, stored)).await?
        };
        let Placed { taken, parts, settling, new, lease } = placed;
        self.settled(settling, &key).await?;
        drop(lease);
        if new {
            metrics::INGEST_EVENTS.with(["http"]).add(taken.accepted as u64);
        }
        Ok((taken, trace(&key, parts, digest)))
    }

    /// Adds the push to batches, unless it is stored.
    fn place(
        &self,
        received: Received,
        body: &[u8],
        key: &str,
        digest: &Digest,
        claim: Claimed,
        stored: Option<Vec<StoredPart>>,
    ) -> Result<Placed, Problem> {
        let Received { stream, org, layout, sender, lease, .. } = received;
        let split = split(body, layout)?;
        let (taken, parts) = (Taken::of(&split)?, parts(&split.records));
        let checked = stored.is_some();
        let stored = stored.unwrap_or_default();
        if stored.iter().any(|part| part.digest != digest) {
            count("conflict");
            claim.settle(Settled::Conflict);
            return Err(Problem::other_push(key));
        }
        if !stored.is_empty() && stored.len() == parts {
            count("stored");
            let settling = claim.settling();
            claim.settle(Settled::Acknowledged);
            return Ok(Placed { taken, parts, settling, new: false, lease });
        }
        count(if checked { "new" } else { "unchecked" });
        let (ticket, receipt) = Ticket::new();
        let push = Push {
            stream,
            org: &org.id,
            protocol: "http",
            format: layout.format(),
            sender: &sender,
            key: Some((key, digest)),
            received_at: Micros::now(),
            records: &split.records,
        };
        self.publisher.add(&push, &ticket).map_err(|error| Problem::unavailable(error.to_string()))?;
        ticket.close();
        Ok(Placed { taken, parts, settling: claim.follow(receipt), new: true, lease })
    }

    /// Waits for the end of the push of a key.
    async fn settled(&self, settling: Settling, key: &str) -> Result<(), Problem> {
        let late = Failure::Delivery(format!("no answer within {:?}", self.delivery_timeout).into());
        let settled = tokio::time::timeout(self.delivery_timeout, settling).await;
        match settled.unwrap_or(Settled::Failed(late)) {
            Settled::Acknowledged => Ok(()),
            Settled::Conflict => Err(Problem::other_push(key)),
            Settled::Failed(failure) => Err(Problem::unavailable(explain(&failure))),
        }
    }
}

/// SHA-256 of all that a push says: where it goes, how its records are delimited, and its body, decompressed.
fn digest(stream: Stream, layout: Layout, body: &Bytes) -> Digest {
    let digest = Sha256::new()
        .chain_update(stream.name())
        .chain_update([0])
        .chain_update(layout.name())
        .chain_update([0])
        .chain_update(body);
    digest.finalize().into()
}

/// What will be said of a push that is known, and into how many parts it is cut.
fn told(body: &[u8], layout: Layout) -> Result<(Taken, usize), Problem> {
    let split = split(body, layout)?;
    Ok((Taken::of(&split)?, parts(&split.records)))
}

fn trace(key: &str, parts: usize, digest: Digest) -> Trace {
    Trace::Keyed { key: key.into(), parts: u32::try_from(parts).unwrap_or(u32::MAX), digest }
}

fn count(outcome: &str) {
    metrics::INGEST_KEYED.with([outcome]).add(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_says_stream_layout_and_body() {
        let body = Bytes::from_static(b"{}");
        let digests = [
            digest(Stream::Events, Layout::Json, &body),
            digest(Stream::Findings, Layout::Json, &body),
            digest(Stream::Events, Layout::JsonLines, &body),
            digest(Stream::Events, Layout::Json, &Bytes::from_static(b"{ }")),
        ];
        for (n, one) in digests.iter().enumerate() {
            assert!(digests.iter().skip(n + 1).all(|other| other != one));
        }
        // It is kept in Kafka and Postgres: another version must not change it.
        let hex: String = digests[0].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "0059064449637904f554ad5234477fe4956126c9c863421469023828162b0c9e");
    }
}
