//! A sink that stands still while another takes its place, and then goes on as if nothing had been.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use rand::Rng;
use tidewatch_dev::Service;

use crate::scenarios::Running;
use crate::session::{RATE, Session};
use crate::system::{System, Wishes};

/// The group's session timeout and two seconds.
const TAKEOVER: Duration = Duration::from_secs(12);
/// A sink beside the one that stands still goes on with its own partitions.
const NEIGHBOUR: Duration = Duration::from_secs(3);
const STOP_PATIENCE: Duration = Duration::from_secs(30);
const SAID: &str = "taken by another sink";

/// Something to do with a system before it is used.
pub type Prepare = for<'a> fn(&'a System) -> Running<'a>;

/// Inside the transaction, after COPY.
pub async fn copied(session: &Session) -> Result<()> {
    stop_at(session, "sink.copied", "", |_| Box::pin(async { Ok(()) })).await
}

/// With a batch ready, before its transaction.
pub async fn before(session: &Session) -> Result<()> {
    before_with(session, |_| Box::pin(async { Ok(()) })).await
}

/// With something done to the system first.
pub async fn before_with(session: &Session, prepare: Prepare) -> Result<()> {
    stop_at(session, "sink.begins", "", prepare).await
}

/// With more failpoints.
pub async fn copied_with_failpoints(session: &Session, more: &str) -> Result<()> {
    stop_at(session, "sink.copied", more, |_| Box::pin(async { Ok(()) })).await
}

async fn stop_at(session: &Session, failpoint: &str, more: &str, prepare: Prepare) -> Result<()> {
    let passes = session.rng(failpoint).random_range(3..10);
    let failpoints = format!("{failpoint}={passes}*off->1*return(stop);{more}");
    let mut system = two_sinks(session, failpoints).await?;
    prepare(&system).await?;
    let feed = system.feed_without_keys(&session.input, RATE)?;
    let deadline = Instant::now() + STOP_PATIENCE;
    while !is_stopped(&mut system, "sink")? {
        ensure!(Instant::now() < deadline, "the sink has not come by its failpoint");
        system.pass(Duration::from_millis(10)).await?;
    }
    take_over(&mut system).await?;
    system.services().process("sink")?.signal(Signal::SIGCONT)?;
    session.conclude(&mut system, feed).await?;
    let log = std::fs::read_to_string(system.log("sink")).context("reading the log of the sink")?;
    ensure!(log.contains(SAID), "the sink that stood still does not say that its partitions were {SAID}");
    ensure!(system.deaths.is_empty(), "died: {:?}", system.deaths);
    system.stop().await
}

pub async fn random(session: &Session) -> Result<()> {
    let wait = session.rng("zombie-random").random_range(1_000..5_000);
    let mut system = two_sinks(session, String::new()).await?;
    let feed = system.feed_without_keys(&session.input, RATE)?;
    system.until_stored(1).await?;
    system.pass(Duration::from_millis(wait)).await?;
    system.services().process("sink")?.signal(Signal::SIGSTOP)?;
    take_over(&mut system).await?;
    system.services().process("sink")?.signal(Signal::SIGCONT)?;
    session.conclude(&mut system, feed).await?;
    ensure!(system.deaths.is_empty(), "died: {:?}", system.deaths);
    system.stop().await
}

/// An enrich that stands still with a record in its producer; when it goes on its successor has written that record, and it
/// writes it again.
pub async fn enrich(session: &Session) -> Result<()> {
    enrich_with(session, Vec::new()).await
}

