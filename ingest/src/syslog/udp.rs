//! Syslog over UDP: RFC 5426, one message a datagram.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use schemas::Micros;
use service::{Shutdown, metrics};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::outbox::{Flight, Group, Outbox};
use crate::publish::{MAX_EVENTS, Publisher};
use crate::server::DRAIN_TIMEOUT;
use crate::ticket::Failure;

const PROTOCOL: &str = "syslog_udp";
/// Asked of the kernel for datagrams that nobody has read yet; it may give less (net.core.rmem_max).
const RECEIVE_BUFFER_BYTES: usize = 16 << 20;
/// Largest datagram.
const MAX_DATAGRAM_BYTES: usize = 65_535;
/// Bytes of datagrams taken in one flight.
const FLIGHT_BYTES: usize = 256 * 1024;
/// Peers whose name is remembered, so that it is made once and not for every datagram.
const MAX_PEERS: usize = 10_000;
/// How often the kernel is asked what it dropped.
const DROPS_EVERY: Duration = Duration::from_secs(5);
/// After a stop was asked for, what senders have sent already is read until none comes for this long.
const LAST_READ: Duration = Duration::from_millis(50);

/// Opens a socket with a large receive buffer.
///
/// # Errors
/// The address cannot be bound.
pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// Takes messages of `org` from `socket` until a stop is asked for, then publishes what was read.
///
/// # Errors
/// None so far; a socket does not fail for good.
pub async fn serve(
    socket: UdpSocket,
    org: Arc<str>,
    publisher: Arc<Publisher>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let port = socket.local_addr()?.port();
    let mut reader = Reader {
        outbox: Outbox::new(publisher, org, PROTOCOL, shutdown.clone()),
        port,
        peers: HashMap::new(),
        buffer: BytesMut::new(),
    };
    let mut drops = Drops::of(&socket);
    let mut every = tokio::time::interval(DROPS_EVERY);
    loop {
        let room = reader.outbox.has_room();
        let event = tokio::select! {
            biased;
            () = shutdown.requested() => break,
            outcome = reader.outbox.oldest() => Event::Settled(outcome),
            _ = every.tick() => Event::Drops,
            ready = socket.readable(), if room => Event::Readable(ready),
        };
        match event {
            Event::Settled(outcome) => reader.outbox.settle(outcome).await,
            Event::Drops => drops.count(),
            Event::Readable(ready) => {
                if let Err(error) = ready.and_then(|()| reader.read(&socket)) {
                    tracing::debug!("syslog socket: {error}");
                }
            }
        }
    }
    // What the kernel has already.
    while reader.outbox.has_room()
        && let Ok(Ok(())) = tokio::time::timeout(LAST_READ, socket.readable()).await
    {
        // `WouldBlock` was a false alarm; the next wait tells.
        let _ = reader.read(&socket);
    }
    drops.count();
    if tokio::time::timeout(DRAIN_TIMEOUT, reader.outbox.drain()).await.is_err() {
        tracing::warn!("syslog messages that Kafka has not taken are left behind");
    }
    Ok(())
}

enum Event {
    Settled(Result<(), Failure>),
    Drops,
    Readable(io::Result<()>),
}

struct Reader {
    outbox: Outbox,
    port: u16,
    peers: HashMap<IpAddr, Arc<str>>,
    buffer: BytesMut,
}

