//! A client that knows no broker any more is given the bootstrap list again.
//!
//! A broker that went on after it had stood still may answer that no broker is alive. The client then forgets all it
//! knew, that broker included, and has nobody left to ask; librdkafka up to 2.15 starts again from its bootstrap list only
//! when a request fails, and there are none.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::statistics::Statistics;

use crate::native;

/// How often a client that has no statistics may be given the list: it keeps each copy.
const MEND_INTERVAL: Duration = Duration::from_secs(60);

/// Whether a client knows brokers, by its statistics.
#[derive(Debug, Default)]
pub(crate) struct Brokers {
    none: AtomicBool,
}

impl Brokers {
    pub(crate) fn hear(&self, statistics: &Statistics) {
        let real = |source: &str| !matches!(source, "logical" | "internal");
        let known = statistics.brokers.values().any(|broker| real(&broker.source));
        self.none.store(!known, Ordering::Release);
    }

    /// Gives the client `list` (`host:port,…`) if it has no broker.
    pub(crate) fn mend<C: ClientContext>(&self, client: &Client<C>, list: &str) {
        if self.none.swap(false, Ordering::AcqRel) {
            tracing::warn!(
                brokers = list,
                "no broker is known any more; starting again from the bootstrap list"
            );
            native::add_brokers(client, list);
        }
    }
}

/// The same for clients that are only asked now and then, by their failures.
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
    use rdkafka::statistics::Broker;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&["configured"], false)]
    #[case(&["learned", "logical", "internal"], false)]
    #[case(&["logical", "internal"], true)]
    #[case(&[], true)]
    fn the_coordinator_alone_is_no_broker_to_ask(#[case] sources: &[&str], #[case] none: bool) {
        let broker =
            |source: &&str| (source.to_string(), Broker { source: source.to_string(), ..Broker::default() });
        let statistics =
            Statistics { brokers: sources.iter().map(broker).collect(), ..Statistics::default() };
        let brokers = Brokers::default();
        brokers.hear(&statistics);
        assert_eq!(brokers.none.load(Ordering::Acquire), none);
    }

    #[test]
    fn a_client_is_given_the_list_once_a_minute_at_most() {
        let failures = Failures::default();
        assert!(failures.due());
        assert!(!failures.due());
    }
}
