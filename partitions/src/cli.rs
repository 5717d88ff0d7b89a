//! The command line.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Parser};
use jiff::Timestamp;
use kafka::{Admin, KafkaArgs};
use postgres::{Client, PostgresArgs, wait_until_migrated};
use schemas::OrgId;
use service::ServiceArgs;
use uuid::Uuid;

use crate::apply::{TABLES, apply};
use crate::doctor::{self, Progress};
use crate::list::list;
use crate::migrate::migrate;
use crate::orgs::{create_org, list_orgs};
use crate::plan::Horizon;
use crate::run::{self, Settings};
use crate::tokens::{Kind, create_token, list_tokens, revoke_token};
use crate::{accept, output, tokens, topics};

const NAME: &str = "tidewatch-partitions";
const ADMIN_PORT: u16 = 9107;

/// Migrations, month partitions, topics, orgs, tokens, and the proof that all adds up. Every command can be repeated harmlessly, and waits for the
/// database or broker it needs.
#[derive(Debug, Parser)]
#[command(name = NAME, version)]
enum Command {
    /// Bring the database's tables to the newest version
    Migrate(Database),
    /// Make the month partitions that are missing around now
    Apply(Apply),
    /// Show every partition
    List(List),
    /// Make the Kafka topics that are missing, and grow those of the streams that have fewer partitions
    Topics(Topics),
    /// Prove on the live database that every raw record is accounted for once; ends with 1 where it is not
    Doctor(Doctor),
    /// Let a service go on that stopped because Kafka lost something, and write down who decided so
    Accept(accept::Arguments),
    /// Run as a service: make partitions every hour, summarise BRIN indexes every few seconds
    Run(Run),
    /// Create and list orgs
    #[command(subcommand)]
    Org(Org),
    /// Create, revoke and list bearer tokens
    #[command(subcommand)]
    Token(Token),
}

#[derive(Debug, Args)]
pub(crate) struct Database {
    #[command(flatten)]
    postgres: PostgresArgs,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Debug, Args)]
struct HorizonArgs {
    /// Months before the current one
    #[arg(long, env = "TIDEWATCH_MONTHS_BACK", value_name = "MONTHS", default_value_t = Horizon::default().back,
        value_parser = clap::value_parser!(u16).range(0..=120))]
    back: u16,
    /// Months after the current one
    #[arg(long, env = "TIDEWATCH_MONTHS_AHEAD", value_name = "MONTHS", default_value_t = Horizon::default().ahead,
        value_parser = clap::value_parser!(u16).range(0..=120))]
    ahead: u16,
}

impl HorizonArgs {
    fn horizon(&self) -> Horizon {
        Horizon { back: self.back, ahead: self.ahead }
    }
}

#[derive(Debug, Args)]
struct Apply {
    #[command(flatten)]
    horizon: HorizonArgs,
    #[command(flatten)]
    database: Database,
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    horizon: HorizonArgs,
    /// Milliseconds between two looks for page ranges without a summary
    #[arg(long, env = "TIDEWATCH_SUMMARISE_EVERY_MS", value_name = "MS", default_value_t = 2000,
        value_parser = clap::value_parser!(u64).range(100..=600_000))]
    summarise_every_ms: u64,
    #[command(flatten)]
    database: Database,
}

#[derive(Debug, Args)]
struct List {
    /// How to show it
    #[arg(long, value_enum, default_value_t)]
    format: output::Format,
    #[command(flatten)]
    database: Database,
}

#[derive(Debug, Args)]
struct Doctor {
    /// Connections that read rows, each a month at a time
    #[arg(long, value_name = "COUNT", default_value_t = doctor::Options::default().connections,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=4))]
    connections: usize,
    /// Memory for telling identities apart; with too little, rows are read more than once
    #[arg(long, value_name = "MIB", default_value_t = doctor::Options::default().identity_bytes >> 20,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=65536))]
    memory_mib: usize,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, Args)]
struct Topics {
    /// Partitions of events.raw, findings.raw, events and findings; signals and incidents always have 32
    #[arg(long, env = "TIDEWATCH_PARTITIONS", value_name = "COUNT", default_value_t = 4,
        value_parser = clap::value_parser!(i32).range(1..=1000))]
    partitions: i32,
    /// Copies of each partition, on as many brokers
    #[arg(long, env = "TIDEWATCH_REPLICATION", value_name = "COUNT", default_value_t = 1,
        value_parser = clap::value_parser!(i32).range(1..=16))]
    replication: i32,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Actor {
    /// Who does it, for the audit log
    #[arg(long, env = "TIDEWATCH_ACTOR", value_name = "NAME", default_value = "operator")]
    pub(crate) actor: String,
}

