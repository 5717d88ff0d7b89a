//! Under which names JSON events have their fields: Event's own, ECS, OCSF, journald and other common ones.

use std::sync::LazyLock;

use ahash::AHashMap;

/// What a field is read as. Several can lead to the same column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum As {
    Time,
    ClassUid,
    ActivityId,
    /// An OCSF id, or a level's name.
    Severity,
    /// A level's name, or a number: 0 to 7 on the scale of syslog, 10 to 60 on that of pino and bunyan.
    Level,
    Host,
    User,
    SrcIp,
    DstIp,
    SrcPort,
    DstPort,
    SourceType,
    Message,
    Repeat,
}

impl As {
    /// Number of the column, below [`COLUMNS`].
    pub fn column(self) -> usize {
        match self {
            As::Time => 0,
            As::ClassUid => 1,
            As::ActivityId => 2,
            As::Severity | As::Level => 3,
            As::Host => 4,
            As::User => 5,
            As::SrcIp => 6,
            As::DstIp => 7,
            As::SrcPort => 8,
            As::DstPort => 9,
            As::SourceType => 10,
            As::Message => 11,
            As::Repeat => 12,
        }
    }
}

/// Columns that fields lead to.
pub(crate) const COLUMNS: usize = 13;

/// What is known of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Fills a column; of several names for the same column the one of the lowest rank does, of equal ones the
    /// first in the record. The others stay attributes.
    Column(As, u8),
    /// Stays an attribute and names the program that wrote the message.
    App,
    /// Stays an attribute and tells the class.
    Category,
    /// Stays an attribute; an HTTP method there makes it an HTTP event.
    HttpMethod,
    /// Stays an attribute.
    Nothing,
}

/// A name and what is known of it.
#[derive(Debug)]
pub(crate) struct Known {
    pub name: &'static str,
    pub used: Use,
    /// An object under this name is looked into; its fields are then named `outer.inner`.
    pub open: bool,
}

const fn column(name: &'static str, read_as: As, rank: u8) -> Known {
    Known { name, used: Use::Column(read_as, rank), open: false }
}
const fn open_column(name: &'static str, read_as: As, rank: u8) -> Known {
    Known { name, used: Use::Column(read_as, rank), open: true }
}
const fn used(name: &'static str, used: Use) -> Known {
    Known { name, used, open: false }
}
const fn open(name: &'static str) -> Known {
    Known { name, used: Use::Nothing, open: true }
}

