//! Readiness, by dependency.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use crate::metrics;

/// While a dependency stays down for the same reason, it is logged again this often.
const REMIND_EVERY: Duration = Duration::from_secs(10);

/// What the service depends on and whether each is there. Clones share their state.
///
/// A service is ready when it has registered at least one dependency and all of them are up. Register all of them
/// before reporting the first one up, or /readyz will say ready too early.
#[derive(Clone, Default)]
pub struct Health {
    dependencies: Arc<Mutex<Vec<State>>>,
}

struct State {
    name: String,
    address: Option<String>,
    /// Why it is down; `None` while it is up.
    down: Option<String>,
    since: Timestamp,
    told: Option<Instant>,
}

impl Health {
    /// Registers a dependency, down with the detail "starting". The same name again gives the same dependency.
    pub fn dependency(&self, name: impl Into<String>) -> Dependency {
        let name = name.into();
        let mut states = self.lock();
        let index = states.iter().position(|state| state.name == name).unwrap_or_else(|| {
            metrics::SERVICE_DEPENDENCY_UP.with([&name]).set(0.0);
            states.push(State {
                name,
                address: None,
                down: Some("starting".to_owned()),
                since: Timestamp::now(),
                told: None,
            });
            states.len() - 1
        });
        Dependency { health: self.clone(), index }
    }

    /// Whether there are dependencies and all of them are up.
    pub fn is_ready(&self) -> bool {
        let states = self.lock();
        !states.is_empty() && states.iter().all(|state| state.down.is_none())
    }

    /// The body of /readyz. A stopping service is not ready, so that no more work is sent its way while it drains.
    pub fn report(&self, stopping: bool) -> Report {
        let dependencies = self
            .lock()
            .iter()
            .map(|state| DependencyReport {
                name: state.name.clone(),
                ready: state.down.is_none(),
                since: state.since.to_string(),
                address: state.address.clone(),
                detail: state.down.clone(),
            })
            .collect();
        Report { ready: !stopping && self.is_ready(), stopping, dependencies }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<State>> {
        // Nothing in here panics half-way through a change.
        self.dependencies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Health").field(&self.report(false)).finish()
    }
}

/// One thing a service cannot do without. Clones report about the same thing.
#[derive(Clone, Debug)]
pub struct Dependency {
    health: Health,
    index: usize,
}

impl Dependency {
    /// Says where it is, for the log and /readyz: `127.0.0.1:9092`. No user names or passwords.
    pub fn at(self, address: impl Into<String>) -> Self {
        self.change(|state| state.address = Some(address.into()));
        self
    }

    /// It answers. Logged when that is a change; cheap otherwise.
    pub fn up(&self) {
        self.change(|state| {
            if state.down.take().is_some() {
                state.since = Timestamp::now();
                metrics::SERVICE_DEPENDENCY_UP.with([&state.name]).set(1.0);
                // Only a wait that was told of needs an end.
                if state.told.take().is_some() {
                    tracing::info!(dependency = state.name, "{} is there", state.label());
                }
            }
        });
    }

    /// It does not answer, and why. Logged as "waiting for kafka at 127.0.0.1:9092: connection refused" when the
    /// detail changes in more than its numbers, and every 10 s as long as it is reported.
    pub fn down(&self, detail: impl Into<String>) {
        let detail = detail.into();
        self.change(|state| {
            if state.down.is_none() {
                state.since = Timestamp::now();
                metrics::SERVICE_DEPENDENCY_UP.with([&state.name]).set(0.0);
            }
            let changed = !state.down.as_deref().is_some_and(|before| same_but_for_numbers(before, &detail));
            if changed || state.told.is_none_or(|told| told.elapsed() >= REMIND_EVERY) {
                state.told = Some(Instant::now());
                tracing::warn!(dependency = state.name, "waiting for {}: {detail}", state.label());
            }
            state.down = Some(detail);
        });
    }

    /// Whether the last report was [`up`](Self::up).
    pub fn is_up(&self) -> bool {
        let mut up = false;
        self.change(|state| up = state.down.is_none());
        up
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        // Entries are never removed, so the index stays valid.
        if let Some(state) = self.health.lock().get_mut(self.index) {
            change(state);
        }
    }
}

impl State {
    fn label(&self) -> String {
        match &self.address {
            Some(address) => format!("{} at {address}", self.name),
            None => self.name.clone(),
        }
    }
}

/// librdkafka's errors count milliseconds and attempts: no news.
fn same_but_for_numbers(a: &str, b: &str) -> bool {
    let letters = |c: &char| !c.is_ascii_digit();
    a.chars().filter(letters).eq(b.chars().filter(letters))
}

/// The body of /readyz.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether the service does its work: answered with 200, else with 503.
    pub ready: bool,
    /// Whether a shutdown is under way.
    pub stopping: bool,
    /// In the order of their registration.
    pub dependencies: Vec<DependencyReport>,
}

/// One dependency in a [`Report`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DependencyReport {
    /// Its name: `kafka`, `postgres`.
    pub name: String,
    /// Whether it answers.
    pub ready: bool,
    /// Since when it has been up or down, RFC 3339.
    pub since: String,
    /// Where it is, if that was said.
    pub address: Option<String>,
    /// Why it is down; null while it is up.
    pub detail: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_registered_is_not_ready() {
        assert!(!Health::default().report(false).ready);
    }

    #[test]
    fn ready_means_every_dependency_is_up() {
        let health = Health::default();
        let kafka = health.dependency("kafka").at("127.0.0.1:9092");
        let postgres = health.dependency("postgres");
        kafka.up();
        assert!(!health.is_ready());
        postgres.up();
        assert!(health.is_ready());
        kafka.down("connection refused");
        let report = health.report(false);
        assert!(!report.ready);
        assert_eq!(report.dependencies[0].detail.as_deref(), Some("connection refused"));
        assert_eq!(report.dependencies[0].address.as_deref(), Some("127.0.0.1:9092"));
        assert!(report.dependencies[1].ready && report.dependencies[1].detail.is_none());
    }

    #[test]
    fn a_stopping_service_is_not_ready() {
        let health = Health::default();
        health.dependency("postgres").up();
        assert!(health.report(false).ready);
        assert!(!health.report(true).ready);
    }

    #[test]
    fn a_name_registered_twice_is_one_dependency() {
        let health = Health::default();
        health.dependency("kafka").up();
        assert!(health.dependency("kafka").is_up());
        assert_eq!(health.report(false).dependencies.len(), 1);
    }

    #[test]
    fn a_detail_that_differs_in_numbers_is_no_news() {
        assert!(same_but_for_numbers("refused (after 3ms)", "refused (after 12ms)"));
        assert!(!same_but_for_numbers("refused (after 3ms)", "timed out (after 3ms)"));
    }

    #[test]
    fn since_changes_with_the_state_and_not_with_every_report() {
        let health = Health::default();
        let kafka = health.dependency("kafka");
        kafka.up();
        let up_since = health.report(false).dependencies[0].since.clone();
        kafka.up();
        assert_eq!(health.report(false).dependencies[0].since, up_since);
    }
}
