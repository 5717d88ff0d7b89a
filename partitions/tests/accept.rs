//! `accept` on a real Kafka and Postgres, as an operator runs it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use common::{BINARY, Database};
use kafka::{
    Admin, Committed, Consumer, ConsumerOptions, Input, KafkaArgs, Outgoing, Producer, ProducerOptions,
    Start, StartAt, TopicPartition, TopicSpec,
};
use schemas::start::{Accepted, Decision};
use schemas::{EventBatch, Source};
use serde_json::Value;
use tidewatch_partitions::{Options, doctor};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(60);
const OLD: Uuid = Uuid::from_u128(1);
const NEW: Uuid = Uuid::from_u128(2);

/// Commits, as the sink does, that it has read this many offsets on, up to a raw offset of a raw topic. Without rows.
const STORE: &str = "
    CREATE FUNCTION store(p_topic text, p_kpart integer, p_offsets bigint, p_topic_id uuid, p_next_source bigint)
    RETURNS void LANGUAGE plpgsql AS $$
    DECLARE v_held record;
    BEGIN
        SELECT * INTO v_held FROM sink_acquire(ARRAY[p_topic], ARRAY[p_kpart], ARRAY[0::bigint]);
        PERFORM commit_at(p_topic, p_kpart, v_held.epoch, v_held.next_offset, v_held.next_source_offset, p_offsets,
            p_topic_id, p_next_source);
    END $$;
    CREATE FUNCTION commit_at(p_topic text, p_kpart integer, p_epoch bigint, p_first bigint, p_first_source bigint,
        p_offsets bigint, p_topic_id uuid, p_next_source bigint) RETURNS void LANGUAGE sql AS $$
        SELECT sink_commit(
            json_build_array(json_build_object('topic', p_topic, 'kpart', p_kpart, 'epoch', p_epoch,
                'first_offset', p_first, 'next_offset', p_first + p_offsets, 'source_topic_id', p_topic_id,
                'first_source', p_first_source, 'next_source', p_next_source,
                'received', 0, 'stored', 0, 'quarantined', 0, 'duplicates', 0)),
            '{}', '{}', '{}', '{}', '{}', '{}', '{}', '[]', '[]', '[]')
    $$";

/// Topics and a database of its own.
struct World {
    args: KafkaArgs,
    admin: Admin,
    producer: Producer,
    database: Database,
}

impl World {
    async fn new() -> Self {
        let brokers = std::env::var("TIDEWATCH_TEST_KAFKA_BROKERS").expect("run through make test");
        let prefix = format!("t{}.", Uuid::new_v4().simple());
        let args = KafkaArgs::new(brokers).with_prefix(prefix.parse().unwrap());
        let admin = Admin::new(&args).unwrap();
        let producer = Producer::new(&args, ProducerOptions::new("test")).unwrap();
        let database = Database::new().await;
        database.execute(STORE).await;
        let world = Self { args, admin, producer, database };
        world.make_topics().await;
        world
    }

    async fn make_topics(&self) {
        let specs = ["events.raw", "findings.raw", "events", "findings", "incidents"].map(|name| TopicSpec {
            name: self.args.topic(name),
            partitions: 3,
            replication: None,
            config: Vec::new(),
        });
        self.admin.ensure_topics(&specs).await.unwrap();
    }

    /// Deletes a topic and makes it anew.
    async fn renew(&self, topic: &str) {
        let name = self.args.topic(topic);
        self.admin.delete_topics(&[&name]).await.unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !self.admin.topic_ids(&[&name]).await.unwrap().is_empty() {
            assert!(Instant::now() < deadline, "{name} is still there");
        }
        self.make_topics().await;
    }

    async fn id(&self, topic: &str) -> Uuid {
        let name = self.args.topic(topic);
        self.admin.topic_ids(&[&name]).await.unwrap()[&name]
    }

    async fn send(&self, topic: &str, partition: i32, payload: &[u8]) {
        let topic = self.args.topic(topic);
        let (done, delivered) = tokio::sync::oneshot::channel();
        let outgoing = Outgoing { topic: &topic, partition, key: None, headers: &[], payload };
        self.producer.send(outgoing, Box::new(|result| done.send(result.unwrap()).unwrap())).unwrap();
        delivered.await.unwrap();
    }

    /// Enriched records of `events/2`, each made from one raw record of these offsets.
    async fn enrich(&self, topic_id: Uuid, offsets: impl IntoIterator<Item = i64>) {
        for offset in offsets {
            let source = Source { topic_id, partition: 2, from: offset, offset };
            let batch = EventBatch { source, events: vec![], rejects: vec![], pushes: vec![] };
            let mut payload = Vec::new();
            schemas::encode(&batch, &mut payload);
            self.send("events", 2, &payload).await;
        }
    }

