//! Pushes on their way into batches and back as answers, in any order of what can happen: added in pieces, flushed by a
//! timer, refused by a full queue, acknowledged, failed, given up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use schemas::{Micros, RawBatch, Stream};
use simulation::{Schedule, Simulation};

use crate::publish::{MAX_BATCH_BYTES, MAX_EVENTS, NotConnected, Publisher, Push, Sink};
use crate::ticket::{At, Failure, Settlement, Shares, Ticket};

const SIMULATION: Simulation = Simulation::new("receipts", 5_000);
const AT: At = At { partition: 0, offset: 0 };
const SENDERS: [&str; 3] = ["a", "b", "c"];
const KEYS: [&str; 2] = ["k1", "k2"];

/// What is taken away to see whether it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// A push is answered when its batch is sent.
    Acknowledgement,
    /// A push is answered as if it had no more shares to come.
    Closing,
    /// A failed batch is settled like any other.
    Failure,
    /// The pushes of a batch that is never sent are not told.
    Refusal,
    /// A later batch may overtake.
    Order,
}

/// A record of a push: `push.number`, and as long as it has to be.
type RecordId = (usize, usize);

/// A batch that the producer has.
struct Batch {
    place: (Stream, i32),
    records: Vec<RecordId>,
    shares: Option<Shares>,
}

