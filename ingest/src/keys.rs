//! Keyed pushes that this process knows: under way, and acknowledged.
//!
//! What is under way is joined by its retries, who are told of its end when it comes. What was acknowledged is remembered
//! for [`GOOD_FOR`], the latest [`MAX_BYTES`] of it; what is forgotten here is known to Postgres once it is stored, and
//! stored once in any case.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::sync::oneshot;

use crate::ticket::{Failure, Settlement};

/// How long a key means the same push. As the sink has it.
const GOOD_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Memory for what was acknowledged: some 130,000 pushes.
const MAX_BYTES: u64 = 32 << 20;
/// What a push takes there beside its names, with the cache's own share.
const ENTRY_BYTES: usize = 200;

/// SHA-256 of all that a push says.
pub type Digest = [u8; 32];

/// Whose key it is, and the key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    /// The org.
    pub org: Box<str>,
    /// Its Idempotency-Key.
    pub key: Box<str>,
}

/// How a keyed push ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// The broker has it.
    Acknowledged,
    /// The key is another push's.
    Conflict,
    /// It may have been stored or not.
    Failed(Failure),
}

/// The end of a push under way, for all who wait for it.
pub type Settling = Shared<BoxFuture<'static, Settled>>;

/// What a push finds under its key.
#[derive(Debug)]
pub enum Claim {
    /// Nothing: it is to be published.
    New(Claimed),
    /// The same push, under way.
    Joined(Settling),
    /// The same push, acknowledged.
    Acknowledged,
    /// Another push.
    Conflict,
}

/// Keyed pushes of this process.
pub struct Keys {
    under_way: Mutex<HashMap<Name, UnderWay>>,
    acknowledged: Cache<Name, Acknowledged, Weight>,
}

struct UnderWay {
    digest: Digest,
    settling: Settling,
}

#[derive(Debug, Clone, Copy)]
struct Acknowledged {
    digest: Digest,
    /// When its first try came.
    at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Weight;

impl Weighter<Name, Acknowledged> for Weight {
    fn weight(&self, name: &Name, _: &Acknowledged) -> u64 {
        (name.org.len() + name.key.len() + ENTRY_BYTES) as u64
    }
}

impl Keys {
    /// Knows nothing yet.
    pub fn new() -> Arc<Self> {
        Self::remembering(MAX_BYTES)
    }

    fn remembering(bytes: u64) -> Arc<Self> {
        let expected = usize::try_from(bytes).unwrap_or(usize::MAX) / ENTRY_BYTES;
        Arc::new(Self {
            under_way: Mutex::default(),
            acknowledged: Cache::with_weighter(expected, bytes, Weight),
        })
    }

    /// Pushes that are remembered.
    pub fn remembered(&self) -> usize {
        self.acknowledged.len()
    }

    /// Says that a push of this key and content has come at `now`.
    pub fn claim(self: &Arc<Self>, name: Name, digest: Digest, now: Instant) -> Claim {
        let mut under_way = self.under_way.lock();
        if let Some(first) = under_way.get(&name) {
            return if first.digest == digest {
                Claim::Joined(first.settling.clone())
            } else {
                Claim::Conflict
            };
        }
        // What ends is remembered before it stops being under way, so that there is no moment between.
        match self.acknowledged.get(&name) {
            Some(first) if now.saturating_duration_since(first.at) >= GOOD_FOR => {}
            Some(first) if first.digest == digest => return Claim::Acknowledged,
            Some(_) => return Claim::Conflict,
            None => {}
        }
        let (settled, settling) = oneshot::channel();
        let settling =
            settling.map(|settled| settled.unwrap_or(Settled::Failed(Failure::Dropped))).boxed().shared();
        under_way.insert(name.clone(), UnderWay { digest, settling: settling.clone() });
        let entry = Acknowledged { digest, at: now };
        Claim::New(Claimed { keys: Arc::clone(self), name, entry, settled: Some(settled), settling })
    }
}

/// A key that a push has for itself until it is settled. Dropping it lets the key go: nothing was published.
pub struct Claimed {
    keys: Arc<Keys>,
    name: Name,
    entry: Acknowledged,
    settled: Option<oneshot::Sender<Settled>>,
    settling: Settling,
}

impl Claimed {
    /// Settles the push when its batches are, whether or not anybody waits for it.
    pub fn follow(self, mut receipt: Settlement) -> Settling {
        let settling = self.settling();
        tokio::spawn(async move {
            let settled = match receipt.wait().await {
                Ok(_) => Settled::Acknowledged,
                Err(failure) => Settled::Failed(failure),
            };
            self.settle(settled);
        });
        settling
    }

    /// Settles it at once.
    pub fn settle(mut self, settled: Settled) {
        self.end(settled);
    }

