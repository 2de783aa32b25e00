//! The engine's threads: a loader, which ends when the index is complete, and from then on a writer, a syncer (which also
//! does the maintenance), a reclaimer and a scrubber. All they do is take the steps of [`Stepper`] in a loop and wait when there is
//! nothing to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::core::Core;
use crate::engine::Fill;
use crate::scrub::ScrubStep;
use crate::segment::reclaimer::ReclaimStep;
use crate::stepper::Stepper;
use crate::writer::WriterStep;

/// Bounds what a power cut can lose in mode `Written`.
const SYNC_INTERVAL: Duration = Duration::from_millis(100);
/// How long a waiting thread sleeps when nobody wakes it.
const PATIENCE: Duration = Duration::from_millis(100);
/// While a lane waits for space: the last pin on a draining segment goes without a signal.
const SPACE_PATIENCE: Duration = Duration::from_millis(5);

/// The scrubber looks this often at least whether it is time (the clock may have been set) and not more often than this.
const SCRUB_WAIT_MAX: Duration = Duration::from_secs(60);
const SCRUB_WAIT_MIN: Duration = Duration::from_millis(5);
/// The lowest of the nice values: it also gives the lowest I/O priority that is not starved.
const SCRUB_NICE: i32 = 19;

/// At close, records that wait for space are given up after so many waits.
const SPACE_WAITS_AFTER_CLOSE_MAX: u32 = 400;

#[derive(Default)]
struct Stop {
    stopped: AtomicBool,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Stop {
    fn is_set(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Waits; true when it is time to stop.
    fn wait(&self, patience: Duration) -> bool {
        let mut guard = self.lock.lock();
        if !self.is_set() {
            self.changed.wait_for(&mut guard, patience);
        }
        self.is_set()
    }

    fn set(&self) {
        let _guard = self.lock.lock();
        self.stopped.store(true, Ordering::Release);
        self.changed.notify_all();
    }
}

/// A thread that ends by a panic leaves a store that cannot write: uploads are refused instead of waiting for ever. Reads
/// go on.
struct RefuseOnPanic<'a> {
    core: &'a Core,
    thread: &'static str,
}

impl Drop for RefuseOnPanic<'_> {
    fn drop(&mut self) {
        tracing::error!(event = "thread_panicked", thread = self.thread, "uploads are refused from now on");
        self.core.queue.close();
        self.core.loading.give_up();
        self.core.fail_queued();
    }
}

/// The running threads of an engine.
pub(crate) struct Background {
    core: Arc<Core>,
    stop: Arc<Stop>,
    loader: JoinHandle<()>,
    writer: JoinHandle<()>,
    others: Vec<JoinHandle<()>>,
}

impl Background {
    pub(crate) fn start(core: &Arc<Core>, fill: Fill) -> std::io::Result<Self> {
        let stop = Arc::new(Stop::default());
        let loader = spawn(core, "cask-loader", move |core| fill.run(core))?;
        let after_loading = |name: &'static str, run: fn(&Arc<Core>, &Stop)| {
            let stop = Arc::clone(&stop);
            spawn(core, name, move |core| {
                if core.loading.wait().is_some() {
                    run(core, &stop);
                }
            })
        };
        let writer = after_loading("cask-writer", write)?;
        let mut others = vec![after_loading("cask-syncer", sync)?, after_loading("cask-reclaimer", reclaim)?];
        if core.plan.scrub_period_ms > 0 {
            // Without the guard: a store that is not scrubbed still reads and writes.
            let (core, stop) = (Arc::clone(core), Arc::clone(&stop));
            others
                .push(std::thread::Builder::new().name("cask-scrubber".to_owned()).spawn(move || scrub(&core, &stop))?);
        }
        Ok(Self { core: Arc::clone(core), stop, loader, writer, others })
    }

    /// The queue is closed: the writer finishes what is in it (reclaim still helps), then everything stops.
    pub(crate) fn join(self) {
        if self.loader.join().is_err() {
            tracing::error!(event = "thread_panicked", thread = "cask-loader");
        }
        if self.writer.join().is_err() {
            tracing::error!(event = "thread_panicked", thread = "cask-writer");
        }
        self.stop.set();
        self.core.ledger.wake_all();
        for thread in self.others {
            if thread.join().is_err() {
                tracing::error!(event = "thread_panicked");
            }
        }
    }
}

fn spawn(
    core: &Arc<Core>,
    name: &'static str,
    run: impl FnOnce(&Arc<Core>) + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let core = Arc::clone(core);
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let guard = RefuseOnPanic { core: &core, thread: name };
        run(&core);
        std::mem::forget(guard);
    })
}

fn write(core: &Arc<Core>, _: &Stop) {
    let mut waits_after_close = 0;
    loop {
        match core.step_writer() {
            WriterStep::Worked => {}
            WriterStep::WaitsForSpace if waits_after_close == SPACE_WAITS_AFTER_CLOSE_MAX => core.fail_queued(),
            WriterStep::WaitsForSpace => {
                waits_after_close += u32::from(core.queue.is_closed());
                core.ledger.wait(SPACE_PATIENCE);
            }
            WriterStep::Idle => {
                if !core.queue.wait(PATIENCE) {
                    return;
                }
            }
        }
    }
}

fn sync(core: &Arc<Core>, stop: &Stop) {
    let stepper = Stepper::new(Arc::clone(core), None);
    while !stop.wait(SYNC_INTERVAL) {
        stepper.sync();
        stepper.maintain();
    }
}

fn scrub(core: &Arc<Core>, stop: &Stop) {
    if core.loading.wait().is_none() {
        return;
    }
    // Of this thread alone; what the kernel refuses is only a wish.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), SCRUB_NICE);
    loop {
        let due_ms = match core.step_scrubber() {
            ScrubStep::Off => return,
            ScrubStep::Rests { due_ms } | ScrubStep::Verified { due_ms, .. } => due_ms,
        };
        let wait = Duration::from_millis(due_ms.saturating_sub(core.clock.now_ms()));
        if stop.wait(wait.clamp(SCRUB_WAIT_MIN, SCRUB_WAIT_MAX)) {
            return;
        }
    }
}

fn reclaim(core: &Arc<Core>, stop: &Stop) {
    while !stop.is_set() {
        match core.step_reclaimer() {
            ReclaimStep::Reclaimed | ReclaimStep::Looked => {}
            ReclaimStep::Idle | ReclaimStep::Exhausted { .. } => core.ledger.wait(PATIENCE),
            ReclaimStep::Waits => {
                // A full segment may only be waiting for its footer.
                core.step_syncer();
                core.ledger.wait(SPACE_PATIENCE);
            }
        }
    }
}
