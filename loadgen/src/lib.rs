//! Traffic for tidewatch: generated, scripted or replayed, with a journal of what was acknowledged.
//!
//! `run` generates mostly benign events as fast as they are taken or at a rate; `scenario` tells a story that the
//! shipped rules recognise; `replay` sends a file with its times rebased to now. All of them push over HTTP, repeat
//! what was refused for the moment, and count as acknowledged only what was answered with 200.

mod cli;
mod client;
mod journal;
mod pace;
mod progress;
mod push;
mod replay;
mod report;
mod run;
mod scenario;
mod stamp;
mod syslog;
mod template;
mod traffic;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;

use crate::cli::{Cli, Command, ReportFormat};
use crate::push::Pusher;
use crate::report::Report;

/// Runs the command line.
///
/// Exit codes: 0 when everything was acknowledged, 1 when something was not or the work could not be done, 64 for a
/// wrong command line.
pub fn main() -> ExitCode {
    let cli: Cli = match service::parse(None) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .and_then(|runtime| runtime.block_on(command(cli)));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything was acknowledged.
async fn command(cli: Cli) -> anyhow::Result<bool> {
    let format = cli.target.format;
    let run = match &cli.command {
        Command::Run(args) => args.run_id.clone(),
        Command::Scenario(_) | Command::Replay(_) => None,
    };
    let pusher = Arc::new(Pusher::new(&cli.target, run)?);
    let report = match cli.command {
        Command::Run(args) => run::run(args, pusher).await?,
        Command::Scenario(args) => scenario::run(&args, pusher).await?,
        Command::Replay(args) => replay::run(args, pusher).await?,
    };
    say(&report, format)?;
    Ok(report.unacknowledged == 0)
}

fn say(report: &Report, format: ReportFormat) -> anyhow::Result<()> {
    let text = match format {
        ReportFormat::Human => report.to_string(),
        ReportFormat::Json => serde_json::to_string(report)? + "\n",
    };
    // A reader that has gone away has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}
