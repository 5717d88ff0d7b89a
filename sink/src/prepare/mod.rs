//! From Kafka records to what a transaction sends: decoded, checked, encoded, sorted, counted. Work for a thread of its
//! own; no I/O.

pub mod counts;
pub mod payload;
pub mod pushes;
pub mod scans;
pub mod table;

use std::collections::BTreeMap;

use ahash::AHashMap;
use schemas::{
    Event, EventBatch, Finding, FindingBatch, IncidentChange, Micros, OrgId, Push, Reject, ScanActivity,
    Source, Stream, current_body, decode_body,
};

use crate::batch::{Batch, Taken};
use crate::encode::quarantine::{self, Quarantined};
use crate::encode::time::{Horizon, Planned};
use crate::encode::{Refusal, event, finding};
use crate::identity::Identity;
use crate::position::{PartitionKey, Topic, Verdict};
use counts::{Counts, Group, Orgs};
use pushes::{Fate, Holder, Kept, Known, PushKey, Shares};
use scans::Scans;
use table::{Builder, RowAt, Table};

/// What became of a partition's raw records in a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Raw records.
    pub received: i64,
    /// Rows stored; scan activities and incident changes merged.
    pub stored: i64,
    /// Quarantined instead.
    pub quarantined: i64,
    /// Stored before.
    pub duplicates: i64,
}

/// Rows of `quarantine` so far, which a transaction may add to.
#[derive(Debug, Default)]
pub struct Quarantine {
    /// Encoded rows.
    pub bytes: Vec<u8>,
    /// How many, by reason.
    pub reasons: AHashMap<String, u64>,
}

impl Quarantine {
    /// Appends a row.
    pub fn add(&mut self, what: &Quarantined<'_>, planned: &Planned) {
        quarantine::put(what, planned, &mut self.bytes);
        match self.reasons.get_mut(what.reason) {
            Some(n) => *n += 1,
            None => drop(self.reasons.insert(what.reason.to_owned(), 1)),
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.reasons.clear();
    }
}

/// Everything of a batch but what the database has to say about it. Its memory is used again.
#[derive(Debug, Default)]
pub struct Prepared {
    /// Rows of `events`.
    pub events: Table,
    /// Rows of `findings`.
    pub findings: Table,
    /// Rows of `quarantine`.
    pub quarantine: Quarantine,
    /// Scans.
    pub scans: Scans,
    /// Ordinals of the records that are incident changes.
    pub changes: Vec<u32>,
    /// Rows by group, and the names of the orgs in them.
    pub counts: Counts,
    /// A number in `counts` is a place in here.
    pub org_names: Vec<std::sync::Arc<str>>,
    /// By partition.
    pub tallies: BTreeMap<PartitionKey, Tally>,
    /// Parts of keyed pushes that are new, as far as the batch knows.
    pub pushes: BTreeMap<PushKey, Kept>,
    /// Raw records dropped because their push is stored already or was earlier in the batch; they are among the
    /// tallies' duplicates.
    pub retried: i64,
    /// When the oldest event of each stream was received.
    pub oldest: [Option<Micros>; 2],
}

impl Prepared {
    /// Bytes that go into COPY.
    pub fn bytes(&self) -> usize {
        let table = |table: &Table| table.rows().last().map_or(0, |row| row.end as usize);
        table(&self.events) + table(&self.findings) + self.quarantine.bytes.len()
    }

    /// Empties it, keeping the memory of what is not in a [`Table`].
    fn reuse(self) -> (Prepared, Table, Table) {
        let Prepared {
            events,
            findings,
            mut quarantine,
            mut scans,
            mut changes,
            mut counts,
            mut org_names,
            ..
        } = self;
        quarantine.clear();
        scans.clear();
        changes.clear();
        counts.clear();
        org_names.clear();
        let prepared = Prepared { quarantine, scans, changes, counts, org_names, ..Prepared::default() };
        (prepared, events, findings)
    }
}

/// Prepares batches, one after the other.
#[derive(Debug, Default)]
pub struct Preparer {
    orgs: Orgs,
    horizon: Horizon,
    events: Builder,
    findings: Builder,
}

/// Where a record's parts go.
struct Run<'p> {
    orgs: &'p mut Orgs,
    horizon: &'p mut Horizon,
    out: &'p mut Prepared,
    known: &'p Known,
    planned: Planned,
    record: u32,
    tally: Tally,
}

