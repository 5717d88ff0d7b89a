//! Directories that are removed after use, also those of a run that was killed.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::postgres;

/// A directory of one run, held by a file lock. A run that cannot clean up loses the lock with its life, and the next
/// one removes what it left.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Makes a new directory inside `parent`, after removing those nobody holds any more.
    pub fn create(parent: &Path) -> Result<Scratch> {
        std::fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        // One at a time: a directory that is new and not locked yet must not look abandoned.
        let guard = open_lock(parent)?;
        guard.lock().with_context(|| format!("locking {}", parent.display()))?;
        sweep(parent)?;
        let path = parent.join(format!("{:08x}", rand::random::<u32>()));
        std::fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        let lock = open_lock(&path)?;
        lock.lock().with_context(|| format!("locking {}", path.display()))?;
        Ok(Scratch { path, _lock: lock })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is swept by the next run.
        let _ = remove(&self.path);
    }
}

fn open_lock(directory: &Path) -> Result<File> {
    let path = directory.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    file.with_context(|| format!("opening {}", path.display()))
}

fn sweep(parent: &Path) -> Result<()> {
    for entry in std::fs::read_dir(parent)? {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        match open_lock(&path)?.try_lock() {
            Ok(()) => remove(&path)?,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error).context("trying a lock"),
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    postgres::remove_outside_data(path)?;
    std::fs::remove_dir_all(path).with_context(|| format!("removing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_is_removed_and_what_lives_stays() {
        let parent = tempfile::tempdir().unwrap();
        let left = parent.path().join("00000000");
        std::fs::create_dir(&left).unwrap();
        let first = Scratch::create(parent.path()).unwrap();
        let second = Scratch::create(parent.path()).unwrap();
        assert!(!left.exists());
        assert!(first.path().exists() && second.path().exists());
    }

    #[test]
    fn a_dropped_scratch_directory_is_gone() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(parent.path()).unwrap();
        let path = scratch.path().to_path_buf();
        std::fs::write(path.join("file"), "data").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }
}
