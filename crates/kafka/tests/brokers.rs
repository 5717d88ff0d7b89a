//! A broker that says, for a moment, that no broker is alive: it stands still, is fenced, and goes on.
#![allow(
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test ends by panicking"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use common::{PATIENCE, kafka, number, options, outgoing, producer, read, send, send_numbers, topic, until};
use tidewatch_kafka::{Consumer, KafkaArgs, Start};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

const METADATA: i16 = 3;
/// The first version of metadata with compact arrays and strings.
const COMPACT: i16 = 9;
const FIND_COORDINATOR: i16 = 10;
const QUESTIONS: u32 = 3;

/// The one broker, behind a listener that it names as its own address.
struct Proxy {
    port: u16,
    /// Answers still to be given without any broker in them.
    empty: AtomicU32,
    /// Questions for metadata that wait for an answer.
    asked: AtomicU32,
    still: watch::Sender<bool>,
}

impl Proxy {
    async fn start(broker: String) -> Arc<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Arc::new(Proxy {
            port: listener.local_addr().unwrap().port(),
            empty: AtomicU32::new(0),
            asked: AtomicU32::new(0),
            still: watch::Sender::new(false),
        });
        let serving = Arc::clone(&proxy);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&broker).await else { continue };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let (asked, asking) = unbounded_channel();
                tokio::spawn(Arc::clone(&serving).requests(from_client, to_server, asked));
                tokio::spawn(Arc::clone(&serving).answers(from_server, to_client, asking));
            }
        });
        proxy
    }

    fn args(&self, real: &KafkaArgs) -> KafkaArgs {
        let prefix = real.topic("").parse().unwrap();
        let mut args = KafkaArgs::new(format!("127.0.0.1:{}", self.port)).with_prefix(prefix);
        args.options = vec!["topic.metadata.refresh.interval.ms=200".parse().unwrap()];
        args
    }

    /// Answers nothing until several questions for metadata wait, and then tells all of them that no broker is alive.
    async fn stand_still(&self) {
        self.still.send_replace(true);
        until("clients ask for metadata", || self.asked.load(Ordering::SeqCst) >= QUESTIONS).await;
        self.empty.store(self.asked.load(Ordering::SeqCst), Ordering::SeqCst);
        self.still.send_replace(false);
        until("they have been told", || self.empty.load(Ordering::SeqCst) == 0).await;
    }

    async fn requests(
        self: Arc<Self>,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        asked: UnboundedSender<(i16, i16)>,
    ) {
        while let Some(frame) = read_frame(&mut from).await {
            let number = |at: usize| i16::from_be_bytes([frame[at], frame[at + 1]]);
            if number(0) == METADATA {
                self.asked.fetch_add(1, Ordering::SeqCst);
            }
            if asked.send((number(0), number(2))).is_err() || write_frame(&mut to, &frame).await.is_none() {
                return;
            }
        }
    }

    /// Answers come in the order of the requests.
    async fn answers(
        self: Arc<Self>,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        mut asking: UnboundedReceiver<(i16, i16)>,
    ) {
        while let Some(mut frame) = read_frame(&mut from).await {
            let Some((key, version)) = asking.recv().await else { return };
            let mut still = self.still.subscribe();
            if still.wait_for(|still| !still).await.is_err() {
                return;
            }
            match key {
                METADATA => {
                    assert!(version >= COMPACT, "version {version}");
                    frame = self.metadata(&frame);
                    self.asked.fetch_sub(1, Ordering::SeqCst);
                }
                FIND_COORDINATOR => {
                    assert!((1..=2).contains(&version), "version {version}");
                    self.coordinator(&mut frame);
                }
                _ => {}
            }
            if write_frame(&mut to, &frame).await.is_none() {
                return;
            }
        }
    }

    /// The metadata with this port for the broker's, or without the broker.
    fn metadata(&self, frame: &[u8]) -> Vec<u8> {
        // Correlation id, tags of the header, throttle time; then the brokers.
        let start = 4 + 1 + 4;
        let mut at = start;
        let count = varint(frame, &mut at) - 1;
        let mut frame = frame.to_vec();
        for _ in 0..count {
            at += 4;
            skip_text(&frame, &mut at);
            frame[at..at + 4].copy_from_slice(&i32::from(self.port).to_be_bytes());
            at += 4;
            skip_text(&frame, &mut at);
            assert_eq!(varint(&frame, &mut at), 0, "tags");
        }
        let less = |left: u32| left.checked_sub(1);
        if self.empty.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
            frame.splice(start..at, [1]);
        }
        frame
    }

    /// The coordinator, which is the broker, with this port.
    fn coordinator(&self, frame: &mut [u8]) {
        let length = |at: usize| i16::from_be_bytes([frame[at], frame[at + 1]]).max(0) as usize;
        // Correlation id, throttle time, error; its message; id of the node; its host.
        let message = 4 + 4 + 2;
        let host = message + 2 + length(message) + 4;
        let port = host + 2 + length(host);
        // There is none while the broker has not found one.
        if length(host) > 0 {
            frame[port..port + 4].copy_from_slice(&i32::from(self.port).to_be_bytes());
        }
    }
}

async fn read_frame(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let length = from.read_u32().await.ok()?;
    let mut frame = vec![0; length as usize];
    from.read_exact(&mut frame).await.ok()?;
    Some(frame)
}

async fn write_frame(to: &mut OwnedWriteHalf, frame: &[u8]) -> Option<()> {
    to.write_u32(frame.len() as u32).await.ok()?;
    to.write_all(frame).await.ok()
}

fn varint(bytes: &[u8], at: &mut usize) -> usize {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = bytes[*at];
        *at += 1;
        value |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return value;
        }
    }
    unreachable!("the loop has no end")
}

/// A compact string, which may be null.
fn skip_text(bytes: &[u8], at: &mut usize) {
    let length = varint(bytes, at);
    *at += length.saturating_sub(1);
}

#[tokio::test]
async fn a_consumer_that_was_told_no_broker_is_alive_reads_on() {
    let real = kafka();
    let topic = topic(&real, "events", 2).await;
    let sender = producer(&real);
    send_numbers(&sender, &topic, 0, 0..10).await;
    let proxy = Proxy::start(real.brokers.clone()).await;
    let args = proxy.args(&real);
    let consumer = Consumer::start(&args, options(&args, "g", &topic)).unwrap();
    assert_eq!(read(&consumer, Start::Beginning, 10).await.len(), 10);

    proxy.stand_still().await;
    send_numbers(&sender, &topic, 0, 10..20).await;
    send_numbers(&sender, &topic, 1, 20..30).await;
    let mut numbers: Vec<i64> = read(&consumer, Start::Beginning, 20).await.iter().map(number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (10..30).collect::<Vec<_>>());
    consumer.close().await;
}

#[tokio::test]
async fn a_producer_that_was_told_no_broker_is_alive_sends_on() {
    let real = kafka();
    let topic = topic(&real, "events", 1).await;
    let proxy = Proxy::start(real.brokers.clone()).await;
    let producer = producer(&proxy.args(&real));
    send_numbers(&producer, &topic, 0, 0..10).await;

    proxy.stand_still().await;
    let outcome = send(&producer, outgoing(&topic, 0, b"later"));
    let outcome = tokio::task::spawn_blocking(move || outcome.recv_timeout(PATIENCE)).await.unwrap();
    assert_eq!(outcome.expect("an outcome in time").expect("it was delivered"), 10);
}
