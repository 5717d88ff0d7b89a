//! The HTTP listener: connections, their bounds and their orderly end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use service::{Shutdown, metrics};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::PushApi;

/// Largest head of a request, bytes.
const MAX_HEAD_BYTES: usize = 32 * 1024;
const MAX_HEADERS: usize = 64;
/// What is read at once. A push of 500 events takes two or three reads.
const READ_BYTES: usize = 128 * 1024;
/// A peer that does not acknowledge what it was sent for this long is gone.
const PEER_GONE: Duration = Duration::from_secs(30);
/// After a stop was asked for, requests under way have this long to be answered: longer than the broker has to
/// acknowledge a push, and less than the process has to end.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(6);
/// Pause after a failed accept: out of file descriptors, as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const FULL: &str = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nConnection: close\r\n\
    Content-Type: application/problem+json\r\nContent-Length: 145\r\n\r\n\
    {\"type\":\"urn:tidewatch:problem:unavailable\",\"title\":\"Service Unavailable\",\"status\":503,\
    \"detail\":\"too many connections are open; try again later\"}";

/// What bounds the connections of the listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections open at once.
    pub connections: usize,
    /// Time for the head of a request, counted from the opening of the connection or the last answer: it ends idle
    /// connections as well.
    pub head_timeout: Duration,
}

/// Serves `api` until a stop is asked for, then finishes what is under way.
///
/// # Errors
/// None so far; a listener does not fail for good.
pub async fn serve(
    listener: TcpListener,
    api: Arc<PushApi>,
    limits: Limits,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    while let Some((stream, peer)) = shutdown.unless_requested(accept(&listener, "http")).await {
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            metrics::INGEST_CONNECTIONS_REFUSED.with(["http"]).add(1);
            tokio::spawn(refuse(stream));
            continue;
        };
        let open = Connection::new("http", slot);
        let api = Arc::clone(&api);
        let service = service_fn(move |request: Request<Incoming>| {
            let api = Arc::clone(&api);
            async move { Ok::<_, Infallible>(api.answer(request, peer.ip()).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .max_header_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .max_buf_size(READ_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                if error.is_timeout() {
                    metrics::INGEST_CONNECTIONS_TIMED_OUT.with(["http"]).add(1);
                }
                tracing::debug!(%peer, "connection ended: {error}");
            }
            drop(open);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests whose bodies had not arrived are left without an answer");
    }
    Ok(())
}

/// The next connection of `listener`, set up so that a peer that went away is noticed.
pub async fn accept(listener: &TcpListener, surface: &'static str) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let socket = socket2::SockRef::from(&stream);
                // Without these a connection works; it is noticed later when its peer is gone.
                let _ = socket.set_tcp_nodelay(true);
                let _ = socket.set_keepalive(true);
                let _ = socket.set_tcp_user_timeout(Some(PEER_GONE));
                return (stream, peer);
            }
            Err(error) => {
                tracing::warn!(surface, "cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One open connection, counted.
#[derive(Debug)]
pub struct Connection {
    surface: &'static str,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    /// A connection in its slot.
    pub fn new(surface: &'static str, slot: OwnedSemaphorePermit) -> Self {
        metrics::INGEST_CONNECTIONS.with([surface]).add(1.0);
        Self { surface, _slot: slot }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        metrics::INGEST_CONNECTIONS.with([self.surface]).add(-1.0);
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
