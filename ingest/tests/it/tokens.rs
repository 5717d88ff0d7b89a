//! Tokens as they come and go.

use crate::harness::{World, accepted, until};

#[tokio::test]
async fn a_revoked_token_stops_within_thirty_seconds_of_use() {
    let world = World::new().await;
    let ingest = world.ready(&[]).await;
    accepted(ingest.lines("{}")).await;
    world.database.execute("UPDATE token SET revoked_at = now()", &[]).await.unwrap();
    // The harness waits for 30 s.
    until("the token is refused", async || ingest.lines("{}").send().await.unwrap().status() == 401).await;
    ingest.stop().await;
}

#[tokio::test]
async fn a_token_tried_too_early_works_soon_after_it_was_made() {
    let world = World::new().await;
    let ingest = world.ready(&[]).await;
    world.database.execute("UPDATE token SET revoked_at = now()", &[]).await.unwrap();
    assert_eq!(ingest.lines("{}").send().await.unwrap().status(), 401);
    world.database.execute("UPDATE token SET revoked_at = NULL", &[]).await.unwrap();
    until("the token works", async || ingest.lines("{}").send().await.unwrap().status() == 200).await;
    ingest.stop().await;
}
