//! Which format a line is of.

use std::borrow::Cow;

use schemas::Micros;

use crate::app::{self, Reading};
use crate::attributes::Attributes;
use crate::draft::Draft;
use crate::input::Input;
use crate::syslog::{self, Header};
use crate::time::{self, Cursor};
use crate::{access, apache_error, auditd, dns, event_json, ip, json, severity};

/// Reads a line of any format.
pub(crate) fn read<'a>(text: &'a str, input: &Input<'_>) -> Draft<'a> {
    let line = text.trim_end_matches(['\r', '\n']);
    match line.trim_start().as_bytes().first() {
        Some(b'{') => {
            if let Some(draft) = event_json::read(line.trim_start(), input.received_at) {
                return draft;
            }
        }
        // An element of a JSON array of lines.
        Some(b'"') if input.format == "json" => match json::string(line.trim()) {
            // With a quote inside it only looks like one: `"shop" 192.0.2.7 - - [… "curl"`.
            Some(Cow::Borrowed(inner)) if !inner.contains('"') => return plain(inner, input),
            Some(Cow::Owned(inner)) => return plain(&inner, input).into_owned(),
            _ => {}
        },
        _ => {}
    }
    plain(line, input)
}

/// Reads a line that is not JSON.
fn plain<'a>(line: &'a str, input: &Input<'_>) -> Draft<'a> {
    let received_at = input.received_at;
    let mut draft = Draft::new("text", Attributes::default());
    let mut reading = of_host(line, &mut draft.attributes);
    if reading.is_none() {
        let header =
            syslog::with_priority(line, received_at).or_else(|| syslog::without_priority(line, received_at));
        if let Some(header) = header {
            return of_syslog(header, line, received_at);
        }
        reading = of_file(line, &mut draft.attributes);
    }
    match reading {
        Some(reading) => draft.fill(reading),
        None if input.format == "syslog" => draft.source_type = Cow::Borrowed("syslog"),
        None => draft.time = leading_time(line),
    }
    draft.message = Some(Cow::Borrowed(line));
    draft
}

/// Reads an access line whose virtual host looks like a priority: a client may ask for the host `<13>sshd:`.
fn of_host<'m>(line: &'m str, attributes: &mut Attributes) -> Option<Reading<'m>> {
    let mut words = line.strip_prefix('<')?.split(' ').skip(1);
    ip::canonical(words.next()?)?;
    // Of syslog the program would stand here, and behind it what others send.
    words.next().filter(|ident| *ident == "-")?;
    access::read(line, attributes)
}

/// Reads a line without a syslog header. How it starts is no proof: an access line may start with a virtual host.
fn of_file<'m>(line: &'m str, attributes: &mut Attributes) -> Option<Reading<'m>> {
    let reading = match line.as_bytes().first()? {
        b'[' => apache_error::read(line, attributes),
        b't' | b'n' => auditd::read(line, attributes),
        b'0'..=b'3' => dns::bind_file(line, attributes),
        _ => None,
    };
    reading.or_else(|| access::read(line, attributes))
}

/// The time at the start of a line, or in brackets there.
fn leading_time(line: &str) -> Option<Micros> {
    let line = line.strip_prefix('[').unwrap_or(line);
    let mut cursor = Cursor { rest: line.as_bytes() };
    let time = time::iso(&mut cursor)?;
    matches!(cursor.rest.first(), Some(b' ' | b']' | b',' | b'\t') | None).then_some(time.micros)
}

fn of_syslog<'a>(header: Header<'a>, line: &'a str, received_at: Micros) -> Draft<'a> {
    let wrapped = header.message.strip_prefix("@cee:").unwrap_or(header.message).trim_start();
    let inner = if wrapped.starts_with('{') { event_json::read(wrapped, received_at) } else { None };
    let is_json = inner.is_some();
    let mut draft = inner.unwrap_or_else(|| Draft::new("syslog", Attributes::for_line(line.len())));
    if !is_json {
        let (repeat, message) = syslog::repeated(header.message).unwrap_or((1, header.message));
        draft.repeat = repeat;
        draft.message = Some(Cow::Borrowed(message));
        header.describe(&mut draft.attributes);
        let app = header.app.unwrap_or_default();
        // What the program's own scale says is finer than what the reading supposes.
        draft.severity_id = header.priority.map(|priority| severity::of_syslog(priority % 8));
        if let Some(reading) = app::read(app, message, &mut draft.attributes) {
            draft.time = header.time.map(|time| time.micros);
            draft.fill(reading);
        }
    } else {
        header.describe(&mut draft.attributes);
        draft.severity_id =
            draft.severity_id.or(header.priority.map(|priority| severity::of_syslog(priority % 8)));
    }
    draft.time = draft.time.or(header.time.map(|time| time.micros));
    draft.host = draft.host.take().or(header.host.map(Cow::Borrowed));
    draft
}

/// Reads the message of a JSON event that a shipper wrapped around a program's line, where it is clear that it
/// is one: the program is named beside it, or the line is a whole syslog or access line. Fills what the event
/// itself does not say.
pub(crate) fn wrapped(draft: &mut Draft<'_>, app: Option<&str>, received_at: Micros) {
    match draft.message.take() {
        Some(Cow::Borrowed(message)) => {
            let reading = inner(message, app, draft, received_at);
            if let Some((reading, host)) = reading {
                draft.fill(reading);
                draft.host = draft.host.take().or(host.map(Cow::Borrowed));
            }
            draft.message = Some(Cow::Borrowed(message));
        }
        Some(Cow::Owned(message)) => {
            let reading = inner(&message, app, draft, received_at);
            if let Some((reading, host)) = reading {
                draft.fill(reading.into_owned());
                draft.host = draft.host.take().or(host.map(|host| Cow::Owned(host.to_owned())));
            }
            draft.message = Some(Cow::Owned(message));
        }
        None => {}
    }
}

/// What the wrapped line says, and the host in its header.
fn inner<'m>(
    message: &'m str,
    app: Option<&str>,
    draft: &mut Draft<'_>,
    received_at: Micros,
) -> Option<(Reading<'m>, Option<&'m str>)> {
    if let Some(app) = app {
        let (repeat, message) = syslog::repeated(message).unwrap_or((1, message));
        let reading = app::read(app, message, &mut draft.attributes);
        if reading.is_some() {
            draft.repeat = draft.repeat.max(repeat);
            return reading.map(|reading| (reading, None));
        }
    }
    if let Some(reading) = of_host(message, &mut draft.attributes) {
        return Some((reading, None));
    }
    let header = match message.as_bytes().first()? {
        b'<' => syslog::with_priority(message, received_at),
        b'A'..=b'S' | b'1'..=b'2' => syslog::without_priority(message, received_at),
        _ => None,
    };
    match header {
        Some(header) => {
            let named = header.app?;
            let (repeat, inner) = syslog::repeated(header.message).unwrap_or((1, header.message));
            let reading = app::read(named, inner, &mut draft.attributes)?;
            draft.repeat = draft.repeat.max(repeat);
            attributes_of(&header, app, &mut draft.attributes);
            let time = header.time.map(|time| time.micros);
            Some((Reading { time, ..reading }, header.host))
        }
        None => access::read(message, &mut draft.attributes).map(|reading| (reading, None)),
    }
}

/// Adds the header of a wrapped line, but for the program if the event names one itself.
fn attributes_of(header: &Header<'_>, app: Option<&str>, attributes: &mut Attributes) {
    if app.is_none() {
        attributes.optional("app", header.app);
    }
    if let Some(pid) = header.pid {
        attributes.digits("pid", pid);
    }
}
