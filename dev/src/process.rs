//! Child processes that never outlive their parent.
//!
//! Linux ties a parent-death signal to the *thread* that started the child, so all children are started from one
//! thread that lives as long as the process does; `setpriv` (util-linux) sets the signal, and the user where it is to
//! be another one, between fork and exec, which keeps `unsafe` out of here. A child's own children are its own affair:
//! Postgres' end with it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Gid, Pid, Uid};
use tokio::sync::watch;

/// How long a dropped process may take to end before it is killed.
const DROP_PATIENCE: Duration = Duration::from_secs(5);
/// How much of the end of a log a failure shows.
const LOG_TAIL_BYTES: u64 = 4 * 1024;
const LOG_TAIL_LINES: usize = 15;

/// What to start, and how it is to end.
#[derive(Debug)]
pub struct Launch {
    /// For people: messages and tables.
    pub name: String,
    /// A path, or a name looked up on PATH.
    pub program: PathBuf,
    /// Arguments of the program.
    pub arguments: Vec<String>,
    /// Variables set on top of the parent's environment, from which everything named `TIDEWATCH_…` is removed first:
    /// a child is told everything or takes the defaults.
    pub environment: Vec<(String, String)>,
    /// Standard output and error are appended here.
    pub log: PathBuf,
    /// Another user to run as; only root can ask for it.
    pub user: Option<(Uid, Gid)>,
    /// Sent when the parent has ended, or drops the [`Process`].
    pub end_signal: Signal,
}

/// A running or ended child.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    log: PathBuf,
    log_start: u64,
    end_signal: Signal,
    state: Arc<State>,
    exits: watch::Receiver<Option<ExitStatus>>,
}

#[derive(Debug, Default)]
struct State {
    exited: Mutex<Option<ExitStatus>>,
    changed: Condvar,
}

/// How a process that was asked to stop has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It ended by itself, in time.
    Exited(ExitStatus),
    /// It did not, and was killed.
    Killed,
}

type Request = (Command, mpsc::Sender<std::io::Result<std::process::Child>>);

/// The thread that starts every child, and never ends.
static SPAWNER: LazyLock<Option<mpsc::Sender<Request>>> = LazyLock::new(|| {
    let (requests, inbox) = mpsc::channel::<Request>();
    let spawner = move || {
        for (mut command, reply) in inbox {
            // A caller that went away drops the child handle, not the child; there is none such.
            let _ = reply.send(command.spawn());
        }
    };
    thread::Builder::new().name("spawner".into()).spawn(spawner).ok().map(|_| requests)
});

impl Process {
    /// Starts the program. It has its own process group, so that Ctrl-C reaches the parent alone, which then stops its
    /// children in order.
    pub fn start(launch: Launch) -> Result<Process> {
        let Launch { name, program, arguments, environment, log, user, end_signal } = launch;
        let output = open_log(&log)?;
        let log_start = output.metadata().map(|metadata| metadata.len()).unwrap_or_default();

        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig").arg(end_signal.as_str());
        if let Some((uid, gid)) = user {
            command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--init-groups".into()]);
        }
        command.arg("--").arg(&program).args(arguments);
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("TIDEWATCH_") {
                command.env_remove(key);
            }
        }
        command.envs(environment);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        if user.is_some() {
            // The caller's directory may be closed to that user.
            command.current_dir("/");
        }

