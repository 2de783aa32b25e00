//! [`Cutter`]: a chunker over pieces of a stream, with the one buffer that they are gathered in.
//!
//! ```text
//! feed ─▶ | given | next chunk ···· lookahead | room |
//! ```
//! It holds the chunker's lookahead and the room, allocated once. A chunk comes as soon as its end is known, a slice of the buffer.

use crate::Chunker;

/// Bytes taken between two moves of what is held to the buffer's start.
const ROOM_BYTES: usize = 4 << 20;

/// See the module's head. Feed it while it takes bytes, take the chunks, end it, take the rest.
#[derive(Clone, Debug)]
pub struct Cutter {
    chunker: Chunker,
    buffer: Vec<u8>,
    /// Where the next chunk begins.
    start: usize,
    has_ended: bool,
}

impl Cutter {
    /// Of a blob of `size_bytes`; the buffer is no larger than that.
    pub fn new(chunker: Chunker, size_bytes: u64) -> Self {
        let held_bytes = chunker.lookahead_bytes() + ROOM_BYTES;
        let buffer = Vec::with_capacity(usize::try_from(size_bytes).map_or(held_bytes, |size| size.min(held_bytes)));
        Self { chunker, buffer, start: 0, has_ended: false }
    }

    /// Takes a beginning of `piece` and returns how much: all of it, unless there are chunks to be taken first.
    ///
    /// # Panics
    /// After [`end`](Self::end).
    pub fn feed(&mut self, piece: &[u8]) -> usize {
        assert!(!self.has_ended, "bytes behind the end of a blob");
        if piece.len() > self.buffer.capacity() - self.buffer.len() {
            // At most the lookahead is moved, once for all the room.
            self.buffer.drain(..std::mem::take(&mut self.start));
        }
        let taken = piece.len().min(self.buffer.capacity() - self.buffer.len());
        self.buffer.extend_from_slice(&piece[..taken]);
        taken
    }

    /// All of the blob was fed.
    pub fn end(&mut self) {
        self.has_ended = true;
    }

    /// The next chunk, never empty; `None`: more has to be fed first, or it was the last.
    pub fn next_chunk(&mut self) -> Option<&[u8]> {
        let window = &self.buffer[self.start..];
        if window.is_empty() || !self.has_ended && window.len() < self.chunker.lookahead_bytes() {
            return None;
        }
        let chunk_bytes = self.chunker.next_chunk_bytes(window);
        let from = self.start;
        self.start += chunk_bytes;
        Some(&self.buffer[from..self.start])
    }
}
