//! The smallest service, with the faults that tests/lifecycle.rs looks at.
#![allow(clippy::panic, reason = "one of the faults")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use tidewatch_service as service;

/// The smallest service.
#[derive(Debug, clap::Parser)]
#[command(version)]
struct Config {
    #[command(flatten)]
    service: service::ServiceArgs,

    /// What goes wrong
    #[arg(long, value_enum, default_value = "nothing")]
    fault: Fault,

    /// Must be even
    #[arg(long, default_value_t = 2)]
    even: u32,

    /// The dependency "file" is up once this exists
    #[arg(long)]
    wait_for: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Fault {
    Nothing,
    /// The worker fails once the service is ready.
    Fails,
    /// A task nobody waits for panics.
    Panics,
    /// A panic is contained and the service goes on.
    Contains,
    /// The service does not watch for the shutdown.
    Ignores,
    /// Every thread of the runtime is blocked.
    Blocks,
}

impl service::Configuration for Config {
    fn validate(&self) -> Result<(), service::ConfigError> {
        if self.even % 2 == 1 {
            return Err(service::ConfigError::new("--even", format!("{} is odd", self.even)));
        }
        Ok(())
    }

    fn service(&self) -> &service::ServiceArgs {
        &self.service
    }

    fn default_admin_port() -> u16 {
        0
    }
}

async fn run(config: Config, context: service::Context) -> anyhow::Result<()> {
    let file = context.health.dependency("file");
    if let Some(path) = &config.wait_for {
        let file = file.clone().at(path.display().to_string());
        let found = context.shutdown.unless_requested(async {
            while !path.exists() {
                file.down("not found");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        if found.await.is_none() {
            return Ok(());
        }
    }
    file.up();
    tracing::info!("ready");

    let mut tasks = service::Tasks::new(&context.shutdown);
    let stopping = context.shutdown.requested();
    match config.fault {
        Fault::Nothing | Fault::Contains => {}
        Fault::Fails => tasks.critical("the worker", async { bail!("fenced") }),
        Fault::Panics => {
            tokio::spawn(async { panic!("out of cheese") });
        }
        Fault::Ignores => tasks.background(std::future::pending()),
        Fault::Blocks => loop {
            std::thread::park();
        },
    }
    if config.fault == Fault::Contains {
        let _ = service::contain(|| panic!("a poisonous record"));
        tracing::info!("went on");
    }
    if config.fault == Fault::Ignores {
        std::future::pending::<()>().await;
    }
    tasks.critical("the listener", async move {
        stopping.await;
        Ok(())
    });
    tasks.then("flush", Duration::from_secs(1), async {
        tracing::info!("flushed");
        Ok(())
    });
    tasks.run().await
}

fn main() -> ExitCode {
    service::main("tidewatch-lifecycle", run)
}
