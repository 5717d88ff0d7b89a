//! The clock of this host, which may be wrong: what is stored must not depend on it.

use schemas::Micros;

/// Now, as far as this host knows.
pub fn now() -> Micros {
    Micros(Micros::now().0.saturating_add(service::clock_error_seconds().saturating_mul(1_000_000)))
}
