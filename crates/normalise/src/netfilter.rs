//! Packets that netfilter logs, by ufw, firewalld or rules of one's own: `[UFW BLOCK] IN=eth0 OUT= … SRC=… DST=… PROTO=TCP …`.

use crate::app::{Reading, class};
use crate::attributes::Attributes;
use crate::ip;

/// OCSF activities of a connection.
const REFUSE: i32 = 5;
const TRAFFIC: i32 = 6;

/// Reads the kernel's line; none, and nothing added, for anything else.
pub(crate) fn read<'m>(message: &'m str, attributes: &mut Attributes) -> Option<Reading<'m>> {
    let (prefix, fields) = match message.starts_with("IN=") {
        true => ("", message),
        false => message.split_once(" IN=").map(|(prefix, _)| message.split_at(prefix.len()))?,
    };
    let field = |name: &str| {
        let of_name = |word: &&'m str| word.strip_prefix(name).is_some_and(|rest| rest.starts_with('='));
        let value = fields.split(' ').find(of_name)?.get(name.len() + 1..)?;
        Some(value).filter(|value| !value.is_empty())
    };
    let (source, target) = (field("SRC")?, field("DST")?);
    let mut reading = Reading::of(class::NETWORK, TRAFFIC);
    reading.source_type = Some("iptables");
    reading.src_ip = ip::canonical(source);
    reading.dst_ip = ip::canonical(target);
    if reading.src_ip.is_none() || reading.dst_ip.is_none() {
        return None;
    }
    reading.src_port = field("SPT").and_then(ip::port);
    reading.dst_port = field("DPT").and_then(ip::port);

    // The time since the kernel's start stands before the label.
    let label = match prefix.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((uptime, rest)) if uptime.trim().bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') => {
            rest
        }
        _ => prefix,
    };
    let label = label.trim().trim_matches(['[', ']', ':']).trim_end();
    if let Some(action) = action(label) {
        attributes.text("action", action);
        if action == "blocked" {
            reading.activity_id = Some(REFUSE);
        }
    }
    attributes.optional("rule", Some(label).filter(|label| !label.is_empty()));
    attributes.optional("in_interface", field("IN"));
    attributes.optional("out_interface", field("OUT"));
    attributes.optional("mac", field("MAC"));
    if let Some(protocol) = field("PROTO") {
        attributes.text("protocol", &protocol.to_ascii_lowercase());
    }
    for (name, shown) in [("LEN", "length"), ("TTL", "ttl"), ("TYPE", "icmp_type"), ("CODE", "icmp_code")] {
        if let Some(value) = field(name) {
            attributes.digits(shown, value);
        }
    }
    let is_flag =
        |word: &&str| matches!(*word, "SYN" | "ACK" | "FIN" | "RST" | "PSH" | "URG" | "ECE" | "CWR");
    let flags: Vec<&str> = fields.split(' ').filter(is_flag).take(8).collect();
    if !flags.is_empty() {
        attributes.text("tcp_flags", &flags.join(" "));
    }
    Some(reading)
}

/// What the label says has become of the packet.
fn action(label: &str) -> Option<&'static str> {
    let label = label.to_ascii_uppercase();
    let says = |words: &[&str]| words.iter().any(|word| label.contains(word));
    if says(&["BLOCK", "DROP", "DENY", "DENIED", "REJECT"]) {
        Some("blocked")
    } else if says(&["ALLOW", "ACCEPT"]) {
        Some("allowed")
    } else {
        None
    }
}
