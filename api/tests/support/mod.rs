//! The API on a real Postgres and Kafka, started inside the test's process.
#![allow(dead_code, reason = "every test file uses a part of it")]

pub mod database;

use std::time::Duration;

use jiff::Timestamp;
use kafka::{Admin, KafkaArgs, TopicSpec};
use postgres::{Client, PostgresArgs};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;
use service::{Context, ServiceArgs};
use sha2::{Digest as _, Sha256};
use tidewatch_api::Config;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use uuid::Uuid;

pub struct Api {
    pub url: String,
    pub db: Client,
    pub kafka: KafkaArgs,
    pub context: Context,
    http: reqwest::Client,
    task: JoinHandle<anyhow::Result<()>>,
}

/// An answer, read.
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Api {
    /// With `pool` connections, and a broker that is not there.
    pub async fn start_with_pool(pool: usize) -> Self {
        // Nobody listens on the discard port.
        Self::start_on(KafkaArgs::new("127.0.0.1:9"), pool).await
    }

    pub async fn start() -> Self {
        Self::start_with_pool(8).await
    }

    pub async fn start_with_kafka() -> Self {
        let brokers = std::env::var("TIDEWATCH_TEST_KAFKA_BROKERS").expect("run through make test");
        let prefix = format!("t{}.", Uuid::new_v4().simple());
        let kafka = KafkaArgs::new(brokers).with_prefix(prefix.parse().unwrap());
        let topic = TopicSpec {
            name: kafka.topic("incidents"),
            partitions: schemas::KEYED_PARTITIONS,
            replication: None,
            config: Vec::new(),
        };
        Admin::new(&kafka).unwrap().ensure_topics(&[topic]).await.unwrap();
        Self::start_on(kafka, 8).await
    }

    async fn start_on(kafka: KafkaArgs, pool: usize) -> Self {
        let (url, db) = database::database().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = Config {
            api_listen: address,
            api_max_connections: 64,
            postgres: PostgresArgs { database_pool_size: pool, ..PostgresArgs::new(url) },
            kafka: kafka.clone(),
            service: ServiceArgs::default(),
        };
        let context = Context::for_test();
        let task = tokio::spawn(tidewatch_api::run_on(listener, config, context.clone()));
        let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
        Self { url: format!("http://{address}"), db, kafka, context, http, task }
    }

    pub async fn analyst(&self, org: &str) -> String {
        token(&self.db, org, "analyst", "alice").await
    }

    pub fn request(&self, method: Method, path: &str, token: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(token)
    }

    pub fn anonymous(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.url))
    }

    pub async fn get(&self, path: &str, token: &str) -> Answer {
        read(self.request(Method::GET, path, token)).await
    }

    /// The items of a page that must be there.
    pub async fn items(&self, path: &str, token: &str) -> Vec<Value> {
        let answer = self.get(path, token).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.body["items"].as_array().unwrap().clone()
    }

    /// Every item of a walk, page by page.
    pub async fn walk(&self, path: &str, token: &str) -> Vec<Value> {
        self.walk_from(path, token, None).await
    }

    /// What is left of a walk.
    pub async fn walk_from(&self, path: &str, token: &str, mut cursor: Option<String>) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            let next = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            let answer = self.get(&format!("{path}{next}"), token).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
            all.extend(answer.body["items"].as_array().unwrap().clone());
            cursor = answer.body["next_cursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                return all;
            }
        }
    }

    /// Stops as SIGTERM does; what `run` returned.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.context.shutdown.request();
        self.task.await.unwrap()
    }
}

pub async fn read(request: RequestBuilder) -> Answer {
    let response: Response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.unwrap();
    let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
    Answer { status, headers, body }
}

/// A time so many seconds ago, as text.
pub fn ago(seconds: i64) -> String {
    (Timestamp::now() - jiff::SignedDuration::from_secs(seconds)).to_string()
}

