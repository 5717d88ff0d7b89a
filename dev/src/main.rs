//! `tidewatch`: the local stack on the command line.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program talks to people")]

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod background;
mod demo;
mod lock;
mod run_logs;
mod settings;
mod stack;
mod with_stack;

#[derive(Debug, Parser)]
#[command(
    name = "tidewatch",
    version,
    about = "tidewatch on this machine: demo, background stack, test stack"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole system on sample traffic and show the incidents an analyst gets
    Demo {
        /// End after the incidents are shown; fail when one is missing
        #[arg(long)]
        once: bool,
    },
    /// Start the stack in the background, keeping its data; writes .tidewatch/env
    Up,
    /// Stop the stack that `up` started
    Down,
    /// Show what runs in the background, whether it is ready, and why not
    Status,
    /// What `up` leaves running
    #[command(hide = true)]
    Supervise,
    /// Run a command against a private Kafka and Postgres, which are gone afterwards
    WithStack {
        /// The command and its arguments; its exit code becomes this one's
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::Demo { once } => demo::run(once).await,
        Command::Up => background::up().await,
        Command::Down => background::down().await,
        Command::Status => background::status().await,
        Command::Supervise => background::supervise().await,
        Command::WithStack { command } => with_stack::run(command).await,
    }
}
