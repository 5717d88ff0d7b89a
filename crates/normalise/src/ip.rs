//! IP addresses and ports as canonical values.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};

/// The address a text names. An IPv4 address mapped into IPv6 is the IPv4 address; a zone (`%eth0`) and the
/// brackets of a URL are not part of an address and make the text none.
pub fn parse(text: &str) -> Option<IpAddr> {
    match text.parse::<IpAddr>().ok()? {
        IpAddr::V6(v6) => Some(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)),
        v4 => Some(v4),
    }
}

/// The canonical text of the address `text` names: the text itself where it already is.
pub(crate) fn canonical(text: &str) -> Option<Cow<'_, str>> {
    match text.parse::<IpAddr>().ok()? {
        // The parser takes an IPv4 address in no other form than the canonical.
        IpAddr::V4(_) => Some(Cow::Borrowed(text)),
        IpAddr::V6(v6) => Some(canonical_v6(text, v6)),
    }
}

fn canonical_v6(text: &str, v6: Ipv6Addr) -> Cow<'_, str> {
    let canonical = match v6.to_ipv4_mapped() {
        Some(v4) => v4.to_string(),
        None => v6.to_string(),
    };
    if canonical == text { Cow::Borrowed(text) } else { Cow::Owned(canonical) }
}

/// A port number in decimal.
pub(crate) fn port(text: &str) -> Option<i32> {
    text.parse::<u16>().ok().map(i32::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_canonical_or_none() {
        for (text, canonical_text) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("::FFFF:a00:1", Some("10.0.0.1")),
            ("2001:DB8:0:0::1", Some("2001:db8::1")),
            ("fe80::1", Some("fe80::1")),
            ("::1", Some("::1")),
            ("fe80::1%eth0", None),
            ("010.0.0.1", None),
            ("10.0.0", None),
            ("10.0.0.1:80", None),
            ("-", None),
            ("", None),
        ] {
            assert_eq!(canonical(text).as_deref(), canonical_text, "{text}");
        }
    }

    #[test]
    fn ports_fit_sixteen_bits() {
        for (text, number) in
            [("0", Some(0)), ("65535", Some(65535)), ("65536", None), ("-1", None), ("", None)]
        {
            assert_eq!(port(text), number, "{text}");
        }
    }
}
