//! A real process, from its command line to its exit code.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Far above what any step takes; reached only by a failure.
const PATIENCE: Duration = Duration::from_secs(20);

fn command() -> Command {
    // target/<profile>/deps/this-test → target/<profile>/examples/lifecycle
    let mut path: PathBuf = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples/lifecycle");
    assert!(
        path.exists(),
        "build the example first: cargo build --release -p tidewatch-service --example lifecycle"
    );
    let mut command = Command::new(path);
    command.env_clear();
    command
}

fn output(arguments: &[&str]) -> Output {
    command().args(arguments).output().unwrap()
}

struct Service {
    child: Child,
    log: Receiver<Value>,
    admin: String,
}

impl Service {
    fn start(arguments: &[&str]) -> Self {
        let mut child = command().args(arguments).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (send, log) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let Ok(entry) = serde_json::from_str(&line) else { panic!("not a JSON line: {line}") };
                let _ = send.send(entry);
            }
        });
        let mut service = Self { child, log, admin: String::new() };
        let entry = service.logged("admin listener");
        service.admin = entry["address"].as_str().unwrap().to_owned();
        service
    }

    /// The next log entry whose message holds `text`.
    fn logged(&self, text: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(entry) = self.log.recv_timeout(left) else { panic!("never logged: {text}") };
            if entry["message"].as_str().unwrap_or_default().contains(text) {
                return entry;
            }
        }
    }

    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn readiness(&self) -> (u16, Value) {
        let (status, body) = self.get("/readyz");
        (status, serde_json::from_str(&body).unwrap())
    }

    /// The first report of which `condition` holds.
    fn readiness_once(&self, condition: impl Fn(&Value) -> bool) -> (u16, Value) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, report) = self.readiness();
            if condition(&report) {
                return (status, report);
            }
            assert!(Instant::now() < deadline, "{report}");
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// The exit code, and the last log entry.
    fn end(mut self) -> (Option<i32>, Value) {
        let mut last = Value::Null;
        // The log ends with the process.
        while let Ok(entry) = self.log.recv_timeout(PATIENCE) {
            last = entry;
        }
        (self.child.wait().unwrap().code(), last)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn help_and_version_succeed() {
    let help = output(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(text.contains("--admin-listen <ADDR>") && text.contains("[default: 127.0.0.1:0]"), "{text}");
    assert_eq!(output(&["--version"]).status.code(), Some(0));
}

#[test]
fn wrong_flags_exit_64_with_one_line_that_names_the_flag() {
    for (arguments, expected) in [
        (&["--admin-listen", "nowhere"][..], "--admin-listen"),
        (&["--log-format", "xml"], "--log-format"),
        (&["--log", "a=b=c"], "--log"),
        (&["--worker-threads", "0"], "--worker-threads"),
        (&["--bogus"], "--bogus"),
        (&["--even", "3"], "error: --even: 3 is odd\n"),
    ] {
        let output = output(arguments);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {told}");
        assert!(told.contains(expected), "{arguments:?}: {told}");
        assert_eq!(told.lines().count(), 1, "{arguments:?}: {told}");
    }
}

#[test]
fn a_wrong_environment_variable_is_told_by_its_flag() {
    let output = command().env("TIDEWATCH_ADMIN_LISTEN", "nowhere").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--admin-listen"));
}

#[test]
fn a_taken_admin_address_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = output(&["--admin-listen", &address]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&address) && told.contains("--admin-listen"), "{told}");
}

#[test]
fn readyz_tells_each_dependency_until_all_are_up() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("up");
    let service = Service::start(&["--wait-for", file.to_str().unwrap()]);
    service.logged(&format!("waiting for file at {}: not found", file.display()));

    let (status, report) = service.readiness();
    assert_eq!((status, &report["ready"]), (503, &Value::Bool(false)));
    let dependency = &report["dependencies"][0];
    assert_eq!(dependency["name"], "file");
    assert_eq!(dependency["ready"], false);
    assert_eq!(dependency["detail"], "not found");
    assert!(dependency["since"].as_str().unwrap().ends_with('Z'));
    // Alive all the same: a restart would not help.
    assert_eq!(service.get("/healthz"), (200, "ok\n".to_owned()));

    std::fs::write(&file, "").unwrap();
    service.logged("is there");
    service.logged("ready");
    let (status, report) = service.readiness();
    assert_eq!((status, &report["ready"]), (200, &Value::Bool(true)));
    assert_eq!(report["dependencies"][0]["detail"], Value::Null);
}

