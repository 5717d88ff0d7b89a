//! Processes that end without a word.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::Rng;
use rand::seq::IndexedRandom;
use tidewatch_dev::Service;

use crate::session::{RATE, Session};
use crate::system::Wishes;

/// Ends `service` at its failpoint, the `after`th time that it comes by (chosen from the range).
async fn at(session: &Session, service: Service, failpoint: &str, after: std::ops::Range<u32>) -> Result<()> {
    let after = session.rng(failpoint).random_range(after);
    let failpoints = format!("{failpoint}={after}*off->1*return(kill)");
    let environment = vec![(service, "FAILPOINTS", failpoints)];
    let mut system = session.system(Wishes { environment, ..Wishes::default() }).await?;
    let feed = match service {
        // Its clients push again.
        Service::Ingest => system.feed(&session.input, RATE)?,
        _ => system.feed_without_keys(&session.input, RATE)?,
    };
    session.conclude(&mut system, feed).await?;
    ensure!(
        system.deaths == [service.name()],
        "{failpoint} was to end {} at its pass {after}; what died: {:?}",
        service.name(),
        system.deaths
    );
    system.stop().await
}

pub async fn ingest_batch(session: &Session) -> Result<()> {
    at(session, Service::Ingest, "ingest.batch", 20..200).await
}

pub async fn ingest_acknowledged(session: &Session) -> Result<()> {
    at(session, Service::Ingest, "ingest.acknowledged", 20..200).await
}

pub async fn enrich_produced(session: &Session) -> Result<()> {
    at(session, Service::Enrich, "enrich.produced", 20..200).await
}

pub async fn enrich_delivered(session: &Session) -> Result<()> {
    at(session, Service::Enrich, "enrich.delivered", 1..5).await
}

pub async fn detect_emitted(session: &Session) -> Result<()> {
    at(session, Service::Detect, "detect.emitted", 1..5).await
}

pub async fn correlate_applied(session: &Session) -> Result<()> {
    at(session, Service::Correlate, "correlate.applied", 20..200).await
}

pub async fn sink_copied(session: &Session) -> Result<()> {
    at(session, Service::Sink, "sink.copied", 2..15).await
}

pub async fn sink_committed(session: &Session) -> Result<()> {
    at(session, Service::Sink, "sink.committed", 2..15).await
}

/// A service that takes records on, chosen anew each time, every one and a half seconds or so.
pub async fn random(session: &Session) -> Result<()> {
    const VICTIMS: [Service; 5] =
        [Service::Ingest, Service::Enrich, Service::Detect, Service::Correlate, Service::Sink];
    let mut rng = session.rng("kill-random");
    let mut system = session.system(Wishes::default()).await?;
    let mut feed = system.feed(&session.input, RATE)?;
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        system.pass(Duration::from_millis(rng.random_range(200..2_000))).await?;
        let Some(victim) = VICTIMS.choose(&mut rng) else { continue };
        if let Ok(process) = system.services().process(victim.name()) {
            process.kill().await?;
        }
    }
    let acknowledged = system.supervise(feed.finish()).await?;
    system.drain().await?;
    crate::verdict::judge(&system, &session.input, &acknowledged, session.expected()).await?;
    ensure!(system.deaths.len() >= 3, "too few kills: {:?}", system.deaths);
    system.stop().await
}