/// Every name that is known. docs/formats.md shows the same.
pub(crate) const NAMES: &[Known] = &[
    column("time", As::Time, 0),
    column("@timestamp", As::Time, 1),
    column("timestamp", As::Time, 1),
    column("_SOURCE_REALTIME_TIMESTAMP", As::Time, 1),
    column("__REALTIME_TIMESTAMP", As::Time, 2),
    column("eventTime", As::Time, 2),
    column("published", As::Time, 2),
    column("CreationTime", As::Time, 2),
    column("requestReceivedTimestamp", As::Time, 2),
    column("ts", As::Time, 2),
    column("datetime", As::Time, 3),
    column("date", As::Time, 4),
    column("class_uid", As::ClassUid, 0),
    column("activity_id", As::ActivityId, 0),
    column("severity_id", As::Severity, 0),
    column("severity", As::Severity, 1),
    column("level", As::Level, 2),
    column("log.level", As::Level, 2),
    column("PRIORITY", As::Level, 2),
    open_column("host", As::Host, 0),
    column("host.name", As::Host, 0),
    column("hostname", As::Host, 1),
    column("host.hostname", As::Host, 1),
    column("Hostname", As::Host, 1),
    column("_HOSTNAME", As::Host, 1),
    column("device.hostname", As::Host, 1),
    column("computer", As::Host, 2),
    column("Computer", As::Host, 2),
    column("device.name", As::Host, 2),
    column("agent.hostname", As::Host, 4),
    column("agent.name", As::Host, 5),
    open_column("user", As::User, 0),
    column("user.name", As::User, 0),
    column("username", As::User, 1),
    column("user_name", As::User, 1),
    column("userName", As::User, 1),
    column("actor.user.name", As::User, 2),
    column("source.user.name", As::User, 2),
    column("userIdentity.userName", As::User, 2),
    column("user.username", As::User, 1),
    column("actor.alternateId", As::User, 2),
    column("userPrincipalName", As::User, 2),
    column("UserId", As::User, 3),
    open_column("actor", As::User, 3),
    column("src_ip", As::SrcIp, 0),
    column("source.ip", As::SrcIp, 0),
    column("src_endpoint.ip", As::SrcIp, 0),
    column("client.ip", As::SrcIp, 1),
    column("source.address", As::SrcIp, 2),
    column("client.address", As::SrcIp, 2),
    column("srcip", As::SrcIp, 1),
    column("source_ip", As::SrcIp, 1),
    column("src", As::SrcIp, 2),
    column("client_ip", As::SrcIp, 1),
    column("clientip", As::SrcIp, 1),
    column("c-ip", As::SrcIp, 1),
    column("remote_addr", As::SrcIp, 1),
    column("remote_ip", As::SrcIp, 1),
    column("sourceIPAddress", As::SrcIp, 1),
    column("client.ipAddress", As::SrcIp, 1),
    column("callerIpAddress", As::SrcIp, 1),
    column("ClientIP", As::SrcIp, 1),
    column("actor_ip", As::SrcIp, 1),
    column("id.orig_h", As::SrcIp, 1),
    column("dst_ip", As::DstIp, 0),
    column("destination.ip", As::DstIp, 0),
    column("dst_endpoint.ip", As::DstIp, 0),
    column("server.ip", As::DstIp, 1),
    column("destination.address", As::DstIp, 2),
    column("server.address", As::DstIp, 2),
    column("dstip", As::DstIp, 1),
    column("dest_ip", As::DstIp, 1),
    column("destination_ip", As::DstIp, 1),
    column("dst", As::DstIp, 2),
    column("s-ip", As::DstIp, 1),
    column("id.resp_h", As::DstIp, 1),
    column("src_port", As::SrcPort, 0),
    column("source.port", As::SrcPort, 0),
    column("src_endpoint.port", As::SrcPort, 0),
    column("client.port", As::SrcPort, 1),
    column("srcport", As::SrcPort, 1),
    column("source_port", As::SrcPort, 1),
    column("sport", As::SrcPort, 1),
    column("spt", As::SrcPort, 1),
    column("id.orig_p", As::SrcPort, 1),
    column("dst_port", As::DstPort, 0),
    column("destination.port", As::DstPort, 0),
    column("dst_endpoint.port", As::DstPort, 0),
    column("server.port", As::DstPort, 1),
    column("dstport", As::DstPort, 1),
    column("dest_port", As::DstPort, 1),
    column("destination_port", As::DstPort, 1),
    column("dport", As::DstPort, 1),
    column("dpt", As::DstPort, 1),
    column("id.resp_p", As::DstPort, 1),
    column("source_type", As::SourceType, 0),
    column("sourcetype", As::SourceType, 1),
    column("message", As::Message, 0),
    column("MESSAGE", As::Message, 0),
    column("msg", As::Message, 1),
    column("short_message", As::Message, 1),
    open_column("log", As::Message, 2),
    column("body", As::Message, 2),
    column("event.original", As::Message, 3),
    column("repeat", As::Repeat, 0),
    used("SYSLOG_IDENTIFIER", Use::App),
    used("app", Use::App),
    used("appname", Use::App),
    used("app_name", Use::App),
    used("app-name", Use::App),
    used("ident", Use::App),
    used("program", Use::App),
    used("programname", Use::App),
    used("process.name", Use::App),
    used("log.syslog.appname", Use::App),
    used("event.category", Use::Category),
    used("event.type", Use::Category),
    used("event.action", Use::Category),
    used("http.request.method", Use::HttpMethod),
    used("http_request.http_method", Use::HttpMethod),
    used("http_method", Use::HttpMethod),
    used("request_method", Use::HttpMethod),
    used("cs-method", Use::HttpMethod),
    used("method", Use::HttpMethod),
    open("actor.user"),
    open("agent"),
    open("client"),
    open("destination"),
    open("device"),
    open("dns"),
    open("dns.question"),
    open("dst_endpoint"),
    open("event"),
    open("file"),
    open("file.hash"),
    open("http"),
    open("http.request"),
    open("http.request.body"),
    open("http.response"),
    open("http.response.body"),
    open("http_request"),
    open("http_request.url"),
    open("id"),
    open("log.file"),
    open("log.syslog"),
    open("process"),
    open("process.hash"),
    open("process.parent"),
    open("server"),
    open("source"),
    open("source.user"),
    open("src_endpoint"),
    open("url"),
    open("userIdentity"),
    open("user_agent"),
];

static INDEX: LazyLock<AHashMap<&'static str, &'static Known>> =
    LazyLock::new(|| NAMES.iter().map(|known| (known.name, known)).collect());

/// What is known of a name.
pub(crate) fn known(name: &str) -> Option<&'static Known> {
    INDEX.get(name).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_stands_once_and_every_path_is_open() {
        assert_eq!(INDEX.len(), NAMES.len());
        for known in NAMES {
            if let Use::Column(read_as, _) = known.used {
                assert!(read_as.column() < COLUMNS);
            }
            for (at, _) in known.name.match_indices('.') {
                let outer = &known.name[..at];
                assert!(INDEX.get(outer).is_some_and(|outer| outer.open), "{outer} of {}", known.name);
            }
        }
    }
}
