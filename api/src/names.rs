//! Numbers by name.

use schemas::flags;

/// OCSF severities that have an order, least first; the number is the place.
const SEVERITIES: [&str; 7] = ["unknown", "informational", "low", "medium", "high", "critical", "fatal"];

/// The largest severity that has an order; 99 (other) has none.
pub(crate) const MAX_SEVERITY: i32 = 6;

const FLAGS: [(i32, &str); 6] = [
    (flags::TIME_CLAMPED, "time_clamped"),
    (flags::TIME_ASSUMED, "time_assumed"),
    (flags::INVALID_UTF8, "invalid_utf8"),
    (flags::THREAT, "threat"),
    (flags::BACKFILL, "backfill"),
    (flags::STATE_CUT, "state_cut"),
];

/// Where an incident may be in its life.
pub(crate) const STATUSES: &[&str] = &["open", "acknowledged", "resolved", "false_positive"];

/// What a scan may be doing.
pub(crate) const SCAN_STATES: &[&str] = &["queued", "running", "completed", "failed", "cancelled"];

/// What may be scanned.
pub(crate) const SCAN_TYPES: &[&str] = &["code", "document", "database", "image", "website", "ai_model"];

/// The name of an OCSF severity.
pub(crate) fn severity(id: i32) -> &'static str {
    match usize::try_from(id).ok().and_then(|id| SEVERITIES.get(id)) {
        Some(name) => name,
        None if id == 99 => "other",
        None => "unknown",
    }
}

/// The number of a severity given by name or number.
pub(crate) fn severity_id(text: &str) -> Option<i32> {
    let by_name = SEVERITIES.iter().position(|name| *name == text).and_then(|id| i32::try_from(id).ok());
    by_name.or_else(|| text.parse().ok().filter(|id| (0..=MAX_SEVERITY).contains(id)))
}

/// The names of the bits that are set.
pub(crate) fn flag_names(flags: i32) -> Vec<&'static str> {
    FLAGS.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severities_are_names_or_numbers() {
        for (text, id) in
            [("unknown", Some(0)), ("fatal", Some(6)), ("3", Some(3)), ("7", None), ("HIGH", None)]
        {
            assert_eq!(severity_id(text), id, "{text}");
        }
        assert_eq!(
            [severity(0), severity(5), severity(99), severity(-1)],
            ["unknown", "critical", "other", "unknown"]
        );
    }

    #[test]
    fn flags_are_named() {
        assert_eq!(flag_names(0), [""; 0]);
        assert_eq!(flag_names(flags::TIME_ASSUMED | flags::THREAT), ["time_assumed", "threat"]);
    }
}
