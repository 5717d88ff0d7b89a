//! What the end-to-end tests stand on: a [`Pipeline`] (every service a process, on the Kafka and Postgres of
//! `tidewatch with-stack`), an [`Org`] to push and read as, a [`Load`] to put on it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test ends by panicking"
)]

mod load;
mod org;
mod pipeline;
mod until;

pub use load::{Load, RunningLoad};
pub use org::{Identity, Org};
pub use pipeline::Pipeline;
pub use until::until;

/// Now, RFC 3339 in UTC with microseconds.
pub fn now() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}

/// A login that succeeded, now, as sshd writes it.
pub fn accepted_login(user: &str, address: &str) -> String {
    format!(
        "<38>1 {} bastion sshd 77 - - Accepted password for {user} from {address} port 50022 ssh2\n",
        now()
    )
}

/// Twelve failed logins from one address within moments, as sshd writes them.
pub fn brute_force(address: &str) -> String {
    let mut lines = String::new();
    for attempt in 0..12 {
        let port = 40_000 + attempt;
        lines.push_str(&format!(
            "<38>1 {} bastion sshd {attempt} - - Failed password for root from {address} port {port} ssh2\n",
            now(),
        ));
    }
    lines
}
