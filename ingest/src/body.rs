//! Bodies of pushes: what they claim to be, read and decompressed within bounds.

use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use schemas::Stream;
use tokio::time::Instant;

use crate::budget::{Exhausted, Lease};
use crate::problem::Problem;
use crate::split::Layout;

/// Content types of JSON lines, the registered and the common ones.
const JSON_LINES: [&str; 6] = [
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonl",
    "application/jsonlines",
    "application/x-jsonlines",
];

const EVENT_TYPES: &str = "application/x-ndjson, application/jsonlines, application/json, text/plain";
const FINDING_TYPES: &str = "application/x-ndjson, application/jsonlines, application/json";

/// Decompressed bytes are leased and grown by this much.
const STEP_BYTES: usize = 64 * 1024;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// RFC 1952, one member or several.
    Gzip,
    /// RFC 8878, one frame or several.
    Zstd,
}

/// How records are delimited, by Content-Type.
///
/// # Errors
/// 415 naming what is accepted.
pub fn layout(headers: &HeaderMap, stream: Stream) -> Result<Layout, Problem> {
    let accepted = match stream {
        Stream::Events => EVENT_TYPES,
        Stream::Findings => FINDING_TYPES,
    };
    let Some(value) = single(headers, CONTENT_TYPE) else {
        return Err(Problem::media_type(
            format!("the push has no Content-Type; accepted are {accepted}"),
            accepted,
        ));
    };
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" => Ok(Layout::Json),
        "text/plain" if stream == Stream::Events => Ok(Layout::Text),
        essence if JSON_LINES.contains(&essence) => Ok(Layout::JsonLines),
        _ => {
            let shown: String = essence.chars().take(80).collect();
            Err(Problem::media_type(format!("{shown:?} is not accepted; accepted are {accepted}"), accepted))
        }
    }
}

/// How the body is compressed, by Content-Encoding.
///
/// # Errors
/// 415 naming what is accepted.
pub fn encoding(headers: &HeaderMap) -> Result<Encoding, Problem> {
    let value = single(headers, CONTENT_ENCODING).unwrap_or("identity").trim().to_ascii_lowercase();
    match value.as_str() {
        "" | "identity" => Ok(Encoding::Identity),
        "gzip" | "x-gzip" => Ok(Encoding::Gzip),
        "zstd" => Ok(Encoding::Zstd),
        _ => Err(Problem::content_encoding("accepted content encodings are gzip and zstd, one at a time")),
    }
}

/// A header's value; a header that is repeated or not ASCII has one that nothing accepts.
fn single(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    Some(if values.next().is_some() { "repeated" } else { first.to_str().unwrap_or("not ascii") })
}

/// What bounds the reading of a body.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Largest body, bytes, as sent and as decompressed.
    pub max_bytes: usize,
    /// Time for all of it to arrive.
    pub timeout: Duration,
}

/// Reads a body as it was sent.
///
/// # Errors
/// 413, 408, 429, 503, or 400 when the peer breaks it off.
pub async fn read(
    headers: &HeaderMap,
    body: &mut Incoming,
    bounds: Bounds,
    lease: &mut Lease,
) -> Result<Bytes, Problem> {
    let declared = match single(headers, CONTENT_LENGTH) {
        Some(value) => value.parse().unwrap_or(usize::MAX),
        None => 0,
    };
    if declared > bounds.max_bytes {
        return Err(over_limit(bounds.max_bytes));
    }
    let deadline = Instant::now() + bounds.timeout;
    let mut first = Bytes::new();
    let mut whole = Vec::new();
    while let Some(data) = next_data(body, deadline, bounds.timeout).await? {
        lease.grow(data.len())?;
        let so_far = first.len() + whole.len();
        if data.len() > bounds.max_bytes - so_far {
            return Err(over_limit(bounds.max_bytes));
        }
        if so_far == 0 {
            first = data;
            continue;
        }
        if !first.is_empty() {
            whole.reserve_exact(declared.max(so_far + data.len()));
            whole.extend_from_slice(&std::mem::take(&mut first));
        }
        whole.extend_from_slice(&data);
    }
    Ok(if whole.is_empty() { first } else { whole.into() })
}

