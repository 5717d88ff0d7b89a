//! Receipts: what became of an acknowledged push, asked for later or waited for.
//!
//! A receipt is all in its id: where the records of the push are, or under which key, and nothing is kept for it. So it
//! costs nothing until it is asked for, is good on every instance, and outlives them all.

mod id;
mod lookup;
mod waiter;

pub use id::MAX_RANGES;
pub use lookup::Lookup;
pub use waiter::Positions;

use schemas::Stream;

use crate::ticket::Placed;

/// A push as far as its fate depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Where it went.
    pub stream: Stream,
    /// When the broker had acknowledged it, seconds since 1970.
    pub acknowledged_at: i64,
    /// Records taken.
    pub accepted: u32,
    /// How it is found again.
    pub trace: Trace,
}

/// How a push is found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trace {
    /// By the raw records that its records are in, ascending.
    Placed(Vec<Placed>),
    /// By its Idempotency-Key: whichever copy was stored. Parts it was cut into, and SHA-256 of the push.
    Keyed {
        /// The key.
        key: Box<str>,
        /// How many.
        parts: u32,
        /// SHA-256.
        digest: [u8; 32],
    },
}

/// What has become of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Kafka has it; some of it is not in Postgres yet.
    Acknowledged,
    /// Every record is a row: so many of them in quarantine.
    Settled {
        /// In `quarantine`.
        quarantined: u64,
    },
    /// Some of it was given up by an operator: `tidewatch-partitions accept`.
    Lost,
}

impl Fate {
    /// Its name in answers and metrics. `accepted` is how many records there are.
    pub fn name(self, accepted: u32) -> &'static str {
        match self {
            Self::Acknowledged => "acknowledged",
            Self::Settled { quarantined } if quarantined > 0 && quarantined >= u64::from(accepted) => {
                "quarantined"
            }
            Self::Settled { .. } => "stored",
            Self::Lost => "lost",
        }
    }
}
