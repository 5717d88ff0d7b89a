//! `tidewatch-chaos`: seeded faults on the whole system, and guards that are switched off to show that the faults would
//! be noticed. Run it through `make chaos`; it needs services built with the feature `failpoints`.
#![allow(clippy::print_stdout, reason = "a command-line program talks to people")]

mod feed;
mod input;
mod mutations;
mod operator;
mod proxy;
mod scenarios;
mod session;
mod system;
mod verdict;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use clap::Parser;

use crate::session::Session;

/// Longer than any scenario takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

const ROUND_PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Parser)]
#[command(
    name = "tidewatch-chaos",
    version,
    about = "Faults on the whole system, and the guards they would get past"
)]
struct Arguments {
    /// Scenarios and mutation controls to run, by name or the beginning of one [default: all]
    names: Vec<String>,

    /// Decides the input and everything left to chance; the same seed gives the same schedule [default: a random one]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,

    /// Rounds of a scenario that has several
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    rounds: u32,

    /// The selection that is part of `make test`
    #[arg(long)]
    quick: bool,

    /// Show what there is and end
    #[arg(long)]
    list: bool,
}

/// A scenario, or a mutation control.
struct Item {
    name: &'static str,
    about: &'static str,
    run: for<'a> fn(&'a Session) -> scenarios::Running<'a>,
    /// What it must fail of, if it must.
    must_notice: Option<&'static [&'static str]>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<bool> {
    let items = chosen(&arguments)?;
    if arguments.list {
        for item in items {
            println!("{:<26}{}", item.name, item.about);
        }
        return Ok(true);
    }
    let seed = arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    println!("seed {seed}: `make chaos SEED={seed}` repeats this schedule");
    let started = Instant::now();
    let mut session = Session::new(seed, arguments.rounds)?;
    session.expect().await?;
    let incidents = session.expected().map_or(0, std::collections::BTreeSet::len);
    println!(
        "undisturbed: {} records, {incidents} incidents ({:.0} s)",
        session.input.records(),
        started.elapsed().as_secs_f32()
    );
    let (total, mut failed) = (items.len(), Vec::new());
    for (number, item) in items.iter().enumerate() {
        let begun = Instant::now();
        println!("[{}/{total}] {}: {}", number + 1, item.name, item.about);
        let patience = PATIENCE.max(ROUND_PATIENCE * arguments.rounds);
        let ended = tokio::time::timeout(patience, (item.run)(&session)).await;
        let ended = ended.unwrap_or_else(|_| Err(anyhow!("not at its end after {patience:?}")));
        let seconds = begun.elapsed().as_secs_f32();
        match (ended.map_err(|error| format!("{error:#}")), item.must_notice) {
            (Ok(()), None) => println!("    ok ({seconds:.0} s)"),
            (Err(error), Some(signs)) if signs.iter().any(|sign| error.contains(sign)) => {
                println!("    noticed, as it must be ({seconds:.0} s): {error}");
            }
            (Err(error), wanted) => {
                let else_than =
                    wanted.map(|signs| format!(" of something else than \"{}\"", signs.join("\" or \"")));
                println!("    FAILED{} ({seconds:.0} s): {error}", else_than.unwrap_or_default());
                failed.push(item.name);
            }
            (Ok(()), Some(_)) => {
                println!("    FAILED ({seconds:.0} s): the guard is off and nothing noticed");
                failed.push(item.name);
            }
        }
    }
    println!(
        "seed {seed}, {:.0} s{}",
        started.elapsed().as_secs_f32(),
        match failed.as_slice() {
            [] => String::new(),
            names => format!("; failed: {}", names.join(", ")),
        }
    );
    println!("{} passed, {} failed", total - failed.len(), failed.len());
    Ok(failed.is_empty())
}

fn chosen(arguments: &Arguments) -> Result<Vec<Item>> {
    let scenarios = scenarios::ALL.iter().map(|scenario| {
        let scenarios::Scenario { name, about, quick, run } = *scenario;
        (Item { name, about, run, must_notice: None }, quick)
    });
    let mutations = mutations::ALL.iter().map(|mutation| {
        let mutations::Mutation { name, about, quick, noticed, run } = *mutation;
        (Item { name, about, run, must_notice: Some(noticed) }, quick)
    });
    let named = |name: &str| {
        arguments.names.is_empty() || arguments.names.iter().any(|wanted| name.starts_with(wanted.as_str()))
    };
    let items: Vec<Item> = scenarios
        .chain(mutations)
        .filter(|(item, quick)| named(item.name) && (*quick || !arguments.quick))
        .map(|(item, _)| item)
        .collect();
    if items.is_empty() {
        bail!("nothing is called {}; --list shows what there is", arguments.names.join(" or "));
    }
    Ok(items)
}
