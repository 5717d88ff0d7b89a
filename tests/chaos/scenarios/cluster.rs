//! Three brokers that lose one, then two.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tidewatch_dev::{Backends, Kafka};

use crate::session::{RATE, Session};
use crate::system::{System, Wishes};

const ANSWER_PATIENCE: Duration = Duration::from_secs(40);

/// With two in-sync replicas asked for, one broker may go; when a second goes nothing may be acknowledged, and what was
/// acknowledged before must be there when they come back.
pub async fn loses_brokers(session: &Session) -> Result<()> {
    let name = "cluster";
    let (mut brokers, postgres, _scratch) = session.cluster(name).await?;
    let addresses: Vec<String> = brokers.iter().map(Kafka::brokers).collect();
    let backends = Backends {
        kafka_brokers: addresses.join(","),
        superuser_url: postgres.superuser_url(),
        binaries: session.backends.binaries.clone(),
        logs: session.backends.logs.join(name),
    };
    let wishes = Wishes { replication: Some(3), ..Wishes::default() };
    let mut system = System::start(backends, wishes).await?;
    let feed = system.feed(&session.input, RATE)?;
    system.until_stored(1_000).await?;

    let [_, second, third] = brokers.as_mut_slice() else { anyhow::bail!("three brokers were asked for") };
    third.kill().await?;
    let before = feed.acknowledged()?.len();
    let goes_on = async {
        while feed.acknowledged()?.len() < before + 2_000 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    };
    let goes_on = async {
        tokio::time::timeout(ANSWER_PATIENCE, goes_on)
            .await
            .context("one broker is gone and nothing is acknowledged")?
    };
    system.supervise(goes_on).await?;

    second.kill().await?;
    let status = status_of_a_push(&mut system).await?;
    ensure!(status == 503, "with one of three brokers left, ingest answers {status}");
    let silent = feed.acknowledged()?.len();
    system.pass(Duration::from_secs(3)).await?;
    ensure!(feed.acknowledged()?.len() == silent, "something was acknowledged by one of three brokers alone");

    let both = async { tokio::try_join!(second.restart(), third.restart()).map(drop) };
    system.supervise(both).await?;
    session.conclude(&mut system, feed).await?;
    // A coordinator that has lost its memory may take an instance for its own double and end it; it is started again.
    ensure!(!system.deaths.iter().any(|name| name == "ingest"), "ingest died of it");
    system.stop().await?;
    postgres.kill().await?;
    Ok(())
}

/// Pushes one event until the answer is not 200.
async fn status_of_a_push(system: &mut System) -> Result<u16> {
    let (url, token) = (system.services().ingest_url(), system.deployment.tokens().ingest.clone());
    let client = reqwest::Client::new();
    let deadline = Instant::now() + ANSWER_PATIENCE;
    loop {
        let push = client
            .post(format!("{url}/v1/events"))
            .bearer_auth(&token)
            .header("content-type", "application/json")
            .body("{\"message\":\"probe\"}");
        let status = push.send().await.context("pushing a probe")?.status().as_u16();
        if status != 200 || Instant::now() > deadline {
            return Ok(status);
        }
        system.pass(Duration::from_millis(100)).await?;
    }
}
