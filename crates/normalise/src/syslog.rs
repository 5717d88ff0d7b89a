//! Syslog headers: RFC 5424, RFC 3164 and what files and relays make of them.

use schemas::Micros;

use crate::attributes::Attributes;
use crate::time::{self, Cursor, Time};
use crate::{attributes, severity};

/// What stands before the message. Texts are none where they are missing or `-`.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Header<'m> {
    /// Facility × 8 + severity.
    pub priority: Option<u8>,
    pub time: Option<Time>,
    pub host: Option<&'m str>,
    pub app: Option<&'m str>,
    /// What stood in parentheses behind the name: `pam_unix` of `sshd(pam_unix)[7]:`.
    pub module: Option<&'m str>,
    pub pid: Option<&'m str>,
    pub message_id: Option<&'m str>,
    /// Elements of RFC 5424, brackets included.
    pub structured_data: &'m str,
    pub message: &'m str,
}

/// Splits a line that starts with a priority.
pub(crate) fn with_priority(line: &str, received_at: Micros) -> Option<Header<'_>> {
    let (digits, rest) = line.strip_prefix('<')?.split_once('>')?;
    if digits.len() > 3 || digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let priority = digits.parse::<u8>().ok().filter(|priority| *priority < 192)?;
    let header = rfc5424(rest).or_else(|| bsd(rest, received_at, true));
    let header = header.unwrap_or_else(|| tagged(rest.trim_start()));
    Some(Header { priority: Some(priority), ..header })
}

/// Splits a line of a log file, where time and host start the line and a tag must follow.
pub(crate) fn without_priority(line: &str, received_at: Micros) -> Option<Header<'_>> {
    match line.as_bytes().first()? {
        b'A'..=b'S' | b'1'..=b'2' => bsd(line, received_at, false),
        _ => None,
    }
}

fn given(field: &str) -> Option<&str> {
    Some(field).filter(|field| !matches!(*field, "-" | ""))
}

/// `1 time host app procid msgid data message`
fn rfc5424(text: &str) -> Option<Header<'_>> {
    let mut words = text.strip_prefix("1 ")?.splitn(6, ' ');
    let stamp = words.next()?;
    let time = match given(stamp) {
        Some(stamp) => Some(time::parse(stamp)?),
        None => None,
    };
    let (host, app, pid, message_id) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let rest = words.next()?;
    let (structured_data, message) = split_structured_data(rest)?;
    // A byte order mark says that the message is UTF-8.
    let message = message.strip_prefix('\u{feff}').unwrap_or(message);
    // rsyslog forwards what it read as RFC 3164 with the space that stood after the tag.
    let message = message.strip_prefix(' ').unwrap_or(message);
    Some(Header {
        priority: None,
        time,
        host: given(host),
        app: given(app),
        module: None,
        pid: given(pid),
        message_id: given(message_id),
        structured_data,
        message,
    })
}

fn split_structured_data(text: &str) -> Option<(&str, &str)> {
    if let Some(rest) = text.strip_prefix('-') {
        return Some(("", rest.strip_prefix(' ').or(rest.is_empty().then_some(rest))?));
    }
    let mut end = 0;
    while text.as_bytes().get(end) == Some(&b'[') {
        end += element_len(text.get(end..)?)?;
    }
    let (data, rest) = text.split_at_checked(end).filter(|(data, _)| !data.is_empty())?;
    Some((data, rest.strip_prefix(' ').unwrap_or(rest)))
}

/// Bytes up to and with the bracket that closes the element; brackets in quotes close nothing.
fn element_len(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b']' if !quoted => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// `Oct  1 22:14:15 host tag[pid]: message`, the time also in RFC 3339 as rsyslog writes it. A `relayed` line came
/// with a priority, so nothing else needs to prove that it is syslog.
fn bsd(text: &str, received_at: Micros, relayed: bool) -> Option<Header<'_>> {
    let mut cursor = Cursor { rest: text.as_bytes() };
    // Programs write lines that start with RFC 3339 too; the old form is syslog's own.
    let (time, common) = match text.as_bytes().first()? {
        b'0'..=b'9' if text.as_bytes().get(10) == Some(&b'T') => (time::iso(&mut cursor)?, true),
        _ => (time::bsd(&mut cursor, received_at)?, false),
    };
    // The times read nothing but ASCII.
    let rest = text.get(text.len() - cursor.rest.len()..)?.strip_prefix(' ')?.trim_start_matches(' ');
    // A local message has no host: its first word is the tag.
    let (host, after) = rest.split_once(' ').unwrap_or((rest, ""));
    let header = if host.ends_with(':') || host.contains('[') {
        tagged(rest)
    } else {
        Header { host: given(host), ..tagged(after.trim_start_matches(' ')) }
    };
    let is_level = severity::of_name(host.trim_matches(['[', ']', ':'])).is_some();
    let proven = relayed || !common || (header.app.is_some() && !is_level);
    proven.then_some(Header { time: Some(time), ..header })
}

