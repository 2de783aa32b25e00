//! FindMissingBlobs: a request of up to tens of thousands of digests, read twice.
//!
//! The digest function stands behind the digests on the wire, so the first pass goes over the fields without looking into
//! them and the second decodes digests. Neither allocates. An answer is made of the request's own bytes: a missing digest is the
//! same field in both messages.

use std::ops::Range;

use bytes::Bytes;
use cask_index::{Digest, DigestFunction, Namespace};

use super::WireFault;
use super::fields::{Field, Fields};
use super::raw_digest::RawDigest;
use super::segments::Segments;
use crate::digest::DigestRule;
use crate::error::WireError;

const INSTANCE_NAME: u32 = 1;
const BLOB_DIGESTS: u32 = 2;
const DIGEST_FUNCTION: u32 = 3;

/// Key of a digest's field in its common spelling.
const BLOB_DIGESTS_KEY: u8 = 0x12;

/// A request; its digests are still to be decoded.
#[derive(Clone, Copy, Debug)]
pub struct FindMissing<'m> {
    /// Any text.
    pub instance_name: &'m str,
    /// `DigestFunction.Value`, any number.
    pub digest_function: i32,
    /// How many digests the request lists.
    pub digest_count: usize,
    message: &'m [u8],
}

impl<'m> FindMissing<'m> {
    /// Reads everything but the digests, whose faults show later.
    pub fn parse(message: &'m [u8]) -> Result<Self, WireFault> {
        let mut request = Self { instance_name: "", digest_function: 0, digest_count: 0, message };
        let mut fields = FieldsOfRequest { rest: message };
        while let Some((_, field)) = fields.next()? {
            match field {
                OfRequest::Digest(_) => request.digest_count += 1,
                OfRequest::Other(field) => match field.number {
                    INSTANCE_NAME => request.instance_name = field.string()?,
                    DIGEST_FUNCTION => request.digest_function = field.int32()?,
                    _ => (),
                },
            }
        }
        Ok(request)
    }

    /// Every digest in order. When one is a fault, the whole message is, and nothing follows it.
    pub fn digests(&self) -> impl Iterator<Item = Result<Entry<'m>, WireFault>> + use<'m> {
        let mut fields = FieldsOfRequest { rest: self.message };
        std::iter::from_fn(move || {
            let entry = fields.next_entry();
            if entry.is_err() {
                fields.rest = &[];
            }
            entry.transpose()
        })
    }
}

impl<'m> FindMissing<'m> {
    /// Every digest in order, decoded and parsed: the same as [`digests`](Self::digests) and [`DigestRule::from_raw`], in a third of the time.
    pub fn parse_digests(&self, rule: DigestRule) -> ParsedDigests<'m> {
        ParsedDigests {
            fields: FieldsOfRequest { rest: self.message },
            rule,
            of_common: rule.for_hash_chars(common::HASH_CHARS),
        }
    }
}

/// The digests of a request, a batch at a time, as they are looked up.
#[derive(Debug)]
pub struct ParsedDigests<'m> {
    fields: FieldsOfRequest<'m>,
    rule: DigestRule,
    /// What a hash of the common length is of; `None`: it is refused.
    of_common: Option<(DigestFunction, Namespace)>,
}

impl<'m> ParsedDigests<'m> {
    /// Replaces what is in the lists by the next digests, at most `count_max`, and by their whole fields as [`Entry`] has them; false when there was
    /// none any more. With a fault the request is refused, whatever was read of it before.
    pub fn next_batch(
        &mut self,
        count_max: usize,
        digests: &mut Vec<Digest>,
        fields: &mut Vec<&'m [u8]>,
    ) -> Result<bool, DigestFault> {
        digests.clear();
        fields.clear();
        while digests.len() < count_max {
            if let Some((function, namespace)) = self.of_common {
                while digests.len() < count_max
                    && let Some(common::Entry { hash, size_bytes, field }) = common::next(&mut self.fields.rest)
                {
                    // Made where it is kept: a result of a digest on the way costs more than decoding it.
                    let digest = Digest::new(function, &hash, size_bytes).expect("as long as the function's");
                    digests.push(digest.within(namespace));
                    fields.push(field);
                }
                if digests.len() == count_max {
                    break;
                }
            }
            let Some(entry) = self.fields.next_entry()? else { break };
            digests.push(self.rule.from_raw(&entry.digest)?);
            fields.push(entry.field);
        }
        Ok(!digests.is_empty())
    }
}

