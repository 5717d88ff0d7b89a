//! OCSF severities of what other scales say.

/// OCSF severity of a syslog severity (RFC 5424, 6.2.1).
pub(crate) fn of_syslog(severity: u8) -> i32 {
    match severity {
        0 => 6,
        1 | 2 => 5,
        3 => 4,
        4 => 3,
        5 => 2,
        _ => 1,
    }
}

/// OCSF severity of a Windows event level.
pub(crate) fn of_windows(level: i64) -> Option<i32> {
    match level {
        1 => Some(5),
        2 => Some(4),
        3 => Some(3),
        0 | 4 | 5 => Some(1),
        _ => None,
    }
}

/// OCSF severity of a level's name in any case; the name says more than the number, so it is kept beside it.
pub(crate) fn of_name(name: &str) -> Option<i32> {
    const NAMES: &[(&str, i32)] = &[
        ("unknown", 0),
        ("trace", 1),
        ("verbose", 1),
        ("debug", 1),
        ("info", 1),
        ("information", 1),
        ("informational", 1),
        ("notice", 2),
        ("low", 2),
        ("warn", 3),
        ("warning", 3),
        ("medium", 3),
        ("moderate", 3),
        ("err", 4),
        ("error", 4),
        ("high", 4),
        ("important", 4),
        ("alert", 5),
        ("crit", 5),
        ("critical", 5),
        ("severe", 5),
        ("emerg", 6),
        ("emergency", 6),
        ("panic", 6),
        ("fatal", 6),
        ("other", 99),
    ];
    NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, severity)| *severity)
}

/// An OCSF severity id as such.
pub(crate) fn of_id(id: i64) -> Option<i32> {
    matches!(id, 0..=6 | 99).then_some(id as i32)
}

/// Name of a syslog severity.
pub(crate) fn syslog_name(severity: u8) -> &'static str {
    match severity {
        0 => "emerg",
        1 => "alert",
        2 => "crit",
        3 => "err",
        4 => "warning",
        5 => "notice",
        6 => "info",
        _ => "debug",
    }
}

/// Name of a syslog facility.
pub(crate) fn facility_name(facility: u8) -> &'static str {
    const NAMES: [&str; 24] = [
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
        "ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5",
        "local6", "local7",
    ];
    NAMES.get(usize::from(facility)).copied().unwrap_or("unknown")
}
