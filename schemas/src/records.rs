//! The records that travel through Kafka, field by field as in `avro/*.avsc`.

mod enriched;
mod incident;
mod raw;
mod signal;

pub use enriched::{Event, EventBatch, Finding, FindingBatch, Push, Reject, ScanActivity, Source, flags};
pub use incident::{EVIDENCE_EACH_END, Edit, EventRef, IncidentChange, MAX_ENTITIES, Window};
pub use raw::{RawBatch, RawBatchWriter, RawRecord, Run, RunHead};
pub use signal::{Pair, Signal, SignalBatch, Watermark};

use crate::framing::{self, Record, Versions};

/// Binds record types to the versions of their schemas, oldest first.
macro_rules! versions {
    ($($name:ident = $static:ident [$($file:literal),+];)+) => {
        $(
            static $static: Versions = Versions::new(|| {
                // The texts are part of this crate: that they parse is what its own tests check.
                framing::load(&[$(include_str!(concat!("../avro/", $file))),+]).unwrap_or_default()
            });
            impl<'a> Record<'a> for $name<'a> {
                fn versions() -> &'static Versions {
                    &$static
                }
            }
        )+
    };
}

versions! {
    RawBatch = RAW_BATCH ["RawBatch.v1.avsc"];
    EventBatch = EVENT_BATCH ["EventBatch.v1.avsc"];
    FindingBatch = FINDING_BATCH ["FindingBatch.v1.avsc"];
    SignalBatch = SIGNAL_BATCH ["SignalBatch.v1.avsc", "SignalBatch.v2.avsc"];
    Watermark = WATERMARK ["Watermark.v1.avsc"];
    IncidentChange = INCIDENT_CHANGE ["IncidentChange.v1.avsc", "IncidentChange.v2.avsc"];
}
