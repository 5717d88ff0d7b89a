//! `test`: rules against the test events beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use detection::{Defect, Rules, Subject, without_mark};
use jiff::{SignedDuration, Timestamp};
use normalise::{FindingRecord, Input};
use schemas::{Micros, Stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::replay::Replay;

/// Events of a case; more are no test but a load, and each is held in memory.
const MAX_EVENTS: i64 = 100_000;

/// `NAME.test.yml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestFile {
    /// Its cases.
    pub tests: Vec<Case>,
}

/// What a rule must make of some events.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows.
    pub name: String,
    /// Id or name of the rule it is about, where the file beside it has several; the last one by default.
    #[serde(default)]
    pub rule: Option<String>,
    /// Whether every event matches, of a correlation whether an incident fires.
    #[serde(rename = "match")]
    pub matches: bool,
    /// The only step, written without a list.
    #[serde(default)]
    event: Option<Value>,
    #[serde(default)]
    stream: Option<String>,
    #[serde(default)]
    times: Option<i64>,
    #[serde(default)]
    every_seconds: Option<i64>,
    /// Several steps, one after the other.
    #[serde(default)]
    events: Vec<Step>,
}

/// An event that is sent once or several times.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    event: Value,
    #[serde(default)]
    stream: Option<String>,
    #[serde(default)]
    times: Option<i64>,
    #[serde(default)]
    every_seconds: Option<i64>,
}

impl Case {
    /// A case of one event.
    pub fn new(event: Value, stream: Stream, times: i64, every_seconds: i64) -> Self {
        Self {
            name: String::new(),
            rule: None,
            matches: true,
            event: Some(event),
            stream: Some(stream.name().to_owned()),
            times: Some(times),
            every_seconds: Some(every_seconds),
            events: Vec::new(),
        }
    }

    fn steps(&self) -> impl Iterator<Item = Step> {
        let single = self.event.clone().map(|event| Step {
            event,
            stream: self.stream.clone(),
            times: self.times,
            every_seconds: self.every_seconds,
        });
        single.into_iter().chain(self.events.iter().cloned())
    }

    /// Raw records, and when each is taken in.
    fn raw(&self) -> anyhow::Result<Vec<(Stream, String, Timestamp)>> {
        let mut at: Timestamp = "2026-11-21T09:05:07Z".parse()?;
        let events = self.steps().map(|step| step.times.unwrap_or(1).max(0)).fold(0, i64::saturating_add);
        ensure!(events > 0, "it has no events");
        ensure!(events <= MAX_EVENTS, "they are {events}, and a test may have {MAX_EVENTS}");
        let mut records = Vec::new();
        for step in self.steps() {
            let stream = match &step.stream {
                None => Stream::Events,
                Some(name) => Stream::from_name(name)
                    .with_context(|| format!("no stream {name}: events or findings"))?,
            };
            let text = match &step.event {
                Value::String(line) => line.clone(),
                event => event.to_string(),
            };
            for n in 0..step.times.unwrap_or(1) {
                let line = text
                    .replace("$time", &at.to_string())
                    .replace("$clf", &at.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string())
                    .replace("$n", &n.to_string());
                records.push((stream, line, at));
                at = at.checked_add(SignedDuration::from_secs(step.every_seconds.unwrap_or(1)))?;
            }
        }
        Ok(records)
    }
}

/// What rules made of the events of a case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Ids of the detections that matched each event.
    pub matching: Vec<BTreeSet<String>>,
    /// Ids of the rules with an incident.
    pub incidents: BTreeSet<String>,
}

