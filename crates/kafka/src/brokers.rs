//! A client that has lost its brokers, though they are there.
//!
//! A broker that goes on after it stood still may answer that no broker is alive. librdkafka (2.12) then forgets all it
//! knew, that broker included, and may be left without anybody to ask, or with one to whom it never connects. The first
//! is given the bootstrap list again. The second cannot be helped from outside: when the brokers answer a new client and this
//! one has no connection all the same, it has failed for good.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::statistics::{Broker, Statistics};

use crate::args::KafkaArgs;
use crate::context::Quiet;
use crate::error::{Class, Error};
use crate::native;

/// How often a client that has no statistics may be given the list: it keeps each copy.
const MEND_INTERVAL: Duration = Duration::from_secs(60);
/// Without a connection for so long, a client is compared with a new one.
const SUSPECT_AFTER: Duration = Duration::from_secs(15);
/// The pause between two comparisons; several statistics lie in it.
const COMPARE_INTERVAL: Duration = Duration::from_secs(10);
const COMPARE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a client's statistics say of its brokers.
#[derive(Debug, Default)]
pub(crate) struct Brokers {
    none: AtomicBool,
    unconnected: Mutex<Option<Unconnected>>,
}

#[derive(Debug)]
struct Unconnected {
    since: Instant,
    compared: Option<Instant>,
    /// A new client was answered.
    answered: bool,
}

impl Brokers {
    pub(crate) fn hear(&self, statistics: &Statistics, now: Instant) {
        self.none.store(real(statistics).next().is_none(), Ordering::Release);
        let mut unconnected = self.unconnected.lock();
        if connected(statistics) > 0 {
            *unconnected = None;
        } else if unconnected.is_none() {
            *unconnected = Some(Unconnected { since: now, compared: None, answered: false });
        }
    }

    /// Gives the client the bootstrap list again if it has no broker. May block for two seconds, once in ten.
    ///
    /// # Errors
    /// It is unconnected, and twice in a row a new client was not.
    pub(crate) fn mend<C: ClientContext>(&self, client: &Client<C>, args: &KafkaArgs) -> Result<(), Error> {
        if self.none.swap(false, Ordering::AcqRel) {
            tracing::warn!(
                brokers = args.brokers,
                "no broker is known any more; starting again from the bootstrap list"
            );
            native::add_brokers(client, &args.brokers);
        }
        if !self.is_suspect(Instant::now()) {
            return Ok(());
        }
        let answered = answers_anew(args);
        if self.compared(answered, Instant::now()) {
            let reason = format!(
                "it has had no connection for {SUSPECT_AFTER:?} and more, though {} answers a new client; start again",
                args.brokers
            );
            return Err(Error::other("keeping the Kafka client connected", reason, Class::Fatal));
        }
        Ok(())
    }

    fn is_suspect(&self, now: Instant) -> bool {
        self.unconnected.lock().as_ref().is_some_and(|unconnected| {
            now.duration_since(unconnected.since) >= SUSPECT_AFTER
                && unconnected.compared.is_none_or(|at| now.duration_since(at) >= COMPARE_INTERVAL)
        })
    }

    /// Notes how a new client fared; whether that is enough.
    fn compared(&self, answered: bool, now: Instant) -> bool {
        let mut unconnected = self.unconnected.lock();
        let Some(unconnected) = unconnected.as_mut() else { return false };
        let again = answered && unconnected.answered;
        unconnected.compared = Some(now);
        unconnected.answered = answered;
        again
    }
}

/// The brokers that can be asked and fetched from. The connection to a group's coordinator is one more to a broker that
/// is among them: it may stand while they are all lost.
fn real(statistics: &Statistics) -> impl Iterator<Item = &Broker> {
    let brokers = statistics.brokers.values();
    brokers.filter(|broker| !matches!(broker.source.as_str(), "logical" | "internal"))
}

fn is_up(broker: &Broker) -> bool {
    matches!(broker.state.as_str(), "UP" | "REAUTH")
}

/// How many of them are connected.
pub(crate) fn connected(statistics: &Statistics) -> usize {
    real(statistics).filter(|broker| is_up(broker)).count()
}

