//! Answers to pushes that were not taken: RFC 9457 problem details.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::split::{MAX_LISTED, Rejection};

/// Why a push was not taken, and what its sender can do.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    members: Map<String, Value>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), headers: Vec::new(), members: Map::new() }
    }

    fn header(mut self, name: HeaderName, value: impl TryInto<HeaderValue>) -> Self {
        if let Ok(value) = value.try_into() {
            self.headers.push((name, value));
        }
        self
    }

    fn retry_after(self, seconds: u32) -> Self {
        self.header(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// 400: the body, or a header, is not what it claims to be.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", detail)
    }

    /// 400: the body was understood, but none of its records can be taken.
    pub fn nothing_accepted(rejected: &[Rejection], unlisted: usize) -> Self {
        let total = rejected.len() + unlisted;
        let mut problem = Self::new(
            StatusCode::BAD_REQUEST,
            "nothing-accepted",
            format!("none of {total} records can be taken"),
        );
        problem.members.insert("accepted".into(), 0.into());
        problem.members.insert("rejected".into(), json!(rejected));
        if unlisted > 0 {
            problem.members.insert("rejected_unlisted".into(), unlisted.into());
            problem.detail += &format!("; the first {MAX_LISTED} are listed");
        }
        problem
    }

    /// 401: no token, or one that is not known or was revoked.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
            .header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }

    /// 403: a token that is good for something else.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// 404: no such path.
    pub fn not_found(path: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not-found",
            format!("there is no {path}; pushes go to /v1/events or /v1/findings"),
        )
    }

    /// 404: no receipt of this org's.
    pub fn no_receipt(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "no-receipt", detail)
    }

    /// 405: the path takes this method only.
    pub fn method_not_allowed(allowed: &Method) -> Self {
        let detail = match *allowed {
            Method::POST => "pushes are sent with POST",
            _ => "receipts are asked for with GET",
        };
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
            .header(header::ALLOW, allowed.as_str())
    }

    /// 408: the body did not arrive in time.
    pub fn timeout(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "timeout", detail)
            .header(header::CONNECTION, HeaderValue::from_static("close"))
    }

    /// 413: the body, decompressed, is larger than allowed, or holds too many records.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
    }

    /// 415: a content type that is not taken here; `accepted` names those that are.
    pub fn media_type(detail: impl Into<String>, accepted: &'static str) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type", detail)
            .header(HeaderName::from_static("accept-post"), HeaderValue::from_static(accepted))
    }

    /// 415: a content coding that is not taken.
    pub fn content_encoding(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-encoding", detail)
            .header(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd"))
    }

    /// 422: the Idempotency-Key is that of another push.
    pub fn other_push(key: &str) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-conflict",
            format!("another push has had the Idempotency-Key {key:?}; send this one with a key of its own"),
        )
    }

    /// 429: the org has as much under way as it may have.
    pub fn too_many(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many", detail).retry_after(1)
    }

    /// 503: something behind ingest cannot take it now. Nothing is known to be stored; the same push may be sent again.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail).retry_after(2)
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Its type, as the last part of the URN and as a metric's label.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The answer.
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let mut body = Map::new();
        body.insert("type".into(), format!("urn:tidewatch:problem:{}", self.code).into());
        body.insert("title".into(), self.status.canonical_reason().unwrap_or(self.code).into());
        body.insert("status".into(), self.status.as_u16().into());
        body.insert("detail".into(), self.detail.into());
        body.extend(self.members);
        let mut response = Response::new(Full::from(Value::Object(body).to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.extend(self.headers);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_says_what_to_do() {
        let retried =
            |problem: &Problem| problem.headers.iter().any(|(name, _)| *name == header::RETRY_AFTER);
        assert!(retried(&Problem::unavailable("x")) && retried(&Problem::too_many("x")));
        assert!(!retried(&Problem::malformed("x")));
        let response = Problem::method_not_allowed(&Method::POST).into_response();
        assert_eq!(response.headers()[header::ALLOW], "POST");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(Problem::unauthorized("x").into_response().headers()[header::WWW_AUTHENTICATE], "Bearer");
    }
}
