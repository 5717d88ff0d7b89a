//! Documents among the rules that are not Sigma's.

use serde::de::DeserializeOwned;

use crate::engine::{Refusal, check_text};

/// Whether a document has a part that only rules, correlations and filters have.
pub(crate) fn is_sigma(text: &str) -> bool {
    let begins = |key: &str| text.lines().any(|line| line.starts_with(key));
    ["filter:", "detection:", "correlation:"].into_iter().any(begins)
}

/// Reads a document; `what` says which kind is wrong.
pub(crate) fn parse<T: DeserializeOwned>(text: &str, what: &str) -> Result<T, Refusal> {
    check_text(text)?;
    serde_norway::from_str(text).map_err(|error| {
        let line = error.location().map(|location| location.line());
        Refusal { line, reason: format!("the {what} is wrong: {error}") }
    })
}
