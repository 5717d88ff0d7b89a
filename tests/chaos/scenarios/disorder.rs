//! Correlations of every kind over events that come out of order, are pushed twice and interrupted: each time the same
//! incidents.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tidewatch_dev::Service;

use crate::input::{Input, Lines, sender};
use crate::session::Session;
use crate::system::{CONSUMERS, System, Wishes, nameless};
use crate::verdict::{self, Incidents};

/// One rule of each kind.
const RULES: &str = include_str!("disorder.yml");
/// Rules of those that have incidents: the others feed them.
const RAISING: usize = 9;
/// One for each partition.
const FILES: usize = 4;
/// The file with every tenth event, beside those.
const STRAGGLERS: usize = FILES;
const EVENTS: usize = 6_000;
/// Event times lie in this span. With the jitter it is within the allowed lateness of five minutes, whichever partition
/// is read last.
const SPAN_SECONDS: f64 = 150.0;
const JITTER_SECONDS: f64 = 60.0;
/// Records a second from each file: the events take three seconds.
const RATE: u32 = 500;
/// The events that close every window are this long after the last of the others.
const CLOSING: SignedDuration = SignedDuration::from_mins(8);
/// Until the watermark has decided: detect tells it every five seconds, and after thirty of silence.
const DECISION_PATIENCE: Duration = Duration::from_secs(60);

const ALL: Range<usize> = 0..STRAGGLERS + 1;
/// The rule that the watermark decides about, most often.
const DECIDED: &str = "some";

/// An event of the input.
struct Happening {
    /// Seconds after the first.
    at: f64,
    line: String,
}

/// The same events in some order, and what has to come of them.
struct Plan {
    events: Vec<Vec<Happening>>,
    closing: Input,
    rules: tempfile::TempDir,
}

pub async fn rounds(session: &Session) -> Result<()> {
    let plan = Plan::new(session)?;
    let expected = plan.undisturbed(session).await.context("the undisturbed run")?;
    for round in 1..=session.rounds {
        let mut rng = session.rng(&format!("correlations-{round}"));
        let begun = Instant::now();
        let faults =
            plan.round(session, &mut rng, &expected).await.with_context(|| format!("round {round}"))?;
        println!(
            "    round {round} of {}: {} incidents; {} ({:.0} s)",
            session.rounds,
            expected.len(),
            faults.join(", "),
            begun.elapsed().as_secs_f32()
        );
    }
    Ok(())
}

/// Every tenth event comes when the watermark has passed it: a control.
pub async fn too_late(session: &Session) -> Result<()> {
    let plan = Plan::new(session)?;
    let expected = plan.undisturbed(session).await.context("the undisturbed run")?;
    let mut rng = session.rng("too-late");
    let [input, late] = [
        plan.arriving(0..STRAGGLERS, JITTER_SECONDS, &mut rng)?,
        plan.arriving(STRAGGLERS..STRAGGLERS + 1, 0.0, &mut rng)?,
    ];
    let mut system = session.system(plan.wishes(true, Vec::new())).await?;
    let mut acknowledged = system.feed(&input, RATE)?.finish().await?;
    acknowledged.extend(plan.close(&mut system).await?);
    let decided = |found: &Incidents| found.iter().any(|incident| incident.rule == DECIDED);
    ensure!(until(&mut system, decided).await?, "the watermark has decided nothing");
    acknowledged.extend(system.feed(&late, RATE)?.finish().await?);
    system.drain().await?;
    verdict::judge_all(&system, &[&input, &late, &plan.closing], &acknowledged, Some(&expected)).await?;
    system.stop().await
}

