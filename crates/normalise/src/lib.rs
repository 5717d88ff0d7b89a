//! Bytes of any supported format to an [`Event`], a [`Finding`] or a [`ScanActivity`]; pure.
//!
//! One raw record in, exactly one out. Events never fail for what they say: what no format claims is an
//! event of class 0 with its line as message. Only what cannot be stored at all is a [`Reject`]. The result
//! borrows from the input wherever the input already holds the text. docs/formats.md says what is
//! recognised and under which names fields are found.

mod access;
mod apache_error;
mod app;
mod attributes;
mod auditd;
mod dns;
mod draft;
mod event_json;
mod finding;
mod input;
mod ip;
mod json;
mod names;
mod netfilter;
mod pam;
mod severity;
mod sshd;
mod sudo;
mod syslog;
mod text;
mod time;
mod windows;

pub use finding::{FindingRecord, finding};
pub use input::{Input, MAX_EVENT_BYTES, digest, event, reject};
pub use ip::parse as parse_ip;
pub use json::for_each_string;
pub use time::parse_time;
