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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
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
#[derive(Debug, Clone)]
pub struct Limits {
    /// KiB read and not yet acknowledged by the broker, all connections together.
    pub under_way: Arc<Semaphore>,
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
            under_way: Arc::clone(&limits.under_way),
            framer: Framer::default(),
            buffer: BytesMut::new(),
            read_bytes: MIN_READ_BYTES,
        };
        let shutdown = shutdown.clone();
        let idle = limits.idle;
        readers.spawn(async move {
            reader.run(stream, idle, shutdown).await;
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
    under_way: Arc<Semaphore>,
    framer: Framer,
    /// The beginning of a frame whose end has not come yet, then what is read.
    buffer: BytesMut,
    read_bytes: usize,
}

/// Why reading paused.
enum Event {
    Read(std::io::Result<usize>, Option<OwnedSemaphorePermit>),
    Settled(Result<(), crate::ticket::Failure>),
    Idle,
    Stop,
}

/// Reads once there is something to read and room for it. Cancel-safe.
async fn next_read(
    stream: &TcpStream,
    under_way: &Arc<Semaphore>,
    buffer: &mut BytesMut,
    read_bytes: usize,
    idle: Duration,
) -> Event {
    match tokio::time::timeout(idle, stream.readable()).await {
        Err(_) => return Event::Idle,
        Ok(Err(error)) => return Event::Read(Err(error), None),
        Ok(Ok(())) => {}
    }
    // A connection that waits for its peer holds nothing.
    let kib = u32::try_from(read_bytes >> 10).unwrap_or(u32::MAX);
    let mut lease = Arc::clone(under_way).acquire_many_owned(kib).await.ok();
    buffer.reserve(read_bytes);
    let read = stream.try_read_buf(buffer);
    if let (Ok(read), Some(whole)) = (&read, &mut lease) {
        drop(whole.split((read_bytes >> 10) - (read >> 10).min(read_bytes >> 10)));
    }
    Event::Read(read, lease)
}

impl Reader {
    async fn run(mut self, mut stream: TcpStream, idle: Duration, shutdown: Shutdown) {
        loop {
            let room = self.outbox.has_room();
            let event = tokio::select! {
                biased;
                () = shutdown.requested() => Event::Stop,
                outcome = self.outbox.oldest() => Event::Settled(outcome),
                event = next_read(&stream, &self.under_way, &mut self.buffer, self.read_bytes, idle), if room => event,
            };
            match event {
                Event::Settled(outcome) => self.outbox.settle(outcome).await,
                Event::Read(Ok(0), _) => break,
                Event::Read(Ok(read), lease) => self.take(read, lease),
                Event::Read(Err(error), _) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Event::Read(Err(error), _) => {
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
                    while self.outbox.has_room()
                        && let Ok(Ok(read @ 1..)) =
                            tokio::time::timeout(LAST_READ, stream.read_buf(&mut self.buffer)).await
                    {
                        self.take(read, None);
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
    fn take(&mut self, read: usize, lease: Option<OwnedSemaphorePermit>) {
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
        self.send(data, frames, "syslog", "accepted", lease);
    }

    /// Sends what is left when the connection has ended.
    fn finish(&mut self) {
        let data = self.buffer.split();
        match self.framer.finish(&data) {
            Tail::Clean => {}
            Tail::Line(frame) => self.send(data, vec![frame], "syslog", "accepted", None),
            Tail::Truncated(frame) => {
                tracing::warn!(
                    peer = %self.peer,
                    "the syslog connection ended inside a message: the {} bytes that came are passed on",
                    frame.len()
                );
                self.send(data, vec![frame], "syslog_truncated", "truncated", None);
            }
        }
    }

    fn send(
        &mut self,
        data: BytesMut,
        mut frames: Vec<Range<usize>>,
        format: &'static str,
        outcome: &str,
        lease: Option<OwnedSemaphorePermit>,
    ) {
        frames.retain(|frame| !frame.is_empty());
        if frames.is_empty() {
            return;
        }
        metrics::INGEST_SYSLOG_FRAMES.with([PROTOCOL, outcome]).add(frames.len() as u64);
        let group = Group { sender: Arc::clone(&self.sender), format, frames };
        self.outbox.send(Flight {
            data: data.freeze(),
            groups: vec![group],
            received_at: Micros::now(),
            lease,
        });
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
