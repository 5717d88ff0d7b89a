//! One ingest with topics and a database of its own, and what arrives in Kafka.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use kafka::{Admin, Consumer, ConsumerOptions, Input, KafkaArgs, Start, StartAt, TopicSpec};
use nix::sys::signal::Signal;
use postgres::{Client, DatabaseUrl};
use reqwest::{RequestBuilder, Response};
use schemas::{RawBatch, Stream};
use serde_json::Value;
use service::Context;
use sha2::{Digest, Sha256};
use tidewatch_ingest::{Config, Ingest};
use tokio::task::JoinHandle;
use uuid::Uuid;

const PARTITIONS: i32 = 4;
const MIGRATIONS: [&str; 4] = [
    include_str!("../../../schemas/migrations/V1__tables.sql"),
    include_str!("../../../schemas/migrations/V3__accept.sql"),
    include_str!("../../../schemas/migrations/V4__push_keys.sql"),
    "CREATE TABLE quarantine_all PARTITION OF quarantine FOR VALUES FROM (MINVALUE) TO (MAXVALUE)",
];
const PATIENCE: Duration = Duration::from_secs(30);

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run through make test"))
}

/// A raw record as it arrived, with what its batch says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    pub stream: Stream,
    pub partition: i32,
    pub offset: i64,
    pub org: String,
    pub protocol: String,
    pub format: String,
    pub sender: String,
    pub key: Option<String>,
    pub part: Option<i32>,
    pub bytes: Vec<u8>,
}

impl Arrived {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Topics and a database.
pub struct World {
    pub kafka: KafkaArgs,
    pub database_url: String,
    pub database: Client,
    pub token: String,
    prefix: String,
}

impl World {
    pub async fn new() -> Self {
        let world = Self::without_topics().await;
        world.create_topics().await;
        world
    }

    pub async fn without_topics() -> Self {
        let name = Uuid::new_v4().simple().to_string();
        let superuser = variable("TIDEWATCH_TEST_DATABASE_URL");
        let url: DatabaseUrl = superuser.parse().unwrap();
        let admin = postgres::connect(&url).await.unwrap();
        admin.batch_execute(&format!("CREATE DATABASE t_{name}")).await.unwrap();
        let database_url = in_database(&superuser, &format!("t_{name}"));
        let database = postgres::connect(&database_url.parse().unwrap()).await.unwrap();
        for migration in MIGRATIONS {
            database.batch_execute(migration).await.unwrap();
        }
        database
            .batch_execute("INSERT INTO org (id, name) VALUES ('demo', 'Demo'), ('other', 'Other')")
            .await
            .unwrap();

        let prefix = format!("t{name}.");
        let kafka =
            KafkaArgs::new(variable("TIDEWATCH_TEST_KAFKA_BROKERS")).with_prefix(prefix.parse().unwrap());
        let mut world = Self { kafka, database_url, database, token: String::new(), prefix };
        world.token = world.new_token("demo", "ingest").await;
        world
    }

    pub async fn create_topics(&self) {
        let topics = Stream::ALL.map(|stream| TopicSpec {
            name: self.kafka.topic(stream.raw_topic()),
            partitions: PARTITIONS,
            replication: None,
            config: vec![("max.message.bytes".to_owned(), (2 << 20).to_string())],
        });
        Admin::new(&self.kafka).unwrap().ensure_topics(&topics).await.unwrap();
    }

    pub async fn delete_topics(&self) {
        let topics = Stream::ALL.map(|stream| self.kafka.topic(stream.raw_topic()));
        Admin::new(&self.kafka).unwrap().delete_topics(&[&topics[0], &topics[1]]).await.unwrap();
    }

    /// Grows `events.raw`.
    pub async fn add_partitions(&self, total: i32) {
        let topic = self.kafka.topic(Stream::Events.raw_topic());
        Admin::new(&self.kafka).unwrap().add_partitions(&topic, total).await.unwrap();
    }

