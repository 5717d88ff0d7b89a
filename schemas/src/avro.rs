//! Avro's binary encoding, for the records of this crate: borrowed on the way in, appended on the way out.
//!
//! Source: the Avro 1.12 specification, "Binary Encoding". The same bytes are read and written by the
//! `apache-avro` crate in this crate's tests; why the hot path does not use it is in
//! docs/decisions/0001-avro-codec.md.

use std::borrow::Cow;

use crate::Micros;

/// Why bytes are not the record they claim to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside a field.
    #[error("the record is cut short")]
    Truncated,
    /// A variable-length integer is longer than its type allows.
    #[error("an integer is out of range")]
    Integer,
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    Utf8,
    /// A union's branch does not exist, or a boolean is neither 0 nor 1.
    #[error("a union or boolean has an unknown branch")]
    Branch,
    /// Bytes are left over after the last field.
    #[error("{0} bytes are left over after the record")]
    Trailing(usize),
    /// No single-object header.
    #[error("not a single-object Avro record")]
    NotFramed,
    /// The header names a schema that is not known here.
    #[error("unknown schema fingerprint {0:016x}")]
    UnknownSchema(u64),
    /// A record of an earlier schema version could not be brought to the current one.
    #[error("a record of schema fingerprint {0:016x} does not resolve to the current schema")]
    Unresolved(u64),
}

/// What is left to read of a record's body.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `body`.
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// Ends the reading; an error if bytes are left.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.rest.len())) }
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        let (&first, rest) = self.rest.split_first().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(first)
    }

    fn long(&mut self) -> Result<i64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::Integer);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(DecodeError::Integer)
    }

    fn fixed(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = usize::try_from(self.long()?).map_err(|_| DecodeError::Integer)?;
        self.fixed(len)
    }
}

/// Appends a zigzag variable-length integer.
pub(crate) fn put_long(value: i64, out: &mut Vec<u8>) {
    let mut bits = ((value << 1) ^ (value >> 63)) as u64;
    while bits >= 0x80 {
        out.push(bits as u8 | 0x80);
        bits >>= 7;
    }
    out.push(bits as u8);
}

/// Appends a length and the bytes.
pub(crate) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_long(bytes.len() as i64, out);
    out.extend_from_slice(bytes);
}

/// A value with one Avro form. Structs made by [`record!`](crate::record) are fields too.
pub trait Field<'a>: Sized {
    /// Appends the value.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads a value.
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError>;
}

impl<'a> Field<'a> for i64 {
    fn put(&self, out: &mut Vec<u8>) {
        put_long(*self, out);
    }
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        reader.long()
    }
}

impl<'a> Field<'a> for i32 {
    fn put(&self, out: &mut Vec<u8>) {
        put_long(i64::from(*self), out);
    }
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        reader.long()?.try_into().map_err(|_| DecodeError::Integer)
    }
}

impl<'a> Field<'a> for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        match reader.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Branch),
        }
    }
}

impl<'a> Field<'a> for Micros {
    fn put(&self, out: &mut Vec<u8>) {
        put_long(self.0, out);
    }
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        reader.long().map(Micros)
    }
}

impl<'a> Field<'a> for uuid::Uuid {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        uuid::Uuid::from_slice(reader.fixed(16)?).map_err(|_| DecodeError::Truncated)
    }
}

impl<'a> Field<'a> for Cow<'a, str> {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.as_bytes(), out);
    }
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        std::str::from_utf8(reader.bytes()?).map(Cow::Borrowed).map_err(|_| DecodeError::Utf8)
    }
}

impl<'a> Field<'a> for Cow<'a, [u8]> {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self, out);
    }
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        reader.bytes().map(Cow::Borrowed)
    }
}

/// The union `["null", T]`.
impl<'a, T: Field<'a>> Field<'a> for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            None => out.push(0),
            Some(value) => {
                out.push(2);
                value.put(out);
            }
        }
    }
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        match reader.long()? {
            0 => Ok(None),
            1 => T::take(reader).map(Some),
            _ => Err(DecodeError::Branch),
        }
    }
}

/// An array, written as one block and read in as many as there are.
impl<'a, T: Field<'a>> Field<'a> for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_long(self.len() as i64, out);
            for item in self {
                item.put(out);
            }
        }
        out.push(0);
    }
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut items = Vec::new();
        loop {
            let mut count = reader.long()?;
            if count == 0 {
                return Ok(items);
            }
            if count < 0 {
                // A negative count is followed by the block's size in bytes, there for skipping.
                count = count.checked_neg().ok_or(DecodeError::Integer)?;
                reader.long()?;
            }
            let count = usize::try_from(count).map_err(|_| DecodeError::Integer)?;
            // An item of any of our arrays takes a byte or more, so a lying count reserves no memory.
            if count > reader.rest.len() {
                return Err(DecodeError::Truncated);
            }
            items.reserve(count.min(MAX_RESERVED_ITEMS));
            for _ in 0..count {
                items.push(T::take(reader)?);
            }
        }
    }
}

/// A whole batch; what is larger grows as it is read.
const MAX_RESERVED_ITEMS: usize = 512;

/// Declares a record: a struct whose fields stand in the order of its Avro schema.
#[macro_export]
macro_rules! record {
    ($(#[$meta:meta])* pub struct $name:ident<$life:lifetime> {
        $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name<$life> {
            $($(#[$field_meta])* pub $field: $type,)*
        }
        impl<$life> $crate::avro::Field<$life> for $name<$life> {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::avro::Field::put(&self.$field, out);)*
            }
            fn take(reader: &mut $crate::avro::Reader<$life>) -> Result<Self, $crate::avro::DecodeError> {
                Ok(Self { $($field: $crate::avro::Field::take(reader)?,)* })
            }
        }
    };
    ($(#[$meta:meta])* pub struct $name:ident {
        $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }
        impl<'a> $crate::avro::Field<'a> for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::avro::Field::put(&self.$field, out);)*
            }
            fn take(reader: &mut $crate::avro::Reader<'a>) -> Result<Self, $crate::avro::DecodeError> {
                Ok(Self { $($field: $crate::avro::Field::take(reader)?,)* })
            }
        }
    };
}
