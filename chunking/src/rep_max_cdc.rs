//! RepMaxCDC: a chunk ends where the gear hash is greatest, over and over, until all chunks are between one and two minimum sizes.
//!
//! A chunk that begins at `s` may end at `s + min` or up to `horizon` further, `min` short of the blob's end. It ends at the place
//! with the greatest hash (the first, of equals) unless that makes it two minimum sizes or longer: then that place is left to a later chunk, and the
//! search is repeated over the places that are `min` or more before it.
//!
//! Each search is for the greatest hash of a range, and the ranges overlap: a horizon is several chunks long. So hashes are
//! computed once, and of each block of places the greatest is kept; a search looks at the kept ones, and hashes again only the
//! ends of its range and the block that has won. Memory is eight bytes a block, whatever the content.

use std::collections::VecDeque;

use crate::gear::{self, Table, WINDOW_BYTES};

/// Places of which one hash is kept.
const BLOCK_PLACES: usize = 4096;

/// Blocks hashed side by side. A hash waits for the one before it; four of them do so at once.
const LANES: usize = 4;

/// RepMaxCDC with its parameters, and what it knows of the stream so far.
#[derive(Clone, Debug)]
pub struct RepMaxCdc {
    table: &'static Table,
    min_size_bytes: usize,
    horizon_size_bytes: usize,
    /// Where in the stream the next chunk begins. Places are counted from the stream's start too: place `p` is the cut before byte
    /// `p`, and its hash that of the 64 bytes before it.
    chunk_start: u64,
    /// The number of the first block that `maxima` has.
    first_block: u64,
    /// The greatest hash of each block that all bytes were seen of.
    maxima: VecDeque<u64>,
}

/// The place of the greatest hash of a range.
#[derive(Clone, Copy)]
struct Best {
    hash: u64,
    found: Found,
}

#[derive(Clone, Copy)]
enum Found {
    At(u64),
    InBlock(u64),
}

impl RepMaxCdc {
    /// # Panics
    /// When the minimum is less than the 64 bytes of a hash's window.
    pub fn new(min_size_bytes: usize, horizon_size_bytes: usize) -> Self {
        assert!(min_size_bytes >= WINDOW_BYTES, "a minimum of {min_size_bytes} bytes");
        Self {
            table: gear::table(),
            min_size_bytes,
            horizon_size_bytes,
            chunk_start: 0,
            first_block: 0,
            maxima: VecDeque::new(),
        }
    }

    /// No chunk is shorter, unless the blob is.
    pub fn min_size_bytes(&self) -> usize {
        self.min_size_bytes
    }

    /// No chunk is longer.
    pub fn chunk_size_bytes_max(&self) -> usize {
        2 * self.min_size_bytes - 1
    }

    /// See [`Chunker::lookahead_bytes`](crate::Chunker::lookahead_bytes).
    pub(crate) fn lookahead_bytes(&self) -> usize {
        2 * self.min_size_bytes + self.horizon_size_bytes
    }

    /// See [`Chunker::next_chunk_bytes`](crate::Chunker).
    pub(crate) fn next_chunk_bytes(&mut self, window: &[u8]) -> usize {
        let min = self.min_size_bytes as u64;
        let visible_bytes = window.len().min(self.lookahead_bytes());
        let chunk_bytes = if visible_bytes < 2 * self.min_size_bytes {
            visible_bytes
        } else {
            self.see(window);
            let first_place = self.chunk_start + min;
            let mut last_place = self.chunk_start + visible_bytes as u64 - min;
            loop {
                let place = self.greatest(window, first_place, last_place);
                if place - self.chunk_start < 2 * min {
                    break (place - self.chunk_start) as usize;
                }
                last_place = place - min;
            }
        };
        self.chunk_start += chunk_bytes as u64;
        // Candidates of the next chunk begin a minimum behind its start.
        let needed_from = (self.chunk_start + min) / BLOCK_PLACES as u64;
        while self.first_block < needed_from && self.maxima.pop_front().is_some() {
            self.first_block += 1;
        }
        chunk_bytes
    }

