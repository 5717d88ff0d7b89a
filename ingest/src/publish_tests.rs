use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use schemas::RawBatch;

use crate::ticket::At;

use super::*;

const AT: At = At { partition: 0, offset: 0 };

type Sent = Arc<Mutex<Vec<(Stream, i32, Vec<u8>, Shares)>>>;

#[derive(Clone, Default)]
struct Fake(Sent);

impl Sink for Fake {
    fn send(&self, stream: Stream, partition: i32, payload: Vec<u8>, shares: Shares) {
        self.0.lock().push((stream, partition, payload, shares));
    }
}

fn publisher(partitions: i32) -> (Publisher, Fake) {
    let fake = Fake::default();
    let publisher = Publisher::new(Box::new(fake.clone()), Duration::from_millis(5));
    publisher.set_partitions(partitions, partitions);
    (publisher, fake)
}

fn push<'a>(sender: &'a str, records: &'a [&'a [u8]]) -> Push<'a> {
    Push {
        stream: Stream::Events,
        org: "demo",
        protocol: "http",
        format: "json",
        sender,
        key: None,
        received_at: Micros(7),
        records,
    }
}

/// Records of every run in every batch, and the batches' sizes, in the order sent.
fn sent(fake: &Fake) -> (Vec<Vec<u8>>, Vec<usize>) {
    let (mut records, mut sizes) = (Vec::new(), Vec::new());
    for (_, _, payload, _) in fake.0.lock().iter() {
        assert!(payload.len() <= MAX_BATCH_BYTES);
        let batch: RawBatch<'_> = schemas::decode(payload).unwrap();
        let before = records.len();
        records.extend(batch.runs.iter().flat_map(|run| &run.records).map(|record| record.bytes.to_vec()));
        sizes.push(records.len() - before);
    }
    (records, sizes)
}

#[tokio::test]
async fn pushes_share_a_batch_and_are_answered_with_it() {
    let (publisher, fake) = publisher(1);
    let mut receipts = Vec::new();
    for sender in ["a", "b"] {
        let (ticket, receipt) = Ticket::new();
        publisher.add(&push(sender, &[b"1", b"2"]), &ticket).unwrap();
        ticket.close();
        receipts.push(receipt);
    }
    assert_eq!(sent(&fake).1, [0; 0]);
    publisher.flush();
    assert_eq!(sent(&fake).1, [4]);
    let (_, _, _, shares) = fake.0.lock().pop().unwrap();
    shares.settle(Ok(AT));
    for receipt in &mut receipts {
        assert_eq!(receipt.wait().await, Ok(vec![]));
    }
}

#[test]
fn a_full_batch_is_sent_at_once_and_a_push_is_not_split_to_fill_one() {
    let (publisher, fake) = publisher(1);
    let (ticket, _receipt) = Ticket::new();
    let records = vec![b"x".as_slice(); 300];
    publisher.add(&push("a", &records), &ticket).unwrap();
    assert_eq!(sent(&fake).1, [0; 0]);
    publisher.add(&push("a", &records), &ticket).unwrap();
    assert_eq!(sent(&fake).1, [300]);
    publisher.add(&push("a", &vec![b"x".as_slice(); 1_700]), &ticket).unwrap();
    assert_eq!(sent(&fake).1, [300, 300, 500, 500, 500]);
    publisher.flush();
    assert_eq!(sent(&fake).1, [300, 300, 500, 500, 500, 200]);
}

#[test]
fn a_keyed_push_is_alone_in_its_batches_and_says_its_parts() {
    let (publisher, fake) = publisher(1);
    let (ticket, _receipt) = Ticket::new();
    let records = vec![b"x".as_slice(); 700];
    publisher.add(&push("a", &records[..10]), &ticket).unwrap();
    publisher.add(&Push { key: Some(("k", &[9; 32])), ..push("a", &records) }, &ticket).unwrap();
    publisher.flush();
    assert_eq!(sent(&fake).1, [500, 200, 10]);
    let parts: Vec<_> = fake
        .0
        .lock()
        .iter()
        .map(|(_, _, payload, _)| {
            let run = schemas::decode::<RawBatch<'_>>(payload).unwrap().runs.remove(0);
            (run.key.map(|key| key.into_owned()), run.part)
        })
        .collect();
    assert_eq!(parts, [(Some("k".into()), Some(0)), (Some("k".into()), Some(1)), (None, None)]);
}