impl Reader {
    /// Reads what is there, up to a flight, and sends it on its way. `WouldBlock` when nothing was there.
    fn read(&mut self, socket: &UdpSocket) -> io::Result<()> {
        let mut groups: Vec<Group> = Vec::new();
        let (mut last, mut count, mut end) = (None, 0, Ok(()));
        self.buffer.reserve(FLIGHT_BYTES + MAX_DATAGRAM_BYTES);
        while count < MAX_EVENTS && self.buffer.len() < FLIGHT_BYTES {
            let start = self.buffer.len();
            let peer = match socket.try_recv_buf_from(&mut self.buffer) {
                Ok((_, peer)) => peer.ip(),
                Err(error) => {
                    end = Err(error);
                    break;
                }
            };
            count += 1;
            let datagram = self.buffer.get(start..).unwrap_or_default();
            let kept =
                datagram.iter().rposition(|b| !matches!(b, b'\n' | b'\r' | b'\0')).map_or(0, |at| at + 1);
            if kept == 0 {
                metrics::INGEST_SYSLOG_FRAMES.with([PROTOCOL, "malformed"]).add(1);
                continue;
            }
            let frame = start..start + kept;
            match groups.last_mut() {
                Some(group) if last == Some(peer) => group.frames.push(frame),
                _ => groups.push(Group { sender: self.sender(peer), format: "syslog", frames: vec![frame] }),
            }
            last = Some(peer);
        }
        let data = self.buffer.split().freeze();
        if groups.is_empty() {
            return end;
        }
        let frames: usize = groups.iter().map(|group| group.frames.len()).sum();
        metrics::INGEST_RECEIVED.with([PROTOCOL]).add(data.len() as u64);
        metrics::INGEST_SYSLOG_FRAMES.with([PROTOCOL, "accepted"]).add(frames as u64);
        self.outbox.send(Flight { data, groups, received_at: Micros::now(), lease: None });
        Ok(())
    }

    fn sender(&mut self, peer: IpAddr) -> Arc<str> {
        if self.peers.len() >= MAX_PEERS {
            self.peers.clear();
        }
        let port = self.port;
        let sender = self.peers.entry(peer).or_insert_with(|| super::sender(PROTOCOL, port, peer).into());
        Arc::clone(sender)
    }
}

/// Datagrams that the kernel dropped because the receive buffer was full, from /proc/net/udp.
struct Drops {
    inode: Option<String>,
    counted: u64,
}

impl Drops {
    fn of(socket: &UdpSocket) -> Self {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).ok();
        let inode = link
            .and_then(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()));
        Self { inode, counted: 0 }
    }

    fn count(&mut self) {
        let Some(inode) = &self.inode else { return };
        let tables = ["/proc/self/net/udp", "/proc/self/net/udp6"];
        let Some(dropped) = tables
            .iter()
            .filter_map(|table| std::fs::read_to_string(table).ok())
            .find_map(|table| dropped(&table, inode))
        else {
            return;
        };
        let new = dropped.saturating_sub(self.counted);
        if new > 0 {
            metrics::INGEST_SYSLOG_FRAMES.with([PROTOCOL, "dropped"]).add(new);
            tracing::warn!(
                "the kernel dropped {new} syslog datagrams: they came faster than Kafka took them"
            );
        }
        self.counted = dropped;
    }
}

/// The last column of the socket's line; the inode is the tenth.
fn dropped(table: &str, inode: &str) -> Option<u64> {
    let line = table.lines().skip(1).find(|line| line.split_ascii_whitespace().nth(9) == Some(inode))?;
    line.split_ascii_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_the_kernel_drops_is_seen() {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let socket = UdpSocket::from_std(socket.into()).unwrap();
        let mut drops = Drops::of(&socket);
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..200 {
            sender.send_to(&[b'x'; 1000], socket.local_addr().unwrap()).unwrap();
        }
        let counter = || {
            metrics::value(
                "tidewatch_ingest_syslog_frames_total",
                &[("surface", PROTOCOL), ("outcome", "dropped")],
            )
        };
        let before = counter().unwrap_or(0.0);
        drops.count();
        let seen = counter().unwrap_or(0.0) - before;
        assert!(seen > 100.0, "{seen} of some 190 were seen");
    }

    #[test]
    fn the_drops_of_a_socket_are_in_its_line() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
                     1: 0100007F:1 00000000:0000 07 00000000:00000000 00:00000000 00000000  0 0 41 2 0000000000000000 7\n\
                     2: 0100007F:2 00000000:0000 07 00000000:00000000 00:00000000 00000000  0 0 42 2 0000000000000000 9\n";
        assert_eq!(dropped(table, "42"), Some(9));
        assert_eq!(dropped(table, "43"), None);
    }
}
