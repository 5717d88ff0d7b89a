//! Answers that are not what was asked for: RFC 9457 problem details.

use axum::http::StatusCode;
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// The query parameter, header or member of the body.
    pub(crate) field: String,
    /// What is wrong with it.
    pub(crate) reason: String,
}

/// Why a request was not answered, and what to do (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Body {
    /// `urn:tidewatch:problem:` and a code.
    #[serde(rename = "type")]
    kind: String,
    /// The status in words.
    title: String,
    /// The status.
    status: u16,
    /// What happened, for a person.
    detail: String,
    /// Everything that is wrong with the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

/// A request that cannot be answered as it was meant.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    errors: Vec<FieldError>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), errors: Vec::new(), headers: Vec::new() }
    }

    fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// 400: parameters that cannot be used.
    pub(crate) fn parameters(errors: Vec<FieldError>) -> Self {
        let detail = list("the query parameters cannot be used", &errors);
        Self { errors, ..Self::new(StatusCode::BAD_REQUEST, "invalid-parameters", detail) }
    }

    /// 400: a body or header that is not what it should be.
    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", detail)
    }

    /// 401: no token.
    pub(crate) fn unauthenticated() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "send an analyst's token: Authorization: Bearer tw_analyst_…",
        )
        .header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tidewatch\""))
    }

    /// 401: a token that is not known, or was revoked.
    pub(crate) fn invalid_token() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "the token is not known, or was revoked").header(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"tidewatch\", error=\"invalid_token\""),
        )
    }

    /// 403: a token that is good for something else.
    pub(crate) fn forbidden() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "this is a token for pushing events; the API takes an analyst's",
        )
    }

    /// 404: it is not there, or not this org's.
    pub(crate) fn not_found(what: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", what)
    }

    /// 405: the path is there, the method is not.
    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "the path does not take this method; see /openapi.json",
        )
    }

    /// 409: the incident is in a state that does not allow it.
    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", detail)
    }

    /// 412: the incident is at another version than If-Match says.
    pub(crate) fn version(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "version", detail)
    }

    /// 413: the body is larger than any that makes sense.
    pub(crate) fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            format!("a body may have {limit} bytes at most"),
        )
    }

    /// 415: the body is said to be something other than JSON.
    pub(crate) fn media_type() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "media-type",
            "the body must be JSON: Content-Type: application/json",
        )
    }

    /// 422: a body that was understood and asks for what cannot be.
    pub(crate) fn fields(errors: Vec<FieldError>) -> Self {
        let detail = list("the body cannot be used", &errors);
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-fields", detail) }
    }

    /// 500: a defect; the log has it.
    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the request could not be answered; the log of the API says why",
        )
    }

    /// 503: something behind the API is not there; the same request may be sent again.
    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
            .header(header::RETRY_AFTER, HeaderValue::from_static("2"))
    }

    /// 504: it took too long.
    pub(crate) fn timeout(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", detail)
    }

    /// 408: the body did not arrive in time.
    pub(crate) fn slow_body() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "slow-body", "the body did not arrive in time")
            .header(header::CONNECTION, HeaderValue::from_static("close"))
    }

    #[cfg(test)]
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }
}

fn list(what: &str, errors: &[FieldError]) -> String {
    let each: Vec<String> = errors.iter().map(|error| format!("{} {}", error.field, error.reason)).collect();
    format!("{what}: {}", each.join("; "))
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, code, detail, errors, headers } = self;
        let body = Body {
            kind: format!("urn:tidewatch:problem:{code}"),
            title: status.canonical_reason().unwrap_or(code).to_owned(),
            status: status.as_u16(),
            detail,
            errors,
        };
        let mut response = (status, axum::Json(body)).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response.headers_mut().extend(headers);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_sent_again_says_when_and_who_lacks_a_token_learns_how() {
        let headers = |problem: Problem| problem.into_response().headers().clone();
        assert!(headers(Problem::unavailable("x")).contains_key(header::RETRY_AFTER));
        assert!(headers(Problem::unauthenticated()).contains_key(header::WWW_AUTHENTICATE));
        assert!(
            headers(Problem::invalid_token())[header::WWW_AUTHENTICATE]
                .to_str()
                .unwrap()
                .contains("invalid_token")
        );
        assert_eq!(headers(Problem::internal())[header::CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn every_wrong_parameter_is_named() {
        let error = |field: &str| FieldError { field: field.into(), reason: "is wrong".into() };
        let problem = Problem::parameters(vec![error("from"), error("limit")]);
        assert_eq!(problem.detail, "the query parameters cannot be used: from is wrong; limit is wrong");
    }
}
