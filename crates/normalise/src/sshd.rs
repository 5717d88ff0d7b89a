//! Messages of OpenSSH's server.

use std::borrow::Cow;

use crate::app::{LOGOFF, LOGON, Reading, class};
use crate::attributes::Attributes;
use crate::{ip, pam};

/// Reads any message of sshd; one that is not known says no more than where it comes from.
pub(crate) fn read<'m>(message: &'m str, attributes: &mut Attributes) -> Reading<'m> {
    let reading = attempt(message, attributes)
        .or_else(|| connection(message, attributes))
        .or_else(|| pam::read(message, attributes))
        .unwrap_or_default();
    Reading { source_type: Some("sshd"), severity_id: Some(1), ..reading }
}

/// Who wanted to log on, and from where. The user's name is whatever a client sent, so everything after it is
/// searched from the right: a name with ` from 192.0.2.7 port 22` in it blames nobody else.
#[derive(Default)]
struct Peer<'m> {
    user: Option<&'m str>,
    unknown_user: bool,
    ip: Option<Cow<'m, str>>,
    host: Option<&'m str>,
    port: Option<i32>,
}

impl<'m> Peer<'m> {
    /// `[invalid user ]NAME from ADDRESS[ port N[ …]]`
    fn named(text: &'m str) -> Option<Self> {
        let (user, place) = text.rsplit_once(" from ")?;
        let (user, unknown_user) = match user.strip_prefix("invalid user ") {
            Some(user) => (user, true),
            // An empty name leaves one blank.
            None if user == "invalid user" => ("", true),
            None => (user, false),
        };
        let mut words = place.split(' ');
        let address = words.next()?;
        let port = match (words.next(), words.next()) {
            (Some("port"), Some(port)) => ip::port(port),
            _ => None,
        };
        Some(Self { unknown_user, ..Self::at(Some(user), address, port) })
    }

    /// `[invalid user |authenticating user |user ][NAME ]ADDRESS port N[ …]`
    fn connected(text: &'m str) -> Option<Self> {
        let (place, port) = text.rsplit_once(" port ")?;
        let digits = port.split(|c: char| !c.is_ascii_digit()).next()?;
        let port = ip::port(digits);
        let kinds = [("invalid user ", true), ("authenticating user ", false), ("user ", false)];
        for (kind, unknown_user) in kinds {
            if let Some(named) = place.strip_prefix(kind) {
                let (user, address) = named.rsplit_once(' ')?;
                return Some(Self { unknown_user, ..Self::at(Some(user), address, port) });
            }
        }
        (!place.contains(' ')).then(|| Self::at(None, place, port))
    }

    fn at(user: Option<&'m str>, address: &'m str, port: Option<i32>) -> Self {
        let ip = ip::canonical(address);
        let host = ip.is_none().then_some(address).filter(|host| *host != "UNKNOWN");
        Self { user: user.filter(|user| !user.is_empty()), unknown_user: false, ip, host, port }
    }

    fn reading(self, attributes: &mut Attributes, class_uid: i32, activity_id: i32) -> Reading<'m> {
        if self.unknown_user {
            attributes.raw("unknown_user", "true");
        }
        attributes.optional("rhost", self.host);
        Reading {
            user: self.user.map(Cow::Borrowed),
            src_ip: self.ip,
            src_port: self.port,
            ..Reading::of(class_uid, activity_id)
        }
    }
}

/// An attempt to log on.
fn attempt<'m>(message: &'m str, attributes: &mut Attributes) -> Option<Reading<'m>> {
    for (verb, outcome) in [("Failed ", "failure"), ("Accepted ", "success")] {
        // `password for root from …`; the method has no blank.
        let Some((method, peer)) = message.strip_prefix(verb).and_then(|rest| rest.split_once(" for "))
        else {
            continue;
        };
        let peer = Peer::named(peer)?;
        attributes.text("action", "login");
        attributes.text("outcome", outcome);
        attributes.text("auth_method", method);
        return Some(peer.reading(attributes, class::AUTHENTICATION, LOGON));
    }
    let refusals = [
        ("Invalid user ", "unknown_user", ""),
        ("Illegal user ", "unknown_user", ""),
        ("User ", "not_allowed", " not allowed because "),
        ("error: maximum authentication attempts exceeded for ", "too_many_attempts", ""),
    ];
    for (start, action, end) in refusals {
        let Some(rest) = message.strip_prefix(start) else { continue };
        let named = if end.is_empty() { rest } else { rest.rsplit_once(end)?.0 };
        // A log of old may name no address.
        let mut peer = Peer::named(named)
            .or_else(|| (action == "unknown_user").then(|| Peer { user: Some(named), ..Peer::default() }))?;
        peer.unknown_user |= action == "unknown_user";
        attributes.text("action", action);
        attributes.text("outcome", "failure");
        return Some(peer.reading(attributes, class::AUTHENTICATION, LOGON));
    }
    if let Some(rest) = message.strip_prefix("Disconnecting ") {
        let (peer, reason) = rest.rsplit_once(": ")?;
        let peer = Peer::connected(peer)?;
        attributes.text("action", "disconnected");
        attributes.text("reason", reason.trim_end_matches(" [preauth]"));
        return Some(peer.reading(attributes, class::AUTHENTICATION, LOGOFF));
    }
    None
}

/// A connection that came or went without an attempt in the same line.
fn connection<'m>(message: &'m str, attributes: &mut Attributes) -> Option<Reading<'m>> {
    /// OCSF activities of a connection.
    const OPEN: i32 = 1;
    const CLOSE: i32 = 2;
    const RESET: i32 = 3;
    let starts = [
        ("Connection closed by ", "disconnected", CLOSE),
        ("Connection reset by ", "disconnected", RESET),
        ("Disconnected from ", "disconnected", CLOSE),
        ("Received disconnect from ", "disconnected", CLOSE),
        ("Connection from ", "connected", OPEN),
        ("Did not receive identification string from ", "no_identification", CLOSE),
        ("Unable to negotiate with ", "no_negotiation", CLOSE),
    ];
    let (rest, action, activity) = starts
        .into_iter()
        .find_map(|(start, action, activity)| Some((message.strip_prefix(start)?, action, activity)))?;
    let rest = if action == "connected" { rest.split(" on ").next().unwrap_or(rest) } else { rest };
    let peer = Peer::connected(rest).or_else(|| {
        // `192.0.2.7` alone, or `192.0.2.7: 11: Bye Bye` as older servers have it.
        let address = rest.split([':', ' ']).next().filter(|address| ip::canonical(address).is_some());
        let address = address.or_else(|| rest.split(' ').next())?;
        Some(Peer::at(None, address, None))
    })?;
    attributes.text("action", action);
    Some(peer.reading(attributes, class::NETWORK, activity))
}
