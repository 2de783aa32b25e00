//! Remote execution in the server: what the services of execution share.
//!
//! The scheduler and everything that runs around it is `cask_executor::farm`; here is what it does not know: blobs, the action
//! cache, the store that keeps its journal. Nothing here runs a command.
//!
//! ```text
//! Execute ──▶ admission ──▶ Farm ──▶ a worker's session ──▶ finishing ──▶ action cache ──▶ operation done
//! ```

mod admission;
mod bots;
mod counts;
mod finishing;
mod input_tree;
mod journal;
mod missing;
pub(crate) mod operation;
mod settings;
mod shortened;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cask_engine::EngineError;
use cask_executor::farm::{Background, Farm, QueueStoreError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

pub(crate) use self::admission::{Admitted, Asked};
pub(crate) use self::bots::{BotError, BotSessions};
pub(crate) use self::counts::ExecutionStats;
use self::counts::RunCounts;
use self::journal::Journal;
pub(crate) use self::settings::ExecutionSettings;
use crate::access::limits::{Budget, OverBudget, Permit};
use crate::cache::Cache;
use crate::service::health::Readiness;
use crate::status::Answer;

/// Actions whose input is being walked: each may hold ten MiB of digests, or a thread that waits for the disk.
const ADMISSIONS_MAX: usize = 64;

/// The queue is read in as long as the index is filled, or little longer.
const START_RETRY: Duration = Duration::from_secs(1);

/// Execution as the services see it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Execution {
    shared: Arc<Shared>,
}

struct Shared {
    cache: Cache,
    settings: ExecutionSettings,
    readiness: watch::Receiver<Readiness>,
    admissions: Budget,
    /// Results on their way into the store.
    finishing: TaskTracker,
    counts: RunCounts,
    /// Once the journal was read.
    farm: OnceLock<Farm>,
}

/// What runs beside the services for as long as the server serves.
pub(crate) struct Running {
    farm: Farm,
    finishing: TaskTracker,
    tasks: JoinSet<()>,
}

impl Execution {
    pub(crate) fn new(cache: Cache, settings: ExecutionSettings, readiness: watch::Receiver<Readiness>) -> Self {
        let admissions = Budget::new("actions being admitted", ADMISSIONS_MAX, cache.limits().budget_wait_max);
        let (finishing, counts, farm) = (TaskTracker::new(), RunCounts::default(), OnceLock::new());
        Self { shared: Arc::new(Shared { cache, settings, readiness, admissions, finishing, counts, farm }) }
    }

    /// Reads the journal, after which actions are taken. The store's index has to be complete. Called once.
    pub(crate) async fn start(&self, lease: Duration) -> Result<Running, QueueStoreError> {
        let journal = Arc::new(Journal::new(self.cache().engine().clone()));
        let options = self.settings().scheduler.clone();
        let (farm, background) = Farm::start(options, Arc::clone(&journal) as _, random()?).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(Background::run(background));
        tasks.spawn(async move { journal.keep(lease).await });
        assert!(self.shared.farm.set(farm.clone()).is_ok(), "execution is started once");
        Ok(Running { farm, finishing: self.shared.finishing.clone(), tasks })
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.shared.cache
    }

    pub(crate) fn settings(&self) -> &ExecutionSettings {
        &self.shared.settings
    }

    /// The scheduler; refused while the server starts.
    pub(crate) fn farm(&self) -> Result<&Farm, Answer> {
        self.shared.farm.get().ok_or_else(|| Answer {
            retry_after: Some(START_RETRY),
            ..Answer::unavailable("the server is starting; its queue is not read yet")
        })
    }

    /// An action's result was known.
    pub(crate) fn count_cached(&self) {
        self.shared.counts.cached();
    }

    /// Zeros while the server starts.
    pub(crate) fn stats(&self) -> ExecutionStats {
        let farm = self.shared.farm.get();
        let (counts, backlog) = farm.map(|farm| (farm.counts(), farm.journal_backlog())).unwrap_or_default();
        self.shared.counts.stats(counts, backlog)
    }

    /// For streams that end with the server.
    pub(crate) fn readiness(&self) -> watch::Receiver<Readiness> {
        self.shared.readiness.clone()
    }

    async fn admission_turn(&self) -> Result<Permit, EngineError> {
        let over = |error: OverBudget| EngineError::Full { retry_after: START_RETRY, advice: error.to_string() };
        self.shared.admissions.take(1).await.map_err(over)
    }
}

impl Running {
    /// From now on nobody is given up: workers that leave leave because of us, and the next process waits for them.
    pub(crate) fn freeze(&self) {
        self.farm.freeze();
    }

    /// Writes out the journal. Called when no more requests come.
    pub(crate) async fn stop(mut self) {
        self.finishing.close();
        self.finishing.wait().await;
        self.farm.stop().await;
        self.tasks.shutdown().await;
    }
}

/// Ids that nobody guesses.
fn random() -> Result<Box<dyn FnMut() -> u128 + Send>, QueueStoreError> {
    let draw = || {
        let mut bytes = [0_u8; 16];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
        }
        Ok(u128::from_le_bytes(bytes))
    };
    let first: Result<u128, rustix::io::Errno> = draw();
    first.map_err(|error| QueueStoreError { message: format!("no randomness: {error}"), retry_after: None })?;
    Ok(Box::new(move || draw().expect("a kernel that has had randomness once has it until it ends")))
}