/// The answer, made of the request's own bytes.
#[derive(Debug)]
pub struct FindMissingAnswer<'m> {
    message: &'m Bytes,
    segments: Segments,
    /// Missing fields that stand beside each other in the request, not yet in `segments`.
    run: Range<usize>,
}

impl<'m> FindMissingAnswer<'m> {
    /// Nothing is missing of the request `message`.
    pub fn new(message: &'m Bytes) -> Self {
        Self { message, segments: Segments::new(), run: 0..0 }
    }

    /// Appends a missing digest, in the order of the request: a field as [`Entry`] has it.
    ///
    /// # Panics
    /// When it is no slice of the message.
    #[inline]
    pub fn push(&mut self, field: &'m [u8]) {
        let start = field.as_ptr().addr().wrapping_sub(self.message.as_ptr().addr());
        if start != self.run.end {
            self.end_run();
            self.run.start = start;
        }
        self.run.end = start + field.len();
    }

    fn end_run(&mut self) {
        // A long run is a slice of the request; where next to everything is missing, nothing is copied.
        let run = std::mem::take(&mut self.run);
        if Segments::is_copied(run.len()) {
            self.segments.put(&self.message[run]);
        } else {
            self.segments.push_slice(self.message.slice(run));
        }
    }

    /// The answer.
    pub fn finish(mut self) -> Segments {
        self.end_run();
        self.segments
    }
}

/// Why a request has an entry that is no digest. Either is the client's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestFault {
    /// The entry is malformed.
    #[error("the message cannot be decoded: {0}")]
    Message(#[from] WireFault),
    /// The entry is well-formed and says something else than a digest.
    #[error(transparent)]
    Digest(#[from] WireError),
}

/// The one spelling that nearly every entry has: a hash of 64 characters, and a size below 2^56 that is not 0.
///
/// ```text
/// 12 LL  0a 40 <64 characters>  10 <1 to 8 bytes>
/// ```
/// Hexadecimal characters are UTF-8, and each number can be of one length, so one look at the characters and one at the number's bytes tell everything.
/// Whatever is different in any way is left to the general way, which also finds the words for what is wrong.
mod common {
    use cask_index::Digest;

    const KEYS: u32 = 0x400a_0012;
    const KEYS_MASK: u32 = 0xffff_00ff;
    const HASH_AT: usize = 4;
    pub(super) const HASH_CHARS: usize = 64;
    const SIZE_KEY_AT: usize = HASH_AT + HASH_CHARS;
    const SIZE_KEY: u8 = 0x10;
    const SIZE_AT: usize = SIZE_KEY_AT + 1;
    const SIZE_BYTES_MAX: usize = 8;
    /// Looked at in any case; so the last entries of a message may take the general way.
    const WINDOW_BYTES: usize = SIZE_AT + SIZE_BYTES_MAX;

    pub(super) struct Entry<'m> {
        pub(super) hash: [u8; HASH_CHARS / 2],
        pub(super) size_bytes: u64,
        pub(super) field: &'m [u8],
    }

    /// The entry at the beginning of `rest`, if it is spelled so; then `rest` is what follows.
    #[inline]
    pub(super) fn next<'m>(rest: &mut &'m [u8]) -> Option<Entry<'m>> {
        let window = rest.first_chunk::<WINDOW_BYTES>()?;
        let keys = u32::from_le_bytes([window[0], window[1], window[2], window[3]]);
        let field_bytes = 2 + usize::from(window[1]);
        if keys & KEYS_MASK != KEYS || window[SIZE_KEY_AT] != SIZE_KEY || field_bytes <= SIZE_AT {
            return None;
        }
        let size_window = window.last_chunk::<SIZE_BYTES_MAX>().expect("behind the hash");
        let size_bytes = number(u64::from_le_bytes(*size_window), field_bytes - SIZE_AT)?;
        let hash_window = window[HASH_AT..].first_chunk::<HASH_CHARS>().expect("before the size");
        let hash = Digest::hash_of_hex(hash_window)?;
        let (field, behind) = rest.split_at_checked(field_bytes)?;
        *rest = behind;
        Some(Entry { hash, size_bytes, field })
    }

    /// The number that is spelled in exactly the lowest `length` bytes.
    #[inline]
    fn number(bytes: u64, length: usize) -> Option<u64> {
        const MORE: u64 = 0x8080_8080_8080_8080;
        if !(1..=SIZE_BYTES_MAX).contains(&length) {
            return None;
        }
        let mask = u64::MAX >> (u64::BITS as usize - 8 * length);
        let bytes = bytes & mask;
        // Every byte but the last says that there is more.
        if bytes & MORE != MORE & (mask >> 8) {
            return None;
        }
        // Seven bits of each byte move together: in pairs, in fours, in eights.
        let bits = bytes & !MORE;
        let bits = bits & 0x007f_007f_007f_007f | (bits & 0x7f00_7f00_7f00_7f00) >> 1;
        let bits = bits & 0x0000_3fff_0000_3fff | (bits & 0x3fff_0000_3fff_0000) >> 2;
        let bits = bits & 0x0000_0000_0fff_ffff | (bits & 0x0fff_ffff_0000_0000) >> 4;
        Some(bits)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn numbers_of_every_length() {
            for shift in 0..64 {
                for value in [1 << shift, (1_u64 << shift) - 1, 0x5555_5555_5555_5555 >> shift] {
                    let mut spelled = Vec::new();
                    prost::encoding::encode_varint(value, &mut spelled);
                    let length = spelled.len();
                    spelled.resize(16, 0xff);
                    let bytes = u64::from_le_bytes(*spelled.first_chunk().expect("16 bytes"));
                    let expected = (length <= SIZE_BYTES_MAX).then_some(value);
                    assert_eq!(number(bytes, length), expected, "{value}");
                    for other in (0..20).filter(|&other| other != length) {
                        assert_eq!(number(bytes, other), None, "{value} in {other} bytes");
                    }
                }
            }
        }
    }
}