    async fn send_raw(&self, count: i64) {
        for _ in 0..count {
            self.send("events.raw", 2, b"{}").await;
        }
    }

    async fn store(&self, offsets: i64, topic_id: Uuid, next_source: i64) {
        self.database
            .execute(&format!("SELECT store('events', 2, {offsets}, '{topic_id}', {next_source})"))
            .await;
    }

    async fn remove(&self, topic: &str, before: i64) {
        self.admin.delete_records(&self.args.topic(topic), 2, before).await.unwrap();
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(BINARY)
            .arg("accept")
            .args(args)
            .args(["--database-url", &self.database.address, "--kafka-brokers", &self.args.brokers])
            .args(["--topic-prefix", &self.args.topic("")])
            .output()
            .unwrap()
    }

    /// What is printed by a command that succeeds.
    fn accept(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let outcomes: Value =
            serde_json::from_str(&self.accept(&[args, &["--format", "json"]].concat())).unwrap();
        assert_eq!(outcomes.as_array().unwrap().len(), 1);
        outcomes[0].clone()
    }

    /// What is said by one that is refused; nothing has moved.
    async fn refused(&self, args: &[&str]) -> String {
        let before = self.positions().await;
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(self.positions().await, before);
        String::from_utf8(output.stderr).unwrap()
    }

    async fn positions(&self) -> (Vec<String>, Option<Committed>) {
        let sink = self.database.texts("SELECT p::text FROM sink_partition p ORDER BY topic, kpart").await;
        (sink, self.committed().await)
    }

    /// (next offset, raw topic, next raw offset, generation) of `events/2`.
    async fn position(&self) -> (i64, Option<Uuid>, i64, i32) {
        let query = "SELECT next_offset, source_topic_id, next_source_offset, generation FROM sink_partition
            WHERE topic = 'events' AND kpart = 2";
        let row = self.database.client.query_one(query, &[]).await.unwrap();
        (row.get(0), row.get(1), row.get(2), row.get(3))
    }

    fn group(&self) -> (String, TopicPartition) {
        let at = TopicPartition::new(self.args.topic("events.raw"), 2);
        (self.args.group("tidewatch-enrich-events.raw"), at)
    }

    async fn committed(&self) -> Option<Committed> {
        let (group, at) = self.group();
        self.admin.committed_with_metadata(&group, &[at]).await.unwrap().remove(0).1
    }

    async fn commit(&self, offset: i64) {
        let (group, at) = self.group();
        self.admin.set_committed(&group, &[(at, offset)]).await.unwrap();
    }

    /// Rows of the audit log, as `actor action object_id detail`.
    async fn audit(&self) -> Vec<String> {
        let query =
            "SELECT concat_ws(' ', actor, action, object, object_id, detail->>'to_source') FROM audit_log
            WHERE org IS NULL ORDER BY at, id";
        self.database.texts(query).await
    }

    async fn assert_accounted_for(&self) {
        let report = doctor(&self.database.url, &Options::default(), &|_| {}).await.unwrap();
        assert!(report.ok, "{report:#?}");
    }
}

