//! The load generator against a server that answers as it is told.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking, as tests do"
)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// A request as it came.
#[derive(Debug, Clone)]
struct Request {
    path: String,
    headers: HashMap<String, String>,
    body: String,
}

/// Answers each request with what `answer` makes of it and its number.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(answer: impl Fn(usize, &Request) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&requests), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream.unwrap(), &seen, &*answer));
            }
        });
        Self { url, requests }
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<Request>>, answer: &dyn Fn(usize, &Request) -> String) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let path = line.split(' ').nth(1).unwrap().to_owned();
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let mut body = vec![0; headers["content-length"].parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        let request = Request { path, headers, body: String::from_utf8(body).unwrap() };
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.push(request.clone());
            seen.len() - 1
        };
        reader.get_mut().write_all(answer(number, &request).as_bytes()).unwrap();
    }
}

fn ok(request: &Request) -> String {
    let accepted = request.body.lines().count();
    let body = format!("{{\"accepted\":{accepted},\"rejected\":[]}}");
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn status(status: &str) -> String {
    format!("HTTP/1.1 {status}\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n")
}

fn loadgen(server: &Server, arguments: &[&str]) -> (Output, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_tidewatch-loadgen"))
        .args(arguments)
        .args(["--ingest-url", &server.url, "--token", "tw_ingest_one,tw_ingest_two", "--format", "json"])
        .output()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output, report)
}

#[test]
fn what_is_refused_for_the_moment_is_sent_again_and_journaled_once_acknowledged() {
    let server = Server::start(|number, request| match number {
        0 => status("503 Service Unavailable"),
        1 => status("429 Too Many Requests"),
        _ => ok(request),
    });
    let journal = tempfile::NamedTempFile::new().unwrap();
    let flags =
        ["run", "--count", "1200", "--connections", "1", "--run-id", "r1", "--idempotency-keys", "--journal"];
    let (output, report) = loadgen(&server, &[&flags[..], &[journal.path().to_str().unwrap()]].concat());
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        (&report["acknowledged"], &report["retried"], &report["pushes"]),
        (&1200.into(), &2.into(), &3.into())
    );
    assert_eq!((&report["rejected"], &report["unacknowledged"]), (&0.into(), &0.into()));
    assert!(report["latency_ms"]["p99"].as_f64().unwrap() > 0.0);

    let requests = server.requests();
    assert_eq!(requests.len(), 5);
    for again in &requests[1..3] {
        assert_eq!(again.body, requests[0].body);
        assert_eq!(again.headers["idempotency-key"], requests[0].headers["idempotency-key"]);
    }
    assert_ne!(requests[3].headers["idempotency-key"], requests[0].headers["idempotency-key"]);
    assert_eq!(requests[0].headers["authorization"], "Bearer tw_ingest_one");
    assert_eq!(requests[3].headers["authorization"], "Bearer tw_ingest_two");
    assert_ne!(requests[0].headers["x-sender"], requests[3].headers["x-sender"]);

    let journal = std::fs::read_to_string(journal.path()).unwrap();
    let entries: Vec<Value> = journal.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let spans: Vec<_> =
        entries.iter().map(|e| (e["first_seq"].as_u64().unwrap(), e["last_seq"].as_u64().unwrap())).collect();
    assert_eq!(spans, [(0, 499), (500, 999), (1000, 1199)]);
    assert!(entries.iter().all(|entry| entry["run"] == "r1" && entry["status"] == 200));
    assert_eq!(entries[0]["attempts"], 3);
}