impl Plan {
    fn new(session: &Session) -> Result<Plan> {
        let mut rng = StdRng::seed_from_u64(session.seed);
        let until = Timestamp::now() - CLOSING - SignedDuration::from_mins(2);
        let first = until - SignedDuration::from_micros((SPAN_SECONDS * 1e6) as i64);
        let mut events: Vec<Vec<Happening>> = (0..=STRAGGLERS).map(|_| Vec::new()).collect();
        for number in 0..EVENTS {
            let at = rng.random_range(0.0..SPAN_SECONDS);
            let time = first + SignedDuration::from_micros((at * 1e6) as i64);
            let file = if number % 10 == 0 { STRAGGLERS } else { number % FILES };
            if let Some(events) = events.get_mut(file) {
                let line = event(&run(file), events.len(), time, &mut rng);
                events.push(Happening { at, line });
            }
        }
        let last = |file: usize| {
            let run = format!("closing-{file}");
            let line = json!({"time": (until + CLOSING).to_string(), "class_uid": 4001, "host": "clock", "run": run, "seq": 0});
            Lines { sender: sender(&run, file), run, lines: vec![line.to_string()] }
        };
        let rules = tempfile::tempdir().context("a directory for the rules")?;
        std::fs::write(rules.path().join("rules.yml"), RULES).context("writing the rules")?;
        Ok(Plan { events, closing: Input::of((0..FILES).map(last))?, rules })
    }

    /// The events in an order that differs from that of their times by up to so many seconds.
    fn arriving(&self, files: Range<usize>, jitter: f64, rng: &mut StdRng) -> Result<Input> {
        let chosen = self.events.iter().enumerate().filter(|(file, _)| files.contains(file));
        let files = chosen.map(|(file, events)| {
            let mut order: Vec<(f64, &str)> = events
                .iter()
                .map(|event| (event.at + rng.random_range(-1.0..=1.0) * jitter, event.line.as_str()))
                .collect();
            order.sort_by(|(one, _), (other, _)| one.total_cmp(other));
            let lines = order.into_iter().map(|(_, line)| line.to_owned()).collect();
            Lines { sender: sender(&run(file), file % FILES), run: run(file), lines }
        });
        Input::of(files)
    }

