//! What there is under /v1: one file a resource, each with its shape, its query and its handlers.

pub(crate) mod asks;
pub(crate) mod changes;
pub(crate) mod counts;
pub(crate) mod events;
pub(crate) mod evidence;
pub(crate) mod findings;
pub(crate) mod incidents;
pub(crate) mod scans;
pub(crate) mod summary;
pub(crate) mod walk;

use std::sync::Arc;

use axum::Router;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Api;

/// The routes, and the document that describes them.
pub(crate) fn router() -> (Router<Arc<Api>>, OpenApi) {
    OpenApiRouter::with_openapi(crate::openapi::base())
        .routes(routes!(incidents::list, changes::create))
        .routes(routes!(incidents::get, changes::change))
        .routes(routes!(events::list))
        .routes(routes!(findings::list))
        .routes(routes!(scans::list))
        .routes(routes!(counts::list))
        .routes(routes!(summary::get))
        .split_for_parts()
}