#[test]
fn sigterm_and_sigint_drain_in_order_and_exit_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let service = Service::start(&[]);
        service.logged("ready");
        service.signal(signal);
        service.logged(signal.as_str());
        service.logged("flushed");
        assert_eq!(service.end().0, Some(0));
    }
}

#[test]
fn sigterm_while_waiting_for_a_dependency_exits_0() {
    let service = Service::start(&["--wait-for", "/nonexistent/file"]);
    service.logged("waiting for file");
    service.signal(Signal::SIGTERM);
    assert_eq!(service.end().0, Some(0));
}

#[test]
fn a_stopping_service_says_it_is_not_ready() {
    let service = Service::start(&["--fault", "ignores"]);
    service.logged("ready");
    assert_eq!(service.readiness().0, 200);
    service.signal(Signal::SIGTERM);
    let (status, report) = service.readiness_once(|report| report["stopping"] == true);
    assert_eq!((status, &report["ready"]), (503, &Value::Bool(false)));
}

#[test]
fn a_second_signal_ends_a_service_that_does_not_stop() {
    let service = Service::start(&["--fault", "ignores"]);
    service.logged("ready");
    service.signal(Signal::SIGTERM);
    service.logged("SIGTERM: stopping");
    service.signal(Signal::SIGTERM);
    let (code, last) = service.end();
    assert_eq!(code, Some(1));
    assert!(last["message"].as_str().unwrap().contains("SIGTERM while stopping"), "{last}");
}

#[test]
fn a_service_that_ignores_the_request_is_ended_after_ten_seconds() {
    let service = Service::start(&["--fault", "blocks", "--worker-threads", "1"]);
    service.logged("ready");
    service.signal(Signal::SIGTERM);
    let asked = Instant::now();
    // A supervisor's SIGTERM together with the terminal's SIGINT is one request.
    service.logged("SIGTERM: stopping");
    service.signal(Signal::SIGINT);
    let (code, last) = service.end();
    assert_eq!(code, Some(1));
    assert!(last["message"].as_str().unwrap().contains("not stopped within 10 s"), "{last}");
    assert!(
        (Duration::from_secs(9)..Duration::from_secs(13)).contains(&asked.elapsed()),
        "{:?}",
        asked.elapsed()
    );
}

#[test]
fn a_failed_task_ends_the_process_with_its_error_last() {
    let (code, last) = Service::start(&["--fault", "fails"]).end();
    assert_eq!(code, Some(1));
    assert_eq!(last["message"], "tidewatch-lifecycle stopped by an error: the worker: fenced");
    assert_eq!(last["level"], "ERROR");
}

#[test]
fn a_panic_in_a_forgotten_task_ends_the_process() {
    let (code, last) = Service::start(&["--fault", "panics"]).end();
    assert_eq!(code, Some(1));
    assert!(last["message"].as_str().unwrap().contains("out of cheese"), "{last}");
    assert!(last["location"].as_str().unwrap().contains("lifecycle.rs"), "{last}");
}

#[test]
fn a_contained_panic_is_logged_and_counted_and_the_service_goes_on() {
    let service = Service::start(&["--fault", "contains"]);
    service.logged("a poisonous record");
    service.logged("went on");
    let (status, metrics) = service.get("/metrics");
    assert_eq!(status, 200);
    assert!(metrics.contains("tidewatch_service_contained_panics_total 1"), "{metrics}");
    service.signal(Signal::SIGTERM);
    assert_eq!(service.end().0, Some(0));
}

#[test]
fn metrics_tell_of_the_process_and_the_build() {
    let service = Service::start(&[]);
    service.logged("ready");
    let (_, metrics) = service.get("/metrics");
    for expected in [
        "process_resident_memory_bytes ",
        "process_cpu_seconds_total ",
        "process_open_fds ",
        "tidewatch_service_uptime_seconds ",
        "tidewatch_service_build_info{service=\"tidewatch-lifecycle\",version=\"",
        "tidewatch_service_dependency_up{dependency=\"file\"} 1",
    ] {
        assert!(metrics.lines().any(|line| line.starts_with(expected)), "no {expected} in:\n{metrics}");
    }
}
