//! The binary, as an operator runs it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use uuid::Uuid;

const BINARY: &str = env!("CARGO_BIN_EXE_tidewatch-partitions");

/// URL of a database of this test alone.
fn database() -> String {
    let url = std::env::var("TIDEWATCH_TEST_DATABASE_URL").expect("run through make test");
    let name = format!("t_{}", Uuid::new_v4().simple());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = postgres::connect(&url.parse().unwrap()).await.unwrap();
        client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    });
    let (server, _) = url.rsplit_once('/').unwrap();
    format!("{server}/{name}")
}

fn run(url: &str, args: &[&str]) -> Output {
    Command::new(BINARY).args(args).args(["--database-url", url]).output().unwrap()
}

fn stdout(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Ends with the test, whatever becomes of it.
struct Service {
    child: Child,
    admin: String,
}

impl Service {
    fn start(url: &str) -> Self {
        let mut child = Command::new(BINARY)
            .args(["run", "--database-url", url, "--admin-listen", "127.0.0.1:0", "--log-format", "json"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let admin = lines
            .find_map(|line| {
                let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
                Some(line["address"].as_str()?.to_owned())
            })
            .expect("names its admin address");
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, admin }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn wait_for(&self, path: &str, wanted: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = self.get(path);
            if answer.contains(wanted) {
                return answer;
            }
            assert!(Instant::now() < deadline, "no {wanted} in {answer}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn from_an_empty_database_to_a_token() {
    let url = database();
    assert!(stdout(run(&url, &["migrate"])).starts_with("applied V1 tables\n"));
    assert_eq!(stdout(run(&url, &["migrate"])), "nothing to migrate\n");
    let made = stdout(run(&url, &["apply", "--back", "1", "--ahead", "0"]));
    assert_eq!(made.lines().count(), 8, "{made}");
    assert_eq!(stdout(run(&url, &["apply", "--back", "1", "--ahead", "0"])), "no partition is missing\n");
    assert!(stdout(run(&url, &["list"])).contains("events_"));
    let leaves: serde_json::Value =
        serde_json::from_str(&stdout(run(&url, &["list", "--format", "json"]))).unwrap();
    assert_eq!(leaves.as_array().unwrap().len(), 8);

    assert_eq!(stdout(run(&url, &["org", "create", "demo", "--name", "Demo"])), "created org demo\n");
    assert_eq!(stdout(run(&url, &["org", "create", "demo"])), "org demo is there already\n");
    let create = ["token", "create", "--org", "demo", "--kind", "analyst", "--label", "alice"];
    let token: serde_json::Value =
        serde_json::from_str(&stdout(run(&url, &[&create[..], &["--format", "json"]].concat()))).unwrap();
    let (id, text) = (token["id"].as_str().unwrap(), token["token"].as_str().unwrap());
    let listed = stdout(run(&url, &["token", "list", "--org", "demo"]));
    assert!(listed.contains(id) && !listed.contains(text), "{listed}");
    assert_eq!(stdout(run(&url, &["token", "revoke", id])), format!("revoked token {id}\n"));
    assert_eq!(stdout(run(&url, &["token", "revoke", id])), format!("token {id} was revoked before\n"));
}

#[test]
fn the_service_waits_for_migrations_and_then_makes_partitions() {
    let url = database();
    let mut service = Service::start(&url);
    let waiting = service.wait_for("/readyz", "run tidewatch-partitions migrate");
    assert!(waiting.starts_with("HTTP/1.0 503"), "{waiting}");
    stdout(run(&url, &["migrate"]));
    service.wait_for("/readyz", "HTTP/1.0 200");
    assert_eq!(stdout(run(&url, &["apply"])), "no partition is missing\n");
    let metrics = service.get("/metrics");
    assert!(metrics.contains(r#"tidewatch_partitions_present_partitions{table="events"} 10"#), "{metrics}");

    let term = Command::new("kill").arg(service.child.id().to_string()).status().unwrap();
    assert!(term.success());
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_wrong_flag_ends_with_64_and_one_line() {
    let output = Command::new(BINARY).args(["migrate", "--database-url", "mysql://db/x"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.lines().count() == 1 && stderr.contains("--database-url"), "{stderr}");
}

/// Runs `topics` for this number of partitions.
fn topics(brokers: &str, prefix: &str, partitions: i32) -> String {
    let args = ["topics", "--partitions", &partitions.to_string()];
    let kafka = ["--kafka-brokers", brokers, "--topic-prefix", prefix];
    stdout(Command::new(BINARY).args(args).args(kafka).output().unwrap())
}

#[test]
fn topics_are_made_once_and_grow() {
    let brokers = std::env::var("TIDEWATCH_TEST_KAFKA_BROKERS").expect("run through make test");
    let prefix = format!("t{}.", Uuid::new_v4().simple());
    let made = topics(&brokers, &prefix, 3);
    assert_eq!(made.lines().count(), 6);
    assert!(made.starts_with(&format!("made {prefix}events.raw, 3 partitions\n")), "{made}");
    assert!(made.ends_with(&format!("made {prefix}incidents, 32 partitions\n")), "{made}");
    let again = topics(&brokers, &prefix, 3);
    assert!(
        again.lines().count() == 6 && again.lines().all(|line| line.starts_with("there already:")),
        "{again}"
    );

    let grown = topics(&brokers, &prefix, 5);
    let expected = ["events.raw", "findings.raw", "events", "findings"];
    let expected: Vec<_> =
        expected.iter().map(|name| format!("grown {prefix}{name}, 3 to 5 partitions")).collect();
    let lines: Vec<&str> = grown.lines().collect();
    assert_eq!(lines[..4], expected);
    assert_eq!(lines[5], format!("there already: {prefix}incidents, 32 partitions"));
    let fewer = topics(&brokers, &prefix, 4);
    let left = format!("there already: {prefix}events.raw, 5 partitions (a topic cannot shrink to 4)\n");
    assert!(fewer.starts_with(&left), "{fewer}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let count = runtime.block_on(async {
        let args = kafka::KafkaArgs::new(brokers).with_prefix(prefix.parse().unwrap());
        kafka::Admin::new(&args).unwrap().partitions(&args.topic("events")).await.unwrap()
    });
    assert_eq!(count, 5);
}

#[test]
fn a_raw_topic_is_never_larger_than_its_enriched_one() {
    let brokers = std::env::var("TIDEWATCH_TEST_KAFKA_BROKERS").expect("run through make test");
    let prefix = format!("t{}.", Uuid::new_v4().simple());
    let args = kafka::KafkaArgs::new(brokers.clone()).with_prefix(prefix.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let admin = kafka::Admin::new(&args).unwrap();
    runtime.block_on(async {
        let small = |name: &str| kafka::TopicSpec {
            name: args.topic(name),
            partitions: 2,
            replication: None,
            config: Vec::new(),
        };
        admin.ensure_topics(&[small("events")]).await.unwrap();
    });
    // While the command runs.
    let watching = {
        let (brokers, prefix) = (brokers.clone(), prefix.clone());
        std::thread::spawn(move || topics(&brokers, &prefix, 6))
    };
    runtime.block_on(async {
        while !watching.is_finished() {
            let raw = admin.partitions(&args.topic("events.raw")).await.unwrap_or(0);
            let enriched = admin.partitions(&args.topic("events")).await.unwrap();
            assert!(raw <= enriched, "events.raw has {raw} partitions, events {enriched}");
        }
    });
    let said = watching.join().unwrap();
    assert!(said.contains(&format!("grown {prefix}events, 2 to 6 partitions")), "{said}");
    assert!(said.contains(&format!("made {prefix}events.raw, 6 partitions")), "{said}");
}
