//! The gear hash: a rolling hash whose value depends on the last [`WINDOW_BYTES`] bytes alone, since each step shifts all older ones
//! up by a bit. Both chunking functions cut by it.

use std::borrow::Cow;

use fastcdc::v2020;

/// Bytes that a value depends on.
pub(crate) const WINDOW_BYTES: usize = 64;

/// One random number a byte value: the upper half of the MD5 of 64 such bytes. (The API's text has one byte; every implementation has 64,
/// and so do the vectors.)
pub(crate) type Table = [u64; 256];

/// The numbers, as the crate has them.
pub(crate) fn table() -> &'static Table {
    let (Cow::Borrowed(table), _) = v2020::get_gear_with_seed(0) else {
        unreachable!("the crate lends its table where no seed changes it")
    };
    table.try_into().expect("a number for each byte value")
}

/// The hash behind one more byte.
#[inline]
pub(crate) fn step(table: &Table, hash: u64, byte: u8) -> u64 {
    (hash << 1).wrapping_add(table[usize::from(byte)])
}

/// The hash behind the last byte of `bytes`, of which the last 64 count.
pub(crate) fn hash(table: &Table, bytes: &[u8]) -> u64 {
    bytes[bytes.len().saturating_sub(WINDOW_BYTES)..].iter().fold(0, |hash, byte| step(table, hash, *byte))
}

#[cfg(test)]
mod tests {
    use md5::{Digest, Md5};

    use super::*;

    #[test]
    fn the_table_is_the_one_that_all_implementations_have() {
        for byte in 0..=u8::MAX {
            let md5 = Md5::digest([byte; WINDOW_BYTES]);
            let expected = u64::from_be_bytes(md5[..8].try_into().unwrap());
            assert_eq!(table()[usize::from(byte)], expected, "{byte}");
        }
    }

    #[test]
    fn a_hash_depends_on_64_bytes() {
        let bytes: Vec<u8> = (0..200_u8).map(|number| number.wrapping_mul(31)).collect();
        let from_the_start = bytes.iter().fold(0, |hash, byte| step(table(), hash, *byte));
        assert_eq!(hash(table(), &bytes), from_the_start);
        assert_eq!(hash(table(), &bytes[136..]), from_the_start);
        assert_ne!(hash(table(), &bytes[137..]), from_the_start);
    }
}
