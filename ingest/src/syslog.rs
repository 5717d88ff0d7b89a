//! Syslog, RFC 5424 and 3164, over TCP and UDP. The messages go on as bytes; what they say is read further down.
//!
//! Syslog has no acknowledgement: a sender cannot know what of its last bytes was lost when either side stops. What
//! ingest has read, it holds until the broker has acknowledged it, and while the broker is away it stops reading, so
//! that a TCP sender waits and a UDP sender's datagrams are dropped by the kernel, which counts them.

mod frame;
mod outbox;
pub mod tcp;
pub mod udp;

use std::net::IpAddr;

/// How a syslog sender is named: by the listener's port and its address, which outlives its connections.
fn sender(protocol: &str, port: u16, peer: IpAddr) -> String {
    format!("{protocol}:{port}/{}", peer.to_canonical())
}
