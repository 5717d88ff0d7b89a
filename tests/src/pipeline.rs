//! Every service, running.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};

use kafka::{Admin, KafkaArgs};
use reqwest::Response;
use serde_json::Value;
use tidewatch_dev::process::Stopped;
use tidewatch_dev::{Backends, Deployment, DeploymentOptions, Service};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use crate::org::{Identity, Org};
use crate::until::{try_until, until};

/// A database and topics of its own, and one of each service on them.
#[derive(Debug)]
pub struct Pipeline {
    deployment: Deployment,
    binaries: PathBuf,
    database: Client,
    http: reqwest::Client,
    orgs: AtomicU32,
}

static SHARED: OnceCell<Pipeline> = OnceCell::const_new();

impl Pipeline {
    /// The one that tests share which disturb nobody. Each works as an org of its own.
    pub async fn shared() -> &'static Pipeline {
        SHARED
            .get_or_init(|| async {
                // The runtime of the first test ends with it; what the pipeline spawns has to outlive that.
                let (ready, started) = tokio::sync::oneshot::channel();
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(async {
                        assert!(ready.send(Pipeline::own().await).is_ok());
                        std::future::pending::<()>().await;
                    });
                });
                started.await.expect("the shared pipeline starts")
            })
            .await
    }

    /// One that this test may do anything to.
    pub async fn own() -> Pipeline {
        let backends = Backends::from_environment().unwrap();
        let binaries = backends.binaries.clone();
        let mut options = DeploymentOptions::for_test(backends).unwrap();
        // No default org: a foreign record has to say whose it is.
        options.environment.push((Service::Enrich, "TIDEWATCH_DEFAULT_ORG".into(), String::new()));
        let deployment = Deployment::start(options).await.unwrap_or_else(|error| panic!("{error:#}"));
        let (database, connection) = tokio_postgres::connect(deployment.database_url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        // No connection is kept: one belongs to the runtime of the test that opened it, and tests share a pipeline.
        let http = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
        Pipeline { deployment, binaries, database, http, orgs: AtomicU32::new(0) }
    }

    /// A new org with tokens of its own.
    pub async fn new_org(&self) -> Org<'_> {
        let id = format!("org-{}", self.orgs.fetch_add(1, Ordering::Relaxed));
        let tokens = self.deployment.add_org(&id).await.unwrap_or_else(|error| panic!("{error:#}"));
        Org {
            pipeline: self,
            identity: Identity { id, ingest_token: tokens.ingest, analyst_token: tokens.analyst },
        }
    }

    /// An org again, after [`Org::detach`].
    pub fn org(&self, identity: &Identity) -> Org<'_> {
        Org { pipeline: self, identity: identity.clone() }
    }

    /// Starts another instance of a service and waits until it is ready; its name.
    pub async fn another(&mut self, service: &str) -> String {
        let service = Service::ALL.into_iter().find(|known| known.name() == service).unwrap();
        let name = self.deployment.services.spawn(service).unwrap_or_else(|error| panic!("{error:#}"));
        self.deployment.services.until_ready(&name).await.unwrap_or_else(|error| panic!("{error:#}"));
        name
    }

    /// Grows a topic to so many partitions.
    pub async fn grow(&self, topic: &str, partitions: i32) {
        let kafka = KafkaArgs::new(self.brokers());
        Admin::new(&kafka).unwrap().add_partitions(&self.topic(topic), partitions).await.unwrap();
    }

    /// Pushes a body to an instance of ingest; its answer, which must be a 200.
    pub async fn push_to(
        &self,
        ingest: &str,
        org: &Identity,
        path: &str,
        content_type: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Value {
        let answer = self.answer(ingest, org, path, content_type, headers, body).await;
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The same, whatever it answers.
    pub async fn answer(
        &self,
        ingest: &str,
        org: &Identity,
        path: &str,
        content_type: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Response {
        let port = self.deployment.services.ports(ingest).unwrap().ingest;
        let mut request = self
            .http
            .post(format!("http://127.0.0.1:{port}{path}"))
            .bearer_auth(&org.ingest_token)
            .header("content-type", content_type);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(body).send().await.unwrap()
    }

    /// What ingest says of a receipt, which must be there.
    pub async fn receipt(&self, org: &Identity, id: &str) -> Value {
        let url = format!("{}/v1/receipts/{id}", self.ingest_url());
        let answer = self.http.get(url).bearer_auth(&org.ingest_token).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The value of a series, by the end of its name with its labels, as an instance of a service has it now.
    pub async fn metric(&self, name: &str, series: &str) -> f64 {
        let metrics = self.services().metrics(name).await.unwrap();
        let line =
            metrics.lines().find_map(|line| line.rsplit_once(' ').filter(|(name, _)| name.ends_with(series)));
        line.map_or(0.0, |(_, value)| value.parse().unwrap())
    }

    /// `http://host:port` of ingest.
    pub fn ingest_url(&self) -> String {
        self.deployment.services.ingest_url()
    }

    /// `http://host:port` of the API.
    pub fn api_url(&self) -> String {
        self.deployment.services.api_url()
    }

    /// `host:port` of the syslog listener, whose org is `demo`.
    pub fn syslog_tcp(&self) -> String {
        self.deployment.services.syslog_address()
    }

    /// Runs `tidewatch-partitions` on its database and topics until it ends; its output, which must be a success.
    pub async fn partitions(&self, args: &[&str]) -> String {
        let mut command = tokio::process::Command::new(self.binary("tidewatch-partitions"));
        command
            .args(args)
            .env("TIDEWATCH_DATABASE_URL", self.deployment.database_url())
            .env("TIDEWATCH_KAFKA_BROKERS", self.brokers())
            .env("TIDEWATCH_TOPIC_PREFIX", self.topic(""));
        let output = command.output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// `host:port` of the brokers.
    pub fn brokers(&self) -> &str {
        &self.deployment.services.options().kafka_brokers
    }

    /// The full name of a topic.
    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.deployment.services.options().topic_prefix)
    }

    /// Path of one of the project's binaries.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }

    /// The services, to read their readiness and metrics.
    pub fn services(&self) -> &tidewatch_dev::Services {
        &self.deployment.services
    }

    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// The one number that a query returns.
    pub async fn count(&self, query: &str) -> i64 {
        self.database.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
    }

    /// The one text column that a query returns.
    pub async fn texts(&self, query: &str) -> Vec<String> {
        let rows = self.database.query(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}"));
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Asks until the condition returns a value.
    ///
    /// # Panics
    /// With `what` when it does not within a minute.
    pub async fn until<T>(&self, what: &str, condition: impl AsyncFnMut() -> Option<T>) -> T {
        until(what, condition).await
    }

    /// SIGTERM to a service; how it ended.
    pub async fn terminate(&mut self, service: &str) -> ExitStatus {
        match self.deployment.services.terminate(service).await.unwrap_or_else(|error| panic!("{error:#}")) {
            Stopped::Exited(status) => status,
            Stopped::Killed => panic!("{service} did not end on SIGTERM"),
        }
    }

    /// Starts a terminated service again and waits until it is ready.
    pub async fn start_again(&mut self, service: &str) {
        self.deployment.services.restart(service).await.unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Waits until these many raw events are in the ledger; more never come.
    pub async fn until_received(&self, events: i64) {
        let query =
            "SELECT coalesce(sum(received - duplicates), 0)::bigint FROM sink_ledger WHERE topic = 'events'";
        let arrived = async || (self.count(query).await >= events).then_some(());
        if try_until(arrived).await.is_none() {
            let ledger = self
                .texts(
                    "SELECT format('%s/%s: %s received, %s duplicates, next %s, next source %s', topic, kpart,
                                   sum(received), sum(duplicates), max(next_offset), max(next_source))
                     FROM sink_ledger GROUP BY topic, kpart ORDER BY topic, kpart",
                )
                .await;
            let mut services = String::new();
            for service in ["enrich", "sink"] {
                let metrics = self.services().metrics(service).await.unwrap_or_default();
                metrics
                    .lines()
                    .filter(|line| line.contains("_lag") || line.contains("kafka_"))
                    .for_each(|line| services.push_str(&format!("{service}: {line}\n")));
            }
            let raw = std::process::Command::new("kcat")
                .args([
                    "-C",
                    "-b",
                    self.brokers(),
                    "-t",
                    &self.topic("events.raw"),
                    "-o",
                    "beginning",
                    "-e",
                    "-q",
                ])
                .args(["-f", "%p/%o "])
                .output()
                .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
                .unwrap_or_default();
            panic!("{events} raw events are not in the ledger:\n{}\n{services}raw: {raw}", ledger.join("\n"));
        }
    }

    /// Rows, identities, counts and ledger agree, and come to `events` in all.
    pub async fn assert_adds_up(&self, events: i64) {
        let rows = self.count("SELECT count(*) FROM events").await;
        let identities = self
            .count("SELECT count(*) FROM (SELECT DISTINCT kpart, koffset, kindex FROM events) AS i")
            .await;
        let quarantined = self.count("SELECT count(*) FROM quarantine WHERE stream = 'events'").await;
        let counted =
            self.count("SELECT coalesce(sum(n), 0)::bigint FROM counts WHERE stream = 'events'").await;
        assert_eq!(rows + quarantined, events, "rows and quarantine");
        assert_eq!(identities, rows, "each identity once");
        assert_eq!(counted, rows, "the counts table");
        let ledger = self
            .database
            .query_one(
                "SELECT sum(received)::bigint, sum(stored)::bigint, sum(quarantined)::bigint, sum(duplicates)::bigint
                 FROM sink_ledger WHERE topic = 'events'",
                &[],
            )
            .await
            .unwrap();
        let (received, stored, held, duplicates): (i64, i64, i64, i64) =
            (ledger.get(0), ledger.get(1), ledger.get(2), ledger.get(3));
        assert_eq!((stored, held), (rows, quarantined), "the ledger's stored and quarantined");
        assert_eq!(received, stored + held + duplicates, "the ledger adds up");
    }

    /// Everything that a loadgen journal says was acknowledged is stored.
    pub async fn assert_journal_is_stored(&self, journal: &Path) {
        let mut stored: BTreeMap<(String, i64), i64> = BTreeMap::new();
        let rows = self
            .database
            .query(
                "SELECT attributes ->> 'run', (attributes ->> 'seq')::bigint, count(*) FROM events
                 WHERE attributes ->> 'run' IS NOT NULL GROUP BY 1, 2",
                &[],
            )
            .await
            .unwrap();
        for row in rows {
            stored.insert((row.get(0), row.get(1)), row.get(2));
        }
        let mut acknowledged = 0;
        for (run, first, last) in crate::load::acknowledged(journal) {
            for seq in first..=last {
                acknowledged += 1;
                assert!(stored.contains_key(&(run.clone(), seq)), "acknowledged and not stored: {run} {seq}");
            }
        }
        assert!(acknowledged > 0, "the journal is empty");
    }
}
