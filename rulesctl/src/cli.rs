//! The command line.

use std::io::{BufWriter, Write as _, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::error::ErrorKind;
use clap::{Args, Parser, ValueEnum};
use detection::{Defect, Detection, Rules, Subject, without_mark};
use normalise::FindingRecord;
use schemas::{Micros, Stream};

use crate::check::check;
use crate::clock::{Clock, ORG};
use crate::events::{Batch, Complaints, Events, Line, Shape};
use crate::explain::explain;
use crate::matches::{Matched, input, match_lines};
use crate::output::{self, Format, Output, TestFormat};
use crate::replay::{Replay, replay_lines};
use crate::{report, rules, suite};

const NAME: &str = "tidewatch-rules";

/// A flag or its value is wrong (EX_USAGE of sysexits.h), as of every tidewatch binary.
const EXIT_USAGE: u8 = 64;

/// Checks, tests and tries out Sigma rules, with the same code that detects in production. Needs neither Kafka nor Postgres.
#[derive(Debug, Parser)]
#[command(name = NAME, version)]
enum Command {
    /// Compile rules; ends with 1 where one does not
    Check(Check),
    /// Run the tests beside rules (NAME.test.yml); ends with 1 where one fails
    Test(Test),
    /// Tell which rules fire on which events
    Match(Match),
    /// Tell which incidents recorded events raise
    Replay(ReplayArgs),
    /// Tell why a rule did or did not match an event
    Explain(Explain),
    /// Tell what rules cover of ATT&CK, in Markdown
    Coverage(Coverage),
}

#[derive(Debug, Args)]
struct Check {
    /// Directory of rules, or a rule file
    path: PathBuf,
    /// How to show it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, Args)]
struct Test {
    /// Directory of rules, or a rule file
    path: PathBuf,
    /// How to show it
    #[arg(long, value_enum, default_value_t)]
    format: TestFormat,
}

/// The stream that events are sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum SentTo {
    /// Log events.
    #[default]
    Events,
    /// Findings of scans.
    Findings,
}

impl From<SentTo> for Stream {
    fn from(sent: SentTo) -> Self {
        match sent {
            SentTo::Events => Self::Events,
            SentTo::Findings => Self::Findings,
        }
    }
}

#[derive(Debug, Args)]
struct Source {
    /// Directory of rules, or a rule file
    #[arg(long, value_name = "DIR")]
    rules: PathBuf,
    /// Events as their sources emit them, one a line; - for stdin
    #[arg(long, value_name = "FILE")]
    events: PathBuf,
    /// What a line is
    #[arg(long, value_enum, default_value_t)]
    input: Shape,
    /// Where the events would be sent
    #[arg(long, value_enum, default_value_t)]
    stream: SentTo,
    /// Org whose events they are: rules that are off for it stay off, and its exceptions count
    #[arg(long, value_name = "NAME", default_value = ORG)]
    org: String,
    /// How to show it; json is an object a line
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, Args)]
struct Match {
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, Args)]
struct ReplayArgs {
    #[command(flatten)]
    source: Source,
    /// Field of a JSON event that holds its time, with dots a path [default: as in production]
    #[arg(long, value_name = "NAME")]
    time_field: Option<String>,
    /// Year of lines that do not say theirs [default: as in production, the latest that is not in the future]
    #[arg(long, value_name = "YEAR", value_parser = clap::value_parser!(i16).range(1970..=9998))]
    year: Option<i16>,
}

#[derive(Debug, Args)]
struct Explain {
    /// Rule file; of several rules in it each is explained
    rule: PathBuf,
    /// File with one event as its source emits it; - for stdin
    event: PathBuf,
    /// Directory that the rule file is in, for the filters, orgs and tables of its other files [default: the rule file alone]
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
    /// Org whose event it is
    #[arg(long, value_name = "NAME", default_value = ORG)]
    org: String,
    /// Where the event would be sent
    #[arg(long, value_enum, default_value_t)]
    stream: SentTo,
}

