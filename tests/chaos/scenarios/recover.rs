//! How soon storing goes on after a sink has died.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::scenarios::zombie::{take_over, two_sinks};
use crate::session::{RATE, Session};
use crate::system::Wishes;

/// From the start of the process to its first commit.
const RESUME: Duration = Duration::from_secs(2);

/// The same sink, started again at once.
pub async fn resumes(session: &Session) -> Result<()> {
    let mut system = session.system(Wishes::default()).await?;
    let feed = system.feed_without_keys(&session.input, RATE)?;
    system.until_stored(2_000).await?;
    system.services().process("sink")?.kill().await?;
    let database = system.database().await?;
    let clock: String = database.query_one("SELECT clock_timestamp()::text", &[]).await?.get(0);
    let started = Instant::now();
    system.revive().await?;
    let committed = "SELECT count(*) FROM sink_ledger WHERE committed_at > $1::text::timestamptz";
    while database.query_one(committed, &[&clock]).await?.get::<_, i64>(0) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let took = started.elapsed();
    println!("    goes on {:.2} s after it was started again", took.as_secs_f32());
    session.conclude(&mut system, feed).await?;
    ensure!(took < RESUME, "it took {took:?} from the start of the sink to its first commit");
    system.stop().await
}

/// Another sink, which finds out by the group.
pub async fn standby(session: &Session) -> Result<()> {
    let mut system = two_sinks(session, String::new()).await?;
    let feed = system.feed_without_keys(&session.input, RATE)?;
    system.until_stored(2_000).await?;
    // Not to be started again.
    system.services().kill("sink").await?;
    take_over(&mut system).await?;
    session.conclude(&mut system, feed).await?;
    system.stop().await
}
