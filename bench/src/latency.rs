//! How long until an analyst sees what a shipper pushed.

use std::time::{Duration, Instant};

use futures::future::join_all;
use hdrhistogram::Histogram;
use serde_json::json;
use tidewatch_tests::{Load, Org, Pipeline, brute_force};

/// Probes under way at a time, of each kind.
const PROBERS: usize = 2;
/// How exactly a delay is seen: the pause between two looks at the API.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

pub async fn measure(rate: u64, seconds: u64) {
    let pipeline = Pipeline::own().await;
    let busy = pipeline.new_org().await;
    eprintln!("{rate} events/s for {seconds} s …");
    let load = Load::events(rate * seconds).at_rate(rate).start(&pipeline, &busy.identity());
    let end = Instant::now() + Duration::from_secs(seconds);
    let (events, incidents, thresholds) = tokio::join!(
        probes(&pipeline, end, event_shows),
        probes(&pipeline, end, incident_shows),
        probes(&pipeline, end, threshold_shows),
    );
    let summary = load.finish().await;

    println!("{summary}");
    print("push → event on a page", &events);
    print("push → incident of one finding on a page", &incidents);
    print("push → incident of a threshold on a page", &thresholds);
}

/// Delays of all probes of a kind, each prober with an org of its own.
async fn probes(pipeline: &Pipeline, end: Instant, shows: impl AsyncFn(&Org<'_>, usize)) -> Histogram<u64> {
    let probers = (0..PROBERS).map(|_| async {
        let org = pipeline.new_org().await;
        let mut delays = Vec::new();
        while Instant::now() < end {
            let pushed = Instant::now();
            shows(&org, delays.len()).await;
            delays.push(pushed.elapsed());
        }
        delays
    });
    let mut histogram = Histogram::new_with_bounds(1, 600_000_000, 3).expect("valid bounds");
    for delay in join_all(probers).await.into_iter().flatten() {
        histogram.saturating_record(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX));
    }
    histogram
}

async fn event_shows(org: &Org<'_>, number: usize) {
    let marker = &format!("probe-{number}");
    let event = json!({"message": "probe", "host": marker, "time": tidewatch_tests::now()});
    org.push("/v1/events", "application/json", event.to_string()).await;
    until_on_page(org, &format!("/v1/events?host={marker}"), marker).await;
}

async fn incident_shows(org: &Org<'_>, number: usize) {
    let marker = &format!("probe-{number}");
    let finding = json!({"class_uid": 2004, "scan_id": "probe", "scan_type": "database", "uid": marker, "kind": "pii",
                         "severity_id": 5, "title": "Card numbers in clear", "resource": marker, "host": marker,
                         "time": tidewatch_tests::now()});
    org.push("/v1/findings", "application/json", finding.to_string()).await;
    until_on_page(org, "/v1/incidents?limit=10", marker).await;
}

/// Failed logins from an address that has not been seen before.
async fn threshold_shows(org: &Org<'_>, number: usize) {
    let address = format!("198.18.{}.{}", number / 256 % 256, number % 256);
    org.push("/v1/events", "text/plain", brute_force(&address)).await;
    until_on_page(org, "/v1/incidents?limit=10", &address).await;
}

async fn until_on_page(org: &Org<'_>, path: &str, marker: &str) {
    let marker = format!("\"{marker}\"");
    while !org.get(path).await.to_string().contains(&marker) {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn print(what: &str, histogram: &Histogram<u64>) {
    let milliseconds = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "{what}: p50 {:.0} ms, p90 {:.0} ms, p99 {:.0} ms, max {:.0} ms ({} probes)",
        milliseconds(0.5),
        milliseconds(0.9),
        milliseconds(0.99),
        milliseconds(1.0),
        histogram.len(),
    );
}
