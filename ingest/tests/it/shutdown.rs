//! The end of the process under load.

use std::collections::HashSet;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{Process, World, until};

/// Ends a process in the middle of pushes; how it ended, once everything it had acknowledged has been found.
async fn nothing_acknowledged_is_lost_by(signal: Signal) -> ExitStatus {
    let world = World::new().await;
    let mut process = Process::start(&world).await;
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let (token, http, acknowledged) = (world.token.clone(), process.http, Arc::clone(&acknowledged));
            tokio::spawn(async move {
                let sender = reqwest::Client::new();
                let mut pushed = Vec::new();
                for push in 0.. {
                    let lines: Vec<_> =
                        (0..50).map(|n| format!("{{\"id\":\"{client}-{push}-{n}\"}}")).collect();
                    let request = sender.post(format!("http://{http}/v1/events")).bearer_auth(&token);
                    let request =
                        request.header("content-type", "application/x-ndjson").body(lines.join("\n"));
                    match request.send().await {
                        Ok(answer) if answer.status() == 200 => {
                            acknowledged.fetch_add(1, Ordering::Relaxed);
                            pushed.extend(lines);
                        }
                        Ok(answer) => panic!("{}", answer.status()),
                        // The listener is closed.
                        Err(_) => break,
                    }
                }
                pushed
            })
        })
        .collect();
    until("the load is under way", async || acknowledged.load(Ordering::Relaxed) >= 200).await;
    let stopping = Instant::now();
    process.signal(signal);
    let mut pushed = HashSet::new();
    for client in clients {
        pushed.extend(client.await.unwrap());
    }
    let mut status = None;
    until("the process has ended", async || {
        status = process.child.try_wait().unwrap();
        status.is_some()
    })
    .await;
    assert!(stopping.elapsed() < Duration::from_secs(10), "{:?}", stopping.elapsed());
    let arrived: HashSet<_> = world.texts().await.into_iter().collect();
    assert!(pushed.len() >= 200 * 50);
    let lost: Vec<_> = pushed.difference(&arrived).collect();
    assert!(lost.is_empty(), "{} events were acknowledged and are lost: {lost:?}", lost.len());
    status.unwrap()
}

#[tokio::test]
async fn sigterm_drains_and_loses_nothing_acknowledged() {
    assert_eq!(nothing_acknowledged_is_lost_by(Signal::SIGTERM).await.code(), Some(0));
}

#[tokio::test]
async fn sigkill_loses_nothing_acknowledged() {
    assert_eq!(nothing_acknowledged_is_lost_by(Signal::SIGKILL).await.code(), None);
}