    /// Ends every connection to the database and takes no new ones.
    pub async fn close_database(&self) {
        let name = format!("t_{}", &self.prefix[1..self.prefix.len() - 1]);
        let admin =
            postgres::connect(&variable("TIDEWATCH_TEST_DATABASE_URL").parse().unwrap()).await.unwrap();
        admin.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await.unwrap();
        admin
            .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", &[&name])
            .await
            .unwrap();
    }

    pub async fn new_token(&self, org: &str, kind: &str) -> String {
        let token =
            format!("tw_{kind}_{}{}", Uuid::new_v4().simple(), &Uuid::new_v4().simple().to_string()[..11]);
        let digest = Sha256::digest(&token);
        self.database
            .execute(
                "INSERT INTO token (id, org, kind, label, digest) VALUES ($1, $2, $3, 'test', $4)",
                &[&Uuid::new_v4(), &org, &kind, &digest.as_slice()],
            )
            .await
            .unwrap();
        token
    }

    /// The command line of an ingest in this world; `more` wins over what it has by default.
    pub fn flags(&self, more: &[&str]) -> Vec<String> {
        let defaults = [
            ("--kafka-brokers", self.kafka.brokers.as_str()),
            ("--topic-prefix", &self.prefix),
            ("--database-url", &self.database_url),
            ("--http-listen", "127.0.0.1:0"),
            ("--admin-listen", "127.0.0.1:0"),
        ];
        let mut flags: Vec<String> = defaults
            .iter()
            .filter(|(flag, _)| !more.contains(flag))
            .flat_map(|(flag, value)| [flag.to_string(), value.to_string()])
            .collect();
        flags.extend(more.iter().map(ToString::to_string));
        flags
    }

    /// Starts an ingest in this process.
    pub async fn ingest(&self, more: &[&str]) -> Running {
        let flags = self.flags(more);
        let config = Config::try_parse_from(std::iter::once("ingest".to_owned()).chain(flags)).unwrap();
        service::Configuration::validate(&config).unwrap();
        let ingest = Ingest::bind(config).await.unwrap();
        let context = Context::for_test();
        Running {
            http: ingest.http_addr().unwrap(),
            syslog_tcp: ingest.syslog_tcp_addrs().unwrap(),
            syslog_udp: ingest.syslog_udp_addrs().unwrap(),
            context: context.clone(),
            client: reqwest::Client::new(),
            token: self.token.clone(),
            task: tokio::spawn(ingest.run(context)),
        }
    }

    /// Starts an ingest in this process and waits until it is ready.
    pub async fn ready(&self, more: &[&str]) -> Running {
        let running = self.ingest(more).await;
        until("ingest is ready", async || running.context.health.is_ready()).await;
        running
    }

    /// Everything in the raw topic by now, in the order of partitions and offsets.
    pub async fn arrived(&self, stream: Stream) -> Vec<Arrived> {
        let topic = self.kafka.topic(stream.raw_topic());
        let admin = Admin::new(&self.kafka).unwrap();
        let mut ends = Vec::new();
        for partition in 0..admin.partitions(&topic).await.unwrap() {
            ends.push(admin.watermarks(&topic, partition).await.unwrap().1);
        }
        let mut left: i64 = ends.iter().sum();
        let group = self.kafka.group(&format!("test-{}", Uuid::new_v4().simple()));
        let consumer =
            Consumer::start(&self.kafka, ConsumerOptions::new("test", group, vec![topic])).unwrap();
        let mut arrived = Vec::new();
        while left > 0 {
            match tokio::time::timeout(PATIENCE, consumer.next())
                .await
                .expect("Kafka gives what it has")
                .unwrap()
            {
                Input::Assigned { partitions, reply } => {
                    reply.send(
                        partitions.into_iter().map(|at| StartAt { at, start: Start::Beginning }).collect(),
                    );
                }
                Input::Revoked { done, .. } => done.send(()),
                Input::Records(records) => {
                    left -= records.len() as i64;
                    for record in records {
                        let batch: RawBatch<'_> = schemas::decode(&record.payload).unwrap();
                        let runs = batch.runs.iter();
                        arrived.extend(runs.flat_map(|run| {
                            run.records.iter().map(|raw| Arrived {
                                stream,
                                partition: record.partition,
                                offset: record.offset,
                                org: run.org.to_string(),
                                protocol: run.protocol.to_string(),
                                format: run.format.to_string(),
                                sender: raw.sender.to_string(),
                                key: run.key.as_deref().map(str::to_owned),
                                part: run.part,
                                bytes: raw.bytes.to_vec(),
                            })
                        }));
                    }
                }
                Input::Failed(error) => panic!("{error}"),
            }
        }
        consumer.close().await;
        arrived.sort_by_key(|arrived| (arrived.partition, arrived.offset));
        arrived
    }

