//! What a syslog listener has read and the broker has not acknowledged yet.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use schemas::{Micros, Stream};
use service::{Shutdown, metrics};
use tokio::sync::OwnedSemaphorePermit;

use crate::publish::{NotConnected, Publisher, Push, explain};
use crate::ticket::{Failure, Settlement, Ticket};

/// Flights under way; with more, the listener stops reading.
const MAX_FLIGHTS: usize = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Messages of one sender in a flight.
#[derive(Debug)]
pub struct Group {
    /// Whose they are.
    pub sender: Arc<str>,
    /// `syslog`, or `syslog_truncated` for a frame that was cut off.
    pub format: &'static str,
    /// Where they are in the flight's data.
    pub frames: Vec<Range<usize>>,
}

/// What was read at once.
#[derive(Debug)]
pub struct Flight {
    /// The bytes as they were read.
    pub data: Bytes,
    /// The messages in them.
    pub groups: Vec<Group>,
    /// When they were read.
    pub received_at: Micros,
    /// Its share of what may be under way, given back when it is settled.
    #[expect(dead_code, reason = "held, not read")]
    pub lease: Option<OwnedSemaphorePermit>,
}

impl Flight {
    fn messages(&self) -> u64 {
        self.groups.iter().map(|group| group.frames.len() as u64).sum()
    }
}

/// Publishes flights in order and publishes again what failed.
pub struct Outbox {
    publisher: Arc<Publisher>,
    org: Arc<str>,
    protocol: &'static str,
    shutdown: Shutdown,
    flights: VecDeque<(Flight, Settlement)>,
}

impl Outbox {
    /// An outbox for messages of `org`.
    pub fn new(publisher: Arc<Publisher>, org: Arc<str>, protocol: &'static str, shutdown: Shutdown) -> Self {
        Self { publisher, org, protocol, shutdown, flights: VecDeque::new() }
    }

    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// Whether another flight may be sent.
    pub fn has_room(&self) -> bool {
        self.flights.len() < MAX_FLIGHTS
    }

    /// Sends a flight on its way. Past [`has_room`](Self::has_room) the caller has to [settle](Self::settle) first.
    pub fn send(&mut self, flight: Flight) {
        let receipt = self.publish(&flight);
        self.flights.push_back((flight, receipt));
    }

    /// Waits for the oldest flight to succeed or fail. Cancel-safe; pending while nothing is under way.
    pub async fn oldest(&mut self) -> Result<(), Failure> {
        match self.flights.front_mut() {
            Some((_, receipt)) => receipt.wait().await.map(drop),
            None => std::future::pending().await,
        }
    }

    /// Acts on what [`oldest`](Self::oldest) said. After a failure the flight is published again until it succeeds: not
    /// cancel-safe, and as long as the broker is away. Once a stop has been asked for it is given up instead.
    pub async fn settle(&mut self, outcome: Result<(), Failure>) {
        let Some((flight, _)) = self.flights.pop_front() else { return };
        let delivered = match outcome {
            Ok(()) => true,
            Err(failure) => self.retry(&flight, failure).await,
        };
        if delivered {
            metrics::INGEST_EVENTS.with([self.protocol]).add(flight.messages());
        } else {
            let lost = flight.messages();
            metrics::INGEST_SYSLOG_FRAMES.with([self.protocol, "dropped"]).add(lost);
            tracing::error!(org = %self.org, "{lost} syslog messages are lost: Kafka did not take them before the stop");
        }
    }

    /// Settles all flights.
    pub async fn drain(&mut self) {
        while !self.is_empty() {
            let outcome = self.oldest().await;
            self.settle(outcome).await;
        }
    }

    async fn retry(&self, flight: &Flight, mut failure: Failure) -> bool {
        let mut pause = FIRST_PAUSE;
        loop {
            let messages = flight.messages();
            tracing::debug!(org = %self.org, "publishing {messages} syslog messages again: {}", explain(&failure));
            let stopping = self.shutdown.unless_requested(tokio::time::sleep(pause)).await.is_none();
            pause = (pause * 2).min(LONGEST_PAUSE);
            match self.publish(flight).wait().await.map(drop) {
                Ok(()) => return true,
                Err(_) if stopping => return false,
                Err(again) => failure = again,
            }
        }
    }

    fn publish(&self, flight: &Flight) -> Settlement {
        let (ticket, receipt) = Ticket::new();
        let mut records = Vec::new();
        for group in &flight.groups {
            records.clear();
            records.extend(group.frames.iter().filter_map(|frame| flight.data.get(frame.clone())));
            let push = Push {
                stream: Stream::Events,
                org: &self.org,
                protocol: self.protocol,
                format: group.format,
                sender: &group.sender,
                key: None,
                received_at: flight.received_at,
                records: &records,
            };
            if let Err(NotConnected) = self.publisher.add(&push, &ticket) {
                ticket.fail(Failure::Delivery("Kafka has not been reached yet".into()));
            }
        }
        ticket.close();
        receipt
    }
}