/// One digest of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'m> {
    /// What it says.
    pub digest: RawDigest<'m>,
    /// The whole field of the request: key, length and body. As it is, it is a field of the answer.
    pub field: &'m [u8],
}

#[derive(Debug)]
struct FieldsOfRequest<'m> {
    rest: &'m [u8],
}

enum OfRequest<'m> {
    /// The body of a digest.
    Digest(&'m [u8]),
    Other(Field<'m>),
}

impl<'m> FieldsOfRequest<'m> {
    /// The next field, whole and as what it is.
    #[inline]
    fn next(&mut self) -> Result<Option<(&'m [u8], OfRequest<'m>)>, WireFault> {
        let start = self.rest;
        // Nearly every field is a digest with one byte of key and one of length.
        if let [BLOB_DIGESTS_KEY, length @ 0..0x80, behind @ ..] = start
            && let Some((body, rest)) = behind.split_at_checked(usize::from(*length))
        {
            self.rest = rest;
            return Ok(Some((&start[..2 + body.len()], OfRequest::Digest(body))));
        }
        let mut fields = Fields::new(start);
        let Some(field) = fields.next()? else { return Ok(None) };
        self.rest = fields.rest();
        let whole = &start[..start.len() - self.rest.len()];
        let found =
            if field.number == BLOB_DIGESTS { OfRequest::Digest(field.bytes()?) } else { OfRequest::Other(field) };
        Ok(Some((whole, found)))
    }

    #[inline]
    fn next_entry(&mut self) -> Result<Option<Entry<'m>>, WireFault> {
        while let Some((field, found)) = self.next()? {
            if let OfRequest::Digest(body) = found {
                let mut digest = RawDigest::default();
                digest.merge(1, body)?;
                return Ok(Some(Entry { digest, field }));
            }
        }
        Ok(None)
    }
}
