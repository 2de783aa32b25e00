//! [`Cores`]: who runs where. What is measured has one core to itself, who asks has another.

use std::thread;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The two cores, or the one that there is.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    measured: usize,
    client: usize,
}

impl Cores {
    /// The first two that this process may use. Pins the calling thread, and what it starts from now on, to the client's.
    pub fn take() -> Option<Self> {
        let allowed = sched_getaffinity(None).ok()?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let measured = cores.next()?;
        let cores = Self { measured, client: cores.next().unwrap_or(measured) };
        pin(cores.client).then_some(cores)
    }

    /// Whether there is only one, for which both sides fight: rates by the clock say little then.
    pub fn is_shared(&self) -> bool {
        self.measured == self.client
    }

    /// Does `work` on the core of what is measured, in a thread of its own; processes started there stay there.
    pub fn on_measured<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let core = self.measured;
        thread::scope(|scope| {
            let worker = scope.spawn(move || {
                pin(core);
                work()
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Whether the calling thread now stays on `core`.
fn pin(core: usize) -> bool {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).is_ok()
}

/// Does `work` in a thread that gives way to every other, as do threads that it starts.
pub fn yielding<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    const LOWEST: i32 = 19;
    thread::scope(|scope| {
        let worker = scope.spawn(move || {
            // On Linux a priority is a thread's. Without the right to lower it there would be none to raise it either.
            let _ = rustix::process::setpriority_process(None, LOWEST);
            work()
        });
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