    fn wishes(&self, named: bool, failpoints: Vec<(Service, String)>) -> Wishes {
        let rules = self.rules.path().display().to_string();
        let mut environment: Vec<(Service, &'static str, String)> =
            [Service::Detect, Service::Correlate].map(|of| (of, "TIDEWATCH_RULES", rules.clone())).to_vec();
        if !named {
            environment.extend(nameless());
        }
        environment.extend(failpoints.into_iter().map(|(service, points)| (service, "FAILPOINTS", points)));
        Wishes { environment, ..Wishes::default() }
    }

    /// In order, without keys and without faults.
    async fn undisturbed(&self, session: &Session) -> Result<Incidents> {
        let mut rng = StdRng::seed_from_u64(session.seed);
        let input = self.arriving(ALL, 0.0, &mut rng)?;
        let mut system = session.system(self.wishes(true, Vec::new())).await?;
        let mut feed = system.feed_without_keys(&input, RATE)?;
        let mut acknowledged = feed.finish().await?;
        acknowledged.extend(self.close(&mut system).await?);
        // What is decided by the watermark comes last, and all of it at once.
        let raised = |found: &Incidents| {
            found.iter().map(|incident| incident.rule.as_str()).collect::<BTreeSet<_>>().len()
        };
        let complete = |found: &Incidents| raised(found) == RAISING;
        ensure!(until(&mut system, complete).await?, "not every rule has an incident");
        system.drain().await?;
        verdict::judge_all(&system, &[&input, &self.closing], &acknowledged, None).await?;
        let found = verdict::incidents(&system).await?;
        system.stop().await?;
        Ok(found)
    }

    /// Pushes what closes the windows, and waits until it has been read.
    async fn close(&self, system: &mut System) -> Result<crate::feed::Acknowledged> {
        system.drain().await?;
        let mut feed = system.feed_without_keys(&self.closing, RATE)?;
        let acknowledged = system.supervise(feed.finish()).await?;
        system.drain().await?;
        Ok(acknowledged)
    }

    /// In disorder, with keys and faults. Returns what was done.
    async fn round(&self, session: &Session, rng: &mut StdRng, expected: &Incidents) -> Result<Vec<String>> {
        let input = self.arriving(ALL, JITTER_SECONDS, rng)?;
        // With names an instance that was killed goes on where it was; without, its partitions move.
        let named = rng.random_bool(0.5);
        let mut faults = Faults { done: Vec::new(), more: Vec::new(), named };
        let failpoints = faults.failpoints(rng);
        let mut system = session.system(self.wishes(named, failpoints)).await?;
        let mut feed = system.feed(&input, RATE)?;
        for _ in 0..rng.random_range(3..7) {
            system.pass(Duration::from_millis(rng.random_range(200..900))).await?;
            faults.one(&mut system, rng).await?;
        }
        let mut acknowledged = system.supervise(feed.finish()).await?;
        acknowledged.extend(self.close(&mut system).await?);
        until(&mut system, |found| found == expected).await?;
        system.drain().await?;
        verdict::judge_all(&system, &[&input, &self.closing], &acknowledged, Some(expected)).await?;
        faults.done.extend(system.deaths.iter().map(|name| format!("{name} died")));
        ensure!(!faults.done.is_empty(), "nobody died, and no member of a group came or went");
        system.stop().await?;
        Ok(faults.done)
    }
}

/// Waits for incidents; whether they came.
async fn until(system: &mut System, wanted: impl Fn(&Incidents) -> bool) -> Result<bool> {
    let deadline = Instant::now() + DECISION_PATIENCE;
    loop {
        // Evidence may be stored after the incident.
        if verdict::incidents(system).await.is_ok_and(|found| wanted(&found)) {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        system.pass(Duration::from_millis(200)).await?;
    }
}

struct Faults {
    /// For a person.
    done: Vec<String>,
    /// Instances beside the first of each.
    more: Vec<String>,
    named: bool,
}

impl Faults {
    /// Deaths at the moments that make repeats: of a push, of signals, of changes of an incident.
    fn failpoints(&self, rng: &mut StdRng) -> Vec<(Service, String)> {
        let places = [
            (Service::Ingest, "ingest.acknowledged", 2..50),
            (Service::Enrich, "enrich.produced", 2..50),
            (Service::Detect, "detect.emitted", 1..4),
            (Service::Correlate, "correlate.applied", 2..60),
            (Service::Sink, "sink.copied", 1..8),
        ];
        let mut armed = Vec::new();
        for (service, place, passes) in places {
            let passes = rng.random_range(passes);
            // Every push of which the answer is lost is repeated.
            if service == Service::Ingest || rng.random_bool(0.4) {
                armed.push((service, format!("{place}={passes}*off->1*return(kill)")));
            }
        }
        armed
    }

    async fn one(&mut self, system: &mut System, rng: &mut StdRng) -> Result<()> {
        let Some(service) = CONSUMERS.choose(rng).copied() else { return Ok(()) };
        if self.named {
            if let Ok(process) = system.services().process(service.name()) {
                process.kill().await?;
            }
            return Ok(());
        }
        if self.more.len() < 2 {
            let name = system.services().spawn(service)?;
            self.done.push(format!("{name} came"));
            self.more.push(name);
        } else {
            let name = self.more.remove(0);
            if rng.random_bool(0.2) {
                system.services().kill(&name).await?;
                self.done.push(format!("{name} was killed"));
            } else {
                system.services().terminate(&name).await?;
                self.done.push(format!("{name} went"));
            }
        }
        Ok(())
    }
}

fn run(file: usize) -> String {
    format!("events-{file}")
}

fn event(run: &str, seq: usize, time: Timestamp, rng: &mut StdRng) -> String {
    let act = match rng.random_range(0..1_000) {
        0..150 => "a",
        150..220 => "b",
        220..290 => "c",
        290..390 => "d",
        390..400 => "e",
        _ => "none",
    };
    json!({
        "time": time.to_string(), "class_uid": 4001, "activity_id": 6, "severity_id": 1, "act": act,
        "host": format!("gw-{}", rng.random_range(0..20)), "src_ip": format!("10.0.0.{}", rng.random_range(1..41)),
        "dst_port": rng.random_range(1..4), "run": run, "seq": seq,
    })
    .to_string()
}
