//! Services that end and start while events flow.

use std::time::Duration;

use tidewatch_tests::{Load, Pipeline};

/// SIGTERM to `service` in the middle of a load, then a restart: what was acknowledged is stored.
async fn survives_sigterm(service: &str) {
    let mut pipeline = Pipeline::own().await;
    let org = pipeline.new_org().await.detach();
    let journal = tempfile::NamedTempFile::new().unwrap();
    let load = Load::events(60_000).at_rate(20_000).journal(journal.path()).start(&pipeline, &org);
    pipeline
        .until("the load is under way", async || {
            let stored = pipeline.count("SELECT coalesce(sum(stored), 0)::bigint FROM sink_ledger").await;
            (stored > 5_000).then_some(())
        })
        .await;

    let stopping = std::time::Instant::now();
    let status = pipeline.terminate(service).await;
    assert!(status.success(), "{service} ended with {status}");
    assert!(stopping.elapsed() < Duration::from_secs(10), "{service} took {:?}", stopping.elapsed());
    pipeline.start_again(service).await;

    let summary = load.finish().await;
    let acknowledged = summary["acknowledged"].as_i64().unwrap();
    assert!(acknowledged >= 60_000, "{summary}");
    pipeline.until_received(acknowledged).await;
    pipeline.assert_journal_is_stored(journal.path()).await;
    if summary["retried"] == 0 {
        pipeline.assert_adds_up(acknowledged).await;
    }
}

#[tokio::test]
async fn ingest_drains_on_sigterm() {
    survives_sigterm("ingest").await;
}

#[tokio::test]
async fn enrich_drains_on_sigterm() {
    survives_sigterm("enrich").await;
}

#[tokio::test]
async fn detect_drains_on_sigterm() {
    survives_sigterm("detect").await;
}

#[tokio::test]
async fn correlate_drains_on_sigterm() {
    survives_sigterm("correlate").await;
}

#[tokio::test]
async fn sink_drains_on_sigterm() {
    survives_sigterm("sink").await;
}

#[tokio::test]
async fn api_drains_on_sigterm() {
    survives_sigterm("api").await;
}