/// Sends the events of `case` through normalising, matching and correlating.
///
/// # Errors
/// The case has no events, or one that is rejected.
pub fn outcome(rules: &Arc<Rules>, case: &Case) -> anyhow::Result<Outcome> {
    let mut replay = Replay::new(rules.clone());
    let mut found = Outcome::default();
    let ids = |subject: Subject<'_>| {
        let view = rules.view(subject);
        rules.matching(&view).map(|rule| rule.meta.id.clone()).collect()
    };
    for ((stream, line, at), ordinal) in case.raw()?.iter().zip(0u64..) {
        let input = Input {
            bytes: line.as_bytes(),
            format: "text",
            org: crate::clock::ORG,
            received_at: Micros(at.as_microsecond()),
            index: 0,
            event_uid: None,
        };
        let rejected = |reject: schemas::Reject<'_>| anyhow::anyhow!("{}: {}", reject.reason, reject.detail);
        match stream {
            Stream::Events => {
                let event = normalise::event(&input).map_err(rejected)?;
                found.matching.push(ids(Subject::Event(&event)));
                replay.events(vec![event], &[ordinal]);
            }
            Stream::Findings => match normalise::finding(&input).map_err(rejected)? {
                FindingRecord::Finding(finding) => {
                    found.matching.push(ids(Subject::Finding(&finding)));
                    replay.findings(vec![finding], vec![], &[ordinal]);
                }
                FindingRecord::Scan(scan) => {
                    found.matching.push(ids(Subject::Scan(&scan)));
                    replay.findings(vec![], vec![scan], &[ordinal]);
                }
            },
        }
    }
    found.incidents = replay.finish().into_iter().map(|incident| incident.rule_id).collect();
    Ok(found)
}

/// How a case went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcomes {
    /// The test file.
    pub path: PathBuf,
    /// Title of the rule.
    pub rule: String,
    /// Its id.
    pub rule_id: String,
    /// Name of the case.
    pub case: String,
    /// Why it failed; none where it passed.
    pub failure: Option<String>,
}

/// What became of the tests of some rules.
#[derive(Debug, Default, Serialize)]
pub struct Suite {
    /// Every case.
    pub cases: Vec<Outcomes>,
    /// Rule files without a test.
    pub untested: Vec<PathBuf>,
    /// What could not be loaded or run: file, line and reason.
    pub errors: Vec<String>,
}

impl Suite {
    /// Cases that failed.
    pub fn failed(&self) -> usize {
        self.cases.iter().filter(|case| case.failure.is_some()).count()
    }

    /// Whether all passed and nothing was wrong.
    pub fn is_ok(&self) -> bool {
        self.failed() == 0 && self.errors.is_empty()
    }
}

/// Runs the tests beside every rule under `path`. Of a file, only its own; rules beside it are there for its
/// correlations.
///
/// # Errors
/// The path cannot be read, or nothing under it is a rule.
pub fn run(path: &Path) -> anyhow::Result<Suite> {
    let single = path.is_file();
    let directory = match path.parent() {
        Some(parent) if single && parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) if single => parent,
        _ => path,
    };
    let (rules, defects) = crate::rules::open(directory)?;
    let wanted = |file: &Path| !single || file.file_name() == path.file_name();
    let mut suite = Suite::default();
    let told = |defect: &&Defect| wanted(&defect.path);
    suite.errors.extend(defects.iter().filter(told).map(ToString::to_string));

    let mut files: BTreeMap<PathBuf, Vec<(usize, String)>> = BTreeMap::new();
    let detections = rules.detections().iter().map(|rule| &rule.meta);
    for meta in detections.chain(rules.correlations().iter().map(|rule| &rule.meta)) {
        if let Some((file, line)) = rules.origin(&meta.id).filter(|(file, _)| wanted(file)) {
            files.entry(file.to_owned()).or_default().push((line, meta.id.clone()));
        }
    }
    if !single {
        let is_known =
            |file: &Path| files.contains_key(file) || defects.iter().any(|defect| defect.path == *file);
        suite.errors.extend(astray(directory, &is_known)?);
    }
    ensure!(!(files.is_empty() && suite.errors.is_empty()), "{} has no rules that compile", path.display());
    for (file, mut ids) in files {
        ids.sort();
        let tests = file.with_extension("test.yml");
        match read(&tests) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => suite.untested.push(file),
            Err(error) => suite.errors.push(format!("{}: {error}", tests.display())),
            Ok(text) => match serde_norway::from_str::<TestFile>(&text) {
                Err(error) => {
                    let line = error.location().map_or(1, |location| location.line());
                    suite.errors.push(format!("{}:{line}: {error}", tests.display()));
                }
                Ok(TestFile { tests: cases }) if cases.is_empty() => suite.untested.push(file),
                Ok(TestFile { tests: cases }) => {
                    for case in &cases {
                        suite.cases.push(one(&rules, &tests, &ids, case));
                    }
                }
            },
        }
    }
    Ok(suite)
}

