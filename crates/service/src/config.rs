//! Configuration: parsed and validated whole before anything binds.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::str::FromStr;

use clap::error::ErrorKind;
use clap::{Command, Parser};
use tracing_subscriber::EnvFilter;

use crate::lifecycle::EXIT_USAGE;

/// What a service is configured by: a clap parser that flattens [`ServiceArgs`].
pub trait Configuration: Parser {
    /// Checks what a single flag's parser cannot: files, ranges that depend on each other, addresses that collide.
    ///
    /// # Errors
    /// The first value that is wrong, by its flag.
    fn validate(&self) -> Result<(), ConfigError>;

    /// The flags that every service has.
    fn service(&self) -> &ServiceArgs;

    /// Port of `--admin-listen` on 127.0.0.1 when the flag is not given.
    fn default_admin_port() -> u16;
}

/// A configured value is wrong. Ends the process with exit code 64.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flag}: {reason}")]
pub struct ConfigError {
    flag: &'static str,
    reason: String,
}

impl ConfigError {
    /// `flag` as the user writes it (`--rules`); `reason` says what is wrong with the value and, where it is not
    /// plain, what would be right. Passwords do not belong into it.
    pub fn new(flag: &'static str, reason: impl Into<String>) -> Self {
        Self { flag, reason: reason.into() }
    }

    /// The flag at fault.
    pub fn flag(&self) -> &'static str {
        self.flag
    }
}

/// Flags of every service.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Service")]
pub struct ServiceArgs {
    /// Address of /metrics, /healthz and /readyz; port 0 picks a free one, which the log names
    #[arg(
        id = "admin_listen",
        long = "admin-listen",
        env = "TIDEWATCH_ADMIN_LISTEN",
        value_name = "ADDR",
        default_value = "127.0.0.1:0"
    )]
    pub admin_listen: SocketAddr,

    /// Format of the log on stderr [default: human on a terminal, else json]
    #[arg(long, env = "TIDEWATCH_LOG_FORMAT", value_name = "FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,

    /// What is logged: a level, or directives such as info,tidewatch_sink=debug
    #[arg(long, env = "TIDEWATCH_LOG", value_name = "FILTER", default_value = "info")]
    pub log: LogFilter,

    /// Threads that run asynchronous work [default: the cores of the machine, at most 4]
    #[arg(long, env = "TIDEWATCH_WORKER_THREADS", value_name = "COUNT")]
    pub worker_threads: Option<NonZeroUsize>,
}

impl ServiceArgs {
    pub(crate) fn log_format(&self) -> LogFormat {
        self.log_format.unwrap_or_else(|| {
            if std::io::stderr().is_terminal() { LogFormat::Human } else { LogFormat::Json }
        })
    }

    /// More workers than four buy little: the services' heavy work runs on threads of its own.
    pub(crate) fn worker_threads(&self) -> usize {
        self.worker_threads
            .map(NonZeroUsize::get)
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(2, NonZeroUsize::get).min(4))
    }
}

impl Default for ServiceArgs {
    /// The flags' defaults, with a free admin port: for tests and benches that build a `Config` by hand.
    fn default() -> Self {
        Self {
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            log_format: None,
            log: LogFilter("info".to_owned()),
            worker_threads: None,
        }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people: one line an event, coloured on a terminal.
    Human,
    /// For machines: one JSON object a line, fields at the top level.
    Json,
}

/// A valid `tracing` filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    pub(crate) fn to_env_filter(&self) -> EnvFilter {
        EnvFilter::builder().parse_lossy(&self.0)
    }
}

impl FromStr for LogFilter {
    type Err = tracing_subscriber::filter::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        EnvFilter::builder().parse(text).map(|_| Self(text.to_owned()))
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Parses the command line and the environment.
///
/// For binaries with subcommands; services use [`main`](crate::main). `admin_port` becomes the default port of
/// `--admin-listen` wherever [`ServiceArgs`] is flattened, subcommands included.
///
/// # Errors
/// The exit code to end with, everything having been said: 0 after `--help` and `--version`, 64 after a usage error,
/// told in one line on stderr.
pub fn parse<P: Parser>(admin_port: Option<u16>) -> Result<P, ExitCode> {
    let mut command = P::command();
    if let Some(port) = admin_port {
        command = with_admin_port(command, port);
    }
    command
        .try_get_matches_from_mut(std::env::args_os())
        .and_then(|matches| P::from_arg_matches(&matches).map_err(|e| e.format(&mut command)))
        .map_err(|error| refuse(&error))
}

pub(crate) fn parse_valid<C: Configuration>() -> Result<C, ExitCode> {
    let config: C = parse(Some(C::default_admin_port()))?;
    config.validate().map_err(|error| say_usage_error(&error.to_string()))?;
    Ok(config)
}

fn with_admin_port(command: Command, port: u16) -> Command {
    let command = command.mut_subcommands(|sub| with_admin_port(sub, port));
    if command.get_arguments().any(|arg| arg.get_id() == "admin_listen") {
        command.mut_arg("admin_listen", |arg| arg.default_value(format!("127.0.0.1:{port}")))
    } else {
        command
    }
}

fn refuse(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed stdout (`--help | head -1`) is no failure.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(EXIT_USAGE)
        }
        _ => say_usage_error(&first_paragraph(&error.to_string())),
    }
}

fn say_usage_error(message: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {message}");
    ExitCode::from(EXIT_USAGE)
}

/// clap's message without its usage block, on one line.
fn first_paragraph(rendered: &str) -> String {
    let words = rendered
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    words.strip_prefix("error: ").unwrap_or(&words).to_owned()
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    #[derive(Debug, Parser)]
    struct Flat {
        #[command(flatten)]
        service: ServiceArgs,
        #[arg(long)]
        database_url: String,
    }

    #[derive(Debug, Parser)]
    enum Nested {
        Run(Flat),
        List,
    }

    #[test]
    fn a_missing_flag_is_told_in_one_line() {
        let error = Flat::try_parse_from(["x"]).unwrap_err();
        assert_eq!(
            first_paragraph(&error.to_string()),
            "the following required arguments were not provided: --database-url <DATABASE_URL>"
        );
    }

    #[test]
    fn a_wrong_value_is_told_with_its_flag() {
        let error = Flat::try_parse_from(["x", "--database-url", "y", "--log", "a=b=c"]).unwrap_err();
        let line = first_paragraph(&error.to_string());
        assert!(line.contains("--log <FILTER>") && line.contains("a=b=c"), "{line}");
    }

    #[test]
    fn the_admin_port_reaches_subcommands() {
        let mut command = with_admin_port(<Nested as clap::CommandFactory>::command(), 9107);
        let matches = command.try_get_matches_from_mut(["x", "run", "--database-url", "y"]).unwrap();
        let Nested::Run(flat) = Nested::from_arg_matches(&matches).unwrap() else { panic!("not run") };
        assert_eq!(flat.service.admin_listen, SocketAddr::from(([127, 0, 0, 1], 9107)));
        assert_eq!(flat.database_url, "y");
        command.debug_assert();
    }
}
