//! Content-defined chunking: where a blob is cut, so that blobs that are alike share most of their chunks.
//!
//! The two functions of the Remote Execution API, [`FastCdc`] and [`RepMaxCdc`], behind one [`Chunker`], and [`Cutter`], which
//! applies one to a stream of pieces in bounded memory. Chunks are shared only by those who cut in the same places, so every
//! cut is the one that the API's other implementations make; the published vectors are the tests.
//!
//! Pure functions of bytes: no I/O, no hashing of chunks. Called by the server where it splits a blob, and by anything else that
//! has to agree with it.

mod cutter;
mod fast_cdc;
mod gear;
mod rep_max_cdc;

pub use cutter::Cutter;
pub use fast_cdc::FastCdc;
pub use rep_max_cdc::RepMaxCdc;

/// A chunking function with its parameters, and where in the stream it is.
#[derive(Clone, Debug)]
pub enum Chunker {
    /// See [`FastCdc`].
    FastCdc(FastCdc),
    /// See [`RepMaxCdc`].
    RepMaxCdc(RepMaxCdc),
}

impl Chunker {
    /// The longest chunk it ever makes.
    pub fn chunk_size_bytes_max(&self) -> usize {
        match self {
            Chunker::FastCdc(chunker) => chunker.max_size_bytes(),
            Chunker::RepMaxCdc(chunker) => chunker.chunk_size_bytes_max(),
        }
    }

    /// The shortest chunk it makes but for the last of a blob.
    pub fn chunk_size_bytes_min(&self) -> usize {
        match self {
            Chunker::FastCdc(chunker) => chunker.min_size_bytes(),
            Chunker::RepMaxCdc(chunker) => chunker.min_size_bytes(),
        }
    }

    /// Bytes from a chunk's first byte on that decide where it ends.
    pub fn lookahead_bytes(&self) -> usize {
        match self {
            Chunker::FastCdc(chunker) => chunker.max_size_bytes(),
            Chunker::RepMaxCdc(chunker) => chunker.lookahead_bytes(),
        }
    }

    /// The length of the next chunk, which begins where `window` does. `window` holds the lookahead, or all that is left of the
    /// blob, and is not empty. Windows are asked for in the order of the stream: each begins where the last chunk ended.
    fn next_chunk_bytes(&mut self, window: &[u8]) -> usize {
        match self {
            Chunker::FastCdc(chunker) => chunker.chunk_bytes(window),
            Chunker::RepMaxCdc(chunker) => chunker.next_chunk_bytes(window),
        }
    }
}
