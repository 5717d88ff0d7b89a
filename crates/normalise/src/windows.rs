//! Windows events: flat JSON, nested Event/System/EventData, and Winlogbeat's `winlog`.
//!
//! Attributes carry the flat names that Sigma rules are written against, so here a field that fills a column
//! stays an attribute as well: the column does not tell which of several names it came from.

use std::borrow::Cow;

use crate::app::{LOGOFF, LOGON, class};
use crate::attributes::Attributes;
use crate::draft::Draft;
use crate::json::{self, Field};
use crate::{ip, severity, time};

/// How the fields of a Windows event lie in the JSON.
pub(crate) enum Shape {
    /// All in one object.
    Flat,
    /// In `Event`, below `System` and `EventData` or `UserData`.
    Nested,
}

/// The shape of a Windows event, none if it is another event.
pub(crate) fn shape(fields: &[Field<'_>]) -> Option<Shape> {
    let (mut id, mut source) = (false, false);
    for (name, json) in fields {
        match name.as_ref() {
            "EventID" => id = true,
            "Channel" | "SourceName" | "ProviderName" | "Provider_Name" => source = true,
            "Event" if json.starts_with('{') && json.contains("\"System\"") => return Some(Shape::Nested),
            _ => {}
        }
    }
    (id && source).then_some(Shape::Flat)
}

/// Reads a flat event.
pub(crate) fn flat(fields: Vec<Field<'_>>, line_bytes: usize) -> Draft<'_> {
    let mut event = Windows::new(line_bytes);
    for (name, json) in fields {
        event.field(name, json);
    }
    event.finish()
}

/// Reads a nested event; what stands beside `Event` stays an attribute.
pub(crate) fn nested(fields: Vec<Field<'_>>, line_bytes: usize) -> Draft<'_> {
    let mut event = Windows::new(line_bytes);
    for (name, json) in fields {
        if name != "Event" {
            event.field(name, json);
            continue;
        }
        for (part, json) in json::object(json).unwrap_or_default() {
            match part.as_ref() {
                "System" => event.system(json),
                "EventData" => event.data(json),
                "UserData" => event.user_data(json),
                "RenderingInfo" => event.rendering(json),
                // The XML name space.
                "#attributes" | "@xmlns" | "xmlns" => {}
                _ => event.field(part, json),
            }
        }
    }
    event.finish()
}

/// Adds Winlogbeat's object to an event whose other fields have been read.
pub(crate) fn winlog<'a>(mut draft: Draft<'a>, json: &'a str) -> Draft<'a> {
    let attributes = std::mem::take(&mut draft.attributes);
    let mut event = Windows {
        draft: Draft { attributes, ..Draft::new("windows", Attributes::default()) },
        ..Windows::new(0)
    };
    for (name, json) in json::object(json).unwrap_or_default() {
        match name.as_ref() {
            "event_id" => event.field(Cow::Borrowed("EventID"), json),
            "channel" => event.field(Cow::Borrowed("Channel"), json),
            "provider_name" => event.field(Cow::Borrowed("Provider_Name"), json),
            "computer_name" => event.field(Cow::Borrowed("Computer"), json),
            "record_id" => event.field(Cow::Borrowed("EventRecordID"), json),
            "event_data" | "user_data" => event.data(json),
            _ => json::keep(&mut event.draft.attributes, &format!("winlog.{name}"), json),
        }
    }
    let read = event.finish();
    Draft {
        time: draft.time.or(read.time),
        class_uid: draft.class_uid.or(read.class_uid),
        activity_id: draft.activity_id.or(read.activity_id),
        severity_id: draft.severity_id.or(read.severity_id),
        host: read.host.or(draft.host),
        user: read.user.or(draft.user),
        src_ip: read.src_ip.or(draft.src_ip),
        dst_ip: read.dst_ip.or(draft.dst_ip),
        src_port: read.src_port.or(draft.src_port),
        dst_port: read.dst_port.or(draft.dst_port),
        source_type: read.source_type,
        message: draft.message,
        repeat: draft.repeat,
        attributes: read.attributes,
    }
}

/// Names of accounts in an event.
#[derive(Default)]
struct Accounts<'a> {
    user: Option<Cow<'a, str>>,
    target: Option<Cow<'a, str>>,
    subject: Option<Cow<'a, str>>,
    account: Option<Cow<'a, str>>,
}

struct Windows<'a> {
    draft: Draft<'a>,
    id: Option<i64>,
    channel: &'a str,
    provider: &'a str,
    accounts: Accounts<'a>,
    /// Rank of the name that gave the time, and the field itself.
    time: Option<(u8, Cow<'a, str>, &'a str)>,
    host_rank: u8,
    /// Fields that Sigma's process rules ask for under Sysmon's names, for the Security log's.
    image: Option<&'a str>,
    parent_image: Option<&'a str>,
}

/// An address, account or host that is there.
fn text(json: &str) -> Option<Cow<'_, str>> {
    json::scalar(json).filter(|text| !matches!(text.as_ref(), "-" | ""))
}

