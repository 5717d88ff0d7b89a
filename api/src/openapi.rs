//! The document that describes the API; its paths come from the handlers.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, OpenApi};
use utoipa::{Modify, OpenApi as _};

/// What is said of the API as a whole.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "tidewatch",
        description = "Events, findings, scans, incidents and counts of one org: the one that the bearer token belongs to.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "incidents", description = "What was detected, or created by hand, and what analysts make of it."),
        (name = "events", description = "Log events."),
        (name = "findings", description = "Scans and what they found."),
        (name = "counts", description = "Exact counts, kept as rows are stored."),
    ),
    security(("token" = [])),
    modifiers(&Token),
)]
struct Document;

struct Token;

impl Modify for Token {
    fn modify(&self, openapi: &mut OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("A token of kind analyst, made by `tidewatch-partitions token create`."))
            .build();
        openapi
            .components
            .get_or_insert_with(Components::new)
            .add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// The document without paths.
pub(crate) fn base() -> OpenApi {
    Document::openapi()
}
