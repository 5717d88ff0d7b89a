//! The command line of `accept`.

use std::process::ExitCode;

use kafka::KafkaArgs;

use crate::cli::{Actor, Database, connect, connect_kafka, print};
use crate::output::{self, Format};

use super::{Asked, Request, Target, accept, show};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    what: What,
    /// Show what would be moved, and move nothing
    #[arg(long)]
    dry_run: bool,
    /// How to show it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    actor: Actor,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    database: Database,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Records are gone: go on behind them
    #[arg(long, value_name = "TOPIC/PARTITION", num_args = 1..)]
    gap: Vec<Target>,
    /// A topic was deleted and created anew: go on with the new one
    #[arg(long, value_name = "TOPIC/PARTITION", num_args = 1..)]
    new_topic: Vec<Target>,
}

impl What {
    fn asked(&self) -> (Asked, Vec<Target>) {
        let (asked, targets) =
            if self.gap.is_empty() { (Asked::NewTopic, &self.new_topic) } else { (Asked::Gap, &self.gap) };
        let mut distinct: Vec<Target> = Vec::with_capacity(targets.len());
        for target in targets {
            if !distinct.contains(target) {
                distinct.push(*target);
            }
        }
        (asked, distinct)
    }
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let Arguments { what, dry_run, format, actor, kafka, database } = arguments;
    let (asked, targets) = what.asked();
    database.once(|context| async move {
        let mut client = connect(database, &["sink_accepted", "audit_log"], &context).await?;
        let admin = connect_kafka(kafka, &context).await?;
        let request = Request {
            kafka,
            admin: &admin,
            asked,
            targets: &targets,
            actor: &actor.actor,
            dry_run: *dry_run,
        };
        // To its end also when a stop is asked for: it takes seconds, and a half would have to be explained.
        let outcomes = accept(&mut client, &request).await?;
        print(&match format {
            Format::Table => show::text(&outcomes),
            Format::Json => output::json(&outcomes)?,
        })
    })
}
