//! What the operator knows and the event does not say: whose address it is, and what is known to be bad.

mod assets;
mod file;
mod prefixes;
mod reload;
mod threats;

use std::borrow::Cow;
use std::sync::Arc;

use schemas::{Event, Finding, flags};

pub use assets::Assets;
pub use file::{FileError, Kind, ThreatFile, ThreatFileError};
pub use reload::{Live, Sources};
pub use threats::{Domains, Hashes, Ips};

/// Lowest severity of an event that is on a threat list: high.
pub const THREAT_SEVERITY: i32 = 4;

/// All sources of context, as they are at one moment. A list is shared by all contexts made since it was read.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// Labels of addresses.
    pub assets: Arc<Assets>,
    /// Threat lists of addresses.
    pub ips: Vec<Arc<Ips>>,
    /// Threat lists of domains.
    pub domains: Vec<Arc<Domains>>,
    /// Threat lists of hashes.
    pub hashes: Vec<Arc<Hashes>>,
}

/// Events of a batch that a source added something to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Matches {
    /// Asset labels.
    pub assets: u64,
    /// Addresses on a threat list.
    pub ips: u64,
    /// Domains on a threat list.
    pub domains: u64,
    /// Hashes on a threat list.
    pub hashes: u64,
}

/// What was found about one event.
#[derive(Default)]
struct Found<'c> {
    labels: Vec<Cow<'c, str>>,
    asset: bool,
    ip: bool,
    domain: bool,
    hash: bool,
}

impl<'c> Found<'c> {
    fn add(&mut self, label: &'c str) {
        if !self.labels.iter().any(|known| known == label) {
            self.labels.push(Cow::Borrowed(label));
        }
    }

    fn threat(&self) -> bool {
        self.ip || self.domain || self.hash
    }

    fn count(&self, matches: &mut Matches) {
        matches.assets += u64::from(self.asset);
        matches.ips += u64::from(self.ip);
        matches.domains += u64::from(self.domain);
        matches.hashes += u64::from(self.hash);
    }
}

impl Context {
    /// Whether there is anything to look up at all.
    pub fn is_empty(&self) -> bool {
        self.assets.is_empty() && self.ips.is_empty() && !self.looks_at_fields()
    }

    fn looks_at_fields(&self) -> bool {
        !self.domains.is_empty() || !self.hashes.is_empty()
    }

    /// Adds labels, and flag and severity where something is on a threat list.
    pub fn apply_to_event<'c>(&'c self, event: &mut Event<'c>, matches: &mut Matches) {
        let mut found = Found::default();
        for address in [&event.src_ip, &event.dst_ip].into_iter().flatten() {
            self.look_up_address(address, &mut found);
        }
        self.look_up_fields(event.attributes.as_deref(), &mut found);
        if found.threat() {
            event.flags |= flags::THREAT;
            event.severity_id = raised(event.severity_id);
        }
        found.count(matches);
        event.labels.append(&mut found.labels);
    }

    /// The same for a finding, whose resource may be an address or URL and whose host an address.
    pub fn apply_to_finding<'c>(&'c self, finding: &mut Finding<'c>, matches: &mut Matches) {
        let mut found = Found::default();
        for address in [&finding.host, &finding.resource].into_iter().flatten() {
            self.look_up_address(address, &mut found);
        }
        if let Some(resource) = &finding.resource {
            self.look_up_field("resource", resource, &mut found);
        }
        self.look_up_fields(finding.attributes.as_deref(), &mut found);
        if found.threat() {
            finding.flags |= flags::THREAT;
            finding.severity_id = raised(finding.severity_id);
        }
        found.count(matches);
        finding.labels.append(&mut found.labels);
    }

    fn look_up_address<'c>(&'c self, text: &str, found: &mut Found<'c>) {
        if self.assets.is_empty() && self.ips.is_empty() {
            return;
        }
        let Some(address) = normalise::parse_ip(text) else { return };
        self.assets.visit(address, |label| {
            found.asset = true;
            found.add(label);
        });
        for list in &self.ips {
            list.visit(address, |label| {
                found.ip = true;
                found.add(label);
            });
        }
    }

    fn look_up_fields<'c>(&'c self, attributes: Option<&str>, found: &mut Found<'c>) {
        if let Some(attributes) = attributes.filter(|_| self.looks_at_fields()) {
            normalise::for_each_string(attributes, |name, value| self.look_up_field(name, value, found));
        }
    }

    fn look_up_field<'c>(&'c self, name: &str, value: &str, found: &mut Found<'c>) {
        for list in &self.domains {
            list.visit(name, value, |label| {
                found.domain = true;
                found.add(label);
            });
        }
        for list in &self.hashes {
            list.visit(name, value, |label| {
                found.hash = true;
                found.add(label);
            });
        }
    }
}

/// A severity that is at least [`THREAT_SEVERITY`]; 99 ("other") is below it.
fn raised(severity: i32) -> i32 {
    if (THREAT_SEVERITY..=6).contains(&severity) { severity } else { THREAT_SEVERITY }
}
