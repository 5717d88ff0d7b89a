//! Labels of the operator's own networks.

use std::net::IpAddr;
use std::path::Path;

use super::file::{self, FileError};
use super::prefixes::{self, Prefixes};

/// Labels of networks. An address has the labels of every network that holds it, the smallest network's first.
#[derive(Debug, Default)]
pub struct Assets {
    networks: Prefixes<Vec<Box<str>>>,
}

impl Assets {
    /// Reads a file of lines `CIDR label[,label…]`; a network on several lines has the labels of all.
    ///
    /// # Errors
    /// The file cannot be read, or a line is none of the above.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let mut networks = Prefixes::<Vec<Box<str>>>::default();
        file::read(path, |network, labels| {
            let network = prefixes::network(network)?;
            for label in labels.split(',') {
                let label = file::label(label)?;
                let known = networks.entry(network);
                if !known.iter().any(|known| **known == *label) {
                    known.push(label.into());
                }
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

    /// Networks that have labels.
    pub fn len(&self) -> usize {
        self.networks.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
