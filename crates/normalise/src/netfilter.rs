//! Packets that netfilter logs, by ufw, firewalld or rules of one's own: `[UFW BLOCK] IN=eth0 OUT= … SRC=… DST=… PROTO=TCP …`.

use crate::app::{Reading, class};
use crate::attributes::Attributes;
use crate::ip;

/// OCSF activities of a connection.
const REFUSE: i32 = 5;
const TRAFFIC: i32 = 6;

/// Reads the kernel's line without the time since its start; none, and nothing added, for anything else.
pub(crate) fn read<'m>(message: &'m str, attributes: &mut Attributes) -> Option<Reading<'m>> {
    let (prefix, fields) = match message.starts_with("IN=") {
        true => ("", message),
        false => message.split_once(" IN=").map(|(prefix, _)| message.split_at(prefix.len()))?,
    };
    // An ICMP error quotes the packet that it is about: `TYPE=3 CODE=3 [SRC=… DPT=33434 ]`.
    let fields = fields.split_once(" [").map_or(fields, |(own, _)| own);
    let [
        input,
        output,
        mac,
        source,
        target,
        protocol,
        source_port,
        target_port,
        length,
        ttl,
        icmp_type,
        icmp_code,
    ] = values(fields);
    let (source, target) = (source?, target?);
    let mut reading = Reading::of(class::NETWORK, TRAFFIC);
    reading.source_type = Some("iptables");
    reading.src_ip = ip::canonical(source);
    reading.dst_ip = ip::canonical(target);
    if reading.src_ip.is_none() || reading.dst_ip.is_none() {
        return None;
    }
    reading.src_port = source_port.and_then(ip::port);
    reading.dst_port = target_port.and_then(ip::port);

    let label = prefix.trim().trim_matches(['[', ']', ':']).trim_end();
    if let Some(action) = action(label) {
        attributes.text("action", action);
        if action == "blocked" {
            reading.activity_id = Some(REFUSE);
        }
    }
    attributes.optional("rule", Some(label).filter(|label| !label.is_empty()));
    attributes.optional("in_interface", input);
    attributes.optional("out_interface", output);
    attributes.optional("mac", mac);
    if let Some(protocol) = protocol {
        attributes.text("protocol", &protocol.to_ascii_lowercase());
    }
    for (name, value) in
        [("length", length), ("ttl", ttl), ("icmp_type", icmp_type), ("icmp_code", icmp_code)]
    {
        if let Some(value) = value {
            attributes.digits(name, value);
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

/// The fields that are read. Of UDP the length stands there twice: that of the packet comes first and counts.
const NAMES: [&str; 12] =
    ["IN", "OUT", "MAC", "SRC", "DST", "PROTO", "SPT", "DPT", "LEN", "TTL", "TYPE", "CODE"];

/// Values of these, as they stand there first; none where that is empty.
fn values(fields: &str) -> [Option<&str>; NAMES.len()] {
    let mut values = [None; NAMES.len()];
    for (name, value) in fields.split(' ').filter_map(|word| word.split_once('=')) {
        let known = NAMES.iter().zip(&mut values).find(|(known, _)| **known == name);
        if let Some((_, slot)) = known {
            slot.get_or_insert(value);
        }
    }
    values.map(|value| value.filter(|value| !value.is_empty()))
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
