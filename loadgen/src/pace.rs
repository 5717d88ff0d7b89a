//! Which events are next, and when they are due.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Hands out the events of a run, push by push, in the order of their numbers.
#[derive(Debug)]
pub struct Pace {
    next: AtomicU64,
    stopped: AtomicBool,
    batch: u64,
    count: Option<u64>,
    rate: Option<u64>,
    started: Instant,
    until: Option<Instant>,
}

impl Pace {
    /// Pushes of `batch` events, `count` or `duration` in all, `rate` a second at most.
    pub fn new(batch: u64, count: Option<u64>, duration: Option<Duration>, rate: Option<u64>) -> Self {
        let started = Instant::now();
        Self {
            next: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            batch,
            count,
            rate,
            started,
            until: duration.map(|duration| started + duration),
        }
    }

    /// Hands out nothing more.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// First number and count of the next push, once it is due; none at the end.
    pub async fn next(&self) -> Option<(u64, u64)> {
        if self.is_over(Instant::now()) {
            return None;
        }
        let first = self.next.fetch_add(self.batch, Ordering::Relaxed);
        let count = self.count.map_or(self.batch, |count| count.saturating_sub(first).min(self.batch));
        if count == 0 {
            return None;
        }
        if let Some(rate) = self.rate {
            let due = self.started + Duration::from_secs_f64(first as f64 / rate as f64);
            if self.until.is_some_and(|until| due >= until) {
                return None;
            }
            tokio::time::sleep_until(due).await;
            if self.is_over(due) {
                return None;
            }
        }
        Some((first, count))
    }

    fn is_over(&self, now: Instant) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.until.is_some_and(|until| now >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(pace: &Pace) -> Vec<(u64, u64)> {
        let mut all = Vec::new();
        while let Some(next) = pace.next().await {
            all.push(next);
        }
        all
    }

    #[tokio::test(start_paused = true)]
    async fn a_count_is_handed_out_to_the_last_event() {
        assert_eq!(all(&Pace::new(4, Some(10), None, None)).await, [(0, 4), (4, 4), (8, 2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_and_a_duration_ends_it() {
        let pace = Pace::new(10, None, Some(Duration::from_secs(2)), Some(100));
        let started = Instant::now();
        assert_eq!(all(&pace).await.len(), 20);
        assert_eq!(started.elapsed().as_millis(), 1900);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_it() {
        let pace = Pace::new(10, None, None, Some(100));
        assert!(pace.next().await.is_some());
        pace.stop();
        assert!(pace.next().await.is_none());
    }
}