fn address(json: &str) -> Option<Cow<'_, str>> {
    let text = text(json)?;
    ip::canonical(&text).map(|ip| Cow::Owned(ip.into_owned()))
}

fn port(json: &str) -> Option<i32> {
    // 0 is Windows' way to say none.
    json::scalar(json).and_then(|text| ip::port(&text)).filter(|port| *port != 0)
}

impl<'a> Windows<'a> {
    fn new(line_bytes: usize) -> Self {
        Self {
            draft: Draft::new("windows", Attributes::for_line(line_bytes)),
            id: None,
            channel: "",
            provider: "",
            accounts: Accounts::default(),
            time: None,
            host_rank: u8::MAX,
            image: None,
            parent_image: None,
        }
    }

    fn field(&mut self, name: Cow<'a, str>, json: &'a str) {
        let draft = &mut self.draft;
        match name.as_ref() {
            "TimeCreated" | "TimeCreated_SystemTime" | "SystemTime" => return self.stamp(0, name, json),
            "UtcTime" => return self.stamp(1, name, json),
            "@timestamp" | "time" | "timestamp" => return self.stamp(2, name, json),
            "EventTime" => return self.stamp(3, name, json),
            "Message" | "message" if draft.message.is_none() => {
                draft.message = json::string(json);
                if draft.message.is_some() {
                    return;
                }
            }
            "EventID" => self.id = json::integer(json),
            "Channel" => self.channel = json,
            "Provider_Name" | "ProviderName" | "SourceName" => self.provider = json,
            "Level" => draft.severity_id = json::integer(json).and_then(severity::of_windows),
            "Computer" | "Hostname" | "MachineName" => self.host(0, json),
            "host" | "host.name" | "hostname" => self.host(1, json),
            "User" | "user" => self.accounts.user = text(json),
            "TargetUserName" => self.accounts.target = text(json),
            "SubjectUserName" => self.accounts.subject = text(json),
            "AccountName" => self.accounts.account = text(json),
            "SourceIp" | "IpAddress" | "SourceAddress" | "ClientAddress" => draft.src_ip = address(json),
            "DestinationIp" | "DestAddress" => draft.dst_ip = address(json),
            "SourcePort" | "IpPort" => draft.src_port = port(json),
            "DestinationPort" | "DestPort" => draft.dst_port = port(json),
            "NewProcessName" => self.image = Some(json),
            "ParentProcessName" => self.parent_image = Some(json),
            _ => {}
        }
        json::keep(&mut self.draft.attributes, &name, json);
    }

    /// Takes the time from the best name that has one; the others stay attributes.
    fn stamp(&mut self, rank: u8, name: Cow<'a, str>, json: &'a str) {
        let stated = json::scalar(json).and_then(|text| time::parse(&text));
        let better = self.time.as_ref().is_none_or(|(before, _, _)| rank < *before);
        let Some(stated) = stated.filter(|_| better) else {
            return json::keep(&mut self.draft.attributes, &name, json);
        };
        self.draft.time = Some(stated.micros);
        let attributes = &mut self.draft.attributes;
        if !stated.exact {
            json::keep(attributes, &name, json);
        }
        if let Some((_, name, json)) = self.time.replace((rank, name, json)) {
            json::keep(attributes, &name, json);
        }
    }

    fn host(&mut self, rank: u8, json: &'a str) {
        if rank < self.host_rank
            && let Some(host) = text(json)
        {
            self.draft.host = Some(host);
            self.host_rank = rank;
        }
    }

    /// `System`: a field with fields of its own (XML attributes) becomes `Field_Inner`, its text `Field`.
    fn system(&mut self, json: &'a str) {
        for (name, json) in json::object(json).unwrap_or_default() {
            match json.as_bytes().first() {
                Some(b'{') => self.xml(&name, json),
                Some(b'n') => {}
                _ => self.field(name, json),
            }
        }
    }

    fn xml(&mut self, outer: &str, json: &'a str) {
        for (inner, json) in json::object(json).unwrap_or_default() {
            match inner.as_ref() {
                "#attributes" | "_attributes" | "@attributes" | "$" => self.xml(outer, json),
                "#text" | "_text" | "Value" => self.field(Cow::Owned(outer.to_owned()), json),
                _ => {
                    let inner = inner.trim_start_matches('@');
                    self.field(Cow::Owned(format!("{outer}_{inner}")), json);
                }
            }
        }
    }

