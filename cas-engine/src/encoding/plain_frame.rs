//! zstd frames around bytes as they are: for readers that want zstd of what is not stored so.
//!
//! A frame may consist of raw blocks (RFC 8878, 3.1.1.2.2). So bytes that do not compress, or that nobody wants to spend time
//! on, are framed where they stand: a few bytes before each block, nothing copied.
//!
//! ```text
//! | magic | descriptor 0xA0 | content size u32 | (3 bytes, up to 128 KiB of content) ... |
//! ```

/// Content between two headers.
pub const PLAIN_BLOCK_BYTES_MAX: usize = 128 << 10;

/// A complete frame of nothing.
pub const EMPTY_FRAME: [u8; 12] = [0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0, 1, 0, 0];

/// The headers of one frame, in order: write what `next_header` gives, then as many bytes of content as it says.
#[derive(Clone, Debug)]
pub struct PlainFrame {
    content_bytes: u32,
    left_bytes: u32,
}

impl PlainFrame {
    /// A frame of `content_bytes`, at least one (an empty one is [`EMPTY_FRAME`]).
    pub fn new(content_bytes: u32) -> Self {
        assert!(content_bytes > 0, "a frame of raw blocks has content");
        Self { content_bytes, left_bytes: content_bytes }
    }

    /// What to send next, and how many bytes of content after it; `None` after the last block.
    pub fn next_header(&mut self) -> Option<(Vec<u8>, usize)> {
        if self.left_bytes == 0 {
            return None;
        }
        let mut header = Vec::with_capacity(EMPTY_FRAME.len());
        if self.left_bytes == self.content_bytes {
            // Single segment, four bytes of content size, no checksum, no dictionary.
            header.extend_from_slice(&EMPTY_FRAME[..5]);
            header.extend_from_slice(&self.content_bytes.to_le_bytes());
        }
        let block_bytes = self.left_bytes.min(PLAIN_BLOCK_BYTES_MAX as u32);
        self.left_bytes -= block_bytes;
        let is_last = u32::from(self.left_bytes == 0);
        // Three bytes: last or not, type 0 (raw), size.
        header.extend_from_slice(&(is_last | block_bytes << 3).to_le_bytes()[..3]);
        Some((header, block_bytes as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::{decode_zstd, is_for_every_reader};

    #[test]
    fn a_plain_frame_decodes_to_its_content() {
        assert_eq!(decode_zstd(&EMPTY_FRAME, 0), Some(vec![]));
        for length in [1, 255, 256, 65_792, PLAIN_BLOCK_BYTES_MAX, PLAIN_BLOCK_BYTES_MAX + 1, 1 << 20] {
            let content: Vec<u8> = (0..length).map(|position| (position % 251) as u8).collect();
            let (mut stream, mut rest) = (Vec::new(), &content[..]);
            let mut frame = PlainFrame::new(length as u32);
            while let Some((header, block_bytes)) = frame.next_header() {
                let (block, tail) = rest.split_at(block_bytes);
                stream.extend_from_slice(&header);
                stream.extend_from_slice(block);
                rest = tail;
            }
            assert!(rest.is_empty() && is_for_every_reader(&stream), "{length}");
            assert_eq!(decode_zstd(&stream, length).as_ref(), Some(&content), "{length}");
            assert_eq!(zstd::stream::decode_all(&stream[..]).unwrap(), content, "{length}");
        }
    }
}
