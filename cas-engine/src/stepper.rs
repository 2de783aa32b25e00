//! The engine's background work, one step at a time: for whoever wants to own the order in which things happen.
//!
//! Production has threads that call these steps (`background`); tests and the simulator call them on their own, so that
//! every interleaving of uploads, writes, syncs and reclaim is theirs to choose.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::core::Core;
use crate::engine::{Fill, OpenReport};
use crate::error::EngineError;
use crate::scrub::ScrubStep;
use crate::segment::reclaimer::ReclaimStep;
use crate::writer::WriterStep;

/// Touches are saved no more often than this.
const TOUCHES_INTERVAL_MS: u64 = 60_000;

/// At close, records that found no space after so many rounds of reclaim are given up.
const CLOSE_ROUNDS_MAX: usize = 400;

/// Handle on the background work of an engine.
#[derive(Clone)]
pub struct Stepper {
    core: Arc<Core>,
    /// What is left of opening.
    fill: Arc<Mutex<Option<Fill>>>,
}

impl Stepper {
    pub(crate) fn new(core: Arc<Core>, fill: Option<Fill>) -> Self {
        Self { core, fill: Arc::new(Mutex::new(fill)) }
    }

    /// Fills the index, on this thread, and says what it holds. Before that no other step may be taken.
    pub fn load(&self) -> OpenReport {
        if let Some(fill) = self.fill.lock().take() {
            fill.run(&self.core);
        }
        self.core.loading.wait().expect("a stepped engine is not told to stop loading")
    }

    /// Writes one batch of every lane and publishes it.
    pub fn write(&self) -> WriterStep {
        self.core.step_writer()
    }

    /// Makes new records durable, gives full segments their footer. Returns how many segments were synced.
    pub fn sync(&self) -> usize {
        self.core.step_syncer()
    }

    /// Makes one segment free if space is needed.
    pub fn reclaim(&self) -> ReclaimStep {
        self.core.step_reclaimer()
    }

    /// Once a period of the touch epochs: ages the index, and saves the touches when that was a while ago. Returns whether it was
    /// time.
    pub fn maintain(&self) -> bool {
        self.core.step_maintenance()
    }

    /// Verifies a stretch of what is stored, when it is time for one.
    pub fn scrub(&self) -> ScrubStep {
        self.core.step_scrubber()
    }

    /// Writes, syncs and reclaims until nothing moves any more.
    pub fn run_until_idle(&self) {
        loop {
            let wrote = self.write() == WriterStep::Worked;
            let synced = self.sync() > 0;
            let reclaimed = matches!(self.reclaim(), ReclaimStep::Reclaimed | ReclaimStep::Looked);
            if !wrote && !synced && !reclaimed {
                return;
            }
        }
    }
}

impl Stepper {
    /// Closes the store in order, as [`Engine::close`](crate::Engine::close) does where there are threads: writes what is queued,
    /// refuses what finds no space, syncs, marks the store clean.
    ///
    /// # Errors
    /// `Storage` when the disk refused; the store is then as after a crash.
    pub fn close(&self) -> Result<(), EngineError> {
        self.core.queue.close();
        for _ in 0..CLOSE_ROUNDS_MAX {
            match self.write() {
                WriterStep::Idle => break,
                WriterStep::Worked => {}
                WriterStep::WaitsForSpace => {
                    self.sync();
                    self.reclaim();
                }
            }
        }
        self.core.fail_queued();
        self.core.mark_clean()
    }
}

impl Core {
    fn step_maintenance(&self) -> bool {
        let now_ms = self.clock.now_ms();
        let period = now_ms / self.plan.epochs.length_ms;
        if self.maintained_period.swap(period, Ordering::Relaxed) == period {
            return false;
        }
        self.index.age(self.plan.epochs, now_ms);
        self.report_broken_leases(now_ms);
        let saved_ms = self.touches_saved_ms.load(Ordering::Relaxed);
        if now_ms.saturating_sub(saved_ms) < TOUCHES_INTERVAL_MS {
            return true;
        }
        self.touches_saved_ms.store(now_ms, Ordering::Relaxed);
        if let Err(error) = self.save_touches() {
            tracing::warn!(event = "touches_not_saved", %error, "the order of eviction may not survive a crash");
        }
        true
    }

    fn report_broken_leases(&self, now_ms: u64) {
        let report = self.horizon.lock().report(self.plan.lease_ms, self.plan.max_size_bytes, now_ms);
        if let Some(broken) = report {
            tracing::warn!(
                event = "leases_broken",
                count = broken.count,
                kept_seconds = broken.kept_ms / 1000,
                lease_seconds = self.plan.lease_ms / 1000,
                max_size_bytes = self.plan.max_size_bytes,
                max_size_needed_bytes = broken.max_size_needed_bytes,
                "the store is too small for its lease: raise --max-size or lower --lease"
            );
        }
    }
}
