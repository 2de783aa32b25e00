//! Blobs and the chunks they are made of: splitting, splicing, and what is remembered of both.
//!
//! A chunk is an ordinary blob, and so is a blob put together from chunks: whoever reads, finds or evicts them knows nothing of
//! chunking. What belongs together is kept in a [mapping](mapping), which is good for as long as all of it is there.
//!
//! The work is done on a thread apart, a piece at a time, and ends with the next piece when nobody waits for it any more. What it holds is
//! bounded whatever the blob's size: a window of the blob, the chunks being written (paid like every upload) and the list.

mod list;
mod mapping;
mod splice;
mod split;

use cask_chunking::{Chunker, FastCdc, RepMaxCdc};
use cask_engine::EngineError;
use cask_index::Digest;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

pub(crate) use self::list::ChunkList;
use super::joined;

/// FastCDC's average: what the API recommends.
pub(crate) const FAST_CDC_AVERAGE_BYTES: usize = 512 << 10;

/// RepMaxCDC's minimum and horizon: what the API recommends.
pub(crate) const REP_MAX_CDC_MIN_BYTES: usize = 256 << 10;
pub(crate) const REP_MAX_CDC_HORIZON_BYTES: usize = 2 << 20;

/// A function that this server cuts by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChunkingFunction {
    FastCdc2020,
    RepMaxCdc,
}

impl ChunkingFunction {
    pub(crate) const ALL: [ChunkingFunction; 2] = [ChunkingFunction::FastCdc2020, ChunkingFunction::RepMaxCdc];

    fn chunker(self) -> Chunker {
        match self {
            Self::FastCdc2020 => Chunker::FastCdc(FastCdc::new(FAST_CDC_AVERAGE_BYTES)),
            Self::RepMaxCdc => Chunker::RepMaxCdc(RepMaxCdc::new(REP_MAX_CDC_MIN_BYTES, REP_MAX_CDC_HORIZON_BYTES)),
        }
    }

    /// Whether a list can be this function's: some client may believe in its sizes.
    fn can_have_made(self, chunks: &ChunkList) -> bool {
        let chunker = self.chunker();
        let last = chunks.len().saturating_sub(1);
        chunks.iter().map(|chunk| chunk.size_bytes()).enumerate().all(|(position, size_bytes)| {
            let long_enough = position == last || size_bytes >= chunker.chunk_size_bytes_min() as u64;
            long_enough && size_bytes <= chunker.chunk_size_bytes_max() as u64
        })
    }
}

/// A blob's chunks.
#[derive(Clone, Debug)]
pub(crate) struct ChunkMapping {
    pub(crate) chunks: ChunkList,
    /// `None`: a client's own way.
    pub(crate) function: Option<ChunkingFunction>,
}

/// Why a blob was not split or spliced.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ChunkingError {
    /// Some of the chunks to be spliced are absent.
    #[error("{count} of the chunks are absent, the first is {first}")]
    ChunksMissing { count: usize, first: Digest },
    /// The chunks are not those of the blob. Permanent.
    #[error("the chunks have {found} bytes, the blob {blob} is another size")]
    SizesDiffer { blob: Digest, found: String },
    /// Permanent.
    #[error("the blob has more than {limit} chunks")]
    TooManyChunks { limit: usize },
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Runs `work` on a thread apart: it computes for long between its awaits. Dropping the future ends the work where it awaits next.
async fn apart<T: Send + 'static>(
    work: impl Future<Output = Result<T, ChunkingError>> + Send + 'static,
) -> Result<T, ChunkingError> {
    let (waiting, nobody_waits) = oneshot::channel::<()>();
    let runtime = Handle::current();
    let working = tokio::task::spawn_blocking(move || {
        Ok(runtime.block_on(async {
            tokio::select! {
                biased;
                _ = nobody_waits => Err(EngineError::Closed.into()),
                outcome = work => outcome,
            }
        }))
    });
    let outcome = joined(working.await);
    drop(waiting);
    outcome?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tells when it is dropped.
    struct Ending(Option<oneshot::Sender<()>>);

    impl Drop for Ending {
        fn drop(&mut self) {
            let _ = self.0.take().expect("dropped once").send(());
        }
    }

    #[tokio::test]
    async fn work_ends_when_nobody_waits_for_it_any_more() {
        let (begin, begun) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let work = async move {
            let _ending = Ending(Some(end));
            begin.send(()).expect("the test listens");
            loop {
                // Never anything to wait for, as when all of a blob is in memory.
                tokio::task::yield_now().await;
            }
        };
        let waiting = tokio::spawn(apart::<()>(work));
        begun.await.expect("the work began");
        waiting.abort();
        ended.await.expect("and ended");
    }

    #[tokio::test]
    async fn work_hands_back_its_outcome() {
        assert_eq!(apart(async { Ok(7) }).await.unwrap(), 7);
        let refused = apart::<()>(async { Err(ChunkingError::TooManyChunks { limit: 3 }) }).await.unwrap_err();
        assert!(matches!(refused, ChunkingError::TooManyChunks { limit: 3 }));
    }

    #[test]
    fn only_sizes_that_a_function_makes_pass_for_its_own() {
        const KIB: u64 = 1024;
        let list = |sizes: &[u64]| {
            let blob = cask_index::DigestFunction::Sha256.empty_blob();
            let mut list = ChunkList::new(blob.with_size_bytes(sizes.iter().sum()));
            for size in sizes {
                list.push(&blob.with_size_bytes(*size));
            }
            list
        };
        for (sizes, fast_cdc, rep_max_cdc) in [
            (&[128 * KIB, 2048 * KIB, 1][..], true, false),
            (&[256 * KIB, 511 * KIB, 256 * KIB], true, true),
            (&[127 * KIB, 128 * KIB], false, false),
            (&[128 * KIB, 2048 * KIB + 1], false, false),
            (&[256 * KIB, 512 * KIB], true, false),
            (&[1], true, true),
        ] {
            let list = list(sizes);
            assert_eq!(ChunkingFunction::FastCdc2020.can_have_made(&list), fast_cdc, "{sizes:?}");
            assert_eq!(ChunkingFunction::RepMaxCdc.can_have_made(&list), rep_max_cdc, "{sizes:?}");
        }
    }
}
