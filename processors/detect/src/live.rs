//! The rules of now, swapped when their files change.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use detection::{Defect, Directory, Rules};
use service::metrics;

/// How often the rule directory is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Loads the rules; the task that keeps them up to date is to be spawned.
pub async fn open(
    path: &Path,
) -> anyhow::Result<(Arc<ArcSwap<Rules>>, impl Future<Output = ()> + Send + 'static)> {
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || Directory::open(&path));
    let (directory, defects) = opened.await.context("loading rules")??;
    tell(&directory.rules(), &defects);
    let rules = Arc::new(ArcSwap::new(directory.rules()));
    Ok((rules.clone(), watch(directory, rules)))
}

async fn watch(mut directory: Directory, rules: Arc<ArcSwap<Rules>>) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let looked = tokio::task::spawn_blocking(move || {
            let refreshed = directory.refresh();
            (directory, refreshed)
        });
        let refreshed;
        (directory, refreshed) = match looked.await {
            Ok(looked) => looked,
            // The runtime is going down, or the loader has a defect, which has been logged: the rules stay.
            Err(_) => return,
        };
        match refreshed {
            Ok(None) => {}
            Ok(Some(defects)) => {
                rules.store(directory.rules());
                tell(&directory.rules(), &defects);
                let result = if defects.is_empty() { "ok" } else { "failed" };
                metrics::DETECT_RELOADS.with([result]).add(1);
            }
            Err(error) => {
                tracing::error!(%error, "the rule directory cannot be read: the rules stay as they are");
                metrics::DETECT_RELOADS.with(["failed"]).add(1);
            }
        }
    }
}

fn tell(rules: &Rules, defects: &[Defect]) {
    for defect in defects {
        tracing::error!("rule refused: {defect}");
        metrics::DETECT_RULE_ERRORS.with(["refused"]).add(1);
    }
    tracing::info!(
        detections = rules.detections().len(),
        correlations = rules.correlations().len(),
        refused = defects.len(),
        "rules loaded"
    );
    metrics::DETECT_RULES.with(["active"]).set(rules.len() as f64);
    metrics::DETECT_RULES.with(["refused"]).set(defects.len() as f64);
}
