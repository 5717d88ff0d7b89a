//! Files of context are read again when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use service::metrics;

use super::file::{FileError, Kind, ThreatFile};
use super::{Assets, Context, Domains, Hashes, Ips};

/// How often the files are looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// The files that context comes from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Labels of networks.
    pub assets: Option<PathBuf>,
    /// Threat lists.
    pub threats: Vec<ThreatFile>,
}

/// Time of change and size: another of either is another content.
type Stamp = Option<(SystemTime, u64)>;

fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// One file as it was read last.
enum Part {
    Assets(Arc<Assets>),
    Ips(Arc<Ips>),
    Domains(Arc<Domains>),
    Hashes(Arc<Hashes>),
}

enum Source {
    Assets(PathBuf),
    Threats(ThreatFile),
}

impl Source {
    fn path(&self) -> &Path {
        match self {
            Self::Assets(path) => path,
            Self::Threats(list) => &list.path,
        }
    }

    /// As a metric's label.
    fn name(&self) -> &'static str {
        match self {
            Self::Assets(_) => "assets",
            Self::Threats(list) => match list.kind {
                Kind::Ip => "threat_ip",
                Kind::Domain => "threat_domain",
                Kind::Hash => "threat_hash",
            },
        }
    }

    fn read(&self) -> Result<Part, FileError> {
        Ok(match self {
            Self::Assets(path) => Part::Assets(Arc::new(Assets::read(path)?)),
            Self::Threats(list) => match list.kind {
                Kind::Ip => Part::Ips(Arc::new(Ips::read(list)?)),
                Kind::Domain => Part::Domains(Arc::new(Domains::read(list)?)),
                Kind::Hash => Part::Hashes(Arc::new(Hashes::read(list)?)),
            },
        })
    }
}

struct Loaded {
    source: Source,
    stamp: Stamp,
    part: Part,
}

impl Loaded {
    /// The stamp is taken before reading: a change meanwhile shows at the next look.
    fn read(source: Source) -> Result<Self, FileError> {
        let stamp = stamp(source.path());
        let part = source.read()?;
        Ok(Self { source, stamp, part })
    }

    fn entries(&self) -> usize {
        match &self.part {
            Part::Assets(assets) => assets.len(),
            Part::Ips(ips) => ips.len(),
            Part::Domains(domains) => domains.len(),
            Part::Hashes(hashes) => hashes.len(),
        }
    }

    /// Reads the file again if it has changed; a broken one is told of once and changes nothing.
    fn refresh(&mut self) -> bool {
        let now = stamp(self.source.path());
        if now == self.stamp {
            return false;
        }
        self.stamp = now;
        let name = self.source.name();
        match self.source.read() {
            Ok(part) => {
                self.part = part;
                metrics::ENRICH_CONTEXT_RELOADS.with([name, "ok"]).add(1);
                tracing::info!(source = name, path = %self.source.path().display(), entries = self.entries(), "reloaded");
                true
            }
            Err(error) => {
                metrics::ENRICH_CONTEXT_RELOADS.with([name, "failed"]).add(1);
                tracing::error!(source = name, "cannot reload, the last good entries stay: {error}");
                false
            }
        }
    }
}

/// The context as it is now, and the files it comes from.
pub struct Live {
    files: Vec<Loaded>,
    current: Arc<ArcSwap<Context>>,
}

impl Live {
    /// Reads all files.
    ///
    /// # Errors
    /// A file cannot be used: a service that starts without a list it was told of would say nothing is on it.
    pub fn read(sources: &Sources) -> Result<Self, FileError> {
        let assets = sources.assets.iter().cloned().map(Source::Assets);
        let threats = sources.threats.iter().cloned().map(Source::Threats);
        let files = assets.chain(threats).map(Loaded::read).collect::<Result<Vec<_>, _>>()?;
        let live = Self { files, current: Arc::default() };
        live.publish();
        Ok(live)
    }

    /// Where the context of now can be had at any time.
    pub fn current(&self) -> Arc<ArcSwap<Context>> {
        Arc::clone(&self.current)
    }

    /// Looks at the files once; whether any was read again.
    pub fn refresh(&mut self) -> bool {
        let mut changed = false;
        for file in &mut self.files {
            changed |= file.refresh();
        }
        if changed {
            self.publish();
        }
        changed
    }

    fn publish(&self) {
        let mut context = Context::default();
        let mut entries = std::collections::BTreeMap::<&str, usize>::new();
        for file in &self.files {
            *entries.entry(file.source.name()).or_default() += file.entries();
            match &file.part {
                Part::Assets(assets) => context.assets = Arc::clone(assets),
                Part::Ips(ips) => context.ips.push(Arc::clone(ips)),
                Part::Domains(domains) => context.domains.push(Arc::clone(domains)),
                Part::Hashes(hashes) => context.hashes.push(Arc::clone(hashes)),
            }
        }
        for (name, count) in entries {
            metrics::ENRICH_CONTEXT_ENTRIES.with([name]).set(count as f64);
        }
        self.current.store(Arc::new(context));
    }

    /// Looks at the files every few seconds, for ever.
    pub async fn watch(mut self) {
        if self.files.is_empty() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            // Files may lie on slow disks, and long lists take a while.
            match tokio::task::spawn_blocking(move || {
                self.refresh();
                self
            })
            .await
            {
                Ok(live) => self = live,
                // The runtime is going down, or reading panicked, which ends the process.
                Err(_) => return,
            }
        }
    }
}
