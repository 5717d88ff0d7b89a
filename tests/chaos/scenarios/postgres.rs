//! Faults of the database.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rand::Rng;
use tidewatch_dev::{Postgres, Service};

use crate::proxy::Proxy;
use crate::session::{Own, RATE, Session};
use crate::system::{System, Wishes};

/// How long the next commit may take while there is something to store.
const COMMIT_PATIENCE: Duration = Duration::from_secs(15);

/// Backends of the scenario's own and a system whose sink reaches Postgres through a proxy.
async fn behind_proxy(session: &Session, name: &str, failpoints: &str) -> Result<(Own, Proxy, System)> {
    let own = session.own(name).await?;
    let proxy = Proxy::start(address(&own.postgres)?).await?;
    let wishes = Wishes {
        environment: vec![(Service::Sink, "FAILPOINTS", failpoints.to_owned())],
        postgres_through: Some(proxy.address().to_owned()),
        ..Wishes::default()
    };
    let system = session.system_on(&own, name, wishes).await?;
    Ok((own, proxy, system))
}

/// `host:port` of a server.
fn address(postgres: &Postgres) -> Result<String> {
    let url = postgres.superuser_url();
    let (_, rest) = url.rsplit_once('@').context("a URL with credentials")?;
    let (address, _) = rest.split_once('/').context("a URL with a database")?;
    Ok(address.to_owned())
}

