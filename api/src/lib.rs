//! What analysts read, and the way for their changes.
//!
//! Reads go to Postgres, each scoped to the org of the bearer token: a query without an org cannot be written ([`select`],
//! [`store`]). Changes of incidents are published to Kafka, where they get their place among those of the detection; the
//! sink applies them. Nothing here writes to a table.

mod auth;
mod body;
mod cursor;
mod monitor;
mod names;
mod openapi;
mod params;
mod problem;
mod publish;
mod routes;
mod row;
mod select;
mod server;
mod slices;
mod store;
mod time;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::header;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use clap::Parser;
use kafka::KafkaArgs;
use postgres::PostgresArgs;
use service::{ConfigError, Context, ServiceArgs, Tasks, metrics};
use tokio::net::TcpListener;
use tower_http::compression::CompressionLayer;

use crate::problem::Problem;

/// A request is given up after this time: longer than the wait for a connection and a query together.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(40);

/// Reads for analysts; publishes incident changes.
#[derive(Debug, Parser)]
#[command(name = "tidewatch-api", version)]
pub struct Config {
    /// Address to serve the API on
    #[arg(long, env = "TIDEWATCH_API_LISTEN", value_name = "ADDR", default_value = "0.0.0.0:8081")]
    pub api_listen: SocketAddr,

    /// Connections open at once; one more is answered 503
    #[arg(long, env = "TIDEWATCH_API_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = 512)]
    pub api_max_connections: usize,

    /// The database.
    #[command(flatten)]
    pub postgres: PostgresArgs,

    /// The broker.
    #[command(flatten)]
    pub kafka: KafkaArgs,

    /// What every service has.
    #[command(flatten)]
    pub service: ServiceArgs,
}

impl service::Configuration for Config {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.api_listen.port() != 0 && self.api_listen == self.service.admin_listen {
            return Err(ConfigError::new("--api-listen", "is the address of --admin-listen too"));
        }
        if self.api_max_connections == 0 {
            return Err(ConfigError::new("--api-max-connections", "must be at least 1"));
        }
        Ok(())
    }

    fn service(&self) -> &ServiceArgs {
        &self.service
    }

    fn default_admin_port() -> u16 {
        9106
    }
}

/// What handlers share.
struct Api {
    store: store::Store,
    tokens: auth::Tokens,
    publisher: publish::Publisher,
}

/// Serves until a stop is asked for, and finishes what is under way.
///
/// # Errors
/// The address is taken, or the producer failed for good.
pub async fn run(config: Config, context: Context) -> anyhow::Result<()> {
    let address = config.api_listen;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; choose another address by --api-listen"))?;
    run_on(listener, config, context).await
}

/// [`run`] on a listener that is bound already.
///
/// # Errors
/// As [`run`].
pub async fn run_on(listener: TcpListener, config: Config, context: Context) -> anyhow::Result<()> {
    let api = Arc::new(Api {
        store: store::Store::new(&config.postgres).context("cannot make the pool")?,
        tokens: auth::Tokens::default(),
        publisher: publish::Publisher::new(&config.kafka)?,
    });
    let address = listener.local_addr().context("cannot tell the API's address")?;
    tracing::info!(api = %address, "serving the API");

    let mut tasks = Tasks::new(&context.shutdown);
    let router = router(Arc::clone(&api));
    let shutdown = context.shutdown.clone();
    tasks.critical("the API", async move {
        server::serve(listener, router, config.api_max_connections, shutdown).await;
        Ok(())
    });
    let (watched, shutdown) = (Arc::clone(&api), context.shutdown.clone());
    tasks.critical("the producer", async move {
        match shutdown.unless_requested(watched.publisher.failed()).await {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    });
    monitor::start(&mut tasks, &context, config.postgres, config.kafka, api)?;
    tasks.run().await
}

/// Every route with what lies around it.
fn router(api: Arc<Api>) -> Router {
    let (routes, document) = routes::router();
    // Fails for no document that a test has not seen fail.
    let document: Arc<str> = document.to_json().unwrap_or_default().into();
    let json = [(header::CONTENT_TYPE, "application/json")];
    routes
        .route("/openapi.json", get(async move || (json, document.to_string())))
        .fallback(async || Problem::not_found("there is no such path; see /openapi.json"))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(from_fn(around))
        .layer(CompressionLayer::new())
        .with_state(api)
}

/// Bounds a request in time and counts it.
async fn around(route: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let _in_flight = InFlight::new();
    let started = Instant::now();
    let response = match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::timeout("the answer took too long; ask for less").into_response(),
    };
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    metrics::API_REQUESTS.with([route, response.status().as_str()]).add(1);
    metrics::API_REQUEST_DURATION.with([route]).record_duration(started.elapsed());
    response
}

/// Counts also what is given up half-way, when its client goes away.
struct InFlight;

impl InFlight {
    fn new() -> Self {
        metrics::API_IN_FLIGHT.add(1.0);
        Self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        metrics::API_IN_FLIGHT.add(-1.0);
    }
}

#[cfg(test)]
mod tests;
