//! FindMissingBlobs: a request of up to tens of thousands of digests, read twice.
//!
//! The digest function stands behind the digests on the wire, so the first pass goes over the fields without looking into
//! them and the second decodes digests. Neither allocates. An answer is made of the request's own bytes: a missing digest is the
//! same field in both messages.

use super::WireFault;
use super::fields::{Field, Fields};
use super::raw_digest::RawDigest;

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

/// One digest of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'m> {
    /// What it says.
    pub digest: RawDigest<'m>,
    /// The whole field of the request: key, length and body. As it is, it is a field of the answer.
    pub field: &'m [u8],
}

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
