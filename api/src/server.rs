//! The HTTP listener: connections, their bounds and their orderly end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use service::Shutdown;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Largest head of a request, bytes. A cursor may be long.
const MAX_HEAD_BYTES: usize = 32 * 1024;
const MAX_HEADERS: usize = 64;
/// Time for the head of a request, counted from the opening of the connection or the last answer: it ends idle
/// connections as well.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// A peer that does not acknowledge what it was sent for this long is gone.
const PEER_GONE: Duration = Duration::from_secs(30);
/// After a stop was asked for, requests under way have this long to be answered.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(7);
/// Pause after a failed accept: out of file descriptors, as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const FULL: &str = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nConnection: close\r\n\
    Content-Type: application/problem+json\r\nContent-Length: 145\r\n\r\n\
    {\"type\":\"urn:tidewatch:problem:unavailable\",\"title\":\"Service Unavailable\",\"status\":503,\
    \"detail\":\"too many connections are open; try again later\"}";

/// Serves `router` on at most so many connections until a stop is asked for, then finishes what is under way.
pub(crate) async fn serve(listener: TcpListener, router: Router, connections: usize, shutdown: Shutdown) {
    let slots = Arc::new(Semaphore::new(connections));
    let graceful = GracefulShutdown::new();
    while let Some(stream) = shutdown.unless_requested(accept(&listener)).await {
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            tokio::spawn(refuse(stream));
            continue;
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("connection ended: {error}");
            }
            drop(slot);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests that take too long are left without an answer");
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let socket = socket2::SockRef::from(&stream);
                // Without these a connection works; it is noticed later when its peer is gone.
                let _ = socket.set_tcp_nodelay(true);
                let _ = socket.set_keepalive(true);
                let _ = socket.set_tcp_user_timeout(Some(PEER_GONE));
                return stream;
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Says that there is no room, to whoever reads it.
async fn refuse(mut stream: TcpStream) {
    let answer = async {
        stream.write_all(FULL.as_bytes()).await?;
        stream.shutdown().await
    };
    let _ = tokio::time::timeout(ACCEPT_PAUSE, answer).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_made_refusal_is_well_formed() {
        let (head, body) = FULL.split_once("\r\n\r\n").unwrap();
        let length = head.rsplit_once("Content-Length: ").unwrap().1;
        assert_eq!(length, body.len().to_string());
        assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["status"], 503);
    }
}
