//! Single-object framing: two marker bytes, the schema's CRC-64-AVRO fingerprint, the record's body.
//!
//! A record of the current schema version is read in place. One of an earlier version kept in `avro/` is
//! first brought to the current schema by `apache-avro`, so a reader copes with a topic that holds both.

use std::borrow::Cow;
use std::sync::LazyLock;

use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;

use crate::avro::{DecodeError, Field, Reader};

const MARKER: [u8; 2] = [0xc3, 0x01];

/// Length in bytes of what stands before the body.
pub const HEADER_BYTES: usize = 10;

/// A record type that travels through Kafka on its own.
pub trait Record<'a>: Field<'a> {
    /// Every version of the schema, oldest first; the last one is the current.
    fn versions() -> &'static Versions;
}

/// The versions of one record's schema.
pub struct Versions {
    schemas: LazyLock<Vec<(u64, Schema)>>,
}

impl Versions {
    /// Versions whose schemas `load` returns, oldest first.
    pub const fn new(load: fn() -> Vec<(u64, Schema)>) -> Self {
        Self { schemas: LazyLock::new(load) }
    }

    /// Fingerprint of the current version.
    pub fn fingerprint(&self) -> u64 {
        self.schemas.last().map_or(0, |(fingerprint, _)| *fingerprint)
    }

    /// Every version's fingerprint and schema, oldest first.
    pub fn all(&self) -> &[(u64, Schema)] {
        &self.schemas
    }
}

/// Parses schema texts and works out their fingerprints.
///
/// # Errors
/// A text that is no Avro schema.
pub fn load(texts: &[&str]) -> Result<Vec<(u64, Schema)>, apache_avro::Error> {
    texts
        .iter()
        .map(|text| {
            let schema = Schema::parse_str(text)?;
            let digest = schema.fingerprint::<Rabin>().bytes;
            let bytes = digest.first_chunk::<8>().copied().unwrap_or_default();
            Ok((u64::from_le_bytes(bytes), schema))
        })
        .collect()
}

/// Appends the header of a record of type `R`; its body follows.
pub fn put_header<'a, R: Record<'a>>(out: &mut Vec<u8>) {
    out.extend_from_slice(&MARKER);
    out.extend_from_slice(&R::versions().fingerprint().to_le_bytes());
}

/// Appends `record`, framed.
pub fn encode<'a, R: Record<'a>>(record: &R, out: &mut Vec<u8>) {
    put_header::<R>(out);
    record.put(out);
}

/// The fingerprint in the header of `bytes`, or none where they are not framed at all.
pub fn fingerprint(bytes: &[u8]) -> Option<u64> {
    let (marker, rest) = bytes.split_first_chunk::<2>()?;
    let (fingerprint, _) = rest.split_first_chunk::<8>()?;
    (*marker == MARKER).then(|| u64::from_le_bytes(*fingerprint))
}

/// The body of a framed record in the current version of `R`'s schema: borrowed when it was written in
/// that version, rewritten when in an earlier one.
///
/// # Errors
/// Bytes that are not framed, of a schema that is not known, or that do not fit their own schema.
pub fn current_body<'a, 'r, R: Record<'r>>(bytes: &'a [u8]) -> Result<Cow<'a, [u8]>, DecodeError> {
    let written = fingerprint(bytes).ok_or(DecodeError::NotFramed)?;
    let body = bytes.get(HEADER_BYTES..).ok_or(DecodeError::Truncated)?;
    let versions = R::versions();
    if written == versions.fingerprint() {
        return Ok(Cow::Borrowed(body));
    }
    upgrade(versions.all(), written, body).map(Cow::Owned)
}

/// Rewrites a body from the version `written` to the last of `versions`.
pub(crate) fn upgrade(
    versions: &[(u64, Schema)],
    written: u64,
    mut body: &[u8],
) -> Result<Vec<u8>, DecodeError> {
    let (_, writer) =
        versions.iter().find(|(known, _)| *known == written).ok_or(DecodeError::UnknownSchema(written))?;
    let (_, reader) = versions.last().ok_or(DecodeError::UnknownSchema(written))?;
    let unresolved = |_| DecodeError::Unresolved(written);
    let value = GenericDatumReader::builder(writer)
        .reader_schema(reader)
        .build()
        .and_then(|datum| datum.read_value(&mut body))
        .map_err(unresolved)?;
    if !body.is_empty() {
        return Err(DecodeError::Trailing(body.len()));
    }
    GenericDatumWriter::builder(reader)
        .build()
        .and_then(|datum| datum.write_value_to_vec(value))
        .map_err(unresolved)
}

/// Reads a body that is in the current version of `R`'s schema (see [`current_body`]).
///
/// # Errors
/// Bytes that do not fit the schema, or are left over.
pub fn decode_body<'a, R: Record<'a>>(body: &'a [u8]) -> Result<R, DecodeError> {
    let mut reader = Reader::new(body);
    let record = R::take(&mut reader)?;
    reader.finish()?;
    Ok(record)
}

/// Reads a framed record of the current version, the common case in tests and tools.
///
/// # Errors
/// As [`current_body`] and [`decode_body`]; a record of an earlier version is [`DecodeError::UnknownSchema`].
pub fn decode<'a, R: Record<'a>>(bytes: &'a [u8]) -> Result<R, DecodeError> {
    let written = fingerprint(bytes).ok_or(DecodeError::NotFramed)?;
    if written != R::versions().fingerprint() {
        return Err(DecodeError::UnknownSchema(written));
    }
    decode_body(bytes.get(HEADER_BYTES..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLDER: &str = r#"{"type":"record","name":"Thing","fields":[{"name":"a","type":"string"}]}"#;
    const CURRENT: &str = r#"{"type":"record","name":"Thing","fields":[
        {"name":"a","type":"string"},{"name":"b","type":["null","int"],"default":null}]}"#;

    #[test]
    fn a_body_of_an_earlier_version_is_brought_to_the_current_one() {
        let versions = load(&[OLDER, CURRENT]).unwrap();
        let older = versions[0].0;
        assert_eq!(upgrade(&versions, older, b"\x04hi").unwrap(), b"\x04hi\x00");
        assert_eq!(upgrade(&versions, older, b"\x04h"), Err(DecodeError::Unresolved(older)));
        assert_eq!(upgrade(&versions, older, b"\x04hi\x00"), Err(DecodeError::Trailing(1)));
        assert_eq!(upgrade(&versions, 7, b"\x04hi"), Err(DecodeError::UnknownSchema(7)));
    }

    #[test]
    fn bytes_without_a_header_are_told_apart() {
        for bytes in [b"".as_slice(), b"{\"a\":1}", b"\xc3\x01short", b"\xc3\x02345678901234"] {
            assert_eq!(fingerprint(bytes), None);
        }
    }
}
