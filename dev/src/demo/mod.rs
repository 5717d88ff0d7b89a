//! `tidewatch demo`: the whole system on sample traffic, from nothing to the incidents an analyst gets.

mod incidents;
mod progress;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tidewatch_dev::process::{Launch, Process};
use tidewatch_dev::{Layout, Scratch};
use tokio::signal::unix::{SignalKind, signal};
use tokio_postgres::NoTls;

use crate::run_logs::RunLogs;
use crate::settings::Settings;
use crate::stack::Stack;
use progress::{Counts, Progress};

/// Sample traffic takes a second or two; a busy machine several.
const REPLAY_PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Runs until Ctrl-C, or with `once` until the incidents are shown. Fails when an expected one is missing.
pub async fn run(once: bool) -> Result<ExitCode> {
    let layout = Layout::find()?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let logs = RunLogs::create(&layout, "demo")?;
    let scratch = Scratch::create(&layout.state().join("run"))?;

    // Before the stack is complete a signal drops what runs, which ends it; afterwards it is stopped in order.
    let shown = async {
        let stack = start(&layout, scratch.path(), logs.path()).await?;
        let complete = show(&stack, logs.path()).await?;
        anyhow::Ok((stack, complete))
    };
    let (stack, complete) = tokio::select! {
        shown = shown => shown.with_context(|| format!("logs are in {}", logs.path().display()))?,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    };
    if !once {
        print_access(&stack)?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
    eprintln!("Stopping");
    stack.stop(|line| eprintln!("{line}")).await?;
    drop(scratch);
    if complete {
        logs.discard()?;
        Ok(ExitCode::SUCCESS)
    } else {
        eprintln!("Logs are in {}", logs.path().display());
        Ok(ExitCode::FAILURE)
    }
}

async fn start(layout: &Layout, directory: &Path, logs: &Path) -> Result<Stack> {
    let started = Instant::now();
    let stack = Stack::start(layout, directory, logs, Settings::new(), |line| eprintln!("{line}")).await?;
    eprintln!("Ready after {:.1} s", started.elapsed().as_secs_f32());
    Ok(stack)
}

/// Replays the sample traffic and shows its incidents; false when expected ones or stored events are missing.
async fn show(stack: &Stack, logs: &Path) -> Result<bool> {
    eprintln!(
        "Replaying sample traffic: an SSH brute force that succeeds, a web scan, a data leak found by a scan"
    );
    let loadgen = replay(stack, logs)?;
    let client = reqwest::Client::new();
    let (ledger, connection) = tokio_postgres::connect(stack.deployment.database_url(), NoTls).await?;
    tokio::spawn(connection);
    let progress = Progress::start();
    let deadline = Instant::now() + REPLAY_PATIENCE;
    let (found, counts) = loop {
        let found = incidents::read(&client, stack).await?;
        let counts = Counts::read(stack, &ledger, found.len()).await?;
        progress.show(&counts);
        let replayed = match loadgen.exit_status() {
            Some(status) if !status.success() => {
                bail!("tidewatch-loadgen failed ({status}):\n{}", loadgen.log_tail())
            }
            status => status.is_some(),
        };
        let complete = replayed && counts.settled() && incidents::missing(&found).is_empty();
        if complete || Instant::now() > deadline {
            break (found, counts);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    };
    progress.end();
    let missing = incidents::missing(&found);
    println!("\n{}", incidents::table(&found));
    for title in &missing {
        eprintln!("error: there is no incident `{title}`");
    }
    if !counts.settled() {
        eprintln!("error: after {} s there is still work to do: {counts}", REPLAY_PATIENCE.as_secs());
    }
    Ok(missing.is_empty() && counts.settled())
}

fn replay(stack: &Stack, logs: &Path) -> Result<Process> {
    let services = &stack.deployment.services;
    Process::start(Launch {
        name: "tidewatch-loadgen".into(),
        program: services.options().binaries.join("tidewatch-loadgen"),
        arguments: ["scenario", "sample", "--seed", "1"].map(String::from).to_vec(),
        environment: vec![
            ("TIDEWATCH_INGEST_URL".into(), services.ingest_url()),
            ("TIDEWATCH_INGEST_TOKEN".into(), stack.deployment.tokens().ingest.clone()),
        ],
        log: logs.join("loadgen.log"),
        user: None,
        end_signal: Signal::SIGKILL,
    })
}

/// Where everything is, and three things to try.
fn print_access(stack: &Stack) -> Result<()> {
    let services = &stack.deployment.services;
    let (ingest, api) = (services.ingest_url(), services.api_url());
    let tokens = stack.deployment.tokens();
    println!();
    for (name, value) in stack.variables()? {
        println!("  {name}={value}");
    }
    println!("\nTry, in another terminal:\n");
    println!("  curl -s -H 'Authorization: Bearer {}' '{api}/v1/incidents?status=open'\n", tokens.analyst);
    println!("  curl -s -H 'Authorization: Bearer {}' '{api}/v1/events?limit=3'\n", tokens.analyst);
    println!(
        "  curl -s -H 'Authorization: Bearer {}' -H 'Content-Type: application/json' '{ingest}/v1/events' \\\n    -d \
         '{{\"message\":\"hello from curl\",\"host\":\"laptop\",\"user\":\"me\"}}'\n",
        tokens.ingest
    );
    println!("Ctrl-C stops everything; nothing is kept.");
    Ok(())
}
