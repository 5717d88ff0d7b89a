//! `tidewatch with-stack` from outside: exit codes, isolation, and that nothing is left behind.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(60);

/// A with-stack whose command has said where its Kafka and Postgres are, and waits for a signal.
struct WithStack {
    child: Child,
    backends: Vec<String>,
    descendants: BTreeSet<i32>,
}

impl WithStack {
    fn start(script: &str) -> WithStack {
        let script =
            format!("echo $TIDEWATCH_TEST_KAFKA_BROKERS; echo $TIDEWATCH_TEST_DATABASE_URL; {script}");
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
            .args(["with-stack", "--", "sh", "-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let backends: Vec<String> = lines.take(2).map(Result::unwrap).collect();
        assert_eq!(backends.len(), 2, "with-stack ended before it ran its command");
        let descendants = descendants(child.id() as i32);
        WithStack { child, backends, descendants }
    }
}

impl Drop for WithStack {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

/// Parent and state of every process, but for the dead that wait for their parent.
fn living() -> Vec<(i32, i32)> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        (!matches!(state, "Z" | "X")).then_some((pid, parent))
    })
    .collect()
}

fn descendants(ancestor: i32) -> BTreeSet<i32> {
    let living = living();
    let mut found = BTreeSet::new();
    let mut front = vec![ancestor];
    while let Some(parent) = front.pop() {
        for (pid, _) in living.iter().filter(|(_, its_parent)| *its_parent == parent) {
            if found.insert(*pid) {
                front.push(*pid);
            }
        }
    }
    found
}

fn wait_until_gone(pids: &BTreeSet<i32>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let living: BTreeSet<i32> = living().into_iter().map(|(pid, _)| pid).collect();
        let left: Vec<_> = pids.intersection(&living).collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "still running: {left:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn two_stacks_run_side_by_side_and_leave_no_process() {
    // The first leaves a process of its own behind when it is terminated, the second is one process.
    let scripts = ["trap 'exit 7' TERM; sleep 600 & wait", "exec sleep 600"];
    let started = scripts.map(|script| std::thread::spawn(move || WithStack::start(script)));
    let [mut ended, mut killed] = started.map(|thread| thread.join().unwrap());
    assert!(ended.backends.iter().all(|backend| !killed.backends.contains(backend)));
    // At least java, postgres with its own processes, and the command.
    assert!(ended.descendants.len() > 5 && killed.descendants.len() > 5);

    kill(Pid::from_raw(killed.child.id() as i32), Signal::SIGKILL).unwrap();
    killed.child.wait().unwrap();
    wait_until_gone(&killed.descendants);

    kill(Pid::from_raw(ended.child.id() as i32), Signal::SIGTERM).unwrap();
    let status = ended.child.wait().unwrap();
    assert_eq!(status.code(), Some(7), "the command's exit code becomes that of with-stack");
    wait_until_gone(&ended.descendants);
}
