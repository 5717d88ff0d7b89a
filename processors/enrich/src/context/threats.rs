//! Threat lists: what is known to be bad, by address, domain or hash.

use std::net::IpAddr;

use ahash::AHashMap;
use memchr::memmem;

use super::file::{self, FileError, Kind, ThreatFile};
use super::prefixes::{self, Prefixes};

/// The label of an entry: `threat:KIND:LABEL`.
fn label(kind: Kind, text: &str, default: &str) -> Result<Box<str>, String> {
    let text = file::label(if text.is_empty() { default } else { text })?;
    Ok(format!("threat:{}:{text}", kind.name()).into())
}

/// Bad addresses and networks.
#[derive(Debug, Default)]
pub struct Ips {
    networks: Prefixes<Vec<Box<str>>>,
}

impl Ips {
    /// Reads a list.
    ///
    /// # Errors
    /// The file cannot be read, or a line does not start with an address or network.
    pub fn read(list: &ThreatFile) -> Result<Self, FileError> {
        let default = list.default_label();
        let mut networks = Prefixes::<Vec<Box<str>>>::default();
        file::read(&list.path, |network, text| {
            let label = label(Kind::Ip, text, &default)?;
            let known = networks.entry(prefixes::network(network)?);
            if !known.contains(&label) {
                known.push(label);
            }
            Ok(())
        })?;
        Ok(Self { networks })
    }

    /// Calls `found` with the labels of an address.
    pub fn visit<'c>(&'c self, address: IpAddr, mut found: impl FnMut(&'c str)) {
        for label in self.networks.matching(address).flatten() {
            found(label);
        }
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.networks.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Bad domains. A domain stands for its subdomains too.
#[derive(Debug, Default)]
pub struct Domains {
    labels: AHashMap<Box<str>, Box<str>>,
}

/// Fields whose value is the name of a host, with or without a port.
const HOST_FIELDS: &[&str] = &[
    "DestinationHostname",
    "QueryName",
    "destination.domain",
    "dns.question.name",
    "domain",
    "dst_host",
    "http_host",
    "http_request.url.hostname",
    "server_name",
    "sni",
    "tls.client.server_name",
    "url.domain",
    "vhost",
];

/// What stands between the scheme and the host of a URL, also where the URL is a parameter of another.
const BEFORE_HOST: [&str; 3] = ["://", "%3A%2F%2F", "%3a%2f%2f"];

/// Longest name in the DNS.
const MAX_DOMAIN_BYTES: usize = 253;

impl Domains {
    /// Reads a list; `*.` or a point before a domain says nothing more.
    ///
    /// # Errors
    /// The file cannot be read, or a line does not start with a domain.
    pub fn read(list: &ThreatFile) -> Result<Self, FileError> {
        let default = list.default_label();
        let mut labels = AHashMap::new();
        file::read(&list.path, |domain, text| {
            let label = label(Kind::Domain, text, &default)?;
            let name = domain.trim_start_matches("*.").trim_matches('.').to_ascii_lowercase();
            let legal = |c: char| c.is_alphanumeric() || c == '-' || c == '_' || c == '.';
            if !name.contains('.') || name.len() > MAX_DOMAIN_BYTES || !name.chars().all(legal) {
                return Err(format!("{domain:?} is no domain such as example.com"));
            }
            labels.entry(name.into()).or_insert(label);
            Ok(())
        })?;
        Ok(Self { labels })
    }

    /// Calls `found` with the labels of the domains in a field: its value where the field names a host, and the
    /// hosts of all URLs in any field.
    pub fn visit<'c>(&'c self, name: &str, value: &str, mut found: impl FnMut(&'c str)) {
        if HOST_FIELDS.contains(&name)
            && let Some(label) = self.of_host(value)
        {
            found(label);
        }
        for mark in BEFORE_HOST {
            for at in memmem::find_iter(value.as_bytes(), mark) {
                let rest = value.get(at + mark.len()..).unwrap_or_default();
                let end = rest.find(['/', '?', '#', '&', ' ', '"', '\'', '<', '>', '%', '\\', ',', ';', ')']);
                let authority = end.and_then(|end| rest.get(..end)).unwrap_or(rest);
                let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
                if let Some(label) = self.of_host(host) {
                    found(label);
                }
            }
        }
    }

    fn of_host(&self, host: &str) -> Option<&str> {
        let host = host.trim().split(':').next()?.trim_end_matches('.');
        if host.is_empty() || host.len() > MAX_DOMAIN_BYTES {
            return None;
        }
        let host = host.to_ascii_lowercase();
        let mut name = host.as_str();
        loop {
            if let Some(label) = self.labels.get(name) {
                return Some(label);
            }
            name = name.split_once('.')?.1;
        }
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// Bad files, by MD5, SHA-1 or SHA-256.
#[derive(Debug, Default)]
pub struct Hashes {
    labels: AHashMap<Box<str>, Box<str>>,
}

/// Whether a text is one of the hashes that lists have.
fn is_hash(text: &str) -> bool {
    matches!(text.len(), 32 | 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Hashes {
    /// Reads a list.
    ///
    /// # Errors
    /// The file cannot be read, or a line does not start with a hash.
    pub fn read(list: &ThreatFile) -> Result<Self, FileError> {
        let default = list.default_label();
        let mut labels = AHashMap::new();
        file::read(&list.path, |hash, text| {
            let label = label(Kind::Hash, text, &default)?;
            if !is_hash(hash) {
                return Err(format!("{hash:?} is no MD5, SHA-1 or SHA-256 in hexadecimal"));
            }
            labels.entry(hash.to_ascii_lowercase().into()).or_insert(label);
            Ok(())
        })?;
        Ok(Self { labels })
    }

    /// Calls `found` with the labels of the hashes in a field whose name says that it holds any
    /// (`Hashes`, `file.hash.sha256`, `md5` …), alone or as in `MD5=…,SHA256=…`.
    pub fn visit<'c>(&'c self, name: &str, value: &str, mut found: impl FnMut(&'c str)) {
        let last = name.rsplit('.').next().unwrap_or(name).to_ascii_lowercase();
        if !["hash", "md5", "sha1", "sha256"].iter().any(|word| last.contains(word)) {
            return;
        }
        for token in value.split(|c: char| !c.is_ascii_hexdigit()).filter(|token| is_hash(token)) {
            if let Some(label) = self.labels.get(token.to_ascii_lowercase().as_str()) {
                found(label);
            }
        }
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}
