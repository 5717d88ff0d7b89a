//! Waiting for a condition, and saying which one did not come true.

use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine; a condition that is not met by then never is.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// Asks until the condition returns a value.
///
/// # Panics
/// With `what` when it does not within a minute.
pub async fn until<T>(what: &str, condition: impl AsyncFnMut() -> Option<T>) -> T {
    try_until(condition).await.unwrap_or_else(|| panic!("not within {PATIENCE:?}: {what}"))
}

/// Asks until the condition returns a value; none when it does not within a minute.
pub async fn try_until<T>(mut condition: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return Some(value);
        }
        if start.elapsed() >= PATIENCE {
            return None;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
