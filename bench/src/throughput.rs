//! How many events a second the whole system takes in and stores.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tidewatch_tests::{Load, Pipeline};

use crate::processes;

pub async fn measure(events: u64) {
    let count = i64::try_from(events).expect("a sensible number of events");
    let pipeline = Pipeline::own().await;
    let org = pipeline.new_org().await;
    eprintln!("pushing {events} events over HTTP …");
    let before = processes::costs();
    let started = Instant::now();
    let first_push = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs_f64();
    let load = Load::events(events).start(&pipeline, &org.identity());
    let summary = load.finish().await;
    let pushed = started.elapsed().as_secs_f64();
    // The load generator has ended, and its CPU time with it; everything else is still there.
    pipeline.until_received(count).await;
    let last_commit = pipeline
        .texts("SELECT extract(epoch FROM max(committed_at))::text FROM sink_ledger WHERE topic = 'events'")
        .await;
    let after = processes::costs();
    let last_commit: f64 = last_commit.first().expect("a ledger row").parse().expect("seconds");
    let took = last_commit - first_push;
    pipeline.assert_adds_up(count).await;

    println!("{summary}");
    println!("{events} events stored exactly once (rows, identities, counts and ledger agree)");
    println!("acknowledged: {:>9.0} events/s", events as f64 / pushed);
    println!("stored:       {:>9.0} events/s, first push to last commit ({took:.1} s)", events as f64 / took);
    println!("{:<24} {:>12} {:>14}", "process", "CPU µs/event", "peak RSS MiB");
    for (name, cost) in &after {
        let cpu = cost.cpu - before.get(name).map(|earlier| earlier.cpu).unwrap_or_default();
        println!(
            "{name:<24} {:>12.2} {:>14.0}",
            cpu.as_secs_f64() * 1e6 / events as f64,
            cost.peak_bytes as f64 / f64::from(1 << 20),
        );
    }
}
