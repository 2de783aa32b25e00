//! [`write_head`]: a `WriteRequest` of which the beginning has come, so that its data can be taken while the rest is on its way.
//!
//! Clients write the fields in the order of their numbers, which puts `data` last: once its length is known, everything behind it is the
//! blob's. Any other order is allowed and nobody's; such a message is collected and parsed whole.

use super::WireFault;
use super::byte_stream::DATA;
use super::fields::{Fields, WireType};

/// What the beginning of a `WriteRequest` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteHead<'m> {
    /// `data` is the last field, and every other one is known.
    Streamable {
        /// Any text.
        resource_name: &'m str,
        /// Any number.
        write_offset: i64,
        /// The last message of the upload.
        finish_write: bool,
        /// Bytes before those of `data`; the whole message, where the field is absent.
        head_bytes: usize,
        /// Bytes of `data`, which reach to the message's end.
        data_bytes: usize,
    },
    /// Call again when more has come. Until then less than 4 KiB have been collected.
    NeedMore,
    /// Collect the message and parse it as a [`WriteMessage`](super::WriteMessage).
    Irregular,
}

/// A longer head is irregular. A call reads it from its beginning, and this bounds what that costs a client's single bytes.
pub(super) const HEAD_BYTES_MAX: usize = 4096;

/// Reads the beginning of a message of `message_bytes`, of which `so_far` has come.
///
/// # Panics
/// When more has come than the message has.
pub fn write_head(message_bytes: usize, so_far: &[u8]) -> Result<WriteHead<'_>, WireFault> {
    assert!(so_far.len() <= message_bytes, "bytes of the next message");
    match read(message_bytes, so_far) {
        Err(WireFault::TRUNCATED) if so_far.len() < message_bytes => {
            Ok(if so_far.len() < HEAD_BYTES_MAX { WriteHead::NeedMore } else { WriteHead::Irregular })
        }
        head => head,
    }
}

fn read(message_bytes: usize, so_far: &[u8]) -> Result<WriteHead<'_>, WireFault> {
    let (mut resource_name, mut write_offset, mut finish_write) = ("", 0, false);
    let mut fields = Fields::new(so_far);
    loop {
        let at = so_far.len() - fields.rest().len();
        if at == message_bytes {
            let data_bytes = 0;
            return Ok(WriteHead::Streamable { resource_name, write_offset, finish_write, head_bytes: at, data_bytes });
        }
        if at >= HEAD_BYTES_MAX {
            return Ok(WriteHead::Irregular);
        }
        let mut key_and_length = fields;
        if key_and_length.key()? == (DATA, WireType::LengthDelimited) {
            let data_bytes = key_and_length.varint()?;
            let head_bytes = so_far.len() - key_and_length.rest().len();
            if data_bytes != (message_bytes - head_bytes) as u64 {
                return Ok(WriteHead::Irregular);
            }
            let data_bytes = message_bytes - head_bytes;
            return Ok(WriteHead::Streamable { resource_name, write_offset, finish_write, head_bytes, data_bytes });
        }
        let Some(field) = fields.next()? else { return Err(WireFault::TRUNCATED) };
        match field.number {
            1 => resource_name = field.string()?,
            2 => write_offset = field.int64()?,
            3 => finish_write = field.bool()?,
            DATA => return Err(WireFault::wrong_type(DATA)),
            _ => (),
        }
    }
}
