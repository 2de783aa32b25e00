//! The atomics and the lock that the table is built from: the real ones, or loom's when the crate is built with
//! `--cfg loom` so that every interleaving can be explored. Nothing else in the crate names either.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};

/// A lock around nothing: it only says who may write.
pub(crate) struct WriterLock {
    #[cfg(not(loom))]
    lock: parking_lot::Mutex<()>,
    #[cfg(loom)]
    lock: loom::sync::Mutex<()>,
}

#[cfg(not(loom))]
pub(crate) type WriterGuard<'a> = parking_lot::MutexGuard<'a, ()>;
#[cfg(loom)]
pub(crate) type WriterGuard<'a> = loom::sync::MutexGuard<'a, ()>;

impl WriterLock {
    #[cfg(not(loom))]
    pub(crate) fn new() -> Self {
        WriterLock { lock: parking_lot::Mutex::new(()) }
    }

    #[cfg(not(loom))]
    pub(crate) fn lock(&self) -> WriterGuard<'_> {
        self.lock.lock()
    }

    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        WriterLock { lock: loom::sync::Mutex::new(()) }
    }

    #[cfg(loom)]
    pub(crate) fn lock(&self) -> WriterGuard<'_> {
        self.lock.lock().expect("a thread of the model panicked while it held the lock")
    }
}
