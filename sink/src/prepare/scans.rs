//! Scan activity: checked, and merged within a batch so that a scan is written once a transaction.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemas::{Micros, ScanActivity};
use serde::Serialize;
use serde_json::Value;

use crate::encode::{Refusal, check_json, time};

/// Longest scan id in bytes. It is a part of a primary key, and an index entry must fit a third of a page.
const MAX_SCAN_ID: usize = 512;
const STATES: [&str; 5] = ["queued", "running", "completed", "failed", "cancelled"];

/// A row of `scans`, as `sink_commit` takes it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScanRow {
    org: String,
    scan_id: String,
    scan_type: String,
    sequence: i64,
    state: String,
    progress: Option<i32>,
    queue_position: Option<i32>,
    duration_ms: Option<i64>,
    target: Option<String>,
    message: Option<String>,
    attributes: Option<Value>,
    started_at: String,
    time: String,
    /// Where its change of state is counted.
    slot: i32,
    #[serde(skip)]
    at: Micros,
    #[serde(skip)]
    first: Micros,
}

impl ScanRow {
    fn new(scan: &ScanActivity<'_>, slot: i32) -> Result<Self, Refusal> {
        let owned = |field, text: &str| match text.contains('\0') {
            true => Err(Refusal::Nul(field)),
            false => Ok(text.to_owned()),
        };
        let owned_or_null = |field, text: &Option<Cow<'_, str>>| match text {
            Some(text) => owned(field, text).map(Some),
            None => Ok(None),
        };
        if !STATES.contains(&&*scan.state) {
            return Err(Refusal::Scan(format!("state is none of {}: {}", STATES.join(", "), scan.state)));
        }
        if scan.scan_id.is_empty() || scan.scan_id.len() > MAX_SCAN_ID {
            return Err(Refusal::Scan(format!(
                "scan_id is not 1 to {MAX_SCAN_ID} bytes long: {}",
                scan.scan_id.len()
            )));
        }
        if let Some(progress) = scan.progress.filter(|progress| !(0..=100).contains(progress)) {
            return Err(Refusal::Scan(format!("progress is not 0 to 100: {progress}")));
        }
        // JSON carries times to the server as text, which has years of four digits.
        if !(0..253_402_300_800_000_000).contains(&scan.time.0) {
            return Err(Refusal::TimeRange { field: "time", micros: scan.time.0 });
        }
        let attributes = match &scan.attributes {
            None => None,
            Some(text) => {
                check_json(text)?;
                Some(serde_json::from_str(text).map_err(|error| Refusal::Json(error.to_string()))?)
            }
        };
        let time = time::to_text(scan.time);
        Ok(Self {
            org: scan.org.clone().into_owned(),
            scan_id: owned("scan_id", &scan.scan_id)?,
            scan_type: owned("scan_type", &scan.scan_type)?,
            sequence: scan.sequence,
            state: scan.state.clone().into_owned(),
            progress: scan.progress,
            queue_position: scan.queue_position,
            duration_ms: scan.duration_ms,
            target: owned_or_null("target", &scan.target)?,
            message: owned_or_null("message", &scan.message)?,
            attributes,
            started_at: time.clone(),
            time,
            slot,
            at: scan.time,
            first: scan.time,
        })
    }

    /// The later of the two by (sequence, time), begun when the earlier one was; as `sink_commit` merges.
    fn merge(self, other: ScanRow) -> ScanRow {
        let (older, newer) =
            if (other.sequence, other.at) > (self.sequence, self.at) { (self, other) } else { (other, self) };
        let (first, started_at) = if older.first < newer.first {
            (older.first, older.started_at)
        } else {
            (newer.first, newer.started_at)
        };
        ScanRow { first, started_at, target: newer.target.or(older.target), ..newer }
    }
}

/// Scans of a batch, each once.
#[derive(Debug, Default)]
pub struct Scans {
    rows: BTreeMap<(String, String), ScanRow>,
}

impl Scans {
    /// Merges an activity in.
    ///
    /// # Errors
    /// One that cannot be stored.
    pub fn add(&mut self, scan: &ScanActivity<'_>, slot: i32) -> Result<(), Refusal> {
        let row = ScanRow::new(scan, slot)?;
        let key = (row.org.clone(), row.scan_id.clone());
        let merged = match self.rows.remove(&key) {
            Some(earlier) => earlier.merge(row),
            None => row,
        };
        self.rows.insert(key, merged);
        Ok(())
    }

    /// In key order.
    pub fn rows(&self) -> Vec<&ScanRow> {
        self.rows.values().collect()
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        self.rows.clear();
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn scan(sequence: i64, state: &'static str) -> ScanActivity<'static> {
        ScanActivity {
            index: 0,
            time: Micros(1_000_000 * sequence),
            received_at: Micros(0),
            org: "demo".into(),
            scan_id: "s1".into(),
            scan_type: "code".into(),
            sequence,
            state: state.into(),
            progress: None,
            queue_position: None,
            duration_ms: None,
            target: None,
            message: None,
            attributes: None,
        }
    }

    #[test]
    fn the_highest_sequence_holds_in_whatever_order_they_come() {
        let states = ["queued", "running", "completed"];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
            let mut scans = Scans::default();
            for at in order {
                scans.add(&scan(at + 1, states[at as usize]), 3).unwrap();
            }
            let rows = scans.rows();
            assert_eq!((rows.len(), rows[0].state.as_str()), (1, "completed"));
            assert_eq!(
                (rows[0].started_at.as_str(), rows[0].time.as_str()),
                ("1970-01-01T00:00:01Z", "1970-01-01T00:00:03Z")
            );
        }
    }

    #[rstest]
    #[case(ScanActivity { state: "paused".into(), ..scan(1, "queued") }, "invalid_scan")]
    #[case(ScanActivity { progress: Some(101), ..scan(1, "queued") }, "invalid_scan")]
    #[case(ScanActivity { scan_id: "x".repeat(513).into(), ..scan(1, "queued") }, "invalid_scan")]
    #[case(ScanActivity { scan_id: "".into(), ..scan(1, "queued") }, "invalid_scan")]
    #[case(ScanActivity { message: Some("a\0".into()), ..scan(1, "queued") }, "nul_character")]
    #[case(ScanActivity { attributes: Some("{".into()), ..scan(1, "queued") }, "invalid_json")]
    #[case(ScanActivity { attributes: Some(r#"{"a":"\ud800"}"#.into()), ..scan(1, "queued") }, "lone_surrogate")]
    #[case(ScanActivity { attributes: Some("[".repeat(10_000).into()), ..scan(1, "queued") }, "invalid_json")]
    #[case(ScanActivity { time: Micros(i64::MAX), ..scan(1, "queued") }, "time_out_of_range")]
    fn what_the_server_would_refuse_is_refused(#[case] scan: ScanActivity<'static>, #[case] reason: &str) {
        assert_eq!(Scans::default().add(&scan, 0).unwrap_err().reason(), reason);
    }
}
