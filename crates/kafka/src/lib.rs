//! Kafka for this product: an idempotent [`Producer`] that accounts for every record, a [`Consumer`] on its own thread
//! whose rebalances are acknowledged messages, the offset [`Ledger`], and [`Admin`] for topics, their ids and the
//! offsets of groups. Bytes only: no schema is known here, and no metrics library; counts are plain values.
//!
//! ```no_run
//! # use tidewatch_kafka as kafka;
//! use kafka::{Consumer, ConsumerOptions, Input, KafkaArgs, Start, StartAt};
//!
//! # async fn example(args: &KafkaArgs) -> Result<(), Box<dyn std::error::Error>> {
//! let topics = vec![args.topic("events")];
//! let consumer = Consumer::start(args, ConsumerOptions::new("sink", args.group("tidewatch-sink"), topics))?;
//! while let Some(input) = consumer.next().await {
//!     match input {
//!         Input::Assigned { partitions, reply } => {
//!             let start = Start::CommittedOrBeginning;
//!             reply.send(partitions.into_iter().map(|at| StartAt { at, start }).collect());
//!         }
//!         Input::Records(records) => println!("{} records", records.len()),
//!         Input::Revoked { done, .. } => done.send(()),
//!         Input::Failed(error) => return Err(error.into()),
//!     }
//! }
//! consumer.close().await;
//! # Ok(()) }
//! ```
//!
//! librdkafka's calls that wait for a broker run on threads of this crate or of `spawn_blocking`, never on a runtime's
//! worker. The only unsafe code is the private module `native`.

mod admin;
mod args;
mod brokers;
mod consumer;
mod context;
mod error;
mod ledger;
mod native;
mod producer;
mod queue;
mod record;
mod trouble;

pub use admin::{Admin, Committed, TopicSpec, TopicState};
pub use args::{ClientOption, ClientOptions, InvalidOption, InvalidPrefix, KafkaArgs, TopicPrefix};
pub use consumer::{
    ConsumeError, Consumer, ConsumerOptions, ConsumerStats, Input, PartitionStats, Reply, Start, StartAt,
};
pub use error::{Class, Error};
pub use ledger::{Ledger, Overlap};
pub use producer::{
    Acks, Completion, FlushTimeout, Outgoing, Producer, ProducerOptions, ProducerStats, SendError,
};
pub use record::{Record, TimestampKind, TopicPartition};
pub use trouble::trouble;
