//! Waiting until the sink is past a push.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use schemas::Stream;
use tokio::sync::{Notify, watch};

use super::Lookup;
use crate::ticket::Placed;

/// How often positions are asked for while anybody waits.
const INTERVAL: Duration = Duration::from_millis(25);
/// Pause after Postgres did not answer.
const PAUSE: Duration = Duration::from_millis(500);

type Known = BTreeMap<i32, i64>;

/// The sink's positions, asked for by one task for all who wait, and not at all when nobody does.
pub struct Positions {
    events: watch::Sender<Arc<Known>>,
    findings: watch::Sender<Arc<Known>>,
    wanted: Notify,
}

impl Positions {
    /// Knows nothing yet.
    pub fn new() -> Arc<Self> {
        let unknown = || watch::Sender::new(Arc::default());
        Arc::new(Self { events: unknown(), findings: unknown(), wanted: Notify::new() })
    }

    fn of(&self, stream: Stream) -> &watch::Sender<Arc<Known>> {
        match stream {
            Stream::Events => &self.events,
            Stream::Findings => &self.findings,
        }
    }

    /// Returns when the sink has got past all of these raw records. Cancel-safe.
    pub async fn reach(&self, stream: Stream, placed: &[Placed]) {
        let mut positions = self.of(stream).subscribe();
        self.wanted.notify_one();
        let past = |known: &Arc<Known>| {
            let next = |partition| known.get(&partition).copied().unwrap_or(0);
            placed.iter().all(|placed| placed.at.offset < next(placed.at.partition))
        };
        // The sender lives as long as this.
        let _ = positions.wait_for(past).await;
    }

    /// Runs for ever.
    pub async fn keep_asking(self: Arc<Self>, lookup: Lookup) {
        loop {
            let mut pause = INTERVAL;
            let mut waited_for = false;
            for stream in Stream::ALL {
                let known = self.of(stream);
                if known.receiver_count() == 0 {
                    continue;
                }
                waited_for = true;
                match lookup.positions(stream).await {
                    Ok(positions) => drop(known.send_replace(Arc::new(positions))),
                    Err(error) => {
                        tracing::debug!("those who wait for rows wait on: {error}");
                        pause = PAUSE;
                    }
                }
            }
            match waited_for {
                true => tokio::time::sleep(pause).await,
                false => self.wanted.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticket::At;

    #[tokio::test]
    async fn a_push_is_reached_when_the_sink_is_past_its_last_raw_record() {
        let positions = Positions::new();
        let placed = [(0, 4), (1, 9)].map(|(partition, offset)| Placed {
            at: At { partition, offset },
            first: 0,
            count: 1,
        });
        let mut waiting = std::pin::pin!(positions.reach(Stream::Findings, &placed));
        assert!(futures::poll!(&mut waiting).is_pending());
        let know = |stream, known: &[(i32, i64)]| {
            positions.of(stream).send_replace(Arc::new(known.iter().copied().collect()));
        };
        know(Stream::Events, &[(0, 100), (1, 100)]);
        assert!(futures::poll!(&mut waiting).is_pending());
        know(Stream::Findings, &[(0, 5), (1, 9)]);
        assert!(futures::poll!(&mut waiting).is_pending());
        know(Stream::Findings, &[(0, 5), (1, 10)]);
        waiting.await;
        assert_eq!(positions.findings.receiver_count(), 0);
    }
}
