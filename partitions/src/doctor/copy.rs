//! Rows as COPY … TO STDOUT BINARY sends them, read without an allocation a row.
//!
//! Source: the Postgres manual, COPY, "Binary Format", and "Message Formats": a message of the server is one row.

use std::pin::Pin;

use bytes::Bytes;
use futures::StreamExt as _;
use tokio_postgres::{Client, CopyOutStream};

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// 2000-01-01T00:00:00Z, from which Postgres counts, in microseconds since 1970.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// The answer is not as it should be.
#[derive(Debug, thiserror::Error)]
#[error("the server's COPY cannot be read: {0}")]
pub(super) struct Malformed(&'static str);

/// The rows of a query.
pub(super) struct Rows {
    stream: Pin<Box<CopyOutStream>>,
    begun: bool,
}

impl Rows {
    /// Starts a query whose columns [`Fields`] can read.
    pub(super) async fn of(client: &Client, query: &str) -> Result<Self, tokio_postgres::Error> {
        let stream = client.copy_out(&format!("COPY ({query}) TO STDOUT (FORMAT binary)")).await?;
        Ok(Self { stream: Box::pin(stream), begun: false })
    }

    /// Reads the next row; none at the end.
    pub(super) async fn next<T>(
        &mut self,
        read: impl FnOnce(&mut Fields<'_>) -> anyhow::Result<T>,
    ) -> anyhow::Result<Option<T>> {
        let Some(message) = self.message().await? else { return Ok(None) };
        let mut fields = Fields { rest: &message };
        if fields.take(2)? == (-1i16).to_be_bytes() {
            return Ok(None);
        }
        read(&mut fields).map(Some)
    }

    /// Hands over all rows.
    pub(super) async fn each(
        mut self,
        mut each: impl FnMut(&mut Fields<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        while self.next(&mut each).await?.is_some() {}
        Ok(())
    }

    async fn message(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            let Some(message) = self.stream.next().await else { return Ok(None) };
            let mut message = message?;
            if !self.begun {
                self.begun = true;
                let header = message.split_to(message.len().min(SIGNATURE.len() + 8));
                if !header.starts_with(SIGNATURE) || !header.ends_with(&[0; 8]) {
                    return Err(Malformed("an unknown header").into());
                }
            }
            if !message.is_empty() {
                return Ok(Some(message));
            }
        }
    }
}

/// The fields of a row, from left to right.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(Malformed("a row is cut off"))?;
        self.rest = rest;
        Ok(taken)
    }

    /// The bytes of a field; none where it is null.
    fn field(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let length = i32::from_be_bytes(array(self.take(4)?)?);
        match usize::try_from(length) {
            Ok(length) => self.take(length).map(Some),
            Err(_) => Ok(None),
        }
    }

    fn present(&mut self) -> Result<&'a [u8], Malformed> {
        self.field()?.ok_or(Malformed("null where there is none"))
    }

    /// An `integer`.
    pub(super) fn int4(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(array(self.present()?)?))
    }

    /// A `bigint`.
    pub(super) fn int8(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_be_bytes(array(self.present()?)?))
    }

    /// A `bigint`, or null.
    pub(super) fn int8_or_null(&mut self) -> Result<Option<i64>, Malformed> {
        self.field()?.map(|bytes| Ok(i64::from_be_bytes(array(bytes)?))).transpose()
    }

    /// A `timestamptz`, in microseconds since 1970. Infinities are the ends of what there is.
    pub(super) fn time(&mut self) -> Result<i64, Malformed> {
        self.int8().map(from_postgres)
    }

    /// A `text`.
    pub(super) fn text(&mut self) -> Result<&'a [u8], Malformed> {
        self.present()
    }
}

/// Microseconds since 1970 from those since 2000.
fn from_postgres(micros: i64) -> i64 {
    micros.saturating_add(POSTGRES_EPOCH)
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Malformed> {
    bytes.try_into().map_err(|_| Malformed("a field of another type"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_from_left_to_right() {
        let mut bytes = Vec::new();
        for field in [&7i32.to_be_bytes()[..], &(-3i64).to_be_bytes(), b"demo"] {
            bytes.extend((field.len() as i32).to_be_bytes());
            bytes.extend(field);
        }
        bytes.extend((-1i32).to_be_bytes());
        let mut fields = Fields { rest: &bytes };
        assert_eq!((fields.int4().unwrap(), fields.int8().unwrap()), (7, -3));
        assert_eq!((fields.text().unwrap(), fields.int8_or_null().unwrap()), (&b"demo"[..], None));
        assert!(fields.int4().is_err());
    }
}
