//! Networks that hold an address.

use std::net::IpAddr;

use ahash::AHashMap;
use ipnet::IpNet;

/// Values of networks, found by address. A look-up costs one hash for every different prefix length of the
/// address family, of which lists have few.
#[derive(Debug, Default)]
pub(super) struct Prefixes<T> {
    /// By length of prefix, longest first; keys are addresses with the host's bits cleared. IPv4 in the first.
    families: [Vec<(u8, AHashMap<u128, T>)>; 2],
}

/// An address as the upper bits of a number, and the place of its family.
fn bits(address: IpAddr) -> (usize, u128) {
    match address {
        IpAddr::V4(v4) => (0, u128::from(v4.to_bits()) << 96),
        IpAddr::V6(v6) => (1, v6.to_bits()),
    }
}

fn masked(bits: u128, length: u8) -> u128 {
    bits & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

impl<T: Default> Prefixes<T> {
    /// The value of a network, made if it has none yet.
    pub fn entry(&mut self, network: IpNet) -> &mut T {
        let (family, bits) = bits(network.addr());
        let length = network.prefix_len();
        let [v4, v6] = &mut self.families;
        let family = if family == 0 { v4 } else { v6 };
        let at = family.partition_point(|(known, _)| *known > length);
        if family.get(at).is_none_or(|(known, _)| *known != length) {
            family.insert(at, (length, AHashMap::new()));
        }
        // `at` is where the length was found or put.
        #[expect(clippy::indexing_slicing, reason = "the line above puts it there")]
        let (_, networks) = &mut family[at];
        networks.entry(masked(bits, length)).or_default()
    }

    /// The values of all networks that hold the address, the longest prefix first.
    pub fn matching(&self, address: IpAddr) -> impl Iterator<Item = &T> {
        let (family, bits) = bits(address);
        let family = self.families.get(family).into_iter().flatten();
        family.filter_map(move |(length, networks)| networks.get(&masked(bits, *length)))
    }

    pub fn len(&self) -> usize {
        self.families.iter().flatten().map(|(_, networks)| networks.len()).sum()
    }
}

/// A network, or an address alone. An IPv4 address written as IPv6 is IPv4.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    if let Some(address) = normalise::parse_ip(text) {
        return Ok(address.into());
    }
    text.parse::<IpNet>().map_err(|_| format!("{text:?} is no address and no network such as 10.0.0.0/8"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(networks: &[&str]) -> Prefixes<Vec<String>> {
        let mut table = Prefixes::<Vec<String>>::default();
        for text in networks {
            table.entry(network(text).unwrap()).push((*text).to_owned());
        }
        table
    }

    fn found(table: &Prefixes<Vec<String>>, address: &str) -> Vec<String> {
        table.matching(address.parse().unwrap()).flatten().cloned().collect()
    }

    #[test]
    fn all_networks_that_hold_an_address_are_found_longest_first() {
        let table = table(&[
            "10.0.0.0/8",
            "0.0.0.0/0",
            "10.1.0.0/16",
            "10.1.2.3",
            "10.9.9.9/16",
            "2001:db8::/32",
            "::/0",
        ]);
        assert_eq!(found(&table, "10.1.2.3"), ["10.1.2.3", "10.1.0.0/16", "10.0.0.0/8", "0.0.0.0/0"]);
        assert_eq!(found(&table, "10.9.0.1"), ["10.9.9.9/16", "10.0.0.0/8", "0.0.0.0/0"]);
        assert_eq!(found(&table, "2001:db8::1"), ["2001:db8::/32", "::/0"]);
        assert_eq!(found(&table, "::1"), ["::/0"]);
        assert_eq!(table.len(), 7);
    }

    proptest! {
        #[test]
        fn a_network_is_found_exactly_for_its_addresses(network: [u8; 4], length in 0u8..=32, address: [u8; 4]) {
            let net = IpNet::new(IpAddr::from(network), length).unwrap();
            let mut table = Prefixes::<()>::default();
            table.entry(net);
            let address = IpAddr::from(address);
            prop_assert_eq!(table.matching(address).count() == 1, net.contains(&address));
            prop_assert_eq!(table.matching(net.addr()).count(), 1);
        }
    }
}
