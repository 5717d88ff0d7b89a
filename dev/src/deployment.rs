//! From an empty Kafka and Postgres to a running system with an org and its tokens.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio_postgres::NoTls;

use crate::backends::Backends;
use crate::layout::Layout;
use crate::postgres::database_url;
use crate::services::{Service, ServiceOptions, ServicePorts, Services};

/// The role that owns the databases: no superuser, as in production.
const ROLE: &str = "tidewatch";

/// What to make, and where.
#[derive(Debug, Clone)]
pub struct DeploymentOptions {
    /// Kafka, Postgres, binaries and logs.
    pub backends: Backends,
    /// Made if it does not exist; letters, digits and underscores.
    pub database: String,
    /// Put before every topic and consumer group.
    pub topic_prefix: String,
    /// The org of the tokens, of syslog and of foreign records.
    pub org: String,
    /// The rule directory.
    pub rules: PathBuf,
    /// Where clients connect.
    pub ports: ServicePorts,
    /// More variables for some services.
    pub environment: Vec<(Service, String, String)>,
    /// Tokens of an earlier run on the same data; made when there are none.
    pub tokens: Option<Tokens>,
    /// Copies of each partition of the topics.
    pub replication: u32,
    /// See [`ServiceOptions::named_instances`].
    pub named_instances: bool,
}

impl DeploymentOptions {
    /// A random database and topic prefix, free ports, the shipped rules, org `demo`: nothing is shared with another
    /// test on the same Kafka and Postgres.
    pub fn for_test(backends: Backends) -> Result<DeploymentOptions> {
        let database = format!("t_{:016x}", rand::random::<u64>());
        let logs = backends.logs.join(&database);
        Ok(DeploymentOptions {
            backends: Backends { logs, ..backends },
            topic_prefix: format!("{database}."),
            database,
            org: "demo".into(),
            rules: Layout::find()?.rules(),
            ports: ServicePorts::free()?,
            environment: vec![],
            tokens: None,
            replication: 1,
            named_instances: false,
        })
    }
}

/// Bearer tokens of one org.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// For pushes.
    pub ingest: String,
    /// For the API.
    pub analyst: String,
}

/// A database, topics, an org with tokens, and services that run on them.
#[derive(Debug)]
pub struct Deployment {
    /// Not started yet after [`Deployment::prepare`].
    pub services: Services,
    tokens: Tokens,
    partitions: Partitions,
}

impl Deployment {
    /// Makes database, tables, month partitions, topics, org and tokens, as far as they do not exist.
    pub async fn prepare(options: DeploymentOptions) -> Result<Deployment> {
        let DeploymentOptions {
            backends,
            database,
            topic_prefix,
            org,
            rules,
            ports,
            environment,
            tokens,
            replication,
            named_instances,
        } = options;
        create_database(&backends.superuser_url, &database).await?;
        let partitions = Partitions {
            program: backends.binaries.join("tidewatch-partitions"),
            environment: vec![
                ("TIDEWATCH_DATABASE_URL", database_url(&backends.superuser_url, ROLE, &database)?),
                ("TIDEWATCH_KAFKA_BROKERS", backends.kafka_brokers.clone()),
                ("TIDEWATCH_TOPIC_PREFIX", topic_prefix.clone()),
                ("TIDEWATCH_REPLICATION", replication.to_string()),
            ],
        };
        for step in ["migrate", "apply", "topics"] {
            partitions.run(&[step]).await?;
        }
        let tokens = match tokens {
            Some(tokens) => tokens,
            None => partitions.org_with_tokens(&org).await?,
        };
        let services = Services::new(ServiceOptions {
            binaries: backends.binaries,
            logs: backends.logs,
            kafka_brokers: backends.kafka_brokers,
            topic_prefix,
            database_url: database_url(&backends.superuser_url, ROLE, &database)?,
            rules,
            org,
            ports,
            environment,
            named_instances,
        });
        Ok(Deployment { services, tokens, partitions })
    }

    /// [`Deployment::prepare`], then one of each service, ready.
    pub async fn start(options: DeploymentOptions) -> Result<Deployment> {
        let mut deployment = Deployment::prepare(options).await?;
        deployment.services.start_all().await?;
        Ok(deployment)
    }

    /// Tokens of the org named in the options.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The services' database, as its owner.
    pub fn database_url(&self) -> &str {
        &self.services.options().database_url
    }

    /// Makes another org with tokens of its own.
    pub async fn add_org(&self, org: &str) -> Result<Tokens> {
        self.partitions.org_with_tokens(org).await
    }

    /// Runs `tidewatch-partitions` with these arguments and returns its standard output.
    pub async fn partitions(&self, arguments: &[&str]) -> Result<String> {
        self.partitions.run(arguments).await
    }
}

/// `tidewatch-partitions`, told which database and which Kafka.
#[derive(Debug)]
struct Partitions {
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Partitions {
    async fn run(&self, arguments: &[&str]) -> Result<String> {
        let Partitions { program, environment } = self;
        if !program.is_file() {
            bail!("{} is missing; `make build` makes it", program.display());
        }
        let mut command = Command::new(program);
        command.args(arguments).envs(environment.clone()).stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.with_context(|| format!("starting {}", program.display()))?;
        if !output.status.success() {
            let (printed, said) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            bail!("tidewatch-partitions {} failed ({}): {printed}{said}", arguments.join(" "), output.status);
        }
        String::from_utf8(output.stdout).context("tidewatch-partitions prints UTF-8")
    }

    async fn org_with_tokens(&self, org: &str) -> Result<Tokens> {
        self.run(&["org", "create", org]).await?;
        Ok(Tokens { ingest: self.token(org, "ingest").await?, analyst: self.token(org, "analyst").await? })
    }

    async fn token(&self, org: &str, kind: &str) -> Result<String> {
        #[derive(Deserialize)]
        struct Created {
            token: String,
        }
        let arguments = ["token", "create", "--org", org, "--kind", kind, "--format", "json"];
        let answer = self.run(&arguments).await?;
        let created: Created = serde_json::from_str(answer.trim()).with_context(|| {
            format!("tidewatch-partitions {} does not answer {{\"token\"}}", arguments.join(" "))
        })?;
        Ok(created.token)
    }
}

async fn create_database(superuser_url: &str, name: &str) -> Result<()> {
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        bail!("{name:?} is no database name: letters, digits and underscores");
    }
    let (client, connection) =
        tokio_postgres::connect(superuser_url, NoTls).await.context("connecting to Postgres")?;
    let connection = tokio::spawn(connection);
    let known = client.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&name]).await?;
    if known.is_none() {
        // template0: nobody can be connected to it, which would make this fail.
        client.batch_execute(&format!("CREATE DATABASE {name} OWNER {ROLE} TEMPLATE template0")).await?;
    }
    drop(client);
    connection.await.context("the connection's task")?.with_context(|| format!("creating database {name}"))
}
