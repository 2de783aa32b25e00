//! Writing fields. As the generated types do, a number that is 0 and bytes that are empty are left out, and fields stand in the order of their
//! numbers (the callers'), so the bytes are the same.

/// What is written into.
pub(super) trait Out {
    fn put(&mut self, bytes: &[u8]);
}

impl Out for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

const VARINT: u32 = 0;
const LENGTH_DELIMITED: u32 = 2;

/// Bytes of the longest number.
pub(super) const VARINT_BYTES_MAX: usize = 10;

pub(super) const fn varint_length(value: u64) -> usize {
    // Seven bits a byte, and one byte for 0.
    (70 - (value | 1).leading_zeros() as usize) / 7
}

#[inline]
pub(super) fn varint(mut value: u64, out: &mut impl Out) {
    let mut bytes = [0; VARINT_BYTES_MAX];
    let mut length = 0;
    while value >= 0x80 {
        bytes[length] = value as u8 | 0x80;
        value >>= 7;
        length += 1;
    }
    bytes[length] = value as u8;
    out.put(&bytes[..=length]);
}

pub(super) const fn number_field_length(number: u32, value: u64) -> usize {
    if value == 0 { 0 } else { varint_length(key(number, VARINT)) + varint_length(value) }
}

pub(super) fn number_field(number: u32, value: u64, out: &mut impl Out) {
    if value != 0 {
        varint(key(number, VARINT), out);
        varint(value, out);
    }
}

pub(super) const fn bytes_field_length(number: u32, length: usize) -> usize {
    if length == 0 { 0 } else { message_field_length(number, length) }
}

pub(super) fn bytes_field(number: u32, bytes: &[u8], out: &mut impl Out) {
    if !bytes.is_empty() {
        field_head(number, bytes.len(), out);
        out.put(bytes);
    }
}

/// With key and length. An empty message is written all the same, since being there is its value.
pub(super) const fn message_field_length(number: u32, length: usize) -> usize {
    varint_length(key(number, LENGTH_DELIMITED)) + varint_length(length as u64) + length
}

/// Key and length of what is then written.
#[inline]
pub(super) fn field_head(number: u32, length: usize, out: &mut impl Out) {
    varint(key(number, LENGTH_DELIMITED), out);
    varint(length as u64, out);
}

const fn key(number: u32, wire_type: u32) -> u64 {
    (number << 3 | wire_type) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_what_is_written() {
        for shift in 0..64 {
            for value in [1 << shift, (1_u64 << shift) - 1, u64::MAX >> shift] {
                let mut ours = Vec::new();
                varint(value, &mut ours);
                let mut theirs = Vec::new();
                prost::encoding::encode_varint(value, &mut theirs);
                assert_eq!(ours, theirs, "{value}");
                assert_eq!(varint_length(value), ours.len(), "{value}");
            }
        }
    }
}
