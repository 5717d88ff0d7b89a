//! A rule directory that is watched: loaded once, and again when its files change.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::load::{Defect, Loaded, fingerprint, load};
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
        let (seen, loaded, _) = load_steady(path, &taxonomy, None, &mut || {}).map_err(unreadable)?;
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
        if fingerprint(&self.path)? == self.seen {
            return Ok(None);
        }
        let (seen, loaded, steady) = load_steady(&self.path, &self.taxonomy, Some(&self.rules), &mut || {})?;
        if !steady {
            return Err(io::Error::other(
                "the rules change while they are read; they are read again at the next look",
            ));
        }
        self.rules = Arc::new(loaded.rules);
        self.seen = seen;
        Ok(Some(loaded.defects))
    }
}

/// How often a directory is read that changes meanwhile.
const ATTEMPTS: usize = 3;

/// Loads a directory such that what was read is what was there at one moment, the fingerprint's: of one that is replaced
/// while it is read, half may be old, or nothing. Whether that succeeded comes third. `between` is called before each
/// second look, for tests.
fn load_steady(
    path: &Path,
    taxonomy: &Taxonomy,
    previous: Option<&Rules>,
    between: &mut dyn FnMut(),
) -> io::Result<(u64, Loaded, bool)> {
    let mut once = || {
        let seen = fingerprint(path)?;
        let loaded = load(path, taxonomy, previous)?;
        between();
        Ok((seen, loaded, fingerprint(path)? == seen))
    };
    for _ in 1..ATTEMPTS {
        if let Ok(read @ (_, _, true)) = once() {
            return Ok(read);
        }
    }
    once()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn write(path: &Path, title: &str, count: usize) {
        std::fs::create_dir_all(path).unwrap();
        for number in 0..count {
            let rule = format!(
                "title: {title}\nid: r{number}\nlogsource: {{category: webserver}}\ndetection: {{s: {{a: b}}, condition: s}}\n"
            );
            std::fs::write(path.join(format!("{number}.yml")), rule).unwrap();
        }
    }

    #[test]
    fn rules_replaced_while_they_are_read_are_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, next) = (folder.path().join("rules"), folder.path().join("next"));
        write(&path, "old", 20);
        let taxonomy = Taxonomy::shipped().unwrap();
        let mut replaced = 0;
        let mut replace = |times: usize| {
            if replaced < times {
                replaced += 1;
                write(&next, &format!("version {replaced}"), 20 + replaced);
                std::fs::remove_dir_all(&path).unwrap();
                std::fs::rename(&next, &path).unwrap();
            }
        };
        let (seen, loaded, steady) = load_steady(&path, &taxonomy, None, &mut || replace(2)).unwrap();
        assert!(steady);
        assert_eq!((seen, loaded.rules.len()), (fingerprint(&path).unwrap(), 22));
        assert!(loaded.rules.detections().iter().all(|rule| rule.meta.title == "version 2"));
        // One that does not come to rest is not taken for whole.
        let (_, _, steady) = load_steady(&path, &taxonomy, None, &mut || replace(usize::MAX)).unwrap();
        assert!(!steady);
    }

    #[test]
    fn rules_that_are_replaced_all_the_time_are_always_those_of_one_moment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules");
        write(&folder.path().join("v0"), "v0", 30);
        std::os::unix::fs::symlink(folder.path().join("v0"), &path).unwrap();
        let (mut directory, defects) = Directory::open(&path).unwrap();
        assert_eq!(defects, []);
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for version in 1..60 {
                    let (new, link) = (folder.path().join(format!("v{version}")), folder.path().join("link"));
                    // Of another length each: within a tick of the clock, times of files tell nothing.
                    write(&new, &"v".repeat(version + 2), 30);
                    std::os::unix::fs::symlink(&new, &link).unwrap();
                    std::fs::rename(&link, &path).unwrap();
                    std::fs::remove_dir_all(folder.path().join(format!("v{}", version - 1))).unwrap();
                }
                done.store(true, std::sync::atomic::Ordering::Release);
            });
            while !done.load(std::sync::atomic::Ordering::Acquire) {
                let _ = directory.refresh();
                let rules = directory.rules();
                let title = &rules.detections().first().unwrap().meta.title;
                assert_eq!(rules.len(), 30);
                assert!(rules.detections().iter().all(|rule| rule.meta.title == *title));
            }
        });
        directory.refresh().unwrap();
        assert_eq!(directory.rules().detections().first().unwrap().meta.title.len(), 61);
    }
}
