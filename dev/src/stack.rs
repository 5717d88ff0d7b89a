//! The whole system in one directory: Kafka, Postgres, and every service ready on them.

use std::path::Path;

use anyhow::{Context, Result};
use tidewatch_dev::{
    Backends, Deployment, DeploymentOptions, Kafka, KafkaOptions, Layout, Postgres, PostgresOptions, Tokens,
    database_url,
};

use crate::settings::Settings;

/// The org of demo and background stack.
pub const ORG: &str = "demo";
const DATABASE: &str = "tidewatch";
/// Room for a demo's burst; tests get by with half of it.
const KAFKA_HEAP_MEBIBYTES: u32 = 1024;

/// A running system.
#[derive(Debug)]
pub struct Stack {
    /// The broker.
    pub kafka: Kafka,
    /// The database server.
    pub postgres: Postgres,
    /// Services and tokens.
    pub deployment: Deployment,
}

impl Stack {
    /// Starts everything on the ports of `settings`, which are chosen anew where they are taken, and keeps those and
    /// the tokens in `directory`. Tells what it does, line by line.
    pub async fn start(
        layout: &Layout,
        directory: &Path,
        logs: &Path,
        mut settings: Settings,
        tell: impl Fn(&str),
    ) -> Result<Stack> {
        std::fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
        settings.ports = settings.ports.free_or_others()?;
        settings.store(directory)?;

        tell("Starting Kafka and Postgres");
        let kafka = KafkaOptions {
            directory: directory.join("kafka"),
            jars: layout.kafka_jars()?,
            log: logs.join("kafka.log"),
            port: settings.ports.kafka,
            controller_port: settings.ports.kafka_controller,
            heap_mebibytes: KAFKA_HEAP_MEBIBYTES,
            member: None,
        };
        let postgres = PostgresOptions {
            directory: directory.join("postgres"),
            log: logs.join("postgres.log"),
            port: settings.ports.postgres,
            password: settings.password.clone(),
        };
        let (kafka, postgres) = tokio::try_join!(Kafka::start(kafka), Postgres::start(postgres))?;

        tell("Creating tables, month partitions and topics");
        let options = DeploymentOptions {
            backends: Backends {
                kafka_brokers: kafka.brokers(),
                superuser_url: postgres.superuser_url(),
                binaries: Layout::binaries()?,
                logs: logs.to_owned(),
            },
            database: DATABASE.into(),
            topic_prefix: String::new(),
            org: ORG.into(),
            rules: layout.rules(),
            ports: settings.ports.services,
            environment: vec![],
            tokens: settings.tokens.take(),
            replication: 1,
            named_instances: false,
        };
        let mut deployment = Deployment::prepare(options).await?;
        settings.tokens = Some(deployment.tokens().clone());
        settings.store(directory)?;

        tell("Starting the services");
        deployment.services.start_all().await?;
        Ok(Stack { kafka, postgres, deployment })
    }

    /// Starts again what has ended by itself; returns the names.
    pub async fn revive(&mut self) -> Result<Vec<String>> {
        let mut revived = Vec::new();
        if self.kafka.process().exit_status().is_some() {
            self.kafka.restart().await?;
            revived.push("kafka".to_owned());
        }
        if self.postgres.process().exit_status().is_some() {
            self.postgres.restart().await?;
            revived.push("postgres".to_owned());
        }
        revived.extend(self.deployment.services.revive()?);
        Ok(revived)
    }

    /// Stops the services in order, then what they stand on; says which had to be killed.
    pub async fn stop(self, tell: impl Fn(&str)) -> Result<()> {
        for name in self.deployment.services.stop().await? {
            tell(&format!("{name} did not stop in time and was killed"));
        }
        tokio::try_join!(self.kafka.stop(), self.postgres.stop())?;
        Ok(())
    }

    /// What a user's shell needs to talk to it.
    pub fn variables(&self) -> Result<[(&'static str, String); 8]> {
        let services = &self.deployment.services;
        let Tokens { ingest, analyst } = self.deployment.tokens().clone();
        Ok([
            ("TIDEWATCH_INGEST_URL", services.ingest_url()),
            ("TIDEWATCH_SYSLOG_TCP", services.syslog_address()),
            ("TIDEWATCH_SYSLOG_UDP", services.syslog_address()),
            ("TIDEWATCH_API_URL", services.api_url()),
            ("TIDEWATCH_INGEST_TOKEN", ingest),
            ("TIDEWATCH_ANALYST_TOKEN", analyst),
            ("TIDEWATCH_KAFKA_BROKERS", self.kafka.brokers()),
            ("TIDEWATCH_DATABASE_URL", database_url(&self.postgres.superuser_url(), "tidewatch", DATABASE)?),
        ])
    }
}
