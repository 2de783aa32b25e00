//! ByteStream's messages, but for the beginning of an upload's, which is in `write_head`.

use bytes::Bytes;

use super::fields::Fields;
use super::prefix::MESSAGE_PREFIX_BYTES;
use super::segments::Segments;
use super::{WireFault, encode};

/// A `ReadRequest`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadRequest<'m> {
    /// Any text.
    pub resource_name: &'m str,
    /// Any number.
    pub read_offset: i64,
    /// Any number; 0 is no limit.
    pub read_limit: i64,
}

impl<'m> ReadRequest<'m> {
    /// Reads a request.
    pub fn parse(message: &'m [u8]) -> Result<Self, WireFault> {
        let mut request = Self::default();
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => request.resource_name = field.string()?,
                2 => request.read_offset = field.int64()?,
                3 => request.read_limit = field.int64()?,
                _ => (),
            }
        }
        Ok(request)
    }
}

/// `ReadResponse.data` and `WriteRequest.data`.
pub(super) const DATA: u32 = 10;

/// The longest head: prefix, key, and a length below 2^32.
pub const READ_RESPONSE_HEAD_BYTES_MAX: usize = MESSAGE_PREFIX_BYTES + 1 + 5;

/// Writes what stands before the data of a `ReadResponse` on the wire: gRPC's prefix, the field's key and length. Returns how many bytes that
/// are. Empty data is the empty message, a prefix alone.
///
/// # Panics
/// When the message would have 4 GiB or more; pieces of a blob are far shorter.
pub fn read_response_head(data_length: usize, out: &mut [u8; READ_RESPONSE_HEAD_BYTES_MAX]) -> usize {
    let message_length = u32::try_from(encode::bytes_field_length(DATA, data_length)).expect("below 4 GiB");
    let mut head = Cursor { out, length: 0 };
    encode::Out::put(&mut head, &[0]);
    encode::Out::put(&mut head, &message_length.to_be_bytes());
    if data_length > 0 {
        encode::field_head(DATA, data_length, &mut head);
    }
    head.length
}

struct Cursor<'a> {
    out: &'a mut [u8],
    length: usize,
}

impl encode::Out for Cursor<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.out[self.length..][..bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }
}

/// A `WriteRequest` that is at hand as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteMessage<'m> {
    /// Any text.
    pub resource_name: &'m str,
    /// Any number.
    pub write_offset: i64,
    /// The last message of the upload.
    pub finish_write: bool,
    /// A slice of the message.
    pub data: Bytes,
}

impl<'m> WriteMessage<'m> {
    /// Reads a request.
    pub fn parse(message: &'m Bytes) -> Result<Self, WireFault> {
        let mut request = Self::default();
        let mut data: &[u8] = &[];
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => request.resource_name = field.string()?,
                2 => request.write_offset = field.int64()?,
                3 => request.finish_write = field.bool()?,
                DATA => data = field.bytes()?,
                _ => (),
            }
        }
        request.data = message.slice_ref(data);
        Ok(request)
    }
}

/// A `WriteResponse`.
pub fn write_response(committed_size: i64) -> Segments {
    let mut out = Segments::with_capacity(1 + encode::VARINT_BYTES_MAX);
    encode::number_field(1, committed_size as u64, &mut out);
    out
}
