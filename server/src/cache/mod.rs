//! The cache the services and the HTTP protocol speak to: the engine's blocking, callback-shaped API made async, bounded and
//! safe to cancel. Knows digests and action results, not requests: names, codes and headers belong to its callers.

mod action;
mod read;
mod upload;

use std::sync::Arc;

use cask_engine::{Engine, EngineError};
use cask_index::Digest;

pub(crate) use self::action::{ActionError, InlineOptions};
pub(crate) use self::read::BlobStream;
pub(crate) use self::upload::UploadSession;
use crate::access::limits::Limits;

/// The store as the edge sees it. Cheap to clone; all clones share one engine and one set of budgets.
#[derive(Clone)]
pub(crate) struct Cache {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    limits: Limits,
}

impl Cache {
    pub(crate) fn new(engine: Engine, limits: Limits) -> Cache {
        Cache { shared: Arc::new(Shared { engine, limits }) }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Opens a streaming upload, or `None` when the blob is present already (and has been touched): nothing to send.
    pub(crate) async fn begin_upload(&self, _digest: Digest) -> Result<Option<UploadSession>, EngineError> {
        todo!()
    }

    /// Opens a blob for reading from `offset` (at most its size), at most `limit` bytes of it.
    pub(crate) async fn read(
        &self,
        _digest: &Digest,
        _offset: u64,
        _limit: Option<u64>,
    ) -> Result<BlobStream, EngineError> {
        todo!()
    }
}
