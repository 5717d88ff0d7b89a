//! What a service's admin port answers on /readyz.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

const TIMEOUT: Duration = Duration::from_secs(2);

/// Whether a service can do its work, and why not.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Readiness {
    /// All dependencies are up.
    pub ready: bool,
    /// Kafka, Postgres and whatever else it needs.
    #[serde(default)]
    pub dependencies: Vec<Dependency>,
}

/// One thing a service depends on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Dependency {
    /// For people.
    pub name: String,
    /// It is up.
    pub ready: bool,
    /// Why not, when it is not.
    #[serde(default)]
    pub detail: Option<String>,
}

impl Readiness {
    /// Asks the admin port, which answers 200 or 503 with the same body.
    pub async fn ask(client: &reqwest::Client, port: u16) -> Result<Readiness> {
        let url = format!("http://127.0.0.1:{port}/readyz");
        let answer = client.get(&url).timeout(TIMEOUT).send().await.context("not listening yet")?;
        answer.json().await.with_context(|| format!("{url} does not answer as expected"))
    }

    /// What is missing, in one line; empty when nothing is.
    pub fn missing(&self) -> String {
        let missing = self.dependencies.iter().filter(|dependency| !dependency.ready);
        let described = missing.map(|Dependency { name, detail, .. }| match detail {
            Some(detail) if !detail.is_empty() => format!("{name}: {detail}"),
            _ => format!("{name} is not ready"),
        });
        described.collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_reason() {
        let body = r#"{"ready": false, "dependencies": [
            {"name": "kafka", "ready": true, "since": "2026-01-01T00:00:00Z", "detail": null},
            {"name": "postgres", "ready": false, "since": "2026-01-01T00:00:00Z", "detail": "connection refused"},
            {"name": "rules", "ready": false}]}"#;
        let readiness: Readiness = serde_json::from_str(body).unwrap();
        assert_eq!(readiness.missing(), "postgres: connection refused; rules is not ready");
    }
}