#[derive(Debug, Args)]
struct Coverage {
    /// Directory of rules, or a rule file
    path: PathBuf,
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let command = match Command::try_parse() {
        Ok(command) => command,
        Err(error) => return refuse(&error),
    };
    let mut out = Output::new(BufWriter::new(stdout().lock()));
    let result = match command {
        Command::Check(args) => run_check(&args, &mut out),
        Command::Test(args) => run_tests(&args, &mut out),
        Command::Match(args) => run_match(&args.source, &mut out),
        Command::Replay(args) if args.time_field.is_some() && args.source.input == Shape::Log => {
            say("error: --time-field names a field of JSON events; lines of a log have none");
            return ExitCode::from(EXIT_USAGE);
        }
        Command::Replay(args) => run_replay(args, &mut out),
        Command::Explain(args) => run_explain(&args, &mut out),
        Command::Coverage(args) => rules::some(&args.path, &mut say)
            .and_then(|found| out.text(&crate::coverage::coverage(&found.rules)))
            .map(|()| true),
    };
    match result.and_then(|ok| out.flush().map(|()| ok)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// A usage error in one line; help and version where they were asked for.
fn refuse(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed stdout (`--help | head -1`) is no failure.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
        }
        _ => {
            let text = error.to_string();
            let told = |line: &&str| !line.starts_with("Usage:") && !line.starts_with("For more information");
            let words: Vec<&str> =
                text.lines().map(str::trim).take_while(told).filter(|line| !line.is_empty()).collect();
            say(&words.join(" "));
        }
    }
    ExitCode::from(EXIT_USAGE)
}

/// On stderr, which may be closed.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

type Stdout<'a> = Output<BufWriter<std::io::StdoutLock<'a>>>;

fn run_check(args: &Check, out: &mut Stdout<'_>) -> anyhow::Result<bool> {
    let checked = check(&args.path)?;
    match args.format {
        Format::Table => out.text(&output::checked(&checked))?,
        Format::Json => out.text(&output::pretty(&checked)?)?,
    }
    Ok(checked.errors.is_empty())
}

fn run_tests(args: &Test, out: &mut Stdout<'_>) -> anyhow::Result<bool> {
    let suite = suite::run(&args.path)?;
    match args.format {
        TestFormat::Table => out.text(&output::suite(&suite))?,
        TestFormat::Json => out.text(&output::pretty(&suite)?)?,
        TestFormat::Junit => out.text(&report::junit(&suite)?)?,
    }
    Ok(suite.is_ok())
}

/// Reads batch by batch, with a progress bar, and tells of lines that are not what they should be.
fn each_batch(
    source: &Source,
    events: &mut Events,
    take: &mut dyn FnMut(&Batch) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let bar = output::progress_bar(events.bytes());
    let mut complaints = Complaints::default();
    let mut batch = Batch::default();
    while events.next_batch(&mut batch)? {
        for line in batch.lines() {
            let shape = if source.stream == SentTo::Events { source.input } else { Shape::Jsonl };
            if let Some(complaint) = complaints.about(events.path(), &line, shape) {
                bar.suspend(|| say(&complaint));
            }
        }
        if !take(&batch)? {
            break;
        }
        bar.set_position(events.bytes_read());
    }
    bar.finish_and_clear();
    complaints.rest().iter().for_each(|rest| say(rest));
    Ok(())
}

fn run_match(source: &Source, out: &mut Stdout<'_>) -> anyhow::Result<bool> {
    let found = rules::some(&source.rules, &mut say)?;
    let rules = &found.rules;
    let mut events = Events::open(&source.events)?;
    let mut total = Matched::default();
    each_batch(source, &mut events, &mut |batch| {
        let matched =
            match_lines(rules, batch, source.input, &source.org, source.stream.into(), &mut |hit, meta| {
                match source.format {
                    Format::Json => out.json(&hit),
                    Format::Table => out.text(&format!(
                        "{:>8}  {:13}  {}  {}\n",
                        hit.index,
                        rules::level(rules.severity_id(meta, &source.org)),
                        hit.rule_id,
                        meta.title
                    )),
                }
            })?;
        total.events += matched.events;
        total.passed_over += matched.passed_over;
        total.hits += matched.hits;
        Ok(!out.gone())
    })?;
    let passed_over = match total.passed_over {
        0 => String::new(),
        count => format!(", {count} passed over"),
    };
    say(&format!("{} events{passed_over}, {}, {} hits", total.events, found.count(), total.hits));
    Ok(true)
}

fn run_replay(args: ReplayArgs, out: &mut Stdout<'_>) -> anyhow::Result<bool> {
    let ReplayArgs { source, time_field, year } = args;
    let found = rules::some(&source.rules, &mut say)?;
    let rules = &found.rules;
    let mut events = Events::open(&source.events)?;
    let mut clock = Clock::new(source.input, time_field.clone(), year);
    let mut replay = Replay::new(rules.clone());
    let mut rejects = 0u64;
    each_batch(&source, &mut events, &mut |batch| {
        let mut rejected = |_: u64, _: &schemas::Reject<'_>| rejects += 1;
        let (input, org, stream) = (source.input, source.org.as_str(), source.stream.into());
        replay_lines(&mut replay, &mut clock, batch, input, org, stream, &mut rejected);
        Ok(true)
    })?;
    let late = replay.late();
    let incidents = replay.finish();
    match source.format {
        Format::Table => out.text(&output::incidents(&incidents, rules, &source.org))?,
        Format::Json => incidents.iter().try_for_each(|incident| out.json(incident))?,
    }
    if late > 0 {
        say(&format!("{late} matches came too late for their window: the events are not in order of time"));
    }
    if rejects > 0 {
        say(&format!("{rejects} events were rejected"));
    }
    if let Some(field) = time_field.filter(|_| clock.without_field() > 0) {
        let count = clock.without_field();
        say(&format!("{count} events have no time in {field}; they have the one of production"));
    }
    let count = incidents.len();
    say(&format!("{} events, {}, {count} incidents", events.events_read(), found.count()));
    Ok(true)
}

