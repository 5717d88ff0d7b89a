//! One Kafka node (KRaft: broker and controller in one) as a child process, from the jars that `dev/install.sh`
//! fetched.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tokio_util::sync::CancellationToken;

use ::kafka::{Admin, KafkaArgs};

use crate::ports;
use crate::process::{Launch, Process, Stopped};

/// A JVM on two busy cores takes its time: 3.5 s idle, several times that under a parallel build.
const START_PATIENCE: Duration = Duration::from_secs(120);
const STOP_PATIENCE: Duration = Duration::from_secs(15);
const QUERY_TIMEOUT: Duration = Duration::from_secs(1);
/// Brokers count the record overhead too: room above the 8 MiB that topics allow.
const MESSAGE_MAX_BYTES: u32 = 10 * 1024 * 1024;

/// Where and how large.
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    /// Configuration and log segments; formatted when it is new.
    pub directory: PathBuf,
    /// The directory of jars.
    pub jars: PathBuf,
    /// Standard output and error of the broker.
    pub log: PathBuf,
    /// Where clients connect, on 127.0.0.1.
    pub port: u16,
    /// Where the node talks to itself as controller.
    pub controller_port: u16,
    /// Limit of the Java heap.
    pub heap_mebibytes: u32,
    /// Its place in a cluster; none for a cluster of one.
    pub member: Option<Member>,
}

/// One of several nodes. The first is broker and controller, the others are brokers.
#[derive(Debug, Clone)]
pub struct Member {
    /// From 1.
    pub node: u32,
    /// Id of the cluster.
    pub cluster: String,
}

impl KafkaOptions {
    /// Free ports and a 512 MiB heap: what tests want.
    pub fn new(directory: PathBuf, jars: PathBuf, log: PathBuf) -> Result<KafkaOptions> {
        let (port, controller_port) = (ports::free()?, ports::free()?);
        Ok(KafkaOptions { directory, jars, log, port, controller_port, heap_mebibytes: 512, member: None })
    }

    /// Options of a cluster of so many nodes, each below the directory. Its topics have a replica on every node unless
    /// they say otherwise, and take records while two of them are there.
    pub fn cluster(nodes: u32, directory: &Path, jars: &Path, logs: &Path) -> Result<Vec<KafkaOptions>> {
        let (cluster, controller_port) = (cluster_id(), ports::free()?);
        let node = |node| {
            let name = format!("kafka-{node}");
            let log = logs.join(format!("{name}.log"));
            let options = KafkaOptions::new(directory.join(name), jars.to_owned(), log)?;
            let member = Some(Member { node, cluster: cluster.clone() });
            Ok(KafkaOptions { controller_port, member, heap_mebibytes: 320, ..options })
        };
        (1..=nodes).map(node).collect()
    }
}

impl KafkaOptions {
    fn is_controller(&self) -> bool {
        self.member.as_ref().is_none_or(|member| member.node == 1)
    }
}

/// A running node.
#[derive(Debug)]
pub struct Kafka {
    process: Process,
    options: KafkaOptions,
}

impl Kafka {
    /// Starts the node and waits until it answers a metadata request naming itself.
    pub async fn start(options: KafkaOptions) -> Result<Kafka> {
        let data = options.directory.join("data");
        std::fs::create_dir_all(&data).with_context(|| format!("creating {}", data.display()))?;
        let properties = options.directory.join("server.properties");
        std::fs::write(&properties, server_properties(&options))
            .with_context(|| format!("writing {}", properties.display()))?;
        if !data.join("meta.properties").is_file() {
            format_storage(&options, &properties).await?;
        }
        let process = java(
            &options,
            "kafka",
            vec![format!("-Xmx{}m", options.heap_mebibytes), "-XX:+ExitOnOutOfMemoryError".into()],
            vec!["kafka.Kafka".into(), path_argument(&properties)?],
        )?;
        process.until_ready(START_PATIENCE, until_it_answers(&brokers(options.port))).await??;
        Ok(Kafka { process, options })
    }

    /// True once the process has ended.
    pub fn is_down(&self) -> bool {
        self.process.exit_status().is_some()
    }

    /// `host:port`, as clients take it.
    pub fn brokers(&self) -> String {
        brokers(self.options.port)
    }

    /// The child.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Stops the node with its logs flushed, so that the next start has nothing to recover.
    pub async fn stop(self) -> Result<Stopped> {
        self.process.stop(Signal::SIGTERM, STOP_PATIENCE).await
    }

    /// kill -9.
    pub async fn kill(&self) -> Result<()> {
        self.process.kill().await
    }

    /// Starts the node again on the same data and ports, after stopping it if it still runs.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.stop(Signal::SIGTERM, STOP_PATIENCE).await?;
        *self = Kafka::start(self.options.clone()).await?;
        Ok(())
    }

    /// True when a metadata request to these brokers is answered, within a second.
    pub async fn answers(brokers: &str) -> bool {
        tokio::time::timeout(QUERY_TIMEOUT, until_it_answers(brokers))
            .await
            .is_ok_and(|answer| answer.is_ok())
    }
}

