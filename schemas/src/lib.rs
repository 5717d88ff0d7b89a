//! Avro schemas, typed records, their codec and the SQL migrations of tidewatch.
//!
//! Every Kafka record is Avro with single-object framing ([`framing`]); its schemas are in `avro/`, every
//! version ever published among them. Reading borrows from the payload; nothing is allocated per string.

pub mod avro;
pub mod framing;
mod ids;
mod records;
pub mod start;

pub use avro::DecodeError;
pub use framing::{current_body, decode, decode_body, encode};
pub use ids::{
    INCIDENTS_TOPIC, KEYED_PARTITIONS, Micros, OrgId, OrgIdError, SIGNALS_TOPIC, Stream, event_uid,
    incident_id, partition_of,
};
pub use records::{
    EVIDENCE_EACH_END, Edit, Event, EventBatch, EventRef, Finding, FindingBatch, IncidentChange,
    MAX_ENTITIES, Pair, Push, RawBatch, RawBatchWriter, RawRecord, Reject, Run, RunHead, ScanActivity,
    Signal, SignalBatch, Source, Watermark, Window, flags,
};
