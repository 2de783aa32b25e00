//! `BatchUpdateBlobs` and `BatchReadBlobs`: requests that list blobs.
//!
//! The lists are bounded by the message, as [`codec`](crate::codec) bounds those of generated types.

use bytes::Bytes;

use super::WireFault;
use super::fields::{Fields, has_few_fields};
use super::raw_digest::{OwnedRawDigest, RawDigest};

/// A `BatchUpdateBlobs` request.
#[derive(Clone, Debug, Default)]
pub struct BatchUpdate {
    instance_name: String,
    /// `DigestFunction.Value`, any number.
    pub digest_function: i32,
    /// In the request's order.
    pub items: Vec<UpdateItem>,
}

/// One blob of a [`BatchUpdate`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpdateItem {
    /// The claimed digest.
    pub digest: Option<OwnedRawDigest>,
    /// A slice of the message.
    pub data: Bytes,
    /// `Compressor.Value`, any number.
    pub compressor: i32,
}

impl BatchUpdate {
    /// Any text.
    pub fn instance_name(&self) -> &str {
        &self.instance_name
    }

    /// Reads a request. The items' data are slices of `message`, which lives as long as one of them.
    pub fn parse(message: &Bytes) -> Result<Self, WireFault> {
        check_field_count(message)?;
        let mut request = Self::default();
        let mut instance_name = "";
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => instance_name = field.string()?,
                2 => request.items.push(UpdateItem::parse(message, field.bytes()?)?),
                5 => request.digest_function = field.int32()?,
                _ => (),
            }
        }
        instance_name.clone_into(&mut request.instance_name);
        Ok(request)
    }
}

impl UpdateItem {
    /// `body` is the item within `message`.
    fn parse(message: &Bytes, body: &[u8]) -> Result<Self, WireFault> {
        let mut digest: Option<RawDigest<'_>> = None;
        let mut data: &[u8] = &[];
        let mut compressor = 0;
        let mut fields = Fields::within(1, body);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => digest.get_or_insert_default().merge(2, field.bytes()?)?,
                2 => data = field.bytes()?,
                3 => compressor = field.int32()?,
                _ => (),
            }
        }
        // `slice_ref` makes nothing of an empty slice, so the message is not kept for it.
        Ok(Self { digest: digest.map(OwnedRawDigest::from), data: message.slice_ref(data), compressor })
    }
}

/// A `BatchReadBlobs` request.
#[derive(Clone, Debug, Default)]
pub struct BatchRead<'m> {
    /// Any text.
    pub instance_name: &'m str,
    /// `DigestFunction.Value`, any number.
    pub digest_function: i32,
    /// In the request's order.
    pub digests: Vec<RawDigest<'m>>,
    message: &'m [u8],
}

const ACCEPTABLE_COMPRESSORS: u32 = 3;

impl<'m> BatchRead<'m> {
    /// Reads a request.
    pub fn parse(message: &'m [u8]) -> Result<Self, WireFault> {
        check_field_count(message)?;
        let mut request = Self { message, ..Self::default() };
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => request.instance_name = field.string()?,
                2 => {
                    let mut digest = RawDigest::default();
                    digest.merge(1, field.bytes()?)?;
                    request.digests.push(digest);
                }
                ACCEPTABLE_COMPRESSORS => field.repeated_int32(|_| ())?,
                4 => request.digest_function = field.int32()?,
                _ => (),
            }
        }
        Ok(request)
    }

    /// Calls `each` with every number of `acceptable_compressors` (`Compressor.Value`, any numbers), in order. A list of them would take four times
    /// the bytes it came in.
    pub fn acceptable_compressors(&self, mut each: impl FnMut(i32)) {
        let mut fields = Fields::new(self.message);
        while let Ok(Some(field)) = fields.next() {
            if field.number == ACCEPTABLE_COMPRESSORS {
                field.repeated_int32(&mut each).expect("the message was parsed before");
            }
        }
    }
}

pub(super) fn check_field_count(message: &[u8]) -> Result<(), WireFault> {
    if has_few_fields(message) { Ok(()) } else { Err(WireFault::TOO_MANY_FIELDS) }
}