#[test]
fn what_nobody_takes_ends_with_one() {
    let server = Server::start(|_, _| status("503 Service Unavailable"));
    let (output, report) = loadgen(&server, &["run", "--count", "500", "--give-up-after", "300ms"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!((&report["acknowledged"], &report["unacknowledged"]), (&0.into(), &500.into()));
    assert!(report["first_problem"].as_str().unwrap().contains("503"), "{report}");
}

#[test]
fn what_is_refused_for_good_is_not_sent_again() {
    let server = Server::start(|_, _| status("401 Unauthorized"));
    let (output, report) = loadgen(&server, &["run", "--count", "500", "--connections", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!((&report["rejected"], &report["retried"]), (&500.into(), &0.into()));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_broken_connection_is_opened_again() {
    let server = Server::start(
        |number, request| if number == 0 { "nonsense\r\n\r\n".to_owned() } else { ok(request) },
    );
    let (output, report) = loadgen(&server, &["run", "--count", "500", "--connections", "1"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!((&report["acknowledged"], &report["retried"]), (&500.into(), &1.into()));
}

#[test]
fn scenarios_tell_their_story_within_a_minute() {
    for (name, path, lines) in [
        ("ssh-brute-force", "/v1/events", 21),
        ("web-scan", "/v1/events", 60),
        ("pii-leak", "/v1/findings", 7),
    ] {
        let server = Server::start(|_, request| ok(request));
        let (output, report) = loadgen(&server, &["scenario", name, "--seed", "7"]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(report["acknowledged"], lines);
        let requests = server.requests();
        assert_eq!((requests.len(), requests[0].path.as_str()), (1, path));
        let body = &requests[0].body;
        let run = report["run"].as_str().unwrap();
        assert!(body.lines().all(|line| line.contains(run)), "{body}");
        match name {
            "ssh-brute-force" => {
                let failed = body.lines().filter(|line| line.contains("Failed password")).count();
                assert_eq!((failed, body.lines().last().unwrap().contains("Accepted password")), (20, true));
            }
            "web-scan" => assert!(body.lines().all(|line| line.contains("\" 404 "))),
            _ => {
                let records: Vec<Value> =
                    body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
                let states: Vec<_> = records.iter().filter_map(|record| record["state"].as_str()).collect();
                assert_eq!(states, ["queued", "queued", "running", "running", "completed"]);
                let leaks =
                    records.iter().filter(|r| r["kind"] == "pii" && r["severity_id"].as_i64().unwrap() >= 4);
                assert_eq!(leaks.count(), 2);
            }
        }
    }
}

#[test]
fn the_sample_holds_every_story_among_benign_events() {
    let server = Server::start(|_, request| ok(request));
    let (output, report) = loadgen(&server, &["scenario", "sample"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(report["acknowledged"], 2_000 + 21 + 60 + 7);
}

#[test]
fn a_file_is_replayed_line_by_line_each_in_its_content_type() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let lines = [
        "{\"time\":\"2024-01-01T00:00:00Z\",\"n\":1}",
        "{\"time\":\"2024-01-01T00:00:10Z\",\"n\":2}",
        "",
        "Jan  1 00:00:20 host sshd[1]: text",
    ];
    std::fs::write(file.path(), lines.join("\n")).unwrap();
    let server = Server::start(|_, request| ok(request));
    let (output, report) = loadgen(&server, &["replay", file.path().to_str().unwrap(), "--keep-times"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(report["acknowledged"], 3);
    let requests = server.requests();
    let bodies: Vec<_> =
        requests.iter().map(|r| (r.headers["content-type"].as_str(), r.body.as_str())).collect();
    assert_eq!(bodies, [("application/x-ndjson", lines[..2].join("\n").as_str()), ("text/plain", lines[3])]);

    let server = Server::start(|_, request| ok(request));
    let file_flag = file.path().to_str().unwrap();
    loadgen(&server, &["replay", file_flag]);
    assert!(!server.requests()[0].body.contains("2024-01-01"), "{:?}", server.requests());
}

#[test]
fn a_wrong_command_line_ends_with_64() {
    for arguments in
        [&["run", "--batch", "0"][..], &["scenario", "nonsense"], &["replay", "x", "--speed", "-1"]]
    {
        let output = Command::new(env!("CARGO_BIN_EXE_tidewatch-loadgen")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{output:?}");
    }
}
