//! Flags of `tidewatch-ingest`.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use kafka::KafkaArgs;
use postgres::PostgresArgs;
use schemas::OrgId;
use service::{ConfigError, ServiceArgs};

/// Takes pushes over HTTP and syslog and publishes them to Kafka.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "tidewatch-ingest", version)]
pub struct Config {
    /// Flags of every service.
    #[command(flatten)]
    pub service: ServiceArgs,

    /// Where Kafka is.
    #[command(flatten)]
    pub kafka: KafkaArgs,

    /// Where the tokens are.
    #[command(flatten)]
    pub postgres: PostgresArgs,

    /// Address for HTTP pushes
    #[arg(long, env = "TIDEWATCH_HTTP_LISTEN", value_name = "ADDR", default_value = "0.0.0.0:8080")]
    pub http_listen: SocketAddr,

    /// Address for syslog over TCP, and the org that its messages belong to; repeatable
    #[arg(long, env = "TIDEWATCH_SYSLOG_TCP_LISTEN", value_name = "ADDR=ORG", value_delimiter = ',')]
    pub syslog_tcp: Vec<OrgListener>,

    /// Address for syslog over UDP, and the org that its messages belong to; repeatable
    #[arg(long, env = "TIDEWATCH_SYSLOG_UDP_LISTEN", value_name = "ADDR=ORG", value_delimiter = ',')]
    pub syslog_udp: Vec<OrgListener>,

    /// HTTP connections open at once; one more is answered with 503
    #[arg(long, env = "TIDEWATCH_HTTP_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = 1024,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    pub http_max_connections: usize,

    /// Largest body of a push in bytes, as sent and as decompressed
    #[arg(long, env = "TIDEWATCH_HTTP_MAX_BODY_BYTES", value_name = "BYTES", default_value_t = 10 << 20,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1024..=100 << 20))]
    pub http_max_body_bytes: usize,

    /// Time for the head of a request; also closes a connection that idles for as long (30s, 500ms)
    #[arg(long, env = "TIDEWATCH_HTTP_HEAD_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub http_head_timeout: Duration,

    /// Time for the body of a request
    #[arg(long, env = "TIDEWATCH_HTTP_BODY_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub http_body_timeout: Duration,

    /// Time for the broker to acknowledge a push before it is answered with 503
    #[arg(long, env = "TIDEWATCH_DELIVERY_TIMEOUT", value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub delivery_timeout: Duration,

    /// Longest time that records wait for others to share a batch
    #[arg(long, env = "TIDEWATCH_LINGER", value_name = "TIME", default_value = "5ms", value_parser = duration)]
    pub linger: Duration,

    /// Bytes of HTTP pushes under way at once, all orgs together; a push past them is answered with 503
    #[arg(long, env = "TIDEWATCH_MAX_INFLIGHT_BYTES", value_name = "BYTES", default_value_t = 64 << 20)]
    pub max_inflight_bytes: usize,

    /// The same for one org, whose push past them is answered with 429
    #[arg(long, env = "TIDEWATCH_MAX_ORG_INFLIGHT_BYTES", value_name = "BYTES", default_value_t = 32 << 20)]
    pub max_org_inflight_bytes: usize,

    /// Syslog TCP connections open at once, per listener; one more is closed
    #[arg(long, env = "TIDEWATCH_SYSLOG_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = 512,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    pub syslog_max_connections: usize,

    /// A syslog TCP connection that sends nothing for this long is closed
    #[arg(long, env = "TIDEWATCH_SYSLOG_IDLE_TIMEOUT", value_name = "TIME", default_value = "1h", value_parser = duration)]
    pub syslog_idle_timeout: Duration,

    /// How often the brokers are asked whether topics have grown
    #[arg(long, env = "TIDEWATCH_PARTITION_REFRESH", value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub partition_refresh: Duration,
}

/// A listener whose messages belong to one org: `0.0.0.0:5514=demo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrgListener {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whose messages it takes.
    pub org: OrgId,
}

