//! Syslog over TCP: RFC 6587.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use schemas::Micros;
use service::{Shutdown, metrics};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::frame::{Framer, MAX_MESSAGE_BYTES, Tail};
use super::outbox::{Flight, Group, Outbox};
use crate::publish::Publisher;
use crate::server::{Connection, DRAIN_TIMEOUT, accept};

const PROTOCOL: &str = "syslog_tcp";
/// What is read at once: small while a connection is quiet, larger while its reads come back full.
const MIN_READ_BYTES: usize = 8 * 1024;
const MAX_READ_BYTES: usize = 128 * 1024;
/// After a stop was asked for, what a connection's peer has sent already is read for this long.
const LAST_READ: Duration = Duration::from_millis(100);

/// What bounds the connections of a listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections open at once.
    pub connections: usize,
    /// A connection that sends nothing for this long is closed.
    pub idle: Duration,
}

/// Takes messages of `org` from `listener` until a stop is asked for, then publishes what was read.
///
/// # Errors
/// None so far; a listener does not fail for good.
pub async fn serve(
    listener: TcpListener,
    org: Arc<str>,
    publisher: Arc<Publisher>,
    limits: Limits,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let port = listener.local_addr()?.port();
    let mut readers = JoinSet::new();
    while let Some((stream, peer)) = shutdown.unless_requested(accept(&listener, PROTOCOL)).await {
        while readers.try_join_next().is_some() {}
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            metrics::INGEST_CONNECTIONS_REFUSED.with([PROTOCOL]).add(1);
            tracing::warn!(%peer, "syslog connection refused: {} are open already", limits.connections);
            continue;
        };
        let open = Connection::new(PROTOCOL, slot);
        let outbox = Outbox::new(Arc::clone(&publisher), Arc::clone(&org), PROTOCOL, shutdown.clone());
        let reader = Reader {
            sender: super::sender(PROTOCOL, port, peer.ip()).into(),
            peer,
            outbox,
            framer: Framer::default(),
            buffer: BytesMut::new(),
            read_bytes: MIN_READ_BYTES,
        };
        let shutdown = shutdown.clone();
        readers.spawn(async move {
            reader.run(stream, limits.idle, shutdown).await;
            drop(open);
        });
    }
    drop(listener);
    let drained = tokio::time::timeout(DRAIN_TIMEOUT, async { while readers.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::warn!("syslog messages that Kafka has not taken are left behind");
    }
    Ok(())
}

/// One connection.
struct Reader {
    sender: Arc<str>,
    peer: SocketAddr,
    outbox: Outbox,
    framer: Framer,
    /// The beginning of a frame whose end has not come yet, then what is read.
    buffer: BytesMut,
    read_bytes: usize,
}

/// Why reading paused.
enum Event {
    Read(std::io::Result<usize>),
    Settled(Result<(), crate::receipt::Failure>),
    Idle,
    Stop,
}

impl Reader {
    async fn run(mut self, mut stream: TcpStream, idle: Duration, shutdown: Shutdown) {
        loop {
            self.buffer.reserve(self.read_bytes);
            let room = self.outbox.has_room();
            let event = tokio::select! {
                biased;
                () = shutdown.requested() => Event::Stop,
                outcome = self.outbox.oldest() => Event::Settled(outcome),
                read = tokio::time::timeout(idle, stream.read_buf(&mut self.buffer)), if room => {
                    read.map_or(Event::Idle, Event::Read)
                }
            };
            match event {
                Event::Settled(outcome) => self.outbox.settle(outcome).await,
                Event::Read(Ok(0)) => break,
                Event::Read(Ok(read)) => self.take(read),
                Event::Read(Err(error)) => {
                    tracing::debug!(peer = %self.peer, "syslog connection ended: {error}");
                    break;
                }
                Event::Idle => {
                    metrics::INGEST_CONNECTIONS_TIMED_OUT.with([PROTOCOL]).add(1);
                    break;
                }
                Event::Stop => {
                    // What the peer has sent already is in the socket; what it sends from here on, it will have to
                    // send again.
                    while let Ok(Ok(read @ 1..)) =
                        tokio::time::timeout(LAST_READ, stream.read_buf(&mut self.buffer)).await
                    {
                        self.take(read);
                        if !self.outbox.has_room() {
                            break;
                        }
                    }
                    break;
                }
            }
        }
        self.finish();
        // The socket stays open until its messages are safe: a peer that sees it close starts anew elsewhere.
        self.outbox.drain().await;
    }

    /// Sends the whole frames in the buffer on their way, `read` bytes having been added to it.
    fn take(&mut self, read: usize) {
        metrics::INGEST_RECEIVED.with([PROTOCOL]).add(read as u64);
        self.read_bytes = if read >= self.read_bytes {
            (self.read_bytes * 2).min(MAX_READ_BYTES)
        } else {
            (self.read_bytes / 2).max(read.next_power_of_two()).clamp(MIN_READ_BYTES, MAX_READ_BYTES)
        };
        let mut frames = Vec::with_capacity(read / 128 + 1);
        let done = self.framer.scan(&self.buffer, &mut frames);
        let data = self.buffer.split_to(done);
        self.count_oversized();
        self.send(data, frames, "syslog", "accepted");
    }

    /// Sends what is left when the connection has ended.
    fn finish(&mut self) {
        let data = self.buffer.split();
        match self.framer.finish(&data) {
            Tail::Clean => {}
            Tail::Line(frame) => self.send(data, vec![frame], "syslog", "accepted"),
            Tail::Truncated(frame) => {
                tracing::warn!(
                    peer = %self.peer,
                    "the syslog connection ended inside a message: the {} bytes that came are passed on",
                    frame.len()
                );
                self.send(data, vec![frame], "syslog_truncated", "truncated");
            }
        }
    }

    fn send(&mut self, data: BytesMut, mut frames: Vec<Range<usize>>, format: &'static str, outcome: &str) {
        frames.retain(|frame| !frame.is_empty());
        if frames.is_empty() {
            return;
        }
        metrics::INGEST_SYSLOG_FRAMES.with([PROTOCOL, outcome]).add(frames.len() as u64);
        let group = Group { sender: Arc::clone(&self.sender), format, frames };
        self.outbox.send(Flight { data: data.freeze(), groups: vec![group], received_at: Micros::now() });
    }

    fn count_oversized(&mut self) {
        let oversized = self.framer.take_oversized();
        if oversized > 0 {
            metrics::INGEST_SYSLOG_FRAMES.with([PROTOCOL, "oversized"]).add(oversized);
            tracing::warn!(
                peer = %self.peer,
                "{oversized} syslog messages over {MAX_MESSAGE_BYTES} bytes were cut: they will be quarantined"
            );
        }
    }
}
