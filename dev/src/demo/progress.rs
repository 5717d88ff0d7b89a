//! The live line of the demo.

use std::cell::RefCell;
use std::fmt;
use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use tokio_postgres::Client;

use crate::stack::Stack;

const STORED: &str = "SELECT coalesce(sum(stored + quarantined + duplicates), 0)::bigint FROM sink_ledger
                      WHERE topic IN ('events', 'findings')";

/// How far the sample traffic has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Events and findings that the broker has acknowledged to ingest.
    acknowledged: u64,
    /// Of these, what the sink's ledger has: stored, quarantined or dropped as a repeat.
    stored: u64,
    incidents: usize,
    /// Kafka records not read yet, over all groups.
    lag: u64,
}

impl Counts {
    /// From the services' metrics and the sink's ledger. A service that does not answer counts as nothing done.
    pub async fn read(stack: &Stack, ledger: &Client, incidents: usize) -> Result<Counts> {
        let services = &stack.deployment.services;
        let mut lag = 0;
        for name in ["enrich", "detect", "correlate", "sink"] {
            lag += sum(&services.metrics(name).await.unwrap_or_default(), "tidewatch_kafka_lag_records");
        }
        let ingest = services.metrics("ingest").await.unwrap_or_default();
        let stored: i64 = ledger.query_one(STORED, &[]).await.context("reading the ledger")?.try_get(0)?;
        Ok(Counts {
            acknowledged: sum(&ingest, "tidewatch_ingest_events_total"),
            stored: u64::try_from(stored)?,
            incidents,
            lag,
        })
    }

    /// All that was acknowledged is stored, and nothing waits to be read.
    pub fn settled(&self) -> bool {
        self.acknowledged > 0 && self.stored >= self.acknowledged && self.lag == 0
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { acknowledged, stored, incidents, lag } = self;
        write!(formatter, "acknowledged {acknowledged}, stored {stored}, incidents {incidents}, lag {lag}")
    }
}

/// One line that changes in place on a terminal; elsewhere a line for each change.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    last: RefCell<String>,
}

impl Progress {
    /// On standard error.
    pub fn start() -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(ProgressStyle::default_spinner());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Progress { bar, last: RefCell::default() }
    }

    /// Shows these counts.
    pub fn show(&self, counts: &Counts) {
        let line = counts.to_string();
        match &self.bar {
            Some(bar) => bar.set_message(line),
            None if *self.last.borrow() != line => {
                eprintln!("{line}");
                self.last.replace(line);
            }
            None => {}
        }
    }

    /// Leaves the last counts standing.
    pub fn end(self) {
        if let Some(bar) = self.bar {
            bar.abandon();
        }
    }
}

/// Sum of a metric over its labels, from Prometheus' text format.
fn sum(text: &str, metric: &str) -> u64 {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(metric)?;
        let value = match rest.strip_prefix('{') {
            Some(labelled) => labelled.rsplit_once('}')?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.split_whitespace().next()?.parse::<f64>().ok()
    });
    values.sum::<f64>().max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_not_with_its_neighbours() {
        let text = "# TYPE rows_total counter\nrows_total{table=\"events\"} 7\nrows_total{table=\"a}b\"} 5\n\
                    rows_total_other 100\nrows 3\n";
        assert_eq!(sum(text, "rows_total"), 12);
        assert_eq!(sum(text, "rows"), 3);
        assert_eq!(sum(text, "none"), 0);
    }

    #[test]
    fn counts_are_settled_when_everything_acknowledged_is_stored_and_read() {
        let counts = |acknowledged, stored, lag| Counts { acknowledged, stored, incidents: 0, lag };
        assert!(counts(10, 10, 0).settled());
        assert!(!counts(10, 9, 0).settled() && !counts(10, 10, 1).settled() && !counts(0, 0, 0).settled());
    }
}
