//! What the message of a known program says.

use std::borrow::Cow;

use schemas::Micros;

use crate::attributes::Attributes;
use crate::{access, auditd, dns, netfilter, pam, sshd, sudo};

/// What a message says beside its attributes; what is none it does not say.
#[derive(Debug, Default)]
pub(crate) struct Reading<'m> {
    pub source_type: Option<&'static str>,
    pub time: Option<Micros>,
    pub class_uid: Option<i32>,
    pub activity_id: Option<i32>,
    pub severity_id: Option<i32>,
    pub user: Option<Cow<'m, str>>,
    pub src_ip: Option<Cow<'m, str>>,
    pub src_port: Option<i32>,
    pub dst_ip: Option<Cow<'m, str>>,
    pub dst_port: Option<i32>,
    pub host: Option<Cow<'m, str>>,
}

impl<'m> Reading<'m> {
    /// A reading of that class and activity.
    pub fn of(class_uid: i32, activity_id: i32) -> Self {
        Self { class_uid: Some(class_uid), activity_id: Some(activity_id), ..Self::default() }
    }

    /// A reading that no longer borrows.
    pub fn into_owned<'b>(self) -> Reading<'b> {
        let owned = |text: Option<Cow<'m, str>>| text.map(|text| Cow::Owned(text.into_owned()));
        Reading {
            source_type: self.source_type,
            time: self.time,
            class_uid: self.class_uid,
            activity_id: self.activity_id,
            severity_id: self.severity_id,
            user: owned(self.user),
            src_ip: owned(self.src_ip),
            src_port: self.src_port,
            dst_ip: owned(self.dst_ip),
            dst_port: self.dst_port,
            host: owned(self.host),
        }
    }
}

/// OCSF classes this crate assigns by itself.
pub(crate) mod class {
    /// A process started or ended.
    pub const PROCESS: i32 = 1007;
    /// Someone logged on or off, or tried to.
    pub const AUTHENTICATION: i32 = 3002;
    /// A connection.
    pub const NETWORK: i32 = 4001;
    /// An HTTP request.
    pub const HTTP: i32 = 4002;
    /// A question to a DNS server.
    pub const DNS: i32 = 4003;
}

/// OCSF activities of [`class::AUTHENTICATION`].
pub(crate) const LOGON: i32 = 1;
/// See [`LOGON`].
pub(crate) const LOGOFF: i32 = 2;

/// OCSF activity of an HTTP method; none if it is no method.
pub(crate) fn http_activity(method: &str) -> Option<i32> {
    Some(match method {
        "CONNECT" => 1,
        "DELETE" => 2,
        "GET" => 3,
        "HEAD" => 4,
        "OPTIONS" => 5,
        "POST" => 6,
        "PUT" => 7,
        "TRACE" => 8,
        "PATCH" | "PROPFIND" | "PROPPATCH" | "MKCOL" | "COPY" | "MOVE" | "LOCK" | "UNLOCK" | "SEARCH"
        | "REPORT" | "DEBUG" | "TRACK" => 99,
        _ => return None,
    })
}

/// Reads a message of `app` and adds what it says to `attributes`; none, and nothing added, where neither
/// the program nor the message is known.
pub(crate) fn read<'m>(app: &str, message: &'m str, attributes: &mut Attributes) -> Option<Reading<'m>> {
    match app {
        "sshd" | "sshd-session" | "sshd-auth" => Some(sshd::read(message, attributes)),
        "sudo" => Some(sudo::read(message, attributes)),
        "named" | "dnsmasq" => Some(dns::read(app, message, attributes)),
        "kernel" => kernel(message, attributes),
        "audispd" | "audisp-syslog" | "auditd" | "audit" => auditd::read(message, attributes),
        // These name files and users, which may look like an access line; they write none.
        "clamd" | "freshclam" | "guacd" | "vsftpd" => {
            Some(pam::read(message, attributes).unwrap_or_default())
        }
        _ => {
            let reading = pam::read(message, attributes).or_else(|| access::read(message, attributes));
            match source_type(app) {
                Some(source_type) => {
                    Some(Reading { source_type: Some(source_type), ..reading.unwrap_or_default() })
                }
                None => reading,
            }
        }
    }
}

/// Reads a message of the kernel; the time since its start may stand before it: `[   12.345678] `.
fn kernel<'m>(message: &'m str, attributes: &mut Attributes) -> Option<Reading<'m>> {
    let message = match message.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((uptime, rest)) if uptime.trim().bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') => {
            rest.trim_start()
        }
        _ => message,
    };
    // A record is known by its start; the fields of a packet stand anywhere, also inside a record.
    auditd::read(message, attributes).or_else(|| netfilter::read(message, attributes))
}

/// Kind of source of programs whose messages have no reader of their own.
fn source_type(app: &str) -> Option<&'static str> {
    match app {
        "su" => Some("su"),
        "cron" | "CRON" | "crond" | "crontab" | "anacron" => Some("cron"),
        _ => None,
    }
}
