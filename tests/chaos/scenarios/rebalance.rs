//! Instances that come and go.

use std::time::{Duration, Instant};

use anyhow::Result;
use rand::Rng;
use rand::seq::IndexedRandom;
use tidewatch_dev::Service;

use crate::session::{RATE, Session};
use crate::system::{CONSUMERS, Wishes, nameless};

/// Instances of one service beside the first.
const MOST: usize = 2;

pub async fn minute(session: &Session) -> Result<()> {
    come_and_go(session, "rebalances", Duration::from_secs(60)).await
}

pub async fn ten_seconds(session: &Session) -> Result<()> {
    come_and_go(session, "rebalances-short", Duration::from_secs(10)).await
}

async fn come_and_go(session: &Session, name: &str, time: Duration) -> Result<()> {
    let mut rng = session.rng(name);
    // Without names an instance's partitions move as it ends.
    let mut system = session.system(Wishes { environment: nameless(), ..Wishes::default() }).await?;
    let records = session.input.records() as f64 / session.input.files().len() as f64;
    let rate = (records / time.as_secs_f64()).ceil() as u32;
    let feed = system.feed_without_keys(&session.input, rate.min(RATE))?;
    let end = Instant::now() + time;
    let mut more: Vec<(Service, String)> = Vec::new();
    while Instant::now() < end {
        system.pass(Duration::from_millis(rng.random_range(300..2_000))).await?;
        let Some(service) = CONSUMERS.choose(&mut rng).copied() else { continue };
        let there = more.iter().filter(|(of, _)| *of == service).count();
        if there < MOST && (there == 0 || rng.random_bool(0.5)) {
            more.push((service, system.services().spawn(service)?));
        } else if let Some(at) = more.iter().position(|(of, _)| *of == service) {
            let (_, name) = more.swap_remove(at);
            // Half of them are given no time to say goodbye.
            match rng.random_bool(0.5) {
                true => drop(system.services().terminate(&name).await?),
                false => system.services().kill(&name).await?,
            }
        }
    }
    session.conclude(&mut system, feed).await?;
    anyhow::ensure!(system.deaths.is_empty(), "died: {:?}", system.deaths);
    system.stop().await
}
