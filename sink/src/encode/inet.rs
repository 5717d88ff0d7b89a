//! inet: family, prefix length, is it a cidr, address length, address (`inet_send` in Postgres' network.c).

use std::net::IpAddr;

/// `PGSQL_AF_INET`: AF_INET of whatever system Postgres was first built on, fixed since.
const IPV4: u8 = 2;
/// `PGSQL_AF_INET6`: the former plus one.
const IPV6: u8 = 3;

/// Appends the field with its length.
pub fn put(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => {
            out.extend_from_slice(&[0, 0, 0, 8, IPV4, 32, 0, 4]);
            out.extend_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            out.extend_from_slice(&[0, 0, 0, 20, IPV6, 128, 0, 16]);
            out.extend_from_slice(&address.octets());
        }
    }
}