    /// Keeps the greatest hash of each further block that `window` has all bytes of.
    fn see(&mut self, window: &[u8]) {
        if self.maxima.is_empty() {
            // What is before the first candidate is never asked for, and the bytes before its window may be gone.
            let needed_from = (self.chunk_start + self.min_size_bytes as u64) / BLOCK_PLACES as u64;
            self.first_block = self.first_block.max(needed_from);
            if self.first_block * (BLOCK_PLACES as u64) < self.chunk_start + WINDOW_BYTES as u64 {
                self.first_block += 1;
            }
        }
        loop {
            let first_place = (self.first_block + self.maxima.len() as u64) * BLOCK_PLACES as u64;
            let bytes = window.get(self.index(first_place) - WINDOW_BYTES..).unwrap_or_default();
            if bytes.len() >= WINDOW_BYTES + LANES * BLOCK_PLACES {
                self.maxima.extend(block_maxima::<LANES>(self.table, bytes));
            } else if bytes.len() >= WINDOW_BYTES + BLOCK_PLACES {
                self.maxima.extend(block_maxima::<1>(self.table, bytes));
            } else {
                return;
            }
        }
    }

    /// The place with the greatest hash from `first` to `last`, the first of equals.
    fn greatest(&self, window: &[u8], first: u64, last: u64) -> u64 {
        let mut best = Best { hash: gear::hash(self.table, &window[..self.index(first)]), found: Found::At(first) };
        let kept = self.first_block..self.first_block + self.maxima.len() as u64;
        let mut place = first + 1;
        while place <= last {
            let (block, offset) = (place / BLOCK_PLACES as u64, place % BLOCK_PLACES as u64);
            let block_last = (block + 1) * BLOCK_PLACES as u64 - 1;
            if offset == 0 && block_last <= last && kept.contains(&block) {
                let hash = self.maxima[(block - self.first_block) as usize];
                if hash > best.hash {
                    best = Best { hash, found: Found::InBlock(block) };
                }
            } else {
                for (hash, at) in self.hashes(window, place, block_last.min(last)) {
                    if hash > best.hash {
                        best = Best { hash, found: Found::At(at) };
                    }
                }
            }
            place = block_last + 1;
        }
        match best.found {
            Found::At(place) => place,
            Found::InBlock(block) => {
                let first = block * BLOCK_PLACES as u64;
                let found = self
                    .hashes(window, first, first + BLOCK_PLACES as u64 - 1)
                    .find_map(|(hash, place)| (hash == best.hash).then_some(place));
                found.expect("a block has the hash that was kept of it")
            }
        }
    }

    /// The hash of each place from `first` to `last`.
    fn hashes<'a>(&self, window: &'a [u8], first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> + 'a {
        let (table, from, to) = (self.table, self.index(first), self.index(last));
        let first_hash = gear::hash(table, &window[..from]);
        let further = window[from..to].iter().scan(first_hash, move |hash, byte| {
            *hash = gear::step(table, *hash, *byte);
            Some(*hash)
        });
        std::iter::once(first_hash).chain(further).zip(first..)
    }

    /// Where in the window the byte behind a place is.
    fn index(&self, place: u64) -> usize {
        (place - self.chunk_start) as usize
    }
}

/// The greatest hash of each of the first `N` blocks; `bytes` begins with the window of the first block's first place.
fn block_maxima<const N: usize>(table: &Table, bytes: &[u8]) -> [u64; N] {
    let blocks: [&[u8]; N] =
        std::array::from_fn(|lane| &bytes[lane * BLOCK_PLACES..][..WINDOW_BYTES + BLOCK_PLACES - 1]);
    let mut hashes: [u64; N] = blocks.map(|block| gear::hash(table, &block[..WINDOW_BYTES]));
    let mut maxima = hashes;
    let blocks: [&[u8; BLOCK_PLACES - 1]; N] =
        blocks.map(|block| block[WINDOW_BYTES..].try_into().expect("a block's length"));
    #[expect(clippy::needless_range_loop, reason = "the blocks are walked side by side")]
    for index in 0..BLOCK_PLACES - 1 {
        for lane in 0..N {
            hashes[lane] = gear::step(table, hashes[lane], blocks[lane][index]);
            maxima[lane] = maxima[lane].max(hashes[lane]);
        }
    }
    maxima
}
