//! The cache the services and the HTTP protocol speak to: the engine's blocking, callback-shaped API made async, bounded and
//! safe to cancel. Knows digests and action results, not requests: names, codes and headers belong to its callers.

mod action;
mod closure;
mod parking;
mod read;
mod resumable;
#[cfg(test)]
mod tests;
mod upload;

use std::sync::Arc;

use cask_engine::{Engine, EngineError};
use cask_index::DigestFunction;
use tokio::task::JoinError;

pub(crate) use self::action::{ActionError, InlineOptions};
use self::parking::Parking;
pub(crate) use self::read::BlobStream;
pub(crate) use self::resumable::StartError;
pub(crate) use self::upload::PendingPut;
use self::upload::StagedUpload;
use crate::access::limits::{Budgets, Limits, OverBudget, Permit, SMALL_PART_BYTES_MAX};

/// The digest functions that blobs may be stored under; the first is what clients use that do not choose.
pub(crate) const DIGEST_FUNCTIONS: &[DigestFunction] = &[DigestFunction::Sha256];

/// The store as the edge sees it. Cheap to clone; all clones share one engine and one set of budgets.
#[derive(Clone)]
pub(crate) struct Cache {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    limits: Limits,
    budgets: Budgets,
    parking: Parking<StagedUpload>,
}

impl Cache {
    pub(crate) fn new(engine: Engine, limits: Limits) -> Cache {
        let budgets = Budgets::new(&limits);
        let parking = Parking::new(limits.parked_uploads_max, limits.parked_bytes_max, limits.parked_age_max);
        Cache { shared: Arc::new(Shared { engine, limits, budgets, parking }) }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// A place among the open uploads.
    async fn upload_slot(&self) -> Result<Permit, EngineError> {
        self.shared.budgets.uploads.take(1).await.map_err(over_budget)
    }

    /// Pays for upload bytes in memory. When the budget is full, parked uploads go first, the oldest before the others: an
    /// upload somebody is sending is worth more than one that somebody may come back to.
    async fn stage(&self, bytes: usize) -> Result<Permit, EngineError> {
        let budgets = &self.shared.budgets;
        let budget = if bytes <= SMALL_PART_BYTES_MAX { &budgets.small_staged_bytes } else { &budgets.staged_bytes };
        loop {
            if let Some(permit) = budget.try_take(bytes) {
                return Ok(permit);
            }
            if !self.shared.parking.drop_oldest() {
                return budget.take(bytes).await.map_err(over_budget);
            }
        }
    }

    /// A place among the listings of trees.
    pub(crate) async fn listing_slot(&self) -> Result<Permit, EngineError> {
        self.shared.budgets.listings.take(1).await.map_err(over_budget)
    }

    /// A place among the trees of action results that are being opened.
    async fn tree_slot(&self) -> Result<Permit, EngineError> {
        self.shared.budgets.trees.take(1).await.map_err(over_budget)
    }
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
