//! One row, field by field.

use std::borrow::Cow;

use memchr::memchr;
use schemas::Micros;
use uuid::Uuid;

use super::{Refusal, inet, json, time};

/// What a COPY begins with: signature, no flags, no header extension.
pub const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What it ends with: a field count of -1.
pub const TRAILER: &[u8] = b"\xff\xff";

const NULL: [u8; 4] = (-1i32).to_be_bytes();
/// OID of type text.
const TEXT_OID: u32 = 25;

/// Appends a row to a buffer. Methods that fail leave it half-written: whoever holds the buffer cuts it back.
pub struct Row<'b> {
    out: &'b mut Vec<u8>,
}

impl<'b> Row<'b> {
    /// Begins a row of that many fields.
    pub fn begin(out: &'b mut Vec<u8>, fields: u16) -> Self {
        out.extend_from_slice(&fields.to_be_bytes());
        Self { out }
    }

    /// integer.
    pub fn int4(&mut self, value: i32) {
        let mut field = [0, 0, 0, 4, 0, 0, 0, 0];
        field[4..].copy_from_slice(&value.to_be_bytes());
        self.out.extend_from_slice(&field);
    }

    /// integer or NULL.
    pub fn int4_or_null(&mut self, value: Option<i32>) {
        match value {
            Some(value) => self.int4(value),
            None => self.null(),
        }
    }

    /// bigint.
    pub fn int8(&mut self, value: i64) {
        let mut field = [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        field[4..].copy_from_slice(&value.to_be_bytes());
        self.out.extend_from_slice(&field);
    }

    /// NULL.
    pub fn null(&mut self) {
        self.out.extend_from_slice(&NULL);
    }

    /// timestamptz.
    ///
    /// # Errors
    /// A time that Postgres cannot hold.
    pub fn timestamptz(&mut self, field: &'static str, value: Micros) -> Result<(), Refusal> {
        self.int8(time::to_postgres(value).ok_or(Refusal::TimeRange { field, micros: value.0 })?);
        Ok(())
    }

    /// text.
    ///
    /// # Errors
    /// A NUL in it.
    pub fn text(&mut self, field: &'static str, value: &str) -> Result<(), Refusal> {
        if memchr(0, value.as_bytes()).is_some() {
            return Err(Refusal::Nul(field));
        }
        self.bytea(value.as_bytes());
        Ok(())
    }

    /// text or NULL.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn text_or_null(&mut self, field: &'static str, value: Option<&Cow<'_, str>>) -> Result<(), Refusal> {
        match value {
            Some(value) => self.text(field, value),
            None => {
                self.null();
                Ok(())
            }
        }
    }

    /// bytea, or anything else that is its bytes.
    pub fn bytea(&mut self, value: &[u8]) {
        self.len(value.len());
        self.out.extend_from_slice(value);
    }

    /// uuid or NULL.
    pub fn uuid_or_null(&mut self, value: Option<Uuid>) {
        match value {
            Some(value) => self.bytea(value.as_bytes()),
            None => self.null(),
        }
    }

    /// inet or NULL.
    ///
    /// # Errors
    /// Text that is no address.
    pub fn inet_or_null(&mut self, field: &'static str, value: Option<&Cow<'_, str>>) -> Result<(), Refusal> {
        match value {
            None => self.null(),
            Some(text) => match text.parse() {
                Ok(address) => inet::put(address, self.out),
                Err(_) => return Err(Refusal::Ip { field, text: text.chars().take(64).collect() }),
            },
        }
        Ok(())
    }

    /// json or NULL. Only what Postgres would not notice is checked; its own parser sees the rest.
    ///
    /// # Errors
    /// Escapes that Postgres stores and cannot read back.
    pub fn json_or_null(&mut self, value: Option<&Cow<'_, str>>) -> Result<(), Refusal> {
        match value {
            None => self.null(),
            Some(text) => {
                json::check(text)?;
                self.bytea(text.as_bytes());
            }
        }
        Ok(())
    }

    /// text[], NULL when there is nothing in it.
    ///
    /// # Errors
    /// A NUL in an element.
    pub fn text_array(&mut self, field: &'static str, values: &[Cow<'_, str>]) -> Result<(), Refusal> {
        if values.is_empty() {
            self.null();
            return Ok(());
        }
        let start = self.out.len();
        self.len(0);
        // Dimensions, has no nulls, element type, length, lower bound.
        for word in [1, 0, TEXT_OID, values.len() as u32, 1] {
            self.out.extend_from_slice(&word.to_be_bytes());
        }
        for value in values {
            self.text(field, value)?;
        }
        let len = (self.out.len() - start - 4) as u32;
        if let Some(field) = self.out.get_mut(start..start + 4) {
            field.copy_from_slice(&len.to_be_bytes());
        }
        Ok(())
    }

    /// A Kafka record, thus each value in it, is far below 2 GiB.
    fn len(&mut self, len: usize) {
        self.out.extend_from_slice(&(len as u32).to_be_bytes());
    }
}
