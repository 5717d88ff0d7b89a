//! Every event once: as a row, as an identity, in the counts and in the ledger.

use tidewatch_tests::{Load, Pipeline};

#[tokio::test]
async fn two_hundred_thousand_events_are_stored_exactly_once() {
    let pipeline = Pipeline::own().await;
    let org = pipeline.new_org().await;
    let summary = Load::events(200_000).run(&org).await;
    assert_eq!(summary["acknowledged"], 200_000, "{summary}");
    assert_eq!(summary["rejected"], 0, "{summary}");
    org.until("all 200,000 are in the ledger", async || {
        let received = pipeline.count("SELECT coalesce(sum(received), 0)::bigint FROM sink_ledger").await;
        (received >= 200_000).then_some(())
    })
    .await;
    pipeline.assert_adds_up(200_000).await;
}
