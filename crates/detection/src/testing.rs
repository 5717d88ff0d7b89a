//! What several of the crate's own tests begin with.

use schemas::{Event, Micros};

/// An event of the org `demo` that says nothing.
pub(crate) fn plain_event() -> Event<'static> {
    Event {
        index: 0,
        time: Micros(0),
        received_at: Micros(0),
        org: "demo".into(),
        class_uid: 0,
        activity_id: 0,
        severity_id: 0,
        host: None,
        user: None,
        src_ip: None,
        dst_ip: None,
        src_port: None,
        dst_port: None,
        source_type: "".into(),
        message: None,
        repeat: 1,
        labels: vec![],
        attributes: None,
        flags: 0,
        event_uid: None,
    }
}

/// An event of a web server with these attributes.
pub(crate) fn web_access(attributes: String) -> Event<'static> {
    Event {
        class_uid: 4002,
        source_type: "web_access".into(),
        attributes: Some(attributes.into()),
        ..plain_event()
    }
}