/// The detection rules that are from `file`, however its path is written; all below it where it is a directory.
fn of_file<'r>(rules: &'r Rules, file: &Path) -> anyhow::Result<Vec<&'r Detection>> {
    let file = file.canonicalize().with_context(|| format!("{} cannot be read", file.display()))?;
    let is_from = |rule: &&Detection| {
        let path = rules.origin(&rule.meta.id).and_then(|(path, _)| path.canonicalize().ok());
        path.is_some_and(|path| path.starts_with(&file))
    };
    Ok(rules.detections().iter().filter(is_from).collect())
}

fn run_explain(args: &Explain, out: &mut Stdout<'_>) -> anyhow::Result<bool> {
    let (rules, defects) = rules::open(args.rules.as_ref().unwrap_or(&args.rule))?;
    for defect in &defects {
        say(&defect.to_string());
    }
    let of_file = of_file(&rules, &args.rule)?;
    let bytes = read_event(&args.event)?;
    let line = Line { index: 0, number: 1, bytes: &bytes };
    if let Some(complaint) = Complaints::default().about(&args.event, &line, Shape::Jsonl) {
        say(&complaint);
    }
    let input = input(&line, Shape::Jsonl, &args.org, Micros::now());
    let rejected = |reject: schemas::Reject<'_>| {
        anyhow::anyhow!("the event is rejected: {}: {}", reject.reason, reject.detail)
    };
    let mut texts = Vec::new();
    {
        let mut each = |subject: Subject<'_>| -> anyhow::Result<()> {
            for rule in &of_file {
                texts.push(explain(&rules, rule, subject)?);
            }
            Ok(())
        };
        match args.stream {
            SentTo::Events => each(Subject::Event(&normalise::event(&input).map_err(rejected)?))?,
            SentTo::Findings => match normalise::finding(&input).map_err(rejected)? {
                FindingRecord::Finding(finding) => each(Subject::Finding(&finding))?,
                FindingRecord::Scan(scan) => each(Subject::Scan(&scan))?,
            },
        }
    }
    let file = args.rule.canonicalize()?;
    let is_of_it = |defect: &Defect| defect.path.canonicalize().is_ok_and(|path| path.starts_with(&file));
    if texts.is_empty() && !defects.iter().any(is_of_it) {
        bail!(why_none(args)?);
    }
    out.text(&texts.join("\n"))?;
    Ok(defects.is_empty())
}

/// Why none of the rules is of the file.
fn why_none(args: &Explain) -> anyhow::Result<String> {
    let file = args.rule.display();
    if let Some(directory) = &args.rules
        && (!args.rule.canonicalize()?.starts_with(directory.canonicalize()?)
            || !rules::open(&args.rule)?.0.detections().is_empty())
    {
        return Ok(format!("{file} is not among the rules of {}", directory.display()));
    }
    Ok(format!("{file} has no detection rule; a correlation counts matches of others"))
}

fn read_event(path: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        let limit = normalise::MAX_EVENT_BYTES as u64 + 1;
        std::io::Read::read_to_end(&mut std::io::Read::take(std::io::stdin(), limit), &mut bytes)
            .context("stdin cannot be read")?;
        bytes
    } else {
        std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?
    };
    let text = without_mark(&bytes).trim_ascii_start();
    anyhow::ensure!(!text.is_empty(), "{} has no event", path.display());
    if text.starts_with(b"{") {
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let whole = <serde::de::IgnoredAny as serde::Deserialize>::deserialize(&mut deserializer)
            .and_then(|_| deserializer.end());
        if let Err(error) = whole {
            bail!("{}:{}: {error}", path.display(), error.line());
        }
    }
    Ok(text.to_vec())
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
    #[case(&["check"])]
    #[case(&["check", "a", "--format", "yaml"])]
    #[case(&["match", "--rules", "a"])]
    #[case(&["replay", "--rules", "a", "--events", "b", "--year", "05"])]
    #[case(&["replay", "--rules", "a", "--events", "b", "--input", "csv"])]
    #[case(&["explain", "a"])]
    fn wrong_values_are_refused(#[case] args: &[&str]) {
        assert!(Command::try_parse_from([NAME].iter().chain(args)).is_err());
    }
}
