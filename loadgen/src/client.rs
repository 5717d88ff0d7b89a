//! One HTTP/1.1 connection to ingest, opened when it is needed.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, HeaderValue, RETRY_AFTER};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Longest answer that is read: a thousand rejections with their reasons.
const MAX_ANSWER_BYTES: usize = 4 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where ingest is.
#[derive(Debug, Clone)]
pub struct Origin {
    address: String,
    host: HeaderValue,
    /// What stands before `/v1/…`, for a proxy that mounts ingest below a path.
    base: String,
}

impl Origin {
    /// Reads `http://host[:port][/base]`.
    ///
    /// # Errors
    /// Anything else, https included: put a proxy that speaks TLS in front.
    pub fn new(url: &str) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("--ingest-url {url}"))?;
        if uri.scheme_str() != Some("http") {
            bail!("--ingest-url {url}: only http:// is spoken here");
        }
        let authority = uri.authority().ok_or_else(|| anyhow!("--ingest-url {url}: no host"))?;
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self {
            address: format!("{}:{port}", authority.host()),
            host: HeaderValue::from_str(authority.as_str())?,
            base: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// `path` below the base.
    pub fn path(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

/// What ingest answered.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Retry-After, in seconds.
    pub retry_after: Option<Duration>,
    /// Body.
    pub body: Bytes,
}

/// A connection that is opened anew when it has broken.
#[derive(Debug)]
pub struct Connection {
    origin: Origin,
    open: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    /// A connection that is not open yet.
    pub fn new(origin: Origin) -> Self {
        Self { origin, open: None }
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// No connection, a broken one, or no answer within `timeout`; whether the push arrived is not known then.
    pub async fn send(
        &mut self,
        mut request: Request<Full<Bytes>>,
        timeout: Duration,
    ) -> anyhow::Result<Answer> {
        request.headers_mut().insert(HOST, self.origin.host.clone());
        let answer = match tokio::time::timeout(timeout, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(anyhow!("no answer within {timeout:?}")),
        };
        if answer.is_err() {
            self.open = None;
        }
        answer
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        let ready = match self.open.take() {
            Some(mut open) => open.ready().await.is_ok().then_some(open),
            None => None,
        };
        let mut open = match ready {
            Some(open) => open,
            None => self.connect().await?,
        };
        let response = open.send_request(request).await.context("the connection broke")?;
        let status = response.status();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| anyhow!("the answer broke off: {error}"))?
            .to_bytes();
        self.open = Some(open);
        Ok(Answer { status, retry_after, body })
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let address = &self.origin.address;
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
            .await
            .map_err(|_| anyhow!("no connection to {address} within {CONNECT_TIMEOUT:?}"))?
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        let (open, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // How it ended is told by the request that was under way.
            let _ = connection.await;
        });
        Ok(open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_host_a_port_and_a_base() {
        let origin = Origin::new("http://localhost:8080/").unwrap();
        assert_eq!(
            (origin.address.as_str(), origin.path("/v1/events").as_str()),
            ("localhost:8080", "/v1/events")
        );
        let origin = Origin::new("http://ingest.example/tw").unwrap();
        assert_eq!((origin.address.as_str(), origin.path("/x").as_str()), ("ingest.example:80", "/tw/x"));
        for bad in ["https://x", "localhost:8080", "", "http://"] {
            assert!(Origin::new(bad).is_err(), "{bad}");
        }
    }
}
