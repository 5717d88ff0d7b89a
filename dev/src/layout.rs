//! Where things are in a checkout.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Where a stack's state is kept instead of in the checkout's `.tidewatch`.
pub const STATE_DIR_VARIABLE: &str = "TIDEWATCH_STATE_DIR";
const STATE_DIR: &str = ".tidewatch";

/// The paths of one checkout and of what runs in it. Everything that is not under version control is in `.tidewatch/`,
/// or where `TIDEWATCH_STATE_DIR` says.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
    state: PathBuf,
}

impl Layout {
    /// The checkout that holds the running binary or the current directory.
    pub fn find() -> Result<Layout> {
        let binary = std::env::current_exe().ok();
        let directory = std::env::current_dir().ok();
        for start in [binary, directory].into_iter().flatten() {
            if let Some(root) = start.ancestors().find(|path| path.join("dev/kafka/pom.xml").is_file()) {
                let state = match std::env::var_os(STATE_DIR_VARIABLE) {
                    Some(state) if !state.is_empty() => std::path::absolute(state)?,
                    _ => root.join(STATE_DIR),
                };
                return Ok(Layout { root: root.to_path_buf(), state });
            }
        }
        bail!("neither this binary nor the current directory is inside a tidewatch checkout")
    }

    /// The checkout itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What runs and what it stores; safe to remove when nothing runs.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Logs of the stack in the background or of the demo.
    pub fn logs(&self) -> PathBuf {
        self.state().join("logs")
    }

    /// Data of `tidewatch up`, kept between runs.
    pub fn data(&self) -> PathBuf {
        self.state().join("data")
    }

    /// Variables for the user's shell, written by `tidewatch up`.
    pub fn env_file(&self) -> PathBuf {
        self.state().join("env")
    }

    /// Kafka's jars, always in the checkout.
    pub fn kafka_jars(&self) -> Result<PathBuf> {
        let jars = self.root.join(STATE_DIR).join("kafka/lib");
        if !jars.join("pom.xml").is_file() {
            bail!(
                "Kafka's jars are not in {}; `dev/install.sh` (or any make target) fetches them",
                jars.display()
            );
        }
        Ok(jars)
    }

    /// The shipped rules.
    pub fn rules(&self) -> PathBuf {
        self.root.join("rules")
    }

    /// The directory of the running binary, where the services' binaries are too.
    pub fn binaries() -> Result<PathBuf> {
        let binary = std::env::current_exe().context("finding this binary")?;
        Ok(binary.parent().unwrap_or(Path::new("/")).to_path_buf())
    }
}