/// With more variables.
pub async fn enrich_with(session: &Session, more: Vec<(Service, &'static str, String)>) -> Result<()> {
    let passes = session.rng("zombie-enrich").random_range(50..150);
    let failpoints = format!("enrich.produced={passes}*off->1*return(stop)");
    let mut environment = vec![(Service::Enrich, "FAILPOINTS", failpoints)];
    environment.extend(more);
    let mut system = session.system(Wishes { environment, ..Wishes::default() }).await?;
    let feed = system.feed_without_keys(&session.input, RATE)?;
    let deadline = Instant::now() + STOP_PATIENCE;
    while !is_stopped(&mut system, "enrich")? {
        ensure!(Instant::now() < deadline, "enrich has not come by its failpoint");
        system.pass(Duration::from_millis(10)).await?;
    }
    system.arm(Service::Enrich, "");
    let second = system.services().spawn(Service::Enrich)?;
    let raw = system.name("events.raw");
    while system.assigned(&second, &raw).await.unwrap_or(0) < 4 {
        ensure!(Instant::now() < deadline, "the other enrich has not got the partitions");
        system.pass(Duration::from_millis(50)).await?;
    }
    // What the successor writes is stored before the other goes on.
    system.pass(Duration::from_secs(1)).await?;
    system.services().process("enrich")?.signal(Signal::SIGCONT)?;
    session.conclude(&mut system, feed).await?;
    let database = system.database().await?;
    let repeats: i64 = database
        .query_one("SELECT coalesce(sum(duplicates), 0)::bigint FROM sink_ledger WHERE topic = 'events'", &[])
        .await?
        .get(0);
    ensure!(repeats > 0, "the enrich that stood still has repeated nothing");
    ensure!(system.deaths.is_empty(), "died: {:?}", system.deaths);
    system.stop().await
}

/// A system whose first sink has these failpoints and whose second has none, each with a share of the partitions.
pub async fn two_sinks(session: &Session, failpoints: String) -> Result<System> {
    let environment = vec![(Service::Sink, "FAILPOINTS", failpoints)];
    let mut system = session.system(Wishes { environment, ..Wishes::default() }).await?;
    system.arm(Service::Sink, "");
    let second = system.services().spawn(Service::Sink)?;
    system.services().until_ready(&second).await?;
    let deadline = Instant::now() + STOP_PATIENCE;
    let events = system.name("events");
    while system.assigned(&second, &events).await? == 0 || system.assigned("sink", &events).await? == 0 {
        ensure!(Instant::now() < deadline, "the partitions are not shared between the sinks");
        system.pass(Duration::from_millis(50)).await?;
    }
    Ok(system)
}

/// Waits until the other sink holds every partition, which must not take longer than the group does to notice.
pub async fn take_over(system: &mut System) -> Result<()> {
    let stopped = Instant::now();
    let database = system.database().await?;
    let clock: String = database.query_one("SELECT clock_timestamp()::text", &[]).await?.get(0);
    let rows = database.query("SELECT kpart, epoch FROM sink_partition WHERE topic = 'events'", &[]).await?;
    let (parts, epochs): (Vec<i32>, Vec<i64>) =
        rows.iter().map(|row| (row.get::<_, i32>(0), row.get::<_, i64>(1))).unzip();
    let instances: Vec<String> = system.services().list().map(|(name, ..)| name.to_owned()).collect();
    let other = instances.iter().find(|name| name.starts_with("sink-")).context("there is one sink only")?;
    let events = system.name("events");
    // Partitions that the other has keep their epochs.
    let own = i64::try_from(system.assigned(other, &events).await?)?;
    let behind =
        "SELECT count(*) FROM sink_partition p JOIN unnest($1::int[], $2::bigint[]) AS before (kpart, epoch)
                  USING (kpart) WHERE p.topic = 'events' AND p.epoch = before.epoch";
    let of_neighbour = "SELECT count(*) FROM sink_ledger WHERE committed_at > $1::text::timestamptz";
    let mut neighbour = None;
    loop {
        let left: i64 = database.query_one(behind, &[&parts, &epochs]).await?.get::<_, i64>(0) - own;
        if neighbour.is_none() && database.query_one(of_neighbour, &[&clock]).await?.get::<_, i64>(0) > 0 {
            neighbour = Some(stopped.elapsed());
        }
        if left <= 0 {
            break;
        }
        if stopped.elapsed() > TAKEOVER {
            bail!("{left} partitions were not taken over within {TAKEOVER:?}: the successor is blocked");
        }
        system.pass(Duration::from_millis(20)).await?;
    }
    let neighbour = neighbour.unwrap_or_else(|| stopped.elapsed());
    ensure!(neighbour < NEIGHBOUR, "the other sink stored nothing for {neighbour:?}: it was blocked");
    println!("    taken over after {:.1} s", stopped.elapsed().as_secs_f32());
    Ok(())
}

fn is_stopped(system: &mut System, name: &str) -> Result<bool> {
    let pid = system.services().process(name)?.pid();
    let stat =
        std::fs::read_to_string(format!("/proc/{pid}/stat")).context("reading the state of a process")?;
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().next());
    Ok(state == Some("T"))
}