    /// `EventData`: an object of fields, or `Data` elements with a `Name`.
    fn data(&mut self, json: &'a str) {
        for (name, json) in json::object(json).unwrap_or_default() {
            match json.as_bytes().first() {
                Some(b'[') if name == "Data" => self.elements(json),
                Some(b'{') if name != "Data" => self.xml(&name, json),
                Some(b'{') => self.element(json),
                _ => self.field(name, json),
            }
        }
    }

    fn elements(&mut self, json: &'a str) {
        let elements = serde_json::from_str::<Vec<&serde_json::value::RawValue>>(json).unwrap_or_default();
        if elements.iter().any(|element| !element.get().starts_with('{')) {
            return json::keep(&mut self.draft.attributes, "Data", json);
        }
        for element in elements {
            self.element(element.get());
        }
    }

    fn element(&mut self, json: &'a str) {
        let (mut name, mut value) = (None, None);
        for (inner, json) in json::object(json).unwrap_or_default() {
            match inner.as_ref() {
                "Name" | "@Name" | "_Name" => name = json::string(json),
                "#text" | "_text" | "Value" | "value" | "content" => value = Some(json),
                "#attributes" | "_attributes" | "$" => {
                    let attributes = json::object(json).unwrap_or_default();
                    let named = attributes.into_iter().find(|(inner, _)| inner == "Name");
                    name = named.and_then(|(_, json)| json::string(json));
                }
                _ => {}
            }
        }
        match (name, value) {
            (Some(name), Some(json)) => self.field(name, json),
            (Some(name), None) => self.field(name, "null"),
            (None, _) => json::keep(&mut self.draft.attributes, "Data", json),
        }
    }

    /// `UserData`: one element, whose fields are the event's.
    fn user_data(&mut self, json: &'a str) {
        for (name, json) in json::object(json).unwrap_or_default() {
            if json.starts_with('{') { self.data(json) } else { self.field(name, json) }
        }
    }

    fn rendering(&mut self, json: &'a str) {
        for (name, json) in json::object(json).unwrap_or_default() {
            if name == "Message" {
                self.field(name, json);
            } else {
                json::keep(&mut self.draft.attributes, &format!("RenderingInfo_{name}"), json);
            }
        }
    }

    fn finish(mut self) -> Draft<'a> {
        let sysmon = self.channel.contains("Sysmon") || self.provider.contains("Sysmon");
        let security = self.channel == "\"Security\"" || self.provider.contains("Security-Auditing");
        let kind = match self.id {
            Some(id) if sysmon => sysmon_class(id),
            Some(id) if security => security_class(id),
            _ => None,
        };
        let draft = &mut self.draft;
        if let Some((class, activity)) = kind {
            draft.class_uid = Some(class);
            draft.activity_id = Some(activity);
        }
        if security && self.id == Some(4688) {
            for (name, json) in [("Image", self.image), ("ParentImage", self.parent_image)] {
                if let Some(json) = json {
                    draft.attributes.raw(name, json);
                }
            }
        }
        let Accounts { user, target, subject, account } = self.accounts;
        // A logon concerns who logs on; anything else concerns who does it.
        draft.user = match kind {
            Some((class::AUTHENTICATION, _)) => target.or(user).or(subject),
            _ => user.or(subject).or(target),
        }
        .or(account);
        self.draft
    }
}

/// Class and activity of a Sysmon event.
fn sysmon_class(id: i64) -> Option<(i32, i32)> {
    Some(match id {
        1 => (class::PROCESS, 1),
        5 => (class::PROCESS, 2),
        10 => (class::PROCESS, 3),
        8 => (class::PROCESS, 4),
        3 => (class::NETWORK, 1),
        _ => return None,
    })
}

/// Class and activity of an event of the Security log.
fn security_class(id: i64) -> Option<(i32, i32)> {
    Some(match id {
        4688 => (class::PROCESS, 1),
        4689 => (class::PROCESS, 2),
        4624 | 4625 | 4648 | 4768 | 4771 | 4776 | 4778 => (class::AUTHENTICATION, LOGON),
        4769 => (class::AUTHENTICATION, 4),
        4634 | 4647 | 4779 => (class::AUTHENTICATION, LOGOFF),
        5156 | 5158 => (class::NETWORK, 1),
        5157 | 5152 => (class::NETWORK, 5),
        _ => return None,
    })
}