/// Inserts events of `org`: `count` of them, `per_time` at each time, from `seconds_ago` on, a millisecond apart.
pub async fn insert_events(db: &Client, org: &str, count: i64, per_time: i64, seconds_ago: i32) {
    let rows = db
        .execute(
            "INSERT INTO events (time, received_at, org, class_uid, activity_id, severity_id, host, \"user\", src_ip,
                                 source_type, message, repeat, labels, attributes, flags, kpart, koffset, kindex)
             SELECT now() - make_interval(secs => $4::float8) - (n / $3::bigint) * interval '1 millisecond', now(), $1,
                    CASE WHEN n % 2 = 0 THEN 3002 ELSE 4002 END, 1, n % 7, 'host' || n % 5, 'user' || n % 3,
                    ('10.0.' || n % 4 || '.' || n % 250)::inet, 'test', 'message ' || n, 1, ARRAY['web'],
                    json_build_object('n', n), 2, n % 4, n / 500, n % 500
             FROM generate_series(0::bigint, $2::bigint - 1) AS n",
            &[&org, &count, &per_time, &f64::from(seconds_ago)],
        )
        .await
        .unwrap();
    assert_eq!(i64::try_from(rows).unwrap(), count);
}

/// What a count is of: the hour so many hours ago, and its other columns.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    pub hours_ago: i32,
    pub stream: &'static str,
    pub class_uid: i32,
    pub severity_id: i32,
    pub slot: i32,
}

/// Adds to a count of `org`, which shares its row with other orgs'.
pub async fn count(db: &Client, org: &str, of: Counted, n: i64) {
    db.execute("INSERT INTO count_org (org) VALUES ($1) ON CONFLICT DO NOTHING", &[&org]).await.unwrap();
    db.execute(
        "INSERT INTO count_block AS c
         SELECT number / 64, date_trunc('hour', now()) - make_interval(hours => $2), $3, $4, $5, $6,
                (SELECT array_agg(CASE WHEN place = number % 64 THEN $7::bigint ELSE 0 END ORDER BY place)
                 FROM generate_series(0, 63) AS place)
         FROM count_org WHERE org = $1
         ON CONFLICT (block, hour, stream, class_uid, severity_id, slot) DO UPDATE
         SET n = (SELECT array_agg(a + b ORDER BY place)
                  FROM unnest(c.n, excluded.n) WITH ORDINALITY AS pair (a, b, place))",
        &[&org, &of.hours_ago, &of.stream, &of.class_uid, &of.severity_id, &of.slot, &n],
    )
    .await
    .unwrap();
}

/// Inserts an open incident that is `seconds` old, with these references as evidence.
pub async fn insert_incident(db: &Client, org: &str, id: Uuid, seconds: f64, evidence: &Value) {
    db.execute(
        "INSERT INTO incidents (org, id, rule_id, rule_hash, title, description, severity_id, tags, reference_urls,
                                false_positives, group_key, entities, first_time, last_time, event_count, evidence,
                                evidence_truncated, flags, created_at, updated_at)
         VALUES ($1, $2, 'ssh-brute-force', 'ab', 'SSH brute force', 'Many failed logins.', 4, ARRAY['attack.t1110'],
                 '{}', '{}', '[{\"name\":\"src_ip\",\"value\":\"10.9.9.9\"}]',
                 '[{\"name\":\"user\",\"value\":\"root\"},{\"name\":\"ip\",\"value\":\"10.9.9.9\"}]', now(), now(), 3,
                 $4, false, 0, now() - make_interval(secs => $3), now())",
        &[&org, &id, &seconds, &evidence],
    )
    .await
    .unwrap();
}

/// Makes an org, if it is not there, and a token of it.
pub async fn token(client: &Client, org: &str, kind: &str, label: &str) -> String {
    let token = format!("tw_{kind}_{}", Uuid::new_v4().simple());
    client
        .execute("INSERT INTO org (id, name) VALUES ($1, $1) ON CONFLICT DO NOTHING", &[&org])
        .await
        .unwrap();
    let digest = Sha256::digest(&token).to_vec();
    client
        .execute(
            "INSERT INTO token (id, org, kind, label, digest) VALUES ($1, $2, $3, $4, $5)",
            &[&Uuid::new_v4(), &org, &kind, &label, &digest],
        )
        .await
        .unwrap();
    token
}
