//! How far a start has come, and who waits for it.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};

use crate::engine::OpenReport;

#[derive(Debug)]
enum State {
    Filling,
    Complete(OpenReport),
    /// The store was closed, or the thread that filled it failed, before the index was complete.
    GivenUp,
}

/// Whether the index is complete. One way only: from filling to complete or given up.
#[derive(Debug)]
pub(crate) struct Loading {
    /// Read on every question, so apart from the lock.
    complete: AtomicBool,
    stop: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

impl Loading {
    pub(crate) fn new() -> Self {
        Self {
            complete: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            state: Mutex::new(State::Filling),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Whoever fills is to stop.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(crate) fn completed(&self, report: OpenReport) {
        let mut state = self.state.lock();
        *state = State::Complete(report);
        self.complete.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// No effect once it is complete.
    pub(crate) fn give_up(&self) {
        let mut state = self.state.lock();
        if matches!(*state, State::Filling) {
            *state = State::GivenUp;
            self.changed.notify_all();
        }
    }

    /// Waits for the end of it; `None` when it was given up.
    pub(crate) fn wait(&self) -> Option<OpenReport> {
        let mut state = self.state.lock();
        loop {
            match &*state {
                State::Filling => self.changed.wait(&mut state),
                State::Complete(report) => return Some(report.clone()),
                State::GivenUp => return None,
            }
        }
    }
}
