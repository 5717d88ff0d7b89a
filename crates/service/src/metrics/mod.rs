//! Every metric of the product, declared in one table and exposed in Prometheus' text format.
//!
//! A metric is a static of a typed handle. Without labels it is used as it is; with labels, [`Counter::with`] gives the
//! series for label values in the declared order:
//!
//! ```
//! use tidewatch_service::metrics;
//!
//! metrics::SINK_FENCED.add(1);
//! metrics::SINK_ROWS.with(["events"]).add(500);
//! let rows = metrics::SINK_ROWS.with(["events"]); // keep it where the values are known beforehand
//! rows.add(500);
//! assert_eq!(metrics::value("tidewatch_sink_rows_total", &[("table", "events")]), Some(1000.0));
//! ```
//!
//! `with` takes a lock and a look-up, some 100 ns: once a batch, never once an event. Label values come from a small
//! fixed set; past [`MAX_SERIES`] a metric's further values share the series `other`.
//!
//! Metrics are process-wide and need no set-up, in tests neither. The macros of the `metrics` crate are forbidden
//! (clippy.toml): what they record would not be in the table, nor in docs/metrics.md.

mod handles;
mod process;
mod table;

use std::fmt::Write;
use std::sync::LazyLock;

use metrics::{Recorder, SharedString};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusRecorder};

pub use handles::{Counter, CounterSeries, Gauge, GaugeSeries, Histogram, HistogramSeries, MAX_SERIES};
pub use table::*;

/// What is known of a metric without running anything.
#[derive(Debug, Clone, Copy)]
pub struct Declaration {
    /// Its name in Prometheus: `tidewatch_<component>_<what>_<unit>`, counters with `_total`.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// What is counted or measured, in words: `events`, `seconds`, `bytes`.
    pub unit: &'static str,
    /// Names of its labels, in the order in which `with` takes their values.
    pub labels: &'static [&'static str],
    /// Upper bounds of a histogram's buckets; empty for the others.
    pub buckets: &'static [f64],
    /// What it says, for an operator.
    pub meaning: &'static str,
}

/// Kinds of metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the process restarts.
    Counter,
    /// A value of now.
    Gauge,
    /// Values counted by bucket, with their sum and number.
    Histogram,
}

impl Kind {
    /// As Prometheus writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

static RECORDER: LazyLock<PrometheusRecorder> = LazyLock::new(|| {
    // Fails for empty buckets only, which a test rules out.
    let recorder = with_buckets().unwrap_or_default().build_recorder();
    for declared in ALL {
        let (name, meaning) = (declared.name.into(), SharedString::const_str(declared.meaning));
        match declared.kind {
            Kind::Counter => recorder.describe_counter(name, None, meaning),
            Kind::Gauge => recorder.describe_gauge(name, None, meaning),
            Kind::Histogram => recorder.describe_histogram(name, None, meaning),
        }
    }
    recorder
});

fn with_buckets() -> Result<PrometheusBuilder, BuildError> {
    ALL.iter().filter(|declared| declared.kind == Kind::Histogram).try_fold(
        PrometheusBuilder::new(),
        |builder, declared| {
            builder.set_buckets_for_metric(Matcher::Full(declared.name.to_owned()), declared.buckets)
        },
    )
}

/// All metrics of this process in Prometheus' text format.
pub fn render() -> String {
    SERVICE_UPTIME.set(process::uptime().as_secs_f64());
    let mut text = RECORDER.handle().render();
    process::render(&mut text);
    text
}

/// The present value of one series, for tests: a counter, a gauge, or a part of a histogram (`…_count`, `…_sum`).
/// `None` when nothing was recorded. Labels in any order.
pub fn value(name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let mut wanted: Vec<String> =
        labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    wanted.sort_unstable();
    RECORDER.handle().render().lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, labels) = match series.split_once('{') {
            Some((found, labels)) => (found, labels.trim_end_matches('}')),
            None => (series, ""),
        };
        let mut labels: Vec<&str> = if labels.is_empty() { Vec::new() } else { labels.split(',').collect() };
        labels.sort_unstable();
        (found == name && labels == wanted).then(|| value.parse().ok()).flatten()
    })
}

