//! [`Segments`]: a message on its way out, as a list of slices.
//!
//! What is small is gathered in one buffer; what is large, the bytes of blobs, stays where it is. A slice costs a counter, a place in a list and an
//! entry of a vectored write, a short copy less than that.

use bytes::Bytes;

use super::encode::Out;
use super::prefix::MESSAGE_PREFIX_BYTES;

/// Slices below this are copied.
const SLICE_BYTES_MIN: usize = 512;

/// A message that grows at its end.
#[derive(Debug)]
pub struct Segments {
    /// The copied bytes of the whole message, behind room for the prefix.
    gathered: Vec<u8>,
    /// Each with the length of `gathered` that stands before it.
    slices: Vec<(usize, Bytes)>,
    slices_bytes: usize,
}

impl Default for Segments {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl Segments {
    /// The empty message.
    pub fn new() -> Self {
        Self::default()
    }

    /// The empty message, with room for this many gathered bytes.
    pub fn with_capacity(gathered_bytes: usize) -> Self {
        let mut gathered = Vec::with_capacity(MESSAGE_PREFIX_BYTES + gathered_bytes);
        gathered.resize(MESSAGE_PREFIX_BYTES, 0);
        Self { gathered, slices: Vec::new(), slices_bytes: 0 }
    }

    /// Bytes of the message so far.
    pub fn len(&self) -> usize {
        self.gathered.len() - MESSAGE_PREFIX_BYTES + self.slices_bytes
    }

    /// True for the empty message.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a copy.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        self.gathered.extend_from_slice(bytes);
    }

    /// Whether a slice of this length is copied.
    #[inline]
    pub(super) fn is_copied(length: usize) -> bool {
        length < SLICE_BYTES_MIN
    }

    /// Appends the slice itself, or a copy when it is short.
    pub fn push_slice(&mut self, slice: Bytes) {
        if Self::is_copied(slice.len()) {
            self.put(&slice);
        } else {
            self.slices_bytes += slice.len();
            self.slices.push((self.gathered.len(), slice));
        }
    }

    /// The message, in order; no segment is empty.
    pub fn into_message(self) -> Vec<Bytes> {
        self.cut(MESSAGE_PREFIX_BYTES)
    }

    /// The message behind the prefix of an uncompressed gRPC message.
    ///
    /// # Panics
    /// When the message has 4 GiB or more; answers are bounded far below.
    pub fn into_frame(mut self) -> Vec<Bytes> {
        let length = u32::try_from(self.len()).expect("answers are shorter than 4 GiB");
        self.gathered[1..MESSAGE_PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
        self.cut(0)
    }

    fn cut(self, from: usize) -> Vec<Bytes> {
        let gathered = Bytes::from(self.gathered);
        let mut segments = Vec::with_capacity(2 * self.slices.len() + 1);
        let mut done = from;
        for (at, slice) in self.slices {
            if at > done {
                segments.push(gathered.slice(done..at));
                done = at;
            }
            segments.push(slice);
        }
        if gathered.len() > done {
            segments.push(gathered.slice(done..));
        }
        segments
    }
}

impl Out for Segments {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        Segments::put(self, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_stay_where_they_are_and_short_ones_are_copied() {
        let large = Bytes::from(vec![7; SLICE_BYTES_MIN]);
        let short = Bytes::from(vec![8; SLICE_BYTES_MIN - 1]);
        let mut message = Segments::new();
        assert!(message.is_empty());
        message.push_slice(large.clone());
        message.put(b"between");
        message.push_slice(short.clone());
        message.push_slice(large.clone());
        message.push_slice(large.clone());
        message.put(b"end");
        let expected = [&large[..], b"between", &short, &large, &large, b"end"].concat();
        assert_eq!(message.len(), expected.len());

        let segments = message.into_message();
        assert_eq!(segments.concat(), expected);
        assert_eq!(segments.len(), 5);
        for index in [0, 2, 3] {
            assert_eq!(segments[index].as_ptr(), large.as_ptr(), "segment {index} is a copy");
        }
    }

    #[test]
    fn the_prefix_stands_before_everything() {
        let large = Bytes::from(vec![7; 70_000]);
        let mut message = Segments::new();
        message.push_slice(large.clone());
        assert_eq!(message.into_frame().concat(), [&[0, 0, 1, 0x11, 0x70][..], &large].concat());
        assert_eq!(Segments::new().into_frame().concat(), [0; 5]);
        assert!(Segments::new().into_message().is_empty());
    }
}
