//! The local stack: Kafka, Postgres and every service as child processes.
