//! The admin listener: /metrics, /healthz, /readyz.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::lifecycle::Context;
use crate::metrics;

/// Binds and serves until the handle is dropped: also while the service drains, so that it can be watched doing so.
pub(crate) async fn start(listen: SocketAddr, context: &Context) -> anyhow::Result<AbortOnDropHandle<()>> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}; choose another address by --admin-listen"))?;
    let address = listener.local_addr().context("cannot tell the admin listener's address")?;
    tracing::info!(%address, "admin listener: /metrics /healthz /readyz");
    let router = router(context.clone());
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!("the admin listener ended: {error}");
        }
    })))
}

fn router(context: Context) -> Router {
    Router::new()
        .route("/metrics", get(render_metrics))
        // Answers as long as the runtime turns; a supervisor restarts what does not answer.
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readiness))
        .with_state(context)
}

async fn render_metrics() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::render())
}

async fn readiness(State(context): State<Context>) -> impl IntoResponse {
    let report = context.health.report(context.shutdown.is_requested());
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report))
}
