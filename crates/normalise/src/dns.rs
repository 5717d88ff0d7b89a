//! Queries that DNS servers log: BIND and dnsmasq.

use crate::app::{Reading, class};
use crate::attributes::Attributes;
use crate::ip;

/// OCSF activity of a query.
const QUERY: i32 = 1;

/// `client @0x7f8a 192.0.2.7#53124 (example.com): view internal: query: example.com IN A +E(0)K (198.51.100.1)`; the time and
/// category of a log file may stand before it, and what is in parentheses is not always there.
fn bind<'m>(message: &'m str, attributes: &mut Attributes) -> Option<Reading<'m>> {
    let (before, query) = message.split_once(": query: ")?;
    let client = before.split_once("client ").filter(|(head, _)| head.is_empty() || head.ends_with(' '))?.1;
    let address = client.split(' ').find(|word| !word.starts_with('@'))?;
    let (address, port) = address.trim_end_matches(':').rsplit_once('#')?;
    let mut words = query.split(' ');
    let (name, of_class, kind) = (words.next()?, words.next()?, words.next()?);
    let mut reading = Reading::of(class::DNS, QUERY);
    reading.src_ip = Some(ip::canonical(address)?);
    reading.src_port = ip::port(port);
    attributes.text("query", name);
    attributes.text("query_class", of_class);
    attributes.text("record_type", kind);
    if let Some(view) = before.rsplit_once(": view ") {
        attributes.text("view", view.1);
    }
    for word in words {
        match word.strip_prefix('(').and_then(|word| word.strip_suffix(')')) {
            Some(server) => reading.dst_ip = ip::canonical(server),
            None => attributes.text("query_flags", word),
        }
    }
    Some(reading)
}

/// `query[A] example.com from 192.0.2.7`, a number and the client before it where dnsmasq logs more.
fn dnsmasq<'m>(message: &'m str, attributes: &mut Attributes) -> Option<Reading<'m>> {
    // In a name that is answered or forwarded `query[` may stand too.
    let (before, rest) = message.split_once("query[")?;
    let mut words = before.split_ascii_whitespace();
    match (words.next(), words.next(), words.next()) {
        (None, ..) => {}
        (Some(number), Some(client), None) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            ip::parse(client.rsplit_once('/')?.0)?;
        }
        _ => return None,
    }
    let (kind, rest) = rest.split_once("] ")?;
    // The name is whatever was asked for, and may hold blanks.
    let (name, client) = rest.rsplit_once(" from ")?;
    let mut reading = Reading::of(class::DNS, QUERY);
    reading.src_ip = Some(ip::canonical(client.trim_end())?);
    attributes.text("query", name);
    attributes.text("record_type", kind);
    Some(reading)
}

/// The time that BIND writes before a line of its own file: `21-Nov-2025 09:05:07.123`.
pub(crate) fn bind_file<'m>(line: &'m str, attributes: &mut Attributes) -> Option<Reading<'m>> {
    let (stamp, rest) = line.split_at_checked(24)?;
    let stamp = crate::time::bind(stamp)?;
    let reading = bind(rest.trim_start(), attributes)?;
    Some(Reading { source_type: Some("named"), time: Some(stamp.micros), ..reading })
}

/// Reads a message of a DNS server; one that is no query says no more than where it comes from.
pub(crate) fn read<'m>(app: &str, message: &'m str, attributes: &mut Attributes) -> Reading<'m> {
    let (source_type, reading) = match app {
        "dnsmasq" => ("dnsmasq", dnsmasq(message, attributes)),
        _ => ("named", bind(message, attributes)),
    };
    Reading { source_type: Some(source_type), ..reading.unwrap_or_default() }
}
