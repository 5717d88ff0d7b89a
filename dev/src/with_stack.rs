//! `tidewatch with-stack -- COMMAND`.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tidewatch_dev::{Layout, Stack};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::run_logs::RunLogs;

/// How long what the command left behind may take to end after SIGTERM.
const LEFTOVER_PATIENCE: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Starts Kafka and Postgres, runs the command, stops everything whatever happened, returns the command's exit code.
/// Logs are kept when the command failed.
pub async fn run(command: Vec<OsString>) -> Result<ExitCode> {
    let layout = Layout::find()?;
    let logs = RunLogs::create(&layout, "with-stack")?;
    // Before anything is started: from here on a signal ends the command, then the stack.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    nix::sys::prctl::set_child_subreaper(true).context("asking to adopt what the command leaves behind")?;

    eprintln!("Starting Kafka and Postgres (logs in {})", logs.path().display());
    let started = Instant::now();
    let stack = tokio::select! {
        stack = Stack::start(&layout, logs.path()) => stack?,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
        _ = hangup.recv() => bail!("hung up"),
    };
    eprintln!("Started in {:.1} s", started.elapsed().as_secs_f32());

    let Some((program, arguments)) = command.split_first() else { bail!("no command given") };
    let backends = stack.backends(Layout::binaries()?, logs.path().to_owned());
    // Started from the main thread, which lives as long as this process: if that is killed, the command ends too.
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "SIGTERM", "--"])
        .arg(program)
        .args(arguments)
        .envs(backends.environment())
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            // The terminal has sent it to the command as well, which decides what to make of it.
            _ = interrupt.recv() => {}
            _ = terminate.recv() => forward(&child, Signal::SIGTERM),
            _ = hangup.recv() => forward(&child, Signal::SIGHUP),
        }
    };
    end_leftovers(stack.pids()).await?;
    stack.stop().await?;
    if status.success() {
        logs.discard()?;
    } else {
        eprintln!("{}: {status}; logs are in {}", program.display(), logs.path().display());
    }
    Ok(exit_code(status))
}

fn forward(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid {
        // It may have ended in this moment, which the loop is about to see.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// As a shell does it: 128 + signal for a command that a signal ended.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Ends what the command started and did not wait for: this process has adopted it. A process that ends hands its own
/// children over in turn, so this goes on until there are none.
async fn end_leftovers(own: [i32; 2]) -> Result<()> {
    let deadline = Instant::now() + LEFTOVER_PATIENCE;
    let mut told = HashSet::new();
    loop {
        let leftovers = adopted(own)?;
        if leftovers.is_empty() {
            return Ok(());
        }
        for (pid, name) in leftovers {
            let late = Instant::now() > deadline;
            if told.insert(pid) {
                eprintln!("the command left {name} ({pid}) running; ending it");
                let _ = kill(pid, Signal::SIGTERM);
            } else if late {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Living children of this process besides its own two. Dead ones are laid to rest on the way.
fn adopted(own: [i32; 2]) -> Result<Vec<(Pid, String)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("reading /proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // It may end while it is looked at.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Some((name, parent)) = name_and_parent(&stat) else { continue };
        if parent != Pid::this().as_raw() || own.contains(&pid) {
            continue;
        }
        let pid = Pid::from_raw(pid);
        if !matches!(
            waitpid(pid, Some(WaitPidFlag::WNOHANG)),
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..))
        ) {
            found.push((pid, name.into()));
        }
    }
    Ok(found)
}

/// From `pid (name) state parent …`, where a name may hold parentheses and spaces.
fn name_and_parent(stat: &str) -> Option<(&str, i32)> {
    let (head, tail) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    Some((name, tail.split_whitespace().nth(1)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_parent_are_read_past_odd_names() {
        assert_eq!(name_and_parent("42 (a) b (c) S 7 42 42 0"), Some(("a) b (c", 7)));
        assert_eq!(name_and_parent("42"), None);
    }
}
