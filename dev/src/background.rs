//! `tidewatch up`, `down` and `status`: the stack in the background, its data kept.
//!
//! `up` starts `tidewatch supervise` in a session of its own and relays what it says until everything is ready. The
//! supervisor holds a lock for as long as it lives, which is how the others know that it runs.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tidewatch_dev::{Kafka, Layout, Postgres, Readiness};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::signal::unix::{SignalKind, signal};

use crate::lock::Lock;
use crate::settings::{Settings, env_file, write_private};
use crate::stack::Stack;

/// Seven services at up to 12 s each, one after the other, then Kafka and Postgres; seldom more than three in all.
const DOWN_PATIENCE: Duration = Duration::from_secs(120);
const REVIVE_INTERVAL: Duration = Duration::from_secs(1);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What runs, for `status`: written by the supervisor whenever it changes.
#[derive(Debug, Serialize, Deserialize)]
struct Running {
    kafka_brokers: String,
    superuser_url: String,
    processes: Vec<RunningProcess>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RunningProcess {
    name: String,
    pid: i32,
    /// None for Kafka and Postgres.
    admin_port: Option<u16>,
    restarts: u32,
}

/// Starts the stack unless it runs already, and returns when it is ready.
pub async fn up() -> Result<ExitCode> {
    let layout = Layout::find()?;
    if supervisor(&layout)?.is_some() {
        println!(
            "Already running; `make status` shows what, {} how to reach it",
            layout.env_file().display()
        );
        return Ok(ExitCode::SUCCESS);
    }
    let logs = layout.logs();
    std::fs::create_dir_all(&logs).with_context(|| format!("creating {}", logs.display()))?;
    keep_one_older(&logs)?;
    let log = File::options().create(true).append(true).open(logs.join("tidewatch.log"))?;
    let mut child = tokio::process::Command::new(std::env::current_exe()?)
        .arg("supervise")
        .current_dir(layout.root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("starting the supervisor")?;
    let said = child.stdout.take().context("the supervisor's output")?;
    let mut lines = BufReader::new(said).lines();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            line = lines.next_line() => match line? {
                Some(line) => println!("{line}"),
                None => break,
            },
            _ = interrupt.recv() => end(&child),
            _ = terminate.recv() => end(&child),
        }
    }
    // The supervisor lets go of its output when everything is ready, having written that file, or when it ends.
    if running_file(&layout).is_file() {
        return Ok(ExitCode::SUCCESS);
    }
    let status = child.wait().await?;
    bail!("the stack did not start ({status}); logs are in {}", logs.display())
}

