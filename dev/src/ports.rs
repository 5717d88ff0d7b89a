//! Free TCP and UDP ports.
//!
//! Taken from below the range the kernel picks the ports of outgoing connections from (32768 and up by default): a
//! port found by binding 0 can be lost to any connection opened before its owner binds it, which under a test's load
//! is a matter of time.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Result, bail};
use rand::Rng;

const RANGE: std::ops::Range<u16> = 20_000..32_000;
const ATTEMPTS: usize = 1_000;

/// Ports handed out by this process, whose owners may not have bound them yet.
static TAKEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A port nothing listens on, and that this process has not handed out before.
pub fn free() -> Result<u16> {
    for _ in 0..ATTEMPTS {
        let port = rand::rng().random_range(RANGE);
        if claim(port) {
            return Ok(port);
        }
    }
    bail!("no free port found between {} and {}", RANGE.start, RANGE.end)
}

/// `preferred` when it is free, another port otherwise.
pub fn free_or(preferred: u16) -> Result<u16> {
    if claim(preferred) { Ok(preferred) } else { free() }
}

/// Gives back a port that [`free`] or [`free_or`] handed out and that is not going to be used.
pub fn release(port: u16) {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner).remove(&port);
}

fn claim(port: u16) -> bool {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    !taken.contains(&port) && is_free(port) && taken.insert(port)
}

/// True when neither TCP nor UDP has a listener on it, on whatever address.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
        && UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test: side by side they would take each other's ports.
    #[test]
    fn ports_are_handed_out_once_and_preferred_ones_kept_while_they_are_free() {
        let ports: HashSet<u16> = (0..200).map(|_| free().unwrap()).collect();
        assert_eq!(ports.len(), 200);

        let port = free().unwrap();
        release(port);
        assert_eq!(free_or(port).unwrap(), port);
        assert_ne!(free_or(port).unwrap(), port, "it has just been handed out");

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = listener.local_addr().unwrap().port();
        assert_ne!(free_or(taken).unwrap(), taken);
    }
}
