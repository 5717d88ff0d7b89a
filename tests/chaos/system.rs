//! The whole system under fault: every service a process that is started again when it dies, as an init system would.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kafka::{Admin, KafkaArgs, TopicPartition};
use tidewatch_dev::{Backends, Deployment, DeploymentOptions, Service, Services};
use tokio::process::Command;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls};

use crate::feed::{Feed, Feeding};
use crate::input::Input;
use crate::operator::Operator;

/// How often dead services are looked for.
const REVIVE_INTERVAL: Duration = Duration::from_millis(50);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// More deaths of one instance than any scenario has in mind.
const MOST_DEATHS: usize = 12;
/// From the last acknowledgement until everything is stored and correlated.
const DRAIN_PATIENCE: Duration = Duration::from_secs(90);

/// Services that are members of groups.
pub const CONSUMERS: [Service; 4] = [Service::Enrich, Service::Detect, Service::Correlate, Service::Sink];

/// What takes their names from the consumers: without one, an instance's partitions move as it ends.
pub fn nameless() -> Vec<(Service, &'static str, String)> {
    CONSUMERS.map(|service| (service, "TIDEWATCH_INSTANCE_ID", String::new())).to_vec()
}

/// What a scenario may want different.
#[derive(Debug, Default)]
pub struct Wishes {
    /// More variables for some services.
    pub environment: Vec<(Service, &'static str, String)>,
    /// Where services reach Postgres instead of directly: `host:port` of a proxy.
    pub postgres_through: Option<String>,
    /// Copies of each partition, when not one.
    pub replication: Option<u32>,
}

/// A running system with an org.
pub struct System {
    /// Services and commands.
    pub deployment: Deployment,
    /// Deaths since the start, oldest first: names of instances.
    pub deaths: Vec<String>,
    /// An operator is there, who does what a service that has ended says is to be done; none by default.
    pub operator: Option<Operator>,
    backends: Backends,
    loadgen: PathBuf,
    direct_url: String,
}

impl System {
    /// Starts one of each service on these backends.
    pub async fn start(backends: Backends, wishes: Wishes) -> Result<System> {
        let loadgen = backends.binaries.join("tidewatch-loadgen");
        let mut options = DeploymentOptions::for_test(backends.clone())?;
        let wanted = wishes.environment.into_iter();
        options.environment.extend(wanted.map(|(service, name, value)| (service, name.to_owned(), value)));
        options.named_instances = true;
        options.replication = wishes.replication.unwrap_or(1);
        let mut deployment = Deployment::prepare(options).await?;
        let direct_url = deployment.database_url().to_owned();
        if let Some(proxy) = wishes.postgres_through {
            let url = through(&direct_url, &proxy)?;
            deployment.services.set_environment(Service::Sink, "TIDEWATCH_DATABASE_URL", &url);
        }
        deployment.services.start_all().await?;
        Ok(System { deployment, deaths: Vec::new(), operator: None, backends, loadgen, direct_url })
    }

    /// The services.
    pub fn services(&mut self) -> &mut Services {
        &mut self.deployment.services
    }

    /// The brokers.
    pub fn admin(&self) -> Result<Admin> {
        Ok(Admin::new(&self.kafka())?)
    }

    /// How the services reach Kafka.
    pub fn kafka(&self) -> KafkaArgs {
        KafkaArgs::new(&self.backends.kafka_brokers)
    }