/// Stops the stack and returns when all of it is gone.
pub async fn down() -> Result<ExitCode> {
    let layout = Layout::find()?;
    let Some(pid) = supervisor(&layout)? else {
        println!("Nothing runs");
        return Ok(ExitCode::SUCCESS);
    };
    println!("Stopping");
    let started = Instant::now();
    kill(pid, Signal::SIGTERM).with_context(|| format!("stopping the supervisor ({pid})"))?;
    while supervisor(&layout)?.is_some() {
        if started.elapsed() > DOWN_PATIENCE {
            bail!("the supervisor ({pid}) has not ended after {} s", DOWN_PATIENCE.as_secs());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    println!(
        "Stopped after {:.1} s; data is kept in {}",
        started.elapsed().as_secs_f32(),
        layout.data().display()
    );
    Ok(ExitCode::SUCCESS)
}

/// Shows every process, whether it is ready, and why not. Succeeds when all are.
pub async fn status() -> Result<ExitCode> {
    let layout = Layout::find()?;
    let running = running_file(&layout);
    if supervisor(&layout)?.is_none() {
        println!("Nothing runs; `make up` starts it");
        return Ok(ExitCode::FAILURE);
    }
    let Ok(bytes) = std::fs::read(&running) else {
        println!("Still starting");
        return Ok(ExitCode::FAILURE);
    };
    let running: Running =
        serde_json::from_slice(&bytes).with_context(|| format!("reading {}", running.display()))?;
    let client = reqwest::Client::new();
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(["process", "pid", "ready", "detail"]);
    let mut all_ready = true;
    for RunningProcess { name, pid, admin_port, restarts } in &running.processes {
        let (ready, detail) = match admin_port {
            Some(port) => match Readiness::ask(&client, *port).await {
                Ok(answer) => (answer.ready, answer.missing()),
                Err(error) => (false, format!("{error:#}")),
            },
            None if name == "kafka" => {
                (Kafka::answers(&running.kafka_brokers).await, running.kafka_brokers.clone())
            }
            None => {
                (Postgres::answers(&running.superuser_url).await, address(&running.superuser_url).to_owned())
            }
        };
        all_ready &= ready;
        let detail = match restarts {
            0 => detail,
            _ => format!("{detail}{}restarted {restarts} ×", if detail.is_empty() { "" } else { "; " }),
        };
        table.add_row([name.clone(), pid.to_string(), if ready { "yes" } else { "no" }.to_owned(), detail]);
    }
    println!("{table}");
    Ok(if all_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The stack's parent, in the background: starts everything, starts again what ends by itself, stops everything when
/// asked to.
pub async fn supervise() -> Result<ExitCode> {
    let layout = Layout::find()?;
    // Not to be hung up with the terminal `up` was typed into.
    nix::unistd::setsid().context("leaving the terminal's session")?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let Some(lock) = Lock::take(&lock_file(&layout))? else { bail!("another supervisor runs already") };
    // Until the process is gone, not only this function: `down` waits for that.
    std::mem::forget(lock);
    remove_stale(&running_file(&layout))?;
    let data = layout.data();
    let logs = layout.logs();
    let settings = Settings::load(&data)?;
    let stack = tokio::select! {
        stack = Stack::start(&layout, &data, &logs, settings, tell) => stack,
        _ = terminate.recv() => bail!("terminated while starting"),
        _ = interrupt.recv() => bail!("interrupted while starting"),
    };
    let mut stack = match stack {
        Ok(stack) => stack,
        Err(error) => {
            tell(&format!("error: {error:#}"));
            return Ok(ExitCode::FAILURE);
        }
    };
    write_private(&layout.env_file(), env_file(&stack.variables()?).as_bytes())?;
    let mut restarts = Vec::new();
    write_running(&layout, &stack, &restarts)?;
    tell(&format!("Ready. In a shell: . {}", layout.env_file().display()));
    let log = File::options().create(true).append(true).open(logs.join("tidewatch.log"))?;
    nix::unistd::dup2_stdout(&log).context("turning standard output to the log")?;

    let mut ticks = tokio::time::interval(REVIVE_INTERVAL);
    loop {
        let look = async {
            ticks.tick().await;
            stack.revive().await
        };
        let revived = tokio::select! {
            revived = look => revived,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        };
        match revived {
            Ok(names) if names.is_empty() => continue,
            Ok(names) => {
                tell(&format!("ended by itself and started again: {}", names.join(", ")));
                restarts.extend(names);
            }
            Err(error) => tell(&format!("starting again what ended: {error:#}")),
        }
        write_running(&layout, &stack, &restarts)?;
    }
    remove_stale(&running_file(&layout))?;
    stack.stop(tell).await?;
    Ok(ExitCode::SUCCESS)
}

/// One line for `up`, or for the log once nobody reads.
fn tell(line: &str) {
    // Whoever ran `up` may have gone; that is no reason to end.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn end(child: &tokio::process::Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

fn write_running(layout: &Layout, stack: &Stack, restarts: &[String]) -> Result<()> {
    let process = |name: &str, pid: i32, admin_port: Option<u16>| RunningProcess {
        name: name.to_owned(),
        pid,
        admin_port,
        restarts: restarts
            .iter()
            .filter(|restarted| *restarted == name)
            .count()
            .try_into()
            .unwrap_or(u32::MAX),
    };
    let mut processes = vec![
        process("kafka", stack.kafka.process().pid(), None),
        process("postgres", stack.postgres.process().pid(), None),
    ];
    for (name, admin_port, running) in stack.deployment.services.list() {
        processes.extend(running.map(|running| process(name, running.pid(), Some(admin_port))));
    }
    let running = Running {
        kafka_brokers: stack.kafka.brokers(),
        superuser_url: stack.postgres.superuser_url(),
        processes,
    };
    write_private(&running_file(layout), &serde_json::to_vec_pretty(&running)?)
}

fn running_file(layout: &Layout) -> PathBuf {
    layout.data().join("running.json")
}

fn lock_file(layout: &Layout) -> PathBuf {
    layout.data().join("lock")
}

/// The running supervisor, if any.
fn supervisor(layout: &Layout) -> Result<Option<Pid>> {
    Lock::holder(&lock_file(layout))
}

/// `x.log` becomes `x.log.1`, so that logs tell of this run and the one before.
fn keep_one_older(logs: &Path) -> Result<()> {
    for entry in std::fs::read_dir(logs).with_context(|| format!("reading {}", logs.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            std::fs::rename(&path, path.with_extension("log.1"))
                .with_context(|| format!("renaming {}", path.display()))?;
        }
    }
    Ok(())
}

fn remove_stale(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// `host:port` of a URL.
fn address(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}