/// `tag(module)[pid]: message`; all of it is message where there is no such tag.
fn tagged(text: &str) -> Header<'_> {
    tag(text).unwrap_or(Header { message: text, ..Header::default() })
}

/// Longest name of a program that is taken for one.
const MAX_TAG_BYTES: usize = 64;

fn tag(text: &str) -> Option<Header<'_>> {
    let end =
        text.bytes().position(|b| matches!(b, b' ' | b'[' | b':' | b'(' | b'=' | b'"' | b'{' | b'<'))?;
    let (app, mut rest) = text.split_at_checked(end)?;
    if app.is_empty() || app.len() > MAX_TAG_BYTES || app.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut module = None;
    if let Some((inner, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        (module, rest) = (Some(inner), after);
    }
    let mut pid = None;
    if let Some((inner, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        (pid, rest) = (Some(inner), after);
    }
    // macOS: `sandboxd[129] ([31211]): …`
    if let Some((inner, _)) = rest.strip_prefix(" (").and_then(|inner| inner.split_once("): ")) {
        (module, rest) = (Some(inner), rest.get(inner.len() + 3..)?);
    }
    let message = rest.strip_prefix(':')?;
    let message = message.strip_prefix(' ').unwrap_or(message);
    Some(Header { app: Some(app), module, pid: pid.and_then(given), message, ..Header::default() })
}

impl<'m> Header<'m> {
    /// Adds what has no column.
    pub fn describe(&self, attributes: &mut Attributes) {
        attributes.optional("app", self.app);
        attributes.optional("module", self.module);
        if let Some(pid) = self.pid {
            attributes.digits("pid", pid);
        }
        attributes.optional("msgid", self.message_id);
        if let Some(priority) = self.priority {
            attributes.text("facility", severity::facility_name(priority / 8));
            attributes.text("severity", severity::syslog_name(priority % 8));
        }
        if !self.structured_data.is_empty() {
            describe_elements(self.structured_data, attributes);
        }
    }
}

/// Adds every parameter under its own name, or as `id.name` where that name is taken, and the elements' ids
/// as `sd`.
fn describe_elements(data: &str, attributes: &mut Attributes) {
    let mut taken = vec!["app", "module", "pid", "msgid", "facility", "severity", "sd"];
    let mut ids = String::from("[");
    let mut rest = data;
    while let Some((element, after)) = element_len(rest).and_then(|end| rest.split_at_checked(end)) {
        rest = after;
        let inner = element.strip_prefix('[').and_then(|e| e.strip_suffix(']')).unwrap_or(element);
        let (id, mut parameters) = inner.split_once(' ').unwrap_or((inner, ""));
        if ids.len() > 1 {
            ids.push(',');
        }
        attributes::push_json_string(id, &mut ids);
        while let Some((name, value)) = parameters.split_once("=\"") {
            let name = name.trim_start_matches(' ');
            let Some((value, after)) = quoted_value(value) else { break };
            parameters = after;
            let value =
                if value.contains('\\') { unescape(value).into() } else { std::borrow::Cow::Borrowed(value) };
            if taken.contains(&name) {
                attributes.text(&format!("{id}.{name}"), &value);
            } else {
                taken.push(name);
                attributes.text(name, &value);
            }
        }
    }
    ids.push(']');
    attributes.raw("sd", &ids);
}

/// A parameter's value up to its closing quote, and what follows.
fn quoted_value(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    let at = text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// RFC 5424, 6.3.3: a backslash escapes `"`, `\` and `]`, and is itself before anything else.
fn unescape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars().peekable();
    while let Some(char) = chars.next() {
        match (char, chars.peek()) {
            ('\\', Some('"' | '\\' | ']')) => out.extend(chars.next()),
            _ => out.push(char),
        }
    }
    out
}

/// Unwraps `message repeated N times: [ inner]` and counts `last message repeated N times`.
pub(crate) fn repeated(message: &str) -> Option<(i32, &str)> {
    let text = message.strip_prefix("last ").unwrap_or(message).strip_prefix("message repeated ")?;
    let (count, rest) = text.split_once(" time")?;
    let count = count.parse::<i32>().ok().filter(|count| *count > 0)?;
    let inner =
        rest.strip_prefix('s').unwrap_or(rest).strip_prefix(": [").and_then(|rest| rest.strip_suffix(']'));
    Some((count, inner.map_or(message, |inner| inner.strip_prefix(' ').unwrap_or(inner))))
}
