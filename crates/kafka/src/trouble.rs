//! What whoever operates a service should know of its clients.

use std::time::Duration;

use crate::consumer::ConsumerStats;
use crate::producer::ProducerStats;

/// A producer of which nothing has been acknowledged for so long waits for something.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// What keeps Kafka from being of use to a service; none if nothing does.
pub fn trouble(consumer: &ConsumerStats, producer: Option<&ProducerStats>) -> Option<String> {
    if consumer.brokers_up == Some(0) {
        return Some("no broker is connected".into());
    }
    let stalled = producer.filter(|producer| producer.stalled >= STALLED_AFTER)?;
    Some(format!(
        "of {} records under way none has been acknowledged for {} s",
        stalled.in_flight_records,
        stalled.stalled.as_secs()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_broker_and_no_acknowledgement_are_told() {
        let consumer = |brokers_up| ConsumerStats { brokers_up, ..ConsumerStats::default() };
        let producer = |stalled| ProducerStats { in_flight_records: 3, stalled, ..ProducerStats::default() };
        let told = |brokers_up, stalled| trouble(&consumer(brokers_up), Some(&producer(stalled)));
        assert_eq!(told(None, Duration::ZERO), None);
        assert_eq!(told(Some(1), Duration::from_secs(9)), None);
        assert_eq!(told(Some(0), Duration::ZERO), Some("no broker is connected".into()));
        let waits = "of 3 records under way none has been acknowledged for 12 s";
        assert_eq!(told(Some(1), Duration::from_secs(12)), Some(waits.into()));
        assert_eq!(trouble(&consumer(Some(2)), None), None);
    }
}
