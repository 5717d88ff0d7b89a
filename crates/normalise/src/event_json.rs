//! JSON objects that are events: named fields to columns, the rest to attributes.

use std::borrow::Cow;

use schemas::Micros;

use crate::app;
use crate::attributes::Attributes;
use crate::draft::Draft;
use crate::json::{self, Field};
use crate::names::{self, As, COLUMNS, Known, Use};
use crate::{ip, severity, text, time, windows};

/// Reads a JSON object as an event; none where `line` is no JSON object. `received_at` is for times without
/// a year in a message that a shipper wrapped.
pub(crate) fn read(line: &str, received_at: Micros) -> Option<Draft<'_>> {
    let fields = json::object(line)?;
    let mut draft = match windows::shape(&fields) {
        Some(windows::Shape::Flat) => windows::flat(fields, line.len()),
        Some(windows::Shape::Nested) => windows::nested(fields, line.len()),
        None => generic(fields, line.len(), received_at),
    };
    if draft.message.is_none() {
        draft.message = Some(Cow::Borrowed(line));
    }
    Some(draft)
}

fn generic(fields: Vec<Field<'_>>, line_bytes: usize, received_at: Micros) -> Draft<'_> {
    let mut reader = Reader {
        draft: Draft::new("json", Attributes::for_line(line_bytes)),
        taken: [None; COLUMNS],
        app: None,
        class: None,
        winlog: None,
        path: String::new(),
    };
    for (name, json) in fields {
        reader.field(&name, json);
    }
    reader.finish(received_at)
}

/// What filled a column.
#[derive(Clone, Copy)]
struct Taken<'a> {
    rank: u8,
    name: &'static str,
    json: &'a str,
    /// It was kept as an attribute too, as the column does not hold all of it.
    kept: bool,
}

struct Reader<'a> {
    draft: Draft<'a>,
    taken: [Option<Taken<'a>>; COLUMNS],
    app: Option<Cow<'a, str>>,
    /// Class and activity that categories and methods tell.
    class: Option<(i32, i32)>,
    winlog: Option<&'a str>,
    /// Names of nested fields are put together here.
    path: String,
}

impl<'a> Reader<'a> {
    fn field(&mut self, name: &str, json: &'a str) {
        match names::known(name) {
            Some(known) if known.open && json.starts_with('{') => self.open(known.name, json),
            Some(known) => self.known(known, json),
            None if name == "winlog" && json.starts_with('{') => self.winlog = Some(json),
            None => json::keep(&mut self.draft.attributes, name, json),
        }
    }

    /// Takes the fields of an object under a known name, as `outer.inner`.
    fn open(&mut self, outer: &str, json: &'a str) {
        let mut path = std::mem::take(&mut self.path);
        for (inner, json) in json::object(json).unwrap_or_default() {
            path.clear();
            path.push_str(outer);
            path.push('.');
            path.push_str(&inner);
            self.field(&path, json);
        }
        self.path = path;
    }

    fn known(&mut self, known: &'static Known, json: &'a str) {
        match known.used {
            Use::Column(read_as, rank) => return self.offer(read_as, rank, known.name, json),
            Use::App => self.app = self.app.take().or_else(|| json::string(json)),
            Use::Category => self.class = self.class.or_else(|| class_of_category(json)),
            Use::HttpMethod => {
                self.class = self.class.or_else(|| Some((4002, app::http_activity(&json::string(json)?)?)));
            }
            Use::Nothing => {}
        }
        json::keep(&mut self.draft.attributes, known.name, json);
    }

    /// Fills a column, unless a better name already has; what does not go into the column is an attribute.
    fn offer(&mut self, read_as: As, rank: u8, name: &'static str, json: &'a str) {
        let Some(taken) = self.taken.get_mut(read_as.column()) else { return };
        let set = match taken {
            Some(before) if before.rank <= rank => Set::Refused,
            _ => set(&mut self.draft, read_as, json),
        };
        let attributes = &mut self.draft.attributes;
        if set == Set::Refused {
            return json::keep(attributes, name, json);
        }
        let kept = set == Set::Partly;
        if let Some(before) = taken.replace(Taken { rank, name, json, kept })
            && !before.kept
        {
            json::keep(attributes, before.name, before.json);
        }
        if kept {
            json::keep(attributes, name, json);
        }
    }

