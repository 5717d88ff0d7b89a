//! An org to push and to read as.

use reqwest::{Method, Response};
use serde_json::Value;

use crate::Pipeline;
use crate::until::until;

/// Id and tokens of an org.
#[derive(Debug, Clone)]
pub struct Identity {
    pub(crate) id: String,
    pub(crate) ingest_token: String,
    pub(crate) analyst_token: String,
}

/// An org on a pipeline.
#[derive(Debug)]
pub struct Org<'a> {
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) identity: Identity,
}

impl<'a> Org<'a> {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.identity.id
    }

    /// Bearer token for pushes.
    pub fn ingest_token(&self) -> &str {
        &self.identity.ingest_token
    }

    /// Bearer token for the API.
    pub fn analyst_token(&self) -> &str {
        &self.identity.analyst_token
    }

    /// The pipeline it is on.
    pub fn pipeline(&self) -> &'a Pipeline {
        self.pipeline
    }

    /// Its id and tokens.
    pub fn identity(&self) -> Identity {
        self.identity.clone()
    }

    /// Its id and tokens without the pipeline, which can then be changed.
    pub fn detach(self) -> Identity {
        self.identity
    }

    /// Pushes a body to ingest and returns the answer, which must be a 200.
    pub async fn push(&self, path: &str, content_type: &str, body: impl Into<reqwest::Body>) -> Value {
        let answer = self
            .pipeline
            .http()
            .post(format!("{}{path}", self.pipeline.ingest_url()))
            .bearer_auth(self.ingest_token())
            .header("content-type", content_type)
            .body(body)
            .send()
            .await
            .unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Asks the API, whatever it answers.
    pub async fn raw(&self, method: &str, path: &str, body: Option<Value>) -> Response {
        let request = self
            .pipeline
            .http()
            .request(
                Method::from_bytes(method.as_bytes()).unwrap(),
                format!("{}{path}", self.pipeline.api_url()),
            )
            .bearer_auth(self.analyst_token());
        let request = if let Some(body) = body { request.json(&body) } else { request };
        request.send().await.unwrap()
    }

    /// Asks the API with a body; the answer must be a success.
    pub async fn send(&self, method: &str, path: &str, body: Value) -> Value {
        successful(path, self.raw(method, path, Some(body)).await).await
    }

    /// Reads from the API; the answer must be a success.
    pub async fn get(&self, path: &str) -> Value {
        successful(path, self.raw("GET", path, None).await).await
    }

    /// See [`Pipeline::until`].
    pub async fn until<T>(&self, what: &str, condition: impl AsyncFnMut() -> Option<T>) -> T {
        until(what, condition).await
    }
}

async fn successful(path: &str, answer: Response) -> Value {
    let status = answer.status();
    let text = answer.text().await.unwrap();
    assert!(status.is_success(), "{path}: {status} {text}");
    serde_json::from_str(&text).unwrap()
}
