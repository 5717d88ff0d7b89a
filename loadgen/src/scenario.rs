//! `scenario`: stories that the shipped rules recognise, told in lines of the last minute.

use std::sync::Arc;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::cli::{Kind, Scenario, ScenarioArgs};
use crate::push::{Push, Pusher};
use crate::report::Report;
use crate::template::Stamp;
use crate::traffic::{Shape, Traffic};

/// Benign events around the stories of `sample`.
const SAMPLE_EVENTS: u64 = 2_000;
const SAMPLE_BATCH: u64 = 250;

/// What a web scanner asks for.
const PROBES: &[&str] = &[
    "/.env",
    "/.git/config",
    "/wp-login.php",
    "/wp-admin/setup-config.php",
    "/phpmyadmin/index.php",
    "/admin/",
    "/server-status",
    "/backup.zip",
    "/config.php.bak",
    "/cgi-bin/test.cgi",
    "/xmlrpc.php",
    "/actuator/env",
    "/solr/admin/cores",
    "/manager/html",
    "/owa/auth/logon.aspx",
    "/vendor/phpunit/phpunit/src/Util/PHP/eval-stdin.php",
    "/.aws/credentials",
    "/id_rsa",
    "/db.sql",
    "/api/v1/users",
];

/// Tells the story.
///
/// # Errors
/// No token, or a journal that cannot be written.
pub async fn run(args: &ScenarioArgs, pusher: Arc<Pusher>) -> anyhow::Result<Report> {
    pusher.tokens()?;
    let seed = args.seed.unwrap_or_else(|| Timestamp::now().as_microsecond().unsigned_abs());
    let mut teller = Teller {
        pusher: &pusher,
        connection: pusher.connection(),
        rng: StdRng::seed_from_u64(seed),
        now: Timestamp::now(),
        seq: 0,
    };
    match args.name {
        Scenario::SshBruteForce => teller.ssh_brute_force().await?,
        Scenario::WebScan => teller.web_scan().await?,
        Scenario::PiiLeak => teller.pii_leak().await?,
        Scenario::Sample => {
            teller.background(seed).await?;
            teller.ssh_brute_force().await?;
            teller.web_scan().await?;
            teller.pii_leak().await?;
        }
    }
    Ok(pusher.stats.report(&pusher.run))
}

struct Teller<'a> {
    pusher: &'a Pusher,
    connection: crate::client::Connection,
    rng: StdRng,
    now: Timestamp,
    seq: u64,
}

