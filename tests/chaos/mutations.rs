//! Guards that can be switched off, each with a scenario that must then fail: a proof that nothing can fail is none.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use tidewatch_dev::Service;

use crate::scenarios;
use crate::session::{RATE, Session};
use crate::system::{System, Wishes};

/// A guard, and what must notice that it is off.
pub struct Mutation {
    /// Its name on the command line.
    pub name: &'static str,
    /// What is done without it.
    pub about: &'static str,
    /// Part of `make test`.
    pub quick: bool,
    /// What the failure must speak of, any one of these: a scenario that fails for another reason shows nothing.
    pub noticed: &'static [&'static str],
    /// The scenario with the guard off; an error is what is wanted.
    pub run: for<'a> fn(&'a Session) -> scenarios::Running<'a>,
}

macro_rules! mutations {
    ($($name:literal $quick:literal $about:literal $noticed:expr => $run:expr;)*) => {
        &[$(Mutation {
            name: $name, about: $about, quick: $quick, noticed: &$noticed, run: |session| Box::pin($run(session)),
        },)*]
    };
}

/// All of them.
pub const ALL: &[Mutation] = mutations! {
    "no-fence" true "sink_commit looks at neither epoch, position nor the ledger's key; a sink stands still, then goes on"
        ["stored more than once", "the ledger has a hole"] => no_fence;
    "offsets-apart" true "the sink commits rows first and positions after; kill -9 between the two"
        ["stored more than once"] => offsets_apart;
    "no-source-filter" true "the sink stores repeats of raw records; enrich stands still, then goes on"
        ["stored more than once"] => no_source_filter;
    "commit-before-delivery" true "enrich commits what it has not delivered; kill -9 with records under way"
        ["a gap"] => commit_before_delivery;
    "early-200" false "ingest answers before the broker does; the broker stands still, then kill -9 of ingest"
        ["neither stored nor quarantined"] => early_answer;
    "acks-leader" false "ingest asks the leader alone; of three brokers two stand still, and the leader is lost"
        ["neither stored nor quarantined"] => scenarios::cluster::leader_alone;
    "evidence-added" false "the sink adds up what windows count instead of uniting; kill -9 of correlate"
        ["incidents are not those"] => evidence_added;
    "too-late" false "every tenth event comes when the watermark has passed it by more than is allowed"
        ["incidents are not those"] => scenarios::disorder::too_late;
    "early-locks" false "the sink locks rows at the start of its transaction; it stands still inside"
        ["blocked"] => early_locks;
};

/// A run with these failpoints; the feed and the judging are those of every scenario.
async fn run_with(session: &Session, environment: Vec<(Service, &'static str, String)>) -> Result<()> {
    let mut system = session.system(Wishes { environment, ..Wishes::default() }).await?;
    run(session, &mut system).await
}

async fn run(session: &Session, system: &mut System) -> Result<()> {
    let feed = system.feed_without_keys(&session.input, RATE)?;
    session.conclude(system, feed).await
}

fn failpoints(service: Service, points: &str) -> Vec<(Service, &'static str, String)> {
    vec![(service, "FAILPOINTS", points.to_owned())]
}

async fn no_fence(session: &Session) -> Result<()> {
    scenarios::zombie::before_with(session, |system| {
        Box::pin(async move {
            let database = system.database().await?;
            let name = "sink_commit";
            let query = "SELECT pg_get_functiondef($1::text::regproc)";
            let definition: String = database.query_one(query, &[&name]).await?.get(0);
            let mutated = definition
                .replace("IF v_fenced IS NOT NULL", "IF false")
                .replace("IF v_moved IS NOT NULL", "IF false");
            ensure!(mutated.matches("IF false").count() == 2, "sink_commit has another form than this knows");
            database.batch_execute(&mutated).await?;
            // The ledger's key would refuse a second row for the same offsets.
            Ok(database.batch_execute("ALTER TABLE sink_ledger DROP CONSTRAINT sink_ledger_pkey").await?)
        })
    })
    .await
}

async fn offsets_apart(session: &Session) -> Result<()> {
    run_with(
        session,
        failpoints(Service::Sink, "sink.one_transaction=return;sink.rows_committed=3*off->1*return(kill)"),
    )
    .await
}

async fn no_source_filter(session: &Session) -> Result<()> {
    scenarios::zombie::enrich_with(session, failpoints(Service::Sink, "sink.source_filter=return")).await
}

async fn commit_before_delivery(session: &Session) -> Result<()> {
    run_with(
        session,
        failpoints(
            Service::Enrich,
            "enrich.delivery_first=return;enrich.converted=100*off->1*sleep(1500)->1*return(kill)",
        ),
    )
    .await
}

async fn early_answer(session: &Session) -> Result<()> {
    let name = "early-200";
    let own = session.own(name).await?;
    let environment = failpoints(Service::Ingest, "ingest.delivery_first=return");
    let mut system = session.system_on(&own, name, Wishes { environment, ..Wishes::default() }).await?;
    let feed = system.feed(&session.input, RATE)?;
    system.until_stored(1_000).await?;
    own.kafka.process().signal(Signal::SIGSTOP)?;
    system.pass(Duration::from_secs(1)).await?;
    system.services().process("ingest")?.kill().await?;
    own.kafka.process().signal(Signal::SIGCONT)?;
    session.conclude(&mut system, feed).await
}

async fn evidence_added(session: &Session) -> Result<()> {
    let mut environment = failpoints(Service::Sink, "sink.evidence_united=return");
    environment.extend(failpoints(Service::Correlate, "correlate.applied=100*off->1*return(kill)"));
    run_with(session, environment).await
}

async fn early_locks(session: &Session) -> Result<()> {
    scenarios::zombie::copied_with_failpoints(session, "sink.locks_last=return").await
}
