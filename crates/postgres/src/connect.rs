//! One connection.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Socket};

use crate::classify::{Class, classify, describe};
use crate::url::DatabaseUrl;

/// Bound of connecting, authentication included, and of each server's TCP handshake.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A peer that acknowledges nothing for this long is gone (TCP_USER_TIMEOUT; it overrides the keepalives' count).
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// An idle connection is probed after this time; firewalls forget one after some minutes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// The driver's default for the former, which is the kernel's: told from a value that the URL sets.
const KEEPALIVE_IDLE_UNSET: Duration = Duration::from_secs(2 * 60 * 60);

/// Settings that a connection starts with, beside those in the URL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Session {
    /// Statements that take longer are cancelled (57014, [`Class::Saturation`]).
    pub statement_timeout: Option<Duration>,
    /// A transaction idle for longer ends its connection (25P03), so that a stopped process cannot hold its locks.
    pub idle_in_transaction_timeout: Option<Duration>,
    /// A statement that waits longer for a lock fails (55P03, [`Class::Transient`]).
    pub lock_timeout: Option<Duration>,
    /// Further settings by name, without spaces: `("jit", "off")`.
    pub settings: &'static [(&'static str, &'static str)],
}

/// A connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server took the connection and said nothing.
    #[error("no answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout,
    /// The server, or the way to it, refused.
    #[error("{}", describe(.0))]
    Refused(#[source] tokio_postgres::Error),
}

impl ConnectError {
    /// What to do about it. A wrong password or database is fatal here; see
    /// [`wait_until_ready`](crate::wait_until_ready), which waits for both.
    pub fn class(&self) -> Class {
        match self {
            Self::Timeout => Class::Transient,
            Self::Refused(error) => classify(error),
        }
    }
}

/// Opens a connection and spawns its task, which ends with the client or the server.
///
/// # Errors
/// No server, no answer within 5 s, or a refusal.
pub async fn connect(url: &DatabaseUrl) -> Result<Client, ConnectError> {
    connect_with(url, &Session::default()).await
}

/// [`connect`] with settings.
///
/// # Errors
/// As [`connect`].
pub async fn connect_with(url: &DatabaseUrl, session: &Session) -> Result<Client, ConnectError> {
    let config = prepared(url, session);
    let (client, _task) = tokio::time::timeout(CONNECT_TIMEOUT, open(&config))
        .await
        .map_err(|_| ConnectError::Timeout)?
        .map_err(ConnectError::Refused)?;
    Ok(client)
}

pub(crate) async fn open(config: &Config) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    Ok((client, tokio::spawn(serve(connection))))
}

async fn serve(mut connection: Connection<Socket, tokio_postgres::tls::NoTlsStream>) {
    loop {
        match std::future::poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notice(notice))) => {
                tracing::debug!(severity = notice.severity(), "postgres: {}", notice.message());
            }
            Some(Ok(_)) => {}
            // Whoever uses the client gets its own error and decides; this one tells why.
            Some(Err(error)) => {
                tracing::warn!("a connection to postgres ended: {}", describe(&error));
                return;
            }
            None => return,
        }
    }
}

/// The URL's configuration with what it leaves open filled in.
pub(crate) fn prepared(url: &DatabaseUrl, session: &Session) -> Config {
    let mut config = url.config().clone();
    if config.get_application_name().is_none() {
        config.application_name(program_name());
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(UNACKNOWLEDGED);
    }
    if config.get_keepalives_idle() == KEEPALIVE_IDLE_UNSET {
        config.keepalives_idle(KEEPALIVE_IDLE);
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(KEEPALIVE_INTERVAL);
    }
    let settings = session.options();
    if !settings.is_empty() {
        // What the URL says comes last, and wins.
        let options = [&settings, config.get_options().unwrap_or_default()].join(" ");
        config.options(options.trim_end());
    }
    config
}

impl Session {
    fn options(&self) -> String {
        let timeouts = [
            ("statement_timeout", self.statement_timeout),
            ("idle_in_transaction_session_timeout", self.idle_in_transaction_timeout),
            ("lock_timeout", self.lock_timeout),
        ];
        timeouts
            .into_iter()
            .filter_map(|(name, value)| Some(format!("-c {name}={}", value?.as_millis())))
            .chain(self.settings.iter().map(|(name, value)| format!("-c {name}={value}")))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// The binary's name, which `pg_stat_activity` shows: `tidewatch-sink`.
fn program_name() -> String {
    std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "tidewatch".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_options_and_the_url_wins() {
        let url: DatabaseUrl = "postgres://u@db/tide?options=-c%20statement_timeout%3D1".parse().unwrap();
        let session = Session {
            statement_timeout: Some(Duration::from_secs(30)),
            idle_in_transaction_timeout: Some(Duration::from_secs(10)),
            settings: &[("jit", "off")],
            ..Session::default()
        };
        assert_eq!(
            prepared(&url, &session).get_options(),
            Some(
                "-c statement_timeout=30000 -c idle_in_transaction_session_timeout=10000 -c jit=off -c statement_timeout=1"
            )
        );
    }

    #[test]
    fn what_the_url_sets_is_kept() {
        let url = "postgres://u@db/tide?application_name=me&connect_timeout=1&keepalives_idle=7";
        let config = prepared(&url.parse().unwrap(), &Session::default());
        assert_eq!(config.get_application_name(), Some("me"));
        assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(1)));
        assert_eq!(config.get_keepalives_idle(), Duration::from_secs(7));
        assert_eq!(config.get_tcp_user_timeout(), Some(&UNACKNOWLEDGED));
        assert_eq!(config.get_options(), None);
    }
}