    /// Full name of a topic or group.
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.deployment.services.options().topic_prefix)
    }

    /// A new connection to the database, past any proxy.
    pub async fn database(&self) -> Result<Client> {
        let (client, connection) =
            tokio_postgres::connect(&self.direct_url, NoTls).await.context("connecting to Postgres")?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Starts pushing the input with keys, so many records a second from each file.
    pub fn feed(&self, input: &Input, rate: u32) -> Result<Feed> {
        self.push(input, rate, true)
    }

    /// The same without keys, by which the sink would know repeats too and hide what else is doubled: for faults that make
    /// nobody push again.
    pub fn feed_without_keys(&self, input: &Input, rate: u32) -> Result<Feed> {
        self.push(input, rate, false)
    }

    fn push(&self, input: &Input, rate: u32, keys: bool) -> Result<Feed> {
        Feed::start(
            input,
            &Feeding {
                program: self.loadgen.clone(),
                ingest_urls: vec![self.deployment.services.ingest_url()],
                token: self.deployment.tokens().ingest.clone(),
                rate,
                keys,
            },
        )
    }

    /// Pushes so many generated events of the deployment's org, as fast as they are taken.
    pub async fn generate(&mut self, events: u64) -> Result<()> {
        let mut load = Command::new(&self.loadgen);
        load.args(["run", "--ingest-url", &self.deployment.services.ingest_url()])
            .args(["--token", &self.deployment.tokens().ingest, "--count", &events.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let ended = async { load.status().await.context("running tidewatch-loadgen") };
        let status = self.supervise(ended).await?;
        ensure!(status.success(), "tidewatch-loadgen ended with {status}");
        Ok(())
    }

    /// Gives the instances of a service failpoints, from their next start on; a death takes them away again.
    pub fn arm(&mut self, service: Service, failpoints: &str) {
        self.services().set_environment(service, "FAILPOINTS", failpoints);
    }

    /// Starts again what has died. What dies at a failpoint does not meet it again.
    pub async fn revive(&mut self) -> Result<()> {
        let dead: Vec<(String, Service)> =
            self.deployment.services.dead().map(|(name, service)| (name.to_owned(), service)).collect();
        for (name, service) in dead {
            self.arm(service, "");
            if let Some(operator) = &mut self.operator {
                let log = self.deployment.services.options().logs.join(format!("{name}.log"));
                if !operator.heed(&log, &mut self.deployment).await? {
                    continue;
                }
            }
            self.deployment.services.revive_one(&name)?;
            self.deaths.push(name);
        }
        if let Some(last) = self.deaths.last()
            && self.deaths.iter().filter(|name| *name == last).count() > MOST_DEATHS
        {
            let log = std::fs::read_to_string(self.log(last)).unwrap_or_default();
            let said = log.lines().rev().find(|line| line.contains("ERROR")).unwrap_or("nothing");
            bail!("{last} dies again and again; it says: {said}");
        }
        Ok(())
    }

    /// Waits for something while dead services are started again.
    pub async fn supervise<T>(&mut self, waiting: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::pin!(waiting);
        loop {
            tokio::select! {
                result = &mut waiting => return result,
                () = tokio::time::sleep(REVIVE_INTERVAL) => self.revive().await?,
            }
        }
    }

    /// Lets so much time pass, services being supervised.
    pub async fn pass(&mut self, time: Duration) -> Result<()> {
        self.supervise(async {
            tokio::time::sleep(time).await;
            Ok(())
        })
        .await
    }

    /// Waits, supervising, until this many records are in the ledger.
    pub async fn until_stored(&mut self, records: i64) -> Result<()> {
        let database = self.database().await?;
        let stored = async {
            let query = "SELECT coalesce(sum(stored), 0)::bigint FROM sink_ledger WHERE topic <> 'incidents'";
            while database.query_one(query, &[]).await?.get::<_, i64>(0) < records {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            Ok(())
        };
        let patient = async {
            tokio::time::timeout(DRAIN_PATIENCE, stored)
                .await
                .with_context(|| format!("{records} records were not stored in {DRAIN_PATIENCE:?}"))?
        };
        self.supervise(patient).await
    }

    /// Waits, supervising, until all that is in Kafka has been taken in by everybody.
    pub async fn drain(&mut self) -> Result<()> {
        let deadline = Instant::now() + DRAIN_PATIENCE;
        let database = self.database().await?;
        let admin = self.admin()?;
        loop {
            let behind = self.behind(&admin, &database).await;
            match behind {
                Ok(None) => return Ok(()),
                Ok(Some(behind)) if Instant::now() > deadline => {
                    bail!("not drained in {DRAIN_PATIENCE:?}: {behind}; {}", self.readiness().await)
                }
                Err(error) if Instant::now() > deadline => return Err(error),
                _ => self.pass(POLL_INTERVAL).await?,
            }
        }
    }

    /// The first partition found that somebody has not read to its end.
    async fn behind(&self, admin: &Admin, database: &Client) -> Result<Option<String>> {
        for stream in ["events", "findings"] {
            let raw = self.name(&format!("{stream}.raw"));
            let ids = admin.topic_ids(&[&raw]).await?;
            let id = ids.get(&raw).with_context(|| format!("no topic {raw}"))?;
            let positions = source_positions(database, stream, &id.to_string()).await?;
            // All that the topic has: of one that has grown the sink may not have heard yet.
            for partition in 0..admin.partitions(&raw).await? {
                let position = positions.get(&partition).copied().unwrap_or(0);
                let (_, end) = admin.watermarks(&raw, partition).await?;
                // A transaction's marker may stand last, which no record follows.
                if position + 1 < end
                    || (position < end && !self.ends_in_marker(admin, &raw, partition, end).await?)
                {
                    return Ok(Some(format!("{raw}[{partition}] is stored up to {position} of {end}")));
                }
            }
        }
        for (group, topic) in [
            ("tidewatch-detect-events", "events"),
            ("tidewatch-detect-findings", "findings"),
            ("tidewatch-correlate", "signals"),
        ] {
            let (group, topic) = (self.name(group), self.name(topic));
            let partitions = 0..admin.partitions(&topic).await?;
            let all: Vec<_> = partitions.map(|number| TopicPartition::new(topic.as_str(), number)).collect();
            for (at, committed) in admin.committed(&group, &all).await? {
                let (_, end) = admin.watermarks(&topic, at.partition).await?;
                if committed.unwrap_or(0) < end {
                    return Ok(Some(format!("{group} has read {at} up to {committed:?} of {end}")));
                }
            }
        }
        let incidents = self.name("incidents");
        for (partition, position) in positions(database, "incidents").await? {
            let (_, end) = admin.watermarks(&incidents, partition).await?;
            if position < end {
                return Ok(Some(format!("{incidents}[{partition}] is stored up to {position} of {end}")));
            }
        }
        Ok(None)
    }

    async fn ends_in_marker(&self, admin: &Admin, topic: &str, partition: i32, end: i64) -> Result<bool> {
        let last = admin.last_records(topic, &[partition]).await?;
        Ok(last.iter().all(|(_, last)| last.as_ref().is_none_or(|last| last.position_after() < end)))
    }

    /// Where an instance logs.
    pub fn log(&self, name: &str) -> PathBuf {
        self.deployment.services.options().logs.join(format!("{name}.log"))
    }

    /// Partitions of a topic that an instance has been assigned, by its own metrics.
    pub async fn assigned(&self, name: &str, topic: &str) -> Result<u64> {
        let metrics = self.deployment.services.metrics(name).await?;
        let topic = format!("topic=\"{topic}\"");
        let line = metrics
            .lines()
            .find(|line| line.starts_with("tidewatch_kafka_assigned_partitions") && line.contains(&topic));
        let value =
            line.and_then(|line| line.rsplit_once(' ')).and_then(|(_, value)| value.parse::<f64>().ok());
        Ok(value.unwrap_or(0.0) as u64)
    }

    /// Ends every service in order.
    pub async fn stop(self) -> Result<()> {
        let killed = self.deployment.services.stop().await?;
        if !killed.is_empty() {
            bail!("{} had to be killed", killed.join(", "));
        }
        Ok(())
    }

    /// Each instance that is not ready, and what it misses.
    pub async fn readiness(&self) -> String {
        let mut missing = Vec::new();
        for (name, _, process) in self.deployment.services.list() {
            match self.deployment.services.readiness(name).await {
                Ok(answer) if answer.ready => {}
                Ok(answer) => missing.push(format!("{name} is waiting ({})", answer.missing())),
                Err(_) => missing.push(format!(
                    "{name} does not answer{}",
                    if process.is_none() { ": stopped" } else { "" }
                )),
            }
        }
        if missing.is_empty() { "everybody is ready".into() } else { missing.join("; ") }
    }
}

async fn positions(database: &Client, topic: &str) -> Result<BTreeMap<i32, i64>> {
    let query = "SELECT kpart, next_offset FROM sink_partition WHERE topic = $1";
    read_positions(database, query, &[&topic]).await
}

/// Positions in the raw topic of this id: those in one that was there before it under its name say nothing.
async fn source_positions(database: &Client, stream: &str, topic_id: &str) -> Result<BTreeMap<i32, i64>> {
    let query = "SELECT kpart, coalesce(next_source_offset, 0) FROM sink_partition
                 WHERE topic = $1 AND source_topic_id::text = $2";
    read_positions(database, query, &[&stream, &topic_id]).await
}

async fn read_positions(
    database: &Client,
    query: &str,
    values: &[&(dyn ToSql + Sync)],
) -> Result<BTreeMap<i32, i64>> {
    let rows = database.query(query, values).await.context("asking for the sink's positions")?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The URL with another host and port.
fn through(url: &str, proxy: &str) -> Result<String> {
    let (head, rest) = url.rsplit_once('@').context("a URL with credentials")?;
    let (_, path) = rest.split_once('/').context("a URL with a database")?;
    Ok(format!("{head}@{proxy}/{path}"))
}
