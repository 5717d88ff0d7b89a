//! What the scenarios of one call have in common: backends, input, and what an undisturbed run of it comes to.

use std::path::PathBuf;

use anyhow::{Context, Result};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tidewatch_dev::{Backends, Kafka, KafkaOptions, Layout, Postgres, PostgresOptions, Scratch};

use crate::feed::{Acknowledged, Feed};
use crate::input::Input;
use crate::system::{System, Wishes};
use crate::verdict::{self, Incidents};

/// Records a second from each file: the input takes some eight seconds.
pub const RATE: u32 = 1_250;

/// One call of the program.
pub struct Session {
    /// The shared Kafka and Postgres, and the binaries under test.
    pub backends: Backends,
    /// What is pushed.
    pub input: Input,
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// Rounds of a scenario that has several.
    pub rounds: u32,
    layout: Layout,
    expected: Option<Incidents>,
}

/// A Kafka and a Postgres that a scenario may do anything to.
pub struct Own {
    /// The broker.
    pub kafka: Kafka,
    /// The server.
    pub postgres: Postgres,
    scratch: Scratch,
}

impl Own {
    /// A standby of the server.
    pub async fn standby(&self, session: &Session, name: &str) -> Result<Postgres> {
        let log = session.backends.logs.join(name).join("standby.log");
        let options = PostgresOptions::new(self.scratch.path().join("standby"), log)?;
        self.postgres.standby(options).await
    }
}

impl Session {
    /// On the backends of `tidewatch with-stack`.
    pub fn new(seed: u64, rounds: u32) -> Result<Session> {
        let backends = Backends::from_environment()?;
        Ok(Session {
            backends,
            input: Input::write(seed)?,
            seed,
            rounds,
            layout: Layout::find()?,
            expected: None,
        })
    }

    /// A source of chance for the scenario of this name: the same under the same seed, whichever others run.
    pub fn rng(&self, scenario: &str) -> StdRng {
        let mixed = scenario
            .bytes()
            .fold(self.seed, |seed, byte| seed.wrapping_mul(0x0000_0100_0000_01b3) ^ u64::from(byte));
        StdRng::seed_from_u64(mixed)
    }

    /// A system on the shared backends.
    pub async fn system(&self, wishes: Wishes) -> Result<System> {
        System::start(self.backends.clone(), wishes).await
    }

    /// A Kafka and a Postgres of the scenario's own.
    pub async fn own(&self, name: &str) -> Result<Own> {
        self.own_at(name, None).await
    }

    /// The same, with the data of Postgres in another directory.
    pub async fn own_at(&self, name: &str, data: Option<PathBuf>) -> Result<Own> {
        let scratch = Scratch::create(&self.layout.state().join("run"))?;
        let logs = self.backends.logs.join(name);
        let kafka = KafkaOptions::new(
            scratch.path().join("kafka"),
            self.layout.kafka_jars()?,
            logs.join("kafka.log"),
        )?;
        let postgres = PostgresOptions::new(
            data.unwrap_or_else(|| scratch.path().join("postgres")),
            logs.join("postgres.log"),
        )?;
        let (kafka, postgres) = tokio::try_join!(Kafka::start(kafka), Postgres::start(postgres))?;
        Ok(Own { kafka, postgres, scratch })
    }

    /// Three brokers and a Postgres of the scenario's own.
    pub async fn cluster(&self, name: &str) -> Result<(Vec<Kafka>, Postgres, Scratch)> {
        let scratch = Scratch::create(&self.layout.state().join("run"))?;
        let logs = self.backends.logs.join(name);
        let nodes = KafkaOptions::cluster(3, scratch.path(), &self.layout.kafka_jars()?, &logs)?;
        let mut brokers = Vec::new();
        for options in nodes {
            // The first is the controller that the others ask.
            brokers.push(Kafka::start(options).await?);
        }
        let postgres = PostgresOptions::new(scratch.path().join("postgres"), logs.join("postgres.log"))?;
        Ok((brokers, Postgres::start(postgres).await?, scratch))
    }

    /// A system on backends of the scenario's own.
    pub async fn system_on(&self, own: &Own, name: &str, wishes: Wishes) -> Result<System> {
        let backends = Backends {
            kafka_brokers: own.kafka.brokers(),
            superuser_url: own.postgres.superuser_url(),
            binaries: self.backends.binaries.clone(),
            logs: self.backends.logs.join(name),
        };
        System::start(backends, wishes).await
    }

    /// What the input comes to when nothing goes wrong; found out the first time it is asked for.
    pub async fn expect(&mut self) -> Result<()> {
        if self.expected.is_some() {
            return Ok(());
        }
        let mut system = self.system(Wishes::default()).await.context("the undisturbed run")?;
        let mut feed = system.feed(&self.input, 1_000_000)?;
        let acknowledged = feed.finish().await?;
        system.drain().await?;
        verdict::judge(&system, &self.input, &acknowledged, None).await.context("the undisturbed run")?;
        let incidents = verdict::incidents(&system).await?;
        anyhow::ensure!(!incidents.is_empty(), "the undisturbed run has no incident");
        self.expected = Some(incidents);
        system.stop().await
    }

    /// Incidents of the undisturbed run.
    pub fn expected(&self) -> Option<&Incidents> {
        self.expected.as_ref()
    }

    /// Waits for the end of the pushes and of everything behind them, and judges.
    pub async fn conclude(&self, system: &mut System, feed: Feed) -> Result<()> {
        let acknowledged = self.end(system, feed).await?;
        verdict::judge(system, &self.input, &acknowledged, self.expected()).await
    }

    /// Waits for the end of the pushes and of everything behind them.
    pub async fn end(&self, system: &mut System, mut feed: Feed) -> Result<Acknowledged> {
        let acknowledged = system.supervise(feed.finish()).await?;
        system.drain().await?;
        Ok(acknowledged)
    }
}