    pub async fn events(&self) -> Vec<Arrived> {
        self.arrived(Stream::Events).await
    }

    /// The texts of all events, sorted.
    pub async fn texts(&self) -> Vec<String> {
        let mut texts: Vec<_> = self.events().await.iter().map(Arrived::text).collect();
        texts.sort();
        texts
    }

    /// Waits until so many events have arrived; their texts, sorted.
    pub async fn texts_once(&self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        until("the events have arrived", async || {
            texts = self.texts().await;
            texts.len() >= count
        })
        .await;
        texts
    }
}

fn in_database(url: &str, database: &str) -> String {
    let (base, query) = url.split_once('?').map_or((url, None), |(base, query)| (base, Some(query)));
    let (server, _) = base.rsplit_once('/').unwrap();
    match query {
        Some(query) => format!("{server}/{database}?{query}"),
        None => format!("{server}/{database}"),
    }
}

/// An ingest in this process.
pub struct Running {
    pub http: SocketAddr,
    pub syslog_tcp: Vec<SocketAddr>,
    pub syslog_udp: Vec<SocketAddr>,
    pub context: Context,
    pub client: reqwest::Client,
    pub token: String,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    pub fn post(&self, path: &str, content_type: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.client
            .post(format!("http://{}{path}", self.http))
            .bearer_auth(&self.token)
            .header("content-type", content_type)
            .body(body)
    }

    pub fn lines(&self, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.post("/v1/events", "application/x-ndjson", body)
    }

    /// Stops it; it must drain in time.
    pub async fn stop(self) {
        self.context.shutdown.request();
        tokio::time::timeout(Duration::from_secs(10), self.task)
            .await
            .expect("stopped in time")
            .unwrap()
            .unwrap();
    }
}

/// Sends a request that must succeed.
pub async fn accepted(request: RequestBuilder) -> Value {
    let response = request.send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// Sends a request that must be refused with problem details.
pub async fn refused(request: RequestBuilder, status: u16) -> Value {
    problem(request.send().await.unwrap(), status).await
}

pub async fn problem(response: Response, status: u16) -> Value {
    let (found, headers) = (response.status(), response.headers().clone());
    let text = response.text().await.unwrap();
    assert_eq!(found, status, "{text}");
    assert_eq!(headers["content-type"], "application/problem+json");
    let mut problem: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(problem["status"], status);
    for member in ["type", "title", "detail"] {
        assert!(!problem[member].as_str().unwrap().is_empty(), "{problem}");
    }
    let retried = [429, 503].contains(&status);
    assert_eq!(headers.contains_key("retry-after"), retried, "{headers:?}");
    problem["headers"] = headers
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_str().unwrap().into()))
        .collect::<serde_json::Map<_, _>>()
        .into();
    problem
}

/// Waits for a condition, or fails naming it.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < PATIENCE, "not so within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An ingest as a process of its own, killed when it is dropped.
pub struct Process {
    pub child: Child,
    pub http: SocketAddr,
}

impl Process {
    /// Starts the binary and waits until it is ready.
    pub async fn start(world: &World) -> Self {
        let [http, admin] = [free_address(), free_address()];
        let (http_flag, admin_flag) = (http.to_string(), admin.to_string());
        let child = Command::new(env!("CARGO_BIN_EXE_tidewatch-ingest"))
            .args(world.flags(&["--http-listen", &http_flag, "--admin-listen", &admin_flag]))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let process = Self { child, http };
        let client = reqwest::Client::new();
        until("the process is ready", async || {
            let answer = client.get(format!("http://{admin}/readyz")).send().await;
            answer.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        process
    }

    pub fn signal(&self, signal: Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
