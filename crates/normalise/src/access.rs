//! Access logs of Apache and nginx, common and combined, with or without the virtual host in front.

use std::borrow::Cow;

use crate::app::{self, Reading, class};
use crate::attributes::Attributes;
use crate::{ip, time};

/// `[vhost[:port] ]client ident user [time] "request" status bytes[ "referrer" "user agent"[ more]]`; none where
/// the line is anything else.
pub(crate) fn read<'m>(line: &'m str, attributes: &mut Attributes) -> Option<Reading<'m>> {
    let (who, rest) = line.split_once(" [")?;
    let (stamp, rest) = rest.split_once("] \"")?;
    let stamp = time::access(stamp)?;
    let (vhost, client, user) = requester(who)?;
    let (request, rest) = quoted(rest)?;
    let mut numbers = rest.strip_prefix(' ')?.splitn(3, ' ');
    let status = numbers.next().filter(|status| status.len() == 3 && all_digits(status))?;
    let bytes = numbers.next().filter(|bytes| *bytes == "-" || all_digits(bytes))?;
    let tail = numbers.next().unwrap_or_default();

    let mut reading = Reading::of(class::HTTP, request_fields(request, attributes));
    attributes.digits("status", status);
    if bytes != "-" {
        attributes.digits("bytes", bytes);
    }
    let (referrer, tail) = quoted_field(tail);
    attributes.optional("referrer", referrer);
    let (user_agent, tail) = quoted_field(tail);
    attributes.optional("user_agent", user_agent);
    attributes.optional("vhost", vhost);
    attributes.optional("extra", Some(tail.trim()).filter(|tail| !tail.is_empty()));
    reading.source_type = Some("web_access");
    reading.severity_id = Some(1);
    reading.time = Some(stamp.micros);
    reading.user = Some(user).filter(|user| !matches!(*user, "-" | "\"\"" | "")).map(Cow::Borrowed);
    reading.src_ip = ip::canonical(client);
    if reading.src_ip.is_none() {
        attributes.text("client", client);
    }
    Some(reading)
}

fn all_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// The virtual host, the client and the user. A user name may have blanks, the others not.
fn requester(who: &str) -> Option<(Option<&str>, &str, &str)> {
    let (first, rest) = who.split_once(' ')?;
    let (second, rest) = rest.split_once(' ')?;
    match rest.split_once(' ') {
        // Four words: the first is a virtual host if the second is an address, else the user has a blank.
        Some((_ident, user)) if ip::canonical(second).is_some() => Some((Some(first), second, user)),
        _ => Some((None, first, rest)),
    }
}

/// What stands before the closing quote, and what after; a quote behind a backslash closes nothing.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let bytes = text.as_bytes();
    let mut from = 0;
    while let Some(at) = memchr::memchr2(b'"', b'\\', bytes.get(from..)?) {
        let at = from + at;
        if bytes.get(at) == Some(&b'"') {
            return Some((text.get(..at)?, text.get(at + 1..)?));
        }
        from = at + 2;
    }
    None
}

/// A quoted field, none if it is `-` or empty, and the rest; all of the text is the rest where it has no quote.
fn quoted_field(text: &str) -> (Option<&str>, &str) {
    let field = text.trim_start_matches(' ').strip_prefix('"').and_then(quoted);
    match field {
        Some((value, rest)) => (Some(value).filter(|value| !matches!(*value, "-" | "")), rest),
        None => (None, text),
    }
}

/// Adds `method`, `path`, `query` and `protocol`, or a `request` that is none of HTTP; returns the activity.
fn request_fields(request: &str, attributes: &mut Attributes) -> i32 {
    let parts =
        request.split_once(' ').and_then(|(method, rest)| Some((method, app::http_activity(method)?, rest)));
    let Some((method, activity, rest)) = parts else {
        attributes.text("request", request);
        return 0;
    };
    let (target, protocol) = match rest.rsplit_once(' ') {
        Some((target, protocol)) if protocol.starts_with("HTTP/") => (target, Some(protocol)),
        _ => (rest, None),
    };
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    attributes.text("method", method);
    attributes.text("path", path);
    attributes.optional("query", query);
    attributes.optional("protocol", protocol);
    activity
}
