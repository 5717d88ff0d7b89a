//! Logs of one run: removed when it went well, kept for a while when it did not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tidewatch_dev::Layout;

const RETENTION: Duration = Duration::from_secs(3 * 24 * 3600);

/// The directory of one run's logs.
#[derive(Debug)]
pub struct RunLogs {
    path: PathBuf,
}

impl RunLogs {
    /// `.tidewatch/logs/<kind>-<pid>`, after removing old ones of the kind.
    pub fn create(layout: &Layout, kind: &str) -> Result<RunLogs> {
        let parent = layout.logs();
        sweep(&parent, &format!("{kind}-"))?;
        let path = parent.join(format!("{kind}-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(RunLogs { path })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Nobody will want to read them.
    pub fn discard(self) -> Result<()> {
        std::fs::remove_dir_all(&self.path).with_context(|| format!("removing {}", self.path.display()))
    }
}

fn sweep(parent: &Path, prefix: &str) -> Result<()> {
    for entry in std::fs::read_dir(parent).into_iter().flatten() {
        let entry = entry?;
        let ours = entry.file_name().to_string_lossy().starts_with(prefix);
        let age = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .ok()
            .and_then(|time| time.elapsed().ok());
        if ours && age.is_some_and(|age| age > RETENTION) {
            // Another run may be doing the same.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}