impl Teller<'_> {
    async fn ssh_brute_force(&mut self) -> anyhow::Result<()> {
        let (attacker, host) = (self.address(), format!("bastion-{}", self.rng.random_range(1..100)));
        let mut lines = Vec::new();
        for attempt in 0..20 {
            let user = ["root", "admin", "deploy", "postgres"].get(attempt % 4).copied().unwrap_or_default();
            let known = if user == "admin" { "invalid user " } else { "" };
            let port = self.rng.random_range(32_768..60_000);
            let message = format!("Failed password for {known}{user} from {attacker} port {port} ssh2");
            lines.push(self.line(45 - 2 * attempt as i64, &host, "sshd", 38, &message));
        }
        let message = format!("Accepted password for deploy from {attacker} port 61022 ssh2");
        lines.push(self.line(3, &host, "sshd", 38, &message));
        self.text(&host, lines).await
    }

    async fn web_scan(&mut self) -> anyhow::Result<()> {
        let (scanner, host) = (self.address(), format!("shop-{}", self.rng.random_range(1..100)));
        let mut lines = Vec::new();
        for request in 0..60 {
            let ago = 55 - request * 50 / 60;
            let path = PROBES.get(request as usize % PROBES.len()).copied().unwrap_or_default();
            let clf = self.clf(ago);
            let message = format!(
                "{scanner} - - [{clf}] \"GET {path} HTTP/1.1\" 404 162 \"-\" \"Mozilla/5.0 (compatible; Nuclei)\""
            );
            lines.push(self.line(ago, &host, "nginx", 190, &message));
        }
        self.text(&host, lines).await
    }

    async fn pii_leak(&mut self) -> anyhow::Result<()> {
        let scan = format!("scan-{}-{}", self.pusher.run, self.rng.random_range(1_000..10_000));
        let state = |state: &str, sequence: i32, more: Value| {
            let mut record = json!({
                "class_uid": 6007, "scan_id": scan, "scan_type": "database", "state": state, "sequence": sequence,
                "resource": "postgres://crm/customers",
            });
            merge(&mut record, more);
            record
        };
        let finding = |uid: &str, severity: i32, title: &str, column: &str, more: Value| {
            let mut record = json!({
                "class_uid": 2006, "scan_id": scan, "scan_type": "database", "uid": format!("{scan}/{uid}"), "kind": "pii",
                "severity_id": severity, "title": title, "resource": format!("crm.customers.{column}"),
            });
            merge(&mut record, more);
            record
        };
        let story = [
            (40, state("queued", 1, json!({"progress": 0, "queue_position": 3}))),
            (32, state("queued", 2, json!({"progress": 0, "queue_position": 1}))),
            (25, state("running", 3, json!({"progress": 10}))),
            (15, state("running", 4, json!({"progress": 60}))),
            (
                12,
                finding(
                    "1",
                    5,
                    "Card numbers stored in clear",
                    "note",
                    json!({"risk": 95, "matches": 1_204}),
                ),
            ),
            (
                10,
                finding(
                    "2",
                    4,
                    "Passport numbers readable by every role",
                    "passport_no",
                    json!({"risk": 80, "matches": 311}),
                ),
            ),
            (5, state("completed", 5, json!({"progress": 100, "duration_ms": 20_000}))),
        ];
        let mut lines = Vec::new();
        for (ago, mut record) in story {
            let seq = self.next_seq();
            merge(
                &mut record,
                json!({"time": self.ago(ago).to_string(), "run": self.pusher.run, "seq": seq}),
            );
            lines.push(record.to_string());
        }
        self.push("/v1/findings", "application/x-ndjson", "scanner", lines).await
    }

    async fn background(&mut self, seed: u64) -> anyhow::Result<()> {
        let mix = [Kind::Json, Kind::Sshd, Kind::Access, Kind::Windows];
        let traffic = Traffic::new(&self.pusher.run, seed, &mix);
        for first_seq in (0..SAMPLE_EVENTS).step_by(SAMPLE_BATCH as usize) {
            let share = (SAMPLE_EVENTS - first_seq) * 300 / SAMPLE_EVENTS;
            let stamp = Stamp::new(self.ago(i64::try_from(share).unwrap_or(0)));
            let shape = traffic.shape(first_seq);
            let mut body = Vec::new();
            traffic.write(shape, &stamp, first_seq, SAMPLE_BATCH, &mut body, |out, _| out.push(b'\n'));
            let content_type = match shape {
                Shape::Json => "application/x-ndjson",
                Shape::Syslog => "text/plain",
            };
            let push = Push {
                path: "/v1/events",
                content_type,
                sender: "sample".to_owned(),
                token: 0,
                body: Bytes::from(body),
                first_seq,
                count: SAMPLE_BATCH,
            };
            self.pusher.push(&mut self.connection, push).await?;
        }
        self.seq = SAMPLE_EVENTS;
        Ok(())
    }

    /// An address of TEST-NET-2 or TEST-NET-3 (RFC 5737).
    fn address(&mut self) -> String {
        let net = if self.rng.random_bool(0.5) { "198.51.100" } else { "203.0.113" };
        format!("{net}.{}", self.rng.random_range(1..255))
    }

    fn ago(&self, seconds: i64) -> Timestamp {
        self.now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(self.now)
    }

    fn clf(&self, ago: i64) -> String {
        self.ago(ago).strftime("%d/%b/%Y:%H:%M:%S +0000").to_string()
    }

    fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq - 1
    }

    /// A syslog line of RFC 5424 that carries its run and number.
    fn line(&mut self, ago: i64, host: &str, app: &str, priority: u8, message: &str) -> String {
        let (time, run, seq) = (self.ago(ago), &self.pusher.run.clone(), self.next_seq());
        format!(
            "<{priority}>1 {time} {host} {app} 4711 - [loadgen@32473 run=\"{run}\" seq=\"{seq}\"] {message}"
        )
    }

    async fn text(&mut self, sender: &str, lines: Vec<String>) -> anyhow::Result<()> {
        self.push("/v1/events", "text/plain", sender, lines).await
    }

    /// Pushes the records that were made last.
    async fn push(
        &mut self,
        path: &'static str,
        content_type: &'static str,
        sender: &str,
        lines: Vec<String>,
    ) -> anyhow::Result<()> {
        let count = lines.len() as u64;
        let push = Push {
            path,
            content_type,
            sender: sender.to_owned(),
            token: 0,
            body: Bytes::from(lines.join("\n")),
            first_seq: self.seq.saturating_sub(count),
            count,
        };
        self.pusher.push(&mut self.connection, push).await
    }
}

fn merge(record: &mut Value, more: Value) {
    if let (Value::Object(record), Value::Object(more)) = (record, more) {
        record.extend(more);
    }
}