/// docs/metrics.md.
pub fn page() -> String {
    let mut page = String::from(PAGE_HEAD);
    let mut component = "";
    for declared in ALL.iter().chain(process::DECLARED) {
        let this = component_of(declared.name);
        if this != component {
            component = this;
            let _ = write!(
                page,
                "\n## {component}\n\n| Metric | Kind | Unit | Labels | Meaning |\n|---|---|---|---|---|\n"
            );
        }
        let labels: Vec<String> = declared.labels.iter().map(|label| format!("`{label}`")).collect();
        let Declaration { name, kind, unit, meaning, .. } = declared;
        let _ = writeln!(page, "| `{name}` | {} | {unit} | {} | {meaning} |", kind.name(), labels.join(", "));
    }
    page
}

const PAGE_HEAD: &str = "\
# Metrics

Every service answers `GET /metrics` on its admin address (`--admin-listen`) in Prometheus' text format. A service
exposes the metrics of its own component, those of `kafka`, `postgres` and `service` where it uses them, and `process`.
Counters start at zero with the process. Histograms have the series `_bucket`, `_sum` and `_count`.

This page is generated from the table in `crates/service/src/metrics/table.rs`:
`cargo run --release -p tidewatch-service --example metrics > docs/metrics.md`.
";

/// The second word of a metric's name, or the first where the name is Prometheus' own.
fn component_of(name: &'static str) -> &'static str {
    name.strip_prefix("tidewatch_").unwrap_or(name).split('_').next().unwrap_or(name)
}

/// Shows the service's own counters at zero before anything has happened, so that the first event is an increase, and
/// keeps histograms from holding what they recorded since the last scrape. Runs on the current runtime.
pub(crate) fn start(service: &'static str) {
    let _ = process::uptime();
    let component = service.strip_prefix("tidewatch-").unwrap_or(service);
    for declared in ALL {
        if declared.kind == Kind::Counter
            && declared.labels.is_empty()
            && component_of(declared.name) == component
        {
            let _ = handles::register_counter(declared, &[]);
        }
    }
    SERVICE_BUILD_INFO.with([service, env!("CARGO_PKG_VERSION")]).set(1.0);
    tokio::spawn(async {
        let mut every = tokio::time::interval(UPKEEP);
        loop {
            every.tick().await;
            RECORDER.handle().run_upkeep();
        }
    });
}

/// A histogram holds 8 bytes a recorded value until the next upkeep.
const UPKEEP: std::time::Duration = std::time::Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_follow_the_convention() {
        let mut names = HashSet::new();
        for declared in ALL {
            let Declaration { name, kind, unit, buckets, .. } = declared;
            assert!(names.insert(name), "{name} is declared twice");
            assert!(name.starts_with("tidewatch_"), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}: _total is for counters");
            let stem = name.trim_end_matches("_total");
            if matches!(*unit, "seconds" | "bytes") {
                assert!(stem.ends_with(unit), "{name}: must end with its unit");
            }
            assert_eq!(buckets.is_empty(), *kind != Kind::Histogram, "{name}: buckets are for histograms");
            assert!(buckets.is_sorted(), "{name}: buckets must rise");
            assert!(!declared.meaning.contains('|'), "{name}: breaks the page's table");
            assert!(declared.meaning.ends_with('.'), "{name}: a meaning is a sentence");
        }
    }

    #[test]
    fn components_are_declared_together() {
        let mut components: Vec<_> = ALL.iter().map(|declared| component_of(declared.name)).collect();
        components.dedup();
        let distinct: HashSet<_> = components.iter().collect();
        assert_eq!(distinct.len(), components.len(), "{components:?}");
    }

    #[test]
    fn the_page_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == page(),
            "docs/metrics.md is stale: cargo run --release -p tidewatch-service --example metrics > docs/metrics.md"
        );
    }

    #[test]
    fn histograms_have_their_declared_buckets() {
        API_QUERY_DURATION.with(["buckets"]).record(0.0021);
        let text = render();
        let bucket = "tidewatch_api_query_duration_seconds_bucket{query=\"buckets\",le=\"0.0025\"} 1";
        assert!(text.contains(bucket), "{text}");
    }
}
