//! Stopping: asked for once, bounded always.

use std::future::Future;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Time between the request to stop and the forced end of the process. Orchestrators send SIGKILL after 10 s
/// (docker) or 30 s (Kubernetes).
pub const GRACE: Duration = Duration::from_secs(10);

/// Kept of [`GRACE`] for saying what did not stop in time.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A supervisor that gets the terminal's SIGINT together with its children sends them SIGTERM as well: the other
/// signal within this time is the same request.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// The request to stop. Clones share it.
#[derive(Clone, Debug)]
pub struct Shutdown {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    token: CancellationToken,
    requested_at: OnceLock<Instant>,
}

impl Shutdown {
    pub(crate) fn new() -> Self {
        Self { inner: Arc::default() }
    }

    /// Asks everything to stop, as SIGTERM does. The process ends within [`GRACE`].
    pub fn request(&self) {
        self.inner.requested_at.get_or_init(Instant::now);
        self.inner.token.cancel();
    }

    /// Resolves once a stop has been asked for. The future borrows nothing, so it can move into a task.
    pub fn requested(&self) -> WaitForCancellationFutureOwned {
        self.inner.token.clone().cancelled_owned()
    }

    /// Whether a stop has been asked for.
    pub fn is_requested(&self) -> bool {
        self.inner.token.is_cancelled()
    }

    /// A token that is cancelled with this request. Cancelling the token itself stops only its holder's work.
    pub fn token(&self) -> CancellationToken {
        self.inner.token.child_token()
    }

    /// Time left for an orderly end; all of it as long as nobody asked.
    pub fn remaining(&self) -> Duration {
        let orderly = GRACE - LAST_WORDS;
        self.inner.requested_at.get().map_or(orderly, |at| orderly.saturating_sub(at.elapsed()))
    }

    /// Runs `future` to its end, or drops it when a stop is asked for.
    pub async fn unless_requested<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        self.inner.token.run_until_cancelled(future).await
    }

    /// Turns SIGTERM and SIGINT into a request, and ends the process with 1 when it does not end by itself: at the
    /// second signal, or [`GRACE`] after the request, whoever made it.
    ///
    /// Watches from a thread with a runtime of its own, so that a blocked worker cannot delay it.
    pub(crate) fn watch_signals(&self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let signals = {
            let _entered = runtime.enter();
            Signals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            }
        };
        let shutdown = self.clone();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || runtime.block_on(shutdown.force_end(signals)))?;
        Ok(())
    }

    async fn force_end(self, mut signals: Signals) {
        let first = tokio::select! {
            name = signals.next() => {
                tracing::info!("{name}: stopping, within {} s", GRACE.as_secs());
                Some(name)
            }
            () = self.requested() => None,
        };
        let at = Instant::now();
        self.request();
        let why = tokio::select! {
            name = async {
                loop {
                    let name = signals.next().await;
                    let same_request = first.is_some_and(|first| first != name) && at.elapsed() < SAME_REQUEST;
                    if !same_request {
                        break name;
                    }
                }
            } => format!("{name} while stopping"),
            () = tokio::time::sleep(GRACE) => format!("not stopped within {} s", GRACE.as_secs()),
        };
        tracing::error!("{why}: ending without draining; what was not committed will be read again");
        std::process::exit(1);
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_resolves_every_waiter_and_starts_the_clock() {
        let shutdown = Shutdown::new();
        let (waiter, token) = (shutdown.requested(), shutdown.token());
        assert!(!shutdown.is_requested());
        assert_eq!(shutdown.remaining(), GRACE - LAST_WORDS);
        shutdown.clone().request();
        waiter.await;
        token.cancelled().await;
        assert!(shutdown.is_requested());
        assert!(shutdown.remaining() < GRACE - LAST_WORDS);
    }

    #[test]
    fn cancelling_a_token_stops_its_holder_only() {
        let shutdown = Shutdown::new();
        shutdown.token().cancel();
        assert!(!shutdown.is_requested());
    }

    #[tokio::test]
    async fn work_is_dropped_when_a_stop_is_asked_for() {
        let shutdown = Shutdown::new();
        assert_eq!(shutdown.unless_requested(async { 1 }).await, Some(1));
        shutdown.request();
        assert_eq!(shutdown.unless_requested(std::future::pending::<()>()).await, None);
    }
}