async fn next_data(
    body: &mut Incoming,
    deadline: Instant,
    bound: Duration,
) -> Result<Option<Bytes>, Problem> {
    loop {
        match tokio::time::timeout_at(deadline, body.frame()).await {
            Err(_) => return Err(Problem::timeout(format!("the body did not arrive within {bound:?}"))),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => return Err(Problem::malformed(format!("the body broke off: {error}"))),
            Ok(Some(Ok(frame))) => {
                // A frame of trailers says nothing about the body.
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

fn over_limit(max_bytes: usize) -> Problem {
    Problem::too_large(format!("the body is larger than {max_bytes} bytes, decompressed; split the push"))
}

/// Why a body cannot be decompressed.
#[derive(Debug)]
pub enum DecodeError {
    /// More than the limit comes out of it.
    TooLarge(usize),
    /// It is not what its Content-Encoding says.
    Corrupt(&'static str, std::io::Error),
    /// No bytes left to hold it.
    Exhausted(Exhausted),
}

impl From<DecodeError> for Problem {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::TooLarge(max_bytes) => over_limit(max_bytes),
            DecodeError::Corrupt(coding, error) => {
                Problem::malformed(format!("the body is not valid {coding}: {error}"))
            }
            DecodeError::Exhausted(exhausted) => exhausted.into(),
        }
    }
}

/// Decompresses a body, stopping at `max_bytes` of output however little input they took.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode(
    encoding: Encoding,
    body: Bytes,
    max_bytes: usize,
    lease: &mut Lease,
) -> Result<Bytes, DecodeError> {
    match encoding {
        Encoding::Identity => Ok(body),
        Encoding::Gzip => {
            inflate(flate2::bufread::MultiGzDecoder::new(body.as_ref()), "gzip", max_bytes, lease)
        }
        Encoding::Zstd => {
            let corrupt = |error| DecodeError::Corrupt("zstd", error);
            let mut decoder = zstd::stream::read::Decoder::with_buffer(body.as_ref()).map_err(corrupt)?;
            // A window larger than the largest body is never needed; RFC 8878 has decoders support 8 MiB.
            let window_log = usize::BITS - max_bytes.saturating_sub(1).leading_zeros();
            decoder.window_log_max(window_log.clamp(23, 27)).map_err(corrupt)?;
            inflate(decoder, "zstd", max_bytes, lease)
        }
    }
}

fn inflate(
    mut decoder: impl Read,
    coding: &'static str,
    max_bytes: usize,
    lease: &mut Lease,
) -> Result<Bytes, DecodeError> {
    let mut out = Vec::new();
    loop {
        lease.grow(STEP_BYTES).map_err(DecodeError::Exhausted)?;
        out.reserve(STEP_BYTES);
        let read = decoder
            .by_ref()
            .take(STEP_BYTES as u64)
            .read_to_end(&mut out)
            .map_err(|error| DecodeError::Corrupt(coding, error))?;
        if out.len() > max_bytes {
            return Err(DecodeError::TooLarge(max_bytes));
        }
        if read < STEP_BYTES {
            return Ok(out.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use rstest::rstest;

    use super::*;
    use crate::budget::{Budget, Org};

    const LIMIT: usize = 10 << 20;

    fn lease(bytes: usize) -> Lease {
        let org = Org { id: "demo".into(), budget: Budget::new(usize::MAX) };
        Lease::new(Arc::new(Budget::new(bytes)), Arc::new(org))
    }

    fn gzip(body: &[u8]) -> Bytes {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(body).unwrap();
        out.finish().unwrap().into()
    }

    fn compressed(encoding: Encoding, body: &[u8]) -> Bytes {
        match encoding {
            Encoding::Identity => Bytes::copy_from_slice(body),
            Encoding::Gzip => gzip(body),
            Encoding::Zstd => zstd::encode_all(body, 3).unwrap().into(),
        }
    }

    #[rstest]
    #[case(Encoding::Gzip)]
    #[case(Encoding::Zstd)]
    fn compressed_bodies_come_back_up_to_the_limit_and_not_past_it(#[case] encoding: Encoding) {
        let body = vec![b'x'; LIMIT];
        let decoded = decode(encoding, compressed(encoding, &body), LIMIT, &mut lease(LIMIT * 2)).unwrap();
        assert_eq!(decoded, body);
        // Three parts in one stream, as `cat a.gz b.gz` makes them.
        let parts = [b"one\n".as_slice(), b"two\n", b""].map(|part| compressed(encoding, part)).concat();
        assert_eq!(decode(encoding, parts.into(), LIMIT, &mut lease(LIMIT)).unwrap(), b"one\ntwo\n"[..]);

        // A bomb: a gigabyte out of a megabyte or less. The lease shows how much of it was ever held.
        let bomb = compressed(encoding, &vec![0; 1 << 30]);
        let mut held = lease(LIMIT + 2 * STEP_BYTES);
        assert!(matches!(decode(encoding, bomb, LIMIT, &mut held), Err(DecodeError::TooLarge(LIMIT))));
    }

    #[rstest]
    #[case(Encoding::Gzip)]
    #[case(Encoding::Zstd)]
    fn what_is_not_compressed_or_cut_short_is_corrupt(#[case] encoding: Encoding) {
        let good = compressed(encoding, &b"line\n".repeat(100_000));
        for bad in [Bytes::from_static(b"{\"a\":1}"), good.slice(..good.len() - 5)] {
            let error = decode(encoding, bad, LIMIT, &mut lease(LIMIT)).unwrap_err();
            assert!(matches!(error, DecodeError::Corrupt(..)), "{error:?}");
        }
        let error = decode(encoding, good, LIMIT, &mut lease(STEP_BYTES)).unwrap_err();
        assert!(matches!(error, DecodeError::Exhausted(Exhausted::Whole)), "{error:?}");
    }

    #[rstest]
    #[case("application/x-ndjson", Some(Layout::JsonLines))]
    #[case("Application/JSONLines; charset=utf-8", Some(Layout::JsonLines))]
    #[case("application/json", Some(Layout::Json))]
    #[case("text/plain;charset=UTF-8", Some(Layout::Text))]
    #[case("application/x-www-form-urlencoded", None)]
    #[case("", None)]
    fn content_types_say_how_records_are_delimited(#[case] value: &str, #[case] expected: Option<Layout>) {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, value.parse().unwrap())]);
        assert_eq!(layout(&headers, Stream::Events).ok(), expected);
        // A line of text is no finding.
        let expected = expected.filter(|layout| *layout != Layout::Text);
        assert_eq!(layout(&headers, Stream::Findings).ok(), expected);
        assert!(layout(&HeaderMap::new(), Stream::Events).is_err());
    }

    #[test]
    fn content_encodings_come_one_at_a_time() {
        for (value, expected) in [
            ("gzip", Some(Encoding::Gzip)),
            ("ZSTD", Some(Encoding::Zstd)),
            ("identity", Some(Encoding::Identity)),
            ("br", None),
            ("gzip, gzip", None),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_ENCODING, value.parse().unwrap())]);
            assert_eq!(encoding(&headers).ok(), expected, "{value}");
        }
        assert_eq!(encoding(&HeaderMap::new()).ok(), Some(Encoding::Identity));
    }
}