/// The text of a test file. What is no file is not opened: a FIFO would block.
fn read(path: &Path) -> io::Result<String> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let bytes = fs::read(path)?;
    String::from_utf8(without_mark(&bytes).to_vec()).map_err(io::Error::other)
}

/// What is wrong with test files under `directory` whose cases nothing runs.
fn astray(directory: &Path, is_known: &dyn Fn(&Path) -> bool) -> anyhow::Result<Vec<String>> {
    let stem = |name: &str| {
        let stem = name.strip_suffix(".test.yml").or_else(|| name.strip_suffix(".test.yaml"))?;
        (!stem.starts_with('.')).then(|| stem.to_owned())
    };
    let found = detection::files(directory, &|name| stem(name).is_some())
        .with_context(|| format!("{} cannot be read", directory.display()))?;
    let mut errors = Vec::new();
    for (path, _) in found {
        let Some(stem) = path.file_name().and_then(|name| stem(name.to_str()?)) else { continue };
        let beside = ["yml", "yaml"].map(|ending| path.with_file_name(format!("{stem}.{ending}")));
        let reason = if path.extension().is_some_and(|ending| ending == "yaml") {
            format!("it is not read; tests stand in {stem}.test.yml")
        } else if !beside.iter().any(|rule| rule.exists()) {
            format!("there is no {stem}.yml beside it, so that nothing runs it")
        } else if !beside.iter().any(|rule| is_known(rule)) {
            format!("{stem}.yml beside it has no rule, so that nothing runs it")
        } else {
            continue;
        };
        errors.push(format!("{}: {reason}", path.display()));
    }
    Ok(errors)
}

/// Runs a case of the file `tests`, beside which stand the rules `ids`.
fn one(rules: &Arc<Rules>, tests: &Path, ids: &[(usize, String)], case: &Case) -> Outcomes {
    let named = |id: &str| {
        let detection = rules.detections().iter().map(|rule| &rule.meta);
        let mut all = detection.chain(rules.correlations().iter().map(|rule| &rule.meta));
        all.find(|meta| meta.id == id)
    };
    let mut metas = ids.iter().filter_map(|(_, id)| named(id));
    let meta = match &case.rule {
        None => metas.next_back(),
        Some(wanted) => metas.find(|meta| meta.is_called(wanted)),
    };
    let mut went = Outcomes {
        path: tests.to_owned(),
        rule: meta.map_or(String::new(), |meta| meta.title.clone()),
        rule_id: meta.map_or(String::new(), |meta| meta.id.clone()),
        case: case.name.clone(),
        failure: None,
    };
    let Some(meta) = meta else {
        let wanted = case.rule.as_deref().unwrap_or_default();
        went.failure = Some(format!("the file beside it has no rule '{wanted}'"));
        return went;
    };
    let correlation = rules.correlations().iter().any(|rule| rule.meta.id == meta.id);
    went.failure = match outcome(rules, case) {
        Err(error) => Some(format!("the events cannot be read: {error:#}")),
        Ok(found) => match (correlation, case.matches) {
            (true, true) if !found.incidents.contains(&meta.id) => Some("no incident fired".to_owned()),
            (true, false) if found.incidents.contains(&meta.id) => Some("an incident fired".to_owned()),
            (false, true) => found
                .matching
                .iter()
                .position(|matching| !matching.contains(&meta.id))
                .map(|at| format!("the rule does not match event {at}")),
            (false, false) => found
                .matching
                .iter()
                .position(|matching| matching.contains(&meta.id))
                .map(|at| format!("the rule matches event {at}")),
            _ => None,
        },
    };
    went
}
