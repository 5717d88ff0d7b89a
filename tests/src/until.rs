//! Waiting for a condition, and saying which one did not come true.

use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine; a condition that is not met by then never is.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// Asks until the condition returns a value.
///
/// # Panics
/// With `what` when it does not within a minute.
pub async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