/// The producer.
#[derive(Default)]
struct Model {
    full: bool,
    without: Option<Without>,
    /// Accepted, not settled.
    in_flight: VecDeque<Batch>,
    /// All records sent to each partition, by whether their push was keyed.
    sent: BTreeMap<(&'static str, i32, bool), Vec<RecordId>>,
    broken: Option<String>,
    /// Kept for ever, and with them the answers.
    forgotten: Vec<Shares>,
}

#[derive(Clone, Default)]
struct Producer(Arc<Mutex<Model>>);

impl Sink for Producer {
    fn send(&self, stream: Stream, partition: i32, payload: Vec<u8>, shares: Shares) {
        let mut model = self.0.lock();
        let batch: RawBatch<'_> = schemas::decode(&payload).unwrap();
        let keyed = batch.runs.iter().any(|run| run.key.is_some());
        let records: Vec<RecordId> =
            batch.runs.iter().flat_map(|run| &run.records).map(|record| id(&record.bytes)).collect();
        let pushes = batch.runs.iter().flat_map(|run| &run.records).map(|record| id(&record.bytes).0);
        let alone = pushes.clone().min() == pushes.max();
        let broken = if payload.len() > MAX_BATCH_BYTES || records.len() > MAX_EVENTS || records.is_empty() {
            Some(format!("a batch of {} records and {} bytes", records.len(), payload.len()))
        } else if keyed && (batch.runs.len() > 1 || !alone) {
            Some(format!("a keyed push shares its batch: {records:?}"))
        } else {
            None
        };
        model.broken = model.broken.take().or(broken);
        if model.full {
            match model.without {
                Some(Without::Refusal) => model.forgotten.push(shares),
                _ => drop(shares),
            }
            return;
        }
        model.sent.entry((stream.name(), partition, keyed)).or_default().extend(&records);
        let mut batch = Batch { place: (stream, partition), records, shares: Some(shares) };
        if model.without == Some(Without::Acknowledgement) {
            batch.shares.take().into_iter().for_each(|shares| shares.settle(Ok(AT)));
        }
        if model.without == Some(Without::Order) {
            let place = (stream.name(), partition, keyed);
            let records = batch.records.len();
            model.sent.entry(place).or_default().rotate_right(records);
        }
        model.in_flight.push_back(batch);
    }
}

fn id(bytes: &[u8]) -> RecordId {
    let text = std::str::from_utf8(bytes).unwrap();
    let (push, number) = text.trim_end().split_once('.').unwrap();
    (push.parse().unwrap(), number.parse().unwrap())
}

/// A push that has not been answered yet.
struct Open {
    number: usize,
    ticket: Option<Arc<Ticket>>,
    receipt: Settlement,
    /// Pieces yet to be added.
    left: usize,
    begun: bool,
    refused: bool,
}

/// What is known of the records of all pushes.
#[derive(Default)]
struct Records {
    /// By push: every record's fate, `None` while it is under way.
    fates: Vec<Vec<Option<bool>>>,
    /// In the order in which they were added to a partition, by whether their push was keyed.
    added: BTreeMap<(&'static str, i32, bool), Vec<RecordId>>,
}

fn pushes(schedule: &mut Schedule, without: Without) -> Result<(), String> {
    let producer = Producer::default();
    producer.0.lock().without = Some(without);
    let publisher = Publisher::new(Box::new(producer.clone()), Duration::ZERO);
    let mut partitions = if schedule.chance(5) { 0 } else { 1 + schedule.within(0, 2) as i32 };
    publisher.set_partitions(partitions, partitions);
    let (mut open, mut records) = (Vec::<Open>::new(), Records::default());
    // Batches that are full by records or by bytes take longest.
    let heavy = schedule.chance(8);
    for _ in 0..20 + schedule.below(60) {
        match schedule.below(12) {
            0..=1 => {
                let (ticket, receipt) = Ticket::new();
                let (number, left) = (records.fates.len(), schedule.below(4));
                records.fates.push(Vec::new());
                open.push(Open { number, ticket: Some(ticket), receipt, left, begun: false, refused: false });
            }
            2..=6 => advance(schedule, &publisher, partitions, &mut open, &mut records, without, heavy),
            7 => {
                schedule.step(|| "flush".to_owned());
                publisher.flush();
            }
            8 => {
                let full = schedule.chance(40);
                producer.0.lock().full = full;
                schedule.step(|| format!("the queue is full: {full}"));
            }
            9 if schedule.chance(20) => {
                partitions += 1;
                publisher.set_partitions(partitions, partitions);
                schedule.step(|| format!("{partitions} partitions"));
            }
            _ => settle(schedule, &producer, &mut records, without),
        }
        answers(&mut open, &records)?;
    }

    // Everything is given its end, and with it every push its answer.
    while open.iter().any(|push| push.ticket.is_some()) {
        advance(schedule, &publisher, partitions, &mut open, &mut records, without, heavy);
    }
    publisher.flush();
    while !producer.0.lock().in_flight.is_empty() {
        settle(schedule, &producer, &mut records, without);
    }
    answers(&mut open, &records)?;
    if let Some(push) = open.first() {
        return Err(format!("push {} is never answered", push.number));
    }
    let model = producer.0.lock();
    if let Some(broken) = &model.broken {
        return Err(broken.clone());
    }
    for (place, sent) in &model.sent {
        // What was refused is missing, and nothing is out of order.
        let mut added = records.added.get(place).into_iter().flatten();
        if !sent.iter().all(|record| added.any(|one| one == record)) {
            return Err(format!(
                "{place:?} was sent {sent:?}, out of the order {:?}",
                records.added.get(place)
            ));
        }
    }
    Ok(())
}

/// A push goes on: another piece of it is added, or it is closed.
fn advance(
    schedule: &mut Schedule,
    publisher: &Publisher,
    partitions: i32,
    open: &mut [Open],
    records: &mut Records,
    without: Without,
    heavy: bool,
) {
    let mut going: Vec<&mut Open> = open.iter_mut().filter(|push| push.ticket.is_some()).collect();
    let chosen = schedule.below(going.len());
    let Some(push) = going.get_mut(chosen) else { return };
    let Some(ticket) = push.ticket.clone() else { return };
    if push.left == 0 {
        schedule.step(|| format!("push {} is closed", push.number));
        if without != Without::Closing || !push.begun {
            ticket.close();
        }
        push.ticket = None;
        return;
    }
    push.left -= 1;
    let fates = &mut records.fates[push.number];
    let first = fates.len();
    let texts: Vec<String> = (0..count(schedule, heavy))
        .map(|n| {
            let bytes =
                if heavy && schedule.chance(5) { schedule.below(MAX_BATCH_BYTES / 2 - 512) } else { 0 };
            let mut text = format!("{}.{}", push.number, first + n);
            text.extend(std::iter::repeat_n(' ', bytes));
            text
        })
        .collect();
    let bytes: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
    let (sender, key) = (SENDERS[schedule.below(3)], KEYS[schedule.below(2)]);
    let keyed = schedule.chance(25);
    let stream = Stream::ALL[schedule.below(2)];
    let one = Push {
        stream,
        org: "demo",
        protocol: "http",
        format: "json",
        sender,
        key: keyed.then_some((key, &[7; 32])),
        received_at: Micros(7),
        records: &bytes,
    };
    let spread = if keyed { key } else { sender };
    let partition = schemas::partition_of(&[b"demo", spread.as_bytes()], partitions);
    let place = (stream.name(), partition, keyed);
    schedule.step(|| format!("push {}: {} records from {first} on to {place:?}", push.number, bytes.len()));
    if !std::mem::replace(&mut push.begun, true) && without == Without::Closing {
        ticket.close();
    }
    match publisher.add(&one, &ticket) {
        Ok(()) => {
            let added = (first..first + bytes.len()).map(|number| (push.number, number));
            records.added.entry(place).or_default().extend(added);
            fates.resize(first + bytes.len(), None);
        }
        Err(NotConnected) => {
            ticket.fail(Failure::Delivery("not connected".into()));
            push.refused = true;
        }
    }
}

fn count(schedule: &mut Schedule, heavy: bool) -> usize {
    match schedule.below(20) {
        0 if heavy => 400 + schedule.below(300),
        1..=4 => 0,
        _ => 1 + schedule.below(4),
    }
}

/// One batch gets its end.
fn settle(schedule: &mut Schedule, producer: &Producer, records: &mut Records, without: Without) {
    let mut batch = {
        let mut model = producer.0.lock();
        let at = schedule.below(model.in_flight.len());
        let Some(batch) = model.in_flight.remove(at) else { return };
        batch
    };
    let acknowledged = schedule.chance(80);
    schedule
        .step(|| format!("batch {:?} of {:?} is acknowledged: {acknowledged}", batch.records, batch.place));
    for (push, number) in &batch.records {
        records.fates[*push][*number] = Some(acknowledged);
    }
    let Some(shares) = batch.shares.take() else { return };
    match schedule.below(4) {
        _ if acknowledged || without == Without::Failure => shares.settle(Ok(AT)),
        0 => drop(shares),
        1 => shares.settle(Err(Failure::Dropped)),
        _ => shares.settle(Err(Failure::Delivery("timed out".into()))),
    }
}

/// Looks which pushes are answered, and whether they may be.
fn answers(open: &mut Vec<Open>, records: &Records) -> Result<(), String> {
    let mut broken = Ok(());
    open.retain_mut(|push| {
        let Some(answer) = push.receipt.wait().now_or_never() else { return true };
        let fates = &records.fates[push.number];
        let complete = push.ticket.is_none() && !push.refused;
        let stored = complete && fates.iter().all(|fate| *fate == Some(true));
        if broken.is_ok() && answer.is_ok() && !stored {
            broken =
                Err(format!("push {} is answered with success, and its records are {fates:?}", push.number));
        }
        if broken.is_ok() && answer.is_err() && stored {
            broken =
                Err(format!("push {} is answered with {answer:?}, and all of it is stored", push.number));
        }
        false
    });
    broken
}

#[test]
fn a_push_is_answered_once_and_with_the_truth() {
    SIMULATION.holds(|schedule| pushes(schedule, Without::Nothing));
}

#[test]
fn without_its_guards_it_would_not_hold() {
    for without in
        [Without::Acknowledgement, Without::Closing, Without::Failure, Without::Refusal, Without::Order]
    {
        SIMULATION.breaks(&format!("without {without:?}"), |schedule| pushes(schedule, without));
    }
}
