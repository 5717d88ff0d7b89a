//! Clocks that are wrong by a day.

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tidewatch_dev::Service;

use crate::session::{RATE, Session};
use crate::system::Wishes;

const EVENTS: usize = 300;

pub async fn sink_ahead(session: &Session) -> Result<()> {
    sink_off(session, 86_400).await
}

pub async fn sink_behind(session: &Session) -> Result<()> {
    sink_off(session, -86_400).await
}

/// The clock of the sink's host: what it stores is decided by the clocks of ingest and of Postgres.
async fn sink_off(session: &Session, seconds: i32) -> Result<()> {
    let environment = vec![(Service::Sink, "FAILPOINTS", format!("clock=return({seconds})"))];
    let mut system = session.system(Wishes { environment, ..Wishes::default() }).await?;
    let feed = system.feed_without_keys(&session.input, RATE)?;
    session.conclude(&mut system, feed).await?;
    ensure!(system.deaths.is_empty(), "services died of it: {:?}", system.deaths);
    system.stop().await
}

/// A shipper's clock: a day behind is the past, stored as it is; a day ahead is clamped to the time of receipt, flagged,
/// and the original kept.
pub async fn shipper_off(session: &Session) -> Result<()> {
    let mut system = session.system(Wishes::default()).await?;
    let feed = system.feed_without_keys(&session.input, RATE)?;
    let (url, token) = (system.services().ingest_url(), system.deployment.tokens().ingest.clone());
    let day = SignedDuration::from_hours(24);
    for (host, offset) in [("ahead", day), ("behind", -day)] {
        let lines: Vec<String> = (0..EVENTS)
            .map(|n| {
                json!({"time": (Timestamp::now() + offset).to_string(), "host": host, "n": n}).to_string()
            })
            .collect();
        let push = reqwest::Client::new()
            .post(format!("{url}/v1/events"))
            .bearer_auth(&token)
            .header("content-type", "application/x-ndjson")
            .body(lines.join("\n"));
        let status = push.send().await.context("pushing")?.status();
        ensure!(status.is_success(), "ingest answered {status}");
    }
    session.conclude(&mut system, feed).await?;
    let database = system.database().await?;
    for (what, query) in [
        (
            "ahead",
            "SELECT count(*) FROM events WHERE host = 'ahead' AND flags & 1 = 1 AND time = received_at
                   AND (attributes ->> 'original_time')::timestamptz > now() + interval '23 hours'",
        ),
        (
            "behind",
            "SELECT count(*) FROM events WHERE host = 'behind' AND flags & 1 = 0
                    AND time BETWEEN now() - interval '25 hours' AND now() - interval '23 hours'",
        ),
    ] {
        let stored: i64 = database.query_one(query, &[]).await.context(what)?.get(0);
        ensure!(
            stored == EVENTS as i64,
            "{stored} of {EVENTS} events of the host that is {what} are stored as they should be"
        );
    }
    ensure!(system.deaths.is_empty(), "services died of it: {:?}", system.deaths);
    system.stop().await
}
