//! Where a database is, with its password kept in.

use std::ffi::OsStr;
use std::fmt;
use std::str::FromStr;

use clap::builder::TypedValueParser;
use clap::error::{Error, ErrorKind};
use clap::{Arg, Command};
use tokio_postgres::config::{Host, SslMode};

/// A parsed connection string: a URL or libpq's `key=value` form. Shows itself without user name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl {
    config: tokio_postgres::Config,
}

/// A connection string is wrong. Says nothing of what it holds, which may be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidUrl(&'static str);

impl DatabaseUrl {
    /// The same server with another database: tests make one each.
    #[must_use]
    pub fn with_database(&self, name: &str) -> Self {
        let mut config = self.config.clone();
        config.dbname(name);
        Self { config }
    }

    /// Name of the database, where the URL has one.
    pub fn database(&self) -> Option<&str> {
        self.config.get_dbname()
    }

    /// Host and port, or socket directory and port, of every server named: `db1:5432,db2:5432`.
    pub fn address(&self) -> String {
        let ports = self.config.get_ports();
        let hosts = self.config.get_hosts();
        let count = hosts.len().max(self.config.get_hostaddrs().len());
        let one = |index: usize| {
            let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
            match hosts.get(index) {
                Some(Host::Tcp(name)) => format!("{name}:{port}"),
                Some(Host::Unix(directory)) => format!("{}:{port}", directory.display()),
                None => match self.config.get_hostaddrs().get(index) {
                    Some(address) => format!("{address}:{port}"),
                    None => port.to_string(),
                },
            }
        };
        (0..count).map(one).collect::<Vec<_>>().join(",")
    }

    pub(crate) fn config(&self) -> &tokio_postgres::Config {
        &self.config
    }
}

impl FromStr for DatabaseUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The driver's reason quotes the text, of which a password with a reserved character may be a part.
        let config: tokio_postgres::Config = text.parse().map_err(|_| {
            InvalidUrl(
                "not a connection string such as postgres://user:password@host:5432/database \
                 (reserved characters in a password are percent-encoded)",
            )
        })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(InvalidUrl("names no host; for a Unix socket add ?host=/its/directory"));
        }
        if config.get_ssl_mode() == SslMode::Require {
            return Err(InvalidUrl(
                "sslmode=require is not supported; use a TLS-terminating proxy beside the process",
            ));
        }
        Ok(Self { config })
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.database().unwrap_or_default())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

/// clap's own parsers quote the value they refuse; this one does not.
#[derive(Clone)]
pub(crate) struct Parser;

impl TypedValueParser for Parser {
    type Value = DatabaseUrl;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<DatabaseUrl, Error> {
        let flag = arg.and_then(Arg::get_long).unwrap_or("database-url");
        value.to_str().ok_or(InvalidUrl("not UTF-8")).and_then(str::parse).map_err(|error| {
            Error::raw(ErrorKind::ValueValidation, format!("--{flag}: {error}\n")).with_cmd(command)
        })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::url("postgres://u:hunter2@db:6432/tide", "db:6432/tide")]
    #[case::default_port("postgres://u:hunter2@db/tide", "db:5432/tide")]
    #[case::socket_in_query("postgres:///tide?host=/run/pg&port=5499&user=u", "/run/pg:5499/tide")]
    #[case::socket_encoded("postgres://u@%2Frun%2Fpg/tide", "/run/pg:5432/tide")]
    #[case::several("postgres://u:hunter2@a:1,b:2/tide", "a:1,b:2/tide")]
    #[case::key_value("host=db user=u password=hunter2 dbname=tide", "db:5432/tide")]
    #[case::host_address("hostaddr=10.0.0.1 user=u dbname=tide", "10.0.0.1:5432/tide")]
    fn a_url_shows_its_address_and_database_only(#[case] text: &str, #[case] shown: &str) {
        let url: DatabaseUrl = text.parse().unwrap();
        assert_eq!(url.to_string(), shown);
        assert_eq!(format!("{url:?}"), format!("DatabaseUrl({shown})"));
    }

    #[rstest]
    #[case::unknown_option("postgres://u@db/tide?hun=ter2")]
    #[case::slash_in_password("postgres://u:hun/ter2@db/tide?x@y")]
    #[case::port("postgres://u:hunter2@db:port/tide")]
    #[case::scheme("mysql://u:hunter2@db/tide")]
    #[case::no_host("postgres:///tide?user=hunter2")]
    #[case::tls("postgres://u:hunter2@db/tide?sslmode=require")]
    #[case::empty("")]
    fn a_refused_url_is_not_quoted(#[case] text: &str) {
        #[derive(clap::Parser, Debug)]
        struct Config {
            #[command(flatten)]
            postgres: crate::PostgresArgs,
        }
        let error = <Config as clap::Parser>::try_parse_from(["x", "--database-url", text]).unwrap_err();
        let told = error.to_string();
        assert!(told.contains("--database-url: "), "{told}");
        assert!(!told.contains("hun") && !told.contains("ter2"), "{told}");
    }

    #[test]
    fn another_database_of_the_same_server() {
        let url: DatabaseUrl = "postgres://u@db/postgres".parse().unwrap();
        assert_eq!(url.with_database("t_1").to_string(), "db:5432/t_1");
    }
}
