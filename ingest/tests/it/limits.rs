//! Bounds of connections, heads, bodies and what is under way.

use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::harness::{Running, World, accepted, problem, refused, until};

/// Sends bytes and reads until the peer closes.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    rest(&mut stream).await
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer));
    read.await.expect("closed by the peer").unwrap();
    String::from_utf8(answer).unwrap()
}

fn head(ingest: &Running, length: usize) -> String {
    format!(
        "POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: text/plain\r\n\
         Content-Length: {length}\r\n\r\n",
        ingest.token
    )
}

#[tokio::test]
async fn slow_heads_slow_bodies_and_idle_connections_are_ended() {
    let world = World::new().await;
    let ingest = world.ready(&["--http-head-timeout", "300ms", "--http-body-timeout", "300ms"]).await;
    assert_eq!(exchange(ingest.http, b"").await, "");
    assert_eq!(exchange(ingest.http, b"POST /v1/events HTTP/1.1\r\nHost: x\r\nX-Slow").await, "");
    let answer = exchange(ingest.http, format!("{}slow", head(&ingest, 100)).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("application/problem+json"), "{answer}");
    let answer = exchange(ingest.http, format!("{}whole", head(&ingest, 5)).as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("{\"accepted\":1,\"rejected\":[]}"),
        "{answer}"
    );
    ingest.stop().await;
    assert_eq!(world.texts().await, ["whole"]);
}

#[tokio::test]
async fn a_head_too_large_is_refused() {
    let world = World::new().await;
    let ingest = world.ready(&[]).await;
    let large = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Large: {}\r\n\r\n", "x".repeat(40_000));
    assert!(exchange(ingest.http, large.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X-Many: x\r\n".repeat(100));
    assert!(exchange(ingest.http, many.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    ingest.stop().await;
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_until_another_closes() {
    let world = World::new().await;
    let ingest = world.ready(&["--http-max-connections", "2"]).await;
    let mut open = Vec::new();
    until("the third connection is refused", async || {
        let mut stream = TcpStream::connect(ingest.http).await.unwrap();
        let refusal = tokio::time::timeout(Duration::from_millis(200), rest(&mut stream)).await;
        match refusal {
            Ok(answer) => {
                assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("Retry-After: 2"), "{answer}");
                true
            }
            Err(_) => {
                open.push(stream);
                false
            }
        }
    })
    .await;
    assert_eq!(open.len(), 2);
    open.pop();
    until("there is room again", async || {
        ingest.lines("{}").send().await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    drop(open);
    ingest.stop().await;
}

/// A body that has sent `bytes` and goes on when told to.
fn held_body(bytes: usize) -> (reqwest::Body, mpsc::Sender<Vec<u8>>) {
    let (more, receiver) = mpsc::channel(8);
    for _ in 0..bytes >> 17 {
        more.try_send(b"x".repeat((1 << 17) - 1)).unwrap();
    }
    let stream =
        futures::stream::unfold(
            receiver,
            |mut receiver| async move { Some((receiver.recv().await?, receiver)) },
        );
    (reqwest::Body::wrap_stream(stream.map(Ok::<_, std::io::Error>)), more)
}

#[tokio::test]
async fn an_org_with_too_much_under_way_gets_429_and_all_together_503() {
    let world = World::new().await;
    let other = world.new_token("other", "ingest").await;
    let mebibyte = (1 << 20).to_string();
    let flags = [
        "--http-max-body-bytes",
        &mebibyte,
        "--max-inflight-bytes",
        &mebibyte,
        "--max-org-inflight-bytes",
        &mebibyte,
    ];
    let ingest = world.ready(&flags).await;
    let (body, more) = held_body(512 << 10);
    let held = tokio::spawn(ingest.post("/v1/events", "text/plain", body).send());
    let push = |token: String| {
        let request = ingest.client.post(format!("http://{}/v1/events", ingest.http)).bearer_auth(token);
        request.header("content-type", "text/plain").body("y\n".repeat(300_000))
    };
    // 600,000 bytes are 413 for their number of lines when there is room, and are not counted when there is none.
    for (token, status) in [(ingest.token.clone(), 429), (other, 503)] {
        until("the budget is used up", async || push(token.clone()).send().await.unwrap().status() != 413)
            .await;
        problem(push(token).send().await.unwrap(), status).await;
    }
    drop(more);
    assert_eq!(held.await.unwrap().unwrap().status(), 400);
    refused(push(ingest.token.clone()), 413).await;
    accepted(ingest.lines("{}")).await;
    ingest.stop().await;
}