    fn finish(self, received_at: Micros) -> Draft<'a> {
        let Self { mut draft, app, class, winlog, .. } = self;
        if let Some(json) = winlog {
            draft = windows::winlog(draft, json);
        }
        if app.is_some() || draft.class_uid.is_none() {
            text::wrapped(&mut draft, app.as_deref(), received_at);
        }
        if let (None, Some((class, activity))) = (draft.class_uid, class) {
            draft.class_uid = Some(class);
            draft.activity_id = draft.activity_id.or(Some(activity));
        }
        draft
    }
}

/// How much of a value a column took.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Set {
    Whole,
    /// The column does not hold all that the value says.
    Partly,
    /// It is no value of the column.
    Refused,
}

fn set<'a>(draft: &mut Draft<'a>, read_as: As, json: &'a str) -> Set {
    fn put<T>(column: &mut Option<T>, value: Option<T>) -> Set {
        match value {
            Some(value) => {
                *column = Some(value);
                Set::Whole
            }
            None => Set::Refused,
        }
    }
    let text = || json::scalar(json).filter(|text| !text.is_empty() && text != "-");
    match read_as {
        As::Time => match json::scalar(json).and_then(|text| time::parse(&text)) {
            Some(time) => {
                draft.time = Some(time.micros);
                if time.exact { Set::Whole } else { Set::Partly }
            }
            None => Set::Refused,
        },
        As::ClassUid => put(&mut draft.class_uid, small(json)),
        As::ActivityId => put(&mut draft.activity_id, small(json)),
        As::Severity | As::Level => set_severity(draft, read_as, json),
        As::Host => put(&mut draft.host, text()),
        As::User => put(&mut draft.user, text()),
        As::SrcIp => put(&mut draft.src_ip, address(json)),
        As::DstIp => put(&mut draft.dst_ip, address(json)),
        As::SrcPort => put(&mut draft.src_port, port(json)),
        As::DstPort => put(&mut draft.dst_port, port(json)),
        As::SourceType => match text().filter(|text| text.len() <= 64) {
            Some(text) => {
                draft.source_type = text;
                Set::Whole
            }
            None => Set::Refused,
        },
        As::Message => put(&mut draft.message, json::scalar(json)),
        As::Repeat => match small(json).filter(|repeat| *repeat > 0) {
            Some(repeat) => {
                draft.repeat = repeat;
                Set::Whole
            }
            None => Set::Refused,
        },
    }
}

fn set_severity(draft: &mut Draft<'_>, read_as: As, json: &str) -> Set {
    let (severity, set) = match (json::integer(json), read_as) {
        (Some(id), As::Severity) => (severity::of_id(id), Set::Whole),
        (Some(level @ 0..=7), _) => (Some(severity::of_syslog(level as u8)), Set::Partly),
        (Some(level), _) => {
            let severity = match level {
                10..=30 => Some(1),
                40 => Some(3),
                50 => Some(4),
                60 => Some(6),
                _ => None,
            };
            (severity, Set::Partly)
        }
        (None, _) => (json::string(json).and_then(|name| severity::of_name(&name)), Set::Partly),
    };
    match severity {
        Some(severity) => {
            draft.severity_id = Some(severity);
            set
        }
        None => Set::Refused,
    }
}

/// An id of OCSF, which are at most six digits.
fn small(json: &str) -> Option<i32> {
    json::integer(json).filter(|id| (0..1_000_000).contains(id)).and_then(|id| i32::try_from(id).ok())
}

fn port(json: &str) -> Option<i32> {
    ip::port(&json::scalar(json)?)
}

fn address(json: &str) -> Option<Cow<'_, str>> {
    match json::string(json)? {
        Cow::Borrowed(text) => ip::canonical(text),
        Cow::Owned(text) => ip::canonical(&text).map(|ip| Cow::Owned(ip.into_owned())),
    }
}

/// OCSF class and activity of ECS' `event.category`, `event.type` or `event.action`, a string or an array.
fn class_of_category(json: &str) -> Option<(i32, i32)> {
    const CATEGORIES: &[(&str, (i32, i32))] = &[
        ("\"authentication\"", (3002, 1)),
        ("\"session\"", (3002, 0)),
        ("\"process\"", (1007, 0)),
        ("\"process_started\"", (1007, 1)),
        ("\"network\"", (4001, 0)),
        ("\"web\"", (4002, 0)),
    ];
    CATEGORIES.iter().find(|(name, _)| json.contains(name)).map(|(_, class)| *class)
}