impl FromStr for OrgListener {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, org) = text.split_once('=').ok_or("is not ADDR=ORG, such as 0.0.0.0:5514=demo")?;
        Ok(Self {
            address: address.parse().map_err(|error| format!("{address:?}: {error}"))?,
            org: org.parse().map_err(|error| format!("{org:?}: {error}"))?,
        })
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let signed: jiff::SignedDuration = text.parse().map_err(|error| format!("{error}"))?;
    match Duration::try_from(signed) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("must be longer than nothing".to_owned()),
    }
}

/// Longest linger: a push waits up to one and a half of it.
const MAX_LINGER: Duration = Duration::from_secs(1);

impl service::Configuration for Config {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.linger > MAX_LINGER {
            return Err(ConfigError::new("--linger", format!("is at most {MAX_LINGER:?}")));
        }
        if self.delivery_timeout <= self.linger * 2 {
            return Err(ConfigError::new(
                "--delivery-timeout",
                "is shorter than twice --linger: no push could succeed",
            ));
        }
        if self.max_inflight_bytes < self.http_max_body_bytes {
            return Err(ConfigError::new(
                "--max-inflight-bytes",
                "is less than one body of --http-max-body-bytes",
            ));
        }
        if self.max_org_inflight_bytes < self.http_max_body_bytes {
            return Err(ConfigError::new(
                "--max-org-inflight-bytes",
                "is less than one body of --http-max-body-bytes",
            ));
        }
        for (flag, listeners) in [("--syslog-tcp", &self.syslog_tcp), ("--syslog-udp", &self.syslog_udp)] {
            for (n, listener) in listeners.iter().enumerate() {
                let taken = listeners.iter().take(n).any(|other| other.address == listener.address);
                if taken && listener.address.port() != 0 {
                    return Err(ConfigError::new(flag, format!("{} is given twice", listener.address)));
                }
            }
        }
        let tcp = self.syslog_tcp.iter().any(|listener| listener.address == self.http_listen);
        if tcp && self.http_listen.port() != 0 {
            return Err(ConfigError::new(
                "--syslog-tcp",
                format!("{} is --http-listen's address", self.http_listen),
            ));
        }
        Ok(())
    }

    fn service(&self) -> &ServiceArgs {
        &self.service
    }

    fn default_admin_port() -> u16 {
        9101
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use rstest::rstest;
    use service::Configuration;

    use super::*;

    fn config(flags: &[&str]) -> Config {
        Config::try_parse_from(["x", "--database-url", "postgres://localhost/tidewatch"].iter().chain(flags))
            .unwrap()
    }

    #[rstest]
    #[case(&["--linger", "2s"], "--linger")]
    #[case(&["--delivery-timeout", "10ms"], "--delivery-timeout")]
    #[case(&["--max-inflight-bytes", "1000"], "--max-inflight-bytes")]
    #[case(&["--max-org-inflight-bytes", "1000"], "--max-org-inflight-bytes")]
    #[case(&["--syslog-tcp", "0.0.0.0:5514=a", "--syslog-tcp", "0.0.0.0:5514=b"], "--syslog-tcp")]
    #[case(&["--syslog-udp", "0.0.0.0:5514=a,0.0.0.0:5514=b"], "--syslog-udp")]
    #[case(&["--syslog-tcp", "0.0.0.0:8080=a"], "--syslog-tcp")]
    fn wrong_combinations_name_their_flag(#[case] flags: &[&str], #[case] flag: &str) {
        assert_eq!(config(flags).validate().unwrap_err().flag(), flag);
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(config(&[]).validate(), Ok(()));
        let given = config(&["--syslog-tcp", "127.0.0.1:5514=demo,[::1]:5514=other"]);
        assert_eq!(given.validate(), Ok(()));
        assert_eq!(given.syslog_tcp[1].org.as_str(), "other");
    }

    #[test]
    fn listeners_name_an_address_and_an_org() {
        for bad in ["0.0.0.0:5514", "5514=demo", "0.0.0.0:5514=Demo Org", "=demo"] {
            assert!(bad.parse::<OrgListener>().is_err(), "{bad}");
        }
    }
}
