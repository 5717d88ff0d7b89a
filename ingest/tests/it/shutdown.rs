//! SIGTERM under load.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Process, World, until};

#[tokio::test]
async fn sigterm_under_load_loses_nothing_acknowledged() {
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
    process.terminate();
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
    assert_eq!(status.unwrap().code(), Some(0));
    assert!(stopping.elapsed() < Duration::from_secs(10), "{:?}", stopping.elapsed());
    let arrived: HashSet<_> = world.texts().await.into_iter().collect();
    assert!(pushed.len() >= 200 * 50);
    let lost: Vec<_> = pushed.difference(&arrived).collect();
    assert!(lost.is_empty(), "{} events were acknowledged and are lost: {lost:?}", lost.len());
}