#[test]
fn a_sender_keeps_its_partition_and_a_key_has_its_own() {
    let (publisher, fake) = publisher(64);
    let (ticket, _receipt) = Ticket::new();
    for _ in 0..3 {
        publisher.add(&push("a", &[b"x"]), &ticket).unwrap();
        publisher.flush();
    }
    publisher.add(&Push { key: Some(("k", &[9; 32])), ..push("a", &[b"x"]) }, &ticket).unwrap();
    let partitions: Vec<_> = fake.0.lock().iter().map(|(_, partition, ..)| *partition).collect();
    let of = |spread: &[u8]| partition_of(&[b"demo", spread], 64);
    assert_eq!(partitions, [of(b"a"), of(b"a"), of(b"a"), of(b"k")]);
}

#[test]
fn partitions_can_grow_under_way_without_losing_an_open_batch() {
    let (publisher, fake) = publisher(1);
    let (ticket, _receipt) = Ticket::new();
    publisher.add(&push("a", &[b"x"]), &ticket).unwrap();
    publisher.set_partitions(8, 8);
    for sender in ["a", "b", "c", "d", "e", "f"] {
        publisher.add(&push(sender, &[b"y"]), &ticket).unwrap();
    }
    publisher.flush();
    assert_eq!(sent(&fake).0.len(), 7);
    assert!(fake.0.lock().iter().any(|(_, partition, ..)| *partition > 0));
}

#[tokio::test]
async fn nothing_is_taken_before_the_partitions_are_known_and_a_refused_batch_fails_its_pushes() {
    struct Full;
    impl Sink for Full {
        fn send(&self, _: Stream, _: i32, _: Vec<u8>, _: Shares) {}
    }
    let publisher = Publisher::new(Box::new(Full), Duration::from_millis(5));
    let (ticket, mut receipt) = Ticket::new();
    assert_eq!(publisher.add(&push("a", &[b"x"]), &ticket), Err(NotConnected));
    publisher.set_partitions(1, 1);
    publisher.add(&push("a", &[b"x"]), &ticket).unwrap();
    ticket.close();
    publisher.flush();
    assert_eq!(receipt.wait().await, Err(Failure::QueueFull));
}

#[tokio::test(start_paused = true)]
async fn an_open_batch_is_sent_after_the_linger() {
    let fake = Fake::default();
    let publisher = Arc::new(Publisher::new(Box::new(fake.clone()), Duration::ZERO));
    publisher.set_partitions(1, 1);
    tokio::spawn(publisher.clone().keep_flushing());
    let (ticket, mut receipt) = Ticket::new();
    publisher.add(&push("a", &[b"x"]), &ticket).unwrap();
    ticket.close();
    while fake.0.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    fake.0.lock().pop().unwrap().3.settle(Ok(AT));
    assert_eq!(receipt.wait().await, Ok(vec![]));
}

proptest! {
    #[test]
    fn every_record_is_sent_once_in_its_partitions_order(
        pushes in proptest::collection::vec(
            (0u8..4, proptest::collection::vec(0usize..200_000, 0..30), any::<bool>()), 1..12),
    ) {
        let (publisher, fake) = publisher(3);
        let (ticket, _receipt) = Ticket::new();
        let mut expected: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        let zeros = vec![0u8; 200_000];
        for (sender, sizes, keyed) in &pushes {
            let records: Vec<&[u8]> = sizes.iter().map(|size| &zeros[..*size]).collect();
            let sender = sender.to_string();
            let key = keyed.then_some(("key", &[1; 32]));
            publisher.add(&Push { key, ..push(&sender, &records) }, &ticket).unwrap();
            if key.is_none() {
                let partition = partition_of(&[b"demo", sender.as_bytes()], 3);
                expected.entry(partition).or_default().extend(sizes);
            }
        }
        publisher.flush();
        let mut unkeyed: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        let mut keyed = 0;
        for (_, partition, payload, _) in fake.0.lock().iter() {
            prop_assert!(payload.len() <= MAX_BATCH_BYTES);
            for run in schemas::decode::<RawBatch<'_>>(payload).unwrap().runs {
                match run.key {
                    Some(_) => keyed += run.records.len(),
                    None => unkeyed.entry(*partition).or_default().extend(run.records.iter().map(|r| r.bytes.len())),
                }
            }
        }
        expected.retain(|_, sizes| !sizes.is_empty());
        prop_assert_eq!(unkeyed, expected);
        prop_assert_eq!(keyed, pushes.iter().filter(|p| p.2).map(|p| p.1.len()).sum::<usize>());
    }
}
