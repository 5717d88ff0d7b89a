//! Counts while sending, and the report at the end.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Counts of what happened so far.
#[derive(Debug)]
pub struct Stats {
    started: Instant,
    /// Events answered with 200.
    pub acknowledged: AtomicU64,
    /// Events that ingest refused one by one, or with their whole push.
    pub rejected: AtomicU64,
    /// Pushes sent again, each time.
    pub retried: AtomicU64,
    /// Events that were given up.
    pub unacknowledged: AtomicU64,
    /// Events sent where nothing is acknowledged.
    pub unconfirmed: AtomicU64,
    /// Pushes acknowledged.
    pub pushes: AtomicU64,
    /// Bytes of their bodies.
    pub bytes: AtomicU64,
    /// Microseconds from a push's first byte to its acknowledgement.
    latency: Mutex<Histogram<u64>>,
    first_problem: Mutex<Option<String>>,
}

/// Latencies from 1 µs to 10 min, to three digits.
const MAX_LATENCY_MICROS: u64 = 600_000_000;

impl Stats {
    /// Nothing yet.
    ///
    /// # Errors
    /// None with these bounds.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            started: Instant::now(),
            acknowledged: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            unacknowledged: AtomicU64::new(0),
            unconfirmed: AtomicU64::new(0),
            pushes: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            latency: Mutex::new(Histogram::new_with_bounds(1, MAX_LATENCY_MICROS, 3)?),
            first_problem: Mutex::new(None),
        })
    }

    /// Adds the time that a push took.
    pub fn took(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
    }

    /// Keeps the first thing that went wrong, for the report.
    pub fn problem(&self, problem: impl FnOnce() -> String) {
        self.first_problem.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(problem);
    }

    /// The report of `run`.
    pub fn report(&self, run: &str) -> Report {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let seconds = self.started.elapsed().as_secs_f64();
        let latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        let millis = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
        let (acknowledged, unconfirmed) = (get(&self.acknowledged), get(&self.unconfirmed));
        Report {
            run: run.to_owned(),
            acknowledged,
            rejected: get(&self.rejected),
            retried: get(&self.retried),
            unacknowledged: get(&self.unacknowledged),
            unconfirmed,
            pushes: get(&self.pushes),
            bytes: get(&self.bytes),
            seconds,
            events_per_second: (acknowledged + unconfirmed) as f64 / seconds.max(1e-9),
            latency_ms: Latency {
                p50: millis(0.5),
                p90: millis(0.9),
                p99: millis(0.99),
                p999: millis(0.999),
                max: latency.max() as f64 / 1e3,
            },
            first_problem: self.first_problem.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// What became of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Id of the run.
    pub run: String,
    /// Events answered with 200.
    pub acknowledged: u64,
    /// Events that ingest refused.
    pub rejected: u64,
    /// Pushes sent again.
    pub retried: u64,
    /// Events that nobody took.
    pub unacknowledged: u64,
    /// Events sent over syslog, which acknowledges nothing.
    pub unconfirmed: u64,
    /// Pushes acknowledged.
    pub pushes: u64,
    /// Bytes sent in them.
    pub bytes: u64,
    /// Time from start to end.
    pub seconds: f64,
    /// Acknowledged and unconfirmed events by that time.
    pub events_per_second: f64,
    /// From a push's first byte to its acknowledgement, repeats included.
    pub latency_ms: Latency,
    /// The first thing that went wrong.
    pub first_problem: Option<String>,
}

/// Percentiles of a time, milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Latency {
    /// Half were faster.
    pub p50: f64,
    /// 90 % were faster.
    pub p90: f64,
    /// 99 % were faster.
    pub p99: f64,
    /// 99.9 % were faster.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "run {}", self.run)?;
        if self.unconfirmed > 0 {
            writeln!(
                f,
                "  sent          {} events over syslog, which acknowledges nothing",
                self.unconfirmed
            )?;
        } else {
            writeln!(f, "  acknowledged  {} events in {} pushes", self.acknowledged, self.pushes)?;
        }
        writeln!(f, "  rejected      {} events", self.rejected)?;
        writeln!(f, "  retried       {} pushes", self.retried)?;
        if self.unacknowledged > 0 {
            writeln!(f, "  given up      {} events", self.unacknowledged)?;
        }
        let megabytes = self.bytes as f64 / 1e6 / self.seconds.max(1e-9);
        writeln!(
            f,
            "  rate          {:.0} events/s, {megabytes:.1} MB/s over {:.1} s",
            self.events_per_second, self.seconds
        )?;
        if self.pushes > 0 {
            let Latency { p50, p90, p99, max, .. } = &self.latency_ms;
            writeln!(
                f,
                "  push latency  p50 {p50:.1} ms, p90 {p90:.1} ms, p99 {p99:.1} ms, max {max:.1} ms"
            )?;
        }
        if let Some(problem) = &self.first_problem {
            writeln!(f, "  first problem {problem}")?;
        }
        Ok(())
    }
}
