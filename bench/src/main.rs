//! Whole-system measurements: every service, Kafka, Postgres and the load generator on this machine.
//!
//! `tidewatch with-stack -- tidewatch-bench throughput` and `… latency`; the figures are in docs/performance.md.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement that prints for people, and ends by panicking when it cannot be made"
)]

mod latency;
mod processes;
mod throughput;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about)]
struct Arguments {
    #[command(subcommand)]
    measurement: Measurement,
}

#[derive(Subcommand)]
enum Measurement {
    /// Events a second from the first push to the last commit, with memory and CPU of each process.
    Throughput {
        /// How many events.
        #[arg(long, default_value_t = 1_000_000)]
        events: u64,
    },
    /// Seconds from a push until the event, and the incident it causes, are on an API page, under a steady load.
    Latency {
        /// Events a second beside the probes.
        #[arg(long, default_value_t = 5_000)]
        rate: u64,
        /// How long, seconds.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
}

fn main() {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        match arguments.measurement {
            Measurement::Throughput { events } => throughput::measure(events).await,
            Measurement::Latency { rate, seconds } => latency::measure(rate, seconds).await,
        }
    });
}
