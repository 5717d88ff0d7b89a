//! What a quarantine row keeps of something that could be understood but not stored: a JSON object with the record's own
//! field names, times in microseconds since 1970, which ingest takes in again.

use std::borrow::Cow;

use schemas::{Event, Finding, ScanActivity};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// The JSON of an event.
pub fn event(event: &Event<'_>) -> Vec<u8> {
    let fields = json!({
        "time": event.time.0,
        "received_at": event.received_at.0,
        "org": event.org,
        "class_uid": event.class_uid,
        "activity_id": event.activity_id,
        "severity_id": event.severity_id,
        "host": event.host,
        "user": event.user,
        "src_ip": event.src_ip,
        "dst_ip": event.dst_ip,
        "src_port": event.src_port,
        "dst_port": event.dst_port,
        "source_type": event.source_type,
        "message": event.message,
        "repeat": event.repeat,
        "labels": event.labels,
        "flags": event.flags,
    });
    object(fields, event.attributes.as_ref())
}

/// The JSON of a finding.
pub fn finding(finding: &Finding<'_>) -> Vec<u8> {
    let fields = json!({
        "time": finding.time.0,
        "received_at": finding.received_at.0,
        "org": finding.org,
        "scan_id": finding.scan_id,
        "uid": finding.uid,
        "scan_type": finding.scan_type,
        "class_uid": finding.class_uid,
        "severity_id": finding.severity_id,
        "kind": finding.kind,
        "title": finding.title,
        "resource": finding.resource,
        "risk": finding.risk,
        "host": finding.host,
        "user": finding.user,
        "message": finding.message,
        "labels": finding.labels,
        "flags": finding.flags,
    });
    object(fields, finding.attributes.as_ref())
}

/// The JSON of a scan's activity.
pub fn scan(scan: &ScanActivity<'_>) -> Vec<u8> {
    let fields = json!({
        "time": scan.time.0,
        "received_at": scan.received_at.0,
        "org": scan.org,
        "scan_id": scan.scan_id,
        "scan_type": scan.scan_type,
        "sequence": scan.sequence,
        "state": scan.state,
        "progress": scan.progress,
        "queue_position": scan.queue_position,
        "duration_ms": scan.duration_ms,
        "target": scan.target,
        "message": scan.message,
    });
    object(fields, scan.attributes.as_ref())
}

/// Fields that have a value, and the attributes as they are where they are JSON, else as a string.
fn object(fields: Value, attributes: Option<&Cow<'_, str>>) -> Vec<u8> {
    let mut fields = match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    fields.retain(|_, value| !value.is_null());
    let raw = attributes.map(|text| serde_json::from_str::<&RawValue>(text).map_err(|_| text));
    if let Some(Err(text)) = raw {
        fields.insert("attributes".to_owned(), Value::String(text.to_string()));
    }
    let mut json = serde_json::to_vec(&fields).unwrap_or_default();
    if let Some(Ok(raw)) = raw
        && json.pop().is_some()
    {
        json.extend_from_slice(b",\"attributes\":");
        json.extend_from_slice(raw.get().as_bytes());
        json.push(b'}');
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_stay_as_they_are_even_where_nothing_can_read_them() {
        let with = |attributes: &'static str| {
            String::from_utf8(object(json!({"time": 1, "host": null}), Some(&Cow::Borrowed(attributes))))
                .unwrap()
        };
        assert_eq!(with(r#"{"a":"\ud800\u0000"}"#), r#"{"time":1,"attributes":{"a":"\ud800\u0000"}}"#);
        assert_eq!(with("{\"a\""), r#"{"attributes":"{\"a\"","time":1}"#);
        assert_eq!(object(json!({"time": 1}), None), br#"{"time":1}"#);
    }
}