    /// Its end.
    pub fn settling(&self) -> Settling {
        self.settling.clone()
    }

    fn end(&mut self, settled: Settled) {
        let Some(sender) = self.settled.take() else { return };
        if settled == Settled::Acknowledged {
            self.keys.acknowledged.insert(self.name.clone(), self.entry);
        }
        self.keys.under_way.lock().remove(&self.name);
        // Whoever waited may have gone.
        let _ = sender.send(settled);
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        self.end(Settled::Failed(Failure::Dropped));
    }
}

impl std::fmt::Debug for Claimed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claimed").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticket::Ticket;

    fn name(key: &str) -> Name {
        Name { org: "demo".into(), key: key.into() }
    }

    fn claim(keys: &Arc<Keys>, key: &str, body: u8) -> Claim {
        keys.claim(name(key), [body; 32], Instant::now())
    }

    fn new(claim: Claim) -> Claimed {
        match claim {
            Claim::New(claimed) => claimed,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_retry_joins_the_push_under_way_and_is_answered_from_memory_afterwards() {
        let keys = Keys::new();
        let (ticket, receipt) = Ticket::new();
        let first = new(claim(&keys, "a", 1)).follow(receipt);
        let Claim::Joined(mut joined) = claim(&keys, "a", 1) else { panic!("it is under way") };
        assert!(matches!(claim(&keys, "a", 2), Claim::Conflict));
        assert!(futures::poll!(&mut joined).is_pending());
        ticket.close();
        assert_eq!((first.await, joined.await), (Settled::Acknowledged, Settled::Acknowledged));
        assert!(matches!(claim(&keys, "a", 1), Claim::Acknowledged));
        assert!(matches!(claim(&keys, "a", 2), Claim::Conflict));
        let other = Name { org: "other".into(), key: "a".into() };
        assert!(matches!(keys.claim(other, [2; 32], Instant::now()), Claim::New(_)));
    }

    #[tokio::test]
    async fn a_push_whose_client_has_gone_is_known_to_its_retry() {
        let keys = Keys::new();
        let (ticket, receipt) = Ticket::new();
        drop(new(claim(&keys, "a", 1)).follow(receipt));
        let Claim::Joined(joined) = claim(&keys, "a", 1) else { panic!("it is under way") };
        ticket.close();
        assert_eq!(joined.await, Settled::Acknowledged);
        assert!(matches!(claim(&keys, "a", 1), Claim::Acknowledged));
    }

    #[tokio::test]
    async fn a_push_that_failed_or_was_not_published_is_new_again() {
        let keys = Keys::new();
        let (ticket, receipt) = Ticket::new();
        let first = new(claim(&keys, "a", 1)).follow(receipt);
        ticket.fail(Failure::QueueFull);
        ticket.close();
        assert_eq!(first.await, Settled::Failed(Failure::QueueFull));
        let claimed = new(claim(&keys, "a", 2));
        let Claim::Joined(joined) = claim(&keys, "a", 2) else { panic!("it is under way") };
        drop(claimed);
        assert_eq!(joined.await, Settled::Failed(Failure::Dropped));
        new(claim(&keys, "a", 3)).settle(Settled::Conflict);
        new(claim(&keys, "a", 4)).settle(Settled::Acknowledged);
        assert!(matches!(claim(&keys, "a", 4), Claim::Acknowledged));
        assert!(keys.under_way.lock().is_empty());
    }

    #[test]
    fn a_key_is_free_again_after_24_hours() {
        let (keys, start) = (Keys::new(), Instant::now());
        new(keys.claim(name("a"), [1; 32], start)).settle(Settled::Acknowledged);
        let later = |seconds| start + GOOD_FOR - Duration::from_secs(1) + Duration::from_secs(seconds);
        assert!(matches!(keys.claim(name("a"), [1; 32], later(0)), Claim::Acknowledged));
        new(keys.claim(name("a"), [2; 32], later(1))).settle(Settled::Acknowledged);
        assert!(matches!(keys.claim(name("a"), [1; 32], later(2)), Claim::Conflict));
    }

    #[test]
    fn memory_is_bounded_and_the_latest_are_kept() {
        let keys = Keys::remembering(1 << 20);
        for n in 0..100_000 {
            new(claim(&keys, &format!("key-{n}"), 1)).settle(Settled::Acknowledged);
        }
        assert!(keys.remembered() <= (1 << 20) / ENTRY_BYTES, "{}", keys.remembered());
        assert!(keys.remembered() > 2_000, "{}", keys.remembered());
        let latest =
            (99_900..100_000).filter(|n| matches!(claim(&keys, &format!("key-{n}"), 1), Claim::Acknowledged));
        assert!(latest.count() >= 90);
    }
}
