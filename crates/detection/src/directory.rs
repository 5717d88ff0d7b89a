//! A rule directory that is watched: loaded once, and again when its files change.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::load::{Defect, fingerprint, load};
use crate::rules::Rules;
use crate::taxonomy::{Taxonomy, TaxonomyError};

/// Why a rule directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be read.
    #[error("{path} cannot be read: {error}")]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The tables of log sources and fields cannot be read.
    #[error(transparent)]
    Taxonomy(#[from] TaxonomyError),
}

/// The rules of a directory, as of the last look at it.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    taxonomy: Taxonomy,
    rules: Arc<Rules>,
    seen: u64,
}

impl Directory {
    /// Loads the rules under `path`; the documents that are wrong are left out and told. Reads files: not for a runtime's
    /// worker.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn open(path: &Path) -> Result<(Self, Vec<Defect>), OpenError> {
        let taxonomy = Taxonomy::shipped()?;
        let unreadable = |error| OpenError::Unreadable { path: path.to_owned(), error };
        // Before the files are read: what changes meanwhile is seen at the next look.
        let seen = fingerprint(path).map_err(unreadable)?;
        let loaded = load(path, &taxonomy, None).map_err(unreadable)?;
        let rules = Arc::new(loaded.rules);
        Ok((Self { path: path.to_owned(), taxonomy, rules, seen }, loaded.defects))
    }

    /// The rules.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.clone()
    }

    /// Loads the rules again if a file has changed, keeping the last good version of what is wrong now; the documents that
    /// are wrong. None when nothing has changed.
    ///
    /// # Errors
    /// The directory cannot be read; all rules stay.
    pub fn refresh(&mut self) -> io::Result<Option<Vec<Defect>>> {
        let seen = fingerprint(&self.path)?;
        if seen == self.seen {
            return Ok(None);
        }
        let loaded = load(&self.path, &self.taxonomy, Some(&self.rules))?;
        self.rules = Arc::new(loaded.rules);
        self.seen = seen;
        Ok(Some(loaded.defects))
    }
}