impl Preparer {
    /// Prepares a batch as of `now`. `recycled` is an earlier one, for its memory.
    pub fn prepare(&mut self, batch: &Batch, now: Micros, recycled: Prepared) -> Prepared {
        let (mut out, events, findings) = recycled.reuse();
        self.orgs.begin_batch();
        self.events.clear();
        self.findings.clear();
        let planned = Planned::at(now);
        for (record, taken) in batch.records().iter().enumerate() {
            let mut run = Run {
                orgs: &mut self.orgs,
                horizon: &mut self.horizon,
                out: &mut out,
                known: batch.known(),
                planned,
                record: record as u32,
                tally: Tally::default(),
            };
            let read = match taken.partition.topic {
                Topic::Events => run.event_record(taken, &mut self.events),
                Topic::Findings => run.finding_record(taken, &mut self.findings),
                Topic::Incidents => run.incident_record(taken),
            };
            if let Err(refusal) = read {
                run.foreign(taken, &refusal);
            }
            let tally = run.tally;
            let total = out.tallies.entry(taken.partition).or_default();
            total.received += tally.received;
            total.stored += tally.stored;
            total.quarantined += tally.quarantined;
            total.duplicates += tally.duplicates;
        }
        out.events = self.events.finish(&mut self.orgs, events);
        out.findings = self.findings.finish(&mut self.orgs, findings);
        out.org_names.extend_from_slice(self.orgs.names());
        out
    }
}

