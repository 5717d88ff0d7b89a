//! `tidewatch up`, `status` and `down` from outside, with every service.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn tidewatch(command: &str, state: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidewatch"))
        .arg(command)
        .env(tidewatch_dev::STATE_DIR_VARIABLE, state)
        .output()
        .unwrap()
}

fn succeed(command: &str, state: &Path) -> String {
    let Output { status, stdout, stderr } = tidewatch(command, state);
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(status.success(), "tidewatch {command}: {status}\n{stdout}{stderr}");
    stdout
}

/// Ends the stack whatever becomes of the test.
struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        tidewatch("down", self.0);
    }
}

fn environment(state: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(state.join("env")).unwrap();
    let pairs = text.lines().map(|line| line.strip_prefix("export ").unwrap().split_once('=').unwrap());
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Pids of everything that runs, as `status` knows them.
fn pids(state: &Path) -> Vec<i64> {
    let text = std::fs::read(state.join("data/running.json")).unwrap();
    let running: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let pids =
        running["processes"].as_array().unwrap().iter().map(|process| process["pid"].as_i64().unwrap());
    pids.collect()
}

fn living(pids: &[i64]) -> Vec<i64> {
    pids.iter().copied().filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).collect()
}

async fn push(environment: &BTreeMap<String, String>, line: &'static str) {
    let answer = reqwest::Client::new()
        .post(format!("{}/v1/events", environment["TIDEWATCH_INGEST_URL"]))
        .bearer_auth(&environment["TIDEWATCH_INGEST_TOKEN"])
        .header("content-type", "text/plain")
        .body(line)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
}

async fn until_shown(environment: &BTreeMap<String, String>, line: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = reqwest::Client::new()
            .get(format!("{}/v1/events", environment["TIDEWATCH_API_URL"]))
            .bearer_auth(&environment["TIDEWATCH_ANALYST_TOKEN"])
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        let text = answer.text().await.unwrap();
        if text.contains(line) {
            return;
        }
        assert!(Instant::now() < deadline, "{line} is not in {text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_was_stored_is_there_after_down_and_up_with_the_same_tokens_and_ports() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path();
    // For a server that runs as another user.
    std::fs::set_permissions(state, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let down = Down(state);

    succeed("up", state);
    let first = environment(state);
    assert_eq!(first.len(), 8, "{first:?}");
    let table = succeed("status", state);
    for name in ["kafka", "postgres", "ingest", "enrich", "detect", "correlate", "sink", "partitions", "api"]
    {
        assert!(table.contains(name), "{name} is not in\n{table}");
    }
    assert!(succeed("up", state).contains("Already running"));
    push(&first, "from the first run").await;
    until_shown(&first, "from the first run").await;
    let running = pids(state);
    assert_eq!(living(&running).len(), 9);
    succeed("down", state);
    assert_eq!(living(&running), Vec::<i64>::new());
    assert!(!tidewatch("status", state).status.success());

    succeed("up", state);
    let second = environment(state);
    assert_eq!(second, first);
    until_shown(&second, "from the first run").await;
    push(&second, "from the second run").await;
    until_shown(&second, "from the second run").await;
    let running = pids(state);
    drop(down);
    assert_eq!(living(&running), Vec::<i64>::new());
}
