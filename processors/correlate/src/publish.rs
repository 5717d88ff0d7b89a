//! Incident changes, encoded for their partition of `incidents`.

use schemas::{INCIDENTS_TOPIC, IncidentChange, KEYED_PARTITIONS, partition_of};

/// A record of `incidents`, ready to send.
#[derive(Debug)]
pub struct Encoded {
    /// Its partition: all changes of an incident are in one, in order.
    pub partition: i32,
    /// `org/uuid`.
    pub key: String,
    /// A framed [`IncidentChange`].
    pub payload: Vec<u8>,
    /// This incident goes on as another.
    pub merged: bool,
}

/// Encodes a change.
pub fn encode(change: &IncidentChange<'_>) -> Encoded {
    let mut payload = Vec::with_capacity(2048);
    schemas::encode(change, &mut payload);
    let parts: [&[u8]; 2] = [change.org.as_bytes(), change.incident_id.as_bytes()];
    Encoded {
        partition: partition_of(&parts, KEYED_PARTITIONS),
        key: format!("{}/{}", change.org, change.incident_id),
        payload,
        merged: change.merged_into.is_some(),
    }
}

/// Name of the topic, without the prefix.
pub const TOPIC: &str = INCIDENTS_TOPIC;