pub async fn stopped_in_copy(session: &Session) -> Result<()> {
    let passes = session.rng("postgres-copy").random_range(2..10);
    let failpoints = format!("sink.copied={passes}*off->1*sleep(4000)");
    let (mut own, _proxy, mut system) = behind_proxy(session, "postgres-copy", &failpoints).await?;
    let feed = system.feed_without_keys(&session.input, RATE)?;
    let database = system.database().await?;
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE state = 'idle in transaction' AND clock_timestamp() - state_change > interval '1 second'";
    let stopped = async {
        while database.query_one(waiting, &[]).await?.get::<_, i64>(0) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    system.supervise(stopped).await.context("waiting for the sink to stand between COPY and commit")?;
    own.postgres.kill().await?;
    own.postgres.restart().await?;
    session.conclude(&mut system, feed).await?;
    nobody_died(&system)?;
    system.stop().await
}

pub async fn stopped_in_commit(session: &Session) -> Result<()> {
    let mut rng = session.rng("postgres-commit");
    let (mut own, proxy, mut system) = behind_proxy(session, "postgres-commit", "").await?;
    let feed = system.feed_without_keys(&session.input, RATE)?;
    let mut stops = 0;
    for _ in 0..3 {
        system.pass(Duration::from_millis(rng.random_range(300..1_500))).await?;
        let committing = tokio::time::timeout(COMMIT_PATIENCE, proxy.committing());
        if system.supervise(async { Ok(committing.await) }).await?.is_err() {
            // All of the input is stored.
            break;
        }
        own.postgres.kill().await?;
        own.postgres.restart().await?;
        stops += 1;
    }
    ensure!(stops > 0, "the sink has committed nothing");
    session.conclude(&mut system, feed).await?;
    nobody_died(&system)?;
    system.stop().await
}

pub async fn answer_lost(session: &Session) -> Result<()> {
    let mut rng = session.rng("postgres-answer-lost");
    let (_own, proxy, mut system) = behind_proxy(session, "postgres-answer-lost", "").await?;
    let feed = system.feed_without_keys(&session.input, RATE)?;
    for _ in 0..4 {
        system.pass(Duration::from_millis(rng.random_range(500..1_500))).await?;
        proxy.lose_answers(rng.random_range(1..3));
    }
    session.conclude(&mut system, feed).await?;
    ensure!(proxy.lost() >= 2, "only {} answers were lost", proxy.lost());
    nobody_died(&system)?;
    system.stop().await
}

pub async fn black_hole(session: &Session) -> Result<()> {
    let (_own, proxy, mut system) = behind_proxy(session, "postgres-black-hole", "").await?;
    let feed = system.feed_without_keys(&session.input, RATE)?;
    system.until_stored(1_000).await?;
    proxy.black_hole(true);
    system.pass(Duration::from_secs(10)).await?;
    // What was on its way is lost, as after a network partition.
    proxy.cut();
    proxy.black_hole(false);
    session.conclude(&mut system, feed).await?;
    nobody_died(&system)?;
    system.stop().await
}

pub async fn restarted(session: &Session) -> Result<()> {
    let mut rng = session.rng("postgres-restart");
    let (mut own, _proxy, mut system) = behind_proxy(session, "postgres-restart", "").await?;
    let feed = system.feed_without_keys(&session.input, RATE)?;
    for _ in 0..3 {
        system.pass(Duration::from_millis(rng.random_range(500..2_500))).await?;
        own.postgres.restart().await?;
    }
    session.conclude(&mut system, feed).await?;
    nobody_died(&system)?;
    system.stop().await
}

pub async fn locked(session: &Session) -> Result<()> {
    let mut system = session.system(Wishes::default()).await?;
    let feed = system.feed_without_keys(&session.input, RATE)?;
    system.until_stored(1_000).await?;
    let database = system.database().await?;
    database.batch_execute("BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE").await?;
    system.pass(Duration::from_secs(15)).await?;
    database.batch_execute("ROLLBACK").await?;
    session.conclude(&mut system, feed).await?;
    nobody_died(&system)?;
    system.stop().await
}

/// The sink's address leads to a real standby for a while.
pub async fn standby(session: &Session) -> Result<()> {
    let name = "postgres-standby";
    let (own, proxy, mut system) = behind_proxy(session, name, "").await?;
    let standby = own.standby(session, name).await?;
    let feed = system.feed_without_keys(&session.input, RATE)?;
    system.until_stored(1_000).await?;
    let primary = proxy.redirect(address(&standby)?);
    proxy.cut();
    let said = async {
        let services = &system.deployment.services;
        loop {
            let missing = services.readiness("sink").await.map(|answer| answer.missing()).unwrap_or_default();
            if missing.contains("read-only") || missing.contains("standby") {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let patient = tokio::time::timeout(Duration::from_secs(20), said).await;
    let said: Result<()> = patient.context("the sink does not say that the server is read-only")?;
    said?;
    proxy.redirect(primary);
    proxy.cut();
    session.conclude(&mut system, feed).await?;
    nobody_died(&system)?;
    system.stop().await?;
    standby.kill().await?;
    Ok(())
}

/// A file system in memory, gone with this value.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    const MEBIBYTES: u32 = 400;

    fn mount() -> Result<SmallDisk> {
        let path = std::env::temp_dir().join(format!("tidewatch-disk-{:08x}", rand::random::<u32>()));
        std::fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={}m,mode=755", Self::MEBIBYTES), "tmpfs"])
            .arg(&path)
            .status()
            .context("mounting a small disk")?;
        ensure!(status.success(), "mounting a small disk, which only root may: {status}");
        Ok(SmallDisk { path })
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    /// Takes all the room that is left.
    fn fill(&self) -> Result<()> {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.filler()).context("filling the disk")?;
        let block = vec![0; 1 << 20];
        while file.write_all(&block).is_ok() {}
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.path).status();
        let _ = std::fs::remove_dir(&self.path);
    }
}

pub async fn disk_full(session: &Session) -> Result<()> {
    let name = "postgres-disk-full";
    let disk = SmallDisk::mount()?;
    let mut own = session.own_at(name, Some(disk.path.join("postgres"))).await?;
    let mut system = session.system_on(&own, name, Wishes::default()).await?;
    let feed = system.feed_without_keys(&session.input, RATE)?;
    system.until_stored(1_000).await?;
    disk.fill()?;
    system.pass(Duration::from_secs(8)).await?;
    let (missing, ready) = match system.deployment.services.readiness("sink").await {
        Ok(answer) => (answer.missing(), answer.ready),
        Err(error) => bail!("the sink does not answer: {error:#}"),
    };
    ensure!(!ready && missing.contains("postgres"), "the disk is full and the sink says: {missing}");
    std::fs::remove_file(disk.filler()).context("making room")?;
    if own.postgres.process().exit_status().is_some() {
        own.postgres.restart().await?;
    }
    session.conclude(&mut system, feed).await?;
    nobody_died(&system)?;
    system.stop().await?;
    own.postgres.kill().await?;
    Ok(())
}

fn nobody_died(system: &System) -> Result<()> {
    ensure!(system.deaths.is_empty(), "services died of it: {:?}", system.deaths);
    Ok(())
}