#[derive(Debug, clap::Subcommand)]
enum Org {
    /// Create an org; leaves one that is there as it is
    Create {
        /// Its id: 1 to 64 of a-z 0-9 . _ -
        id: OrgId,
        /// Its name for people [default: the id]
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        actor: Actor,
        #[command(flatten)]
        database: Database,
    },
    /// Show every org
    List(List),
}

#[derive(Debug, clap::Subcommand)]
enum Token {
    /// Create a token and show it, this once
    Create {
        /// The org it acts for
        #[arg(long)]
        org: OrgId,
        /// What it opens
        #[arg(long, value_enum)]
        kind: Kind,
        /// Its name for people, and the actor of changes made with it [default: the kind]
        #[arg(long)]
        label: Option<String>,
        /// How to show it
        #[arg(long, value_enum, default_value_t)]
        format: output::Format,
        #[command(flatten)]
        actor: Actor,
        #[command(flatten)]
        database: Database,
    },
    /// Revoke a token; services refuse it within 30 s
    Revoke {
        /// Its id, from `token list`
        id: Uuid,
        #[command(flatten)]
        actor: Actor,
        #[command(flatten)]
        database: Database,
    },
    /// Show every token, without its text
    List {
        /// Of this org only
        #[arg(long)]
        org: Option<OrgId>,
        #[command(flatten)]
        list: List,
    },
}

/// Runs the command line.
pub fn main() -> ExitCode {
    match service::parse(Some(ADMIN_PORT)) {
        Ok(command) => dispatch(command),
        Err(code) => code,
    }
}

fn dispatch(command: Command) -> ExitCode {
    match command {
        Command::Migrate(database) => once(&database, &[], async |mut client| {
            let applied = migrate(&mut client).await?;
            Ok(output::lines(
                applied.iter().map(|version| format!("applied {version}")),
                "nothing to migrate",
            ))
        }),
        Command::Apply(Apply { horizon, database }) => once(&database, &months(), async |mut client| {
            let created = apply(&mut client, Timestamp::now(), horizon.horizon()).await?;
            let lines = created.iter().map(|created| {
                let (from, to) = (created.month.start(), created.month.end());
                format!("made {} ({from} to {to})", created.name)
            });
            Ok(output::lines(lines, "no partition is missing"))
        }),
        Command::List(List { format, database }) => {
            once(&database, &months(), async |client| output::leaves(&list(&client).await?, format))
        }
        Command::Run(Run { horizon, summarise_every_ms, database }) => {
            let settings = Settings {
                postgres: database.postgres,
                horizon: horizon.horizon(),
                summarise_every: Duration::from_millis(summarise_every_ms),
            };
            service::serve(NAME, &database.service, |context| run::run(settings, context))
        }
        Command::Doctor(args) => doctor(args),
        Command::Accept(args) => accept::run(&args),
        Command::Topics(args) => make_topics(&args),
        Command::Org(command) => org(command),
        Command::Token(command) => token(command),
    }
}

fn org(command: Org) -> ExitCode {
    match command {
        Org::Create { id, name, actor, database } => once(&database, &["org"], async |mut client| {
            let name = name.as_deref().unwrap_or(id.as_str());
            let created = create_org(&mut client, &id, name, &actor.actor).await?;
            Ok(if created { format!("created org {id}\n") } else { format!("org {id} is there already\n") })
        }),
        Org::List(List { format, database }) => {
            once(&database, &["org"], async |client| output::orgs(&list_orgs(&client).await?, format))
        }
    }
}

fn token(command: Token) -> ExitCode {
    match command {
        Token::Create { org, kind, label, format, actor, database } => {
            once(&database, &["token"], async |mut client| {
                let label = label.as_deref().unwrap_or(kind.name());
                let token = create_token(&mut client, &org, kind, label, &actor.actor).await?;
                output::new_token(&token, format)
            })
        }
        Token::Revoke { id, actor, database } => once(&database, &["token"], async |mut client| {
            Ok(match revoke_token(&mut client, id, &actor.actor).await? {
                tokens::Revoked::Now => format!("revoked token {id}\n"),
                tokens::Revoked::Before => format!("token {id} was revoked before\n"),
            })
        }),
        Token::List { org, list: List { format, database } } => once(&database, &["token"], async |client| {
            output::tokens(&list_tokens(&client, org.as_ref()).await?, format)
        }),
    }
}

