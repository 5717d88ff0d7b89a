//! Typed handles: a static knows its labels by number, a series is an atomic behind a pointer.

use std::collections::HashMap;
use std::sync::{OnceLock, PoisonError, RwLock};
use std::time::Duration;

use metrics::{Key, Label, Level, Metadata, Recorder};

use super::{Declaration, RECORDER};

/// Series that one metric may have. What comes after that is recorded with `other` as the value of every label.
pub const MAX_SERIES: usize = 1024;

const METADATA: Metadata<'static> = Metadata::new("tidewatch", Level::INFO, None);

pub(super) fn register_counter(declared: &Declaration, values: &[&str]) -> metrics::Counter {
    RECORDER.register_counter(&key(declared, values), &METADATA)
}

fn register_gauge(declared: &Declaration, values: &[&str]) -> metrics::Gauge {
    RECORDER.register_gauge(&key(declared, values), &METADATA)
}

fn register_histogram(declared: &Declaration, values: &[&str]) -> metrics::Histogram {
    RECORDER.register_histogram(&key(declared, values), &METADATA)
}

fn key(declared: &Declaration, values: &[&str]) -> Key {
    let labels: Vec<Label> = declared
        .labels
        .iter()
        .zip(values)
        .map(|(name, value)| Label::new(*name, (*value).to_owned()))
        .collect();
    Key::from_parts(declared.name, labels)
}

/// The series of one metric by label values.
struct Family<T> {
    series: OnceLock<RwLock<HashMap<String, T>>>,
}

impl<T: Clone> Family<T> {
    const fn new() -> Self {
        Self { series: OnceLock::new() }
    }

    fn get(&self, declared: &Declaration, values: &[&str], register: fn(&Declaration, &[&str]) -> T) -> T {
        let series = self.series.get_or_init(RwLock::default);
        let joined = values.join("\u{1f}");
        if let Some(found) = series.read().unwrap_or_else(PoisonError::into_inner).get(&joined) {
            return found.clone();
        }
        let mut series = series.write().unwrap_or_else(PoisonError::into_inner);
        if series.len() < MAX_SERIES || values.is_empty() {
            return series.entry(joined).or_insert_with(|| register(declared, values)).clone();
        }
        let other = vec!["other"; values.len()];
        let joined = other.join("\u{1f}");
        series
            .entry(joined)
            .or_insert_with(|| {
                tracing::warn!(
                    metric = declared.name,
                    "more than {MAX_SERIES} series: the rest are in \"other\""
                );
                register(declared, &other)
            })
            .clone()
    }
}

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident, $(#[$series_doc:meta])* $series:ident($inner:ty), $register:ident) => {
        $(#[$doc])*
        pub struct $name<const LABELS: usize> {
            declared: &'static Declaration,
            family: Family<$inner>,
            single: OnceLock<$series>,
        }

        impl<const LABELS: usize> $name<LABELS> {
            pub(super) const fn declare(declared: &'static Declaration) -> Self {
                Self { declared, family: Family::new(), single: OnceLock::new() }
            }

            /// The series with these label values, in the declared order. For once a batch, or to be kept.
            pub fn with(&self, values: [&str; LABELS]) -> $series {
                $series(self.family.get(self.declared, &values, $register))
            }

            /// Name, unit, labels, meaning.
            pub fn declaration(&self) -> &'static Declaration {
                self.declared
            }
        }

        impl $name<0> {
            fn single(&self) -> &$series {
                self.single.get_or_init(|| self.with([]))
            }
        }

        $(#[$series_doc])*
        #[derive(Clone)]
        pub struct $series($inner);
    };
}

handle! {
    /// A count of what has happened since the process started.
    Counter,
    /// One series of a [`Counter`]. Adding is one atomic addition.
    CounterSeries(metrics::Counter), register_counter
}

handle! {
    /// A value of now.
    Gauge,
    /// One series of a [`Gauge`].
    GaugeSeries(metrics::Gauge), register_gauge
}

handle! {
    /// A distribution of values.
    Histogram,
    /// One series of a [`Histogram`].
    HistogramSeries(metrics::Histogram), register_histogram
}

impl CounterSeries {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.increment(n);
    }
}

impl Counter<0> {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.single().add(n);
    }
}

impl GaugeSeries {
    /// Replaces the value.
    pub fn set(&self, value: f64) {
        self.0.set(value);
    }

    /// Adds `change`, which may be negative.
    pub fn add(&self, change: f64) {
        self.0.increment(change);
    }
}

impl Gauge<0> {
    /// Replaces the value.
    pub fn set(&self, value: f64) {
        self.single().set(value);
    }

    /// Adds `change`, which may be negative.
    pub fn add(&self, change: f64) {
        self.single().add(change);
    }
}

impl HistogramSeries {
    /// Records a value, in the metric's unit.
    pub fn record(&self, value: f64) {
        self.0.record(value);
    }

    /// Records a duration, for metrics in seconds.
    pub fn record_duration(&self, duration: Duration) {
        self.0.record(duration.as_secs_f64());
    }

    /// Records a value `count` times, holding 8 bytes for each until the next second.
    pub fn record_many(&self, value: f64, count: usize) {
        self.0.record_many(value, count);
    }
}

impl Histogram<0> {
    /// Records a value, in the metric's unit.
    pub fn record(&self, value: f64) {
        self.single().record(value);
    }

    /// Records a duration, for metrics in seconds.
    pub fn record_duration(&self, duration: Duration) {
        self.single().record_duration(duration);
    }

    /// Records a value `count` times, holding 8 bytes for each until the next second.
    pub fn record_many(&self, value: f64, count: usize) {
        self.single().record_many(value, count);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, value};
    use super::*;

    #[test]
    fn series_past_the_limit_share_one() {
        static DECLARED: Declaration = Declaration {
            name: "tidewatch_test_bounded_total",
            kind: Kind::Counter,
            unit: "events",
            labels: &["peer"],
            buckets: &[],
            meaning: "A test.",
        };
        static BOUNDED: Counter<1> = Counter::declare(&DECLARED);
        for peer in 0..MAX_SERIES + 10 {
            BOUNDED.with([&peer.to_string()]).add(1);
        }
        assert_eq!(value(DECLARED.name, &[("peer", "0")]), Some(1.0));
        assert_eq!(value(DECLARED.name, &[("peer", "1024")]), None);
        assert_eq!(value(DECLARED.name, &[("peer", "other")]), Some(10.0));
    }

    #[test]
    fn the_same_label_values_are_the_same_series() {
        let before = value("tidewatch_sink_rows_total", &[("table", "same_series")]).unwrap_or(0.0);
        super::super::SINK_ROWS.with(["same_series"]).add(2);
        super::super::SINK_ROWS.with(["same_series"]).add(3);
        assert_eq!(value("tidewatch_sink_rows_total", &[("table", "same_series")]), Some(before + 5.0));
    }
}
