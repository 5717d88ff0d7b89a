//! The command line.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Traffic for tidewatch: generated, scripted or replayed.
#[derive(Debug, Parser)]
#[command(name = "tidewatch-loadgen", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,

    #[command(flatten)]
    pub target: TargetArgs,
}

/// What to send.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Generated traffic, mostly benign: JSON events, sshd and web server lines, Windows events of ~270 bytes
    Run(RunArgs),
    /// A story that the shipped rules recognise
    Scenario(ScenarioArgs),
    /// A file of lines (any format; JSON objects or text), its times rebased to now
    Replay(ReplayArgs),
}

/// Where to send it, and what to say of it.
#[derive(Debug, Args)]
pub struct TargetArgs {
    /// Where ingest takes pushes
    #[arg(
        long,
        global = true,
        env = "TIDEWATCH_INGEST_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8080"
    )]
    pub ingest_url: String,

    /// Ingest token; several, each of another org, take turns
    #[arg(
        long = "token",
        global = true,
        env = "TIDEWATCH_INGEST_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        value_delimiter = ','
    )]
    pub tokens: Vec<String>,

    /// File that gets one JSON line for each acknowledged push, appended
    #[arg(long, global = true, value_name = "FILE")]
    pub journal: Option<PathBuf>,

    /// Send each push with an Idempotency-Key, so that a repeated one is stored once
    #[arg(long, global = true)]
    pub idempotency_keys: bool,

    /// Time for an answer before a push is repeated
    #[arg(long, global = true, value_name = "TIME", default_value = "15s", value_parser = duration)]
    pub timeout: Duration,

    /// A push that is refused for so long stays unacknowledged
    #[arg(long, global = true, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub give_up_after: Duration,

    /// How the report on stdout looks
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value_t = ReportFormat::Human)]
    pub format: ReportFormat,
}

/// How the report looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For people.
    Human,
    /// One JSON object.
    Json,
}

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Events to send in all
    #[arg(long, value_name = "EVENTS", conflicts_with = "duration")]
    pub count: Option<NonZeroU64>,

    /// How long to send [default: until interrupted, if --count is not given either]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,

    /// Events a second at most [default: as fast as they are taken]
    #[arg(long, value_name = "EVENTS")]
    pub rate: Option<NonZeroU64>,

    /// Events in a push
    #[arg(long, value_name = "EVENTS", default_value_t = NonZeroU64::MIN.saturating_add(499))]
    pub batch: NonZeroU64,

    /// Connections, each with one push under way
    #[arg(long, value_name = "COUNT", default_value_t = NonZeroUsize::MIN.saturating_add(7))]
    pub connections: NonZeroUsize,

    /// Senders that take turns; their names spread the load over partitions
    #[arg(long, value_name = "COUNT", default_value_t = NonZeroUsize::MIN.saturating_add(15))]
    pub senders: NonZeroUsize,

    /// The same seed gives the same events, but for their times and the run's id
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,

    /// Id of the run, in every event as `run` [default: a random one]
    #[arg(long, value_name = "ID", value_parser = run_id)]
    pub run_id: Option<String>,

    /// Formats to mix
    #[arg(long, value_name = "FORMATS", value_enum, value_delimiter = ',',
        default_values_t = [Kind::Json, Kind::Sshd, Kind::Access, Kind::Windows])]
    pub mix: Vec<Kind>,

    /// Send to this syslog listener over TCP instead; nothing is acknowledged then
    #[arg(long, value_name = "ADDR")]
    pub syslog_tcp: Option<String>,
}

/// A format of generated events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Events in tidewatch's own JSON
    Json,
    /// Lines of OpenSSH's server
    Sshd,
    /// Lines of a web server's access log
    Access,
    /// Windows events as flat JSON
    Windows,
}

/// Flags of `scenario`.
#[derive(Debug, Args)]
pub struct ScenarioArgs {
    /// The story
    #[arg(value_enum)]
    pub name: Scenario,

    /// Chooses addresses, hosts and names [default: by the clock, so that each telling is another incident]
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
}

/// A story.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Twenty failed SSH logins from one address to one host, then one that succeeds, within a minute
    SshBruteForce,
    /// Sixty requests for paths that are not there, from one address, within a minute
    WebScan,
    /// A database scan: queued, running, completed, with card numbers found on the way
    PiiLeak,
    /// All of these, within 2,000 benign events: the bundled sample traffic
    Sample,
}

/// Flags of `replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The file, one event a line; `-` is stdin (with --speed max only)
    pub file: PathBuf,

    /// 1 replays at the original pace, 10 ten times as fast, `max` without a pause, the last event being now
    #[arg(long, value_name = "FACTOR", default_value = "max", value_parser = speed)]
    pub speed: Speed,

    /// Events in a push at most
    #[arg(long, value_name = "EVENTS", default_value_t = NonZeroUsize::MIN.saturating_add(499))]
    pub batch: NonZeroUsize,

    /// Name of the sender
    #[arg(long, value_name = "NAME", default_value = "replay")]
    pub sender: String,

    /// The lines are findings and scan activity
    #[arg(long)]
    pub findings: bool,

    /// Leave the times as they are
    #[arg(long)]
    pub keep_times: bool,

    /// Events a second at most, whatever their times
    #[arg(long, value_name = "EVENTS", conflicts_with = "speed")]
    pub rate: Option<NonZeroU64>,
}

/// How fast a file is replayed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// So many times the original pace.
    Factor(f64),
    /// Without a pause.
    Max,
}

fn speed(text: &str) -> Result<Speed, String> {
    match text.parse::<f64>() {
        _ if text == "max" => Ok(Speed::Max),
        Ok(factor) if factor.is_finite() && factor > 0.0 => Ok(Speed::Factor(factor)),
        _ => Err("is neither a factor such as 1 or 60 nor `max`".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let signed: jiff::SignedDuration = text.parse().map_err(|error| format!("{error}"))?;
    Duration::try_from(signed).map_err(|_| "must not be negative".to_owned())
}

fn run_id(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if plain && (1..=40).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("is 1 to 40 letters, digits, `-` and `_`".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let cli =
            Cli::try_parse_from(["x", "run", "--token", "a,b", "--count", "5", "--format", "json"]).unwrap();
        assert_eq!(cli.target.tokens, ["a", "b"]);
        let Command::Run(run) = cli.command else { panic!("not run") };
        assert_eq!((run.batch.get(), run.connections.get(), run.mix.len()), (500, 8, 4));
    }

    #[test]
    fn speeds_are_factors_or_max() {
        assert_eq!(speed("max"), Ok(Speed::Max));
        assert_eq!(speed("2.5"), Ok(Speed::Factor(2.5)));
        for bad in ["0", "-1", "nan", "inf", "fast"] {
            assert!(speed(bad).is_err(), "{bad}");
        }
    }
}
