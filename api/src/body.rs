//! Bodies of requests.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::header;
use serde::de::DeserializeOwned;

use crate::problem::{FieldError, Problem};

/// Room for a new incident with everything it may have.
pub(crate) const MAX_BODY_BYTES: usize = 256 * 1024;
/// Time for a body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A body of JSON, understood.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = content_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json")
            && !essence.eq_ignore_ascii_case("application/merge-patch+json")
        {
            return Err(Problem::media_type());
        }
        let body = axum::body::to_bytes(request.into_body(), MAX_BODY_BYTES);
        let bytes = tokio::time::timeout(BODY_TIMEOUT, body)
            .await
            .map_err(|_| Problem::slow_body())?
            // Too large, or cut off: then nobody reads the answer.
            .map_err(|_| Problem::too_large(MAX_BODY_BYTES))?;
        let mut deserializer = serde_json::Deserializer::from_slice(&bytes);
        let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            let reason = error.into_inner();
            if reason.is_data() {
                let field = if path == "." { "body".to_owned() } else { path };
                Problem::fields(vec![FieldError { field, reason: format!("cannot be used: {reason}") }])
            } else {
                Problem::malformed(format!("the body is not JSON: {reason}"))
            }
        })?;
        deserializer.end().map_err(|error| Problem::malformed(format!("the body is not JSON: {error}")))?;
        Ok(Self(value))
    }
}

/// Collects what is wrong with a body.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    errors: Vec<FieldError>,
}

impl Fields {
    pub(crate) fn wrong(&mut self, field: &str, reason: impl Into<String>) {
        self.errors.push(FieldError { field: field.to_owned(), reason: reason.into() });
    }

    /// Checks a text's length and that Postgres can hold it.
    pub(crate) fn text(&mut self, field: &str, text: &str, max_chars: usize) {
        if text.chars().count() > max_chars {
            self.wrong(field, format!("may have {max_chars} characters at most"));
        }
        if text.contains('\0') {
            self.wrong(field, "must not contain U+0000");
        }
    }

    pub(crate) fn optional(&mut self, field: &str, text: Option<&str>, max_chars: usize) {
        if let Some(text) = text {
            self.text(field, text, max_chars);
        }
    }

    /// # Errors
    /// Everything that was wrong.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::fields(self.errors)) }
    }
}