impl Run<'_> {
    fn event_record(&mut self, taken: &Taken, builder: &mut Builder) -> Result<(), Refusal> {
        let body = current_body::<EventBatch<'_>>(&taken.payload).map_err(undecodable)?;
        let batch: EventBatch<'_> = decode_body(&body).map_err(undecodable)?;
        if !self.applies(taken, batch.events.len() + batch.rejects.len())? {
            return Ok(());
        }
        let source = &batch.source;
        self.received(Stream::Events, batch.events.first().map(|event| event.received_at));
        let rows = || {
            let events = batch.events.iter().map(|event| (event.index, event.received_at));
            events.chain(batch.rejects.iter().map(|reject| (reject.index, reject.received_at)))
        };
        let shares = self.shares(&batch.pushes, holder(Stream::Events, source, taken), rows);
        for (item, event) in batch.events.iter().enumerate() {
            let identity = identity(source, event.index);
            if let Some(fate) = shares.other_than_new(event.index) {
                let org = Some(&*event.org);
                let about = About { received_at: event.received_at, org, stream: Stream::Events, identity };
                self.not_new(about, fate, || payload::event(event));
                continue;
            }
            let group = Group {
                org: 0,
                stream: Stream::Events,
                hour: Group::hour(event.time),
                class_uid: event.class_uid,
                severity_id: event.severity_id,
            };
            let oldest = self.horizon.of(event.received_at);
            let put = |out: &mut Vec<u8>| event::put(event, identity, oldest, out);
            if let Err(refusal) = self.row(builder, &event.org, group, event.time, item, put) {
                let about = About {
                    received_at: event.received_at,
                    org: Some(&event.org),
                    stream: Stream::Events,
                    identity,
                };
                self.refused(about, &refusal, &payload::event(event));
            }
        }
        self.rejects(Stream::Events, source, &batch.rejects, &shares);
        Ok(())
    }

    fn finding_record(&mut self, taken: &Taken, builder: &mut Builder) -> Result<(), Refusal> {
        let body = current_body::<FindingBatch<'_>>(&taken.payload).map_err(undecodable)?;
        let batch: FindingBatch<'_> = decode_body(&body).map_err(undecodable)?;
        if !self.applies(taken, batch.findings.len() + batch.scans.len() + batch.rejects.len())? {
            return Ok(());
        }
        let source = &batch.source;
        let received_at = batch.findings.first().map(|finding| finding.received_at);
        self.received(Stream::Findings, received_at.or(batch.scans.first().map(|scan| scan.received_at)));
        let rows = || {
            let findings = batch.findings.iter().map(|finding| (finding.index, finding.received_at));
            let scans = batch.scans.iter().map(|scan| (scan.index, scan.received_at));
            let rejects = batch.rejects.iter().map(|reject| (reject.index, reject.received_at));
            findings.chain(scans).chain(rejects)
        };
        let shares = self.shares(&batch.pushes, holder(Stream::Findings, source, taken), rows);
        for (item, finding) in batch.findings.iter().enumerate() {
            let identity = identity(source, finding.index);
            if let Some(fate) = shares.other_than_new(finding.index) {
                let org = Some(&*finding.org);
                let about =
                    About { received_at: finding.received_at, org, stream: Stream::Findings, identity };
                self.not_new(about, fate, || payload::finding(finding));
                continue;
            }
            let group = Group {
                org: 0,
                stream: Stream::Findings,
                hour: Group::hour(finding.time),
                class_uid: finding.class_uid,
                severity_id: finding.severity_id,
            };
            let oldest = self.horizon.of(finding.received_at);
            let put = |out: &mut Vec<u8>| finding::put(finding, identity, oldest, out);
            if let Err(refusal) = self.row(builder, &finding.org, group, finding.time, item, put) {
                let org = Some(&*finding.org);
                let about =
                    About { received_at: finding.received_at, org, stream: Stream::Findings, identity };
                self.refused(about, &refusal, &payload::finding(finding));
            }
        }
        for scan in &batch.scans {
            let about = About {
                received_at: scan.received_at,
                org: Some(&scan.org),
                stream: Stream::Findings,
                identity: identity(source, scan.index),
            };
            if let Some(fate) = shares.other_than_new(scan.index) {
                self.not_new(about, fate, || payload::scan(scan));
            } else if let Err(refusal) = self.scan(scan, taken.partition.partition) {
                self.refused(about, &refusal, &payload::scan(scan));
            }
        }
        self.rejects(Stream::Findings, source, &batch.rejects, &shares);
        Ok(())
    }

    /// Read here only to be sure that it can be: what it changes is known once the incident is.
    fn incident_record(&mut self, taken: &Taken) -> Result<(), Refusal> {
        let body = current_body::<IncidentChange<'_>>(&taken.payload).map_err(undecodable)?;
        let change: IncidentChange<'_> = decode_body(&body).map_err(undecodable)?;
        if taken.verdict == Verdict::Apply && change.org.parse::<OrgId>().is_err() {
            return Err(Refusal::Org(change.org.into_owned()));
        }
        if self.applies(taken, 1)? {
            self.out.changes.push(self.record);
            self.tally.stored += 1;
        }
        Ok(())
    }

    /// Whether the record is to be stored; counts it if it was stored before.
    fn applies(&mut self, taken: &Taken, raw_records: usize) -> Result<bool, Refusal> {
        let raw_records = raw_records as i64;
        match taken.verdict {
            Verdict::Foreign => {
                Err(Refusal::Undecodable("it names another partition, or no possible source".into()))
            }
            Verdict::Apply => {
                self.tally.received += raw_records;
                Ok(true)
            }
            Verdict::Repeat => {
                self.tally.received += raw_records;
                self.tally.duplicates += raw_records;
                Ok(false)
            }
        }
    }

    fn row(
        &mut self,
        builder: &mut Builder,
        org: &str,
        group: Group,
        time: Micros,
        item: usize,
        put: impl FnOnce(&mut Vec<u8>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let Some(number) = self.orgs.number(org) else {
            return Err(Refusal::Org(org.chars().take(64).collect()));
        };
        if let Err(refusal) = put(builder.buffer()) {
            builder.refuse();
            return Err(refusal);
        }
        let group = self.out.counts.add(Group { org: number, ..group });
        let row = RowAt { start: 0, end: 0, record: self.record, item: item as u32, org: number, group };
        builder.accept(row, time);
        self.tally.stored += 1;
        Ok(())
    }

    fn scan(&mut self, scan: &ScanActivity<'_>, slot: i32) -> Result<(), Refusal> {
        if self.orgs.number(&scan.org).is_none() {
            return Err(Refusal::Org(scan.org.chars().take(64).collect()));
        }
        self.out.scans.add(scan, slot)?;
        self.tally.stored += 1;
        Ok(())
    }

    /// Judges a record's keyed pushes.
    fn shares<I: Iterator<Item = (i32, Micros)>>(
        &mut self,
        pushes: &[Push<'_>],
        holder: Holder,
        rows: impl Fn() -> I,
    ) -> Shares {
        // A time that no clock of ours gave might be one that Postgres has not.
        let planned = self.planned;
        let rows = || rows().map(move |(index, received_at)| (index, planned.or_now(received_at)));
        let holder = Holder { timestamp: planned.or_now(holder.timestamp), ..holder };
        Shares::judge(pushes, holder, rows, self.known, &mut self.out.pushes)
    }

    /// Drops a row of a push that is stored already, or quarantines one whose key is another push's.
    fn not_new(&mut self, about: About<'_>, fate: &Fate, payload: impl FnOnce() -> Vec<u8>) {
        match fate {
            Fate::Repeat => self.retried(),
            Fate::Conflict(key) => {
                self.refused(about, &Refusal::IdempotencyConflict(key.to_string()), &payload());
            }
        }
    }

    fn retried(&mut self) {
        self.out.retried += 1;
        self.tally.duplicates += 1;
    }

    fn rejects(&mut self, stream: Stream, source: &Source, rejects: &[Reject<'_>], shares: &Shares) {
        for reject in rejects {
            let conflict = match shares.other_than_new(reject.index) {
                None => None,
                Some(Fate::Conflict(key)) => Some(Refusal::IdempotencyConflict(key.to_string())),
                Some(Fate::Repeat) => {
                    self.retried();
                    continue;
                }
            };
            let detail = conflict.as_ref().map(ToString::to_string);
            let what = Quarantined {
                received_at: reject.received_at,
                org: reject.org.as_deref(),
                stream: stream.name(),
                identity: identity(source, reject.index),
                reason: conflict.as_ref().map_or(&reject.reason, |conflict| conflict.reason()),
                detail: detail.as_deref().unwrap_or(&reject.detail),
                payload: &reject.bytes,
                digest: reject.digest.as_deref(),
            };
            self.out.quarantine.add(&what, &self.planned);
            self.tally.quarantined += 1;
        }
    }

    fn refused(&mut self, about: About<'_>, refusal: &Refusal, payload: &[u8]) {
        self.out.quarantine.add(&about.quarantined(refusal, &refusal.to_string(), payload), &self.planned);
        self.tally.quarantined += 1;
    }

    /// Quarantines a record whole.
    fn foreign(&mut self, taken: &Taken, refusal: &Refusal) {
        // A repeat whose rest cannot be read was quarantined the first time.
        if taken.verdict == Verdict::Repeat {
            self.tally.received += 1;
            self.tally.duplicates += 1;
            return;
        }
        let PartitionKey { topic, partition } = taken.partition;
        let what = Quarantined {
            received_at: taken.timestamp,
            org: None,
            stream: topic.name(),
            identity: Identity { partition, offset: taken.offset, index: -1 },
            reason: refusal.reason(),
            detail: &refusal.to_string(),
            payload: &taken.payload,
            digest: None,
        };
        self.out.quarantine.add(&what, &self.planned);
        self.tally.received += 1;
        self.tally.quarantined += 1;
    }

    fn received(&mut self, stream: Stream, at: Option<Micros>) {
        let oldest = match stream {
            Stream::Events => &mut self.out.oldest[0],
            Stream::Findings => &mut self.out.oldest[1],
        };
        *oldest = (*oldest).into_iter().chain(at).min();
    }
}

/// Whose row it would have been.
#[derive(Debug, Clone, Copy)]
struct About<'a> {
    received_at: Micros,
    org: Option<&'a str>,
    stream: Stream,
    identity: Identity,
}

impl<'a> About<'a> {
    fn quarantined(self, refusal: &'a Refusal, detail: &'a str, payload: &'a [u8]) -> Quarantined<'a> {
        Quarantined {
            received_at: self.received_at,
            org: self.org,
            stream: self.stream.name(),
            identity: self.identity,
            reason: refusal.reason(),
            detail,
            payload,
            digest: None,
        }
    }
}

fn identity(source: &Source, index: i32) -> Identity {
    Identity { partition: source.partition, offset: source.offset, index }
}

fn holder(stream: Stream, source: &Source, taken: &Taken) -> Holder {
    let Source { partition, offset, .. } = *source;
    Holder { stream, partition, offset, timestamp: taken.timestamp }
}

fn undecodable(error: schemas::DecodeError) -> Refusal {
    Refusal::Undecodable(error.to_string())
}

/// Moves a row that the server refused from its table to quarantine.
pub fn set_aside(prepared: &mut Prepared, batch: &Batch, row: RowAt, refusal: &Refusal, planned: &Planned) {
    let Some(taken) = batch.records().get(row.record as usize) else { return };
    prepared.counts.remove(row.group);
    if let Some(tally) = prepared.tallies.get_mut(&taken.partition) {
        tally.stored -= 1;
        tally.quarantined += 1;
    }
    let detail = refusal.to_string();
    let mut add = |about: About<'_>, payload: &[u8]| {
        prepared.quarantine.add(&about.quarantined(refusal, &detail, payload), planned);
    };
    // What was decoded once is decoded again; it was not kept, for the sake of all the rows that are fine.
    if taken.partition.topic == Topic::Events {
        let read = |event: &Event<'_>, source: &Source| {
            let identity = identity(source, event.index);
            let about = About {
                received_at: event.received_at,
                org: Some(&event.org),
                stream: Stream::Events,
                identity,
            };
            add(about, &payload::event(event));
        };
        with_event(taken, row.item, read);
    } else {
        let read = |finding: &Finding<'_>, source: &Source| {
            let identity = identity(source, finding.index);
            let org = Some(&*finding.org);
            let about = About { received_at: finding.received_at, org, stream: Stream::Findings, identity };
            add(about, &payload::finding(finding));
        };
        with_finding(taken, row.item, read);
    }
}

fn with_event(taken: &Taken, item: u32, read: impl FnOnce(&Event<'_>, &Source)) {
    let Ok(body) = current_body::<EventBatch<'_>>(&taken.payload) else { return };
    let Ok(batch) = decode_body::<EventBatch<'_>>(&body) else { return };
    if let Some(event) = batch.events.get(item as usize) {
        read(event, &batch.source);
    }
}

fn with_finding(taken: &Taken, item: u32, read: impl FnOnce(&Finding<'_>, &Source)) {
    let Ok(body) = current_body::<FindingBatch<'_>>(&taken.payload) else { return };
    let Ok(batch) = decode_body::<FindingBatch<'_>>(&body) else { return };
    if let Some(finding) = batch.findings.get(item as usize) {
        read(finding, &batch.source);
    }
}
