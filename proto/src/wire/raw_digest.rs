//! [`RawDigest`]: a digest message as it lies in a request, not yet looked at as a digest.

use cask_index::Digest;

use super::fields::Fields;
use super::{WireFault, encode};
use crate::digest::DigestRule;
use crate::error::WireError;

/// The two fields of a digest message, unset ones empty and 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawDigest<'m> {
    /// Hexadecimal, if the client is right; any text.
    pub hash: &'m str,
    /// Any number.
    pub size_bytes: i64,
}

const HASH: u32 = 1;
const SIZE_BYTES: u32 = 2;

impl<'m> RawDigest<'m> {
    /// Merges a message that lies in `levels` others into this one: of each field the last wins.
    #[inline]
    pub(super) fn merge(&mut self, levels: u32, message: &'m [u8]) -> Result<(), WireFault> {
        let mut fields = Fields::within(levels, message);
        while let Some(field) = fields.next()? {
            match field.number {
                HASH => self.hash = field.string()?,
                SIZE_BYTES => self.size_bytes = field.int64()?,
                _ => (),
            }
        }
        Ok(())
    }

    /// Length of the message that [`put`](Self::put) writes.
    pub fn length_bytes(&self) -> usize {
        encode::bytes_field_length(HASH, self.hash.len())
            + encode::number_field_length(SIZE_BYTES, self.size_bytes as u64)
    }

    /// Writes the message, without its key and length.
    pub(super) fn put(&self, out: &mut impl encode::Out) {
        encode::bytes_field(HASH, self.hash.as_bytes(), out);
        encode::number_field(SIZE_BYTES, self.size_bytes as u64, out);
    }
}

/// A [`RawDigest`] that outlives the message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnedRawDigest {
    hash: String,
    size_bytes: i64,
}

impl OwnedRawDigest {
    /// As it stood in the message.
    pub fn raw(&self) -> RawDigest<'_> {
        RawDigest { hash: &self.hash, size_bytes: self.size_bytes }
    }
}

impl From<RawDigest<'_>> for OwnedRawDigest {
    fn from(raw: RawDigest<'_>) -> Self {
        Self { hash: raw.hash.to_owned(), size_bytes: raw.size_bytes }
    }
}

impl DigestRule {
    /// Parses a digest of a request; as [`from_wire`](Self::from_wire).
    #[inline]
    pub fn from_raw(self, raw: &RawDigest<'_>) -> Result<Digest, WireError> {
        self.digest(raw.hash, raw.size_bytes)
    }

    /// Parses a digest field that has to be set; `field` is its name, for the error.
    pub fn from_raw_field(self, field: &'static str, raw: Option<&RawDigest<'_>>) -> Result<Digest, WireError> {
        self.from_raw(raw.ok_or(WireError::DigestUnset(field))?)
    }
}
