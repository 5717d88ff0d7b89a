//! Three brokers that lose one, then two.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::metadata::{Metadata, MetadataPartition};
use tidewatch_dev::{Backends, Kafka, Postgres, Service};

use crate::scenarios::kafka::deaths_explained;
use crate::session::{RATE, Session};
use crate::system::{System, Wishes};

/// Events that are pushed one by one while one leader is left.
const PROBES: i32 = 100;
/// The node that has all leaders for a moment.
const SECOND: i32 = 2;
const ANSWER_PATIENCE: Duration = Duration::from_secs(40);

/// A system on three brokers that asks for two in-sync replicas.
async fn system_on(
    session: &Session,
    name: &str,
    brokers: &[Kafka],
    postgres: &Postgres,
    environment: Vec<(Service, &'static str, String)>,
) -> Result<System> {
    let addresses: Vec<String> = brokers.iter().map(Kafka::brokers).collect();
    let backends = Backends {
        kafka_brokers: addresses.join(","),
        superuser_url: postgres.superuser_url(),
        binaries: session.backends.binaries.clone(),
        logs: session.backends.logs.join(name),
    };
    System::start(backends, Wishes { environment, replication: Some(3), ..Wishes::default() }).await
}

/// With two in-sync replicas asked for, one broker may go; when a second goes nothing may be acknowledged, and what was
/// acknowledged before must be there when they come back.
pub async fn loses_brokers(session: &Session) -> Result<()> {
    let name = "cluster";
    let (mut brokers, postgres, _scratch) = session.cluster(name).await?;
    let mut system = system_on(session, name, &brokers, &postgres, Vec::new()).await?;
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
    deaths_explained(&system)?;
    system.stop().await?;
    postgres.kill().await?;
    Ok(())
}

/// Two of three brokers stand still, so that what reaches the third is nowhere else; then the third loses what it has told
/// nobody. An acknowledgement by the leader alone is one of these.
pub async fn leader_alone(session: &Session) -> Result<()> {
    let name = "acks-leader";
    let (mut brokers, postgres, _scratch) = session.cluster(name).await?;
    let environment = vec![(Service::Ingest, "FAILPOINTS", "ingest.acks_all=return".to_owned())];
    let mut system = system_on(session, name, &brokers, &postgres, environment).await?;
    let feed = system.feed(&session.input, RATE)?;
    system.until_stored(1_000).await?;

    let [first, second, third] = brokers.as_mut_slice() else {
        anyhow::bail!("three brokers were asked for")
    };
    // The first is the controller too: while it stands still nobody is declared dead.
    for follower in [&*first, &*third] {
        follower.process().signal(Signal::SIGSTOP)?;
    }
    // An answer to what the two had asked for before waits for them; what comes after it is for the leader alone.
    probe(&mut system, "first").await?;
    let acknowledged = probe(&mut system, "alone").await?;
    ensure!(!acknowledged.is_empty(), "the leader alone has acknowledged nothing");
    second.kill().await?;
    for follower in [&*first, &*third] {
        follower.process().signal(Signal::SIGCONT)?;
    }
    // What it alone has is lost when the others lead its partitions before it comes back and follows them.
    let others = format!("{},{}", first.brokers(), third.brokers());
    let raw = system.name("events.raw");
    system.supervise(until_not_led_by(SECOND, others, raw)).await?;
    system.supervise(second.restart()).await?;
    session.conclude(&mut system, feed).await?;
    // Others of them waited for the two that stood still, and are stored since.
    let query =
        "SELECT DISTINCT (attributes ->> 'n')::int FROM events WHERE attributes ->> 'probe' = 'alone'";
    let stored = system.database().await?.query(query, &[]).await?;
    let stored: BTreeSet<i32> = stored.iter().map(|row| row.get(0)).collect();
    let lost: Vec<&i32> = acknowledged.difference(&stored).collect();
    ensure!(
        lost.is_empty(),
        "of {} acknowledged probes {} are neither stored nor quarantined",
        acknowledged.len(),
        lost.len()
    );
    system.stop().await?;
    postgres.kill().await?;
    Ok(())
}

/// Waits until that node leads none of a topic's partitions, by what the brokers of this list say.
async fn until_not_led_by(node: i32, brokers: String, topic: String) -> Result<()> {
    let looks = tokio::task::spawn_blocking(move || {
        let reader: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
        let deadline = Instant::now() + ANSWER_PATIENCE;
        while Instant::now() < deadline {
            let metadata = reader.fetch_metadata(Some(&topic), Duration::from_secs(5));
            let others_lead = |metadata: &Metadata| {
                let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
                let mut leaders = partitions.map(MetadataPartition::leader).peekable();
                leaders.peek().is_some() && leaders.all(|leader| leader >= 0 && leader != node)
            };
            if metadata.is_ok_and(|metadata| others_lead(&metadata)) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        anyhow::bail!("node {node} still leads partitions of {topic} after {ANSWER_PATIENCE:?}")
    });
    looks.await?
}

/// Pushes events one by one and all at once, spread over all partitions. Those that are acknowledged within a moment.
async fn probe(system: &mut System, name: &str) -> Result<BTreeSet<i32>> {
    let (url, token) = (system.services().ingest_url(), system.deployment.tokens().ingest.clone());
    let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build()?;
    let mut pushes = tokio::task::JoinSet::new();
    for n in 0..PROBES {
        let push = client
            .post(format!("{url}/v1/events"))
            .bearer_auth(&token)
            .header("content-type", "application/json")
            .header("idempotency-key", format!("{name}-{n}"))
            .body(format!("{{\"message\":\"probe\",\"probe\":\"{name}\",\"n\":{n}}}"));
        pushes
            .spawn(async move { push.send().await.is_ok_and(|answer| answer.status() == 200).then_some(n) });
    }
    Ok(pushes.join_all().await.into_iter().flatten().collect())
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
