//! Records of the Linux audit system, one line each: `type=SYSCALL msg=audit(1364481363.243:24287): arch=c000003e …`.

use std::borrow::Cow;

use crate::app::{LOGOFF, LOGON, Reading, class};
use crate::attributes::Attributes;
use crate::{ip, time};

/// Fields read of a record; what stands behind them stays in the message.
const MAX_FIELDS: usize = 128;

/// Reads a record; `node=NAME` and, from the kernel's log, `audit:` may stand before it. None, and nothing added, for
/// anything else.
pub(crate) fn read<'m>(line: &'m str, attributes: &mut Attributes) -> Option<Reading<'m>> {
    let line = line.trim_start();
    let line = line.strip_prefix("audit: ").unwrap_or(line);
    let (node, rest) = match line.strip_prefix("node=") {
        Some(rest) => rest.split_once(' ').map(|(node, rest)| (Some(node), rest))?,
        None => (None, line),
    };
    let (kind, rest) = rest.strip_prefix("type=")?.split_once(' ')?;
    let rest = rest.strip_prefix("msg=").unwrap_or(rest).strip_prefix("audit(")?;
    let (stamp, rest) = rest.split_once("):")?;
    let (stamp, serial) = stamp.split_once(':')?;
    let stamp = time::epoch(stamp)?;

    attributes.text("type", kind);
    attributes.digits("audit_id", serial);
    let mut record = Record { kind, seen: Vec::new(), reading: Reading::default(), failed: None };
    record.fields(rest, true, attributes);
    let Record { mut reading, failed, .. } = record;
    (reading.class_uid, reading.activity_id) = match kind {
        "USER_AUTH" | "USER_LOGIN" | "USER_START" => (Some(class::AUTHENTICATION), Some(LOGON)),
        "USER_LOGOUT" | "USER_END" => (Some(class::AUTHENTICATION), Some(LOGOFF)),
        "EXECVE" | "PROCTITLE" | "USER_CMD" => (Some(class::PROCESS), Some(1)),
        _ => (None, None),
    };
    if let Some(failed) = failed {
        attributes.text("outcome", if failed { "failure" } else { "success" });
    }
    reading.source_type = Some("auditd");
    reading.time = Some(stamp.micros);
    reading.host = node.map(Cow::Borrowed);
    Some(reading)
}

struct Record<'m> {
    kind: &'m str,
    seen: Vec<&'m str>,
    reading: Reading<'m>,
    failed: Option<bool>,
}

impl<'m> Record<'m> {
    /// `name=value` with blanks between; a value in double quotes may hold any, and `msg='…'` holds more fields, once.
    fn fields(&mut self, text: &'m str, outer: bool, attributes: &mut Attributes) {
        // Where records are enriched, 0x1d stands before the names of what are numbers.
        let blank = |character: char| character == ' ' || character == '\u{1d}' || character == ',';
        let mut rest = text.trim_start_matches(blank);
        while let Some((name, after)) = rest.split_once('=')
            && self.seen.len() < MAX_FIELDS
        {
            // Words between the fields are no names.
            let name = name.rsplit(blank).next().unwrap_or(name);
            let (value, quoted, after) = if let Some(after) = after.strip_prefix('\'').filter(|_| outer) {
                let (inner, after) = after.rsplit_once('\'').unwrap_or((after, ""));
                self.fields(inner, false, attributes);
                rest = after.trim_start_matches(blank);
                continue;
            } else if let Some(after) = after.strip_prefix('"') {
                let (value, after) = after.split_once('"').unwrap_or((after, ""));
                (value, true, after)
            } else {
                let (value, after) = after.split_once(blank).unwrap_or((after, ""));
                (value, false, after)
            };
            rest = after.trim_start_matches(blank);
            self.field(name, value, quoted, attributes);
        }
    }

    fn field(&mut self, name: &'m str, value: &'m str, quoted: bool, attributes: &mut Attributes) {
        let absent = !quoted && matches!(value, "" | "?" | "(null)" | "(none)");
        let is_name = !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        let own = matches!(name, "type" | "audit_id" | "outcome");
        if absent || own || !is_name || self.seen.contains(&name) {
            return;
        }
        self.seen.push(name);
        let decoded = if quoted || !self.is_text(name) { None } else { decode(value) };
        let text = decoded.map_or(Cow::Borrowed(value), Cow::Owned);
        match name {
            "addr" => self.reading.src_ip = ip::canonical(value),
            "acct" => self.reading.user = Some(text.clone()),
            "res" => self.failed = Some(!matches!(value, "success" | "1" | "yes")),
            "success" => self.failed = Some(value != "yes"),
            _ => {}
        }
        if quoted { attributes.text(name, value) } else { attributes.digits(name, &text) }
    }

    /// Whether the field holds text, which is written as hexadecimal digits where it has blanks or quotes.
    fn is_text(&self, name: &str) -> bool {
        let argument = |name: &str| {
            self.kind == "EXECVE"
                && name
                    .strip_prefix('a')
                    .is_some_and(|number| number.starts_with(|c: char| c.is_ascii_digit()))
        };
        matches!(
            name,
            "acct" | "cmd" | "comm" | "cwd" | "data" | "exe" | "key" | "name" | "path" | "proctitle"
        ) || argument(name)
    }
}

/// The text that hexadecimal digits stand for, NUL between arguments as a blank; none if they are none.
fn decode(digits: &str) -> Option<String> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|value| value as u8);
    let bytes: Vec<u8> =
        pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect::<Option<_>>()?;
    Some(String::from_utf8_lossy(&bytes).trim_end_matches('\0').replace('\0', " "))
}
