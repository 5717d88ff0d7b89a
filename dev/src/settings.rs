//! What a local stack keeps beside its data, so that the next run has the same ports, password and tokens.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tidewatch_dev::{ServicePorts, Tokens, ports};

/// All ports of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// Kafka's clients.
    pub kafka: u16,
    /// Kafka's controller.
    pub kafka_controller: u16,
    /// Postgres.
    pub postgres: u16,
    /// Ingest, syslog, api.
    pub services: ServicePorts,
}

impl Ports {
    /// As in docker-compose.kafka.yml and in the documentation.
    pub const DEFAULT: Ports = Ports {
        kafka: 19_092,
        kafka_controller: 19_093,
        postgres: 15_432,
        services: ServicePorts { ingest: 8_080, api: 8_081, syslog: 5_514 },
    };

    /// These where they are free, others where they are not.
    pub fn free_or_others(self) -> Result<Ports> {
        let Ports { kafka, kafka_controller, postgres, services } = self;
        Ok(Ports {
            kafka: ports::free_or(kafka)?,
            kafka_controller: ports::free_or(kafka_controller)?,
            postgres: ports::free_or(postgres)?,
            services: ServicePorts {
                ingest: ports::free_or(services.ingest)?,
                api: ports::free_or(services.api)?,
                syslog: ports::free_or(services.syslog)?,
            },
        })
    }
}

/// Kept in `settings.json` of the data directory, readable by its owner alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The ports of the last run.
    pub ports: Ports,
    /// Of Postgres' roles.
    pub password: String,
    /// Of org `demo`; none until they are made.
    pub tokens: Option<Tokens>,
}

impl Settings {
    /// Default ports and a new password.
    pub fn new() -> Settings {
        Settings { ports: Ports::DEFAULT, password: format!("{:032x}", rand::random::<u128>()), tokens: None }
    }

    /// What the directory's last run kept, or new ones.
    pub fn load(directory: &Path) -> Result<Settings> {
        let path = directory.join("settings.json");
        match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Settings::new()),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Keeps them for the next run.
    pub fn store(&self, directory: &Path) -> Result<()> {
        write_private(&directory.join("settings.json"), &serde_json::to_vec_pretty(self)?)
    }
}

/// Writes a file that holds secrets: whole or not at all, for its owner alone.
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    let write = || {
        let _ = std::fs::remove_file(&new);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        std::fs::rename(&new, path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

/// The file a user's shell reads: one `export` a line.
pub fn env_file(variables: &[(&str, String)]) -> String {
    variables.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value))).collect()
}

/// As it is where a shell would leave it alone, in single quotes otherwise.
fn quoted(value: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || "-_.,:/@+=%".contains(char);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_shell_reads_back_what_the_env_file_was_given() {
        let values = ["http://127.0.0.1:8080", "postgres://u:p@h:1/d?a=b&c=d", "it's $HOME", "", "a b"];
        let variables: Vec<(&str, String)> =
            ["A", "B", "C", "D", "E"].into_iter().zip(values.map(String::from)).collect();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("env");
        std::fs::write(&file, env_file(&variables)).unwrap();
        let script = format!(". {}; printf '%s\\n' \"$A\" \"$B\" \"$C\" \"$D\" \"$E\"", file.display());
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            values.map(|value| format!("{value}\n")).concat()
        );
        assert!(env_file(&variables).starts_with("export A=http://127.0.0.1:8080\nexport B='postgres"));
    }

    #[test]
    fn settings_outlive_a_run_and_are_private() {
        let directory = tempfile::tempdir().unwrap();
        let mut settings = Settings::load(directory.path()).unwrap();
        settings.ports.kafka = 20_000;
        settings.tokens = Some(Tokens { ingest: "i".into(), analyst: "a".into() });
        settings.store(directory.path()).unwrap();
        assert_eq!(Settings::load(directory.path()).unwrap(), settings);
        let mode = directory.path().join("settings.json").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_taken_port_is_replaced_and_the_others_are_kept() {
        let wanted = Ports {
            kafka: ports::free().unwrap(),
            kafka_controller: ports::free().unwrap(),
            postgres: ports::free().unwrap(),
            services: ServicePorts::free().unwrap(),
        };
        let Ports { kafka, kafka_controller, postgres, services } = wanted;
        let _listener = std::net::TcpListener::bind(("127.0.0.1", postgres)).unwrap();
        for port in [kafka, kafka_controller, postgres, services.ingest, services.api, services.syslog] {
            ports::release(port);
        }
        let chosen = wanted.free_or_others().unwrap();
        assert_ne!(chosen.postgres, postgres);
        assert_eq!(Ports { postgres, ..chosen }, wanted);
    }
}