fn brokers(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn java(options: &KafkaOptions, name: &str, jvm: Vec<String>, main: Vec<String>) -> Result<Process> {
    let mut arguments = jvm;
    arguments.extend([
        "-Djava.awt.headless=true".into(),
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn".into(),
        "-Dorg.slf4j.simpleLogger.showDateTime=true".into(),
        "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX".into(),
        "-cp".into(),
        // Java's own wildcard: every jar of the directory.
        path_argument(&options.jars.join("*"))?,
    ]);
    arguments.extend(main);
    Process::start(Launch {
        name: name.into(),
        program: "java".into(),
        arguments,
        environment: vec![],
        log: options.log.clone(),
        user: None,
        // Log segments survive it; a parent that can still wait sends SIGTERM first.
        end_signal: Signal::SIGKILL,
    })
}

/// Writes the cluster id and the controller's first quorum into an empty data directory.
async fn format_storage(options: &KafkaOptions, properties: &Path) -> Result<()> {
    let properties = path_argument(properties)?;
    // Short-lived: start-up counts, peak speed does not.
    let jvm = vec!["-XX:TieredStopAtLevel=1".into(), "-XX:+UseSerialGC".into(), "-Xmx128m".into()];
    let id = options.member.as_ref().map_or_else(cluster_id, |member| member.cluster.clone());
    let mut main = vec!["kafka.tools.StorageTool", "format", "-t", &id, "-c", &properties];
    if options.is_controller() {
        main.push("--standalone");
    }
    let tool = java(options, "kafka's storage tool", jvm, main.into_iter().map(String::from).collect())?;
    let status = tool.until_ended(START_PATIENCE).await?;
    if !status.success() {
        bail!("formatting Kafka's data directory failed ({status}):\n{}", tool.log_tail());
    }
    Ok(())
}

/// A random UUID as Kafka writes it: 16 bytes in unpadded URL-safe base64, which ends in one of four letters.
fn cluster_id() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let random: u128 = rand::random();
    let digit = |value: u128| char::from(*ALPHABET.get((value & 63) as usize).unwrap_or(&b'A'));
    let mut id: String = (0..21).map(|index| digit(random >> (122 - 6 * index))).collect();
    // Kafka keeps ids that begin with a dash for itself, for they look like options.
    if id.starts_with('-') {
        id.replace_range(..1, "t");
    }
    id.push(digit((random & 3) << 4));
    id
}

fn path_argument(path: &Path) -> Result<String> {
    path.to_str().map(String::from).with_context(|| format!("{} is not UTF-8", path.display()))
}

/// Small numbers of threads and of internal partitions: one node on a shared machine, up in seconds. After a kill it is
/// let in again when its old session has timed out, hence the short one.
fn server_properties(options: &KafkaOptions) -> String {
    let KafkaOptions { port, controller_port, directory, .. } = options;
    let data = directory.join("data");
    let (roles, listeners) = match options.is_controller() {
        true => (
            "broker,controller",
            format!("CLIENT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}"),
        ),
        false => ("broker", format!("CLIENT://127.0.0.1:{port}")),
    };
    let node = options.member.as_ref().map_or(1, |member| member.node);
    let (replicas, in_sync) = if options.member.is_some() { (3, 2) } else { (1, 1) };
    format!(
        "process.roles={roles}
node.id={node}
listeners={listeners}
advertised.listeners={listeners}
listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=CLIENT
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}
log.dirs={data}
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000

auto.create.topics.enable=false
num.partitions=4
default.replication.factor={replicas}
min.insync.replicas={in_sync}
message.max.bytes={MESSAGE_MAX_BYTES}
replica.fetch.max.bytes={MESSAGE_MAX_BYTES}
log.retention.hours=24
log.retention.bytes=2147483648
log.segment.bytes=268435456
log.index.size.max.bytes=2097152
log.cleaner.dedupe.buffer.size=16777216

group.initial.rebalance.delay.ms=0
offsets.topic.num.partitions=4
offsets.topic.replication.factor={replicas}
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1

num.network.threads=2
num.io.threads=4
background.threads=4
",
        data = data.display(),
    )
}

/// Ends when a metadata request to the brokers is answered with at least one live broker.
async fn until_it_answers(brokers: &str) -> Result<()> {
    let admin = Admin::new(&KafkaArgs::new(brokers))?;
    admin.wait_until_ready(&CancellationToken::new(), |_| {}).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_ids_are_22_characters_of_url_safe_base64() {
        for _ in 0..1_000 {
            let id = cluster_id();
            assert_eq!(id.len(), 22, "{id}");
            assert!(id.chars().all(|char| char.is_ascii_alphanumeric() || "-_".contains(char)), "{id}");
            assert!(!id.starts_with('-') && id.ends_with(['A', 'Q', 'g', 'w']), "{id}");
        }
    }
}