        let child = spawn(command).with_context(|| {
            format!("starting {name} through setpriv (package util-linux): {}", program.display())
        })?;
        let pid = Pid::from_raw(i32::try_from(child.id()).context("a pid beyond i32")?);
        let state = Arc::new(State::default());
        let (report, exits) = watch::channel(None);
        let reaper = {
            let state = Arc::clone(&state);
            move || reap(child, pid, &state, &report)
        };
        thread::Builder::new().name(format!("reap {name}")).spawn(reaper).context("starting a thread")?;
        Ok(Process { name, pid, log, log_start, end_signal, state, exits })
    }

    /// The name given at the start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id; its owner may have ended since.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// How it ended, if it has.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *lock(&self.state)
    }

    /// Waits until it has ended.
    pub async fn exited(&self) -> ExitStatus {
        let mut exits = self.exits.clone();
        let status = exits.wait_for(Option::is_some).await.ok().and_then(|status| *status);
        status.unwrap_or_else(|| ExitStatus::from_raw(0))
    }

    /// Sends a signal; nothing happens when the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // The lock is held: the reaper cannot free the pid for another process meanwhile.
        let exited = lock(&self.state);
        if exited.is_none() {
            kill(self.pid, signal)
                .with_context(|| format!("sending {signal} to {} ({})", self.name, self.pid))?;
        }
        Ok(())
    }

    /// Sends `signal`, waits up to `patience`, then kills.
    pub async fn stop(&self, signal: Signal, patience: Duration) -> Result<Stopped> {
        self.signal(signal)?;
        if let Ok(status) = tokio::time::timeout(patience, self.exited()).await {
            return Ok(Stopped::Exited(status));
        }
        self.kill().await?;
        Ok(Stopped::Killed)
    }

    /// kill -9, and waits until the process is gone.
    pub async fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.exited().await;
        Ok(())
    }

    /// The end of what it has logged since this start, for a message.
    pub fn log_tail(&self) -> String {
        log_tail(&self.log, self.log_start).unwrap_or_default()
    }

    /// Waits until it has ended by itself, up to `patience`; its end later than that is an error.
    pub async fn until_ended(&self, patience: Duration) -> Result<ExitStatus> {
        let Ok(status) = tokio::time::timeout(patience, self.exited()).await else {
            bail!("{} has not ended after {} s:\n{}", self.name, patience.as_secs(), self.log_tail());
        };
        Ok(status)
    }

    /// Waits for `ready`, but no longer than `patience`, nor after the process has ended; both are errors that quote
    /// the end of its log.
    pub async fn until_ready<T>(&self, patience: Duration, ready: impl Future<Output = T>) -> Result<T> {
        let reason = tokio::select! {
            value = ready => return Ok(value),
            status = self.exited() => format!("{} ended while starting ({status})", self.name),
            () = tokio::time::sleep(patience) => format!("{} is not ready after {} s", self.name, patience.as_secs()),
        };
        Err(anyhow!("{reason}; the end of {}:\n{}", self.log.display(), self.log_tail()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exit_status().is_some() || self.signal(self.end_signal).is_err() {
            return;
        }
        if !wait_blocking(&self.state, DROP_PATIENCE) && self.signal(Signal::SIGKILL).is_ok() {
            wait_blocking(&self.state, DROP_PATIENCE);
        }
    }
}

/// Waits for the child without freeing its pid, then frees it under the lock.
fn reap(mut child: std::process::Child, pid: Pid, state: &State, report: &watch::Sender<Option<ExitStatus>>) {
    while let Err(nix::errno::Errno::EINTR) =
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
    {}
    let status = {
        let mut exited = lock(state);
        let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(0));
        *exited = Some(status);
        status
    };
    state.changed.notify_all();
    report.send_replace(Some(status));
}

fn wait_blocking(state: &State, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    let mut exited = lock(state);
    while exited.is_none() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        exited = state.changed.wait_timeout(exited, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    true
}

fn lock(state: &State) -> MutexGuard<'_, Option<ExitStatus>> {
    state.exited.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(command: Command) -> Result<std::process::Child> {
    let Some(spawner) = SPAWNER.as_ref() else { bail!("no thread to start processes from") };
    let (reply, answer) = mpsc::channel();
    spawner.send((command, reply)).map_err(|_| anyhow!("the thread that starts processes has ended"))?;
    Ok(answer.recv().context("the thread that starts processes has ended")??)
}

fn open_log(path: &Path) -> Result<File> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))
}

fn log_tail(path: &Path, start: u64) -> Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(start.max(length.saturating_sub(LOG_TAIL_BYTES))))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(LOG_TAIL_LINES)..).unwrap_or_default();
    Ok(tail.iter().map(|line| format!("  | {line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, directory: &Path) -> Launch {
        Launch {
            name: "child".into(),
            program: "sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![],
            log: directory.join("child.log"),
            user: None,
            end_signal: Signal::SIGKILL,
        }
    }

    fn alive(pid: i32) -> bool {
        kill(Pid::from_raw(pid), None).is_ok()
    }

    #[tokio::test]
    async fn a_child_that_dies_at_start_shows_the_end_of_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let child =
            Process::start(shell("echo no such thing as port 99999; exit 3", directory.path())).unwrap();
        let never = std::future::pending::<()>();
        let error = child.until_ready(Duration::from_secs(20), never).await.unwrap_err().to_string();
        assert!(error.contains("ended while starting (exit status: 3)"), "{error}");
        assert!(error.contains("no such thing as port 99999"), "{error}");
    }

    #[tokio::test]
    async fn a_dropped_child_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let child = Process::start(shell("exec sleep 600", directory.path())).unwrap();
        let pid = child.pid();
        assert!(alive(pid));
        drop(child);
        assert!(!alive(pid));
    }

    #[tokio::test]
    async fn a_child_that_ignores_sigterm_is_killed_and_that_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let script = "trap '' TERM; echo ignoring; while :; do sleep 1; done";
        let child = Process::start(shell(script, directory.path())).unwrap();
        while !child.log_tail().contains("ignoring") {
            tokio::task::yield_now().await;
        }
        assert_eq!(child.stop(Signal::SIGTERM, Duration::from_millis(50)).await.unwrap(), Stopped::Killed);
    }

    #[tokio::test]
    async fn a_child_sees_no_tidewatch_variable_but_those_it_is_given() {
        let directory = tempfile::tempdir().unwrap();
        let mut launch = shell("env | grep ^TIDEWATCH_; true", directory.path());
        launch.environment = vec![("TIDEWATCH_LOG".into(), "debug".into())];
        let child = Process::start(launch).unwrap();
        child.exited().await;
        assert_eq!(child.log_tail(), "  | TIDEWATCH_LOG=debug\n");
    }
}
