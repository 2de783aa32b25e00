//! The cache the services and the HTTP protocol speak to: the engine's blocking, callback-shaped API made async, bounded and
//! safe to cancel. Knows digests and action results, not requests: names, codes and headers belong to its callers.

mod action;
mod asset;
mod chunking;
mod closure;
mod compressed;
mod gathering;
mod logs;
mod parking;
mod read;
mod resumable;
#[cfg(test)]
mod tests;
mod upload;

use std::sync::Arc;

use cask_engine::{Engine, EngineError};
use cask_index::DigestFunction;
use cask_proto::Compressor;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;

pub(crate) use self::action::{ActionError, InlineOptions, ResultOrigin};
pub(crate) use self::chunking::{
    ChunkList, ChunkMapping, ChunkingError, ChunkingFunction, FAST_CDC_AVERAGE_BYTES, REP_MAX_CDC_HORIZON_BYTES,
    REP_MAX_CDC_MIN_BYTES,
};
pub(crate) use self::compressed::CompressedUpload;
use self::gathering::Gatherings;
pub(crate) use self::logs::LogError;
use self::logs::OpenLogs;
use self::parking::Parking;
pub(crate) use self::read::{BlobStream, Wire};
pub(crate) use self::resumable::{ResumableUpload, StartError};
pub(crate) use self::upload::{PendingPut, too_slow};
use self::upload::{StagedUpload, UploadSession};
use crate::access::instances::Instances;
use crate::access::limits::{Budgets, Limits, OverBudget, Permit};
use crate::access::yielding::Holding;

/// The digest functions that blobs may be stored under; the first is what clients use that do not choose.
pub(crate) const DIGEST_FUNCTIONS: [DigestFunction; 8] = [
    DigestFunction::Sha256,
    DigestFunction::Blake3,
    DigestFunction::Sha1,
    DigestFunction::Sha384,
    DigestFunction::Sha512,
    DigestFunction::Md5,
    DigestFunction::Sha256Tree,
    DigestFunction::GitSha1,
];

/// The compressors that blobs may travel under, the one to use first: some clients take the first without looking.
pub(crate) const COMPRESSORS: &[Compressor] = &[Compressor::Zstd];

/// The store as the edge sees it. Cheap to clone; all clones share one engine and one set of budgets.
#[derive(Clone)]
pub(crate) struct Cache {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    instances: Instances,
    limits: Limits,
    budgets: Budgets,
    parking: Parking<StagedUpload>,
    open_logs: OpenLogs,
    gatherings: Gatherings,
    /// Turns at compressing and decompressing: each has a context of its own, a MiB or so, and there are only so many
    /// processors.
    coders: Arc<Semaphore>,
}

impl Cache {
    pub(crate) fn new(engine: Engine, instances: Instances, limits: Limits) -> Cache {
        let budgets = Budgets::new(&limits);
        let parking = Parking::new(limits.parked_uploads_max, limits.parked_bytes_max, limits.parked_age_max);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let coders = Arc::new(Semaphore::new(2 * processors));
        let (open_logs, gatherings) = (OpenLogs::default(), Gatherings::default());
        Cache {
            shared: Arc::new(Shared { engine, instances, limits, budgets, parking, open_logs, gatherings, coders }),
        }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    /// What the names in requests mean.
    pub(crate) fn instances(&self) -> &Instances {
        &self.shared.instances
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// The shared budgets. Those of messages are for the transport, which pays before anything is decoded.
    pub(crate) fn budgets(&self) -> &Budgets {
        &self.shared.budgets
    }

    /// Interrupted uploads that wait to be resumed: how many, and the staged bytes that they hold.
    pub(crate) fn parked(&self) -> (usize, usize) {
        self.shared.parking.counts()
    }

    /// Pays for a message of `bytes` that is received whole.
    pub(crate) async fn message_room(&self, bytes: usize) -> Result<Holding, EngineError> {
        self.shared.budgets.messages(bytes).take(bytes).await.map_err(over_budget)
    }

    /// Pays for an answer of `bytes` that is built in memory; belongs to the response's extensions, where the transport keeps it
    /// until the client has taken the answer.
    pub(crate) async fn answer_room(&self, bytes: usize) -> Result<AnswerPermit, EngineError> {
        let permit = self.shared.budgets.answer_bytes.take(bytes).await.map_err(over_budget)?;
        Ok(AnswerPermit { _permit: Arc::new(permit) })
    }

    /// A place among the open uploads.
    async fn upload_slot(&self) -> Result<Permit, EngineError> {
        self.shared.budgets.uploads.take(1).await.map_err(over_budget)
    }

    /// Pays for upload bytes in memory. When the budget is full, parked uploads go first, the oldest before the others: an
    /// upload somebody is sending is worth more than one that somebody may come back to. Then those are asked to give way whose
    /// part has been filling for too long.
    async fn stage(&self, bytes: usize) -> Result<Holding, EngineError> {
        let budget = self.shared.budgets.staging(bytes);
        loop {
            if let Some(holding) = budget.try_take(bytes) {
                return Ok(holding);
            }
            if !self.shared.parking.drop_oldest() {
                return budget.take(bytes).await.map_err(over_budget);
            }
        }
    }

    /// As `stage`, now or not at all, for bytes that wait for nobody outside.
    fn try_stage(&self, bytes: usize) -> Option<Permit> {
        self.shared.budgets.staging(bytes).budget().try_take(bytes)
    }

    /// Pays for bytes that were decoded for a stream, until its client has taken them.
    async fn decoded_room(&self, bytes: usize) -> Result<Permit, EngineError> {
        self.shared.budgets.decoded_bytes.take(bytes).await.map_err(over_budget)
    }

    /// A turn at compressing or decompressing. Cancel-safe.
    async fn coder(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.shared.coders).acquire_owned().await.expect("turns are never closed")
    }

    /// Runs work for the processor, as `blocking` does, when there is a turn for it.
    async fn on_processor<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let turn = self.coder().await;
        blocking(move || {
            let _turn = turn;
            work()
        })
        .await
    }

    /// A place among the listings of trees.
    pub(crate) async fn listing_slot(&self) -> Result<Permit, EngineError> {
        self.shared.budgets.listings.take(1).await.map_err(over_budget)
    }

    /// A place among the blobs that are being split or spliced.
    async fn chunking_slot(&self) -> Result<Permit, EngineError> {
        self.shared.budgets.chunkings.take(1).await.map_err(over_budget)
    }

    /// A place among the trees of action results that are being opened.
    async fn tree_slot(&self) -> Result<Permit, EngineError> {
        self.shared.budgets.trees.take(1).await.map_err(over_budget)
    }
}

/// Room for an answer, for as long as a clone lives.
#[derive(Clone, Debug)]
pub(crate) struct AnswerPermit {
    _permit: Arc<Permit>,
}

/// A full budget of the server looks like a full store to a client: nothing is wrong with the request, try again later.
fn over_budget(error: OverBudget) -> EngineError {
    EngineError::Full { retry_after: std::time::Duration::from_secs(1), advice: error.to_string() }
}

/// Runs engine work that may wait for the disk. Dropping the future does not stop the work.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    joined(tokio::task::spawn_blocking(work).await)
}

/// A panic of engine work goes on in the caller, which asked for it; work is never cancelled except by shutdown.
fn joined<T>(result: Result<Result<T, EngineError>, JoinError>) -> Result<T, EngineError> {
    match result {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => Err(EngineError::Closed),
        },
    }
}
