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
    let kind = named(kind);
    let rest = rest.strip_prefix("msg=").unwrap_or(rest).strip_prefix("audit(")?;
    let (stamp, rest) = rest.split_once("):")?;
    let (stamp, serial) = stamp.split_once(':')?;
    let stamp = time::epoch(stamp)?;

    attributes.text("type", kind);
    attributes.digits("audit_id", serial);
    let mut record = Record { kind, ..Record::default() };
    record.fields(rest, true, attributes);
    record.long_arguments(attributes);
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

/// The name of a kind that the kernel's log has as a number (linux/audit.h and libaudit's audit-records.h).
fn named(kind: &str) -> &str {
    match kind {
        "1006" => "LOGIN",
        "1100" => "USER_AUTH",
        "1101" => "USER_ACCT",
        "1102" => "USER_MGMT",
        "1103" => "CRED_ACQ",
        "1104" => "CRED_DISP",
        "1105" => "USER_START",
        "1106" => "USER_END",
        "1107" => "USER_AVC",
        "1108" => "USER_CHAUTHTOK",
        "1109" => "USER_ERR",
        "1110" => "CRED_REFR",
        "1112" => "USER_LOGIN",
        "1113" => "USER_LOGOUT",
        "1114" => "ADD_USER",
        "1115" => "DEL_USER",
        "1116" => "ADD_GROUP",
        "1117" => "DEL_GROUP",
        "1123" => "USER_CMD",
        "1124" => "USER_TTY",
        "1130" => "SERVICE_START",
        "1131" => "SERVICE_STOP",
        "1132" => "GRP_MGMT",
        "1133" => "GRP_CHAUTHTOK",
        "1138" => "SOFTWARE_UPDATE",
        "1300" => "SYSCALL",
        "1302" => "PATH",
        "1305" => "CONFIG_CHANGE",
        "1306" => "SOCKADDR",
        "1307" => "CWD",
        "1309" => "EXECVE",
        "1318" => "OBJ_PID",
        "1319" => "TTY",
        "1320" => "EOE",
        "1321" => "BPRM_FCAPS",
        "1322" => "CAPSET",
        "1323" => "MMAP",
        "1325" => "NETFILTER_CFG",
        "1326" => "SECCOMP",
        "1327" => "PROCTITLE",
        "1330" => "KERN_MODULE",
        "1334" => "BPF",
        "1400" => "AVC",
        "1401" => "SELINUX_ERR",
        "1403" => "MAC_POLICY_LOAD",
        "1404" => "MAC_STATUS",
        "1405" => "MAC_CONFIG_CHANGE",
        "1700" => "ANOM_PROMISCUOUS",
        "1701" => "ANOM_ABEND",
        _ => kind,
    }
}

#[derive(Default)]
struct Record<'m> {
    kind: &'m str,
    seen: Vec<&'m str>,
    /// Arguments too long for one field, as far as this record has their parts.
    long: Vec<(&'m str, Vec<u8>)>,
    reading: Reading<'m>,
    failed: Option<bool>,
}

impl<'m> Record<'m> {
    /// `name=value` with blanks between, also in parentheses and with commas before the blanks, as older records have
    /// them; a value in double quotes may hold any, and `msg='…'` holds more fields, once.
    fn fields(&mut self, text: &'m str, outer: bool, attributes: &mut Attributes) {
        // Where records are enriched, 0x1d stands before the names of what are numbers.
        let blank = |character: char| matches!(character, ' ' | '\u{1d}');
        let mut rest = text.trim_start_matches(blank);
        while let Some((name, after)) = rest.split_once('=')
            && self.seen.len() < MAX_FIELDS
        {
            // Words between the fields are no names.
            let name = name.rsplit(blank).next().unwrap_or(name).trim_start_matches(['(', ',']);
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
                let value = value.strip_suffix(',').unwrap_or(value);
                // The parenthesis of `(null)` is its own.
                (if value.contains('(') { value } else { value.trim_end_matches(')') }, false, after)
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
        let part_of = if self.kind == "EXECVE" { argument_of(name) } else { None };
        if absent || own || !(is_name || part_of.is_some()) || self.seen.contains(&name) {
            return;
        }
        self.seen.push(name);
        if let Some(argument) = part_of {
            return self.part(argument, value, quoted);
        }
        let decoded = if quoted || !self.is_text(name) { None } else { decode(value) };
        let text = decoded.map_or(Cow::Borrowed(value), |bytes| Cow::Owned(text_of(&bytes)));
        let says = |words: &[&str]| words.iter().any(|word| value.eq_ignore_ascii_case(word));
        match name {
            "addr" => self.reading.src_ip = ip::canonical(value),
            "acct" => self.reading.user = Some(text.clone()),
            "res" => self.failed = Some(!says(&["success", "1", "yes"])),
            "success" => self.failed = Some(!says(&["yes"])),
            _ => {}
        }
        if quoted { attributes.text(name, value) } else { attributes.digits(name, &text) }
    }

    /// Whether the field holds text, which is written as hexadecimal digits where it has blanks or quotes.
    fn is_text(&self, name: &str) -> bool {
        matches!(
            name,
            "acct" | "cmd" | "comm" | "cwd" | "data" | "exe" | "key" | "name" | "path" | "proctitle"
        ) || (self.kind == "EXECVE" && is_argument(name))
    }

    /// Appends a part to its argument; a character may be cut between two.
    fn part(&mut self, argument: &'m str, value: &str, quoted: bool) {
        let decoded = if quoted { None } else { decode(value) };
        let bytes = decoded.unwrap_or_else(|| value.as_bytes().to_vec());
        match self.long.iter_mut().find(|(known, _)| *known == argument) {
            Some((_, parts)) => parts.extend(bytes),
            None => self.long.push((argument, bytes)),
        }
    }

    /// Adds the arguments that were written in parts.
    fn long_arguments(&mut self, attributes: &mut Attributes) {
        for (argument, bytes) in self.long.drain(..).filter(|(argument, _)| !self.seen.contains(argument)) {
            attributes.text(argument, &text_of(&bytes));
        }
    }
}

/// Whether this is `a1` or the like.
fn is_argument(name: &str) -> bool {
    name.strip_prefix('a').is_some_and(is_number)
}

/// `a1` of `a1[0]`, the first part of a long argument.
fn argument_of(name: &str) -> Option<&str> {
    let (argument, part) = name.strip_suffix(']')?.split_once('[')?;
    (is_argument(argument) && is_number(part)).then_some(argument)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The bytes that hexadecimal digits stand for; none if they are none.
fn decode(digits: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|value| value as u8);
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// The text that decoded bytes are, NUL between arguments as a blank.
fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').replace('\0', " ")
}