const GAP: [&str; 2] = ["--gap", "events/2"];
const NEW_TOPIC: [&str; 2] = ["--new-topic", "events/2"];

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_passed_under_a_new_epoch_and_written_down() {
    let world = World::new().await;
    world.enrich(OLD, [0, 1, 2]).await;
    world.store(3, OLD, 3).await;
    let fine = world.accept(&GAP);
    assert!(
        fine.contains("events/2: nothing is wrong at offset 3") && fine.contains("nothing was moved"),
        "{fine}"
    );

    world.enrich(OLD, [5, 6]).await;
    let told = world.refused(&NEW_TOPIC).await;
    assert!(told.contains("raw offsets 3 to 5 were never stored"), "{told}");
    assert!(
        told.contains("tidewatch-partitions accept --gap events/2") && told.contains("nothing was moved"),
        "{told}"
    );
    let shown = world.accept(&["--gap", "events/2", "--dry-run"]);
    assert!(shown.contains("3 → 5") && shown.contains("nothing was moved (--dry-run)"), "{shown}");
    assert_eq!(world.position().await, (3, Some(OLD), 3, 0));

    let epoch = world.database.number("SELECT epoch FROM sink_partition").await;
    let accepted = world.accept(&["--gap", "events/2", "--actor", "ada"]);
    assert!(accepted.contains("raw offsets 3 to 5 were never stored"), "{accepted}");
    assert!(accepted.contains("next: start tidewatch-sink"), "{accepted}");
    assert_eq!(world.position().await, (3, Some(OLD), 5, 1));
    assert_eq!(world.audit().await, ["ada accepted_gap partition events/2 5"]);

    // A sink that was running is fenced, whatever position it claims.
    let stale = format!("SELECT commit_at('events', 2, {epoch}, 3, 5, 1, '{OLD}', 6)");
    let error = world.database.client.batch_execute(&stale).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "TW001");
    assert!(world.accept(&GAP).contains("nothing is wrong at offset 3"));
    world.store(2, OLD, 7).await;
    assert!(world.accept(&GAP).contains("nothing is wrong at offset 5"));
    assert!(world.accept(&NEW_TOPIC).contains("nothing is wrong at offset 5"));
    world.assert_accounted_for().await;
    assert_eq!(world.database.number("SELECT count(*) FROM sink_accepted").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_removed_unread_is_passed_and_counted() {
    let world = World::new().await;
    world.enrich(OLD, 0..8).await;
    world.store(2, OLD, 2).await;
    world.remove("events", 6).await;
    let told = world.refused(&NEW_TOPIC).await;
    assert!(
        told.contains("Kafka has removed offsets 2 to 6") && told.contains("accept --gap events/2"),
        "{told}"
    );
    let outcome = world.json(&GAP);
    assert_eq!((&outcome["skipped_offsets"], &outcome["skipped_raw_offsets"]), (&4.into(), &4.into()));
    assert_eq!(outcome["action"], "accepted_gap");
    assert_eq!(world.position().await, (6, Some(OLD), 6, 1));
    world.store(2, OLD, 8).await;

    // Incidents have offsets only.
    for _ in 0..5 {
        world.send("incidents", 2, b"x").await;
    }
    world.database.execute("SELECT store('incidents', 2, 1, NULL, NULL)").await;
    world.remove("incidents", 4).await;
    let outcome = world.json(&["--gap", "incidents/2"]);
    assert_eq!((&outcome["skipped_offsets"], &outcome["raw_offsets"]), (&3.into(), &Value::Null));
    assert_eq!(
        world.database.number("SELECT next_offset FROM sink_partition WHERE topic = 'incidents'").await,
        4
    );
    world.assert_accounted_for().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enriched_topic_made_anew_is_read_from_its_beginning() {
    let world = World::new().await;
    world.enrich(OLD, 0..3).await;
    world.store(3, OLD, 3).await;
    world.renew("events").await;
    let told = world.refused(&GAP).await;
    assert!(told.contains("the topic ends at 0") && told.contains("accept --new-topic events/2"), "{told}");
    let accepted = world.accept(&NEW_TOPIC);
    assert!(accepted.contains("it was deleted and created anew") && accepted.contains("3 → 0"), "{accepted}");
    assert_eq!(world.position().await, (0, Some(OLD), 3, 1));
    assert_eq!(world.audit().await, ["operator accepted_new_topic partition events/2 3"]);
    world.enrich(OLD, 2..5).await;
    world.store(3, OLD, 5).await;
    world.assert_accounted_for().await;

    // Once more, and it has grown past the position before anybody looked.
    world.renew("events").await;
    world.enrich(OLD, 5..10).await;
    let told = world.refused(&GAP).await;
    assert!(told.contains("what is before offset 3 was never read"), "{told}");
    world.accept(&NEW_TOPIC);
    assert_eq!(world.position().await, (0, Some(OLD), 5, 2));
    world.store(5, OLD, 10).await;
    world.assert_accounted_for().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_unstored_with_an_enriched_topic_is_enriched_again() {
    let world = World::new().await;
    let id = world.id("events.raw").await;
    world.send_raw(10).await;
    world.enrich(id, 0..10).await;
    world.store(3, id, 3).await;
    world.commit(10).await;
    world.renew("events").await;
    let accepted = world.accept(&NEW_TOPIC);
    assert!(accepted.contains("enriches raw offsets 3 to 10 once more"), "{accepted}");
    assert_eq!(world.position().await, (0, Some(id), 3, 1));
    let what = Decision::Again { from: 3, to: 10 };
    let metadata = Accepted { topic_id: id, what }.to_string();
    assert_eq!(world.committed().await, Some(Committed { offset: 3, metadata }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_topic_made_anew_is_followed_once_all_of_the_old_one_is_stored() {
    let world = World::new().await;
    world.enrich(OLD, 0..3).await;
    world.enrich(NEW, 0..2).await;
    world.store(2, OLD, 2).await;
    let told = world.refused(&NEW_TOPIC).await;
    assert!(told.contains("the sink must first store up to offset 3"), "{told}");
    let fine = world.accept(&GAP);
    assert!(fine.contains("nothing is wrong at offset 2"), "{fine}");
    world.store(1, OLD, 3).await;
    let told = world.refused(&GAP).await;
    assert!(told.contains(&NEW.to_string()) && told.contains("accept --new-topic events/2"), "{told}");
    let outcome = world.json(&NEW_TOPIC);
    assert_eq!(outcome["topic_id"], NEW.to_string());
    assert_eq!(outcome["skipped_raw_offsets"], 0);
    assert_eq!(world.position().await, (3, Some(NEW), 0, 1));
    world.store(2, NEW, 2).await;
    world.assert_accounted_for().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn enrich_is_told_of_raw_offsets_that_are_gone_when_it_is_stopped() {
    let world = World::new().await;
    let id = world.id("events.raw").await;
    world.send_raw(10).await;
    world.enrich(id, 0..5).await;
    world.commit(4).await;
    let gap = ["--gap", "events.raw/2"];
    let fine = world.accept(&gap);
    assert!(fine.contains("events.raw/2: nothing is wrong at raw offset 5"), "{fine}");
    world.remove("events.raw", 8).await;
    let told = world.refused(&["--new-topic", "events.raw/2"]).await;
    assert!(told.contains("accept --gap events.raw/2"), "{told}");

    let (group, _) = world.group();
    let topics = vec![world.args.topic("events.raw")];
    let member = Consumer::start(&world.args, ConsumerOptions::new("test", group, topics)).unwrap();
    let joined = tokio::time::timeout(PATIENCE, member.next()).await.unwrap();
    let Some(Input::Assigned { partitions, reply }) = joined else { panic!("assigned first") };
    reply.send(partitions.into_iter().map(|at| StartAt { at, start: Start::End }).collect());
    let told = world.refused(&gap).await;
    assert!(told.contains("stop tidewatch-enrich first"), "{told}");
    assert_eq!(world.audit().await, [""; 0]);
    member.close().await;

    let outcome = world.json(&[&gap[..], &["--actor", "ada"]].concat());
    assert_eq!(
        (&outcome["raw_offsets"], &outcome["skipped_raw_offsets"]),
        (&serde_json::json!([5, 8]), &3.into())
    );
    let next = outcome["next"].as_str().unwrap();
    assert!(
        next.contains("the sink will stop at this gap") && next.contains("accept --gap events/2"),
        "{next}"
    );
    let what = Decision::Gap { from: 5, to: 8 };
    let metadata = Accepted { topic_id: id, what }.to_string();
    assert_eq!(world.committed().await, Some(Committed { offset: 8, metadata }));
    assert_eq!(world.audit().await, ["ada accepted_gap partition events.raw/2 8"]);
    assert!(world.accept(&gap).contains("nothing is wrong at raw offset 8"));
}

#[tokio::test(flavor = "multi_thread")]
async fn enrich_is_told_of_a_raw_topic_made_anew() {
    let world = World::new().await;
    let old = world.id("events.raw").await;
    world.enrich(old, 0..5).await;
    world.renew("events.raw").await;
    let id = world.id("events.raw").await;
    let told = world.refused(&["--gap", "events.raw/2"]).await;
    assert!(told.contains("accept --new-topic events.raw/2") && told.contains(&old.to_string()), "{told}");
    let new_topic = ["--new-topic", "events.raw/2"];
    let shown = world.accept(&[&new_topic[..], &["--dry-run"]].concat());
    assert!(shown.contains("nothing was moved (--dry-run)"), "{shown}");
    assert_eq!(world.committed().await, None);
    let accepted = world.accept(&new_topic);
    assert!(accepted.contains("accept --new-topic events/2"), "{accepted}");
    let metadata = Accepted { topic_id: id, what: Decision::Topic }.to_string();
    assert_eq!(world.committed().await, Some(Committed { offset: 0, metadata }));
    assert!(world.accept(&new_topic).contains("nothing is wrong at raw offset 0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_topic_that_lost_what_was_enriched_has_to_be_made_anew() {
    let world = World::new().await;
    let id = world.id("events.raw").await;
    world.send_raw(2).await;
    world.enrich(id, 0..5).await;
    for asked in ["--gap", "--new-topic"] {
        let told = world.refused(&[asked, "events.raw/2"]).await;
        assert!(told.contains("records up to 5 have been enriched"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_partitions_all_are_moved_or_none() {
    let world = World::new().await;
    world.enrich(OLD, [0, 5]).await;
    world.store(1, OLD, 1).await;
    world.send("events", 1, b"x").await;
    world.database.execute("SELECT store('events', 1, 5, NULL, 0)").await;
    let told = world.refused(&["--gap", "events/2", "events/1"]).await;
    assert!(told.contains("accept --new-topic events/1"), "{told}");
    let told = world.refused(&["--gap", "events/2", "events/3"]).await;
    assert!(told.contains("events/3: ") && told.contains("has 3 partitions"), "{told}");
    let accepted = world.accept(&["--gap", "events/2", "findings/0"]);
    assert!(accepted.contains("findings/0: nothing is wrong: the sink has never read it"), "{accepted}");
    assert_eq!(world.position().await, (1, Some(OLD), 5, 1));
}