/// Whether the one of this id is.
pub(crate) fn is_connected(statistics: &Statistics, id: i32) -> bool {
    real(statistics).any(|broker| broker.nodeid == id && is_up(broker))
}

/// Whether the brokers answer a client that is made for the question.
fn answers_anew(args: &KafkaArgs) -> bool {
    let client = args.client_config("tidewatch-probe").create_with_context(Quiet::default());
    client.is_ok_and(|client: BaseConsumer<Quiet>| {
        client.fetch_metadata(None, COMPARE_TIMEOUT).is_ok_and(|metadata| !metadata.brokers().is_empty())
    })
}

/// The list for clients that are only asked now and then, by their failures.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    mended: Mutex<Option<Instant>>,
}

impl Failures {
    /// Whether it is time to give the list after a failure.
    pub(crate) fn due(&self) -> bool {
        let mut mended = self.mended.lock();
        let due = mended.is_none_or(|at| at.elapsed() >= MEND_INTERVAL);
        if due {
            *mended = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn statistics(brokers: &[(&str, &str)]) -> Statistics {
        let broker = |(source, state): &(&str, &str)| {
            let (source, state) = (source.to_string(), state.to_string());
            (source.clone(), Broker { source, state, ..Broker::default() })
        };
        Statistics { brokers: brokers.iter().map(broker).collect(), ..Statistics::default() }
    }

    #[rstest]
    #[case(&[("configured", "INIT")], false, 0)]
    #[case(&[("configured", "UP"), ("learned", "DOWN")], false, 1)]
    #[case(&[("learned", "UP"), ("logical", "UP"), ("internal", "UP")], false, 1)]
    #[case(&[("learned", "DOWN"), ("logical", "UP"), ("internal", "UP")], false, 0)]
    #[case(&[("logical", "UP"), ("internal", "UP")], true, 0)]
    #[case(&[], true, 0)]
    fn the_coordinator_alone_is_no_broker_to_ask(
        #[case] known: &[(&str, &str)],
        #[case] none: bool,
        #[case] up: usize,
    ) {
        let (brokers, statistics) = (Brokers::default(), statistics(known));
        brokers.hear(&statistics, Instant::now());
        assert_eq!((brokers.none.load(Ordering::Acquire), connected(&statistics)), (none, up));
    }

    /// Seconds, and what happens: what the statistics say, or how a new client fared.
    enum Step {
        Heard(bool),
        Compared(bool),
    }

    #[rstest]
    #[case::lost(&[(0, Step::Heard(false)), (20, Step::Compared(true)), (25, Step::Heard(false)), (30, Step::Compared(true))], true)]
    #[case::connected_meanwhile(&[(0, Step::Heard(false)), (20, Step::Compared(true)), (25, Step::Heard(true)), (30, Step::Compared(true))], false)]
    #[case::an_outage(&[(0, Step::Heard(false)), (20, Step::Compared(false)), (30, Step::Compared(false)), (40, Step::Compared(true))], false)]
    #[case::too_soon(&[(0, Step::Heard(false)), (10, Step::Compared(true)), (14, Step::Compared(true))], false)]
    fn a_client_has_failed_when_a_new_one_is_answered_twice(
        #[case] steps: &[(u64, Step)],
        #[case] failed: bool,
    ) {
        let (brokers, start) = (Brokers::default(), Instant::now());
        let mut last = false;
        for (seconds, step) in steps {
            let now = start + Duration::from_secs(*seconds);
            match step {
                Step::Heard(true) => brokers.hear(&statistics(&[("learned", "UP")]), now),
                Step::Heard(false) => {
                    brokers.hear(&statistics(&[("learned", "DOWN"), ("logical", "UP")]), now)
                }
                Step::Compared(answered) => {
                    last = brokers.is_suspect(now) && brokers.compared(*answered, now)
                }
            }
        }
        assert_eq!(last, failed);
    }

    #[test]
    fn a_client_is_given_the_list_once_a_minute_at_most() {
        let failures = Failures::default();
        assert!(failures.due());
        assert!(!failures.due());
    }
}
