//! The scenarios, by name.

mod clock;
pub mod cluster;
pub mod disorder;
mod kafka;
mod kill;
mod poison;
mod postgres;
mod rebalance;
mod recover;
mod topics;
pub mod zombie;

use std::pin::Pin;

use anyhow::Result;

use crate::session::Session;

/// What a scenario's future looks like.
pub type Running<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// A fault, and what must still hold after it.
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What is done.
    pub about: &'static str,
    /// Part of `make test`.
    pub quick: bool,
    /// Does it.
    pub run: for<'a> fn(&'a Session) -> Running<'a>,
}

macro_rules! scenarios {
    ($($name:literal $quick:literal $about:literal => $run:expr;)*) => {
        &[$(Scenario { name: $name, about: $about, quick: $quick, run: |session| Box::pin($run(session)) },)*]
    };
}

/// All of them.
pub const ALL: &[Scenario] = scenarios! {
    "kill-ingest-batch" false "kill -9 of ingest with a batch that has not been sent" => kill::ingest_batch;
    "kill-ingest-acknowledged" true "kill -9 of ingest between the broker's answer and its own" => kill::ingest_acknowledged;
    "kill-enrich-produced" true "kill -9 of enrich with records under way" => kill::enrich_produced;
    "kill-enrich-delivered" false "kill -9 of enrich between delivery and commit" => kill::enrich_delivered;
    "kill-detect-emitted" false "kill -9 of detect between its signals and its commit" => kill::detect_emitted;
    "kill-correlate-applied" true "kill -9 of correlate in the middle of its windows" => kill::correlate_applied;
    "kill-sink-copied" true "kill -9 of the sink between COPY and commit" => kill::sink_copied;
    "kill-sink-committed" true "kill -9 of the sink after the commit, before it knows" => kill::sink_committed;
    "kill-random" true "kill -9 of any service, again and again" => kill::random;
    "sink-resumes" true "kill -9 of the sink, which is started again at once: how soon it stores" => recover::resumes;
    "sink-standby" false "kill -9 of one of two sinks: how soon the other has its partitions" => recover::standby;
    "enrich-undelivered" false "the broker refuses one record of enrich's and takes its neighbours" => kafka::one_undelivered;
    "zombie-copied" true "SIGSTOP of a sink inside its transaction, past its session; then SIGCONT" => zombie::copied;
    "zombie-before" false "SIGSTOP of a sink with a batch ready, past its session; then SIGCONT" => zombie::before;
    "zombie-enrich" false "SIGSTOP of enrich with a record under way, past its session; then SIGCONT" => zombie::enrich;
    "zombie-random" false "SIGSTOP of a sink at any moment, past its session; then SIGCONT" => zombie::random;
    "rebalances" false "instances of every consumer come and go for a minute" => rebalance::minute;
    "rebalances-short" true "instances of every consumer come and go for ten seconds" => rebalance::ten_seconds;
    "postgres-copy" false "immediate stop of Postgres inside a transaction, after COPY" => postgres::stopped_in_copy;
    "postgres-commit" false "immediate stop of Postgres during COMMIT" => postgres::stopped_in_commit;
    "postgres-answer-lost" true "the connection is cut between COMMIT and its answer" => postgres::answer_lost;
    "postgres-black-hole" false "packets to Postgres vanish for ten seconds" => postgres::black_hole;
    "postgres-restart" false "Postgres is restarted three times" => postgres::restarted;
    "postgres-locked" false "somebody holds a lock on the events for fifteen seconds" => postgres::locked;
    "postgres-standby" false "the sink is led to a standby for a while" => postgres::standby;
    "postgres-disk-full" false "the disk of Postgres is full for a while" => postgres::disk_full;
    "kafka-killed" false "kill -9 of the broker, twice" => kafka::killed;
    "kafka-paused" false "the broker stands still for twenty seconds" => kafka::paused;
    "partitions-added" false "topics grow while events flow" => kafka::partitions_added;
    "topic-raw-anew" false "the raw topic is deleted and made anew; an operator does what the services say" => topics::raw_anew;
    "topic-enriched-anew" false "the enriched topic is deleted and made anew under load; likewise" => topics::enriched_anew;
    "retention-raw" false "retention removes raw records that enrich has not read; likewise" => topics::raw_expired;
    "retention-enriched" false "retention removes enriched records that the sink has not read; likewise" => topics::enriched_expired;
    "cluster" false "three brokers with min.insync.replicas=2 lose one, then two" => cluster::loses_brokers;
    "poison" true "records that are no good among those that are" => poison::among_neighbours;
    "poison-org" false "an org that sends nothing but poison" => poison::does_not_slow_others;
    "clock-shipper" false "a shipper's clock is a day ahead, another's a day behind" => clock::shipper_off;
    "clock-sink-ahead" false "the clock of the sink's host is a day ahead" => clock::sink_ahead;
    "clock-sink-behind" false "the clock of the sink's host is a day behind" => clock::sink_behind;
    "correlations" false "every kind of correlation over events out of order, pushed twice and interrupted, in rounds" => disorder::rounds;
    "transactional-producer" false "a foreign producer with transactions, some of them aborted, on the raw topic" => kafka::transactions;
};