fn doctor(args: Doctor) -> ExitCode {
    let Doctor { connections, memory_mib, list: List { format, database } } = args;
    let options = doctor::Options { connections, identity_bytes: memory_mib << 20, ..Default::default() };
    once(&database, &doctor::TABLES, async |_| {
        let bar = output::progress_bar();
        let progress = |Progress { rows, of }| {
            bar.set_length(of);
            bar.set_position(rows);
        };
        let report = doctor::doctor(&database.postgres.database_url, &options, &progress).await;
        bar.finish_and_clear();
        let report = report?;
        print(&match format {
            output::Format::Table => doctor::text(&report),
            output::Format::Json => output::json(&report)?,
        })?;
        let failed = report.checks.iter().filter(|check| !check.is_ok()).count();
        ensure!(report.ok, "{failed} of {} checks failed", report.checks.len());
        Ok(String::new())
    })
}

fn make_topics(args: &Topics) -> ExitCode {
    service::once(NAME, &args.service, |context| async move {
        let admin = connect_kafka(&args.kafka, &context).await?;
        let made = topics::make(&admin, &args.kafka, args.partitions, args.replication).await?;
        let lines = made.iter().map(ToString::to_string);
        print(&output::lines(lines, "no topics"))
    })
}

fn months() -> Vec<&'static str> {
    TABLES.iter().map(|table| table.name).collect()
}

/// Waits for the database and its `tables`, runs a command on a connection and prints what it returns.
fn once<F>(database: &Database, tables: &[&str], command: F) -> ExitCode
where
    F: AsyncFnOnce(Client) -> anyhow::Result<String>,
{
    database.once(|context| async move {
        let client = connect(database, tables, &context).await?;
        let text = match context.shutdown.unless_requested(command(client)).await {
            Some(result) => result?,
            None => bail!("stopped half-way; run it again"),
        };
        print(&text)
    })
}

impl Database {
    /// Runs a command to its end.
    pub(crate) fn once<F, Fut>(&self, command: F) -> ExitCode
    where
        F: FnOnce(service::Context) -> Fut,
        Fut: Future<Output = anyhow::Result<()>>,
    {
        service::once(NAME, &self.service, command)
    }
}

/// Waits for the database and its `tables`.
pub(crate) async fn connect(
    database: &Database,
    tables: &[&str],
    context: &service::Context,
) -> anyhow::Result<Client> {
    let args = &database.postgres;
    let dependency = context.health.dependency("postgres").at(args.database_url.address());
    let shutdown = context.shutdown.token();
    let client = wait_until_migrated(args, tables, &shutdown, |reason| dependency.down(reason)).await;
    let Some(client) = client else { bail!("stopped while waiting for postgres") };
    dependency.up();
    Ok(client)
}

/// Waits for a broker.
pub(crate) async fn connect_kafka(args: &KafkaArgs, context: &service::Context) -> anyhow::Result<Admin> {
    let admin = Admin::new(args)?;
    let dependency = context.health.dependency("kafka").at(&args.brokers);
    let shutdown = context.shutdown.token();
    if !admin.wait_until_ready(&shutdown, |reason| dependency.down(reason)).await {
        bail!("stopped while waiting for kafka");
    }
    dependency.up();
    Ok(admin)
}

/// A reader that has gone away (`| head -1`) is no failure.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("writing to stdout")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use rstest::rstest;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Command::command().debug_assert();
    }

    #[rstest]
    #[case(&["org", "create", "Demo"])]
    #[case(&["token", "create", "--org", "demo", "--kind", "root"])]
    #[case(&["token", "revoke", "7"])]
    #[case(&["apply", "--ahead", "-1"])]
    #[case(&["run", "--summarise-every-ms", "1"])]
    #[case(&["topics", "--partitions", "0"])]
    #[case(&["doctor", "--connections", "0"])]
    #[case(&["accept"])]
    #[case(&["accept", "--gap"])]
    #[case(&["accept", "--gap", "events"])]
    #[case(&["accept", "--gap", "signals/1"])]
    #[case(&["accept", "--new-topic", "events/1", "events.raw/x"])]
    #[case(&["accept", "--gap", "events/1", "--new-topic", "events/1"])]
    fn wrong_values_are_refused(#[case] args: &[&str]) {
        let url = ["--database-url", "postgres://db/tide"];
        let args = [NAME].iter().chain(args).chain(&url);
        assert!(Command::try_parse_from(args).is_err());
    }

    #[test]
    fn several_partitions_may_be_named() {
        let args = ["accept", "--gap", "events/1", "events.raw/1", "--gap", "incidents/3", "--dry-run"];
        let url = ["--database-url", "postgres://db/tide"];
        assert!(Command::try_parse_from([NAME].iter().chain(&args).chain(&url)).is_ok());
    }
}
