//! Takes pushes over HTTP and syslog and publishes them to Kafka.
//!
//! A push is authenticated, bounded, split into records and batched per partition; it is answered with 200 once the
//! broker has acknowledged every batch that holds a share of it, and with 503 when that takes too long. What a record
//! says is none of its business: that a line of NDJSON is one JSON object is all that is checked.
//!
//! docs/ingest.md describes the protocols, the limits and the answers.

mod body;
mod broker;
mod budget;
mod config;
mod http;
mod keyed;
mod keys;
mod problem;
mod publish;
mod receipted;
mod receipts;
mod server;
#[cfg(test)]
mod simulation;
mod split;
mod stored;
mod syslog;
mod ticket;
mod tokens;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use service::{Tasks, metrics};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;

pub use config::{Config, OrgListener};

use crate::body::Bounds;
use crate::broker::Broker;
use crate::budget::Budget;
use crate::http::PushApi;
use crate::keys::Keys;
use crate::publish::Publisher;
use crate::receipts::{Lookup, Positions};
use crate::tokens::Tokens;

/// How often gauges are set.
const GAUGES_EVERY: Duration = Duration::from_secs(1);
/// Syslog read over TCP and not yet acknowledged, KiB, all listeners together: while the broker is away, connections
/// past it are not read.
const MAX_SYSLOG_KIB: usize = 64 << 10;
/// For the last records to be acknowledged after every request has been answered.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs ingest until a stop is asked for and everything under way has been answered.
///
/// # Errors
/// An address that cannot be bound, or a client of Kafka or Postgres that cannot be set up.
pub async fn run(config: Config, context: service::Context) -> anyhow::Result<()> {
    Ingest::bind(config).await?.run(context).await
}

/// Ingest with its listeners bound and nothing running yet.
pub struct Ingest {
    config: Config,
    http: TcpListener,
    syslog_tcp: Vec<(TcpListener, Arc<str>)>,
    syslog_udp: Vec<(UdpSocket, Arc<str>)>,
}

impl Ingest {
    /// Binds every listener.
    ///
    /// # Errors
    /// An address that cannot be bound, by its flag.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let http = TcpListener::bind(config.http_listen)
            .await
            .with_context(|| format!("cannot listen on --http-listen {}", config.http_listen))?;
        let mut syslog_tcp = Vec::new();
        for OrgListener { address, org } in &config.syslog_tcp {
            let listener = TcpListener::bind(address)
                .await
                .with_context(|| format!("cannot listen on --syslog-tcp {address}"))?;
            syslog_tcp.push((listener, org.as_str().into()));
        }
        let mut syslog_udp = Vec::new();
        for OrgListener { address, org } in &config.syslog_udp {
            let socket = syslog::udp::bind(*address)
                .with_context(|| format!("cannot listen on --syslog-udp {address}"))?;
            syslog_udp.push((socket, org.as_str().into()));
        }
        Ok(Self { config, http, syslog_tcp, syslog_udp })
    }

    /// Where HTTP pushes are taken.
    ///
    /// # Errors
    /// The listener is broken.
    pub fn http_addr(&self) -> std::io::Result<SocketAddr> {
        self.http.local_addr()
    }

    /// Where syslog over TCP is taken, in the order of the flags.
    ///
    /// # Errors
    /// A listener is broken.
    pub fn syslog_tcp_addrs(&self) -> std::io::Result<Vec<SocketAddr>> {
        self.syslog_tcp.iter().map(|(listener, _)| listener.local_addr()).collect()
    }

    /// Where syslog over UDP is taken, in the order of the flags.
    ///
    /// # Errors
    /// A socket is broken.
    pub fn syslog_udp_addrs(&self) -> std::io::Result<Vec<SocketAddr>> {
        self.syslog_udp.iter().map(|(socket, _)| socket.local_addr()).collect()
    }

    /// Serves until a stop is asked for and everything under way has been answered.
    ///
    /// # Errors
    /// A client of Kafka or Postgres that cannot be set up, or the last records not being acknowledged.
    pub async fn run(self, context: service::Context) -> anyhow::Result<()> {
        let Self { config, http, syslog_tcp, syslog_udp } = self;
        let service::Context { shutdown, health } = context;
        let kafka = health.dependency("kafka").at(&config.kafka.brokers);
        let postgres = health.dependency("postgres").at(config.postgres.database_url.to_string());

        let broker = Broker::new(&config, kafka)?;
        let publisher = Arc::new(Publisher::new(Box::new(broker.sink()), config.linger));
        let pool = postgres::pool(&config.postgres, postgres::Session::default())
            .context("cannot set up the pool")?;
        let (stored, answerer) = stored::stored(pool.clone());
        let lookup = Lookup::new(pool.clone());
        let positions = Positions::new();
        let tokens = Tokens::new(pool, postgres, config.max_org_inflight_bytes);
        let keys = Keys::new();
        let budget = Arc::new(Budget::new(config.max_inflight_bytes));
        let api = Arc::new(PushApi {
            tokens: Arc::clone(&tokens),
            publisher: Arc::clone(&publisher),
            keys: Arc::clone(&keys),
            stored,
            lookup: lookup.clone(),
            positions: Arc::clone(&positions),
            shutdown: shutdown.clone(),
            budget: Arc::clone(&budget),
            bounds: Bounds { max_bytes: config.http_max_body_bytes, timeout: config.http_body_timeout },
            delivery_timeout: config.delivery_timeout,
            port: http.local_addr()?.port(),
        });
        tracing::info!(http = %http.local_addr()?, "taking pushes");

        let mut tasks = Tasks::new(&shutdown);
        tasks.background(Arc::clone(&publisher).keep_flushing());
        let watch = broker.clone().watch(Arc::clone(&publisher), config.partition_refresh, shutdown.clone());
        tasks.critical("kafka", watch);
        tasks.background(Arc::clone(&tokens).watch_postgres());
        tasks.background(answerer.run());
        tasks.background(positions.keep_asking(lookup));
        tasks.background(async move {
            let mut every = tokio::time::interval(GAUGES_EVERY);
            loop {
                every.tick().await;
                metrics::INGEST_BYTES_IN_FLIGHT.set(budget.used() as f64);
                metrics::INGEST_KEYS.set(keys.remembered() as f64);
            }
        });
        let limits = server::Limits {
            connections: config.http_max_connections,
            head_timeout: config.http_head_timeout,
        };
        tasks.critical("http", server::serve(http, api, limits, shutdown.clone()));
        let limits = syslog::tcp::Limits {
            under_way: Arc::new(Semaphore::new(MAX_SYSLOG_KIB)),
            connections: config.syslog_max_connections,
            idle: config.syslog_idle_timeout,
        };
        for (listener, org) in syslog_tcp {
            tracing::info!(syslog_tcp = %listener.local_addr()?, %org, "taking syslog");
            let publisher = Arc::clone(&publisher);
            tasks.critical(
                "syslog over tcp",
                syslog::tcp::serve(listener, org, publisher, limits.clone(), shutdown.clone()),
            );
        }
        for (socket, org) in syslog_udp {
            tracing::info!(syslog_udp = %socket.local_addr()?, %org, "taking syslog");
            let publisher = Arc::clone(&publisher);
            tasks.critical("syslog over udp", syslog::udp::serve(socket, org, publisher, shutdown.clone()));
        }
        tasks.then("flush the producer", FLUSH_TIMEOUT, async move {
            publisher.flush();
            broker.flush(FLUSH_TIMEOUT).await
        });
        tasks.run().await
    }
}
